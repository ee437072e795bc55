//! Linear layers on the CPU: the input is packed into row tiles once, then every panel of weights
//! is read once.

#![allow(unsafe_code)] // Tiles of several threads share one output; each use states its invariant.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::{Activation, PackedLinear};
use crate::cpu::{
    COLUMNS, ROWS, Shared, Tile,
    blocks::{BLOCK, CHUNK, From, Sums},
    elementary::gelu,
    levels::{self, Level, Rows, Task},
    panels::{Operand, Panel},
    words::{PackedRows, bf16_block, int8_block},
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
    let rows = x.len() / k;
    let fill = |out: &mut [MaybeUninit<f32>]| {
        let finish = Finish {
            n,
            bias: &layer.bias,
            activation,
            residual,
            out: Shared::new(out),
        };
        match layer.weight.operand() {
            Operand::F32 => multiply(&row_tiles(x, k), rows, layer, &finish),
            Operand::Bf16 => multiply_words(&PackedRows::bf16(x, k), rows, layer, &finish),
            Operand::Int8 => multiply_words(&PackedRows::int8(x, k), rows, layer, &finish),
        }
    };
    // SAFETY: tiles and panels cover the output.
    unsafe { written(rows * n, fill) }
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
pub(crate) struct Finish<'a> {
    pub(crate) n: usize,
    pub(crate) bias: &'a [f32],
    pub(crate) activation: Activation,
    pub(crate) residual: Option<&'a [f32]>,
    pub(crate) out: Shared<'a, MaybeUninit<f32>>,
}

impl Finish<'_> {
    /// Writes one row of a tile, 32 sums of `panel`, to row `row` of the output.
    ///
    /// # Safety
    /// No other thread has them.
    #[inline(always)]
    pub(crate) unsafe fn row<L: Level>(&self, sums: &[f32; COLUMNS], row: usize, panel: usize) {
        let mut values = *sums;
        if let Some(bias) = self.bias.get(panel * COLUMNS..(panel + 1) * COLUMNS) {
            for (value, bias) in values.iter_mut().zip(bias) {
                *value += bias;
            }
        }
        match self.activation {
            Activation::Identity => {}
            Activation::Relu => values.iter_mut().for_each(|value| *value = value.max(0.)),
            Activation::Gelu => values
                .iter_mut()
                .for_each(|value| *value = gelu::<L>(*value)),
        }
        let width = COLUMNS.min(self.n - panel * COLUMNS);
        let start = row * self.n + panel * COLUMNS;
        if let Some(residual) = self.residual {
            for (value, residual) in values.iter_mut().zip(&residual[start..start + width]) {
                *value += residual;
            }
        }
        // SAFETY: by the contract above.
        let out = unsafe { self.out.range(start, width) };
        if width == COLUMNS {
            out.write_copy_of_slice(&values);
        } else {
            out.write_copy_of_slice(&values[..width]);
        }
    }
}

/// All tiles of `a W`, each handed to `finish`.
fn multiply(a: &[f32], rows: usize, layer: &PackedLinear, finish: &Finish<'_>) {
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
    tiles: std::ops::Range<usize>,
    rows: usize,
    layer: &'a PackedLinear,
    panel: usize,
    finish: &'a Finish<'a>,
}

impl Task for PanelTask<'_> {
    #[inline(always)]
    fn run<L: Level>(&mut self) {
        let k = self.layer.weight.k();
        let mut tile = Tile::ZERO;
        let Panel::F32(b) = self.layer.weight.panel(self.panel) else {
            unreachable!("`operand` decides both")
        };
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

/// Chunks of steps after which sums go to memory: half a panel of them fills the first-level cache.
const SLICE: usize = 16;
/// Panels that a task multiplies a block by while the block is in the first-level cache.
const PANELS: usize = 4;
/// Blocks of a task, whose sums stay in the second-level cache.
const BLOCKS: usize = 32;

/// All blocks of `a W`, each handed to `finish`.
fn multiply_words(a: &PackedRows, rows: usize, layer: &PackedLinear, finish: &Finish<'_>) {
    let (blocks, panels) = (rows.div_ceil(BLOCK), layer.weight.panel_count());
    // Enough tasks for all threads.
    let wanted = 4 * rayon::current_num_threads();
    let group = (panels / wanted).clamp(1, PANELS);
    let groups = panels.div_ceil(group);
    let parts = blocks
        .div_ceil(BLOCKS)
        .max(wanted.div_ceil(groups))
        .clamp(1, blocks.max(1));
    let part = blocks.div_ceil(parts);
    (0..groups * parts)
        .into_par_iter()
        .for_each_init(WordSums::default, |sums, index| {
            let (first_panel, first) = (index / parts * group, index % parts * part);
            levels::run(&mut WordsTask {
                a,
                blocks: first.min(blocks)..blocks.min(first + part),
                rows,
                layer,
                panels: first_panel..panels.min(first_panel + group),
                finish,
                sums,
            });
        });
}

/// One thread's sums, of each block for each panel.
#[derive(Default)]
struct WordSums {
    floats: Vec<Sums<f32>>,
    integers: Vec<Sums<i32>>,
}

struct WordsTask<'a> {
    a: &'a PackedRows,
    blocks: std::ops::Range<usize>,
    rows: usize,
    layer: &'a PackedLinear,
    panels: std::ops::Range<usize>,
    finish: &'a Finish<'a>,
    sums: &'a mut WordSums,
}

impl Task for WordsTask<'_> {
    #[inline(always)]
    fn run<L: Level>(&mut self) {
        let count = self.blocks.len() * self.panels.len();
        let set = levels::set();
        let WordSums { floats, integers } = &mut *self.sums;
        match self.layer.weight.operand() {
            Operand::Int8 => integers.resize(count, Sums::<i32>::ZERO),
            _ => floats.resize(count, Sums::<f32>::ZERO),
        }
        for slice in 0..self.a.chunks().div_ceil(SLICE) {
            let chunks = slice * SLICE..self.a.chunks().min((slice + 1) * SLICE);
            let words = chunks.start * CHUNK * COLUMNS..chunks.end * CHUNK * COLUMNS;
            let from = if slice == 0 { From::Zero } else { From::Sums };
            for (i, index) in self.blocks.clone().enumerate() {
                let a = self.a.block(index, chunks.clone());
                for (j, panel) in self.panels.clone().enumerate() {
                    let at = i * self.panels.len() + j;
                    match self.layer.weight.panel(panel) {
                        Panel::Bf16(b) => bf16_block(a, &b[words.clone()], &mut floats[at], from),
                        Panel::Int8(b, _) => {
                            let row_sums = self.a.sums[index * BLOCK..].first_chunk();
                            let row_sums = row_sums.expect("whole blocks");
                            let b = &b[words.clone()];
                            int8_block(set, a, row_sums, b, &mut integers[at], from);
                        }
                        Panel::F32(_) => unreachable!("`operand` decides both"),
                    }
                }
            }
        }
        let mut scaled = Sums::<f32>::ZERO;
        for (i, index) in self.blocks.clone().enumerate() {
            let first = index * BLOCK;
            for (j, panel) in self.panels.clone().enumerate() {
                let at = i * self.panels.len() + j;
                let sums = match self.layer.weight.panel(panel) {
                    Panel::Int8(_, units) => {
                        let rows = scaled.0.iter_mut().zip(&integers[at].0);
                        for ((sums, exact), &unit) in rows.zip(&self.a.scales[first..]) {
                            for ((sum, &exact), &column) in sums.iter_mut().zip(exact).zip(units) {
                                *sum = exact as f32 * (unit * column);
                            }
                        }
                        &scaled
                    }
                    _ => &floats[at],
                };
                for (r, sums) in sums.0.iter().enumerate().take(self.rows - first) {
                    // SAFETY: blocks and panels partition the output among the tasks.
                    unsafe { self.finish.row::<L>(sums, first + r, panel) };
                }
            }
        }
    }
}
