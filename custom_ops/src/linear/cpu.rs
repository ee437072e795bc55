//! Linear layers on the CPU: the input is packed into row tiles once, then every panel of weights
//! is read once.

#![allow(unsafe_code)] // Tiles of several threads share one output; each use states its invariant.

use rayon::prelude::*;

use super::{Activation, PackedLinear};
use crate::cpu::{
    COLUMNS, ROWS, Shared, Tile,
    elementary::{bf16_pair, gelu},
    levels::{self, Level, Rows, Task},
    panels::Panel,
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
    let mut out = vec![0f32; rows * n];
    let a = if layer.weight.in_pairs() {
        RowTiles::pairs(x, k)
    } else {
        RowTiles::floats(x, k)
    };
    let finish = Finish {
        n,
        bias: &layer.bias,
        activation,
        residual,
        out: Shared::new(&mut out),
    };
    multiply(&a, rows, layer, &finish);
    out
}

/// The left operand, `[tile][step][12]`, rows past the last filled with zeros.
pub(crate) enum RowTiles {
    F32(Vec<f32>),
    Bf16(Vec<u32>),
}

impl RowTiles {
    fn floats(x: &[f32], k: usize) -> Self {
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
        Self::F32(words)
    }

    fn pairs(x: &[f32], k: usize) -> Self {
        let (rows, steps) = (x.len() / k, k.div_ceil(2));
        let mut words = vec![0u32; rows.div_ceil(ROWS) * ROWS * steps];
        words
            .par_chunks_mut(ROWS * steps)
            .zip(x.par_chunks(ROWS * k))
            .for_each(|(tile, x)| {
                levels::run(&mut PackPairs { tile, x, k });
            });
        Self::Bf16(words)
    }
}

struct PackPairs<'a> {
    tile: &'a mut [u32],
    x: &'a [f32],
    k: usize,
}

impl Task for PackPairs<'_> {
    #[inline(always)]
    fn run<L: Level>(&mut self) {
        for (r, row) in self.x.chunks_exact(self.k).enumerate() {
            let pairs = row.chunks_exact(2);
            if let [last] = pairs.remainder() {
                self.tile[(self.k / 2) * ROWS + r] = bf16_pair(*last, 0.);
            }
            for (step, pair) in pairs.enumerate() {
                self.tile[step * ROWS + r] = bf16_pair(pair[0], pair[1]);
            }
        }
    }
}

/// What happens to a finished tile on its way to memory.
pub(crate) struct Finish<'a> {
    pub(crate) n: usize,
    pub(crate) bias: &'a [f32],
    pub(crate) activation: Activation,
    pub(crate) residual: Option<&'a [f32]>,
    pub(crate) out: Shared<'a, f32>,
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
            out.copy_from_slice(&values);
        } else {
            out.copy_from_slice(&values[..width]);
        }
    }
}

/// All tiles of `a W`, each handed to `finish`.
fn multiply(a: &RowTiles, rows: usize, layer: &PackedLinear, finish: &Finish<'_>) {
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
    a: &'a RowTiles,
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
        let panel = self.layer.weight.panel(self.panel);
        for index in self.tiles.clone() {
            match (self.a, &panel) {
                (RowTiles::F32(words), Panel::F32(b)) => {
                    let a = Rows {
                        words,
                        segments: &[index * k * ROWS],
                        steps: k,
                        row_stride: 0,
                    };
                    // SAFETY: `run` chose the level.
                    unsafe { L::tile_f32::<ROWS, true>(a, b, &mut tile) };
                }
                (RowTiles::Bf16(words), Panel::Bf16(b)) => {
                    let steps = k.div_ceil(2);
                    let a = Rows {
                        words,
                        segments: &[index * steps * ROWS],
                        steps,
                        row_stride: 0,
                    };
                    // SAFETY: as above.
                    unsafe { L::tile_bf16::<ROWS, true>(a, b, &mut tile) };
                }
                _ => unreachable!("`in_pairs` decides both"),
            }
            let first = index * ROWS;
            for (r, sums) in tile.0.iter().enumerate().take(self.rows - first) {
                // SAFETY: tiles and panels partition the output among the tasks.
                unsafe { self.finish.row::<L>(sums, first + r, self.panel) };
            }
        }
    }
}
