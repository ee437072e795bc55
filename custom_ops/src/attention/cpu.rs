//! Attention on the CPU, transposed: scores of 32 queries lie side by side, `[key][32]`, so that
//! the softmax runs over rows of whole registers, and the probabilities are already the panel that
//! the second product reads.

#![allow(unsafe_code)] // Threads write disjoint queries of one output; each use states its invariant.

use rayon::prelude::*;

use super::heads::Heads;
use super::{Attention, words};
use crate::cpu::{
    COLUMNS, ROWS, Shared, Tile,
    elementary::exp,
    levels::{self, Level, Rows, Task, bf16_dot},
};

/// Rows of the second product's tiles: eight divide a head's channels.
const VALUE_ROWS: usize = 8;

pub(super) fn forward(op: &Attention, q: Heads<'_>, k: Heads<'_>, v: Heads<'_>) -> Vec<f32> {
    if op.bf16 && bf16_dot() {
        return words::forward(op, q, k, v);
    }
    let mut out = vec![0f32; op.batch * op.queries * op.heads * op.dim];
    let shared = Shared::new(&mut out);
    let packed = Packed::new(op, k, v);
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
    keys: Vec<f32>,
    values: Vec<f32>,
    key_tiles: usize,
    value_tiles: usize,
}

impl Packed {
    fn new(op: &Attention, k: Heads<'_>, v: Heads<'_>) -> Self {
        let (key_tiles, value_tiles) = (op.keys.div_ceil(ROWS), op.dim.div_ceil(VALUE_ROWS));
        let heads = op.batch * op.heads;
        let (key_words, value_words) = (
            key_tiles * op.dim * ROWS,
            value_tiles * op.keys * VALUE_ROWS,
        );
        let at = |index: usize| (index / op.heads, index % op.heads);
        let mut keys = vec![0f32; heads * key_words];
        keys.par_chunks_exact_mut(key_words)
            .enumerate()
            .for_each(|(index, out)| {
                let (batch, head) = at(index);
                for key in 0..op.keys {
                    let tile = &mut out[key / ROWS * op.dim * ROWS..];
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
                        out[(tile * op.keys + key) * VALUE_ROWS..][..channels.len()]
                            .copy_from_slice(channels);
                    }
                }
            });
        Self {
            keys,
            values,
            key_tiles,
            value_tiles,
        }
    }
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
    query: Vec<f32>,
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
        scratch.query.resize(op.dim * COLUMNS, 0.);
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
        scratch.scores.resize(packed.key_tiles * ROWS * COLUMNS, 0.);
        let mut tile = Tile::ZERO;
        for index in 0..packed.key_tiles {
            let start = (self.head * packed.key_tiles + index) * op.dim * ROWS;
            let a = Rows {
                words: &packed.keys,
                segments: &[start],
                steps: op.dim,
                row_stride: 0,
            };
            // SAFETY: the level is the CPU's.
            unsafe { L::tile_f32::<ROWS, true>(a, &scratch.query, &mut tile) };
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
        sums
    }

    /// The weighted mean of the values, written to the output.
    #[inline(always)]
    fn mix<L: Level>(&self, scratch: &Scratch, sums: &[f32; COLUMNS]) {
        let (op, packed) = (self.op, self.packed);
        let (batch, head) = (self.head / op.heads, self.head % op.heads);
        let mut tile = Tile::ZERO;
        for index in 0..packed.value_tiles {
            let start = (self.head * packed.value_tiles + index) * op.keys * VALUE_ROWS;
            let a = Rows {
                words: &packed.values,
                segments: &[start],
                steps: op.keys,
                row_stride: 0,
            };
            // SAFETY: the level is the CPU's.
            unsafe { L::tile_f32::<VALUE_ROWS, true>(a, &scratch.scores, &mut tile) };
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
