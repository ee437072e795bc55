//! Products of numbers smaller than float32: words of two bfloat16 or of four int8, in blocks of 32
//! rows by 32 columns ([`super::blocks`]). Unlike sums of floats those of int8 are exact, so every
//! instruction set gives the same bits.

use std::mem::MaybeUninit;

use super::blocks::{BLOCK, CHUNK, HALF, Sums, WordRows};
use super::int8;
use super::levels::{self, Set};
use super::lines::Lines;

/// `A B` of words of two bfloat16, with sums in float32: a block of sums for each of the panels, which
/// follow one another. `ahead` begins with panels of later products, of which the matrix unit brings a
/// sixteenth of as many into the second-level cache meanwhile.
///
/// # Panics
/// If rows or panels do not hold what the chunks address, or this CPU multiplies no bfloat16
/// ([`levels::bf16_dot`]).
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
pub(crate) fn bf16_blocks(a: WordRows<'_>, panels: &[u32], ahead: &[u32], out: &mut [Sums<f32>]) {
    assert!(
        panels.len() >= out.len() * a.panel(),
        "a block without a panel"
    );
    let blocks = out.iter_mut().zip(panels.chunks_exact(a.panel()));
    match levels::set() {
        #[cfg(target_arch = "x86_64")]
        Set::Amx => {
            // SAFETY: the set is one of this CPU.
            let unit = unsafe { super::amx::Unit::new() };
            let ahead = super::amx::parts(ahead, panels, a.panel());
            for ((out, panel), ahead) in blocks.zip(ahead) {
                unit.bf16(a, panel, ahead, out);
            }
        }
        #[cfg(target_arch = "x86_64")]
        Set::Avx512Bf16 => blocks.for_each(|(out, panel)| {
            // SAFETY: the set is one of this CPU.
            unsafe { super::tiles::avx512::bf16(a, panel, out) }
        }),
        _ => unreachable!("without native products bfloat16 is widened"),
    }
}

/// `A B` of words of four int8, exactly: a block of sums for each of the panels, which follow one
/// another. `row_sums` has the sum of each row's numbers; for `ahead` see [`bf16_blocks`].
///
/// # Panics
/// If rows or panels do not hold what the chunks address.
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
pub(crate) fn int8_blocks(
    set: Set,
    a: WordRows<'_>,
    row_sums: &[i32; BLOCK],
    panels: &[u32],
    ahead: &[u32],
    out: &mut [Sums<i32>],
) {
    assert!(a.fit(panels.len()), "a block reaches beyond its operands");
    assert!(
        panels.len() >= out.len() * a.panel(),
        "a block without a panel"
    );
    let blocks = out.iter_mut().zip(panels.chunks_exact(a.panel()));
    #[cfg(target_arch = "x86_64")]
    if set == Set::Amx {
        // SAFETY: the set is one of this CPU.
        let unit = unsafe { super::amx::Unit::new() };
        let ahead = super::amx::parts(ahead, panels, a.panel());
        for ((out, panel), ahead) in blocks.zip(ahead) {
            unit.int8(a, panel, ahead, out);
        }
        return;
    }
    #[cfg(target_arch = "x86_64")]
    let flips = matches!(set, Set::Avx512Vnni | Set::Avx512Bf16 | Set::AvxVnni);
    #[cfg(not(target_arch = "x86_64"))]
    let flips = false;
    for (out, panel) in blocks {
        // What numbers of the panel that are 128 larger add.
        for (sums, &row) in out.0.iter_mut().zip(row_sums) {
            sums.fill(if flips { -128 * row } else { 0 });
        }
        // SAFETY: the set is one of this CPU, and rows and panel fit.
        unsafe {
            match set {
                #[cfg(target_arch = "x86_64")]
                Set::Avx512Vnni | Set::Avx512Bf16 => int8::avx512_vnni(a, panel, out),
                #[cfg(target_arch = "x86_64")]
                Set::AvxVnni => int8::avx_vnni(a, panel, out),
                #[cfg(target_arch = "x86_64")]
                Set::Avx2 | Set::Avx512 => int8::avx2(a, panel, out),
                #[cfg(target_arch = "aarch64")]
                Set::NeonI8mm => int8::neon_i8mm(a, panel, out),
                #[cfg(target_arch = "aarch64")]
                Set::NeonDot => int8::neon_dot(a, panel, out),
                _ => int8::portable(a, panel, out),
            }
        }
    }
}

/// A row major matrix packed for [`WordRows`]: `[half block][chunk][16 rows][16 words]`, words past a
/// row's end filled with zeros, rows past the last with anything.
pub(crate) struct PackedRows {
    words: Lines<u32>,
    rows: usize,
    chunks: Vec<usize>,
    /// Of int8, for each row of whole blocks: what a unit stands for, and the sum of its numbers.
    pub(crate) scales: Vec<f32>,
    pub(crate) sums: Vec<i32>,
}

impl PackedRows {
    /// `(rows, k)` as words of two bfloat16.
    pub(crate) fn bf16(x: &[f32], k: usize) -> Self {
        Self::new(x, k, 2, |_, rows, words| {
            levels::run(&mut RoundRows { rows, k, words })
        })
    }

    /// `(rows, k)` as words of four int8, each row in units of its own.
    pub(crate) fn int8(x: &[f32], k: usize) -> Self {
        use super::Shared;
        let rows = (x.len() / k).next_multiple_of(BLOCK);
        let (mut scales, mut sums) = (vec![0f32; rows], vec![0i32; rows]);
        let (scale_of, sum_of) = (Shared::new(&mut scales), Shared::new(&mut sums));
        let packed = Self::new(x, k, 4, |half, rows, words| {
            // SAFETY: each half block is packed once.
            let (scales, sums) = unsafe {
                (
                    scale_of.range(half * HALF, HALF),
                    sum_of.range(half * HALF, HALF),
                )
            };
            levels::run(&mut QuantiseRows {
                rows,
                k,
                words,
                scales,
                sums,
            });
        });
        Self {
            scales,
            sums,
            ..packed
        }
    }

    /// `pack` writes up to sixteen rows, those of a half block, into every chunk of it.
    fn new(
        x: &[f32],
        k: usize,
        numbers: usize,
        pack: impl Fn(usize, &[f32], &mut [Chunk]) + Sync,
    ) -> Self {
        let (rows, chunks) = (x.len() / k, k.div_ceil(numbers * CHUNK));
        let fill = |index: usize, words: &mut [MaybeUninit<u32>]| {
            let first = rows.min(index * HALF);
            let last = rows.min(first + HALF);
            let (words, _) = words.as_chunks_mut();
            pack(index, &x[first * k..last * k], words);
            for chunk in words.chunks_exact_mut(HALF) {
                chunk[last - first..].fill([MaybeUninit::new(0); CHUNK]);
            }
        };
        let halves = rows.div_ceil(BLOCK) * 2;
        // SAFETY: `pack` writes the rows that there are, and the loop the others.
        let words = unsafe { Lines::written(halves, HALF * chunks * CHUNK, fill) };
        Self::from_words(words, rows, chunks)
    }

    /// `(rows, k)` words of two bfloat16 that `fill` writes.
    ///
    /// # Safety
    /// `fill` writes all that it is given.
    pub(crate) unsafe fn written(
        rows: usize,
        k: usize,
        fill: impl Fn(&mut [MaybeUninit<u32>]) + Sync,
    ) -> Self {
        let chunks = k.div_ceil(2 * CHUNK);
        let length = rows.next_multiple_of(BLOCK) * chunks * CHUNK;
        // SAFETY: by the contract above.
        let words = unsafe { Lines::written(1, length, |_, words| fill(words)) };
        Self::from_words(words, rows, chunks)
    }

    fn from_words(words: Lines<u32>, rows: usize, chunks: usize) -> Self {
        Self {
            words,
            rows,
            chunks: (0..chunks).map(|chunk| chunk * HALF * CHUNK).collect(),
            scales: Vec::new(),
            sums: Vec::new(),
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn block_bytes(&self) -> usize {
        BLOCK * CHUNK * self.chunks.len() * size_of::<u32>()
    }

    /// Rows `32 index` and following.
    pub(crate) fn block(&self, index: usize) -> WordRows<'_> {
        let half = HALF * CHUNK * self.chunks.len();
        WordRows {
            words: &self.words,
            start: 2 * index * half,
            lower: half,
            row_stride: CHUNK,
            chunks: &self.chunks,
        }
    }
}

/// Words as their halves, the first in the low bits.
pub(crate) fn halves(words: &mut [u32]) -> &mut [u16] {
    const { assert!(cfg!(target_endian = "little"), "words are little endian") };
    // SAFETY: twice as many values of half the size and alignment.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), 2 * words.len()) }
}

/// Words as their bytes, the first in the low bits.
pub(crate) fn bytes(words: &mut [u32]) -> &mut [i8] {
    const { assert!(cfg!(target_endian = "little"), "words are little endian") };
    // SAFETY: four times as many values of a quarter of the size.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), 4 * words.len()) }
}

/// Chunk `c` of row `r` of half a block is `[c * 16 + r]`.
type Chunk = [MaybeUninit<u32>; CHUNK];

struct RoundRows<'a> {
    rows: &'a [f32],
    k: usize,
    words: &'a mut [Chunk],
}

impl levels::Task for RoundRows<'_> {
    #[inline(always)]
    fn run<L: levels::Level>(&mut self) {
        for (r, row) in self.rows.chunks_exact(self.k).enumerate() {
            let (whole, rest) = row.as_chunks();
            let mut out = self.words[r..].iter_mut().step_by(HALF);
            for (values, out) in whole.iter().zip(out.by_ref()) {
                out.write_copy_of_slice(&L::bf16_words(values));
            }
            if let Some(out) = out.next() {
                let mut values = [0f32; 2 * CHUNK];
                values[..rest.len()].copy_from_slice(rest);
                out.write_copy_of_slice(&L::bf16_words(&values));
            }
        }
    }
}

struct QuantiseRows<'a> {
    rows: &'a [f32],
    k: usize,
    words: &'a mut [Chunk],
    scales: &'a mut [f32],
    sums: &'a mut [i32],
}

impl levels::Task for QuantiseRows<'_> {
    #[inline(always)]
    fn run<L: levels::Level>(&mut self) {
        let mut line = vec![0u32; self.words.len() / HALF * CHUNK];
        for (r, row) in self.rows.chunks_exact(self.k).enumerate() {
            (self.scales[r], self.sums[r]) = quantise(row, bytes(&mut line));
            let (chunks, _) = line.as_chunks::<CHUNK>();
            for (out, chunk) in self.words[r..].iter_mut().step_by(HALF).zip(chunks) {
                out.write_copy_of_slice(chunk);
            }
        }
    }
}

/// Writes `values` as int8 in units of a 127th of the largest magnitude; returns the unit and the
/// sum of the numbers. A value that is not finite makes the unit so too.
#[inline(always)]
pub fn quantise(values: &[f32], out: &mut [i8]) -> (f32, i32) {
    /// 1.5 * 2^23: adding it rounds to an integer in the low bits, ties to even.
    const ROUND: f32 = 12_582_912.;
    // As integers magnitudes are in order, NaN above infinity.
    let mut largest = 0u32;
    for value in values {
        largest = largest.max(value.to_bits() & 0x7fff_ffff);
    }
    let largest = f32::from_bits(largest);
    let inverse = if largest > 1e-30 && largest.is_finite() {
        127. / largest
    } else {
        0.
    };
    let mut sum = 0i32;
    for (out, &value) in out.iter_mut().zip(values) {
        let number = (value * inverse + ROUND).to_bits() as i32 - ROUND.to_bits() as i32;
        sum += number as i8 as i32;
        *out = number as i8;
    }
    (largest / 127., sum)
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _};

    use super::super::COLUMNS;
    use super::super::panels::{Operand, PackedMatrix, Storage, Words};
    use super::*;

    /// Bytes, with their extremes in the first rows and columns.
    fn numbers(seed: u64, count: usize, least: i8) -> Vec<i8> {
        let mut random = rand::rngs::StdRng::seed_from_u64(seed);
        let mut numbers: Vec<i8> = (0..count)
            .map(|_| random.random_range(least..=127))
            .collect();
        let quarter = count / 4;
        numbers[..quarter].fill(127);
        numbers[quarter / 2..quarter].fill(least);
        numbers
    }

    #[test]
    fn every_instruction_set_gives_the_same_sums_of_int8() {
        for chunks in [1, 2, 5] {
            let mut words = vec![0u32; BLOCK * chunks * CHUNK];
            let length = 4 * words.len();
            bytes(&mut words).copy_from_slice(&numbers(1, length, -127));
            let mut panel = vec![0u32; chunks * CHUNK * COLUMNS];
            let length = 4 * panel.len();
            bytes(&mut panel).copy_from_slice(&numbers(2, length, -128));
            let places: Vec<usize> = (0..chunks).map(|chunk| chunk * CHUNK).collect();
            let a = WordRows {
                words: &words,
                start: 0,
                lower: HALF * chunks * CHUNK,
                row_stride: chunks * CHUNK,
                chunks: &places,
            };
            let byte = |word: u32, i: usize| i64::from(word.to_le_bytes()[i] as i8);
            let row_sums: [i32; BLOCK] = std::array::from_fn(|r| {
                let row = &words[r * chunks * CHUNK..][..chunks * CHUNK];
                let sum: i64 = row
                    .iter()
                    .flat_map(|&word| (0..4).map(move |i| byte(word, i)))
                    .sum();
                sum as i32
            });
            for set in Set::here() {
                let mut sums = [Sums::<i32>([[7; COLUMNS]; BLOCK])];
                int8_blocks(set, a, &row_sums, &panel, &[], &mut sums);
                for (r, sums) in sums[0].0.iter().enumerate() {
                    for (column, &sum) in sums.iter().enumerate() {
                        let want: i64 = (0..chunks * CHUNK)
                            .flat_map(|step| (0..4).map(move |i| (step, i)))
                            .map(|(step, i)| {
                                byte(words[r * chunks * CHUNK + step], i)
                                    * byte(panel[step * COLUMNS + column], i)
                            })
                            .sum();
                        assert_eq!(i64::from(sum), want, "{set:?} {chunks} {r} {column}");
                    }
                }
            }
        }
    }

    #[test]
    fn quantised_values_are_within_half_a_unit_and_not_finite_ones_stay_so() {
        let values: Vec<f32> = (0..300).map(|i| ((i * 37) as f32).sin() * 3.).collect();
        let mut out = vec![0i8; 300];
        let (unit, sum) = quantise(&values, &mut out);
        assert_eq!(
            sum,
            out.iter().map(|&number| i32::from(number)).sum::<i32>()
        );
        for (&value, &number) in values.iter().zip(&out) {
            assert!((value - f32::from(number) * unit).abs() <= 0.501 * unit);
        }
        assert!(quantise(&[1., f32::NAN], &mut out[..2]).0.is_nan());
        assert!(
            quantise(&[1., f32::INFINITY], &mut out[..2])
                .0
                .is_infinite()
        );
        assert_eq!(quantise(&[0.; 4], &mut out[..4]), (0., 0));
        assert_eq!(out[..4], [0; 4]);
    }

    #[test]
    #[should_panic(expected = "beyond its operands")]
    fn blocks_outside_the_words_are_refused() {
        let words = vec![0u32; BLOCK * CHUNK - 1];
        let a = WordRows {
            words: &words,
            start: 0,
            lower: HALF * CHUNK,
            row_stride: CHUNK,
            chunks: &[0],
        };
        let panel = vec![0u32; CHUNK * COLUMNS];
        let mut sums = [Sums::<i32>::ZERO];
        int8_blocks(Set::Portable, a, &[0; BLOCK], &panel, &[], &mut sums);
    }

    #[test]
    fn int8_panels_hold_each_column_in_its_unit() {
        let (k, n) = (70, 33);
        let columns: Vec<f32> = (0..k * n)
            .map(|i| (i as f32 * 0.7).cos() * (1. + i as f32))
            .collect();
        let matrix =
            PackedMatrix::from_columns(k, n, Storage::Int8, |j| &columns[j * k..(j + 1) * k]);
        assert_eq!(matrix.operand(), Operand::Int8);
        for j in 0..n {
            let Words::Int8(words, units) = matrix.words(j / COLUMNS..j / COLUMNS + 1) else {
                panic!("not int8")
            };
            for (i, &value) in columns[j * k..(j + 1) * k].iter().enumerate() {
                let word = words[i / 4 * COLUMNS + j % COLUMNS];
                let number = f32::from(word.to_le_bytes()[i % 4] as i8);
                let unit = units[j % COLUMNS];
                assert!((number * unit - value).abs() <= 0.501 * unit, "{i} {j}");
            }
        }
    }
}
