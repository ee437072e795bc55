//! A stored position embedding, resampled to another patch grid.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Result, Tensor, bail};

use crate::nn::{Builder, Observer, keep_captured, work};
use crate::runtime::Optimisation;
use crate::views::cubic_kernel;

/// Taps of a bicubic filter.
const TAPS: usize = 4;

/// The stored positions of an encoder, for images of any size.
#[derive(Clone, Debug)]
pub(crate) struct StoredPositions {
    /// `(1, 1 + grid * grid, dim)`, float32, class entry first.
    stored: Tensor,
    grid: usize,
    /// The same for the patch grid met last, if it is to be kept. Clones share it.
    resampled: Option<Arc<Mutex<Option<Resampled>>>>,
}

/// Positions for a patch grid other than the stored one.
#[derive(Debug)]
struct Resampled {
    /// Rows and columns.
    grid: [usize; 2],
    /// `(1, 1 + rows * columns, dim)`, float32, class entry first.
    positions: Tensor,
}

impl StoredPositions {
    /// Reads `pos_embed`, of a square `grid`.
    pub(crate) fn new(grid: usize, dim: usize, vb: &Builder<'_>) -> Result<Self> {
        Ok(Self {
            stored: vb.float32((1, 1 + grid * grid, dim), "pos_embed")?,
            grid,
            resampled: vb.has(Optimisation::KeptPositions).then(Arc::default),
        })
    }

    /// `(batch, 1 + others + rows * columns, dim)`: the class token `(1, 1, dim)` with its position,
    /// `others` `(1, others, dim)` without, and `patches` `(batch, rows * columns, dim)` with theirs,
    /// which an observer sees as `name`.
    pub(crate) fn tokens(
        &self,
        class_token: &Tensor,
        others: Option<&Tensor>,
        patches: Tensor,
        grid: [usize; 2],
        name: &str,
        observe: &mut Observer<'_>,
    ) -> Result<Tensor> {
        let _span = tracing::trace_span!(
            "positions",
            flop = work::ONE * work::elements(&patches),
            bytes = 2 * work::bytes(&patches) + work::bytes(&self.stored),
        )
        .entered();
        let positions = self.of_grid(grid)?;
        observe.see(name, &positions)?;
        let positions = positions.to_dtype(patches.dtype())?;
        let (batch, count, _) = patches.dims3()?;
        let whole_batch = |t: &Tensor| t.repeat((batch, 1, 1));
        let class_token = (class_token + positions.narrow(1, 0, 1)?)?;
        let patches = patches.broadcast_add(&positions.narrow(1, 1, count)?)?;
        let mut parts = vec![whole_batch(&class_token)?];
        if let Some(others) = others {
            parts.push(whole_batch(others)?);
        }
        parts.push(patches);
        Tensor::cat(&parts, 1)
    }

    /// `(1, 1 + rows * columns, dim)`, float32, class entry first; resampled once for images of one
    /// size in a row.
    pub(crate) fn of_grid(&self, grid: [usize; 2]) -> Result<Tensor> {
        let resample = || resample_positions(&self.stored, self.grid, grid);
        let positions = match &self.resampled {
            None => resample()?,
            Some(resampled) => {
                let mut resampled = resampled.lock().unwrap_or_else(PoisonError::into_inner);
                match &*resampled {
                    Some(known) if known.grid == grid => known.positions.clone(),
                    _ => {
                        let positions = resample()?;
                        *resampled = Some(Resampled {
                            grid,
                            positions: positions.clone(),
                        });
                        positions
                    }
                }
            }
        };
        keep_captured(&positions);
        Ok(positions)
    }
}

/// Resamples `positions` `(1, 1 + grid * grid, dim)`, float32, class entry first, to a patch grid
/// of `[rows, columns]`; the class entry stays.
///
/// Bicubic with A = -0.75, pixel edges aligned, no antialiasing, with the scale factor `(size +
/// 0.1) / grid` that DUNE was trained with: the offset moves samples by up to a tenth of a cell.
/// The native square grid is left as it is.
pub fn resample_positions(
    positions: &Tensor,
    grid: usize,
    [rows, columns]: [usize; 2],
) -> Result<Tensor> {
    if rows == grid && columns == grid {
        return Ok(positions.clone());
    }
    let (one, entries, dim) = positions.dims3()?;
    if one != 1 || entries != 1 + grid * grid {
        bail!(
            "positions {:?} are not those of a {grid}x{grid} grid",
            positions.dims()
        );
    }
    let stored: Vec<f32> = positions.flatten_all()?.to_vec1()?;
    let (class, cells) = stored.split_at(dim);
    let (vertical, horizontal) = (taps(grid, rows), taps(grid, columns));
    let mut out = Vec::with_capacity((1 + rows * columns) * dim);
    out.extend_from_slice(class);
    for y in &vertical {
        for x in &horizontal {
            let start = out.len();
            out.resize(start + dim, 0.);
            let mut sums = vec![0f64; dim];
            for (&row, &wy) in y.cells.iter().zip(&y.weights) {
                for (&column, &wx) in x.cells.iter().zip(&x.weights) {
                    let cell = &cells[(row * grid + column) * dim..][..dim];
                    for (sum, &value) in sums.iter_mut().zip(cell) {
                        *sum += wy * wx * f64::from(value);
                    }
                }
            }
            for (out, sum) in out[start..].iter_mut().zip(sums) {
                *out = sum as f32;
            }
        }
    }
    Tensor::from_vec(out, (1, 1 + rows * columns, dim), positions.device())
}

/// Where one target index reads, and with which weights.
struct Taps {
    cells: [usize; TAPS],
    weights: [f64; TAPS],
}

fn taps(from: usize, to: usize) -> Vec<Taps> {
    let scale = (to as f64 + 0.1) / from as f64;
    let tap = |target: usize| {
        let source = (target as f64 + 0.5) / scale - 0.5;
        let floor = source.floor();
        let t = source - floor;
        let cell = |offset: i64| (floor as i64 + offset).clamp(0, from as i64 - 1) as usize;
        Taps {
            cells: [cell(-1), cell(0), cell(1), cell(2)],
            weights: [1. + t, t, 1. - t, 2. - t].map(cubic_kernel),
        }
    };
    (0..to).map(tap).collect()
}
