//! The inner loops of the nearest-neighbour search, for the instruction sets worth having.
//!
//! [`Kernel::hits`] is where the time goes: one tile of 64 coded descriptors against many coded
//! queries, in integers. A tile holds unsigned 8-bit codes, a query signed ones; their dot product
//! plus a start value per lane is compared with a threshold. The instruction sets differ in the
//! layout of the codes and in how many levels a code may use, never in the sums. The floating-point
//! loops are the same source for all and add in the same order.

/// Descriptors per tile, and tiles per group.
pub(super) const LANES: usize = 64;

/// Largest magnitude of a query's code.
pub(super) const QUERY_LEVELS: i32 = 127;

/// Channels are coded in words of this many, one 32-bit word per query and lane.
pub(super) const WORD: usize = 4;

/// Lanes per block; a [`Codes`] holds one word of channels of one block.
const BLOCK: usize = 16;

/// Blocks per tile.
const BLOCKS: usize = LANES / BLOCK;

/// Words of channels that the vector kernels keep in registers: 24 channels, the networks' number.
#[cfg(target_arch = "x86_64")]
const WIDE_WORDS: usize = 6;

/// The codes of 16 lanes and one word of four channels.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Codes([u8; BLOCK * WORD]);

impl Codes {
    /// Padding; a query's padding is zero, so any code would do.
    pub(super) const ZERO: Self = Self([0; BLOCK * WORD]);
}

/// One tile: `codes` block by block, within a block word by word; `start` per lane.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    pub codes: &'a [Codes],
    pub start: &'a [i32; LANES],
}

/// A query that looks for sums above a threshold.
#[derive(Clone, Copy)]
pub(super) struct Visit {
    pub threshold: i32,
    pub query: u16,
}

/// Lanes of a tile (bit 0 is lane 0) whose sum exceeds the threshold of `query`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hit {
    pub lanes: u64,
    pub query: u16,
}

/// What bounds the scores of 64 tiles' pixels, one lane per tile.
pub(super) struct Group {
    /// The tiles' mean descriptors, channel by channel.
    pub centers: Vec<[f32; LANES]>,
    /// Largest start value of a tile, in units of the score.
    pub top: [f32; LANES],
    /// Largest distance of a descriptor from its tile's center.
    pub radius: [f32; LANES],
    /// Largest distance of a descriptor from what its code says.
    pub residual: [f32; LANES],
    /// Integer sums per unit of the score.
    pub per_unit: [f32; LANES],
}

/// A query's side of the bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    /// The score to reach.
    pub best: f32,
    /// Length of the query less the mean query, and of its code.
    pub length: f32,
    pub coded_length: f32,
    /// Distance between the two.
    pub residual: f32,
    /// Covers the rounding of scores and bounds.
    pub rounding: f32,
    /// What the base codes' zero adds to every integer sum.
    pub offset: i32,
}

/// How the sums are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Kernel {
    /// The kernels that this machine can run for descriptors of `channels` numbers, fastest first.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(unused_variables, reason = "only vector kernels are choosy")
    )]
    pub(super) fn available(channels: usize) -> Vec<Self> {
        let mut kernels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        if channels <= WIDE_WORDS * WORD {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vnni")
            {
                kernels.push(Self::Avx512Vnni);
            }
            if is_x86_feature_detected!("avx2") {
                kernels.push(Self::Avx2);
            }
        }
        kernels.push(Self::Portable);
        kernels
    }

    /// Words of channels that tiles and queries are padded to.
    pub(super) fn words(self, channels: usize) -> usize {
        match self {
            Self::Portable => channels.div_ceil(WORD),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni | Self::Avx2 => WIDE_WORDS,
        }
    }

    /// Number of [`Codes`] in a tile.
    pub(super) fn tile_size(self, channels: usize) -> usize {
        BLOCKS * self.words(channels)
    }

    /// Largest magnitude of a base code; this is also the code that stands for zero.
    pub(super) fn levels(self) -> i32 {
        match self {
            // Two products of codes, at most 126 x 127 each, must fit in 16 bits.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 63,
            _ => 127,
        }
    }

    /// Writes the codes of one tile, `code(lane, channel)`, each in `-levels ..= levels`, in this
    /// kernel's layout.
    pub(super) fn pack(
        self,
        channels: usize,
        code: impl Fn(usize, usize) -> i32,
        out: &mut [Codes],
    ) {
        let words = self.words(channels);
        for (at, codes) in out.iter_mut().enumerate() {
            let (first_lane, first_channel) = (at / words * BLOCK, at % words * WORD);
            for channel in 0..WORD.min(channels.saturating_sub(first_channel)) {
                for lane in 0..BLOCK {
                    let value = code(first_lane + lane, first_channel + channel) + self.levels();
                    let place = if self == Self::Portable {
                        channel * BLOCK + lane
                    } else {
                        lane * WORD + channel
                    };
                    codes.0[place] = value as u8;
                }
            }
        }
    }

    /// Finds the lanes of `tile` above the threshold of every visiting query; `words` are all
    /// queries' code words. Queries without any give no hit. The hits fill the front of `hits`,
    /// which must be as long as `visits`; returns how many there are.
    pub(super) fn hits(
        self,
        tile: Tile<'_>,
        words: &[i32],
        visits: &[Visit],
        hits: &mut [Hit],
    ) -> usize {
        match self {
            // SAFETY: `available` offers this kernel only where the processor has the features.
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Self::Avx512Vnni => unsafe { x86::hits_avx512(tile, words, visits, hits) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Self::Avx2 => unsafe { x86::hits_avx2(tile, words, visits, hits) },
            Self::Portable => hits_portable(tile, words, visits, hits),
        }
    }

    /// The scores of one query and 64 transposed descriptors, each exactly
    /// [`score`](super::nearest::score), and the largest of them.
    pub(super) fn scores(self, query: &[f32], descriptors: &[[f32; LANES]]) -> ([f32; LANES], f32) {
        match self {
            // SAFETY: `available` offers this kernel only where the processor has the features.
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Self::Avx512Vnni => unsafe { x86::scores_avx512(query, descriptors) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Self::Avx2 => unsafe { x86::scores_avx2(query, descriptors) },
            Self::Portable => scores(query, descriptors),
        }
    }

    /// Given a query's scores with 64 tiles' centers, finds the tiles that may hold a pixel as good
    /// as its best one, and for each the largest integer sum that proves a pixel worse.
    pub(super) fn screen(
        self,
        group: &Group,
        center_scores: &[f32; LANES],
        probe: &Probe,
    ) -> (u64, [i32; LANES]) {
        match self {
            // SAFETY: `available` offers this kernel only where the processor has the features.
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Self::Avx512Vnni => unsafe { x86::screen_avx512(group, center_scores, probe) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Self::Avx2 => unsafe { x86::screen_avx2(group, center_scores, probe) },
            Self::Portable => screen(group, center_scores, probe),
        }
    }
}

/// Joins four signed codes to a query's word, the first channel lowest.
pub(super) fn word(codes: [i8; WORD]) -> i32 {
    i32::from_le_bytes(codes.map(|code| code as u8))
}

fn hits_portable(tile: Tile<'_>, words: &[i32], visits: &[Visit], hits: &mut [Hit]) -> usize {
    let size = tile.codes.len() / BLOCKS;
    let mut count = 0;
    for &Visit { threshold, query } in visits {
        let words = &words[usize::from(query) * size..][..size];
        let mut sums = *tile.start;
        for (sums, block) in sums
            .chunks_exact_mut(BLOCK)
            .zip(tile.codes.chunks_exact(size))
        {
            for (codes, word) in block.iter().zip(words) {
                for (plane, code) in codes.0.chunks_exact(BLOCK).zip(word.to_le_bytes()) {
                    let code = i16::from(code as i8);
                    for (sum, &value) in sums.iter_mut().zip(plane) {
                        *sum += i32::from(i16::from(value) * code);
                    }
                }
            }
        }
        let lanes = mask(|lane| sums[lane] > threshold);
        hits[count] = Hit { lanes, query };
        count += usize::from(lanes != 0);
    }
    count
}

#[inline(always)]
fn scores(query: &[f32], descriptors: &[[f32; LANES]]) -> ([f32; LANES], f32) {
    let mut sums = [0.0; LANES];
    for (&a, plane) in query.iter().zip(descriptors) {
        for (sum, &b) in sums.iter_mut().zip(plane) {
            *sum += a * b;
        }
    }
    let mut most = [f32::NEG_INFINITY; BLOCK];
    for sums in sums.chunks_exact(BLOCK) {
        for (most, &sum) in most.iter_mut().zip(sums) {
            *most = if sum > *most { sum } else { *most };
        }
    }
    (sums, most.into_iter().fold(f32::NEG_INFINITY, f32::max))
}

#[inline(always)]
fn screen(group: &Group, center_scores: &[f32; LANES], probe: &Probe) -> (u64, [i32; LANES]) {
    /// Added to a smaller number, leaves its nearest integer in the low bits.
    const ROUNDER: f32 = 12_582_912.0;
    const LIMIT: f32 = 4_000_000.0;
    let mut thresholds = [0; LANES];
    let mut above = [0f32; LANES];
    for lane in 0..LANES {
        let missing = probe.best - center_scores[lane] - probe.rounding;
        above[lane] = group.top[lane] + probe.length * group.radius[lane] - missing;
        let error = probe.residual * group.radius[lane] + probe.coded_length * group.residual[lane];
        // One for the start value's rounding, half for this one, one for a sum equal to the bound.
        let least = (missing - error) * group.per_unit[lane] - 2.5;
        let limited = if least < LIMIT { least } else { LIMIT };
        let rounded =
            (limited + ROUNDER).to_bits() as i32 - ROUNDER.to_bits() as i32 + probe.offset;
        thresholds[lane] = if least > -LIMIT { rounded } else { i32::MIN };
    }
    (mask(|lane| above[lane] >= 0.0), thresholds)
}

/// One bit per lane, lane 0 lowest.
#[inline(always)]
fn mask(is_set: impl Fn(usize) -> bool) -> u64 {
    let mut set = [0u8; LANES];
    for (lane, set) in set.iter_mut().enumerate() {
        *set = u8::from(is_set(lane));
    }
    let mut mask = 0;
    for (byte, set) in set.chunks_exact(8).enumerate() {
        // The product gathers the eight low bits, the first one lowest, in the topmost byte.
        let spread = set
            .iter()
            .rev()
            .fold(0u64, |bytes, &bit| bytes << 8 | u64::from(bit));
        mask |= (spread.wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * byte);
    }
    mask
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256i, __m512i, _mm256_add_epi32, _mm256_castsi256_ps, _mm256_cmpgt_epi32,
        _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_movemask_ps,
        _mm256_set1_epi16, _mm256_set1_epi32, _mm512_cmpgt_epi32_mask, _mm512_dpbusd_epi32,
        _mm512_loadu_si512, _mm512_set1_epi32,
    };

    use super::{BLOCK, BLOCKS, Codes, Group, Hit, LANES, Probe, Tile, Visit, WIDE_WORDS};

    const HALF: usize = BLOCK / 2;

    /// A tile's codes in registers: blocks of sixteen lanes, words of channels.
    type Registers = [[__m512i; WIDE_WORDS]; BLOCKS];

    /// Sixteen lanes per register; the tile's 24 registers stay loaded while the queries pass, so
    /// the loop must not call anything.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) fn hits_avx512(
        tile: Tile<'_>,
        words: &[i32],
        visits: &[Visit],
        hits: &mut [Hit],
    ) -> usize {
        let codes = load_avx512(tile);
        let mut count = 0;
        for &Visit { threshold, query } in visits {
            let Some(words) = words[usize::from(query) * WIDE_WORDS..].first_chunk() else {
                break;
            };
            let threshold = _mm512_set1_epi32(threshold);
            let [a, b, c, d] = dot_avx512(&codes, tile.start, words)
                .map(|sums| u64::from(_mm512_cmpgt_epi32_mask(sums, threshold)));
            let lanes = a | b << BLOCK | c << (2 * BLOCK) | d << (3 * BLOCK);
            hits[count] = Hit { lanes, query };
            count += usize::from(lanes != 0);
        }
        count
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    #[inline]
    fn load_avx512(tile: Tile<'_>) -> Registers {
        let codes = &tile.codes[..BLOCKS * WIDE_WORDS];
        std::array::from_fn(|block| {
            std::array::from_fn(|word| {
                let codes: *const Codes = &codes[block * WIDE_WORDS + word];
                // SAFETY: a `Codes` is 64 bytes, which is what the instruction reads.
                #[allow(unsafe_code)]
                unsafe {
                    _mm512_loadu_si512(codes.cast())
                }
            })
        })
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    #[inline]
    fn dot_avx512(
        codes: &Registers,
        start: &[i32; LANES],
        words: &[i32; WIDE_WORDS],
    ) -> [__m512i; BLOCKS] {
        let mut sums: [__m512i; BLOCKS] = std::array::from_fn(|block| {
            let start = &start[block * BLOCK..][..BLOCK];
            // SAFETY: `start` is 16 numbers of 4 bytes, the 64 bytes that the instruction reads; it
            // may be unaligned.
            #[allow(unsafe_code)]
            unsafe {
                _mm512_loadu_si512(start.as_ptr().cast())
            }
        });
        for (at, &word) in words.iter().enumerate() {
            let word = _mm512_set1_epi32(word);
            for (sum, codes) in sums.iter_mut().zip(codes) {
                *sum = _mm512_dpbusd_epi32(*sum, codes[at], word);
            }
        }
        sums
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn hits_avx2(
        tile: Tile<'_>,
        words: &[i32],
        visits: &[Visit],
        hits: &mut [Hit],
    ) -> usize {
        let mut count = 0;
        for &Visit { threshold, query } in visits {
            let Some(words) = words[usize::from(query) * WIDE_WORDS..].first_chunk() else {
                break;
            };
            let threshold = _mm256_set1_epi32(threshold);
            let mut lanes = 0;
            for part in 0..LANES / HALF {
                let above = _mm256_cmpgt_epi32(dot_avx2(tile, part, words), threshold);
                lanes |= u64::from(_mm256_movemask_ps(_mm256_castsi256_ps(above)) as u8)
                    << (part * HALF);
            }
            hits[count] = Hit { lanes, query };
            count += usize::from(lanes != 0);
        }
        count
    }

    /// The sums of lanes `8 part .. 8 part + 8`.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn dot_avx2(tile: Tile<'_>, part: usize, words: &[i32; WIDE_WORDS]) -> __m256i {
        let ones = _mm256_set1_epi16(1);
        let mut sums = load_avx2(&tile.start[part * HALF..][..HALF]);
        for (codes, &word) in tile.codes[part / 2 * WIDE_WORDS..].iter().zip(words) {
            let codes = load_avx2(&codes.0[part % 2 * 32..][..32]);
            let pairs = _mm256_maddubs_epi16(codes, _mm256_set1_epi32(word));
            sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, ones));
        }
        sums
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn load_avx2<T>(from: &[T]) -> __m256i {
        debug_assert_eq!(size_of_val(from), 32);
        // SAFETY: both callers pass 32 bytes, which is what the instruction reads; it may be
        // unaligned.
        #[allow(unsafe_code)]
        unsafe {
            _mm256_loadu_si256(from.as_ptr().cast())
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) fn scores_avx512(
        query: &[f32],
        descriptors: &[[f32; LANES]],
    ) -> ([f32; LANES], f32) {
        super::scores(query, descriptors)
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn scores_avx2(query: &[f32], descriptors: &[[f32; LANES]]) -> ([f32; LANES], f32) {
        super::scores(query, descriptors)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) fn screen_avx512(
        group: &Group,
        center_scores: &[f32; LANES],
        probe: &Probe,
    ) -> (u64, [i32; LANES]) {
        super::screen(group, center_scores, probe)
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn screen_avx2(
        group: &Group,
        center_scores: &[f32; LANES],
        probe: &Probe,
    ) -> (u64, [i32; LANES]) {
        super::screen(group, center_scores, probe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matching::random::Random;

    #[test]
    fn every_kernel_finds_the_lanes_that_plain_sums_find() {
        let mut random = Random::new(1);
        let mut below = move |limit: i32| (random.uniform() * f64::from(limit)) as i32;
        for channels in [1, 5, 23, 24, 40] {
            for kernel in Kernel::available(channels) {
                let (levels, words) = (kernel.levels(), kernel.words(channels));
                let base: Vec<i32> = (0..LANES * channels)
                    .map(|_| below(2 * levels + 1) - levels)
                    .collect();
                let mut codes = vec![Codes::ZERO; kernel.tile_size(channels)];
                kernel.pack(
                    channels,
                    |lane, channel| base[lane * channels + channel],
                    &mut codes,
                );
                let start: [i32; LANES] = std::array::from_fn(|_| below(20_000) - 10_000);
                let queries: Vec<Vec<i32>> = (0..20)
                    .map(|query| {
                        (0..channels)
                            .map(|_| if query == 0 { 127 } else { below(255) - 127 })
                            .collect()
                    })
                    .collect();
                let coded: Vec<i32> = queries
                    .iter()
                    .flat_map(|query| {
                        let code = |at: usize| query.get(at).map_or(0, |&code| code as i8);
                        (0..words)
                            .map(move |at| word(std::array::from_fn(|part| code(at * WORD + part))))
                            .collect::<Vec<_>>()
                    })
                    .collect();
                let sum = |query: &[i32], lane: usize| -> i32 {
                    start[lane]
                        + (0..channels)
                            .map(|at| query[at] * (base[lane * channels + at] + levels))
                            .sum::<i32>()
                };
                let visits: Vec<Visit> = [3, 0, 7, 19, 8]
                    .into_iter()
                    .map(|query| Visit {
                        threshold: sum(&queries[usize::from(query)], 20),
                        query,
                    })
                    .collect();
                let mut hits = vec![Hit::default(); visits.len()];
                let tile = Tile {
                    codes: &codes,
                    start: &start,
                };
                let count = kernel.hits(tile, &coded, &visits, &mut hits);
                let expected: Vec<Hit> = visits
                    .iter()
                    .map(|visit| Hit {
                        query: visit.query,
                        lanes: (0..LANES)
                            .filter(|&lane| {
                                sum(&queries[usize::from(visit.query)], lane) > visit.threshold
                            })
                            .fold(0, |lanes, lane| lanes | 1 << lane),
                    })
                    .filter(|hit| hit.lanes != 0)
                    .collect();
                assert_eq!(hits[..count], expected, "{kernel:?}, {channels} channels");
            }
        }
    }
}
