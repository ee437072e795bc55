//! Attention on the CPU in bfloat16 with sums in float32: 32 queries of a head at a time, whose
//! scores and probabilities are rows; see cpu.rs for keys in strips.

#![allow(unsafe_code)] // Threads write disjoint queries of one output; each use states its invariant.

use std::ops::Range;

use super::Attention;
use super::heads::{Heads, in_groups};
use crate::cpu::{
    COLUMNS, Shared,
    blocks::{BLOCK, CHUNK, HALF, Sums, WordRows},
    element::{bf16_bits, bf16_pair},
    elementary::exp2,
    levels::{self, Level, Task},
    lines::Lines,
    words::{bf16_blocks, halves},
};

/// Keys of a strip, whose scores fit the first-level cache.
const STRIP: usize = 256;
/// Words between rows of probabilities: an odd number of lines, which do not collide in the cache.
const STRIDE: usize = STRIP / 2 + CHUNK;

pub(super) fn forward(op: &Attention, q: Heads<'_>, k: Heads<'_>, v: Heads<'_>) -> Vec<f32> {
    let mut out = vec![0f32; op.batch * op.queries * op.heads * op.dim];
    let shared = Shared::new(&mut out);
    let packed = Packed::new(op, k, v);
    in_groups(op, BLOCK, |head, blocks| {
        levels::run(&mut GroupTask {
            op,
            q,
            packed: &packed,
            head,
            blocks,
            out: shared,
        });
    });
    out
}

/// Keys and values of every head of every batch item as panels: `[head][32 keys][channels]` and
/// `[head][strip][32 channels][keys]`, in words of two channels or keys.
struct Packed {
    keys: Lines<u32>,
    values: Lines<u32>,
    /// Keys in whole panels.
    padded: usize,
    /// Words of channels, in whole chunks.
    dim_words: usize,
    /// Panels of channels.
    dim_panels: usize,
    dim_chunks: Vec<usize>,
    /// Of a strip.
    key_chunks: Vec<usize>,
}

impl Packed {
    fn new(op: &Attention, k: Heads<'_>, v: Heads<'_>) -> Self {
        let dim_words = op.dim.div_ceil(2).next_multiple_of(CHUNK);
        let dim_panels = op.dim.div_ceil(COLUMNS);
        let padded = op.keys.next_multiple_of(COLUMNS);
        let heads = op.batch * op.heads;
        let keys = Lines::filled(heads, padded * dim_words, |head, out| {
            levels::run(&mut PackKeys { op, k, head, out });
        });
        let values = Lines::filled(heads, padded / 2 * dim_panels * COLUMNS, |head, out| {
            levels::run(&mut PackValues { op, v, head, out });
        });
        let chunks = |words: usize| (0..words).step_by(CHUNK).collect();
        Self {
            keys,
            values,
            padded,
            dim_words,
            dim_panels,
            dim_chunks: chunks(dim_words),
            key_chunks: chunks(STRIP / 2),
        }
    }
}

struct PackKeys<'a> {
    op: &'a Attention,
    k: Heads<'a>,
    head: usize,
    out: &'a mut [u32],
}

impl Task for PackKeys<'_> {
    #[inline(always)]
    fn run<L: Level>(&mut self) {
        let panel = self.out.len() / self.op.keys.div_ceil(COLUMNS);
        let mut line = vec![0u32; panel / COLUMNS];
        for key in 0..self.op.keys {
            let channels = self.k.token(self.op, self.head, key);
            for (out, &value) in halves(&mut line).iter_mut().zip(channels) {
                *out = bf16_bits(value) as u16;
            }
            let column = &mut self.out[key / COLUMNS * panel + key % COLUMNS..];
            for (out, &word) in column.iter_mut().step_by(COLUMNS).zip(&line) {
                *out = word;
            }
        }
    }
}

struct PackValues<'a> {
    op: &'a Attention,
    v: Heads<'a>,
    head: usize,
    out: &'a mut [u32],
}

impl Task for PackValues<'_> {
    #[inline(always)]
    fn run<L: Level>(&mut self) {
        let op = self.op;
        let channels = op.dim.next_multiple_of(COLUMNS);
        let zeros = vec![0f32; op.dim];
        let strips = self.out.chunks_mut(STRIP / 2 * channels).enumerate();
        for (strip, out) in strips {
            let (first, panel) = (strip * STRIP, out.len() / channels * COLUMNS);
            for (step, key) in (first..op.keys.min(first + STRIP)).step_by(2).enumerate() {
                let upper = self.v.token(op, self.head, key);
                let lower = if key + 1 < op.keys {
                    self.v.token(op, self.head, key + 1)
                } else {
                    &zeros
                };
                let columns = upper.chunks(COLUMNS).zip(lower.chunks(COLUMNS));
                for (index, (upper, lower)) in columns.enumerate() {
                    let words = &mut out[index * panel + step * COLUMNS..][..upper.len()];
                    for ((word, &upper), &lower) in words.iter_mut().zip(upper).zip(lower) {
                        *word = bf16_pair(upper, lower);
                    }
                }
            }
        }
    }
}

/// Blocks of 32 queries of one head of one batch item, which read its strips together.
struct GroupTask<'a> {
    op: &'a Attention,
    q: Heads<'a>,
    packed: &'a Packed,
    /// Batch item and head in one index.
    head: usize,
    blocks: Range<usize>,
    out: Shared<'a, f32>,
}

/// Of one block, over the strips so far: each query's largest score, sums of its probabilities in
/// each column of panels and, for each panel of channels, its weighted values.
struct Means {
    largest: [f32; BLOCK],
    totals: Sums<f32>,
    values: Vec<Sums<f32>>,
}

impl Task for GroupTask<'_> {
    #[inline(always)]
    fn run<L: Level>(&mut self) {
        let (op, packed) = (self.op, self.packed);
        let queries = self.queries();
        let mut means: Vec<Means> = self
            .blocks
            .clone()
            .map(|_| Means {
                largest: [f32::NEG_INFINITY; BLOCK],
                totals: Sums::<f32>::ZERO,
                values: vec![Sums::<f32>::ZERO; packed.dim_panels],
            })
            .collect();
        let mut scores = vec![Sums::<f32>::ZERO; STRIP / COLUMNS];
        let mut probabilities = Lines::<u32>::zeros(BLOCK * STRIDE);
        let mut mixed = vec![Sums::<f32>::ZERO; packed.dim_panels];
        for first in (0..op.keys).step_by(STRIP) {
            let keys = STRIP.min(packed.padded - first);
            let start = self.head * packed.padded + first;
            let key_panels = &packed.keys[start * packed.dim_words..][..keys * packed.dim_words];
            let width = packed.dim_panels * CHUNK;
            let value_panels = &packed.values[start * width..][..keys * width];
            let scores = &mut scores[..keys / COLUMNS];
            for (block, means) in means.iter_mut().enumerate() {
                let a = WordRows {
                    words: &queries,
                    start: block * BLOCK * packed.dim_words,
                    lower: HALF * packed.dim_words,
                    row_stride: packed.dim_words,
                    chunks: &packed.dim_chunks,
                };
                bf16_blocks(a, key_panels, &[], scores);
                let beyond = (first + keys).saturating_sub(op.keys);
                let factors = means.softmax::<L>(scores, beyond, &mut probabilities);
                let a = WordRows {
                    words: &probabilities,
                    start: 0,
                    lower: HALF * STRIDE,
                    row_stride: STRIDE,
                    chunks: &packed.key_chunks[..keys / COLUMNS],
                };
                bf16_blocks(a, value_panels, &[], &mut mixed);
                for (values, mixed) in means.values.iter_mut().zip(&mixed) {
                    let rows = values.0.iter_mut().zip(&mixed.0);
                    for ((values, mixed), factor) in rows.zip(factors) {
                        L::scale_add(values, factor, mixed);
                    }
                }
            }
        }
        for (block, means) in self.blocks.clone().zip(&means) {
            self.write(block * BLOCK, means);
        }
    }
}

impl GroupTask<'_> {
    /// All blocks' queries, rows of words; scores are exponents of two.
    #[inline(always)]
    fn queries(&self) -> Lines<u32> {
        let (op, dim_words) = (self.op, self.packed.dim_words);
        let scale = std::f32::consts::LOG2_E / (op.dim as f32).sqrt();
        let mut words = Lines::<u32>::zeros(self.blocks.len() * BLOCK * dim_words);
        let tokens = self.blocks.start * BLOCK..op.queries.min(self.blocks.end * BLOCK);
        for (out, token) in words.chunks_exact_mut(dim_words).zip(tokens) {
            let query = self.q.token(op, self.head, token);
            for (out, &value) in halves(out).iter_mut().zip(query) {
                *out = bf16_bits(value * scale) as u16;
            }
        }
        words
    }

    /// Writes a block's means of values.
    #[inline(always)]
    fn write(&self, first: usize, means: &Means) {
        let op = self.op;
        for (panel, sums) in means.values.iter().enumerate() {
            let width = COLUMNS.min(op.dim - panel * COLUMNS);
            let rows = sums.0.iter().zip(&means.totals.0).enumerate();
            for (r, (sums, totals)) in rows.take(op.queries - first) {
                let at = op.output(self.head, first + r) + panel * COLUMNS;
                // SAFETY: heads and queries partition the output among the tasks.
                let out = unsafe { self.out.range(at, width) };
                let inverse = 1. / totals.iter().sum::<f32>();
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = sum * inverse;
                }
            }
        }
    }
}

impl Means {
    /// Writes `2^(score - largest)` in bfloat16, of scores of which the last `beyond` are of no key;
    /// returns the factors of what was summed before.
    #[inline(always)]
    fn softmax<L: Level>(
        &mut self,
        scores: &mut [Sums<f32>],
        beyond: usize,
        out: &mut [u32],
    ) -> [f32; BLOCK] {
        if let Some(last) = scores.last_mut() {
            for row in &mut last.0 {
                row[COLUMNS - beyond..].fill(f32::NEG_INFINITY);
            }
        }
        let mut maxima = [0f32; BLOCK];
        for (r, maximum) in maxima.iter_mut().enumerate() {
            let mut largest = [self.largest[r]; COLUMNS];
            for scores in scores.iter() {
                L::maximum(&mut largest, &scores.0[r]);
            }
            *maximum = L::largest(&largest);
        }
        let mut factors = [0f32; BLOCK];
        for ((factor, before), maximum) in factors.iter_mut().zip(&self.largest).zip(&maxima) {
            *factor = exp2::<L>(before - maximum);
        }
        self.largest = maxima;
        let rows = self.totals.0.iter_mut().zip(out.chunks_exact_mut(STRIDE));
        for (r, (totals, out)) in rows.enumerate() {
            let (mut factor, largest) = (factors[r], maxima[r]);
            let (out, _) = out.as_chunks_mut();
            for (scores, out) in scores.iter().zip(out) {
                let mut powers = [0f32; COLUMNS];
                for (power, &score) in powers.iter_mut().zip(&scores.0[r]) {
                    *power = exp2::<L>(score - largest);
                }
                L::scale_add(totals, factor, &powers);
                factor = 1.;
                *out = L::bf16_words(&powers);
            }
        }
        factors
    }
}
