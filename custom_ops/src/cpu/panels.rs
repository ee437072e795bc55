//! Matrices in the layouts that the register tiles read.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use half::slice::HalfFloatSliceExt as _;

use super::{
    COLUMNS, Shared,
    blocks::CHUNK,
    element::bf16_pair,
    levels::bf16_dot,
    lines::Lines,
    words::{bytes, quantise},
};

/// How the values of a [`PackedMatrix`] are stored and multiplied. Sums are float32 always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// float32 throughout.
    F32,
    /// Stored as float16, multiplied as float32.
    F16,
    /// Stored as bfloat16; the other operand is rounded to bfloat16 where the CPU multiplies pairs
    /// of it natively.
    Bf16,
    /// Each column stored as int8 in units of its own, and so is each row of the other operand;
    /// sums are exact, attention is bfloat16.
    Int8,
}

/// Of what type the left operand of a product is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operand {
    F32,
    Bf16,
    Int8,
}

/// Words of `numbers` that a column of `k` has, in whole chunks.
fn steps(k: usize, numbers: usize) -> usize {
    k.div_ceil(numbers).next_multiple_of(CHUNK)
}

/// Panels of int8; `column(j, numbers)` writes the first `k` of a column's numbers and returns its
/// unit.
fn int8_panels(k: usize, n: usize, column: impl Fn(usize, &mut [i8]) -> f32 + Sync) -> Panels {
    let (panels, steps) = (n.div_ceil(COLUMNS), steps(k, 4));
    let mut scales = vec![0f32; panels * COLUMNS];
    let scale_of = Shared::new(&mut scales);
    let words = Lines::filled(panels, steps * COLUMNS, |panel, out| {
        let first = panel * COLUMNS;
        let mut line = vec![0u32; steps];
        // SAFETY: each panel is packed once.
        let scales = unsafe { scale_of.range(first, COLUMNS) };
        for (j, scale) in scales.iter_mut().enumerate().take(n - first) {
            *scale = column(first + j, bytes(&mut line));
            for (out, &word) in out[j..].iter_mut().step_by(COLUMNS).zip(&line) {
                *out = word;
            }
        }
    });
    Panels::Int8 { words, scales }
}

/// Panels of floating point; `column(j, values)` writes a column's `k` values.
fn float_panels(
    k: usize,
    n: usize,
    storage: Storage,
    column: impl Fn(usize, &mut [f32]) + Sync,
) -> Panels {
    /// Panels of `rows` steps, a column of which `write` fills.
    fn filled<T: Copy + Default + Send>(
        [k, n, rows]: [usize; 3],
        column: impl Fn(usize, &mut [f32]) + Sync,
        write: impl Fn(&mut [T], &[f32]) + Sync,
    ) -> Lines<T> {
        Lines::filled(n.div_ceil(COLUMNS), rows * COLUMNS, |panel, out| {
            let first = panel * COLUMNS;
            let mut line = vec![0f32; k];
            for j in 0..COLUMNS.min(n - first) {
                column(first + j, &mut line);
                write(&mut out[j..], &line);
            }
        })
    }
    match storage {
        Storage::F16 => Panels::F16(filled([k, n, k], column, |out, line| {
            let mut halves = vec![half::f16::ZERO; k];
            halves.convert_from_f32_slice(line);
            for (out, &value) in out.iter_mut().step_by(COLUMNS).zip(&halves) {
                *out = value;
            }
        })),
        Storage::Bf16 => {
            let steps = steps(k, 2);
            Panels::Bf16(filled([k, n, steps], column, |out, line| {
                for (out, pair) in out.iter_mut().step_by(COLUMNS).zip(line.chunks(2)) {
                    *out = bf16_pair(pair[0], pair.get(1).copied().unwrap_or(0.));
                }
            }))
        }
        _ => Panels::F32(filled([k, n, k], column, |out, line| {
            for (out, &value) in out.iter_mut().step_by(COLUMNS).zip(line) {
                *out = value;
            }
        })),
    }
}

/// The right-hand side of a matrix product, `(k, n)`, in panels of 32 columns: `[panel][step][32]`,
/// the last panel filled up with zeros. In bfloat16 a step is two rows, interleaved, in int8 four, and
/// there are whole chunks of steps. Clones share the memory.
#[derive(Clone, Debug)]
pub struct PackedMatrix {
    k: usize,
    n: usize,
    /// Shared by clones: a network is cloned where several threads or graphs use it.
    panels: Arc<Panels>,
}

#[derive(Debug)]
enum Panels {
    F32(Lines<f32>),
    F16(Lines<half::f16>),
    Bf16(Lines<u32>),
    Int8 { words: Lines<u32>, scales: Vec<f32> },
}

/// Panels one after the other, in words that blocks multiply.
#[derive(Clone, Copy)]
pub(crate) enum Words<'a> {
    Bf16(&'a [u32]),
    /// With the unit of each column.
    Int8(&'a [u32], &'a [f32]),
}

impl<'a> Words<'a> {
    /// All words from the `start`th on, if there are so many.
    pub(crate) fn after(self, start: usize) -> &'a [u32] {
        let (Words::Bf16(words) | Words::Int8(words, _)) = self;
        words.get(start..).unwrap_or_default()
    }
}

impl PackedMatrix {
    /// Packs the matrix whose column `j` is `column(j)`, `k` values; linear weights `(out, in)`
    /// have row `j` there.
    pub fn from_columns<'a>(
        k: usize,
        n: usize,
        storage: Storage,
        column: impl Fn(usize) -> &'a [f32] + Sync,
    ) -> Self {
        let panels = match storage {
            Storage::Int8 => int8_panels(k, n, |j, out| quantise(&column(j)[..k], out).0),
            _ => float_panels(k, n, storage, |j, out| out.copy_from_slice(&column(j)[..k])),
        };
        Self {
            k,
            n,
            panels: Arc::new(panels),
        }
    }

    /// Packs the matrix whose column `j` is `column(j)`, `k` bytes that are int8, in units of
    /// `units[j]`. [`Storage::Int8`] has them as they are.
    pub fn from_int8_columns<'a>(
        k: usize,
        units: &[f32],
        storage: Storage,
        column: impl Fn(usize) -> &'a [u8] + Sync,
    ) -> Self {
        let n = units.len();
        let numbers = |j: usize| column(j)[..k].iter().map(|&byte| byte as i8);
        let panels = match storage {
            Storage::Int8 => int8_panels(k, n, |j, out| {
                for (out, number) in out.iter_mut().zip(numbers(j)) {
                    *out = number;
                }
                units[j]
            }),
            _ => float_panels(k, n, storage, |j, out| {
                for (out, number) in out.iter_mut().zip(numbers(j)) {
                    *out = f32::from(number) * units[j];
                }
            }),
        };
        Self {
            k,
            n,
            panels: Arc::new(panels),
        }
    }

    /// Length of the inner dimension.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Number of columns.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Bytes of a stored value.
    pub(crate) fn value_bytes(&self) -> usize {
        match *self.panels {
            Panels::F32(_) => 4,
            Panels::F16(_) | Panels::Bf16(_) => 2,
            Panels::Int8 { .. } => 1,
        }
    }

    pub(crate) fn panel_count(&self) -> usize {
        self.n.div_ceil(COLUMNS)
    }

    /// What the left operand is to be.
    pub(crate) fn operand(&self) -> Operand {
        match *self.panels {
            Panels::Bf16(_) if bf16_dot() => Operand::Bf16,
            Panels::Int8 { .. } => Operand::Int8,
            _ => Operand::F32,
        }
    }

    /// Some panels where the left operand is in words.
    pub(crate) fn words(&self, panels: Range<usize>) -> Words<'_> {
        let range = |width: usize| panels.start * width..panels.end * width;
        match &*self.panels {
            Panels::Bf16(words) => Words::Bf16(&words[range(steps(self.k, 2) * COLUMNS)]),
            Panels::Int8 { words, scales } => Words::Int8(
                &words[range(steps(self.k, 4) * COLUMNS)],
                &scales[range(COLUMNS)],
            ),
            _ => unreachable!("`operand` decides both"),
        }
    }

    /// Panel `index` where the left operand is float32.
    pub(crate) fn panel(&self, index: usize) -> Cow<'_, [f32]> {
        let length = self.k * COLUMNS;
        match &*self.panels {
            Panels::F32(values) => Cow::Borrowed(&values[index * length..][..length]),
            Panels::F16(values) => {
                let mut wide = vec![0f32; length];
                values[index * length..][..length].convert_to_f32_slice(&mut wide);
                Cow::Owned(wide)
            }
            Panels::Bf16(words) => {
                let steps = steps(self.k, 2);
                let words = &words[index * steps * COLUMNS..][..steps * COLUMNS];
                let mut wide = vec![0f32; 2 * steps * COLUMNS];
                for (pair, words) in wide
                    .chunks_exact_mut(2 * COLUMNS)
                    .zip(words.chunks_exact(COLUMNS))
                {
                    let (first, second) = pair.split_at_mut(COLUMNS);
                    for ((first, second), &word) in first.iter_mut().zip(second).zip(words) {
                        *first = f32::from_bits(word << 16);
                        *second = f32::from_bits(word & 0xffff_0000);
                    }
                }
                wide.truncate(length);
                Cow::Owned(wide)
            }
            Panels::Int8 { .. } => unreachable!("`operand` decides both"),
        }
    }
}
