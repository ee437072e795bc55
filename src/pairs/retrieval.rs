//! Pairs by likeness: few views that differ stand for all, and every view is paired with those most
//! like it.

use super::pair;
use crate::alignment::Pair;
use crate::error::{Error, Result};

/// How similar views are, from one vector of numbers for each.
#[derive(Clone, Debug)]
pub struct Similarity {
    views: usize,
    /// `(views, views)`, row major; 1 is the same.
    values: Vec<f64>,
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
        let units: Vec<Vec<f64>> = vectors.iter().map(unit).collect();
        let cosine = |a: usize, b: usize| {
            units[a]
                .iter()
                .zip(&units[b])
                .map(|(x, y)| x * y)
                .sum::<f64>()
        };
        let values = (0..views * views)
            .map(|at| cosine(at / views.max(1), at % views.max(1)))
            .collect();
        Ok(Self { views, values })
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
        self.values[a * self.views + b]
    }

    fn distance(&self, a: usize, b: usize) -> f64 {
        if a == b {
            0.0
        } else {
            1.0 - self.values[a * self.views + b]
        }
    }

    /// `count` views, each as far from those before it as possible; the first is the one most like
    /// all others.
    fn anchors(&self, count: usize) -> Vec<usize> {
        let total = |view: usize| {
            (0..self.views)
                .map(|other| -self.distance(view, other))
                .sum::<f64>()
        };
        let mut anchors: Vec<usize> = earliest_largest((0..self.views).map(total))
            .into_iter()
            .take(count)
            .collect();
        while anchors.len() < count.min(self.views) {
            let gap = |view: usize| {
                anchors
                    .iter()
                    .map(|&anchor| self.distance(view, anchor))
                    .fold(f64::INFINITY, f64::min)
            };
            match earliest_largest((0..self.views).map(gap)) {
                Some(view) if gap(view) > 0.0 => anchors.push(view),
                _ => break,
            }
        }
        anchors
    }

    /// `views` other than `view`, the most similar first.
    fn nearest(&self, view: usize, views: impl Iterator<Item = usize>) -> Vec<usize> {
        let mut others: Vec<usize> = views.filter(|other| *other != view).collect();
        others.sort_by(|&a, &b| {
            self.distance(view, a)
                .total_cmp(&self.distance(view, b))
                .then(a.cmp(&b))
        });
        others
    }
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
            let nearest = similarity.nearest(view, anchors.iter().copied());
            pairs.extend(nearest.first().and_then(|&anchor| pair(view, anchor)));
        }
        let like = similarity.nearest(view, 0..similarity.views());
        pairs.extend(
            like.iter()
                .take(neighbours.saturating_sub(1))
                .filter_map(|&other| pair(view, other)),
        );
    }
    pairs
}

/// Each view with those `closures` most similar to it that are more than `apart` away from it in
/// order, some twice.
pub(super) fn closures(similarity: &Similarity, apart: usize, closures: usize) -> Vec<Pair> {
    let views = 0..similarity.views();
    views
        .clone()
        .flat_map(|view| {
            let far = views.clone().filter(|other| view.abs_diff(*other) > apart);
            let like = similarity.nearest(view, far);
            like.into_iter()
                .take(closures)
                .filter_map(move |other| pair(view, other))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::PairGraph;
    use super::*;

    /// Four views: 0 and 2 are much alike, 1 and 3 somewhat, 0 is the most like all.
    fn four() -> Similarity {
        let above = [
            [1.0, -1.0, 0.9, -0.7],
            [-1.0, 1.0, -0.8, 0.5],
            [0.9, -0.8, 1.0, -1.0],
            [-0.7, 0.5, -1.0, 1.0],
        ];
        Similarity {
            views: 4,
            values: above.concat(),
        }
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
        let rounded: Vec<f64> = similarity.values[..4]
            .iter()
            .map(|value| value.round())
            .collect();
        assert_eq!(rounded, [1.0, -1.0, 0.0, 0.0]);
        assert_eq!(
            Similarity::of(&[vec![2.0], vec![2.0]]).unwrap().values,
            [0.0; 4]
        );
        assert!(Similarity::of(&[vec![1.0], vec![1.0, 2.0]]).is_err());
        assert!(matches!(
            Similarity::of(&[vec![f32::NAN]]),
            Err(Error::NotFinite { .. })
        ));
        let spoilt = Similarity::of(&[vec![3.0], vec![f32::NAN], vec![1.0]]).unwrap();
        assert_eq!(
            spoilt.values,
            [1.0, 0.0, -1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 1.0]
        );
    }

    #[test]
    fn anchors_are_far_from_one_another() {
        assert_eq!(four().anchors(3), [0, 1, 3]);
        assert_eq!(four().anchors(9), [0, 1, 3, 2]);
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
        assert_eq!(sorted(pairs(&similarity, 2, 0)), [[0, 1], [0, 2], [1, 3]]);
        assert_eq!(sorted(pairs(&similarity, 0, 2)), [[0, 2], [1, 3]]);
        assert_eq!(
            sorted(pairs(&similarity, 0, 3)),
            [[0, 2], [0, 3], [1, 2], [1, 3]]
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
