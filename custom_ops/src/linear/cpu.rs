//! Linear layers on the CPU: the input is packed into row tiles once, then every panel of weights
//! is read once.

#![allow(unsafe_code)] // Tiles of several threads share one output; each use states its invariant.

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use super::{Activation, PackedLinear};
use crate::cpu::{
    COLUMNS, ROWS, Shared, Tile,
    blocks::{BLOCK, CHUNK, FETCHES, HALF, PANELS, Sums},
    elementary::gelu,
    levels::{self, Level, Rows, Task},
    panels::{Operand, Words},
    words::{PackedRows, bf16_blocks, int8_blocks},
    written,
};

/// `activation(x W + b) + residual` for row major `x` `(rows, k)`.
pub(super) fn forward(
    x: &[f32],
    layer: &PackedLinear,
    activation: Activation,
    residual: Option<&[f32]>,
) -> Vec<f32> {
    let (k, n) = (layer.weight.k(), layer.weight.n());
    match layer.weight.operand() {
        Operand::Bf16 => forward_packed(&PackedRows::bf16(x, k), layer, activation, residual),
        Operand::Int8 => forward_packed(&PackedRows::int8(x, k), layer, activation, residual),
        Operand::F32 => {
            let rows = x.len() / k;
            let fill = |out: &mut [MaybeUninit<f32>]| {
                let out = Values(Shared::new(out));
                let finish = Finish::new(layer, activation, residual, out);
                multiply(&row_tiles(x, k), rows, layer, &finish);
            };
            // SAFETY: tiles and panels cover the output.
            unsafe { written(rows * n, fill) }
        }
    }
}

/// The same of words.
pub(super) fn forward_packed(
    x: &PackedRows,
    layer: &PackedLinear,
    activation: Activation,
    residual: Option<&[f32]>,
) -> Vec<f32> {
    let fill = |out: &mut [MaybeUninit<f32>]| {
        let out = Values(Shared::new(out));
        let finish = Finish::new(layer, activation, residual, out);
        multiply_words(x, x.rows(), layer, &finish);
    };
    // SAFETY: blocks and panels cover the output.
    unsafe { written(x.rows() * layer.weight.n(), fill) }
}

/// `activation(x W + b)` in words of two bfloat16.
pub(super) fn forward_to_words(
    x: &PackedRows,
    layer: &PackedLinear,
    activation: Activation,
) -> PackedRows {
    let fill = |out: &mut [MaybeUninit<u32>]| {
        let out = Packed(Shared::new(out));
        let finish = Finish::new(layer, activation, None, out);
        multiply_words(x, x.rows().next_multiple_of(BLOCK), layer, &finish);
    };
    // SAFETY: whole blocks and panels cover the words.
    unsafe { PackedRows::written(x.rows(), layer.weight.n(), fill) }
}

/// The left operand, `[tile][step][12]`, rows past the last filled with zeros.
fn row_tiles(x: &[f32], k: usize) -> Vec<f32> {
    let rows = x.len() / k;
    let mut words = vec![0f32; rows.div_ceil(ROWS) * ROWS * k];
    words
        .par_chunks_mut(ROWS * k)
        .zip(x.par_chunks(ROWS * k))
        .for_each(|(tile, x)| {
            for (r, row) in x.chunks_exact(k).enumerate() {
                for (step, &value) in row.iter().enumerate() {
                    tile[step * ROWS + r] = value;
                }
            }
        });
    words
}

/// What happens to a finished tile on its way to memory.
pub(crate) struct Finish<'a, O> {
    n: usize,
    bias: &'a [f32],
    activation: Activation,
    residual: Option<&'a [f32]>,
    out: O,
}

/// Where a product of `n` columns goes.
pub(crate) trait Output: Copy + Send + Sync {
    /// Writes 32 values of `panel` to row `row`.
    ///
    /// # Safety
    /// No other thread has them.
    unsafe fn write<L: Level>(self, values: &[f32; COLUMNS], row: usize, panel: usize, n: usize);
}

/// `(rows, n)`.
#[derive(Clone, Copy)]
pub(crate) struct Values<'a>(pub(crate) Shared<'a, MaybeUninit<f32>>);

impl Output for Values<'_> {
    #[inline(always)]
    unsafe fn write<L: Level>(self, values: &[f32; COLUMNS], row: usize, panel: usize, n: usize) {
        let width = COLUMNS.min(n - panel * COLUMNS);
        // SAFETY: by the contract.
        let out = unsafe { self.0.range(row * n + panel * COLUMNS, width) };
        if width == COLUMNS {
            out.write_copy_of_slice(values);
        } else {
            write_part(out, values);
        }
    }
}

/// The words of [`PackedRows`].
#[derive(Clone, Copy)]
struct Packed<'a>(Shared<'a, MaybeUninit<u32>>);

impl Output for Packed<'_> {
    #[inline(always)]
    unsafe fn write<L: Level>(self, values: &[f32; COLUMNS], row: usize, panel: usize, n: usize) {
        let chunk = (row / HALF * n.div_ceil(COLUMNS) + panel) * HALF + row % HALF;
        // SAFETY: by the contract.
        let out = unsafe { self.0.range(chunk * CHUNK, CHUNK) };
        out.write_copy_of_slice(&L::bf16_words(values));
    }
}

impl<'a, O: Output> Finish<'a, O> {
    pub(crate) fn new(
        layer: &'a PackedLinear,
        activation: Activation,
        residual: Option<&'a [f32]>,
        out: O,
    ) -> Self {
        Self {
            n: layer.weight.n(),
            bias: &layer.bias,
            activation,
            residual,
            out,
        }
    }

    /// Writes one row of a tile, 32 sums of `panel`, to row `row` of the output.
    ///
    /// # Safety
    /// No other thread has them.
    #[inline(always)]
    pub(crate) unsafe fn row<L: Level>(&self, sums: &[f32; COLUMNS], row: usize, panel: usize) {
        let mut values = *sums;
        let (biases, _) = self.bias.as_chunks();
        if let Some(bias) = biases.get(panel) {
            L::add(&mut values, bias);
        }
        match self.activation {
            Activation::Identity => {}
            Activation::Relu => L::maximum(&mut values, &[0.; COLUMNS]),
            Activation::Gelu => values
                .iter_mut()
                .for_each(|value| *value = gelu::<L>(*value)),
        }
        let width = COLUMNS.min(self.n - panel * COLUMNS);
        let start = row * self.n + panel * COLUMNS;
        if let Some(residual) = self.residual {
            let residual = &residual[start..start + width];
            match residual.first_chunk() {
                Some(residual) => L::add(&mut values, residual),
                None => add_part(&mut values, residual),
            }
        }
        // SAFETY: by the contract above.
        unsafe { self.out.write::<L>(&values, row, panel, self.n) };
    }
}

/// Writes what of a row of a tile is inside the output. A function of its own, so that the copy of a
/// whole row stays a few instructions.
#[cold]
#[inline(never)]
fn write_part(out: &mut [MaybeUninit<f32>], values: &[f32; COLUMNS]) {
    out.write_copy_of_slice(&values[..out.len()]);
}

/// Adds what of a row of a tile is inside the output.
#[cold]
#[inline(never)]
fn add_part(values: &mut [f32; COLUMNS], residual: &[f32]) {
    for (value, residual) in values.iter_mut().zip(residual) {
        *value += residual;
    }
}

/// All tiles of `a W`, each handed to `finish`.
fn multiply(a: &[f32], rows: usize, layer: &PackedLinear, finish: &Finish<'_, Values<'_>>) {
    let (tiles, panels) = (rows.div_ceil(ROWS), layer.weight.panel_count());
    // A panel is read from memory once per chunk of row tiles: one chunk unless there are too few
    // panels to share out.
    let wanted = 4 * rayon::current_num_threads();
    let chunks = wanted.div_ceil(panels.max(1)).clamp(1, tiles.max(1));
    let chunk = tiles.div_ceil(chunks);
    (0..panels * chunks).into_par_iter().for_each(|index| {
        let (panel, chunk_index) = (index / chunks, index % chunks);
        let first = chunk_index * chunk;
        let tiles = first..tiles.min(first + chunk);
        levels::run(&mut PanelTask {
            a,
            tiles,
            rows,
            layer,
            panel,
            finish,
        });
    });
}

struct PanelTask<'a> {
    a: &'a [f32],
    tiles: Range<usize>,
    rows: usize,
    layer: &'a PackedLinear,
    panel: usize,
    finish: &'a Finish<'a, Values<'a>>,
}

impl Task for PanelTask<'_> {
    #[inline(always)]
    fn run<L: Level>(&mut self) {
        let k = self.layer.weight.k();
        let mut tile = Tile::ZERO;
        let b = self.layer.weight.panel(self.panel);
        for index in self.tiles.clone() {
            let a = Rows {
                words: self.a,
                segments: &[index * k * ROWS],
                steps: k,
                row_stride: 0,
            };
            // SAFETY: `run` chose the level.
            unsafe { L::tile_f32::<ROWS, true>(a, &b, &mut tile) };
            let first = index * ROWS;
            for (r, sums) in tile.0.iter().enumerate().take(self.rows - first) {
                // SAFETY: tiles and panels partition the output among the tasks.
                unsafe { self.finish.row::<L>(sums, first + r, self.panel) };
            }
        }
    }
}

/// Bytes of the panels that a task multiplies blocks by: half of a second-level cache.
const PANEL_BYTES: usize = 1 << 20;
/// Bytes of the rows that meet all of a task's panels before others do: the other half.
const ROW_BYTES: usize = 1 << 20;

/// All blocks of `a W`, each handed to `finish`.
fn multiply_words<O: Output>(
    a: &PackedRows,
    rows: usize,
    layer: &PackedLinear,
    finish: &Finish<'_, O>,
) {
    let (blocks, panels) = (rows.div_ceil(BLOCK), layer.weight.panel_count());
    // Enough tasks for all threads.
    let wanted = 4 * rayon::current_num_threads();
    let bytes = COLUMNS * layer.weight.k() * layer.weight.value_bytes();
    let group = (PANEL_BYTES / bytes)
        .min(panels / wanted)
        .max(PANELS)
        .min(panels);
    let groups = panels.div_ceil(group);
    let parts = wanted.div_ceil(groups).min(blocks);
    let part = blocks.div_ceil(parts);
    (0..groups * parts).into_par_iter().for_each(|index| {
        let (first_panel, first) = (index / parts * group, index % parts * part);
        levels::run(&mut WordsTask {
            a,
            blocks: first.min(blocks)..blocks.min(first + part),
            rows,
            layer,
            panels: first_panel..panels.min(first_panel + group),
            finish,
        });
    });
}

struct WordsTask<'a, O> {
    a: &'a PackedRows,
    blocks: Range<usize>,
    rows: usize,
    layer: &'a PackedLinear,
    panels: Range<usize>,
    finish: &'a Finish<'a, O>,
}

impl<O: Output> Task for WordsTask<'_, O> {
    #[inline(always)]
    fn run<L: Level>(&mut self) {
        let mut floats = [Sums::<f32>::ZERO; PANELS];
        let mut integers = [Sums::<i32>::ZERO; PANELS];
        let in_cache = (ROW_BYTES / self.a.block_bytes()).max(1);
        let all = self.blocks.clone();
        for start in all.clone().step_by(in_cache) {
            for panel in self.panels.clone().step_by(PANELS) {
                for index in start..all.end.min(start + in_cache) {
                    self.block::<L>(index, panel, &mut floats, &mut integers);
                }
            }
        }
    }
}

impl<O: Output> WordsTask<'_, O> {
    /// A block of rows by some panels, from `panel` on.
    #[inline(always)]
    fn block<L: Level>(
        &self,
        index: usize,
        panel: usize,
        floats: &mut [Sums<f32>; PANELS],
        integers: &mut [Sums<i32>; PANELS],
    ) {
        let (weight, first) = (&self.layer.weight, index * BLOCK);
        let panels = panel..self.panels.end.min(panel + PANELS);
        let floats = &mut floats[..panels.len()];
        let a = self.a.block(index);
        // The panels that follow, here or in another task, are fetched a part with each block.
        let following = weight.words(panels.end..weight.panel_count());
        let part = panels.len() * a.panel() / FETCHES * (index - self.blocks.start);
        match weight.words(panels) {
            Words::Bf16(panels) => {
                bf16_blocks(a, panels, following.after(part), floats);
            }
            Words::Int8(panels, units) => {
                let integers = &mut integers[..floats.len()];
                let row_sums = self.a.sums[first..].first_chunk().expect("whole blocks");
                int8_blocks(
                    levels::set(),
                    a,
                    row_sums,
                    panels,
                    following.after(part),
                    integers,
                );
                let scales = &self.a.scales[first..];
                let (units, _) = units.as_chunks();
                for ((floats, integers), units) in floats.iter_mut().zip(integers).zip(units) {
                    scale(integers, scales, units, floats);
                }
            }
        }
        for (j, sums) in floats.iter().enumerate() {
            for (r, sums) in sums.0.iter().enumerate().take(self.rows - first) {
                // SAFETY: blocks and panels partition the output among the tasks.
                unsafe { self.finish.row::<L>(sums, first + r, panel + j) };
            }
        }
    }
}

/// Exact sums in the units of their rows and columns.
#[inline(always)]
fn scale(exact: &Sums<i32>, rows: &[f32], columns: &[f32; COLUMNS], out: &mut Sums<f32>) {
    for ((out, exact), row) in out.0.iter_mut().zip(&exact.0).zip(rows) {
        for ((out, &exact), column) in out.iter_mut().zip(exact).zip(columns) {
            *out = exact as f32 * (row * column);
        }
    }
}
