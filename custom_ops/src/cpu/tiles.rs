//! The register tiles: the only loops where the time of a network goes.

/// Sixteen floats a register, thirty-two registers: twelve rows by two registers of sums.
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    use std::arch::x86_64::*;

    use super::super::{
        COLUMNS, Tile,
        blocks::{BLOCK, CHUNK, Sums, WordRows},
        levels::Rows,
    };

    /// # Safety
    /// AVX-512F; see [`super::super::levels::Level::tile_f32`].
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(in super::super) unsafe fn f32<const R: usize, const PACKED: bool>(
        a: Rows<'_>,
        b: &[f32],
        tile: &mut Tile,
    ) {
        assert!(
            a.fit::<R, PACKED>(b.len()),
            "a tile reaches beyond its operands"
        );
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        let mut b = b.as_ptr();
        for &segment in a.segments {
            // SAFETY: every row, step and segment and the panel were just found to fit.
            unsafe {
                let mut words = a.words.as_ptr().add(segment);
                for _ in 0..a.steps {
                    let (b0, b1) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
                    for (row, sum) in sums.iter_mut().enumerate() {
                        let value = _mm512_set1_ps(*words.add(if PACKED {
                            row
                        } else {
                            row * a.row_stride
                        }));
                        sum[0] = _mm512_fmadd_ps(value, b0, sum[0]);
                        sum[1] = _mm512_fmadd_ps(value, b1, sum[1]);
                    }
                    words = words.add(if PACKED { R } else { 1 });
                    b = b.add(COLUMNS);
                }
            }
        }
        for (out, sum) in tile.0.iter_mut().zip(sums) {
            // SAFETY: a tile's row has 32 floats.
            unsafe {
                _mm512_storeu_ps(out.as_mut_ptr(), sum[0]);
                _mm512_storeu_ps(out.as_mut_ptr().add(16), sum[1]);
            }
        }
    }

    /// Both halves of 32 values.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn load(values: &[f32; COLUMNS]) -> (__m512, __m512) {
        // SAFETY: two vectors are 32 values.
        unsafe {
            (
                _mm512_loadu_ps(values.as_ptr()),
                _mm512_loadu_ps(values.as_ptr().add(COLUMNS / 2)),
            )
        }
    }

    /// `left = combine(left, right)`.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn combine(
        left: &mut [f32; COLUMNS],
        right: &[f32; COLUMNS],
        combine: impl Fn(__m512, __m512) -> __m512,
    ) {
        let ((low, high), (right_low, right_high)) = (load(left), load(right));
        // SAFETY: as in `load`.
        unsafe {
            _mm512_storeu_ps(left.as_mut_ptr(), combine(low, right_low));
            let upper = left.as_mut_ptr().add(COLUMNS / 2);
            _mm512_storeu_ps(upper, combine(high, right_high));
        }
    }

    /// See [`super::super::levels::Level::add`].
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(in super::super) fn add(values: &mut [f32; COLUMNS], more: &[f32; COLUMNS]) {
        combine(values, more, |value, more| _mm512_add_ps(value, more));
    }

    /// See [`super::super::levels::Level::scale_add`].
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(in super::super) fn scale_add(
        values: &mut [f32; COLUMNS],
        factor: f32,
        more: &[f32; COLUMNS],
    ) {
        let factor = _mm512_set1_ps(factor);
        combine(values, more, |value, more| {
            _mm512_fmadd_ps(value, factor, more)
        });
    }

    /// See [`super::super::levels::Level::maximum`].
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(in super::super) fn maximum(largest: &mut [f32; COLUMNS], values: &[f32; COLUMNS]) {
        // Where one of both is not a number the instruction takes the second.
        combine(largest, values, |largest, value| {
            _mm512_max_ps(value, largest)
        });
    }

    /// See [`super::super::levels::Level::largest`].
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(in super::super) fn largest(values: &[f32; COLUMNS]) -> f32 {
        let (low, high) = load(values);
        _mm512_reduce_max_ps(_mm512_max_ps(low, high))
    }

    /// See [`super::super::levels::Level::bf16_words`].
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    pub(in super::super) fn bf16_words(values: &[f32; COLUMNS]) -> [u32; CHUNK] {
        /// The upper half of every other number, of two vectors.
        const UPPER: [u16; 32] = {
            let mut places = [0; 32];
            let mut i = 0;
            while i < 32 {
                places[i] = 2 * i as u16 + 1;
                i += 1;
            }
            places
        };
        let round = |values: __m512| {
            let bits = _mm512_castps_si512(values);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)))
        };
        let (low, high) = load(values);
        let mut words = [0; CHUNK];
        // SAFETY: places and words are 64 bytes.
        unsafe {
            let places = _mm512_loadu_si512(UPPER.as_ptr().cast());
            let packed = _mm512_permutex2var_epi16(round(low), places, round(high));
            _mm512_storeu_si512(words.as_mut_ptr().cast(), packed);
        }
        words
    }

    /// # Safety
    /// AVX-512F and AVX512_BF16.
    ///
    /// # Panics
    /// If rows or panel do not hold what the chunks address.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(in super::super) unsafe fn bf16(a: WordRows<'_>, panel: &[u32], out: &mut Sums<f32>) {
        assert!(a.fit(panel.len()), "a block reaches beyond its operands");
        /// The bits of sixteen words as thirty-two bfloat16.
        #[inline(always)]
        fn pairs(words: __m512i) -> __m512bh {
            // SAFETY: both are 512 bits without invalid values.
            unsafe { std::mem::transmute(words) }
        }
        const R: usize = 8;
        for first in (0..BLOCK).step_by(R) {
            let mut sums = [[_mm512_setzero_ps(); 2]; R];
            let mut b = panel.as_ptr();
            for c in 0..a.chunks.len() {
                let rows: [_; R] = std::array::from_fn(|r| a.chunk(first + r, c));
                for step in 0..CHUNK {
                    // SAFETY: the panel was just found to have 32 words for each step.
                    let (b0, b1) = unsafe {
                        (
                            pairs(_mm512_loadu_si512(b.cast())),
                            pairs(_mm512_loadu_si512(b.add(16).cast())),
                        )
                    };
                    for (sum, row) in sums.iter_mut().zip(rows) {
                        let value = pairs(_mm512_set1_epi32(row[step] as i32));
                        sum[0] = _mm512_dpbf16_ps(sum[0], value, b0);
                        sum[1] = _mm512_dpbf16_ps(sum[1], value, b1);
                    }
                    b = b.wrapping_add(COLUMNS);
                }
            }
            for (out, sum) in out.0[first..].iter_mut().zip(sums) {
                // SAFETY: a row of sums has 32 floats.
                unsafe {
                    _mm512_storeu_ps(out.as_mut_ptr(), sum[0]);
                    _mm512_storeu_ps(out.as_mut_ptr().add(16), sum[1]);
                }
            }
        }
    }
}

/// Eight floats a register, sixteen registers: blocks of six rows by two registers of sums, or of
/// four where six do not divide a tile.
#[cfg(target_arch = "x86_64")]
pub(super) mod avx2 {
    use std::arch::x86_64::*;

    use super::super::{COLUMNS, Tile, levels::Rows};

    /// Steps whose operands all blocks of a tile read from the first-level cache.
    const STEPS: usize = 128;
    /// Columns of a block.
    const WIDTH: usize = 16;

    /// By blocks of `ROWS` rows, which divide `R`.
    ///
    /// # Safety
    /// AVX2 and FMA; see [`super::super::levels::Level::tile_f32`].
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    pub(in super::super) unsafe fn f32<const R: usize, const PACKED: bool, const ROWS: usize>(
        a: Rows<'_>,
        b: &[f32],
        tile: &mut Tile,
    ) {
        assert!(
            a.fit::<R, PACKED>(b.len()),
            "a tile reaches beyond its operands"
        );
        assert!(R.is_multiple_of(ROWS), "blocks reach beyond a tile");
        tile.0[..R].fill([0.; COLUMNS]);
        for (s, &segment) in a.segments.iter().enumerate() {
            for first in (0..a.steps).step_by(STEPS) {
                let steps = STEPS.min(a.steps - first);
                // SAFETY: every row, step and segment and the panel were found to fit, and blocks to
                // divide the tile.
                unsafe {
                    let words = a.words.as_ptr().add(segment);
                    let (words, row, step) = if PACKED {
                        (words.add(first * R), 1, R)
                    } else {
                        (words.add(first), a.row_stride, 1)
                    };
                    let b = b.as_ptr().add((s * a.steps + first) * COLUMNS);
                    for column in (0..COLUMNS).step_by(WIDTH) {
                        let b = b.add(column);
                        for r in (0..R).step_by(ROWS) {
                            let sums = &mut tile.0[r..];
                            block::<ROWS>(words.add(r * row), row, step, b, steps, sums, column);
                        }
                    }
                }
            }
        }
    }

    /// Adds the products of `steps` steps to `ROWS` rows of sums, sixteen columns from `column` on; words
    /// of `A` are `row` and `step` apart.
    ///
    /// # Safety
    /// AVX2 and FMA; `words` and `b` have all rows and steps, and there are so many rows and columns.
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    unsafe fn block<const ROWS: usize>(
        mut words: *const f32,
        row: usize,
        step: usize,
        mut b: *const f32,
        steps: usize,
        out: &mut [[f32; COLUMNS]],
        column: usize,
    ) {
        let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
        // SAFETY: by the contract.
        unsafe {
            for (sum, out) in sums.iter_mut().zip(out.iter()) {
                let out = out.as_ptr().add(column);
                *sum = [_mm256_loadu_ps(out), _mm256_loadu_ps(out.add(8))];
            }
            for _ in 0..steps {
                let (b0, b1) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
                for (r, sum) in sums.iter_mut().enumerate() {
                    let value = _mm256_set1_ps(*words.add(r * row));
                    sum[0] = _mm256_fmadd_ps(value, b0, sum[0]);
                    sum[1] = _mm256_fmadd_ps(value, b1, sum[1]);
                }
                words = words.add(step);
                b = b.add(COLUMNS);
            }
            for (sum, out) in sums.iter().zip(out) {
                let out = out.as_mut_ptr().add(column);
                _mm256_storeu_ps(out, sum[0]);
                _mm256_storeu_ps(out.add(8), sum[1]);
            }
        }
    }
}

/// Plain loops over blocks small enough for sixteen registers, which the compiler vectorises.
pub(super) mod portable {
    use super::super::{
        COLUMNS, Tile,
        levels::{Level, Rows},
    };

    /// The tile in blocks of `BR` rows by `BC` columns.
    #[inline(always)]
    pub(in super::super) fn f32<
        L: Level,
        const R: usize,
        const PACKED: bool,
        const BR: usize,
        const BC: usize,
    >(
        a: Rows<'_>,
        b: &[f32],
        tile: &mut Tile,
    ) {
        for row0 in (0..R).step_by(BR) {
            for column0 in (0..COLUMNS).step_by(BC) {
                let mut sums = [[0f32; BC]; BR];
                for (s, &segment) in a.segments.iter().enumerate() {
                    let panel = &b[s * a.steps * COLUMNS..(s + 1) * a.steps * COLUMNS];
                    for (step, b_row) in panel.chunks_exact(COLUMNS).enumerate() {
                        let b_row = &b_row[column0..column0 + BC];
                        for (i, sum) in sums.iter_mut().enumerate() {
                            let row = row0 + i;
                            let at = if PACKED {
                                step * R + row
                            } else {
                                row * a.row_stride + step
                            };
                            let value = a.words[segment + at];
                            for (sum, &b) in sum.iter_mut().zip(b_row) {
                                *sum = L::mul_add(value, b, *sum);
                            }
                        }
                    }
                }
                for (i, sum) in sums.iter().enumerate() {
                    tile.0[row0 + i][column0..column0 + BC].copy_from_slice(sum);
                }
            }
        }
    }
}
