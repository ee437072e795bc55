//! Exact products of words of four int8, one function for each instruction set.
//!
//! What there is in `out` is added to. Numbers of rows are from -127 to 127, those of panels from
//! -128 to 127. Instructions that multiply unsigned by signed bytes read those of the panel 128
//! larger, and the caller lets the sums begin with what that adds.

use super::COLUMNS;
use super::blocks::{BLOCK, CHUNK, Sums, WordRows};

/// Plain loops, for any processor.
pub(super) fn portable(a: WordRows<'_>, panel: &[u32], out: &mut Sums<i32>) {
    for (r, sums) in out.0.iter_mut().enumerate() {
        for (c, steps) in panel
            .chunks_exact(CHUNK * COLUMNS)
            .take(a.chunks.len())
            .enumerate()
        {
            for (&word, step) in a.chunk(r, c).iter().zip(steps.chunks_exact(COLUMNS)) {
                let a = word.to_le_bytes().map(|byte| i32::from(byte as i8));
                for (sum, word) in sums.iter_mut().zip(step) {
                    let b = word.to_le_bytes().map(|byte| i32::from(byte as i8));
                    *sum += a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3];
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{avx_vnni, avx2, avx512_vnni};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::*;

    /// # Safety
    /// AVX-512F and AVX512_VNNI; rows and panel fit the chunks.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(in super::super) unsafe fn avx512_vnni(
        a: WordRows<'_>,
        panel: &[u32],
        out: &mut Sums<i32>,
    ) {
        const R: usize = 8;
        let flip = _mm512_set1_epi8(-128);
        for first in (0..BLOCK).step_by(R) {
            let mut sums = [[_mm512_setzero_si512(); 2]; R];
            for (sum, out) in sums.iter_mut().zip(&out.0[first..]) {
                // SAFETY: a row of sums has 32 words.
                *sum = unsafe {
                    [
                        _mm512_loadu_si512(out.as_ptr().cast()),
                        _mm512_loadu_si512(out.as_ptr().add(16).cast()),
                    ]
                };
            }
            let mut b = panel.as_ptr();
            for c in 0..a.chunks.len() {
                let rows: [_; R] = std::array::from_fn(|r| a.chunk(first + r, c));
                for step in 0..CHUNK {
                    // SAFETY: the panel has 32 words for each step.
                    let [b0, b1] = unsafe {
                        [
                            _mm512_loadu_si512(b.cast()),
                            _mm512_loadu_si512(b.add(16).cast()),
                        ]
                    };
                    let (b0, b1) = (_mm512_xor_si512(b0, flip), _mm512_xor_si512(b1, flip));
                    for (sum, row) in sums.iter_mut().zip(rows) {
                        let value = _mm512_set1_epi32(row[step] as i32);
                        sum[0] = _mm512_dpbusd_epi32(sum[0], b0, value);
                        sum[1] = _mm512_dpbusd_epi32(sum[1], b1, value);
                    }
                    // SAFETY: as above.
                    b = unsafe { b.add(COLUMNS) };
                }
            }
            for (out, sum) in out.0[first..].iter_mut().zip(sums) {
                // SAFETY: a row of sums has 32 words.
                unsafe {
                    _mm512_storeu_si512(out.as_mut_ptr().cast(), sum[0]);
                    _mm512_storeu_si512(out.as_mut_ptr().add(16).cast(), sum[1]);
                }
            }
        }
    }

    /// Blocks of four rows by sixteen columns, which sixteen registers hold.
    macro_rules! by_halves {
        ($a:ident, $panel:ident, $out:ident, $add:expr, $columns:expr) => {
            const R: usize = 4;
            for first in (0..BLOCK).step_by(R) {
                for half in [0, 16] {
                    let mut sums = [[_mm256_setzero_si256(); 2]; R];
                    for (sum, out) in sums.iter_mut().zip(&$out.0[first..]) {
                        // SAFETY: a row of sums has 32 words.
                        *sum = unsafe {
                            [
                                _mm256_loadu_si256(out.as_ptr().add(half).cast()),
                                _mm256_loadu_si256(out.as_ptr().add(half + 8).cast()),
                            ]
                        };
                    }
                    // SAFETY: a step has 32 words, and `half` is 0 or 16 of them.
                    let mut b = unsafe { $panel.as_ptr().add(half) };
                    for c in 0..$a.chunks.len() {
                        let rows: [_; R] = std::array::from_fn(|r| $a.chunk(first + r, c));
                        for step in 0..CHUNK {
                            // SAFETY: the panel has 32 words for each step.
                            let b01 = unsafe {
                                [
                                    _mm256_loadu_si256(b.cast()),
                                    _mm256_loadu_si256(b.add(8).cast()),
                                ]
                            };
                            let b01 = b01.map($columns);
                            for (sum, row) in sums.iter_mut().zip(rows) {
                                let value = _mm256_set1_epi32(row[step] as i32);
                                sum[0] = $add(sum[0], b01[0], value);
                                sum[1] = $add(sum[1], b01[1], value);
                            }
                            b = b.wrapping_add(COLUMNS);
                        }
                    }
                    for (out, sum) in $out.0[first..].iter_mut().zip(sums) {
                        // SAFETY: a row of sums has 32 words.
                        unsafe {
                            _mm256_storeu_si256(out.as_mut_ptr().add(half).cast(), sum[0]);
                            _mm256_storeu_si256(out.as_mut_ptr().add(half + 8).cast(), sum[1]);
                        }
                    }
                }
            }
        };
    }

    /// # Safety
    /// AVX2 and AVX-VNNI; rows and panel fit the chunks.
    #[target_feature(enable = "avx2,avxvnni")]
    pub(in super::super) unsafe fn avx_vnni(a: WordRows<'_>, panel: &[u32], out: &mut Sums<i32>) {
        let flip = _mm256_set1_epi8(-128);
        by_halves!(
            a,
            panel,
            out,
            |sum, b, value| _mm256_dpbusd_avx_epi32(sum, b, value),
            |b| _mm256_xor_si256(b, flip)
        );
    }

    /// # Safety
    /// AVX2; rows and panel fit the chunks.
    #[target_feature(enable = "avx2")]
    pub(in super::super) unsafe fn avx2(a: WordRows<'_>, panel: &[u32], out: &mut Sums<i32>) {
        let ones = _mm256_set1_epi16(1);
        by_halves!(
            a,
            panel,
            out,
            |sum, (b, magnitude), value| {
                // Two products of magnitudes up to 128 and 127 stay below 2^15.
                let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(value, b));
                _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones))
            },
            |b| (b, _mm256_abs_epi8(b))
        );
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) use neon::{neon_dot, neon_i8mm};

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;
    use std::arch::asm;

    use super::*;

    /// # Safety
    /// NEON with dot products; rows and panel fit the chunks.
    #[target_feature(enable = "neon,dotprod")]
    pub(in super::super) unsafe fn neon_dot(a: WordRows<'_>, panel: &[u32], out: &mut Sums<i32>) {
        const R: usize = 4;
        for first in (0..BLOCK).step_by(R) {
            for half in [0, 16] {
                let mut sums = [[vdupq_n_s32(0); 4]; R];
                for (sums, out) in sums.iter_mut().zip(&out.0[first..]) {
                    for (i, sum) in sums.iter_mut().enumerate() {
                        // SAFETY: a row of sums has 32 words.
                        *sum = unsafe { vld1q_s32(out[half + 4 * i..].as_ptr()) };
                    }
                }
                for c in 0..a.chunks.len() {
                    let rows: [_; R] = std::array::from_fn(|r| a.chunk(first + r, c));
                    let steps = &panel[c * CHUNK * COLUMNS..][..CHUNK * COLUMNS];
                    for step in 0..CHUNK {
                        let b = steps[step * COLUMNS + half..].as_ptr();
                        // SAFETY: sixteen words of a step follow.
                        let b: [int32x4_t; 4] =
                            std::array::from_fn(|i| unsafe { vld1q_s32(b.add(4 * i).cast()) });
                        for (sums, row) in sums.iter_mut().zip(rows) {
                            let value = vdupq_n_s32(row[step] as i32);
                            for (sum, b) in sums.iter_mut().zip(b) {
                                // SAFETY: the processor has the instruction; registers only.
                                unsafe {
                                    asm!(
                                        ".arch_extension dotprod",
                                        "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
                                        inout(vreg) *sum, in(vreg) b, in(vreg) value,
                                        options(pure, nomem, nostack, preserves_flags),
                                    );
                                }
                            }
                        }
                    }
                }
                for (out, sums) in out.0[first..].iter_mut().zip(sums) {
                    for (i, sum) in sums.into_iter().enumerate() {
                        // SAFETY: a row of sums has 32 words.
                        unsafe { vst1q_s32(out[half + 4 * i..].as_mut_ptr(), sum) };
                    }
                }
            }
        }
    }

    /// # Safety
    /// NEON with matrix products of int8; rows and panel fit the chunks.
    #[target_feature(enable = "neon,i8mm")]
    pub(in super::super) unsafe fn neon_i8mm(a: WordRows<'_>, panel: &[u32], out: &mut Sums<i32>) {
        // An instruction multiplies two rows by two columns over eight numbers, two steps. Four
        // rows by eight columns are eight registers of sums.
        const R: usize = 4;
        for first in (0..BLOCK).step_by(R) {
            for columns in (0..COLUMNS).step_by(8) {
                let mut sums = [[vdupq_n_s32(0); 4]; R / 2];
                for c in 0..a.chunks.len() {
                    let rows: [_; R] = std::array::from_fn(|r| a.chunk(first + r, c));
                    let steps = &panel[c * CHUNK * COLUMNS..][..CHUNK * COLUMNS];
                    for step in (0..CHUNK).step_by(2) {
                        let at = |step: usize| steps[step * COLUMNS + columns..].as_ptr();
                        let mut b = [vdupq_n_s32(0); 4];
                        for i in 0..2 {
                            // SAFETY: eight words of each step follow.
                            let (even, odd) = unsafe {
                                (
                                    vld1q_s32(at(step).add(4 * i).cast()),
                                    vld1q_s32(at(step + 1).add(4 * i).cast()),
                                )
                            };
                            b[2 * i] = vzip1q_s32(even, odd);
                            b[2 * i + 1] = vzip2q_s32(even, odd);
                        }
                        for (pair, sums) in sums.iter_mut().enumerate() {
                            let [upper, lower] = [rows[2 * pair], rows[2 * pair + 1]];
                            let words =
                                [upper[step], upper[step + 1], lower[step], lower[step + 1]];
                            // SAFETY: four words.
                            let value = unsafe { vld1q_s32(words.as_ptr().cast()) };
                            for (sum, b) in sums.iter_mut().zip(b) {
                                // SAFETY: the processor has the instruction; registers only.
                                unsafe {
                                    asm!(
                                        ".arch_extension i8mm",
                                        "smmla {0:v}.4s, {1:v}.16b, {2:v}.16b",
                                        inout(vreg) *sum, in(vreg) value, in(vreg) b,
                                        options(pure, nomem, nostack, preserves_flags),
                                    );
                                }
                            }
                        }
                    }
                }
                for (pair, sums) in sums.into_iter().enumerate() {
                    for (i, sum) in sums.into_iter().enumerate() {
                        let mut square = [0i32; 4];
                        // SAFETY: four words.
                        unsafe { vst1q_s32(square.as_mut_ptr(), sum) };
                        let [upper, lower] = [first + 2 * pair, first + 2 * pair + 1];
                        let column = columns + 2 * i;
                        for (row, pair) in [upper, lower].into_iter().zip(square.chunks(2)) {
                            out.0[row][column] += pair[0];
                            out.0[row][column + 1] += pair[1];
                        }
                    }
                }
            }
        }
    }
}
