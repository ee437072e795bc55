//! What the host decides before it meets a device: sizes and buffers.

use candle_core::{Result, bail};

use super::walkers::{WALKER, settled_seeds};
use super::{MOST_DESCRIPTOR_CHANNELS, Settled};

/// What a thread block of the kernel has.
pub(super) const THREADS: u32 = 256;
pub(super) const SHARED: u32 = 69760;
/// The kernel's own constants.
const BLOCK: usize = 256;
const SIDE: usize = 8;
const TILES: usize = BLOCK / (SIDE * SIDE);
const CODES: usize = 32;
const GROUP: usize = 256;
const RUN: usize = 4;
/// Bytes of its `Bounds` and `Query`.
const BOUNDS: usize = 16;
const QUERY: usize = 48;

/// Of each map: the largest square, unusable descriptors, undefined confidences.
const STATISTICS_OF_MAP: usize = 3;

/// The buffers, in the order of the kernel's `Search`.
pub(super) const BUFFERS: usize = 10;
/// What there is to say of the maps.
pub(super) const STATISTICS: usize = 2;
/// What the kernel adds to before it writes: statistics and counts begin as zeros.
pub(super) const ZEROED: [usize; 2] = [STATISTICS, 5];
/// Where the walks ended.
pub(super) const WALKERS: usize = 8;
/// Where they begin: filled by the host.
pub(super) const STARTS: usize = 9;

/// The kernel's `Search` after its pointers.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    widths: [u32; 2],
    heights: [u32; 2],
    blocks: [u32; 2],
    seeds: [u32; 2],
    channels: u32,
    maps: u32,
    block_stride: u32,
    seed_stride: u32,
    rows: u32,
    pub(super) halves: u32,
}

/// A search, without its memory.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) sizes: Sizes,
    /// Bytes of each buffer, whole words.
    pub(super) buffers: [usize; BUFFERS],
    pub(super) starts: Vec<u32>,
    seeds: [usize; 2],
}

impl Plan {
    /// For images of `sizes` (height, width), descriptors of `channels` numbers, `decodes` of the
    /// pair, and walks of at most `rounds` trips to the other image and back. The largest products of
    /// queries take `memory` bytes at most, or as many as a few queries need; more queries are
    /// answered in several goes.
    pub(super) fn new(
        sizes: [[usize; 2]; 2],
        channels: usize,
        decodes: usize,
        seeds: [&[u32]; 2],
        rounds: usize,
        memory: usize,
    ) -> Result<Self> {
        let pixels = sizes.map(|[height, width]| height * width);
        let (most_pixels, most_seeds) =
            (pixels[0].max(pixels[1]), seeds[0].len().max(seeds[1].len()));
        let maps = 2 * decodes;
        if !(1..=2).contains(&decodes)
            || !(1..=MOST_DESCRIPTOR_CHANNELS).contains(&channels)
            || rounds == 0
        {
            bail!(
                "reciprocal walks: 1 or 2 decodes, 1 to {MOST_DESCRIPTOR_CHANNELS} channels and 1 round or more can be searched, \
                 got {decodes}, {channels} and {rounds}"
            );
        }
        if pixels.contains(&0) || most_pixels > (u32::MAX / 8) as usize || most_seeds > most_pixels
        {
            bail!(
                "reciprocal walks: images of {sizes:?} and {most_seeds} seeds cannot be searched"
            );
        }
        for (side, seeds) in seeds.into_iter().enumerate() {
            if let Some(seed) = seeds.iter().find(|&&seed| seed as usize >= pixels[side]) {
                bail!(
                    "reciprocal walks: seed {seed} is not a pixel of {}",
                    pixels[side]
                );
            }
        }
        let blocks = sizes
            .map(|[height, width]| (height.div_ceil(SIDE) * width.div_ceil(SIDE)).div_ceil(TILES));
        let most_blocks = blocks[0].max(blocks[1]).next_multiple_of(RUN);
        let affordable = memory / (4 * maps * most_blocks) / GROUP * GROUP;
        let rows = most_seeds
            .next_multiple_of(GROUP)
            .min(affordable)
            .max(GROUP);
        let halves = 2 * rounds;
        // Lists and walkers have room where there is no seed.
        let seed_stride = most_seeds.max(1).next_multiple_of(GROUP);

        let mut starts = vec![0; 2 * seed_stride];
        for (starts, seeds) in starts.chunks_exact_mut(seed_stride).zip(seeds) {
            starts[..seeds.len()].copy_from_slice(seeds);
        }

        let each_block = maps * most_blocks;
        let buffers = [
            each_block * BLOCK * CODES,
            each_block * BOUNDS,
            4 * maps * STATISTICS_OF_MAP,
            2 * maps * seed_stride * QUERY,
            2 * maps * seed_stride * CODES,
            4 * (maps * halves + 2),
            4 * maps * rows * most_blocks,
            4 * maps * rows * most_blocks,
            4 * maps * seed_stride * WALKER,
            4 * starts.len(),
        ];
        let both = |numbers: [usize; 2]| numbers.map(|number| number as u32);
        let sizes = Sizes {
            widths: both(sizes.map(|[_, width]| width)),
            heights: both(sizes.map(|[height, _]| height)),
            blocks: both(blocks),
            seeds: both(seeds.map(<[u32]>::len)),
            channels: channels as u32,
            maps: maps as u32,
            block_stride: most_blocks as u32,
            seed_stride: seed_stride as u32,
            rows: rows as u32,
            halves: halves as u32,
        };
        Ok(Self {
            sizes,
            buffers,
            starts,
            seeds: seeds.map(<[u32]>::len),
        })
    }

    /// What came of it, decode by decode, from the buffers that the kernel left.
    pub(super) fn results(&self, statistics: &[u32], walkers: &[u32]) -> Vec<Settled> {
        let decodes = walkers
            .chunks_exact(2 * self.sizes.seed_stride as usize * WALKER)
            .zip(statistics.as_chunks::<{ 2 * STATISTICS_OF_MAP }>().0);
        decodes
            .map(
                |(walkers, &[_, unusable, undefined, _, other_unusable, other_undefined])| {
                    Settled {
                        seeds: settled_seeds(walkers, self.seeds),
                        unusable: [unusable, other_unusable].map(|count| count as usize),
                        undefined: [undefined, other_undefined].map(|count| count as usize),
                    }
                },
            )
            .collect()
    }
}
