//! The integer inner loop of the nearest-neighbour search: one tile of 64 coded descriptors against many queries.
//!
//! A tile holds unsigned 8-bit codes, a query signed ones; their dot product plus a start value per lane is compared
//! with the query's threshold. The instruction sets differ in the layout of the codes and in how many levels a code
//! may use, never in the sums, which are exact integers.

/// Descriptors per tile.
pub(super) const LANES: usize = 64;

/// Largest magnitude of a query's code.
pub(super) const QUERY_LEVELS: i32 = 127;

/// Channels are coded in groups of this many, one 32-bit word per query and group.
pub(super) const GROUP: usize = 4;

/// Lanes per block; a [`Codes`] holds one group of channels of one block.
const BLOCK: usize = 16;

/// Groups of channels that the vector kernels keep in registers; 24 channels, the networks' number.
const WIDE_GROUPS: usize = 6;

/// The codes of 16 lanes and one group of four channels.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Codes([u8; BLOCK * GROUP]);

/// One tile: `codes` block by block, within a block group by group; `start` per lane.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    pub codes: &'a [Codes],
    pub start: &'a [i32; LANES],
}

/// Coded queries, `groups` words each, and each one's threshold.
#[derive(Clone, Copy)]
pub(super) struct Coded<'a> {
    pub words: &'a [i32],
    pub thresholds: &'a [i32],
}

/// Lanes of a tile (bit 0 is lane 0) whose sum exceeds the threshold of `query`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hit {
    pub query: u16,
    pub lanes: u64,
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
    pub(super) fn available(channels: usize) -> Vec<Self> {
        let mut kernels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        if channels <= WIDE_GROUPS * GROUP {
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

    /// Groups of channels that tiles and queries are padded to.
    pub(super) fn groups(self, channels: usize) -> usize {
        match self {
            Self::Portable => channels.div_ceil(GROUP),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni | Self::Avx2 => WIDE_GROUPS,
        }
    }

    /// Largest magnitude of a descriptor's code; this is also the code that stands for zero.
    pub(super) fn levels(self) -> i32 {
        match self {
            // Two products of codes, at most 126 x 127 each, must fit in 16 bits.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 63,
            _ => 127,
        }
    }

    /// Codes `tile[lane][channel]`, each in `-levels ..= levels`, and appends them in this kernel's layout.
    pub(super) fn pack(self, channels: usize, code: impl Fn(usize, usize) -> i32, out: &mut Vec<Codes>) {
        for block in 0..LANES / BLOCK {
            for group in 0..self.groups(channels) {
                let mut codes = Codes([self.levels() as u8; BLOCK * GROUP]);
                for lane in 0..BLOCK {
                    for channel in 0..GROUP.min(channels.saturating_sub(group * GROUP)) {
                        let value = code(block * BLOCK + lane, group * GROUP + channel) + self.levels();
                        let place = if self == Self::Portable { channel * BLOCK + lane } else { lane * GROUP + channel };
                        codes.0[place] = value as u8;
                    }
                }
                out.push(codes);
            }
        }
    }

    /// Finds, for every query in `list`, the lanes of `tile` above its threshold; queries without any give no hit.
    pub(super) fn hits(self, tile: Tile<'_>, coded: Coded<'_>, list: &[u16], hits: &mut Vec<Hit>) {
        hits.clear();
        match self {
            // SAFETY: `available` offers this kernel only where the processor has the features.
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Self::Avx512Vnni => unsafe { x86::hits_avx512(tile, coded, list, hits) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Self::Avx2 => unsafe { x86::hits_avx2(tile, coded, list, hits) },
            Self::Portable => {
                let groups = tile.codes.len() / (LANES / BLOCK);
                for &query in list {
                    let at = usize::from(query);
                    let sums = sums_portable(tile, &coded.words[at * groups..][..groups]);
                    let lanes = lanes_above(&sums, coded.thresholds[at]);
                    if lanes != 0 {
                        hits.push(Hit { query, lanes });
                    }
                }
            }
        }
    }

    /// The sums of all lanes of `tile` for one query.
    pub(super) fn sums(self, tile: Tile<'_>, words: &[i32]) -> [i32; LANES] {
        match self {
            // SAFETY: `available` offers this kernel only where the processor has the features.
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Self::Avx512Vnni => unsafe { x86::sums_avx512(tile, words) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Self::Avx2 => unsafe { x86::sums_avx2(tile, words) },
            Self::Portable => sums_portable(tile, words),
        }
    }
}

/// Joins four signed codes to a query's word, the first channel lowest.
pub(super) fn word(codes: [i8; GROUP]) -> i32 {
    i32::from_le_bytes(codes.map(|code| code as u8))
}

fn lanes_above(sums: &[i32; LANES], threshold: i32) -> u64 {
    sums.iter().enumerate().fold(0, |lanes, (lane, &sum)| lanes | (u64::from(sum > threshold) << lane))
}

fn sums_portable(tile: Tile<'_>, words: &[i32]) -> [i32; LANES] {
    let mut sums = *tile.start;
    for (sums, block) in sums.chunks_exact_mut(BLOCK).zip(tile.codes.chunks_exact(words.len())) {
        for (codes, word) in block.iter().zip(words) {
            for (plane, code) in codes.0.chunks_exact(BLOCK).zip(word.to_le_bytes()) {
                let code = i16::from(code as i8);
                for (sum, &value) in sums.iter_mut().zip(plane) {
                    *sum += i32::from(i16::from(value) * code);
                }
            }
        }
    }
    sums
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256i, __m512i, _mm256_add_epi32, _mm256_castsi256_ps, _mm256_cmpgt_epi32, _mm256_loadu_si256,
        _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_movemask_ps, _mm256_set1_epi16, _mm256_set1_epi32,
        _mm256_storeu_si256, _mm512_cmpgt_epi32_mask, _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_set1_epi32,
        _mm512_storeu_si512,
    };

    use super::{BLOCK, Coded, Codes, Hit, LANES, Tile, WIDE_GROUPS};

    const BLOCKS: usize = LANES / BLOCK;
    const HALF: usize = BLOCK / 2;

    /// Sixteen lanes per register; the tile's 24 registers stay loaded while the queries pass.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) fn hits_avx512(tile: Tile<'_>, coded: Coded<'_>, list: &[u16], hits: &mut Vec<Hit>) {
        let (codes, start) = load_avx512(tile);
        for &query in list {
            let at = usize::from(query);
            let Some(words) = coded.words[at * WIDE_GROUPS..].first_chunk() else { return };
            let threshold = _mm512_set1_epi32(coded.thresholds[at]);
            let lanes = dot_avx512(&codes, &start, words)
                .map(|sums| u64::from(_mm512_cmpgt_epi32_mask(sums, threshold)));
            let lanes = lanes[0] | lanes[1] << 16 | lanes[2] << 32 | lanes[3] << 48;
            if lanes != 0 {
                hits.push(Hit { query, lanes });
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) fn sums_avx512(tile: Tile<'_>, words: &[i32]) -> [i32; LANES] {
        let mut out = *tile.start;
        let (codes, start) = load_avx512(tile);
        if let Some(words) = words.first_chunk() {
            for (out, sums) in out.chunks_exact_mut(BLOCK).zip(dot_avx512(&codes, &start, words)) {
                // SAFETY: `out` is 16 numbers of 4 bytes, the register's 64 bytes; the store may be unaligned.
                #[allow(unsafe_code)]
                unsafe {
                    _mm512_storeu_si512(out.as_mut_ptr().cast(), sums);
                }
            }
        }
        out
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    #[inline]
    fn load_avx512(tile: Tile<'_>) -> ([[__m512i; WIDE_GROUPS]; BLOCKS], [__m512i; BLOCKS]) {
        let mut codes = [[_mm512_set1_epi32(0); WIDE_GROUPS]; BLOCKS];
        let mut start = [_mm512_set1_epi32(0); BLOCKS];
        for (register, bytes) in codes.as_flattened_mut().iter_mut().zip(tile.codes) {
            // SAFETY: a `Codes` is 64 bytes, which is what the instruction reads.
            #[allow(unsafe_code)]
            unsafe {
                *register = _mm512_loadu_si512(std::ptr::from_ref::<Codes>(bytes).cast());
            }
        }
        for (register, lanes) in start.iter_mut().zip(tile.start.chunks_exact(BLOCK)) {
            // SAFETY: the chunk is 16 numbers of 4 bytes, 64 bytes in all.
            #[allow(unsafe_code)]
            unsafe {
                *register = _mm512_loadu_si512(lanes.as_ptr().cast());
            }
        }
        (codes, start)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    #[inline]
    fn dot_avx512(
        codes: &[[__m512i; WIDE_GROUPS]; BLOCKS],
        start: &[__m512i; BLOCKS],
        words: &[i32; WIDE_GROUPS],
    ) -> [__m512i; BLOCKS] {
        let mut sums = *start;
        for (group, &word) in words.iter().enumerate() {
            let word = _mm512_set1_epi32(word);
            for (sum, codes) in sums.iter_mut().zip(codes) {
                *sum = _mm512_dpbusd_epi32(*sum, codes[group], word);
            }
        }
        sums
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn hits_avx2(tile: Tile<'_>, coded: Coded<'_>, list: &[u16], hits: &mut Vec<Hit>) {
        for &query in list {
            let at = usize::from(query);
            let Some(words) = coded.words[at * WIDE_GROUPS..].first_chunk() else { return };
            let threshold = _mm256_set1_epi32(coded.thresholds[at]);
            let mut lanes = 0;
            for part in 0..LANES / HALF {
                let above = _mm256_cmpgt_epi32(dot_avx2(tile, part, words), threshold);
                lanes |= u64::from(_mm256_movemask_ps(_mm256_castsi256_ps(above)) as u8) << (part * HALF);
            }
            if lanes != 0 {
                hits.push(Hit { query, lanes });
            }
        }
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn sums_avx2(tile: Tile<'_>, words: &[i32]) -> [i32; LANES] {
        let mut out = *tile.start;
        if let Some(words) = words.first_chunk() {
            for (part, out) in out.chunks_exact_mut(HALF).enumerate() {
                let sums = dot_avx2(tile, part, words);
                // SAFETY: `out` is 8 numbers of 4 bytes, the register's 32 bytes; the store may be unaligned.
                #[allow(unsafe_code)]
                unsafe {
                    _mm256_storeu_si256(out.as_mut_ptr().cast(), sums);
                }
            }
        }
        out
    }

    /// The sums of lanes `8 part .. 8 part + 8`.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn dot_avx2(tile: Tile<'_>, part: usize, words: &[i32; WIDE_GROUPS]) -> __m256i {
        let ones = _mm256_set1_epi16(1);
        let mut sums = load_avx2(&tile.start[part * HALF..][..HALF]);
        for (codes, &word) in tile.codes[part / 2 * WIDE_GROUPS..].iter().zip(words) {
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
        // SAFETY: both callers pass 32 bytes, which is what the instruction reads; it may be unaligned.
        #[allow(unsafe_code)]
        unsafe {
            _mm256_loadu_si256(from.as_ptr().cast())
        }
    }
}
