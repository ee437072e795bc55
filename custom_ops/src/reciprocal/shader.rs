//! The search's Metal kernels, and what the host decides before it meets a device.

use candle_core::{DType, Result, bail};

use super::walkers::{WALKER, settled_seeds};
use super::{MOST_DESCRIPTOR_CHANNELS, Settled};
use crate::launch::shader::{Argument, Plan, Shader, Use};

/// Pixels that one thread compares with its queries: few enough that many threads share the work.
const SLICE: usize = 4096;
/// The shader's own constants.
const QUERIES: usize = 2;
const STATISTICS: usize = 2;
/// Numbers of a packed descriptor.
const PACKED: usize = MOST_DESCRIPTOR_CHANNELS;
/// A score and a pixel.
const FOUND: usize = 2;

/// reciprocal.metal.
pub(crate) const SHADER: Shader = Shader {
    op: "reciprocal",
    source: include_str!("reciprocal.metal"),
    arguments: &[
        Argument::new("descriptors", Use::Read, "F"),
        Argument::new("confidence", Use::Read, "F"),
        Argument::new("starts", Use::Read, "uint"),
        Argument::new("packed", Use::Changed, "float4"),
        Argument::new("confidences", Use::Changed, "F"),
        Argument::new("statistics", Use::Changed, "atomic_uint"),
        Argument::new("asked", Use::Changed, "atomic_uint"),
        Argument::new("answers", Use::Changed, "uint"),
        Argument::new("lists", Use::Changed, "uint"),
        Argument::new("counts", Use::Changed, "atomic_uint"),
        Argument::new("found", Use::Changed, "Found"),
        Argument::new("walkers", Use::Changed, "Walker"),
        Argument::new("params", Use::Params, "SearchParams"),
    ],
};

/// What the kernels are told, in the order of their own `SearchParams`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SearchParams {
    /// Of the first image, as the next but one.
    pub(crate) pixels: u32,
    pub(crate) other_pixels: u32,
    pub(crate) seeds: u32,
    pub(crate) other_seeds: u32,
    /// Of a descriptor.
    pub(crate) channels: u32,
    pub(crate) maps: u32,
    /// From one map to the next.
    pub(crate) pixel_stride: u32,
    pub(crate) seed_stride: u32,
    /// Into which the pixels of a map are cut.
    pub(crate) slices: u32,
    /// Pixels of each.
    pub(crate) slice: u32,
    /// Half trips.
    pub(crate) halves: u32,
    /// Which of them it is.
    pub(crate) half_trip: u32,
    /// The map that is packed.
    pub(crate) map: u32,
}

/// Memory that a search needs besides the maps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffer {
    pub(super) name: &'static str,
    /// Of four bytes each.
    pub(super) words: usize,
    /// Whether it begins as zeros; else the kernels write before they read.
    pub(super) zeroed: bool,
}

/// A search, without its memory.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) buffers: Vec<Buffer>,
    /// Where walks begin: (images, seeds).
    pub(super) starts: Vec<u32>,
    pub(super) launches: Vec<Plan<SearchParams>>,
    seeds: [usize; 2],
    seed_stride: usize,
}

impl Search {
    /// For images of `pixels`, descriptors of `channels` numbers, `decodes` of the pair, and walks
    /// of at most `rounds` trips to the other image and back.
    pub(super) fn new(
        pixels: [usize; 2],
        channels: usize,
        decodes: usize,
        seeds: [&[u32]; 2],
        rounds: usize,
    ) -> Result<Self> {
        let (pixel_stride, most_seeds) =
            (pixels[0].max(pixels[1]), seeds[0].len().max(seeds[1].len()));
        let maps = 2 * decodes;
        if decodes == 0 || !(1..=MOST_DESCRIPTOR_CHANNELS).contains(&channels) || rounds == 0 {
            bail!(
                "reciprocal walks: 1 decode or more, 1 to {MOST_DESCRIPTOR_CHANNELS} channels and 1 round or more can be \
                 searched, got {decodes}, {channels} and {rounds}"
            );
        }
        // The kernels count the numbers of all maps in 32 bits.
        let numbers = maps.saturating_mul(pixel_stride).saturating_mul(PACKED);
        if pixels.contains(&0) || numbers > i32::MAX as usize || most_seeds > pixel_stride {
            bail!(
                "reciprocal walks: images of {pixels:?} pixels and {most_seeds} seeds cannot be searched"
            );
        }
        for (seeds, pixels) in seeds.into_iter().zip(pixels) {
            if let Some(seed) = seeds.iter().find(|&&seed| seed as usize >= pixels) {
                bail!("reciprocal walks: seed {seed} is no pixel of {pixels}");
            }
        }
        // Lists and walkers have room where there is no seed.
        let seed_stride = most_seeds.max(1);
        let mut starts = vec![0; 2 * seed_stride];
        for (starts, seeds) in starts.chunks_exact_mut(seed_stride).zip(seeds) {
            starts[..seeds.len()].copy_from_slice(seeds);
        }
        let (slices, halves) = (pixel_stride.div_ceil(SLICE), 2 * rounds);
        let buffer = |name, words, zeroed| Buffer {
            name,
            words,
            zeroed,
        };
        let params = SearchParams {
            pixels: pixels[0] as u32,
            other_pixels: pixels[1] as u32,
            seeds: seeds[0].len() as u32,
            other_seeds: seeds[1].len() as u32,
            channels: channels as u32,
            maps: maps as u32,
            pixel_stride: pixel_stride as u32,
            seed_stride: seed_stride as u32,
            slices: slices as u32,
            slice: SLICE as u32,
            halves: halves as u32,
            half_trip: 0,
            map: 0,
        };
        Ok(Self {
            buffers: vec![
                buffer("packed", maps * pixel_stride * PACKED, false),
                buffer("confidences", maps * pixel_stride, false),
                buffer("statistics", maps * STATISTICS, true),
                buffer("asked", maps * pixel_stride, true),
                buffer("answers", maps * pixel_stride, false),
                buffer("lists", maps * seed_stride, false),
                buffer("counts", halves * maps, true),
                buffer("found", maps * slices * seed_stride * FOUND, false),
                buffer("walkers", maps * seed_stride * WALKER, false),
            ],
            starts,
            launches: launches(params, seeds.map(<[u32]>::len))?,
            seeds: seeds.map(<[u32]>::len),
            seed_stride,
        })
    }

    /// What came of it, decode by decode, from the buffers that the kernels left.
    pub(super) fn results(&self, statistics: &[u32], walkers: &[u32]) -> Vec<Settled> {
        let decodes = walkers
            .chunks_exact(2 * self.seed_stride * WALKER)
            .zip(statistics.as_chunks::<{ 2 * STATISTICS }>().0);
        decodes
            .map(
                |(walkers, &[unusable, undefined, other_unusable, other_undefined])| Settled {
                    seeds: settled_seeds(walkers, self.seeds),
                    unusable: [unusable, other_unusable].map(|count| count as usize),
                    undefined: [undefined, other_undefined].map(|count| count as usize),
                },
            )
            .collect()
    }
}

/// Everything that the device is given, in order. Threads that find nothing to do end at once: how
/// many queries there are is known to the device alone.
fn launches(params: SearchParams, seeds: [usize; 2]) -> Result<Vec<Plan<SearchParams>>> {
    let plan = |kernel: &str, params, threads| -> Result<Plan<SearchParams>> {
        let name = SHADER.kernel(DType::F32, 1)?;
        let suffix = name.trim_start_matches(SHADER.op);
        Ok(Plan {
            kernel: format!("{}_{kernel}{suffix}", SHADER.op),
            params,
            threads,
            elements: 0,
        })
    };
    let (maps, most_seeds) = (params.maps as usize, seeds[0].max(seeds[1]));
    let mut all = Vec::new();
    for map in 0..params.maps {
        let pixels = [params.pixels, params.other_pixels][map as usize % 2];
        let of_map = SearchParams { map, ..params };
        all.push(plan("pack", of_map, [pixels as usize, 1, 1])?);
    }
    if most_seeds == 0 {
        return Ok(all);
    }
    for half_trip in 0..=params.halves {
        let now = SearchParams {
            half_trip,
            ..params
        };
        all.push(plan("step", now, [most_seeds, maps, 1])?);
        if half_trip < params.halves {
            let slices = params.slices as usize;
            let threads = [most_seeds.div_ceil(QUERIES), slices, maps];
            all.push(plan("search", now, threads)?);
            all.push(plan("answer", now, [most_seeds, maps, 1])?);
        }
    }
    Ok(all)
}
