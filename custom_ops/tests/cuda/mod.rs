//! The kernels of reciprocal.cu without a GPU: compiled as C++, run thread by thread with the host's own buffers and
//! launches, and compared with a search that tries every pixel.
//!
//! What this cannot show: what only real warps get wrong, and how fast they are.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::Settled;
use super::plan::{Plan, STATISTICS, Sizes, WALKERS, ZEROED};
use crate::sanitized::{Sanitized, include_driver};

const KIND: &str = "cuda";

const MEMORY: usize = 1 << 20;

/// reciprocal.cu as a program.
struct Emulator(Sanitized);

impl Emulator {
    fn new() -> Self {
        let source = include_str!("../../src/reciprocal/reciprocal.cu");
        let program = format!("{source}\n{}", include_driver(KIND));
        Self(Sanitized::new(KIND, "reciprocal.cu", &program, &["-O2"]))
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
        for map in case.decodes.iter().flatten() {
            request.block(map.iter().flat_map(|value| value.to_ne_bytes()));
        }
        request.number(size_of::<Sizes>());
        // SAFETY: numbers of four bytes without gaps.
        #[allow(unsafe_code)]
        let sizes = unsafe { std::slice::from_raw_parts((&raw const plan.sizes).cast::<u8>(), size_of::<Sizes>()) };
        request.bytes.extend(sizes);
        request.number(plan.buffers.len());
        for (index, &bytes) in plan.buffers.iter().enumerate() {
            request.bytes.extend((bytes as u64).to_ne_bytes());
            request.number(match index {
                WALKERS => 2,
                _ if ZEROED.contains(&index) => 1,
                _ => 0,
            });
            if index == WALKERS {
                request.bytes.extend(plan.walkers.iter().flat_map(|number| number.to_ne_bytes()));
            }
        }
        request.number(plan.launches.len());
        for launch in &plan.launches {
            request.number(launch.kernel.len());
            request.bytes.extend(launch.kernel.as_bytes());
            let numbers = launch.blocks.iter().chain([&launch.threads]).map(|&number| number as usize);
            numbers.chain([launch.numbers.len()]).for_each(|number| request.number(number));
            launch.numbers.iter().for_each(|&number| request.number(number as usize));
        }
        self.0.run(&request.bytes, &plan.buffers)
    }
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|&four| u32::from_ne_bytes(four)).collect()
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

/// Descriptors of two pictures and where to start.
struct Case {
    /// (height, width)
    sizes: [[usize; 2]; 2],
    channels: usize,
    decodes: Vec<[Vec<f32>; 2]>,
    seeds: [Vec<u32>; 2],
    rounds: usize,
}

impl Case {
    /// Descriptors of unit length: every second decode of other ones. The second picture repeats the descriptors of the
    /// first, shuffled a little and with noise of length `noise`, around a mean of length `mean`.
    fn new(sizes: [[usize; 2]; 2], channels: usize, decodes: usize, [mean, noise]: [f32; 2]) -> Self {
        let mut random = StdRng::seed_from_u64((sizes[0][0] * 100 + channels) as u64);
        let mut unit = move |around: Option<(&[f32], f32)>| -> Vec<f32> {
            let value: Vec<f32> = (0..channels).map(|_| random.random_range(-1f32..1.)).collect();
            let value: Vec<f32> = match around {
                Some((center, noise)) => {
                    center.iter().zip(&value).map(|(center, value)| center + noise * value).collect()
                }
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
        let seeds = pixels.map(|pixels| (0..pixels as u32).step_by(13).collect());
        Self { sizes, channels, decodes, seeds, rounds: 3 }
    }

    fn plan(&self, memory: usize) -> Plan {
        let seeds = self.seeds.each_ref().map(Vec::as_slice);
        Plan::new(self.sizes, self.channels, self.decodes.len(), seeds, self.rounds, memory).unwrap()
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

    /// By the definition: there and back until a pixel is its neighbour's neighbour, or the rounds are over.
    fn settled(&self, decode: usize, side: usize) -> Vec<(u32, u32)> {
        let walk = |&seed: &u32| {
            let (mut here, mut there) = (seed, None);
            for _ in 0..self.rounds {
                let partner = self.nearest(decode, side, here);
                if there == Some(partner) {
                    return Some((here, partner));
                }
                there = Some(partner);
                let back = self.nearest(decode, 1 - side, partner);
                if back == here {
                    return Some((here, partner));
                }
                here = back;
            }
            None
        };
        self.seeds[side].iter().filter_map(walk).collect()
    }

    fn want(&self) -> Vec<Settled> {
        let decode = |decode| Settled { pairs: [0, 1].map(|side| self.settled(decode, side)), unusable: [0, 0] };
        (0..self.decodes.len()).map(decode).collect()
    }
}

/// One test, for the compiler takes longer than the kernels.
#[test]
fn the_kernels_search_as_the_definition_says() {
    let emulator = Emulator::new();
    products_of_the_matrix_units_bound_the_scores(&emulator);
    walks_end_where_a_search_of_every_pixel_ends(&emulator);
    the_earliest_of_equal_neighbours_is_taken_and_many_seeds_are_answered_in_goes(&emulator);
    descriptors_without_a_direction_are_counted(&emulator);
}

/// Products that are off would rule out nothing, or too much; only the latter would be seen in the walks.
fn products_of_the_matrix_units_bound_the_scores(emulator: &Emulator) {
    let case = Case::new([[20, 33], [43, 45]], 24, 1, [0.5, 0.2]);
    let mut plan = case.plan(MEMORY);
    let first = plan.launches.iter().position(|launch| launch.kernel == "reciprocal_maxima").unwrap();
    plan.launches.truncate(first + 1);
    let buffers = emulator.run(&case, &plan);
    let floats = |index: usize| words(&buffers[index]).into_iter().map(f32::from_bits).collect::<Vec<_>>();
    let (means, maxima, lists) = (floats(0), floats(9), words(&buffers[7]));
    // Blocks of four tiles; the second picture is six tiles wide and six high.
    let block_of = |pixel: usize| (pixel / 45 / 8 * 6 + pixel % 45 / 8) / 4;
    for (row, &pixel) in lists.iter().take(case.seeds[0].len()).enumerate() {
        let query = &case.decodes[0][0][pixel as usize * 24..][..24];
        let mut want = [f32::NEG_INFINITY; 9];
        for (index, base) in case.decodes[0][1].chunks_exact(24).enumerate() {
            let score: f32 = query.iter().zip(base).zip(&means[24..]).map(|((a, b), mean)| a * (b - mean)).sum();
            want[block_of(index)] = score.max(want[block_of(index)]);
        }
        for (block, want) in want.into_iter().enumerate() {
            let got = maxima[row * 9 + block];
            assert!((got - want).abs() < 2e-3, "query {pixel}, block {block}: {got} for {want}");
        }
    }
}

fn walks_end_where_a_search_of_every_pixel_ends(emulator: &Emulator) {
    // Several blocks; pictures that end inside a tile and inside a block; fewer channels than the kernels have; one
    // pixel; descriptors that are nearly all the same.
    for (sizes, channels, decodes, spread) in [
        ([[40, 48], [33, 29]], 24, 2, [0., 0.3]),
        ([[21, 35], [40, 24]], 24, 1, [0.5, 0.2]),
        ([[9, 17], [16, 40]], 5, 2, [0., 0.1]),
        ([[1, 1], [3, 2]], 24, 1, [0., 0.1]),
        ([[24, 40], [24, 32]], 24, 1, [100., 0.003]),
    ] {
        let case = Case::new(sizes, channels, decodes, spread);
        let want = case.want();
        assert!(want.iter().flat_map(|decode| &decode.pairs).any(|pairs| !pairs.is_empty()), "{sizes:?}");
        assert_eq!(emulator.walk(&case, MEMORY), want, "{sizes:?}, {channels} channels");
    }
}

fn the_earliest_of_equal_neighbours_is_taken_and_many_seeds_are_answered_in_goes(emulator: &Emulator) {
    let mut case = Case::new([[24, 40], [24, 40]], 6, 1, [0., 0.05]);
    // Descriptors of the fifth tile again in the first one, which is in an earlier block but further down: once where the
    // same lane looks at them and once where another does.
    for x in 0..8 {
        let from = (32 + x) * 6;
        for y in [4, 5] {
            case.decodes[0][1].copy_within(from..from + 6, (y * 40 + x) * 6);
        }
    }
    // More than one go takes, and a few.
    case.seeds = [(0..300).collect(), (100..124).rev().collect()];
    let want = case.want();
    assert!(want[0].pairs[0].iter().filter(|(_, there)| (32..40).contains(there)).count() >= 4);
    // No more queries at once than there must be.
    assert_eq!(emulator.walk(&case, 0), want);
}

fn descriptors_without_a_direction_are_counted(emulator: &Emulator) {
    let mut case = Case::new([[9, 11], [10, 9]], 24, 1, [0., 0.2]);
    // The last pixel of a row, which its tile repeats, and the first one.
    case.decodes[0][0][10 * 24..11 * 24].fill(f32::NAN);
    case.decodes[0][0][..24].fill(0.);
    case.decodes[0][1][89 * 24..90 * 24].fill(f32::INFINITY);
    assert_eq!(emulator.walk(&case, MEMORY)[0].unusable, [2, 1]);
    case.seeds = [vec![], vec![]];
    assert_eq!(emulator.walk(&case, MEMORY)[0].pairs, [vec![], vec![]]);
}

#[test]
fn searches_that_make_no_sense_are_refused() {
    let plan = |sizes, channels, decodes, seeds: [&[u32]; 2], rounds| {
        Plan::new(sizes, channels, decodes, seeds, rounds, MEMORY).map(|_| ()).unwrap_err().to_string()
    };
    let sizes = [[4, 5], [6, 7]];
    assert!(plan(sizes, 25, 1, [&[], &[]], 10).contains("25"));
    assert!(plan(sizes, 24, 3, [&[], &[]], 10).contains('3'));
    assert!(plan(sizes, 24, 1, [&[], &[]], 0).contains("0"));
    assert!(plan([[0, 5], [6, 7]], 24, 1, [&[], &[]], 10).contains("[0, 5]"));
    assert!(plan(sizes, 24, 1, [&[20], &[]], 10).contains("seed 20"));
}

/// The same on a GPU, where there is one, and at the size of real pictures.
#[cfg(feature = "cuda")]
#[test]
fn a_gpu_searches_as_the_definition_says() {
    use candle_core::{Device, Tensor};

    // The driver's loader panics where there is no driver.
    let device = std::panic::catch_unwind(|| Device::new_cuda_with_stream(0)).ok().and_then(Result::ok);
    let Some(device) = device else {
        println!("skipped: no GPU");
        return;
    };
    crate::prepare_cuda(device.as_cuda_device().unwrap()).unwrap();
    for (sizes, channels, decodes, spread) in [
        ([[40, 48], [33, 29]], 24, 2, [0., 0.3]),
        ([[9, 17], [16, 40]], 5, 2, [0., 0.1]),
        ([[1, 1], [3, 2]], 24, 1, [0., 0.1]),
        ([[24, 40], [24, 32]], 24, 1, [100., 0.003]),
        ([[384, 512], [381, 500]], 24, 2, [0.5, 0.2]),
    ] {
        let mut case = Case::new(sizes, channels, decodes, spread);
        // A search of every pixel takes its time.
        case.seeds = case.seeds.map(|seeds| seeds.into_iter().step_by(1 + sizes[0][0] / 2).collect());
        let upload = |side: usize, values: &Vec<f32>| {
            let [height, width] = case.sizes[side];
            Tensor::from_slice(values, (height, width, channels), &device).unwrap()
        };
        let maps: Vec<[Tensor; 2]> =
            case.decodes.iter().map(|[first, second]| [upload(0, first), upload(1, second)]).collect();
        let maps: Vec<[&Tensor; 2]> = maps.iter().map(|maps| maps.each_ref()).collect();
        let seeds = case.seeds.each_ref().map(Vec::as_slice);
        assert_eq!(super::reciprocal_walks(&maps, seeds, case.rounds).unwrap(), case.want(), "{sizes:?}");
    }
}
