//! Attention on the CPU in bfloat16 with sums in float32: 32 queries of a head at a time, whose
//! scores and probabilities are rows.

#![allow(unsafe_code)] // Threads write disjoint queries of one output; each use states its invariant.

use rayon::prelude::*;

use super::Attention;
use super::heads::Heads;
use crate::cpu::{
    COLUMNS, Shared,
    blocks::{BLOCK, CHUNK, From, HALF, Sums, WordRows},
    elementary::{bf16_bits, bf16_pair, exp2},
    levels::{self, Level, Task},
    words::{bf16_block, halves},
};

pub(super) fn forward(op: &Attention, q: Heads<'_>, k: Heads<'_>, v: Heads<'_>) -> Vec<f32> {
    let mut out = vec![0f32; op.batch * op.queries * op.heads * op.dim];
    let shared = Shared::new(&mut out);
    let packed = Packed::new(op, k, v);
    let blocks = op.queries.div_ceil(BLOCK);
    (0..op.batch * op.heads * blocks)
        .into_par_iter()
        .for_each_init(
            || Scratch::new(&packed),
            |scratch, index| {
                levels::run(&mut BlockTask {
                    op,
                    q,
                    packed: &packed,
                    head: index / blocks,
                    first: index % blocks * BLOCK,
                    out: shared,
                    scratch,
                });
            },
        );
    out
}

/// Keys and values of every head of every batch item as panels: `[head][32 keys][channels]` and
/// `[head][32 channels][keys]`, in words of two channels or keys.
struct Packed {
    keys: Vec<u32>,
    values: Vec<u32>,
    /// Words of channels, in whole chunks.
    dim_words: usize,
    /// Words of keys, in whole chunks; as many pairs as there are keys in whole panels.
    key_words: usize,
    dim_chunks: Vec<usize>,
    key_chunks: Vec<usize>,
}

impl Packed {
    fn new(op: &Attention, k: Heads<'_>, v: Heads<'_>) -> Self {
        let dim_words = op.dim.div_ceil(2).next_multiple_of(CHUNK);
        let key_words = op.keys.div_ceil(2).next_multiple_of(CHUNK);
        let heads = op.batch * op.heads;
        let (panel, value_panel) = (dim_words * COLUMNS, key_words * COLUMNS);
        let key_length = 2 * key_words / COLUMNS * panel;
        let value_length = op.dim.div_ceil(COLUMNS) * value_panel;
        let mut keys = vec![0u32; heads * key_length];
        let mut values = vec![0u32; heads * value_length];
        keys.par_chunks_exact_mut(key_length)
            .zip(values.par_chunks_exact_mut(value_length))
            .enumerate()
            .for_each(|(index, (keys, values))| {
                levels::run(&mut PackHead {
                    op,
                    k,
                    v,
                    index,
                    keys: (keys, panel),
                    values: (values, value_panel),
                });
            });
        let chunks = |words: usize| (0..words).step_by(CHUNK).collect();
        Self {
            keys,
            values,
            dim_words,
            key_words,
            dim_chunks: chunks(dim_words),
            key_chunks: chunks(key_words),
        }
    }
}

struct PackHead<'a> {
    op: &'a Attention,
    k: Heads<'a>,
    v: Heads<'a>,
    /// Batch item and head in one index.
    index: usize,
    /// The head's panels and the words of one.
    keys: (&'a mut [u32], usize),
    values: (&'a mut [u32], usize),
}

impl Task for PackHead<'_> {
    #[inline(always)]
    fn run<L: Level>(&mut self) {
        let (op, dim) = (self.op, self.op.dim);
        let (batch, head) = (self.index / op.heads, self.index % op.heads);
        let (keys, panel) = (&mut *self.keys.0, self.keys.1);
        for key in 0..op.keys {
            let column = &mut keys[key / COLUMNS * panel + key % COLUMNS..];
            let pairs = self.k.token(batch, head, key, dim).chunks(2);
            for (word, pair) in column.iter_mut().step_by(COLUMNS).zip(pairs) {
                *word = bf16_pair(pair[0], pair.get(1).copied().unwrap_or(0.));
            }
        }
        let (values, panel) = (&mut *self.values.0, self.values.1);
        let zeros = vec![0f32; dim];
        for step in 0..op.keys.div_ceil(2) {
            let first = self.v.token(batch, head, 2 * step, dim);
            let second = if 2 * step + 1 < op.keys {
                self.v.token(batch, head, 2 * step + 1, dim)
            } else {
                &zeros
            };
            let columns = first.chunks(COLUMNS).zip(second.chunks(COLUMNS));
            for (index, (first, second)) in columns.enumerate() {
                let words = &mut values[index * panel + step * COLUMNS..][..first.len()];
                for ((word, &first), &second) in words.iter_mut().zip(first).zip(second) {
                    *word = bf16_pair(first, second);
                }
            }
        }
    }
}

/// Buffers of one thread.
struct Scratch {
    /// 32 rows of channels.
    queries: Vec<u32>,
    /// 32 rows of keys.
    scores: Vec<f32>,
    probabilities: Vec<u32>,
}

impl Scratch {
    fn new(packed: &Packed) -> Self {
        Self {
            queries: vec![0; BLOCK * packed.dim_words],
            scores: vec![0.; BLOCK * 2 * packed.key_words],
            probabilities: vec![0; BLOCK * probability_stride(packed)],
        }
    }
}

/// Words between rows of probabilities: an odd number of lines, which do not collide in the cache.
fn probability_stride(packed: &Packed) -> usize {
    packed.key_words + CHUNK * (1 + packed.key_words / CHUNK % 2)
}

/// Up to 32 queries of one head of one batch item.
struct BlockTask<'a> {
    op: &'a Attention,
    q: Heads<'a>,
    packed: &'a Packed,
    /// Batch item and head in one index.
    head: usize,
    /// The first query.
    first: usize,
    out: Shared<'a, f32>,
    scratch: &'a mut Scratch,
}

impl Task for BlockTask<'_> {
    #[inline(always)]
    fn run<L: Level>(&mut self) {
        let (op, packed) = (self.op, self.packed);
        let (batch, head) = (self.head / op.heads, self.head % op.heads);
        let rows = BLOCK.min(op.queries - self.first);
        let Scratch {
            queries,
            scores,
            probabilities,
        } = &mut *self.scratch;
        // Scores are exponents of two.
        let scale = std::f32::consts::LOG2_E / (op.dim as f32).sqrt();
        for (r, out) in queries.chunks_exact_mut(packed.dim_words).enumerate() {
            if r >= rows {
                out.fill(0);
                continue;
            }
            let query = self.q.token(batch, head, self.first + r, op.dim);
            for (out, &value) in halves(out).iter_mut().zip(query) {
                *out = bf16_bits(value * scale) as u16;
            }
        }
        let a = WordRows {
            words: queries,
            start: 0,
            lower: HALF * packed.dim_words,
            row_stride: packed.dim_words,
            chunks: &packed.dim_chunks,
        };
        let mut sums = Sums::<f32>::ZERO;
        let padded = 2 * packed.key_words;
        let panel = packed.dim_words * COLUMNS;
        for index in 0..op.keys.div_ceil(COLUMNS) {
            let at = (self.head * (padded / COLUMNS) + index) * panel;
            bf16_block(a, &packed.keys[at..][..panel], &mut sums, From::Zero);
            for (r, sums) in sums.0.iter().enumerate().take(rows) {
                scores[r * padded + index * COLUMNS..][..COLUMNS].copy_from_slice(sums);
            }
        }
        let stride = probability_stride(packed);
        let mut totals = [0f32; BLOCK];
        for (r, total) in totals.iter_mut().enumerate().take(rows) {
            let scores = &mut scores[r * padded..][..padded];
            scores[op.keys..].fill(f32::NEG_INFINITY);
            *total = softmax::<L>(scores, halves(&mut probabilities[r * stride..][..stride]));
        }
        let a = WordRows {
            words: probabilities,
            start: 0,
            lower: HALF * stride,
            row_stride: stride,
            chunks: &packed.key_chunks,
        };
        let panel = packed.key_words * COLUMNS;
        for (index, from) in (0..op.dim).step_by(COLUMNS).enumerate() {
            let at = (self.head * op.dim.div_ceil(COLUMNS) + index) * panel;
            bf16_block(a, &packed.values[at..][..panel], &mut sums, From::Zero);
            let width = COLUMNS.min(op.dim - from);
            for ((r, sums), total) in sums.0.iter().enumerate().zip(totals).take(rows) {
                let token = batch * op.queries + self.first + r;
                // SAFETY: heads and queries partition the output among the tasks.
                let out = unsafe {
                    self.out
                        .range((token * op.heads + head) * op.dim + from, width)
                };
                let inverse = 1. / total;
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = sum * inverse;
                }
            }
        }
    }
}

/// Writes `2^(score - largest)` in bfloat16 and returns the sum; as many scores as whole panels.
#[inline(always)]
fn softmax<L: Level>(scores: &[f32], out: &mut [u16]) -> f32 {
    // Arrays, over which loops become a few instructions.
    let (scores, _) = scores.as_chunks::<COLUMNS>();
    let (out, _) = out.as_chunks_mut::<COLUMNS>();
    let mut largest = [f32::NEG_INFINITY; COLUMNS];
    for scores in scores {
        for (largest, &score) in largest.iter_mut().zip(scores) {
            *largest = if score > *largest { score } else { *largest };
        }
    }
    let largest = largest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0f32; COLUMNS];
    for (scores, out) in scores.iter().zip(out) {
        let mut powers = [0f32; COLUMNS];
        for ((power, &score), sum) in powers.iter_mut().zip(scores).zip(&mut sums) {
            *power = exp2::<L>(score - largest);
            *sum += *power;
        }
        for (out, &power) in out.iter_mut().zip(&powers) {
            *out = bf16_bits(power) as u16;
        }
    }
    sums.iter().sum()
}
