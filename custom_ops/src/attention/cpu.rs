//! Attention on the CPU, transposed: scores of 32 queries lie side by side, `[key][32]`, so that
//! the softmax runs over rows of whole registers, and the probabilities are already the panel that
//! the second product reads.

#![allow(unsafe_code)] // Threads write disjoint queries of one output; each use states its invariant.

use candle_core::{CpuStorage, Layout, Result, bail};
use rayon::prelude::*;

use super::Attention;
use crate::cpu::{
    COLUMNS, ROWS, Shared, Tile,
    elementary::{bf16_pair, exp},
    levels::{self, Level, Rows, Task, bf16_dot},
    strided_f32,
};

/// Rows of the second product's tiles: eight divide a head's channels.
const VALUE_ROWS: usize = 8;

/// A `(batch, tokens, heads, dim)` argument in place.
#[derive(Clone, Copy)]
pub(super) struct Heads<'a> {
    values: &'a [f32],
    batch: usize,
    token: usize,
    head: usize,
}

impl<'a> Heads<'a> {
    pub(super) fn new(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let values = strided_f32("attention", storage, layout)?;
        match layout.stride() {
            &[batch, token, head, 1] => Ok(Self {
                values,
                batch,
                token,
                head,
            }),
            // A dimension of one may carry any stride.
            &[batch, token, head, _] if layout.dims()[3] == 1 => Ok(Self {
                values,
                batch,
                token,
                head,
            }),
            strides => bail!("attention: channels must be contiguous, got strides {strides:?}"),
        }
    }

    fn token(&self, batch: usize, head: usize, token: usize, dim: usize) -> &'a [f32] {
        &self.values[batch * self.batch + head * self.head + token * self.token..][..dim]
    }
}

pub(super) fn forward(op: &Attention, q: Heads<'_>, k: Heads<'_>, v: Heads<'_>) -> Vec<f32> {
    let mut out = vec![0f32; op.batch * op.queries * op.heads * op.dim];
    let shared = Shared::new(&mut out);
    let pairs = op.bf16 && bf16_dot();
    let packed = Packed::new(op, k, v, pairs);
    let blocks = op.queries.div_ceil(COLUMNS);
    (0..op.batch * op.heads * blocks)
        .into_par_iter()
        .for_each_init(Scratch::default, |scratch, index| {
            let (head, block) = (index / blocks, index % blocks);
            let block = Block {
                op,
                q,
                packed: &packed,
                head,
                first: block * COLUMNS,
                out: shared,
            };
            levels::run(&mut BlockTask {
                block: &block,
                scratch,
            });
        });
    out
}

/// Keys in tiles of twelve, `[head][tile][step][12]`, and values transposed in tiles of eight
/// channels, `[head][tile][key][8]`, for every head of every batch item.
struct Packed {
    keys: Words,
    values: Words,
    /// Steps of the first product: channels, or pairs of them.
    dim_steps: usize,
    /// Steps of the second product: keys, or pairs of them.
    key_steps: usize,
    key_tiles: usize,
    value_tiles: usize,
}

enum Words {
    F32(Vec<f32>),
    Bf16(Vec<u32>),
}

impl Packed {
    fn new(op: &Attention, k: Heads<'_>, v: Heads<'_>, pairs: bool) -> Self {
        let steps = |count: usize| if pairs { count.div_ceil(2) } else { count };
        let (dim_steps, key_steps) = (steps(op.dim), steps(op.keys));
        let (key_tiles, value_tiles) = (op.keys.div_ceil(ROWS), op.dim.div_ceil(VALUE_ROWS));
        let heads = op.batch * op.heads;
        let (key_words, value_words) = (
            key_tiles * dim_steps * ROWS,
            value_tiles * key_steps * VALUE_ROWS,
        );
        let at = |index: usize| (index / op.heads, index % op.heads);
        let (keys, values) = if pairs {
            let mut keys = vec![0u32; heads * key_words];
            keys.par_chunks_exact_mut(key_words)
                .enumerate()
                .for_each(|(index, out)| {
                    let (batch, head) = at(index);
                    for key in 0..op.keys {
                        let tile = &mut out[key / ROWS * dim_steps * ROWS..];
                        for (step, pair) in k.token(batch, head, key, op.dim).chunks(2).enumerate()
                        {
                            tile[step * ROWS + key % ROWS] =
                                bf16_pair(pair[0], pair.get(1).copied().unwrap_or(0.));
                        }
                    }
                });
            let mut values = vec![0u32; heads * value_words];
            let zeros = vec![0f32; op.dim];
            values
                .par_chunks_exact_mut(value_words)
                .enumerate()
                .for_each(|(index, out)| {
                    let (batch, head) = at(index);
                    for step in 0..key_steps {
                        let first = v.token(batch, head, 2 * step, op.dim);
                        let odd_end = 2 * step + 1 == op.keys;
                        let second = if odd_end {
                            &zeros
                        } else {
                            v.token(batch, head, 2 * step + 1, op.dim)
                        };
                        for (channel, (&first, &second)) in first.iter().zip(second).enumerate() {
                            out[(channel / VALUE_ROWS * key_steps + step) * VALUE_ROWS
                                + channel % VALUE_ROWS] = bf16_pair(first, second);
                        }
                    }
                });
            (Words::Bf16(keys), Words::Bf16(values))
        } else {
            let mut keys = vec![0f32; heads * key_words];
            keys.par_chunks_exact_mut(key_words)
                .enumerate()
                .for_each(|(index, out)| {
                    let (batch, head) = at(index);
                    for key in 0..op.keys {
                        let tile = &mut out[key / ROWS * dim_steps * ROWS..];
                        for (step, &value) in k.token(batch, head, key, op.dim).iter().enumerate() {
                            tile[step * ROWS + key % ROWS] = value;
                        }
                    }
                });
            let mut values = vec![0f32; heads * value_words];
            values
                .par_chunks_exact_mut(value_words)
                .enumerate()
                .for_each(|(index, out)| {
                    let (batch, head) = at(index);
                    for key in 0..op.keys {
                        for (tile, channels) in v
                            .token(batch, head, key, op.dim)
                            .chunks(VALUE_ROWS)
                            .enumerate()
                        {
                            out[(tile * key_steps + key) * VALUE_ROWS..][..channels.len()]
                                .copy_from_slice(channels);
                        }
                    }
                });
            (Words::F32(keys), Words::F32(values))
        };
        Self {
            keys,
            values,
            dim_steps,
            key_steps,
            key_tiles,
            value_tiles,
        }
    }
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
    query_words: Vec<u32>,
    query: Vec<f32>,
    probability_words: Vec<u32>,
}

/// Up to 32 queries of one head of one batch item.
struct Block<'a> {
    op: &'a Attention,
    q: Heads<'a>,
    packed: &'a Packed,
    /// Batch item and head in one index.
    head: usize,
    /// The first query.
    first: usize,
    out: Shared<'a, f32>,
}

struct BlockTask<'a> {
    block: &'a Block<'a>,
    scratch: &'a mut Scratch,
}

impl Task for BlockTask<'_> {
    #[inline(always)]
    fn run<L: Level>(&mut self) {
        self.block.scores::<L>(self.scratch);
        let sums = self.block.softmax::<L>(self.scratch);
        self.block.mix::<L>(self.scratch, &sums);
    }
}

impl Block<'_> {
    fn width(&self) -> usize {
        COLUMNS.min(self.op.queries - self.first)
    }

    /// `[key][32]` scaled scores; columns past the last query are zero.
    #[inline(always)]
    fn scores<L: Level>(&self, scratch: &mut Scratch) {
        let (op, packed) = (self.op, self.packed);
        let (batch, head) = (self.head / op.heads, self.head % op.heads);
        let scale = 1. / (op.dim as f32).sqrt();
        scratch.query.clear();
        scratch
            .query
            .resize(op.dim.next_multiple_of(2) * COLUMNS, 0.);
        for column in 0..self.width() {
            for (step, &value) in self
                .q
                .token(batch, head, self.first + column, op.dim)
                .iter()
                .enumerate()
            {
                scratch.query[step * COLUMNS + column] = value * scale;
            }
        }
        if matches!(packed.keys, Words::Bf16(_)) {
            scratch.query_words.resize(packed.dim_steps * COLUMNS, 0);
            interleave(&scratch.query, &mut scratch.query_words);
        }
        scratch.scores.resize(packed.key_tiles * ROWS * COLUMNS, 0.);
        let mut tile = Tile::ZERO;
        for index in 0..packed.key_tiles {
            let start = (self.head * packed.key_tiles + index) * packed.dim_steps * ROWS;
            match &packed.keys {
                Words::F32(words) => {
                    let a = Rows {
                        words,
                        segments: &[start],
                        steps: packed.dim_steps,
                        row_stride: 0,
                    };
                    // SAFETY: the level is the CPU's.
                    unsafe { L::tile_f32::<ROWS, true>(a, &scratch.query, &mut tile) };
                }
                Words::Bf16(words) => {
                    let a = Rows {
                        words,
                        segments: &[start],
                        steps: packed.dim_steps,
                        row_stride: 0,
                    };
                    // SAFETY: as above.
                    unsafe { L::tile_bf16::<ROWS, true>(a, &scratch.query_words, &mut tile) };
                }
            }
            let rows = scratch.scores[index * ROWS * COLUMNS..].chunks_exact_mut(COLUMNS);
            for (scores, sums) in rows.zip(&tile.0) {
                scores.copy_from_slice(sums);
            }
        }
    }

    /// Turns scores into `exp(score - max)` in place and returns each query's sum of them.
    #[inline(always)]
    fn softmax<L: Level>(&self, scratch: &mut Scratch) -> [f32; COLUMNS] {
        let keys = self.op.keys;
        let scores = &mut scratch.scores[..keys * COLUMNS];
        let mut largest = [f32::NEG_INFINITY; COLUMNS];
        for row in scores.chunks_exact(COLUMNS) {
            for (largest, &score) in largest.iter_mut().zip(row) {
                *largest = if score > *largest { score } else { *largest };
            }
        }
        let mut sums = [0f32; COLUMNS];
        for row in scores.chunks_exact_mut(COLUMNS) {
            for ((score, largest), sum) in row.iter_mut().zip(&largest).zip(&mut sums) {
                *score = exp::<L>(*score - largest);
                *sum += *score;
            }
        }
        if matches!(self.packed.values, Words::Bf16(_)) {
            if keys % 2 == 1 {
                // Tiles of twelve leave room for the missing half of the last pair.
                scratch.scores[keys * COLUMNS..][..COLUMNS].fill(0.);
            }
            scratch
                .probability_words
                .resize(self.packed.key_steps * COLUMNS, 0);
            interleave(&scratch.scores, &mut scratch.probability_words);
        }
        sums
    }

    /// The weighted mean of the values, written to the output.
    #[inline(always)]
    fn mix<L: Level>(&self, scratch: &Scratch, sums: &[f32; COLUMNS]) {
        let (op, packed) = (self.op, self.packed);
        let (batch, head) = (self.head / op.heads, self.head % op.heads);
        let mut tile = Tile::ZERO;
        for index in 0..packed.value_tiles {
            let start = (self.head * packed.value_tiles + index) * packed.key_steps * VALUE_ROWS;
            match &packed.values {
                Words::F32(words) => {
                    let a = Rows {
                        words,
                        segments: &[start],
                        steps: packed.key_steps,
                        row_stride: 0,
                    };
                    // SAFETY: the level is the CPU's.
                    unsafe { L::tile_f32::<VALUE_ROWS, true>(a, &scratch.scores, &mut tile) };
                }
                Words::Bf16(words) => {
                    let a = Rows {
                        words,
                        segments: &[start],
                        steps: packed.key_steps,
                        row_stride: 0,
                    };
                    // SAFETY: as above.
                    unsafe {
                        L::tile_bf16::<VALUE_ROWS, true>(a, &scratch.probability_words, &mut tile)
                    };
                }
            }
            let channels = VALUE_ROWS.min(op.dim - index * VALUE_ROWS);
            for (column, sum) in sums.iter().enumerate().take(self.width()) {
                let token = batch * op.queries + self.first + column;
                let at = (token * op.heads + head) * op.dim + index * VALUE_ROWS;
                // SAFETY: heads and queries partition the output among the tasks.
                let out = unsafe { self.out.range(at, channels) };
                for (out, row) in out.iter_mut().zip(&tile.0) {
                    *out = row[column] / sum;
                }
            }
        }
    }
}

/// Rows `2s` and `2s + 1` of `[row][32]` become row `s` of pairs.
#[inline(always)]
fn interleave(rows: &[f32], words: &mut [u32]) {
    for (words, pair) in words
        .chunks_exact_mut(COLUMNS)
        .zip(rows.chunks_exact(2 * COLUMNS))
    {
        let (first, second) = pair.split_at(COLUMNS);
        for ((word, &first), &second) in words.iter_mut().zip(first).zip(second) {
            *word = bf16_pair(first, second);
        }
    }
}
