//! Matches of keypoints between two images, checked by their epipolar geometry.
//!
//! ```text
//! largest keypoints ── near where the aligned geometry has them ─┐ nearest both ways, far nearer
//!                   ── each with each ───────────────────────────┴─ than the second ──▶ seeds
//! seeds ── RANSAC over 7 of them ──▶ fundamental matrix ── near epipolar lines ──▶ matches
//! ```
//!
//! The first kind of seeds tells repeated texture apart and bears large changes of the viewpoint;
//! the second, which does not rely on cameras that may be far off, is looked for unless the first
//! leaves no doubt. The kind of which more agree with one geometry counts.

use std::ops::Range;

use nalgebra::{Matrix3, Vector3};
use pulp::Arch;

use super::epipolar::{
    Geometry, LEAST_MATCHES, agreeing_with, distance, geometry, homogeneous, least_squares,
};
use super::keypoints::{CHANNELS, Keypoint};

/// Keypoints that are compared each with each, the largest.
const MOST_SEEDS: usize = 2000;
/// Largest ratio of the distances of the nearest and the second nearest descriptor: of seeds, and
/// near epipolar lines, where there are few to choose from.
const SEED_RATIO: f32 = 0.8;
const GUIDED_RATIO: f32 = 0.85;
/// So many seeds near where the aligned geometry has them, this share of them, that agree with one
/// another leave no doubt.
const CLEAR: usize = 100;
const CLEAR_SHARE: f64 = 0.5;
/// Descriptors that are compared with one at a time.
const BLOCK: usize = 64;
/// Distance from where the aligned geometry has a keypoint, of the long side, and the ratio of its
/// scale to the expected one, up to which it may match.
const REACH_SHARE: f64 = 0.1;
const MOST_SCALE_RATIO: f32 = 2.0;
/// Least cosine of two descriptors that match.
const LEAST_COSINE: f32 = 0.75;
/// Distance from the epipolar line up to which a match agrees, of the long side: lens distortion
/// bends lines.
const EPIPOLAR_SHARE: f64 = 4.0 / 1280.0;
const LEAST_EPIPOLAR_PX: f64 = 1.0;

/// Pairs with fewer matches of keypoints have the network's too, refined between the files; if
/// there are two images, always.
pub(super) const FEW_MATCHES: usize = 300;

/// Where a keypoint is expected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// Pixels of the file.
    pub pixel: [f64; 2],
    /// How much larger it is there.
    pub magnification: f32,
}

/// Keypoints of an image, ready to be compared.
pub(super) struct Features {
    pub pixels: Vec<[f64; 2]>,
    /// Standard deviations of the Gaussians that keypoints are largest at, pixels of the file.
    scales: Vec<f32>,
    /// `CHANNELS` numbers for each, in 16 bits, for which processors have a multiplication with
    /// sums.
    descriptors: Vec<i16>,
    /// Lengths of the descriptors.
    lengths: Vec<f32>,
    long_side: f64,
}

impl Features {
    pub fn new(keypoints: &[Keypoint], long_side: f64) -> Self {
        let descriptors: Vec<i16> = keypoints
            .iter()
            .flat_map(|keypoint| keypoint.descriptor.map(i16::from))
            .collect();
        let length = |values: &[i16]| {
            values
                .iter()
                .map(|value| f32::from(*value).powi(2))
                .sum::<f32>()
                .sqrt()
                .max(1.0)
        };
        let lengths = descriptors.chunks(CHANNELS).map(length).collect();
        Self {
            pixels: keypoints.iter().map(|keypoint| keypoint.pixel).collect(),
            scales: keypoints.iter().map(|keypoint| keypoint.scale).collect(),
            descriptors,
            lengths,
            long_side,
        }
    }

    #[inline(always)]
    fn descriptor(&self, index: usize) -> &[i16] {
        &self.descriptors[index * CHANNELS..(index + 1) * CHANNELS]
    }

    pub fn epipolar_px(&self) -> f64 {
        (EPIPOLAR_SHARE * self.long_side).max(LEAST_EPIPOLAR_PX)
    }
}

/// The best and the second best candidate of a keypoint.
#[derive(Clone, Copy)]
struct Best {
    index: usize,
    cosine: f32,
    second: f32,
}

impl Best {
    const NONE: Self = Self {
        index: usize::MAX,
        cosine: -1.0,
        second: -1.0,
    };

    #[inline(always)]
    fn see(&mut self, index: usize, cosine: f32) {
        if cosine > self.cosine {
            *self = Self {
                index,
                cosine,
                second: self.cosine,
            };
        } else if cosine > self.second {
            self.second = cosine;
        }
    }

    /// Whether it stands out: distances of unit vectors are sqrt(2 - 2 cosine).
    fn stands_out(&self, ratio: f32) -> bool {
        self.cosine >= LEAST_COSINE && 1.0 - self.cosine < ratio * ratio * (1.0 - self.second)
    }
}

#[inline(always)]
fn cosine(first: &Features, one: usize, second: &Features, other: usize) -> f32 {
    let (a, b) = (first.descriptor(one), second.descriptor(other));
    let dot: i32 = a
        .iter()
        .zip(b)
        .map(|(a, b)| i32::from(*a) * i32::from(*b))
        .sum();
    dot as f32 / (first.lengths[one] * second.lengths[other])
}

/// Keypoints that are compared with others, one channel after the other.
struct Block {
    start: usize,
    values: Vec<[f32; BLOCK]>,
    /// Of their lengths; 0 where there is none.
    reciprocals: [f32; BLOCK],
    best: [Best; BLOCK],
    /// The second best cosines of `best`, side by side, so that all are compared at once.
    seconds: [f32; BLOCK],
}

impl Block {
    fn new(features: &Features, members: Range<usize>) -> Self {
        let mut block = Self {
            start: members.start,
            values: vec![[0.0; BLOCK]; CHANNELS],
            reciprocals: [0.0; BLOCK],
            best: [Best::NONE; BLOCK],
            seconds: [-1.0; BLOCK],
        };
        for (at, member) in members.enumerate() {
            block.reciprocals[at] = 1.0 / features.lengths[member];
            for (row, value) in block.values.iter_mut().zip(features.descriptor(member)) {
                row[at] = f32::from(*value);
            }
        }
        block
    }

    /// Compares one with all. Sums of products are exact: whole numbers below 2^24.
    #[inline(always)]
    fn compare(&mut self, one: usize, query: &[f32; CHANNELS], length: f32, best: &mut Best) {
        let mut cosines = [0.0; BLOCK];
        for (value, row) in query.iter().zip(&self.values) {
            for (sum, other) in cosines.iter_mut().zip(row) {
                *sum += value * other;
            }
        }
        let mut is_news = false;
        for (cosine, (reciprocal, second)) in cosines
            .iter_mut()
            .zip(self.reciprocals.iter().zip(&self.seconds))
        {
            *cosine *= reciprocal / length;
            is_news |= (*cosine > best.second) | (*cosine > *second);
        }
        if is_news {
            let theirs = self.best.iter_mut().zip(&mut self.seconds);
            for (at, (&cosine, (reverse, second))) in cosines.iter().zip(theirs).enumerate() {
                best.see(self.start + at, cosine);
                reverse.see(one, cosine);
                *second = reverse.second;
            }
        }
    }
}

/// Indices of keypoints of both images that match, ascending in the first; none unless enough agree
/// with one geometry. `expected` has for each keypoint of the first where the second image shows
/// it.
pub(super) fn matches(
    first: &Features,
    second: &Features,
    expected: &[Option<Expected>],
) -> Vec<[usize; 2]> {
    let grid = Grid::new(second);
    let pair = Images {
        first,
        second,
        grid: &grid,
    };
    let near = Near {
        expected,
        reach: REACH_SHARE * second.long_side,
    };
    let seeds = pair.seeds_near(&near);
    let nearby = pair.geometry(&seeds);
    // Where the aligned geometry is right, most of these seeds are.
    let is_clear = nearby.as_ref().is_some_and(|nearby| {
        nearby.inliers >= CLEAR && nearby.inliers as f64 / seeds.len() as f64 >= CLEAR_SHARE
    });
    let anywhere = (!is_clear).then(|| pair.geometry(&pair.seeds())).flatten();
    let inliers = |geometry: &Option<Geometry>| geometry.as_ref().map_or(0, |found| found.inliers);
    let is_near = inliers(&nearby) > inliers(&anywhere);
    let (geometry, near) = if is_near {
        (nearby, Some(&near))
    } else {
        (anywhere, None)
    };
    let found = geometry.map_or(Vec::new(), |geometry| pair.verified(&geometry.matrix, near));
    if found.len() < LEAST_MATCHES {
        Vec::new()
    } else {
        found
    }
}

/// Where keypoints are looked for.
struct Near<'a> {
    expected: &'a [Option<Expected>],
    /// Distance from there, pixels.
    reach: f64,
}

impl Near<'_> {
    /// Whether a keypoint of the second image lies where that of the first is expected, and is as
    /// large.
    #[inline(always)]
    fn allows(&self, images: &Images, one: usize, other: usize) -> bool {
        self.expected[one].is_some_and(|expected| {
            let [x, y] = images.second.pixels[other];
            let off = [x - expected.pixel[0], y - expected.pixel[1]];
            let size = expected.magnification * images.first.scales[one];
            let found = images.second.scales[other];
            off[0] * off[0] + off[1] * off[1] <= self.reach * self.reach
                && found <= MOST_SCALE_RATIO * size
                && size <= MOST_SCALE_RATIO * found
        })
    }
}

/// Two images, and where the keypoints of the second lie.
struct Images<'a> {
    first: &'a Features,
    second: &'a Features,
    grid: &'a Grid,
}

impl Images<'_> {
    fn pixels(&self, pairs: &[[usize; 2]]) -> Vec<[[f64; 2]; 2]> {
        let of_pair = |&[a, b]: &[usize; 2]| [self.first.pixels[a], self.second.pixels[b]];
        pairs.iter().map(of_pair).collect()
    }

    fn limit(&self) -> f64 {
        self.first.epipolar_px().max(self.second.epipolar_px())
    }

    /// The geometry that most seeds agree with.
    fn geometry(&self, seeds: &[[usize; 2]]) -> Option<Geometry> {
        geometry(&self.pixels(seeds), self.limit())
    }

    /// All matches that agree with a geometry.
    fn verified(&self, fundamental: &Matrix3<f64>, near: Option<&Near>) -> Vec<[usize; 2]> {
        let limit = self.limit();
        // Once with the largest, for the geometry of more matches than the seeds.
        let pixels = self.pixels(&self.guided(MOST_SEEDS, fundamental, limit, near));
        let is_better = |better: &Matrix3<f64>| {
            agreeing_with(better, &pixels, limit) >= agreeing_with(fundamental, &pixels, limit)
        };
        let better = least_squares(&pixels).filter(is_better);
        self.guided(
            usize::MAX,
            better.as_ref().unwrap_or(fundamental),
            limit,
            near,
        )
    }

    /// Matches among the largest keypoints, best first.
    fn seeds(&self) -> Vec<[usize; 2]> {
        let [rows, columns] =
            [self.first, self.second].map(|features| features.pixels.len().min(MOST_SEEDS));
        let queries: Vec<f32> = self.first.descriptors[..rows * CHANNELS]
            .iter()
            .map(|value| f32::from(*value))
            .collect();
        let mut forward = vec![Best::NONE; rows];
        let mut backward = Vec::with_capacity(columns);
        for start in (0..columns).step_by(BLOCK) {
            let count = BLOCK.min(columns - start);
            let mut block = Block::new(self.second, start..start + count);
            Arch::new().dispatch(|| {
                for (one, query) in queries.as_chunks().0.iter().enumerate() {
                    block.compare(one, query, self.first.lengths[one], &mut forward[one]);
                }
            });
            backward.extend_from_slice(&block.best[..count]);
        }
        mutual(&[forward, backward], SEED_RATIO)
    }

    /// Matches of the largest keypoints, near where they are expected; best first.
    fn seeds_near(&self, near: &Near) -> Vec<[usize; 2]> {
        let best = self.compared(MOST_SEEDS, |one, candidates| {
            if let Some(expected) = &near.expected[one] {
                self.grid.around(expected.pixel, near.reach, |other| {
                    if near.allows(self, one, other) {
                        candidates.push(other);
                    }
                });
            }
        });
        mutual(&best, SEED_RATIO)
    }

    /// Matches of the `most` largest keypoints near their epipolar lines, ascending.
    fn guided(
        &self,
        most: usize,
        fundamental: &Matrix3<f64>,
        limit: f64,
        near: Option<&Near>,
    ) -> Vec<[usize; 2]> {
        let best = self.compared(most, |one, candidates| {
            let line = fundamental * homogeneous(self.first.pixels[one]);
            let within = limit * line.xy().norm();
            self.grid.along(&line, limit, |other| {
                let pair = [self.first.pixels[one], self.second.pixels[other]];
                if homogeneous(pair[1]).dot(&line).abs() <= within
                    && distance(fundamental, &pair) <= limit
                    && near.is_none_or(|near| near.allows(self, one, other))
                {
                    candidates.push(other);
                }
            });
        });
        // Near where a keypoint is expected there are fewer that another one could be taken for.
        let mut found = match near {
            Some(_) => mutual(&best, SEED_RATIO),
            None => Vec::new(),
        };
        if found.len() < FEW_MATCHES {
            found = mutual(&best, GUIDED_RATIO);
        }
        found.sort_unstable();
        found
    }

    /// The `most` largest keypoints of the first image compared with the candidates that `gather`
    /// lists for each.
    fn compared(&self, most: usize, gather: impl Fn(usize, &mut Vec<usize>)) -> [Vec<Best>; 2] {
        let mut forward = vec![Best::NONE; self.first.pixels.len().min(most)];
        let mut backward = vec![Best::NONE; self.second.pixels.len()];
        let mut candidates = Vec::new();
        let arch = Arch::new();
        for (one, best) in forward.iter_mut().enumerate() {
            candidates.clear();
            gather(one, &mut candidates);
            arch.dispatch(|| {
                for &other in &candidates {
                    let cosine = cosine(self.first, one, self.second, other);
                    best.see(other, cosine);
                    backward[other].see(one, cosine);
                }
            });
        }
        [forward, backward]
    }
}

/// Those that are each other's best and stand out both ways, best first.
fn mutual([forward, backward]: &[Vec<Best>; 2], ratio: f32) -> Vec<[usize; 2]> {
    let is_mutual = |(one, best): &(usize, &Best)| {
        best.stands_out(ratio)
            && backward[best.index].index == *one
            && backward[best.index].stands_out(ratio)
    };
    let mut found: Vec<(usize, &Best)> = forward.iter().enumerate().filter(is_mutual).collect();
    let quality = |best: &Best| (1.0 - best.cosine) / (1.0 - best.second);
    found.sort_by(|one, two| quality(one.1).total_cmp(&quality(two.1)));
    found
        .into_iter()
        .map(|(one, best)| [one, best.index])
        .collect()
}

/// Keypoints by the cell of the image that they lie in.
struct Grid {
    cell: f64,
    columns: usize,
    rows: usize,
    /// Where each cell's keypoints begin, and the keypoints.
    starts: Vec<usize>,
    members: Vec<usize>,
}

impl Grid {
    /// Cells along the long side.
    const CELLS: f64 = 64.0;

    fn new(features: &Features) -> Self {
        let cell = features.long_side / Self::CELLS;
        let place = |pixel: &[f64; 2]| pixel.map(|at| (at / cell).max(0.0) as usize);
        let places: Vec<[usize; 2]> = features.pixels.iter().map(place).collect();
        let size = |axis: usize| {
            places
                .iter()
                .map(|place| place[axis] + 1)
                .max()
                .unwrap_or(1)
        };
        let (columns, rows) = (size(0), size(1));
        let mut members: Vec<usize> = (0..places.len()).collect();
        let index = |place: [usize; 2]| place[1] * columns + place[0];
        members.sort_by_key(|&member| index(places[member]));
        let mut starts = vec![0; columns * rows + 1];
        places
            .iter()
            .for_each(|place| starts[index(*place) + 1] += 1);
        (1..starts.len()).for_each(|at| starts[at] += starts[at - 1]);
        Self {
            cell,
            columns,
            rows,
            starts,
            members,
        }
    }

    /// Visits the keypoints of all cells that come within `reach` of a pixel along both axes.
    #[inline(always)]
    fn around(&self, [x, y]: [f64; 2], reach: f64, mut visit: impl FnMut(usize)) {
        let cells = |at: f64, count: usize| {
            let low = ((at - reach) / self.cell).max(0.0) as usize;
            let high = ((at + reach) / self.cell + 1.0).max(0.0) as usize;
            low..high.min(count)
        };
        let (across, down) = (cells(x, self.columns), cells(y, self.rows));
        if across.is_empty() {
            return;
        }
        for row in down {
            let [from, to] = [across.start, across.end].map(|at| row * self.columns + at);
            self.members[self.starts[from]..self.starts[to]]
                .iter()
                .for_each(|&member| visit(member));
        }
    }

    /// Visits the keypoints of all cells that come within `limit` of the line a x + b y + c = 0.
    #[inline(always)]
    fn along(&self, line: &Vector3<f64>, limit: f64, mut visit: impl FnMut(usize)) {
        let [a, b, c] = [line.x, line.y, line.z];
        let is_flat = b.abs() >= a.abs();
        let (steep, long, short) = if is_flat {
            (b, self.columns, self.rows)
        } else {
            (a, self.rows, self.columns)
        };
        if steep == 0.0 {
            return;
        }
        // Within a cell the line moves by a cell at most, and a distance from it counts sqrt(2)
        // times at most.
        let at = |along: f64| -((if is_flat { a } else { b }) * along + c) / steep;
        let reach = std::f64::consts::SQRT_2 * limit;
        for step in 0..long {
            let ends = [
                at(step as f64 * self.cell),
                at((step + 1) as f64 * self.cell),
            ];
            let low = ((ends[0].min(ends[1]) - reach) / self.cell)
                .floor()
                .max(0.0) as usize;
            let high = ((ends[0].max(ends[1]) + reach) / self.cell).floor();
            if high < 0.0 {
                continue;
            }
            for across in low..(high as usize + 1).min(short) {
                let index = if is_flat {
                    across * self.columns + step
                } else {
                    step * self.columns + across
                };
                self.members[self.starts[index]..self.starts[index + 1]]
                    .iter()
                    .for_each(|&member| visit(member));
            }
        }
    }
}
