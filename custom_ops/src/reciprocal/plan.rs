//! What the host decides before it meets a device: sizes, buffers and launches.

use candle_core::{Result, bail};

use super::{MOST_DESCRIPTOR_CHANNELS, Settled};

/// The kernels' own constants.
const BLOCK: usize = 256;
const SIDE: usize = 8;
const TILES: usize = BLOCK / (SIDE * SIDE);
const QUERIES: usize = 256;
const WARPS: usize = 8;

/// Blocks of pixels that a thread block of `reciprocal_maxima` goes through; the kernel writes four of them together.
const SHARE: usize = 32;

/// A walker as three numbers: here, there, state.
pub(super) const WALKER: usize = 3;
/// What no pixel is.
const NOWHERE: u32 = u32::MAX;
const SETTLED: u32 = 1;

/// The buffers, in the order of the kernels' `Search`.
pub(super) const BUFFERS: usize = 11;
/// The largest squares and unusable descriptors: of each map two numbers.
pub(super) const STATISTICS: usize = 5;
/// What the kernels add to or compare before they write: statistics, answers and counts begin as zeros.
pub(super) const ZEROED: [usize; 3] = [STATISTICS, 6, 8];
/// Filled by the host, read by it in the end.
pub(super) const WALKERS: usize = 10;

/// The kernels' `Search` after its pointers.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    widths: [u32; 2],
    heights: [u32; 2],
    blocks: [u32; 2],
    seeds: [u32; 2],
    channels: u32,
    maps: u32,
    pixel_stride: u32,
    block_stride: u32,
    seed_stride: u32,
    rows: u32,
    halves: u32,
}

/// One launch; every kernel takes the `Search` and then these numbers.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) kernel: &'static str,
    pub(super) blocks: [u32; 3],
    pub(super) threads: u32,
    pub(super) numbers: Vec<u32>,
}

/// A search, without its memory.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) sizes: Sizes,
    /// Bytes of each buffer, whole words.
    pub(super) buffers: [usize; BUFFERS],
    pub(super) walkers: Vec<u32>,
    pub(super) launches: Vec<Launch>,
    seeds: [usize; 2],
}

impl Plan {
    /// For pictures of `sizes` (height, width), descriptors of `channels` numbers, `decodes` of the pair, and walks of at
    /// most `rounds` trips to the other picture and back. The largest products of queries take `memory` bytes at most, or
    /// as many as a few queries need; more queries are answered in several goes.
    pub(super) fn new(
        sizes: [[usize; 2]; 2],
        channels: usize,
        decodes: usize,
        seeds: [&[u32]; 2],
        rounds: usize,
        memory: usize,
    ) -> Result<Self> {
        let pixels = sizes.map(|[height, width]| height * width);
        let (most_pixels, most_seeds) = (pixels[0].max(pixels[1]), seeds[0].len().max(seeds[1].len()));
        let maps = 2 * decodes;
        if !(1..=2).contains(&decodes) || !(1..=MOST_DESCRIPTOR_CHANNELS).contains(&channels) || rounds == 0 {
            bail!(
                "reciprocal walks: 1 or 2 decodes, 1 to {MOST_DESCRIPTOR_CHANNELS} channels and 1 round or more can be searched, \
                 got {decodes}, {channels} and {rounds}"
            );
        }
        if pixels.contains(&0) || most_pixels > (u32::MAX / 8) as usize || most_seeds > most_pixels {
            bail!("reciprocal walks: pictures of {sizes:?} and {most_seeds} seeds cannot be searched");
        }
        for (side, seeds) in seeds.into_iter().enumerate() {
            if let Some(seed) = seeds.iter().find(|&&seed| seed as usize >= pixels[side]) {
                bail!("reciprocal walks: seed {seed} is no pixel of {}", pixels[side]);
            }
        }
        let blocks = sizes.map(|[height, width]| (height.div_ceil(SIDE) * width.div_ceil(SIDE)).div_ceil(TILES));
        let most_blocks = blocks[0].max(blocks[1]);
        let affordable = memory / (4 * maps * most_blocks) / QUERIES * QUERIES;
        let rows = most_seeds.next_multiple_of(QUERIES).min(affordable).max(QUERIES);
        let halves = 2 * rounds;
        // Lists and walkers have room where there is no seed.
        let seed_stride = most_seeds.max(1);

        let mut walkers = vec![0; maps * seed_stride * WALKER];
        for (map, walkers) in walkers.chunks_exact_mut(seed_stride * WALKER).enumerate() {
            for (walker, &seed) in walkers.chunks_exact_mut(WALKER).zip(seeds[map % 2]) {
                walker[..2].copy_from_slice(&[seed, NOWHERE]);
            }
        }

        let mut launches = vec![
            Launch {
                kernel: "reciprocal_mean",
                blocks: [maps as u32, 1, 1],
                threads: 32 * MOST_DESCRIPTOR_CHANNELS as u32,
                numbers: vec![],
            },
            Launch {
                kernel: "reciprocal_code",
                blocks: [most_blocks as u32, maps as u32, 1],
                threads: BLOCK as u32,
                numbers: vec![],
            },
        ];
        let step = |half: usize| Launch {
            kernel: "reciprocal_step",
            blocks: [most_seeds.div_ceil(256).max(1) as u32, maps as u32, 1],
            threads: 256,
            numbers: vec![half as u32],
        };
        for half in 0..halves {
            launches.push(step(half));
            for first in (0..most_seeds).step_by(rows) {
                let rows = rows.min(most_seeds - first);
                launches.push(Launch {
                    kernel: "reciprocal_maxima",
                    blocks: [rows.div_ceil(QUERIES) as u32, most_blocks.div_ceil(SHARE) as u32, maps as u32],
                    threads: QUERIES as u32,
                    numbers: vec![half as u32, first as u32, SHARE as u32],
                });
                launches.push(Launch {
                    kernel: "reciprocal_decide",
                    blocks: [rows.div_ceil(WARPS) as u32, maps as u32, 1],
                    threads: 32 * WARPS as u32,
                    numbers: vec![half as u32, first as u32],
                });
            }
        }
        launches.push(step(halves));

        let each_block = maps * most_blocks;
        let buffers = [
            4 * maps * MOST_DESCRIPTOR_CHANNELS,
            2 * each_block * BLOCK * MOST_DESCRIPTOR_CHANNELS,
            4 * each_block * BLOCK * MOST_DESCRIPTOR_CHANNELS,
            4 * each_block,
            4 * each_block,
            4 * maps * 2,
            4 * maps * most_pixels,
            4 * maps * seed_stride,
            4 * maps * halves,
            4 * maps * rows * most_blocks,
            4 * walkers.len(),
        ];
        let both = |numbers: [usize; 2]| numbers.map(|number| number as u32);
        let sizes = Sizes {
            widths: both(sizes.map(|[_, width]| width)),
            heights: both(sizes.map(|[height, _]| height)),
            blocks: both(blocks),
            seeds: both(seeds.map(<[u32]>::len)),
            channels: channels as u32,
            maps: maps as u32,
            pixel_stride: most_pixels as u32,
            block_stride: most_blocks as u32,
            seed_stride: seed_stride as u32,
            rows: rows as u32,
            halves: halves as u32,
        };
        Ok(Self { sizes, buffers, walkers, launches, seeds: seeds.map(<[u32]>::len) })
    }

    /// What came of it, decode by decode, from the buffers that the kernels left.
    pub(super) fn results(&self, statistics: &[u32], walkers: &[u32]) -> Vec<Settled> {
        let stride = self.sizes.seed_stride as usize * WALKER;
        let of_side = |walkers: &[u32], side: usize| -> Vec<(u32, u32)> {
            let walkers = walkers.chunks_exact(WALKER).take(self.seeds[side]);
            walkers.filter(|walker| walker[2] == SETTLED).map(|walker| (walker[0], walker[1])).collect()
        };
        let decodes = walkers.chunks_exact(2 * stride).zip(statistics.chunks_exact(4));
        decodes
            .map(|(walkers, statistics)| Settled {
                pairs: [0, 1].map(|side| of_side(&walkers[side * stride..][..stride], side)),
                unusable: [statistics[1] as usize, statistics[3] as usize],
            })
            .collect()
    }
}
