//! Pairs by likeness: few views that differ stand for all, and every view is paired with those most
//! like it.

use rayon::prelude::*;

use super::pair;
use crate::alignment::Pair;
use crate::error::{Error, Result};

/// Products that are summed side by side, so that a processor multiplies several at a time. Sums are
/// the same on every machine.
const LANES: usize = 8;
/// Views whose similarity to another one is computed together.
const COLUMNS: usize = 4;
/// Views that stay in a cache while many others are compared with them.
const ROWS: usize = 64;

/// How similar views are, from one vector of numbers for each.
///
/// Similarities are computed as they are asked for: memory grows with the views, not with their
/// pairs.
#[derive(Clone, Debug)]
pub struct Similarity {
    views: usize,
    /// Of each view its direction: `(views, length)`, row major, of length 1 or 0. `length` is a
    /// multiple of [`LANES`], with zeros at the end.
    units: Vec<f64>,
    /// The same, rounded, for finding candidates.
    rounded: Vec<f32>,
    length: usize,
}

impl Similarity {
    /// The cosines between the views' vectors, such as the mean tokens of an encoder, less the mean
    /// of all: the vectors of one collection have most of their length in common. A view whose
    /// vector is not finite resembles none of the others more than another.
    ///
    /// # Errors
    /// [`Error::Usage`] for vectors of different lengths; [`Error::NotFinite`] if no vector is
    /// finite.
    pub fn of(vectors: &[Vec<f32>]) -> Result<Self> {
        let views = vectors.len();
        let length = vectors.first().map_or(0, Vec::len);
        if let Some(odd) = vectors.iter().find(|vector| vector.len() != length) {
            return Err(Error::Usage(format!(
                "views are told by {length} numbers and by {}",
                odd.len()
            )));
        }
        let is_finite = |vector: &&Vec<f32>| vector.iter().all(|value| value.is_finite());
        let finite: Vec<&Vec<f32>> = vectors.iter().filter(is_finite).collect();
        if finite.is_empty() && views > 0 {
            return Err(Error::NotFinite {
                what: "image features".into(),
                count: vectors.iter().flatten().filter(|value| !value.is_finite()).count(),
                total: views * length,
                hint: "try precision f32; if that fails too, the weights do not belong to this network".into(),
            });
        }
        let mean = |at: usize| {
            finite
                .iter()
                .map(|vector| f64::from(vector[at]))
                .sum::<f64>()
                / finite.len() as f64
        };
        let means: Vec<f64> = (0..length).map(mean).collect();
        let unit = |vector: &Vec<f32>| {
            let centred: Vec<f64> = vector
                .iter()
                .zip(&means)
                .map(|(value, mean)| f64::from(*value) - mean)
                .collect();
            let norm = centred
                .iter()
                .map(|value| value * value)
                .sum::<f64>()
                .sqrt();
            // A view that is like the mean of all resembles none of them more than another.
            if !norm.is_finite() {
                vec![0.0; length]
            } else if norm > 0.0 {
                centred.iter().map(|value| value / norm).collect()
            } else {
                centred
            }
        };
        Ok(Self::of_units(
            vectors.par_iter().map(unit).collect(),
            length,
        ))
    }

    /// Of directions with `length` numbers each.
    fn of_units(vectors: Vec<Vec<f64>>, length: usize) -> Self {
        let padded = length.next_multiple_of(LANES).max(LANES);
        let views = vectors.len();
        let mut units = vec![0.0; views * padded];
        for (row, vector) in units.chunks_exact_mut(padded).zip(vectors) {
            row[..length].copy_from_slice(&vector);
        }
        Self {
            views,
            rounded: units.iter().map(|value| *value as f32).collect(),
            units,
            length: padded,
        }
    }

    /// How many views there are.
    pub fn views(&self) -> usize {
        self.views
    }

    /// How alike two views are, by their indices: 1 at most.
    ///
    /// # Panics
    /// If there is no view of an index.
    pub fn cosine(&self, a: usize, b: usize) -> f64 {
        assert!(
            a < self.views && b < self.views,
            "there are {} views",
            self.views
        );
        dot(self.unit(a), self.unit(b))
    }

    fn unit(&self, view: usize) -> &[f64] {
        &self.units[view * self.length..][..self.length]
    }

    fn rounded(&self, view: usize) -> &[f32] {
        &self.rounded[view * self.length..][..self.length]
    }

    fn distance(&self, a: usize, b: usize) -> f64 {
        if a == b { 0.0 } else { 1.0 - self.cosine(a, b) }
    }

    /// `count` views, each as far from those before it as possible; the first is the one most like
    /// all others.
    fn anchors(&self, count: usize) -> Vec<usize> {
        let mut sum = vec![0.0; self.length];
        for view in 0..self.views {
            for (sum, value) in sum.iter_mut().zip(self.unit(view)) {
                *sum += value;
            }
        }
        let total = |view: usize| dot(self.unit(view), &sum) - self.cosine(view, view);
        let totals: Vec<f64> = (0..self.views).into_par_iter().map(total).collect();
        let mut anchors: Vec<usize> = earliest_largest(totals.into_iter())
            .into_iter()
            .take(count)
            .collect();
        // From each view to the nearest anchor.
        let mut gaps = vec![f64::INFINITY; self.views];
        while let Some(&last) = anchors.last()
            && anchors.len() < count.min(self.views)
        {
            gaps.par_iter_mut()
                .enumerate()
                .for_each(|(view, gap)| *gap = gap.min(self.distance(view, last)));
            match earliest_largest(gaps.iter().copied()) {
                Some(view) if gaps[view] > 0.0 => anchors.push(view),
                _ => break,
            }
        }
        anchors
    }

    /// The most similar of `views` to `view`, the first of equal ones.
    fn nearest_of(&self, view: usize, views: &[usize]) -> Option<usize> {
        let others = views.iter().copied().filter(|other| *other != view);
        let closer = |&a: &usize, &b: &usize| {
            self.distance(view, a)
                .total_cmp(&self.distance(view, b))
                .then(a.cmp(&b))
        };
        others.min_by(closer)
    }

    /// Of each view the `count` views most similar to it that are more than `apart` away from it in
    /// order, the most similar first.
    ///
    /// Exact: products of rounded numbers find candidates, with a margin of their rounding.
    fn nearest(&self, count: usize, apart: usize) -> Vec<Vec<usize>> {
        if count == 0 {
            return vec![Vec::new(); self.views];
        }
        let blocks: Vec<usize> = (0..self.views).step_by(ROWS).collect();
        let found: Vec<Vec<Vec<usize>>> = blocks
            .par_iter()
            .map(|&first| {
                let rows = first..self.views.min(first + ROWS);
                let similar = self.products(rows.start, rows.len());
                rows.zip(similar.chunks_exact(self.views.max(1)))
                    .map(|(view, similar)| self.best(view, similar, count, apart))
                    .collect()
            })
            .collect();
        found.into_iter().flatten().collect()
    }

    /// The rounded products of `rows` views from `first` on with all: `(rows, views)`, row major.
    fn products(&self, first: usize, rows: usize) -> Vec<f32> {
        let mut products = vec![0.0; rows * self.views];
        for start in (0..self.views).step_by(COLUMNS) {
            let columns = COLUMNS.min(self.views - start);
            // The last view again, where there are no more.
            let others = [0, 1, 2, 3].map(|at| self.rounded(start + at.min(columns - 1)));
            for row in 0..rows {
                let values = dots(self.rounded(first + row), others);
                products[row * self.views + start..][..columns].copy_from_slice(&values[..columns]);
            }
        }
        products
    }

    /// The `count` best of all views for `view`, whose rounded products with them are `similar`.
    fn best(&self, view: usize, similar: &[f32], count: usize, apart: usize) -> Vec<usize> {
        let is_far = |other: usize| view.abs_diff(other) > apart;
        let mut far: Vec<f32> = (0..self.views)
            .filter(|other| is_far(*other))
            .map(|other| similar[other])
            .collect();
        if far.is_empty() {
            return Vec::new();
        }
        let at = count.min(far.len()) - 1;
        let (_, least, _) = far.select_nth_unstable_by(at, |a, b| b.total_cmp(a));
        // Both products may be off by as much as so many sums of numbers below 1 are rounded.
        let error = (self.length / LANES + LANES) as f32 * f32::EPSILON;
        let least = *least - 2.0 * error;
        let mut candidates: Vec<(f64, usize)> = (0..self.views)
            .filter(|other| is_far(*other) && similar[*other] >= least)
            .map(|other| (self.distance(view, other), other))
            .collect();
        candidates.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        candidates.truncate(count);
        candidates.into_iter().map(|(_, other)| other).collect()
    }
}

/// The product of two vectors of a multiple of [`LANES`] numbers.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; LANES];
    for (a, b) in a
        .as_chunks::<LANES>()
        .0
        .iter()
        .zip(b.as_chunks::<LANES>().0)
    {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum()
}

/// The products of a vector with several.
fn dots(a: &[f32], others: [&[f32]; COLUMNS]) -> [f32; COLUMNS] {
    let mut sums = [[0.0f32; LANES]; COLUMNS];
    let [b, c, d, e] = others.map(|other| other.as_chunks::<LANES>().0);
    let columns = b.iter().zip(c).zip(d).zip(e);
    for (a, (((b, c), d), e)) in a.as_chunks::<LANES>().0.iter().zip(columns) {
        for lane in 0..LANES {
            sums[0][lane] += a[lane] * b[lane];
            sums[1][lane] += a[lane] * c[lane];
            sums[2][lane] += a[lane] * d[lane];
            sums[3][lane] += a[lane] * e[lane];
        }
    }
    sums.map(|sums| sums.iter().sum())
}

/// The first index of the largest value.
fn earliest_largest(values: impl Iterator<Item = f64>) -> Option<usize> {
    let better = |best: Option<(usize, f64)>, (at, value): (usize, f64)| match best {
        Some((_, most)) if most >= value => best,
        _ => Some((at, value)),
    };
    values.enumerate().fold(None, better).map(|(at, _)| at)
}

/// The pairs of [`PairGraph::Retrieval`](super::PairGraph::Retrieval), in no order, some twice.
pub(super) fn pairs(similarity: &Similarity, anchors: usize, neighbours: usize) -> Vec<Pair> {
    let anchors = similarity.anchors(anchors);
    let mut pairs = Vec::new();
    for (at, &anchor) in anchors.iter().enumerate() {
        pairs.extend(
            anchors[..at]
                .iter()
                .filter_map(|&other| pair(anchor, other)),
        );
    }
    for view in 0..similarity.views() {
        if !anchors.contains(&view) {
            let nearest = similarity.nearest_of(view, &anchors);
            pairs.extend(nearest.and_then(|anchor| pair(view, anchor)));
        }
    }
    // More than 0 away: not itself.
    pairs.extend(closures(similarity, 0, neighbours.saturating_sub(1)));
    pairs
}

/// Each view with those `closures` most similar to it that are more than `apart` away from it in
/// order, some twice.
pub(super) fn closures(similarity: &Similarity, apart: usize, closures: usize) -> Vec<Pair> {
    let nearest = similarity.nearest(closures, apart);
    let of_view = |(view, others): (usize, Vec<usize>)| {
        others
            .into_iter()
            .filter_map(move |other| pair(view, other))
    };
    nearest.into_iter().enumerate().flat_map(of_view).collect()
}

#[cfg(test)]
mod tests {
    use super::super::PairGraph;
    use super::*;

    /// Four views that look in directions: 0 and 2 are much alike, 1 and 3 somewhat, 3 is the most
    /// like all.
    fn four() -> Similarity {
        let unit = |degrees: f64| {
            let (sin, cos) = degrees.to_radians().sin_cos();
            vec![cos, sin]
        };
        Similarity::of_units([25.0, 150.0, 0.0, 100.0].map(unit).to_vec(), 2)
    }

    /// The cosines of a view with all.
    fn cosines(similarity: &Similarity, view: usize) -> Vec<f64> {
        let cosine = |other| (similarity.cosine(view, other) * 1e9).round() / 1e9;
        (0..similarity.views()).map(cosine).collect()
    }

    fn sorted(pairs: Vec<Pair>) -> Vec<[usize; 2]> {
        let mut pairs: Vec<[usize; 2]> = pairs
            .into_iter()
            .map(|pair| [pair.first, pair.second])
            .collect();
        pairs.sort_unstable();
        pairs.dedup();
        pairs
    }

    #[test]
    fn views_are_told_apart_by_what_they_have_less_the_mean_of_all() {
        let similarity = Similarity::of(&[
            vec![101.0, 50.0],
            vec![99.0, 50.0],
            vec![100.0, 51.0],
            vec![100.0, 49.0],
        ])
        .unwrap();
        assert_eq!(cosines(&similarity, 0), [1.0, -1.0, 0.0, 0.0]);
        let equal = Similarity::of(&[vec![2.0], vec![2.0]]).unwrap();
        assert_eq!(cosines(&equal, 0), [0.0; 2]);
        assert!(Similarity::of(&[vec![1.0], vec![1.0, 2.0]]).is_err());
        assert!(matches!(
            Similarity::of(&[vec![f32::NAN]]),
            Err(Error::NotFinite { .. })
        ));
        let spoilt = Similarity::of(&[vec![3.0], vec![f32::NAN], vec![1.0]]).unwrap();
        assert_eq!(cosines(&spoilt, 0), [1.0, 0.0, -1.0]);
        assert_eq!(cosines(&spoilt, 1), [0.0; 3]);
    }

    /// Against sorting all similarities.
    #[test]
    fn nearest_views_are_exact() {
        let (views, length) = (ROWS + 37, 21);
        let mut state = 1u32;
        let mut number = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        let mut vectors: Vec<Vec<f32>> = (0..views)
            .map(|_| (0..length).map(|_| number()).collect())
            .collect();
        // Equal ones, and ones that single precision cannot tell apart.
        vectors[7] = vectors[90].clone();
        vectors[8] = vectors[91].clone();
        vectors[8][3] *= 1.000_000_2;
        let similarity = Similarity::of(&vectors).unwrap();
        for (count, apart) in [(1, 0), (9, 0), (4, 10), (200, 3), (2, 2 * ROWS)] {
            let found = similarity.nearest(count, apart);
            assert_eq!(found.len(), views);
            for (view, found) in found.iter().enumerate() {
                let mut wanted: Vec<usize> = (0..views)
                    .filter(|other| view.abs_diff(*other) > apart)
                    .collect();
                wanted.sort_by(|&a, &b| {
                    let distances = [a, b].map(|other| similarity.distance(view, other));
                    distances[0].total_cmp(&distances[1]).then(a.cmp(&b))
                });
                wanted.truncate(count);
                assert_eq!(
                    *found, wanted,
                    "view {view}, {count} more than {apart} away"
                );
            }
        }
    }

    #[test]
    fn anchors_are_far_from_one_another() {
        assert_eq!(four().anchors(3), [3, 2, 1]);
        assert_eq!(four().anchors(9), [3, 2, 1, 0]);
        assert!(four().anchors(0).is_empty());
    }

    #[test]
    fn of_equal_views_one_is_an_anchor() {
        let similarity = Similarity::of(&[
            vec![1.0, 0.0],
            vec![1.0, 0.0],
            vec![-1.0, 0.0],
            vec![-1.0, 0.0],
        ])
        .unwrap();
        assert_eq!(similarity.anchors(4), [0, 2]);
    }

    #[test]
    fn retrieval_joins_anchors_their_followers_and_the_nearest() {
        let similarity = four();
        assert_eq!(sorted(pairs(&similarity, 2, 0)), [[0, 2], [1, 3], [2, 3]]);
        assert_eq!(sorted(pairs(&similarity, 0, 2)), [[0, 2], [1, 3]]);
        assert_eq!(
            sorted(pairs(&similarity, 0, 3)),
            [[0, 1], [0, 2], [0, 3], [1, 3], [2, 3]]
        );
        let graph = PairGraph::Retrieval {
            anchors: 9,
            neighbours: 1,
        };
        assert_eq!(
            graph.pairs(4, Some(&similarity)).unwrap(),
            PairGraph::Complete.pairs(4, None).unwrap()
        );
        let none = PairGraph::Retrieval {
            anchors: 0,
            neighbours: 1,
        };
        assert!(none.pairs(4, Some(&similarity)).is_err());
    }

    #[test]
    fn loops_join_neighbours_and_what_looks_alike_far_away() {
        // Once around a circle, and a little further: the views look in directions.
        let views = 20;
        let vectors: Vec<Vec<f32>> = (0..views)
            .map(|view| {
                let angle = view as f32 * std::f32::consts::TAU / 16.0;
                vec![angle.cos(), angle.sin()]
            })
            .collect();
        let similarity = Similarity::of(&vectors).unwrap();
        let graph = PairGraph::Loop {
            reach: 2,
            closures: 1,
        };
        let found = sorted(graph.pairs(views, Some(&similarity)).unwrap());
        for pair in [[0, 1], [0, 2], [17, 19], [0, 16], [3, 19], [4, 19]] {
            assert!(found.contains(&pair), "{pair:?} of {found:?}");
        }
        // Neither the beginning and the end of a window that is not closed, nor near views.
        for pair in [[0, 3], [0, 4], [0, 10]] {
            assert!(!found.contains(&pair), "{pair:?} of {found:?}");
        }
    }
}
