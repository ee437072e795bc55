//! Exact nearest neighbors among descriptors: the largest dot product, the earliest pixel where
//! several are equal.
//!
//! The score of two descriptors is the plain `f32` sum of products in channel order, so the answer
//! does not depend on the machine. Few scores are ever computed. The base map is cut into tiles of
//! 8 x 8 pixels; a tile's pixels differ from its center by little, and that difference is coded in
//! 8 bits. By Cauchy-Schwarz, the score with the center and the tile's radius bound the scores of
//! all its pixels, and the score with the center, an integer dot product of the codes and the
//! codes' residuals bound each one. Only pixels whose bound reaches the best score so far are
//! scored.

use rayon::prelude::*;

use super::kernel::{
    Codes, Group, Hit, Kernel, LANES, Probe, QUERY_LEVELS, Tile, Visit, WORD, word,
};
use super::{Checked, DescriptorMap};

/// Pixels along one side of a tile.
const SIDE: usize = 8;

/// Most queries that pass a tile in one go; their codes stay in the innermost cache.
const MOST_QUERIES: usize = 128;

/// From this many candidates on, a tile's descriptors are transposed and scored whole.
const DENSE_CANDIDATES: usize = 512;

/// Covers the rounding of lengths that are computed in `f32`.
const SLACK: f32 = 1.0 + 1e-4;

/// One map prepared to be searched by the pixels of another.
pub(super) struct Index<'a> {
    base: DescriptorMap<'a>,
    queries: DescriptorMap<'a>,
    kernel: Kernel,
    /// Taken off the queries before they are coded; what it contributes to a score is in the tiles'
    /// start values.
    query_mean: Vec<f32>,
    /// Value of one step of a query's code.
    query_step: f32,
    /// See [`Probe::rounding`].
    rounding: f32,
    /// Tiles in a row.
    columns: usize,
    tiles: usize,
    codes: Vec<Codes>,
    start: Vec<[i32; LANES]>,
    groups: Vec<Group>,
}

/// What [`Index::code_tile`] finds out about a tile besides its codes; the fields of [`Group`].
struct TileBounds {
    center: Vec<f32>,
    top: f32,
    radius: f32,
    residual: f32,
    unit: f32,
}

/// One query's best pixel so far.
struct Best {
    pixel: u32,
    probe: Probe,
}

impl<'a> Index<'a> {
    /// Prepares `base` for queries that are pixels of `queries`.
    pub(super) fn new(base: &Checked<'a>, queries: &Checked<'a>, kernel: Kernel) -> Self {
        let (query_mean, query_component) = (queries.mean.clone(), queries.component);
        let (base, queries, base_length, query_length) =
            (base.map, queries.map, base.length, queries.length);
        let columns = base.width.div_ceil(SIDE);
        let tiles = columns * base.height.div_ceil(SIDE);
        let size = kernel.tile_size(base.channels);
        let mut index = Self {
            base,
            queries,
            kernel,
            query_mean,
            // The floor, like that of a tile's step, keeps start values inside 32 bits when a map
            // is nearly constant.
            query_step: query_component.max(query_length * 1e-3) / QUERY_LEVELS as f32,
            // A score of n channels is off by at most n half units in the last place of the product
            // of lengths; the score with the center, the start value and the bounds themselves add
            // less than three times as much.
            rounding: base_length * query_length * (base.channels + 8) as f32 * 2f32.powi(-22),
            columns,
            tiles,
            codes: Vec::new(),
            start: Vec::new(),
            groups: Vec::new(),
        };
        let mut codes = vec![Codes::ZERO; tiles * size];
        let mut start = vec![[0; LANES]; tiles];
        let least_component = base_length * 1e-5;
        let bounds: Vec<TileBounds> = codes
            .par_chunks_exact_mut(size)
            .zip(&mut start)
            .enumerate()
            .map_init(
                || vec![0f32; LANES * base.channels],
                |space, (tile, (codes, start))| {
                    index.code_tile(tile, least_component, space, codes, start)
                },
            )
            .collect();
        (index.codes, index.start) = (codes, start);
        index.groups = bounds.chunks(LANES).map(group).collect();
        index
    }

    /// Codes one tile; `space` is room for its pixels' differences from the center.
    fn code_tile(
        &self,
        tile: usize,
        least_component: f32,
        space: &mut [f32],
        codes: &mut [Codes],
        start: &mut [i32; LANES],
    ) -> TileBounds {
        let (channels, levels) = (self.base.channels, self.kernel.levels());
        let mut center = vec![0f32; channels];
        for (values, pixel) in space.chunks_exact_mut(channels).zip(self.tile_pixels(tile)) {
            values.copy_from_slice(self.base.descriptor(pixel));
            for (center, &value) in center.iter_mut().zip(&*values) {
                *center += value * (1.0 / LANES as f32);
            }
        }
        let mut component = vec![least_component; channels];
        for values in space.chunks_exact_mut(channels) {
            for ((value, &center), component) in values.iter_mut().zip(&center).zip(&mut component)
            {
                *value -= center;
                *component = larger(*component, value.abs());
            }
        }
        let component = component.into_iter().fold(0.0, larger);
        let step = component / levels as f32;
        let (per_step, zero) = (1.0 / step, levels as f32);
        // Truncation of a positive number rounds without a library call.
        let code =
            |value: f32| (value * per_step + (zero + 0.5)).clamp(0.0, 2.0 * zero) as i32 - levels;
        let unit = step * self.query_step;
        let (mut radius, mut residual) = (0f32, 0f32);
        for (start, values) in start.iter_mut().zip(space.chunks_exact(channels)) {
            let [mut length, mut error, mut bias] = [0f32; 3];
            for (&value, &mean) in values.iter().zip(&self.query_mean) {
                let left = value - code(value) as f32 * step;
                length += value * value;
                error += left * left;
                bias += value * mean;
            }
            *start = (bias / unit).round() as i32;
            (radius, residual) = (larger(radius, length), larger(residual, error));
        }
        self.kernel.pack(
            channels,
            |lane, channel| code(space[lane * channels + channel]),
            codes,
        );
        TileBounds {
            center,
            top: start
                .iter()
                .max()
                .map_or(0.0, |&most| (most as f32 + 1.0) * unit),
            radius: radius.sqrt() * SLACK,
            residual: residual.sqrt() * SLACK,
            unit,
        }
    }

    /// The base pixels of a tile, lane by lane; lanes beyond the image repeat its last column or
    /// row.
    fn tile_pixels(&self, tile: usize) -> [usize; LANES] {
        let (left, top) = (tile % self.columns * SIDE, tile / self.columns * SIDE);
        std::array::from_fn(|lane| {
            let x = (left + lane % SIDE).min(self.base.width - 1);
            let y = (top + lane / SIDE).min(self.base.height - 1);
            y * self.base.width + x
        })
    }

    /// The nearest base pixel of each of `pixels` of the query map.
    pub(super) fn search(&self, pixels: &[u32]) -> Vec<u32> {
        let share = pixels
            .len()
            .div_ceil(rayon::current_num_threads())
            .clamp(1, MOST_QUERIES);
        pixels
            .par_chunks(share)
            .flat_map_iter(|pixels| self.search_chunk(pixels))
            .collect()
    }

    fn search_chunk(&self, pixels: &[u32]) -> Vec<u32> {
        let mut words = Vec::with_capacity(pixels.len() * self.kernel.words(self.base.channels));
        let mut best: Vec<Best> = pixels
            .iter()
            .map(|&pixel| self.code_query(pixel, &mut words))
            .collect();
        let center_scores = self.score_centers(pixels, &mut best);

        let size = self.kernel.tile_size(self.base.channels);
        let mut hits = vec![Hit::default(); pixels.len()];
        let mut visits: [Vec<Visit>; LANES] =
            std::array::from_fn(|_| Vec::with_capacity(pixels.len()));
        let mut dense = Vec::new();
        for (at, group) in self.groups.iter().enumerate() {
            let center_scores = &center_scores[at * pixels.len()..][..pixels.len()];
            for (query, (best, center_scores)) in best.iter().zip(center_scores).enumerate() {
                let (tiles, thresholds) = self.kernel.screen(group, center_scores, &best.probe);
                for lane in lanes(tiles) {
                    visits[lane].push(Visit {
                        threshold: thresholds[lane],
                        query: query as u16,
                    });
                }
            }
            let tiles = at * LANES..self.tiles;
            for (tile, visits) in tiles
                .zip(&mut visits)
                .filter(|(_, visits)| !visits.is_empty())
            {
                let codes = Tile {
                    codes: &self.codes[tile * size..][..size],
                    start: &self.start[tile],
                };
                let count = self.kernel.hits(codes, &words, visits, &mut hits);
                self.score(tile, &hits[..count], pixels, &mut best, &mut dense);
                visits.clear();
            }
        }
        best.iter().map(|best| best.pixel).collect()
    }

    /// Appends the code words of one query and derives its side of the bounds.
    fn code_query(&self, pixel: u32, words: &mut Vec<i32>) -> Best {
        let (mut length, mut coded_length, mut residual, mut sum) = (0f32, 0f32, 0f32, 0);
        let mut codes = vec![0i8; self.kernel.words(self.base.channels) * WORD];
        let descriptor = self.queries.descriptor(pixel as usize);
        for ((&value, &mean), code) in descriptor.iter().zip(&self.query_mean).zip(&mut codes) {
            let value = value - mean;
            *code = (value / self.query_step)
                .round()
                .clamp(-QUERY_LEVELS as f32, QUERY_LEVELS as f32) as i8;
            let coded = f32::from(*code) * self.query_step;
            length += value * value;
            coded_length += coded * coded;
            residual += (value - coded) * (value - coded);
            sum += i32::from(*code);
        }
        words.extend(
            codes
                .chunks_exact(WORD)
                .map(|codes| word(std::array::from_fn(|at| codes[at]))),
        );
        Best {
            pixel: u32::MAX,
            probe: Probe {
                best: f32::NEG_INFINITY,
                length: length.sqrt() * SLACK,
                coded_length: coded_length.sqrt() * SLACK,
                residual: residual.sqrt() * SLACK,
                rounding: self.rounding,
                offset: sum * self.kernel.levels(),
            },
        }
    }

    /// The scores of all queries with all tiles' centers, group by group; then scores the whole
    /// tile whose center suits a query best. The higher the first score, the fewer tiles follow.
    fn score_centers(&self, pixels: &[u32], best: &mut [Best]) -> Vec<[f32; LANES]> {
        let mut scores = Vec::with_capacity(pixels.len() * self.groups.len());
        let mut nearest = vec![(f32::NEG_INFINITY, 0); pixels.len()];
        for (at, group) in self.groups.iter().enumerate() {
            let last = (self.tiles - at * LANES).min(LANES) - 1;
            for (&pixel, nearest) in pixels.iter().zip(&mut nearest) {
                let (here, most) = self
                    .kernel
                    .scores(self.queries.descriptor(pixel as usize), &group.centers);
                if most > nearest.0 {
                    let lane = here.iter().position(|&score| score == most).unwrap_or(0);
                    *nearest = (most, at * LANES + lane.min(last));
                }
                scores.push(here);
            }
        }
        for ((&pixel, best), (_, tile)) in pixels.iter().zip(best).zip(nearest) {
            let query = self.queries.descriptor(pixel as usize);
            for candidate in self.tile_pixels(tile) {
                best.offer(candidate, score(query, self.base.descriptor(candidate)));
            }
        }
        scores
    }

    /// Scores the pixels of a tile that the kernel could not rule out.
    fn score(
        &self,
        tile: usize,
        hits: &[Hit],
        pixels: &[u32],
        best: &mut [Best],
        dense: &mut Vec<[f32; LANES]>,
    ) {
        let candidates: usize = hits.iter().map(|hit| hit.lanes.count_ones() as usize).sum();
        if candidates == 0 {
            return;
        }
        let base = self.tile_pixels(tile);
        if candidates >= DENSE_CANDIDATES {
            let plane =
                |channel| std::array::from_fn(|lane| self.base.descriptor(base[lane])[channel]);
            dense.clear();
            dense.extend((0..self.base.channels).map(plane));
        }
        for hit in hits {
            let query = self
                .queries
                .descriptor(pixels[usize::from(hit.query)] as usize);
            let best = &mut best[usize::from(hit.query)];
            if candidates >= DENSE_CANDIDATES && hit.lanes.count_ones() > 4 {
                let (scores, most) = self.kernel.scores(query, dense);
                if most >= best.probe.best {
                    // Lanes are in the order of their pixels, so the first of several is the
                    // earliest.
                    let lane = scores.iter().position(|&score| score == most).unwrap_or(0);
                    best.offer(base[lane], most);
                }
            } else {
                for lane in lanes(hit.lanes) {
                    best.offer(base[lane], score(query, self.base.descriptor(base[lane])));
                }
            }
        }
    }
}

impl Best {
    fn offer(&mut self, pixel: usize, score: f32) {
        let pixel = pixel as u32;
        if score > self.probe.best || (score == self.probe.best && pixel < self.pixel) {
            (self.probe.best, self.pixel) = (score, pixel);
        }
    }
}

fn group(tiles: &[TileBounds]) -> Group {
    let lane = |lane: usize| tiles.get(lane).unwrap_or(&tiles[0]);
    Group {
        centers: (0..tiles[0].center.len())
            .map(|at| std::array::from_fn(|tile| lane(tile).center[at]))
            .collect(),
        top: std::array::from_fn(|tile| lane(tile).top),
        radius: std::array::from_fn(|tile| lane(tile).radius),
        residual: std::array::from_fn(|tile| lane(tile).residual),
        per_unit: std::array::from_fn(|tile| 1.0 / lane(tile).unit),
    }
}

/// The larger of two numbers; unlike `f32::max` one instruction, as neither is ever NaN here.
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The score itself: products added in channel order.
pub(super) fn score(query: &[f32], descriptor: &[f32]) -> f32 {
    query
        .iter()
        .zip(descriptor)
        .fold(0.0, |sum, (&a, &b)| sum + a * b)
}

/// The set bits, lowest first.
fn lanes(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (mask != 0).then(|| {
            let lane = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            lane
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matching::random::Random;

    /// The definition: the first pixel with the largest score.
    fn plain_search(base: &DescriptorMap<'_>, queries: &DescriptorMap<'_>) -> Vec<u32> {
        let nearest = |query: usize| {
            let query = queries.descriptor(query);
            let scores = (0..base.pixels()).map(|pixel| score(query, base.descriptor(pixel)));
            scores
                .enumerate()
                .fold((0, f32::NEG_INFINITY), |best, (at, score)| {
                    if score > best.1 { (at, score) } else { best }
                })
                .0
        };
        (0..queries.pixels())
            .map(|query| nearest(query) as u32)
            .collect()
    }

    fn assert_exact(
        name: &str,
        sizes: [[usize; 2]; 2],
        channels: usize,
        make: &mut dyn FnMut(usize, usize, usize) -> f32,
    ) {
        let maps = sizes.map(|[width, height]| -> Vec<f32> {
            (0..width * height)
                .flat_map(|at| (0..channels).map(move |c| (at % width, at / width, c)))
                .map(|(x, y, c)| make(x, y, c))
                .collect()
        });
        let confidence = vec![1.0; 10_000];
        let map = |at: usize| {
            let [width, height] = sizes[at];
            DescriptorMap {
                width,
                height,
                channels,
                descriptors: &maps[at],
                confidence: &confidence[..width * height],
            }
        };
        let (first, second) = (map(0), map(1));
        let expected = plain_search(&second, &first);
        let checked = |map| Checked::new(map, "test").expect("usable descriptors");
        let pixels: Vec<u32> = (0..first.pixels() as u32).collect();
        for kernel in Kernel::available(channels) {
            let found = Index::new(&checked(&second), &checked(&first), kernel).search(&pixels);
            let wrong = found
                .iter()
                .zip(&expected)
                .filter(|(found, expected)| found != expected)
                .count();
            assert_eq!(
                wrong,
                0,
                "{name}, {channels} channels, {kernel:?}: {wrong} of {} pixels differ",
                found.len()
            );
        }
    }

    const SIZES: [[usize; 2]; 2] = [[13, 21], [75, 66]];

    #[test]
    fn finds_the_nearest_of_unstructured_descriptors() {
        for channels in [1, 2, 6, 23, 24, 33] {
            let mut random = Random::new(channels as u64);
            assert_exact("random", SIZES, channels, &mut |_, _, _| {
                let value = random.normal() as f32;
                value + 0.01f32.copysign(value)
            });
        }
    }

    #[test]
    fn finds_the_nearest_of_smooth_descriptors() {
        let mut random = Random::new(3);
        for noise in [0.0, 0.01, 0.1] {
            assert_exact("smooth", SIZES, 24, &mut |x, y, c| {
                let phase = x as f64 * (0.05 + 0.01 * c as f64)
                    + y as f64 * (0.3 - 0.02 * c as f64)
                    + c as f64;
                (phase.cos() + noise * random.normal()) as f32
            });
        }
    }

    #[test]
    fn finds_the_nearest_of_nearly_constant_descriptors() {
        let mut random = Random::new(4);
        for spread in [1e-1, 1e-3, 1e-5, 1e-7] {
            assert_exact("nearly constant", SIZES, 24, &mut |_, _, c| {
                (1.0 + c as f64 + spread * random.normal()) as f32
            });
        }
    }

    #[test]
    fn finds_the_nearest_where_half_the_image_is_flat() {
        let mut random = Random::new(5);
        assert_exact("half flat", SIZES, 24, &mut |x, _, _| {
            (if x % 50 < 25 {
                1.0 + 0.01 * random.normal()
            } else {
                random.normal()
            }) as f32
        });
    }

    #[test]
    fn takes_the_earliest_of_equal_scores() {
        // Small whole numbers make exact ties by the hundred; a constant map makes nothing else.
        let mut random = Random::new(6);
        for channels in [2, 24] {
            assert_exact("whole numbers", SIZES, channels, &mut |_, _, c| {
                if c == 0 {
                    1.0
                } else {
                    (random.uniform() * 3.0).floor() as f32 - 1.0
                }
            });
        }
        assert_exact("constant", SIZES, 24, &mut |_, _, c| 0.1 + c as f32);
    }

    #[test]
    fn takes_lengths_as_they_are() {
        let mut random = Random::new(7);
        assert_exact("long and short", SIZES, 8, &mut |x, y, _| {
            (random.normal() * 10f64.powi((x + y) as i32 % 4 - 1)) as f32
        });
        assert_exact("one pixel", [[1, 1], [1, 1]], 24, &mut |_, _, _| {
            random.normal() as f32
        });
        assert_exact("one row", [[9, 1], [100, 1]], 24, &mut |_, _, _| {
            random.normal() as f32
        });
    }
}
