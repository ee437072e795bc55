//! Exact nearest neighbours among descriptors: the largest dot product, the earliest pixel where several are equal.
//!
//! The score of two descriptors is the plain `f32` sum of products in channel order, so the answer does not depend on
//! the machine. Few scores are ever computed. Both maps are centred and coded in 8 bits; an integer dot product then
//! bounds the score from both sides (the rounding residuals by Cauchy-Schwarz), and only pixels whose upper bound
//! reaches the best score so far are scored. One level up, a tile of 8 x 8 pixels is passed over when its centre and
//! radius prove that no pixel of it can win. Where descriptors vary smoothly over the picture nearly all tiles are.

use rayon::prelude::*;

use super::DescriptorMap;
use super::kernel::{Coded, Codes, GROUP, Hit, Kernel, LANES, QUERY_LEVELS, Tile, word};

/// Pixels along one side of a tile.
const SIDE: usize = 8;

/// Most queries that pass a tile in one go; their codes and thresholds stay in the innermost cache.
const MOST_QUERIES: usize = 256;

/// From this many candidates on, a tile's descriptors are transposed and scored whole.
const DENSE_CANDIDATES: usize = 512;

/// Covers the rounding of bounds that are themselves computed in `f32`.
const SLACK: f64 = 1.0 + 1e-4;

/// One map prepared to be searched by the pixels of another.
pub(super) struct Index<'a> {
    base: DescriptorMap<'a>,
    queries: DescriptorMap<'a>,
    kernel: Kernel,
    base_mean: Vec<f32>,
    query_mean: Vec<f32>,
    /// Value of one step of a query's code.
    query_step: f64,
    /// Value of one unit of an integer sum: a step of a query's code times a step of a base code.
    unit: f64,
    /// Largest length of a centred base descriptor or tile centre.
    base_radius: f64,
    /// Largest distance between a centred base descriptor and its code.
    base_residual: f64,
    /// Largest product of lengths of two descriptors, times the relative rounding error of an `f32` score.
    rounding: f64,
    columns: usize,
    tiles: Tiles,
    /// The tiles' centres, 64 to a tile of their own; `center_best` starts from a centre's own bias, `center_bound`
    /// from the most that any pixel of its tile could add.
    centers: Vec<Codes>,
    center_best: Vec<[i32; LANES]>,
    center_bound: Vec<[i32; LANES]>,
}

/// Coded tiles, each with one start value per lane.
struct Tiles {
    codes: Vec<Codes>,
    start: Vec<[i32; LANES]>,
}

/// What [`Index::code_tile`] finds out about one tile besides its codes.
struct CodedTile {
    codes: Vec<Codes>,
    start: [i32; LANES],
    center: Vec<i32>,
    center_bias: i32,
    bound: i32,
    radius: f64,
    residual: f64,
}

/// One query's best pixel so far, and what its threshold is computed from.
#[derive(Clone)]
struct Best {
    score: f32,
    pixel: u32,
    /// The part of every score that does not depend on the base pixel.
    constant: f64,
    /// By how much a score can exceed its integer estimate.
    error: f64,
    /// What the base codes' zero adds to an integer sum.
    offset: i64,
}

impl<'a> Index<'a> {
    /// Prepares `base` for queries that are pixels of `queries`. Both have passed [`DescriptorMap::check`].
    pub(super) fn new(base: DescriptorMap<'a>, queries: DescriptorMap<'a>, kernel: Kernel) -> Self {
        let (base_mean, query_mean) = (base.mean(), queries.mean());
        let base_spread = Spread::about(&base, &base_mean);
        let query_spread = Spread::about(&queries, &query_mean);
        // The floors keep start values inside 32 bits when a map is nearly constant.
        let base_step = f64::from(base_spread.component.max(base_spread.length * 1e-5) / kernel.levels() as f32);
        let query_step = f64::from(query_spread.component.max(query_spread.length * 1e-3)) / f64::from(QUERY_LEVELS);
        let mut index = Self {
            base,
            queries,
            kernel,
            base_mean,
            query_mean,
            query_step,
            unit: base_step * query_step,
            base_radius: 0.0,
            base_residual: 0.0,
            rounding: f64::from(base_spread.length)
                * f64::from(query_spread.length)
                * (base.channels + 8) as f64
                * 2f64.powi(-22),
            columns: base.width.div_ceil(SIDE),
            tiles: Tiles { codes: Vec::new(), start: Vec::new() },
            centers: Vec::new(),
            center_best: Vec::new(),
            center_bound: Vec::new(),
        };
        index.code(base_step, f64::from(query_spread.centred) * SLACK);
        index
    }

    fn code(&mut self, base_step: f64, query_radius: f64) {
        let count = self.columns * self.base.height.div_ceil(SIDE);
        let coded: Vec<CodedTile> =
            (0..count).into_par_iter().map(|tile| self.code_tile(tile, base_step, query_radius)).collect();
        for tiles in coded.chunks(LANES) {
            let channels = self.base.channels;
            let lane = |lane: usize| tiles.get(lane).unwrap_or(&tiles[0]);
            self.kernel.pack(channels, |at, channel| lane(at).center[channel], &mut self.centers);
            self.center_best.push(std::array::from_fn(|at| lane(at).center_bias));
            self.center_bound.push(std::array::from_fn(|at| lane(at).bound));
        }
        for tile in coded {
            self.base_radius = self.base_radius.max(tile.radius);
            self.base_residual = self.base_residual.max(tile.residual);
            self.tiles.codes.extend_from_slice(&tile.codes);
            self.tiles.start.push(tile.start);
        }
    }

    fn code_tile(&self, tile: usize, step: f64, query_radius: f64) -> CodedTile {
        let (channels, levels) = (self.base.channels, self.kernel.levels());
        let per_step = (1.0 / step) as f32;
        let mut centred = vec![0f32; LANES * channels];
        let mut center = vec![0f32; channels];
        for (lane, centred) in centred.chunks_exact_mut(channels).enumerate() {
            let descriptor = self.base.descriptor(self.pixel(tile, lane));
            for (((value, sum), &raw), &mean) in centred.iter_mut().zip(&mut center).zip(descriptor).zip(&self.base_mean) {
                *value = raw - mean;
                *sum += *value / LANES as f32;
            }
        }
        let code = |value: f32| ((value * per_step).round_ties_even() as i32).clamp(-levels, levels);
        let center: Vec<i32> = center.iter().map(|&value| code(value)).collect();
        let bias = |values: &mut dyn Iterator<Item = f32>| -> i32 {
            let dot: f64 = values.zip(&self.query_mean).map(|(value, &mean)| f64::from(value) * f64::from(mean)).sum();
            (dot / self.unit).round() as i32
        };
        let mut start = [0; LANES];
        let (mut radius, mut residual, mut reach) = (0f32, 0f32, 0f32);
        let mut codes = Vec::with_capacity(channels * LANES / GROUP);
        let mut coded = vec![0i32; LANES * channels];
        let step = step as f32;
        for ((start, centred), coded) in
            start.iter_mut().zip(centred.chunks_exact(channels)).zip(coded.chunks_exact_mut(channels))
        {
            let (mut length, mut error, mut distance) = (0f32, 0f32, 0f32);
            for ((&value, coded), &center) in centred.iter().zip(coded).zip(&center) {
                *coded = code(value);
                length += value * value;
                error += (value - *coded as f32 * step).powi(2);
                distance += (value - center as f32 * step).powi(2);
            }
            *start = bias(&mut centred.iter().copied());
            (radius, residual, reach) = (radius.max(length), residual.max(error), reach.max(distance));
        }
        self.kernel.pack(channels, |lane, channel| coded[lane * channels + channel], &mut codes);
        let center_length: f32 = center.iter().map(|&code| (code as f32 * step).powi(2)).sum();
        let reach = f64::from(reach.sqrt()) * SLACK * query_radius / self.unit;
        CodedTile {
            codes,
            center_bias: bias(&mut center.iter().map(|&code| code as f32 * step)),
            bound: start.iter().max().map_or(0, |&most| most.saturating_add(reach.ceil() as i32)),
            start,
            center,
            radius: f64::from(radius.max(center_length).sqrt()) * SLACK,
            residual: f64::from(residual.sqrt()) * SLACK,
        }
    }

    /// The base pixel in a lane of a tile; lanes beyond the picture repeat its last column or row.
    fn pixel(&self, tile: usize, lane: usize) -> usize {
        let x = (tile % self.columns * SIDE + lane % SIDE).min(self.base.width - 1);
        let y = (tile / self.columns * SIDE + lane / SIDE).min(self.base.height - 1);
        y * self.base.width + x
    }

    /// The nearest base pixel of each of `pixels` of the query map.
    pub(super) fn search(&self, pixels: &[u32]) -> Vec<u32> {
        let share = pixels.len().div_ceil(rayon::current_num_threads()).clamp(1, MOST_QUERIES);
        pixels.par_chunks(share).flat_map_iter(|pixels| self.search_chunk(pixels)).collect()
    }

    fn search_chunk(&self, pixels: &[u32]) -> Vec<u32> {
        let groups = self.kernel.groups(self.base.channels);
        let mut words = Vec::with_capacity(pixels.len() * groups);
        let mut best: Vec<Best> = pixels.iter().map(|&pixel| self.code_query(pixel as usize, &mut words)).collect();
        self.start_from_nearest_centers(pixels, &words, &mut best);
        let mut thresholds: Vec<i32> = best.iter().map(|best| best.threshold(self.unit)).collect();

        let every: Vec<u16> = (0..pixels.len() as u16).collect();
        let mut hits = Vec::with_capacity(pixels.len());
        let mut lists = vec![Vec::with_capacity(pixels.len()); LANES];
        let mut dense = Vec::new();
        for (group, bound) in self.center_bound.iter().enumerate() {
            let centers = self.center_tile(group, bound);
            self.kernel.hits(centers, Coded { words: &words, thresholds: &thresholds }, &every, &mut hits);
            for hit in &hits {
                for lane in lanes(hit.lanes) {
                    lists[lane].push(hit.query);
                }
            }
            // Lanes past the last tile repeat a tile that is searched anyway.
            for (lane, list) in lists.iter_mut().enumerate().filter(|(_, list)| !list.is_empty()) {
                let tile = group * LANES + lane;
                if tile >= self.tiles.start.len() {
                    list.clear();
                    continue;
                }
                let coded = Coded { words: &words, thresholds: &thresholds };
                self.kernel.hits(self.tile(tile), coded, list, &mut hits);
                list.clear();
                self.score(tile, &hits, pixels, &mut best, &mut dense);
                for hit in &hits {
                    let at = usize::from(hit.query);
                    thresholds[at] = best[at].threshold(self.unit);
                }
            }
        }
        best.iter().map(|best| best.pixel).collect()
    }

    fn tile(&self, tile: usize) -> Tile<'_> {
        let size = self.tiles.codes.len() / self.tiles.start.len();
        Tile { codes: &self.tiles.codes[tile * size..][..size], start: &self.tiles.start[tile] }
    }

    fn center_tile<'b>(&'b self, group: usize, start: &'b [i32; LANES]) -> Tile<'b> {
        let size = self.centers.len() / self.center_bound.len();
        Tile { codes: &self.centers[group * size..][..size], start }
    }

    /// Appends the code words of one query and derives its bounds.
    fn code_query(&self, pixel: usize, words: &mut Vec<i32>) -> Best {
        let descriptor = self.queries.descriptor(pixel);
        let (mut constant, mut coded_length, mut residual, mut sum) = (0.0, 0.0, 0.0, 0);
        let mut codes = vec![0i8; self.kernel.groups(self.base.channels) * GROUP];
        for (channel, (&raw, code)) in descriptor.iter().zip(&mut codes).enumerate() {
            let raw = f64::from(raw);
            let value = raw - f64::from(self.query_mean[channel]);
            let levels = f64::from(QUERY_LEVELS);
            *code = (value / self.query_step).round_ties_even().clamp(-levels, levels) as i8;
            let coded = f64::from(*code) * self.query_step;
            constant += raw * f64::from(self.base_mean[channel]);
            coded_length += coded * coded;
            residual += (value - coded).powi(2);
            sum += i64::from(*code);
        }
        words.extend(codes.chunks_exact(GROUP).map(|codes| word(std::array::from_fn(|at| codes[at]))));
        let bound = residual.sqrt() * self.base_radius + coded_length.sqrt() * self.base_residual + 0.5 * self.unit;
        Best {
            score: f32::NEG_INFINITY,
            pixel: u32::MAX,
            constant,
            error: bound * SLACK + self.rounding,
            offset: sum * i64::from(self.kernel.levels()),
        }
    }

    /// Scores the whole tile whose centre suits a query best: the higher the first score, the fewer tiles follow.
    fn start_from_nearest_centers(&self, pixels: &[u32], words: &[i32], best: &mut [Best]) {
        let groups = words.len() / pixels.len();
        let mut nearest = vec![(i32::MIN, 0); pixels.len()];
        let tiles = self.tiles.start.len();
        for (group, start) in self.center_best.iter().enumerate() {
            let centers = self.center_tile(group, start);
            for (nearest, words) in nearest.iter_mut().zip(words.chunks_exact(groups)) {
                let sums = self.kernel.sums(centers, words);
                let most = sums.iter().fold(i32::MIN, |most, &sum| most.max(sum));
                if most > nearest.0 {
                    let lane = sums.iter().position(|&sum| sum == most).unwrap_or(0);
                    *nearest = (most, (group * LANES + lane).min(tiles - 1));
                }
            }
        }
        for ((best, &pixel), (_, tile)) in best.iter_mut().zip(pixels).zip(nearest) {
            let query = self.queries.descriptor(pixel as usize);
            for lane in 0..LANES {
                let candidate = self.pixel(tile, lane);
                best.offer(candidate, score(query, self.base.descriptor(candidate)));
            }
        }
    }

    /// Scores the pixels that the kernel could not rule out.
    fn score(&self, tile: usize, hits: &[Hit], pixels: &[u32], best: &mut [Best], dense: &mut Vec<[f32; LANES]>) {
        let candidates: usize = hits.iter().map(|hit| hit.lanes.count_ones() as usize).sum();
        let base: [usize; LANES] = std::array::from_fn(|lane| self.pixel(tile, lane));
        if candidates >= DENSE_CANDIDATES {
            dense.clear();
            dense.extend(
                (0..self.base.channels)
                    .map(|channel| std::array::from_fn(|lane| self.base.descriptor(base[lane])[channel])),
            );
        }
        for hit in hits {
            let at = usize::from(hit.query);
            let query = self.queries.descriptor(pixels[at] as usize);
            if candidates >= DENSE_CANDIDATES && hit.lanes.count_ones() > 4 {
                let scores = scores(query, dense);
                for lane in lanes(hit.lanes) {
                    best[at].offer(base[lane], scores[lane]);
                }
            } else {
                for lane in lanes(hit.lanes) {
                    best[at].offer(base[lane], score(query, self.base.descriptor(base[lane])));
                }
            }
        }
    }
}

impl Best {
    fn offer(&mut self, pixel: usize, score: f32) {
        let pixel = pixel as u32;
        if score > self.score || (score == self.score && pixel < self.pixel) {
            (self.score, self.pixel) = (score, pixel);
        }
    }

    /// Integer sums up to this belong to pixels that are worse than the best.
    fn threshold(&self, unit: f64) -> i32 {
        let least = ((f64::from(self.score) - self.constant - self.error) / unit).floor() as i64;
        (least.saturating_add(self.offset) - 2).clamp(i32::MIN.into(), i32::MAX.into()) as i32
    }
}

/// How far descriptors lie from a centre.
struct Spread {
    /// Largest magnitude of one centred component.
    component: f32,
    /// Largest length of a centred descriptor.
    centred: f32,
    /// Largest length of a descriptor.
    length: f32,
}

impl Spread {
    fn about(map: &DescriptorMap<'_>, mean: &[f32]) -> Self {
        let [component, centred, length] = map
            .descriptors
            .par_chunks(map.channels * map.width)
            .map(|row| {
                let mut most = [0f32; 3];
                for descriptor in row.chunks_exact(map.channels) {
                    let mut here = [0f32; 3];
                    for (&value, &mean) in descriptor.iter().zip(mean) {
                        let away = value - mean;
                        here = [here[0].max(away.abs()), here[1] + away * away, here[2] + value * value];
                    }
                    most = std::array::from_fn(|at| most[at].max(here[at]));
                }
                most
            })
            .reduce(|| [0.0; 3], |a, b| std::array::from_fn(|at| a[at].max(b[at])));
        Self { component, centred: centred.sqrt(), length: length.sqrt() * SLACK as f32 }
    }
}

/// The score itself: products added in channel order.
pub(super) fn score(query: &[f32], descriptor: &[f32]) -> f32 {
    query.iter().zip(descriptor).fold(0.0, |sum, (&a, &b)| sum + a * b)
}

/// [`score`] of one query against a transposed tile.
fn scores(query: &[f32], tile: &[[f32; LANES]]) -> [f32; LANES] {
    let mut sums = [0.0; LANES];
    for (&a, plane) in query.iter().zip(tile) {
        for (sum, &b) in sums.iter_mut().zip(plane) {
            *sum += a * b;
        }
    }
    sums
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
