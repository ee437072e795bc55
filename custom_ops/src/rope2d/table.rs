//! Cosines and sines of the angles, kept for each grid.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Result, Tensor, bail};

/// Cosines and sines of every token's angles: the first half of a row by y, the second by x.
///
/// With `d = dim / 2`, angle `j` of a half is `position * base^(-2 j / d)` for `j` in `0..d / 2`.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// `(2, tokens, dim / 2)`, float32, contiguous: all cosines, then all sines.
    values: Tensor,
}

impl RopeTable {
    /// For tokens at `positions` `(y, x)` and heads of `dim` channels, on `device`.
    ///
    /// Fails if `dim` is not a multiple of 4 or there are no positions.
    pub fn new(positions: &[[f32; 2]], dim: usize, base: f32, device: &Device) -> Result<Self> {
        if dim == 0 || !dim.is_multiple_of(4) {
            bail!("rope2d: head dim must be a multiple of 4, got {dim}");
        }
        if positions.is_empty() {
            bail!("rope2d: a table needs at least one position");
        }
        let half = dim / 2;
        let angles = || {
            positions.iter().flatten().flat_map(|&coordinate| {
                (0..half / 2).map(move |j| {
                    let frequency = f64::from(base).powf(-2. * j as f64 / half as f64);
                    f64::from(coordinate) * frequency
                })
            })
        };
        let values: Vec<f32> = angles()
            .map(|angle| angle.cos() as f32)
            .chain(angles().map(|angle| angle.sin() as f32))
            .collect();
        Ok(Self {
            values: Tensor::from_vec(values, (2, positions.len(), half), device)?,
        })
    }

    /// For a grid of `rows` by `columns` tokens, row major.
    pub fn grid(
        rows: usize,
        columns: usize,
        dim: usize,
        base: f32,
        device: &Device,
    ) -> Result<Self> {
        let positions: Vec<[f32; 2]> = (0..rows * columns)
            .map(|i| [(i / columns) as f32, (i % columns) as f32])
            .collect();
        Self::new(&positions, dim, base, device)
    }

    /// `(2, tokens, dim / 2)`, float32: all cosines, then all sines.
    pub fn tensor(&self) -> &Tensor {
        &self.values
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.values.dims()[1]
    }

    /// Channels of a head.
    pub fn dim(&self) -> usize {
        2 * self.values.dims()[2]
    }
}

/// The tables of the grids met so far, for heads of one size on one device. Clones share them.
#[derive(Clone, Debug)]
pub struct RopeTables {
    dim: usize,
    base: f32,
    device: Device,
    /// The grids used last, the latest at the end.
    recent: Arc<Mutex<Vec<Kept>>>,
}

/// A grid `[rows, columns]` and its table.
type Kept = ([usize; 2], RopeTable);

/// Tables kept: images of more shapes than this in turn are rare, and a table is made in
/// milliseconds.
const KEPT: usize = 8;

impl RopeTables {
    /// No table yet.
    pub fn new(dim: usize, base: f32, device: &Device) -> Self {
        Self {
            dim,
            base,
            device: device.clone(),
            recent: Arc::default(),
        }
    }

    /// The table of a grid of `rows` by `columns` tokens, row major.
    pub fn grid(&self, rows: usize, columns: usize) -> Result<RopeTable> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let table = match recent.iter().position(|(grid, _)| *grid == [rows, columns]) {
            Some(index) => recent.remove(index).1,
            None => RopeTable::grid(rows, columns, self.dim, self.base, &self.device)?,
        };
        if recent.len() == KEPT {
            recent.remove(0);
        }
        recent.push(([rows, columns], table.clone()));
        crate::launch::keep_captured(&table.values);
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_met_again_gets_the_same_table() {
        let tables = RopeTables::new(8, 100., &Device::Cpu);
        let first = tables.grid(2, 3).unwrap();
        for columns in 4..3 + KEPT {
            tables.grid(1, columns).unwrap();
        }
        assert_eq!(
            tables.grid(2, 3).unwrap().tensor().id(),
            first.tensor().id()
        );
        for columns in 20..20 + KEPT {
            tables.grid(1, columns).unwrap();
        }
        assert_ne!(
            tables.grid(2, 3).unwrap().tensor().id(),
            first.tensor().id()
        );
    }

    #[test]
    fn a_table_without_positions_or_of_an_odd_width_is_refused() {
        let message = |positions: &[[f32; 2]], dim| {
            RopeTable::new(positions, dim, 100., &Device::Cpu)
                .unwrap_err()
                .to_string()
        };
        assert!(message(&[], 8).contains("at least one position"));
        assert!(message(&[[0., 0.]], 6).contains("multiple of 4, got 6"));
    }
}
