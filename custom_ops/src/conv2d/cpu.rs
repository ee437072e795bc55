//! The convolution as a matrix product that reads its left operand in place.
//!
//! The input is copied once into a frame of zeros, one pixel wide, channels last. In the framed
//! image, numbered pixel by pixel, output pixel `p` reads tap `(dy, dx)` at `p + dy *
//! framed_width + dx`: twelve consecutive `p` are twelve rows at a constant stride for every tap,
//! across row ends too. The two columns of the frame are computed and not written.

#![allow(unsafe_code)] // Threads write disjoint pixels of one output; each use states its invariant.

use rayon::prelude::*;

use super::Conv3x3;
use crate::cpu::{
    ROWS, Shared, Tile,
    elementary::bf16_pair,
    levels::{self, Level, Rows, Task},
    panels::Panel,
};
use crate::linear::cpu::Finish;

/// Row tiles that share a reading of the panels; their taps stay in the second-level cache.
const TILES_PER_TASK: usize = 8;

pub(super) fn forward(x: &[f32], op: &Conv3x3<'_>, residual: Option<&[f32]>) -> Vec<f32> {
    let [batch, height, width] = op.size;
    let n = op.layer.output();
    let mut out = vec![0f32; batch * height * width * n];
    let finish = Finish {
        n,
        bias: &op.layer.taps.bias,
        activation: op.activation,
        residual,
        out: Shared::new(&mut out),
    };
    let channels = op.layer.channels;
    let pairs = op.layer.taps.weight.in_pairs();
    // A tap's width in words.
    let depth = if pairs {
        channels.div_ceil(2)
    } else {
        op.layer.taps.weight.k() / 9
    };
    let framed_width = width + 2;
    let tiles = (height * framed_width).div_ceil(ROWS);
    let framed_length = pixels_read(tiles, framed_width) * depth;
    for (image, x) in x.chunks_exact(height * width * channels).enumerate() {
        let framed = if pairs {
            let row = |out: &mut [u32], x: &[f32]| {
                levels::run(&mut PairRow {
                    out,
                    x,
                    channels,
                    op,
                })
            };
            Framed::Bf16(frame(x, op, depth, framed_length, row))
        } else {
            let relu = op.relu_first;
            let row = |out: &mut [f32], x: &[f32]| {
                for (out, x) in out.chunks_exact_mut(depth).zip(x.chunks_exact(channels)) {
                    for (out, &x) in out.iter_mut().zip(x) {
                        *out = if relu { x.max(0.) } else { x };
                    }
                }
            };
            Framed::F32(frame(x, op, depth, framed_length, row))
        };
        (0..tiles.div_ceil(TILES_PER_TASK))
            .into_par_iter()
            .for_each(|index| {
                let first = index * TILES_PER_TASK;
                let tiles = first..tiles.min(first + TILES_PER_TASK);
                levels::run(&mut TilesTask {
                    framed: &framed,
                    depth,
                    tiles,
                    op,
                    image,
                    finish: &finish,
                });
            });
    }
    out
}

/// Pixels of the framed image up to the last one that the first `tiles` tiles read, by the tap
/// two rows and two columns further. The last tile may begin in the last row and end beyond the
/// frame.
fn pixels_read(tiles: usize, framed_width: usize) -> usize {
    tiles * ROWS + 2 * framed_width + 2
}

/// The image inside its frame, `(height + 2, width + 2, depth)` words, and what the last tile
/// reads beyond.
enum Framed {
    F32(Vec<f32>),
    Bf16(Vec<u32>),
}

fn frame<T: Copy + Default + Send>(
    x: &[f32],
    op: &Conv3x3<'_>,
    depth: usize,
    length: usize,
    fill: impl Fn(&mut [T], &[f32]) + Sync,
) -> Vec<T> {
    let [_, height, width] = op.size;
    let mut framed = vec![T::default(); length];
    let rows = framed[(width + 2) * depth..]
        .par_chunks_exact_mut((width + 2) * depth)
        .take(height);
    rows.zip(x.par_chunks_exact(width * op.layer.channels))
        .for_each(|(row, x)| {
            fill(&mut row[depth..(width + 1) * depth], x);
        });
    framed
}

struct PairRow<'a> {
    out: &'a mut [u32],
    x: &'a [f32],
    channels: usize,
    op: &'a Conv3x3<'a>,
}

impl Task for PairRow<'_> {
    #[inline(always)]
    fn run<L: Level>(&mut self) {
        let depth = self.channels.div_ceil(2);
        let floor = if self.op.relu_first {
            0.
        } else {
            f32::NEG_INFINITY
        };
        for (out, x) in self
            .out
            .chunks_exact_mut(depth)
            .zip(self.x.chunks_exact(self.channels))
        {
            for (out, pair) in out.iter_mut().zip(x.chunks_exact(2)) {
                *out = bf16_pair(pair[0].max(floor), pair[1].max(floor));
            }
            if let [last] = x.chunks_exact(2).remainder() {
                out[depth - 1] = bf16_pair(last.max(floor), 0.);
            }
        }
    }
}

struct TilesTask<'a> {
    framed: &'a Framed,
    depth: usize,
    tiles: std::ops::Range<usize>,
    op: &'a Conv3x3<'a>,
    image: usize,
    finish: &'a Finish<'a>,
}

impl Task for TilesTask<'_> {
    #[inline(always)]
    fn run<L: Level>(&mut self) {
        let [_, height, width] = self.op.size;
        let (framed_width, depth) = (width + 2, self.depth);
        let mut tile = Tile::ZERO;
        for panel_index in 0..self.op.layer.taps.weight.panel_count() {
            let panel = self.op.layer.taps.weight.panel(panel_index);
            for index in self.tiles.clone() {
                let first = index * ROWS;
                let segments: [usize; 9] =
                    std::array::from_fn(|tap| (first + tap / 3 * framed_width + tap % 3) * depth);
                match (self.framed, &panel) {
                    (Framed::F32(words), Panel::F32(b)) => {
                        let a = Rows {
                            words,
                            segments: &segments,
                            steps: depth,
                            row_stride: depth,
                        };
                        // SAFETY: `run` chose the level.
                        unsafe { L::tile_f32::<ROWS, false>(a, b, &mut tile) };
                    }
                    (Framed::Bf16(words), Panel::Bf16(b)) => {
                        let a = Rows {
                            words,
                            segments: &segments,
                            steps: depth,
                            row_stride: depth,
                        };
                        // SAFETY: as above.
                        unsafe { L::tile_bf16::<ROWS, false>(a, b, &mut tile) };
                    }
                    _ => unreachable!("`in_pairs` decides both"),
                }
                for (r, sums) in tile.0.iter().enumerate() {
                    let (y, x) = ((first + r) / framed_width, (first + r) % framed_width);
                    if x < width && y < height {
                        let row = (self.image * height + y) * width + x;
                        // SAFETY: tiles partition the pixels among the tasks.
                        unsafe { self.finish.row::<L>(sums, row, panel_index) };
                    }
                }
            }
        }
    }
}
