//! Attention on the CPU, transposed: scores of 32 queries lie side by side, `[key][32]`, so that
//! the softmax runs over rows of whole registers, and the probabilities are already the panel that
//! the second product reads.
//!
//! Keys come in strips that the caches hold. A strip with scores `s` changes a query's largest score
//! from `m` to `m'`; the sum `t` of its probabilities and its weighted values `o` become
//!
//! ```text
//! t' = e^(m - m') t + Σ e^(s - m')        o' = e^(m - m') o + Σ e^(s - m') v
//! ```

#![allow(unsafe_code)] // Threads write disjoint queries of one output; each use states its invariant.

use std::ops::Range;

use super::heads::{Heads, in_groups};
use super::{Attention, words};
use crate::cpu::{
    COLUMNS, ROWS, Shared, Tile,
    elementary::exp,
    levels::{self, Level, Rows, Task, bf16_dot},
    lines::Lines,
};

/// Rows of the second product's tiles: eight divide a head's channels.
const VALUE_ROWS: usize = 8;
/// Tiles of keys in a strip, whose scores fit the first-level cache.
const STRIP_TILES: usize = 20;

pub(super) fn forward(op: &Attention, q: Heads<'_>, k: Heads<'_>, v: Heads<'_>) -> Vec<f32> {
    if op.bf16 && bf16_dot() {
        return words::forward(op, q, k, v);
    }
    let mut out = vec![0f32; op.batch * op.queries * op.heads * op.dim];
    let shared = Shared::new(&mut out);
    let packed = Packed::new(op, k, v);
    in_groups(op, COLUMNS, |head, blocks| {
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

/// Keys in tiles of twelve, `[head][tile][step][12]`, and values transposed in tiles of eight
/// channels, `[head][tile][key][8]`, for every head of every batch item.
struct Packed {
    keys: Lines<f32>,
    values: Lines<f32>,
    key_tiles: usize,
    value_tiles: usize,
}

impl Packed {
    fn new(op: &Attention, k: Heads<'_>, v: Heads<'_>) -> Self {
        let (key_tiles, value_tiles) = (op.keys.div_ceil(ROWS), op.dim.div_ceil(VALUE_ROWS));
        let heads = op.batch * op.heads;
        let keys = Lines::filled(heads, key_tiles * op.dim * ROWS, |head, out| {
            for key in 0..op.keys {
                let tile = &mut out[key / ROWS * op.dim * ROWS..];
                for (step, &value) in k.token(op, head, key).iter().enumerate() {
                    tile[step * ROWS + key % ROWS] = value;
                }
            }
        });
        let values = Lines::filled(heads, value_tiles * op.keys * VALUE_ROWS, |head, out| {
            for key in 0..op.keys {
                let tiles = v.token(op, head, key).chunks(VALUE_ROWS).enumerate();
                for (tile, channels) in tiles {
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

/// Of one block: its queries, `[step][32]`, and over the strips so far each query's largest score,
/// the sum of its probabilities and its weighted values, `[channel][32]`.
struct Block {
    query: Lines<f32>,
    largest: [f32; COLUMNS],
    totals: [f32; COLUMNS],
    values: Vec<[f32; COLUMNS]>,
}

impl Task for GroupTask<'_> {
    #[inline(always)]
    fn run<L: Level>(&mut self) {
        let mut blocks: Vec<Block> = self.blocks.clone().map(|block| self.block(block)).collect();
        let mut scores = Lines::<f32>::zeros(STRIP_TILES * ROWS * COLUMNS);
        for first in (0..self.packed.key_tiles).step_by(STRIP_TILES) {
            let tiles = first..self.packed.key_tiles.min(first + STRIP_TILES);
            let keys = tiles.start * ROWS..self.op.keys.min(tiles.end * ROWS);
            for block in &mut blocks {
                self.scores::<L>(&block.query, tiles.clone(), &mut scores);
                let scores = &mut scores[..keys.len() * COLUMNS];
                let factors = block.softmax::<L>(scores);
                self.mix::<L>(scores, keys.clone(), &factors, &mut block.values);
            }
        }
        for (index, block) in self.blocks.clone().zip(&blocks) {
            self.write(index * COLUMNS, block);
        }
    }
}

impl GroupTask<'_> {
    /// Scaled queries; columns past the last query are zero.
    #[inline(always)]
    fn block(&self, index: usize) -> Block {
        let (op, first) = (self.op, index * COLUMNS);
        let scale = 1. / (op.dim as f32).sqrt();
        let mut query = Lines::<f32>::zeros(op.dim * COLUMNS);
        for (column, token) in (first..op.queries.min(first + COLUMNS)).enumerate() {
            let channels = self.q.token(op, self.head, token);
            for (step, &value) in channels.iter().enumerate() {
                query[step * COLUMNS + column] = value * scale;
            }
        }
        Block {
            query,
            largest: [f32::NEG_INFINITY; COLUMNS],
            totals: [0.; COLUMNS],
            values: vec![[0.; COLUMNS]; op.dim],
        }
    }

    /// `[key][32]` scores of a strip.
    #[inline(always)]
    fn scores<L: Level>(&self, query: &[f32], tiles: Range<usize>, scores: &mut [f32]) {
        let (dim, packed) = (self.op.dim, self.packed);
        let mut tile = Tile::ZERO;
        for (index, out) in tiles.zip(scores.chunks_exact_mut(ROWS * COLUMNS)) {
            let a = Rows {
                words: &packed.keys,
                segments: &[(self.head * packed.key_tiles + index) * dim * ROWS],
                steps: dim,
                row_stride: 0,
            };
            // SAFETY: the level is the CPU's.
            unsafe { L::tile_f32::<ROWS, true>(a, query, &mut tile) };
            out.copy_from_slice(tile.0.as_flattened());
        }
    }

    /// `values = factors values + scores^T v`, of the strip of `keys`.
    #[inline(always)]
    fn mix<L: Level>(
        &self,
        scores: &[f32],
        keys: Range<usize>,
        factors: &[f32; COLUMNS],
        values: &mut [[f32; COLUMNS]],
    ) {
        let packed = self.packed;
        let mut tile = Tile::ZERO;
        for (index, values) in values.chunks_mut(VALUE_ROWS).enumerate() {
            let first = (self.head * packed.value_tiles + index) * self.op.keys + keys.start;
            let a = Rows {
                words: &packed.values,
                segments: &[first * VALUE_ROWS],
                steps: keys.len(),
                row_stride: 0,
            };
            // SAFETY: the level is the CPU's.
            unsafe { L::tile_f32::<VALUE_ROWS, true>(a, scores, &mut tile) };
            for (values, sums) in values.iter_mut().zip(&tile.0) {
                for ((value, factor), &sum) in values.iter_mut().zip(factors).zip(sums) {
                    *value = L::mul_add(*value, *factor, sum);
                }
            }
        }
    }

    /// Writes a block's means of values.
    #[inline(always)]
    fn write(&self, first: usize, block: &Block) {
        let op = self.op;
        for (column, total) in block.totals.iter().enumerate().take(op.queries - first) {
            // SAFETY: heads and queries partition the output among the tasks.
            let out = unsafe { self.out.range(op.output(self.head, first + column), op.dim) };
            for (out, values) in out.iter_mut().zip(&block.values) {
                *out = values[column] / total;
            }
        }
    }
}

impl Block {
    /// Turns a strip's scores into `e^(score - largest)` in place; returns the factors of what was
    /// summed before.
    #[inline(always)]
    fn softmax<L: Level>(&mut self, scores: &mut [f32]) -> [f32; COLUMNS] {
        let (scores, _) = scores.as_chunks_mut::<COLUMNS>();
        let mut largest = self.largest;
        for row in scores.iter() {
            for (largest, &score) in largest.iter_mut().zip(row) {
                *largest = if score > *largest { score } else { *largest };
            }
        }
        let mut sums = [0f32; COLUMNS];
        for row in scores {
            for ((score, largest), sum) in row.iter_mut().zip(&largest).zip(&mut sums) {
                *score = exp::<L>(*score - largest);
                *sum += *score;
            }
        }
        let mut factors = [0f32; COLUMNS];
        for (column, factor) in factors.iter_mut().enumerate() {
            *factor = exp::<L>(self.largest[column] - largest[column]);
            self.totals[column] = L::mul_add(self.totals[column], *factor, sums[column]);
        }
        self.largest = largest;
        factors
    }
}
