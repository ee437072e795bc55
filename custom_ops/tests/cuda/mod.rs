//! The kernels of reciprocal.cu without a GPU: compiled as C++, run thread by thread with the
//! host's own buffers and launches, and compared with a search that tries every pixel.
//!
//! What this cannot show: what only real warps get wrong, and how fast they are.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::plan::{Plan, STARTS, STATISTICS, Sizes, WALKERS, ZEROED};
use super::{Settled, SettledSeed};
use crate::sanitized::{Sanitized, include_driver};

const KIND: &str = "cuda";

const MEMORY: usize = 1 << 20;
/// No divisor of the work.
const THREAD_BLOCKS: u32 = 5;

/// reciprocal.cu as a program.
struct Emulator(Sanitized);

impl Emulator {
    fn new() -> Self {
        let source = include_str!("../../src/reciprocal/reciprocal.cu");
        let program = format!("{source}\n{}", include_driver(KIND));
        Self(Sanitized::new(KIND, "reciprocal.cu", &program, &["-O1"]))
    }

    /// What `reciprocal_walks` does on a device.
    fn walk(&self, case: &Case, memory: usize) -> Vec<Settled> {
        let plan = case.plan(memory);
        let buffers = self.run(case, &plan);
        plan.results(&words(&buffers[STATISTICS]), &words(&buffers[WALKERS]))
    }

    /// The buffers after all launches.
    fn run(&self, case: &Case, plan: &Plan) -> Vec<Vec<u8>> {
        let mut request = Request::default();
        request.number(2 * case.decodes.len());
        for (decode, maps) in case.decodes.iter().enumerate() {
            for (side, map) in maps.iter().enumerate() {
                request.block(map.iter().flat_map(|value| value.to_ne_bytes()));
                request.block(
                    case.confidences(decode, side)
                        .iter()
                        .flat_map(|value| value.to_ne_bytes()),
                );
            }
        }
        request.number(size_of::<Sizes>());
        // SAFETY: numbers of four bytes without gaps.
        #[allow(unsafe_code)]
        let sizes = unsafe {
            std::slice::from_raw_parts((&raw const plan.sizes).cast::<u8>(), size_of::<Sizes>())
        };
        request.bytes.extend(sizes);
        request.number(plan.buffers.len());
        for (index, &bytes) in plan.buffers.iter().enumerate() {
            request.bytes.extend((bytes as u64).to_ne_bytes());
            request.number(match index {
                STARTS => 2,
                _ if ZEROED.contains(&index) => 1,
                _ => 0,
            });
            if index == STARTS {
                request
                    .bytes
                    .extend(plan.starts.iter().flat_map(|number| number.to_ne_bytes()));
            }
        }
        request.number(plan.launches.len());
        for launch in &plan.launches {
            request.number(launch.kernel.len());
            request.bytes.extend(launch.kernel.as_bytes());
            let numbers = launch
                .blocks
                .iter()
                .chain([&launch.threads])
                .map(|&number| number as usize);
            numbers
                .chain([launch.numbers.len()])
                .for_each(|number| request.number(number));
            launch
                .numbers
                .iter()
                .for_each(|&number| request.number(number as usize));
        }
        self.0.run(&request.bytes, &plan.buffers)
    }
}

pub(super) fn words(bytes: &[u8]) -> Vec<u32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|&four| u32::from_ne_bytes(four))
        .collect()
}

#[derive(Default)]
struct Request {
    bytes: Vec<u8>,
}

impl Request {
    fn number(&mut self, n: usize) {
        self.bytes.extend(u32::try_from(n).unwrap().to_ne_bytes());
    }

    fn block(&mut self, bytes: impl Iterator<Item = u8>) {
        let bytes: Vec<u8> = bytes.collect();
        self.bytes.extend((bytes.len() as u64).to_ne_bytes());
        self.bytes.extend(bytes);
    }
}

/// Descriptors of two images and where to start.
pub(super) struct Case {
    /// (height, width)
    pub(super) sizes: [[usize; 2]; 2],
    pub(super) channels: usize,
    pub(super) decodes: Vec<[Vec<f32>; 2]>,
    pub(super) seeds: [Vec<u32>; 2],
    pub(super) rounds: usize,
    /// Maps (decode, side) and pixels whose confidence is not finite.
    pub(super) undefined: Vec<(usize, usize, usize)>,
}

impl Case {
    /// Descriptors of unit length: every second decode of other ones. The second image repeats
    /// the descriptors of the first, shuffled a little and with noise of length `noise`, around a
    /// mean of length `mean`.
    pub(super) fn new(
        sizes: [[usize; 2]; 2],
        channels: usize,
        decodes: usize,
        [mean, noise]: [f32; 2],
    ) -> Self {
        let mut random = StdRng::seed_from_u64((sizes[0][0] * 100 + channels) as u64);
        let mut unit = move |around: Option<(&[f32], f32)>| -> Vec<f32> {
            let value: Vec<f32> = (0..channels)
                .map(|_| random.random_range(-1f32..1.))
                .collect();
            let value: Vec<f32> = match around {
                Some((center, noise)) => center
                    .iter()
                    .zip(&value)
                    .map(|(center, value)| center + noise * value)
                    .collect(),
                None => value,
            };
            let length = value.iter().map(|x| x * x).sum::<f32>().sqrt();
            value.into_iter().map(|x| x / length).collect()
        };
        let pixels = sizes.map(|[height, width]| height * width);
        let decodes = (0..decodes).map(|_| {
            let center: Vec<f32> = unit(None).into_iter().map(|x| x * mean).collect();
            let first: Vec<Vec<f32>> = (0..pixels[0]).map(|_| unit(Some((&center, 1.)))).collect();
            let second = (0..pixels[1]).map(|pixel| {
                let of = &first[(pixel * 7 + 3) % pixels[0]];
                unit(Some((of, noise)))
            });
            [first.concat(), second.flatten().collect()]
        });
        let decodes = decodes.collect();
        let seeds = pixels.map(|pixels| (0..pixels as u32).step_by(29).collect());
        Self {
            sizes,
            channels,
            decodes,
            seeds,
            rounds: 3,
            undefined: Vec::new(),
        }
    }

    fn plan(&self, memory: usize) -> Plan {
        let seeds = self.seeds.each_ref().map(Vec::as_slice);
        Plan::new(
            self.sizes,
            self.channels,
            self.decodes.len(),
            seeds,
            self.rounds,
            THREAD_BLOCKS,
            memory,
        )
        .unwrap()
    }

    /// Of each pixel another one.
    pub(super) fn confidences(&self, decode: usize, side: usize) -> Vec<f32> {
        let pixels = self.sizes[side].iter().product::<usize>();
        let mut confidences: Vec<f32> = (0..pixels)
            .map(|pixel| confidence_of(decode, side, pixel as u32))
            .collect();
        for &(_, _, pixel) in self
            .undefined
            .iter()
            .filter(|map| (map.0, map.1) == (decode, side))
        {
            confidences[pixel] = if pixel % 2 == 0 {
                f32::NAN
            } else {
                f32::INFINITY
            };
        }
        confidences
    }

    /// The largest sum of products, the earliest of several.
    fn nearest(&self, decode: usize, side: usize, pixel: u32) -> u32 {
        let maps = &self.decodes[decode];
        let query = &maps[side][pixel as usize * self.channels..][..self.channels];
        let mut best = (f32::NEG_INFINITY, 0);
        for (index, base) in maps[1 - side].chunks_exact(self.channels).enumerate() {
            let score = query.iter().zip(base).fold(0f32, |sum, (a, b)| sum + a * b);
            if score > best.0 {
                best = (score, index as u32);
            }
        }
        best.1
    }

    /// By the definition: there and back until a pixel is its neighbour's neighbour, or the rounds
    /// are over.
    fn settled(&self, decode: usize, side: usize) -> Vec<SettledSeed> {
        let at_rest = |pixel: u32, nearest: u32| SettledSeed {
            pixel,
            nearest,
            confidence: [
                confidence_of(decode, side, pixel),
                confidence_of(decode, 1 - side, nearest),
            ],
        };
        let walk = |&seed: &u32| {
            let (mut here, mut there) = (seed, None);
            for _ in 0..self.rounds {
                let partner = self.nearest(decode, side, here);
                if there == Some(partner) {
                    return Some(at_rest(here, partner));
                }
                there = Some(partner);
                let back = self.nearest(decode, 1 - side, partner);
                if back == here {
                    return Some(at_rest(here, partner));
                }
                here = back;
            }
            None
        };
        self.seeds[side].iter().filter_map(walk).collect()
    }

    pub(super) fn want(&self) -> Vec<Settled> {
        let decode = |decode| Settled {
            seeds: [0, 1].map(|side| self.settled(decode, side)),
            unusable: [0, 0],
            undefined: [0, 0],
        };
        (0..self.decodes.len()).map(decode).collect()
    }
}

fn confidence_of(decode: usize, side: usize, pixel: u32) -> f32 {
    (decode * 2 + side + 1) as f32 + pixel as f32 / 65536.
}

/// One test, for the compiler takes longer than the kernels.
#[test]
fn the_kernels_search_as_the_definition_says() {
    let emulator = Emulator::new();
    products_of_the_matrix_units_bound_the_scores(&emulator);
    walks_end_where_a_search_of_every_pixel_ends(&emulator);
    more_blocks_may_be_possible_than_are_noted(&emulator);
    the_earliest_of_equal_neighbours_is_taken_and_many_seeds_are_answered_in_goes(&emulator);
    what_is_not_usable_is_counted(&emulator);
}

/// Products that are off would rule out nothing, or too much; only the latter would be seen in the
/// walks.
fn products_of_the_matrix_units_bound_the_scores(emulator: &Emulator) {
    let case = Case::new([[20, 33], [43, 45]], 24, 1, [0.5, 0.2]);
    let mut plan = case.plan(MEMORY);
    let first = plan
        .launches
        .iter()
        .position(|launch| launch.kernel == "reciprocal_maxima")
        .unwrap();
    plan.launches.truncate(first + 1);
    let buffers = emulator.run(&case, &plan);
    let floats = |index: usize| {
        words(&buffers[index])
            .into_iter()
            .map(f32::from_bits)
            .collect::<Vec<_>>()
    };
    let (means, maxima, lists) = (floats(0), floats(9), words(&buffers[7]));
    // Blocks of four tiles; the second image is six tiles wide and six high.
    let block_of = |pixel: usize| (pixel / 45 / 8 * 6 + pixel % 45 / 8) / 4;
    for (row, &pixel) in lists.iter().take(case.seeds[0].len()).enumerate() {
        let query = &case.decodes[0][0][pixel as usize * 24..][..24];
        let mut want = [0f32; 9];
        for (index, base) in case.decodes[0][1].chunks_exact(24).enumerate() {
            let score: f32 = query
                .iter()
                .zip(base)
                .zip(&means[24..])
                .map(|((a, b), mean)| a * (b - mean))
                .sum();
            want[block_of(index)] = score.max(want[block_of(index)]);
        }
        for (block, want) in want.into_iter().enumerate() {
            let got = maxima[row * 9 + block];
            assert!(
                (got - want).abs() < 2e-3,
                "query {pixel}, block {block}: {got} for {want}"
            );
        }
    }
}

fn walks_end_where_a_search_of_every_pixel_ends(emulator: &Emulator) {
    // Several blocks; images that end inside a tile and inside a block; fewer channels than the
    // kernels have; one pixel; descriptors that are nearly all the same.
    for (sizes, channels, decodes, spread) in [
        ([[40, 48], [33, 29]], 24, 2, [0., 0.3]),
        ([[21, 35], [40, 24]], 24, 1, [0.5, 0.2]),
        ([[9, 17], [16, 40]], 5, 2, [0., 0.1]),
        ([[1, 1], [3, 2]], 24, 1, [0., 0.1]),
        ([[24, 40], [24, 32]], 24, 1, [100., 0.003]),
    ] {
        let case = Case::new(sizes, channels, decodes, spread);
        let want = case.want();
        assert!(
            want.iter()
                .flat_map(|decode| &decode.seeds)
                .any(|seeds| !seeds.is_empty()),
            "{sizes:?}"
        );
        assert_eq!(
            emulator.walk(&case, MEMORY),
            want,
            "{sizes:?}, {channels} channels"
        );
    }
}

/// Where all descriptors are nearly the same, float16 tells none of them apart.
fn more_blocks_may_be_possible_than_are_noted(emulator: &Emulator) {
    let mut case = Case::new([[9, 11], [100, 90]], 6, 1, [1000., 0.0005]);
    case.seeds = [vec![5, 70], vec![8000]];
    assert_eq!(emulator.walk(&case, MEMORY), case.want());
}

fn the_earliest_of_equal_neighbours_is_taken_and_many_seeds_are_answered_in_goes(
    emulator: &Emulator,
) {
    let mut case = Case::new([[24, 40], [24, 40]], 6, 1, [0., 0.05]);
    // Descriptors of the fifth tile again in the first one, which is in an earlier block but
    // further down: once where the same lane looks at them and once where another does.
    for x in 0..8 {
        let from = (32 + x) * 6;
        for y in [4, 5] {
            case.decodes[0][1].copy_within(from..from + 6, (y * 40 + x) * 6);
        }
    }
    // More than one go takes, and a few.
    case.seeds = [(0..300).collect(), (100..124).rev().collect()];
    let want = case.want();
    assert!(
        want[0].seeds[0]
            .iter()
            .filter(|seed| (32..40).contains(&seed.nearest))
            .count()
            >= 4
    );
    // No more queries at once than there must be.
    assert_eq!(emulator.walk(&case, 0), want);
}

fn what_is_not_usable_is_counted(emulator: &Emulator) {
    let mut case = Case::new([[9, 11], [10, 9]], 24, 1, [0., 0.2]);
    // The last pixel of a row, which its tile repeats, and the first one.
    case.decodes[0][0][10 * 24..11 * 24].fill(f32::NAN);
    case.decodes[0][0][..24].fill(0.);
    case.decodes[0][1][89 * 24..90 * 24].fill(f32::INFINITY);
    case.undefined = vec![(0, 0, 0), (0, 1, 7), (0, 1, 8), (0, 1, 89)];
    let found = &emulator.walk(&case, MEMORY)[0];
    assert_eq!((found.unusable, found.undefined), ([2, 1], [1, 3]));
    case.seeds = [vec![], vec![]];
    assert_eq!(emulator.walk(&case, MEMORY)[0].seeds, [vec![], vec![]]);
}

#[test]
fn searches_that_make_no_sense_are_refused() {
    let plan = |sizes, channels, decodes, seeds: [&[u32]; 2], rounds| {
        Plan::new(
            sizes,
            channels,
            decodes,
            seeds,
            rounds,
            THREAD_BLOCKS,
            MEMORY,
        )
        .map(|_| ())
        .unwrap_err()
        .to_string()
    };
    let sizes = [[4, 5], [6, 7]];
    assert!(plan(sizes, 25, 1, [&[], &[]], 10).contains("25"));
    assert!(plan(sizes, 24, 3, [&[], &[]], 10).contains('3'));
    assert!(plan(sizes, 24, 1, [&[], &[]], 0).contains("0"));
    assert!(plan([[0, 5], [6, 7]], 24, 1, [&[], &[]], 10).contains("[0, 5]"));
    assert!(plan(sizes, 24, 1, [&[20], &[]], 10).contains("seed 20"));
}

/// The same on a GPU, where there is one, and at the size of real images.
#[cfg(any(feature = "cuda", feature = "metal"))]
#[test]
fn a_gpu_searches_as_the_definition_says() {
    use candle_core::Tensor;

    use super::MatchedMap;
    use crate::Downloader;

    #[cfg(feature = "cuda")]
    let device = crate::launch::cuda::test_device();
    #[cfg(not(feature = "cuda"))]
    let device = crate::devices::gpu("Metal", candle_core::Device::new_metal(0));
    let Some(device) = device else { return };
    let downloader = Downloader::default();
    for (sizes, channels, decodes, spread) in [
        ([[40, 48], [33, 29]], 24, 2, [0., 0.3]),
        ([[9, 17], [16, 40]], 5, 2, [0., 0.1]),
        ([[1, 1], [3, 2]], 24, 1, [0., 0.1]),
        ([[24, 40], [24, 32]], 24, 1, [100., 0.003]),
        ([[384, 512], [381, 500]], 24, 2, [0.5, 0.2]),
    ] {
        let mut case = Case::new(sizes, channels, decodes, spread);
        // A search of every pixel takes its time.
        case.seeds = case
            .seeds
            .map(|seeds| seeds.into_iter().step_by(1 + sizes[0][0] / 2).collect());
        let upload = |decode: usize, side: usize, values: &Vec<f32>| {
            let [height, width] = case.sizes[side];
            let confidences = case.confidences(decode, side);
            [
                Tensor::from_slice(values, (height, width, channels), &device).unwrap(),
                Tensor::from_slice(&confidences, (height, width), &device).unwrap(),
            ]
        };
        let maps: Vec<[[Tensor; 2]; 2]> = (case.decodes.iter().enumerate())
            .map(|(decode, [first, second])| [upload(decode, 0, first), upload(decode, 1, second)])
            .collect();
        fn borrowed([descriptors, confidence]: &[Tensor; 2]) -> MatchedMap<'_> {
            MatchedMap {
                descriptors,
                confidence,
            }
        }
        let maps: Vec<[MatchedMap<'_>; 2]> = maps
            .iter()
            .map(|maps| maps.each_ref().map(borrowed))
            .collect();
        let seeds = case.seeds.each_ref().map(Vec::as_slice);
        let walks = super::reciprocal_walks(&maps, seeds, case.rounds, &downloader).unwrap();
        assert_eq!(walks.wait().unwrap(), case.want(), "{sizes:?}");
    }
}
