//! The convolution as a matrix product that reads its left operand in place.
//!
//! The input is copied once into a frame of zeros, one pixel wide, channels last. In the framed
//! image, numbered pixel by pixel, output pixel `p` reads tap `(dy, dx)` at `p + dy *
//! framed_width + dx`: twelve consecutive `p` are twelve rows at a constant stride for every tap,
//! across row ends too. The two columns of the frame are computed and not written.

#![allow(unsafe_code)] // Threads write disjoint pixels of one output; each use states its invariant.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::Conv3x3;
use crate::cpu::{
    COLUMNS, ROWS, Shared, Tile,
    blocks::{BLOCK, CHUNK, HALF, PANELS, Sums, WordRows},
    element::bf16_bits,
    levels::{self, Level, Rows, Task},
    lines::Lines,
    panels::{Operand, Words},
    words::{bf16_blocks, halves},
    written,
};
use crate::linear::cpu::{Finish, Values};

/// Row tiles that share a reading of the panels; their taps stay in the second-level cache.
const TILES_PER_TASK: usize = 8;
/// The same for blocks.
const BLOCKS_PER_TASK: usize = 16;

pub(super) fn forward(x: &[f32], op: &Conv3x3<'_>, residual: Option<&[f32]>) -> Vec<f32> {
    let [batch, height, width] = op.size;
    let n = op.layer.output();
    let fill = |out: &mut [MaybeUninit<f32>]| {
        let out = Values(Shared::new(out));
        let finish = Finish::new(&op.layer.taps, op.activation, residual, out);
        let length = height * width * op.layer.channels;
        for (image, x) in x.chunks_exact(length).enumerate() {
            match op.layer.taps.weight.operand() {
                Operand::Bf16 => multiply_words(x, op, image, &finish),
                _ => multiply(x, op, image, &finish),
            }
        }
    };
    // SAFETY: images, tiles and panels cover the output.
    unsafe { written(batch * height * width * n, fill) }
}

/// One image in float32.
fn multiply(x: &[f32], op: &Conv3x3<'_>, image: usize, finish: &Finish<'_, Values<'_>>) {
    let [_, height, width] = op.size;
    let channels = op.layer.channels;
    let depth = op.layer.taps.weight.k() / 9;
    let tiles = (height * (width + 2)).div_ceil(ROWS);
    let relu = op.relu_first;
    let row = |out: &mut [f32], x: &[f32]| {
        for (out, x) in out.chunks_exact_mut(depth).zip(x.chunks_exact(channels)) {
            for (out, &x) in out.iter_mut().zip(x) {
                *out = if relu { x.max(0.) } else { x };
            }
        }
    };
    let framed = frame(x, op, depth, pixels_read(tiles * ROWS, width + 2), row);
    (0..tiles.div_ceil(TILES_PER_TASK))
        .into_par_iter()
        .for_each(|index| {
            let first = index * TILES_PER_TASK;
            levels::run(&mut TilesTask {
                framed: &framed,
                depth,
                tiles: first..tiles.min(first + TILES_PER_TASK),
                op,
                image,
                finish,
            });
        });
}

/// One image in words of two bfloat16.
fn multiply_words(x: &[f32], op: &Conv3x3<'_>, image: usize, finish: &Finish<'_, Values<'_>>) {
    let [_, height, width] = op.size;
    let (channels, framed_width) = (op.layer.channels, width + 2);
    // A tap's width in words.
    let depth = op.layer.taps.weight.k() / 9 / 2;
    let blocks = (height * framed_width).div_ceil(BLOCK);
    let row = |out: &mut [u32], x: &[f32]| {
        levels::run(&mut PairRow {
            out,
            x,
            depth,
            channels,
            relu: op.relu_first,
        })
    };
    let framed = frame(x, op, depth, pixels_read(blocks * BLOCK, framed_width), row);
    let chunks: Vec<usize> = (0..9)
        .flat_map(|tap| {
            let tap = (tap / 3 * framed_width + tap % 3) * depth;
            (0..depth).step_by(CHUNK).map(move |word| tap + word)
        })
        .collect();
    let wanted = 4 * rayon::current_num_threads();
    let in_task = (blocks / wanted).clamp(1, BLOCKS_PER_TASK);
    (0..blocks.div_ceil(in_task))
        .into_par_iter()
        .for_each(|index| {
            let first = index * in_task;
            levels::run(&mut BlocksTask {
                framed: &framed,
                chunks: &chunks,
                depth,
                blocks: first..blocks.min(first + in_task),
                op,
                image,
                finish,
            });
        });
}

/// Pixels of the framed image up to the last one that is read where the first `pixels` are made, by
/// the tap two rows and two columns further. The last tile may begin in the last row and end beyond
/// the frame.
fn pixels_read(pixels: usize, framed_width: usize) -> usize {
    pixels + 2 * framed_width + 2
}

/// The image inside its frame, `(height + 2, width + 2, depth)` words, at least `pixels` of them,
/// with what the last tile reads beyond.
fn frame<T: Copy + Default + Send>(
    x: &[f32],
    op: &Conv3x3<'_>,
    depth: usize,
    pixels: usize,
    fill: impl Fn(&mut [T], &[f32]) + Sync,
) -> Lines<T> {
    let [_, height, width] = op.size;
    let length = (width + 2) * depth;
    Lines::filled(pixels.div_ceil(width + 2), length, |y, row| {
        let x = x.chunks_exact(width * op.layer.channels);
        if let Some(x) = y.checked_sub(1).and_then(|y| x.take(height).nth(y)) {
            fill(&mut row[depth..length - depth], x);
        }
    })
}

struct PairRow<'a> {
    out: &'a mut [u32],
    x: &'a [f32],
    depth: usize,
    channels: usize,
    relu: bool,
}

impl Task for PairRow<'_> {
    #[inline(always)]
    fn run<L: Level>(&mut self) {
        let floor = if self.relu { 0. } else { f32::NEG_INFINITY };
        if self.channels == 2 * self.depth {
            let (out, _) = self.out.as_chunks_mut();
            for (out, values) in out.iter_mut().zip(self.x.as_chunks().0) {
                let mut values = *values;
                let floors = [floor; COLUMNS];
                L::maximum(&mut values, &floors);
                *out = L::bf16_words(&values);
            }
            return;
        }
        for (out, x) in self
            .out
            .chunks_exact_mut(self.depth)
            .zip(self.x.chunks_exact(self.channels))
        {
            for (out, &value) in halves(out).iter_mut().zip(x) {
                *out = bf16_bits(value.max(floor)) as u16;
            }
        }
    }
}

struct TilesTask<'a> {
    framed: &'a [f32],
    depth: usize,
    tiles: std::ops::Range<usize>,
    op: &'a Conv3x3<'a>,
    image: usize,
    finish: &'a Finish<'a, Values<'a>>,
}

impl Task for TilesTask<'_> {
    #[inline(always)]
    fn run<L: Level>(&mut self) {
        let (framed_width, depth) = (self.op.size[2] + 2, self.depth);
        let mut tile = Tile::ZERO;
        for panel_index in 0..self.op.layer.taps.weight.panel_count() {
            let b = self.op.layer.taps.weight.panel(panel_index);
            for index in self.tiles.clone() {
                let first = index * ROWS;
                let segments: [usize; 9] =
                    std::array::from_fn(|tap| (first + tap / 3 * framed_width + tap % 3) * depth);
                let a = Rows {
                    words: self.framed,
                    segments: &segments,
                    steps: depth,
                    row_stride: depth,
                };
                // SAFETY: `run` chose the level.
                unsafe { L::tile_f32::<ROWS, false>(a, &b, &mut tile) };
                // SAFETY: tiles partition the pixels among the tasks.
                unsafe {
                    self.op
                        .write::<L>(&tile.0, first, self.image, panel_index, self.finish)
                };
            }
        }
    }
}

struct BlocksTask<'a> {
    framed: &'a [u32],
    chunks: &'a [usize],
    depth: usize,
    blocks: std::ops::Range<usize>,
    op: &'a Conv3x3<'a>,
    image: usize,
    finish: &'a Finish<'a, Values<'a>>,
}

impl Task for BlocksTask<'_> {
    #[inline(always)]
    fn run<L: Level>(&mut self) {
        let weight = &self.op.layer.taps.weight;
        let mut sums = [Sums::<f32>::ZERO; PANELS];
        for panel in (0..weight.panel_count()).step_by(PANELS) {
            let panels = panel..weight.panel_count().min(panel + PANELS);
            let sums = &mut sums[..panels.len()];
            let Words::Bf16(b) = weight.words(panels) else {
                unreachable!("`operand` decides both")
            };
            for index in self.blocks.clone() {
                let first = index * BLOCK;
                let a = WordRows {
                    words: self.framed,
                    start: first * self.depth,
                    lower: HALF * self.depth,
                    row_stride: self.depth,
                    chunks: self.chunks,
                };
                bf16_blocks(a, b, &[], sums);
                for (j, sums) in sums.iter().enumerate() {
                    // SAFETY: blocks partition the pixels among the tasks.
                    unsafe {
                        self.op
                            .write::<L>(&sums.0, first, self.image, panel + j, self.finish)
                    };
                }
            }
        }
    }
}

impl Conv3x3<'_> {
    /// Writes the sums of one panel for framed pixels from `first` on, but for those of the frame.
    ///
    /// # Safety
    /// No other thread has them.
    #[inline(always)]
    unsafe fn write<L: Level>(
        &self,
        sums: &[[f32; COLUMNS]],
        first: usize,
        image: usize,
        panel: usize,
        finish: &Finish<'_, Values<'_>>,
    ) {
        let [_, height, width] = self.size;
        for (r, sums) in sums.iter().enumerate() {
            let (y, x) = ((first + r) / (width + 2), (first + r) % (width + 2));
            if x < width && y < height {
                // SAFETY: by the contract above.
                unsafe { finish.row::<L>(sums, (image * height + y) * width + x, panel) };
            }
        }
    }
}
