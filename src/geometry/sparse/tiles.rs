//! Symmetric matrices in square tiles, of which only those are kept that hold something, and their
//! factors.
//!
//! A view meets few of the others, so that most of the system of all cameras is zero: of frames in
//! order all that is kept lies near the diagonal, and time and memory grow as their number.

use nalgebra::{DMatrix, DVector};
use rayon::prelude::*;

/// Rows of a tile: enough for products at full speed, few enough to leave zeros out.
const SIDE: usize = 64;

/// The lower half of a symmetric matrix. Values beyond the last row are those of the identity.
#[derive(Clone, Debug)]
pub(crate) struct SymmetricTiles {
    size: usize,
    /// By row and column of tiles, on and below the diagonal.
    rows: Vec<Vec<Option<DMatrix<f64>>>>,
}

/// A lower triangular matrix whose product with its transpose is the matrix that was factored.
pub(crate) struct Factor(SymmetricTiles);

impl SymmetricTiles {
    pub fn zeros(size: usize) -> Self {
        Self {
            size,
            rows: (0..size.div_ceil(SIDE))
                .map(|row| vec![None; row + 1])
                .collect(),
        }
    }

    /// Adds to the value at a row and a column, and to its mirror image, which is the same value.
    pub fn add(&mut self, row: usize, column: usize, value: f64) {
        let (row, column) = (row.max(column), row.min(column));
        let tile = &mut self.rows[row / SIDE][column / SIDE];
        tile.get_or_insert_with(|| DMatrix::zeros(SIDE, SIDE))[(row % SIDE, column % SIDE)] +=
            value;
    }

    /// The value at a row and a column.
    pub fn value(&self, row: usize, column: usize) -> f64 {
        let (row, column) = (row.max(column), row.min(column));
        let tile = self.rows[row / SIDE][column / SIDE].as_ref();
        tile.map_or(0.0, |tile| tile[(row % SIDE, column % SIDE)])
    }

    pub fn diagonal(&self) -> DVector<f64> {
        DVector::from_fn(self.size, |at, _| self.value(at, at))
    }

    /// Adds a multiple of another matrix of the same size.
    pub fn add_multiple(&mut self, factor: f64, other: &Self) {
        for (tile, other) in self
            .rows
            .iter_mut()
            .flatten()
            .zip(other.rows.iter().flatten())
        {
            let Some(other) = other else { continue };
            let tile = tile.get_or_insert_with(|| DMatrix::zeros(SIDE, SIDE));
            tile.zip_apply(other, |value, other| *value += factor * other);
        }
    }

    /// Cholesky's factor, `None` unless the matrix is positive definite. Column by column of tiles,
    /// what lies below the diagonal in parallel; each tile is one thread's, so that nothing depends
    /// on how many there are.
    pub fn cholesky(mut self) -> Option<Factor> {
        for at in self.size..self.rows.len() * SIDE {
            self.add(at, at, 1.0);
        }
        for column in 0..self.rows.len() {
            let (above, below) = self.rows.split_at_mut(column + 1);
            let row = &mut above[column];
            let (done, diagonal) = row.split_at_mut(column);
            let transposed: Vec<Option<DMatrix<f64>>> = done
                .iter()
                .map(|tile| tile.as_ref().map(DMatrix::transpose))
                .collect();
            let reduce = |row: &[Option<DMatrix<f64>>], tile: &mut Option<DMatrix<f64>>| {
                for (left, right) in row.iter().zip(&transposed) {
                    if let (Some(left), Some(right)) = (left, right) {
                        tile.get_or_insert_with(|| DMatrix::zeros(SIDE, SIDE))
                            .gemm(-1.0, left, right, 1.0);
                    }
                }
            };
            reduce(done, &mut diagonal[0]);
            let factor = diagonal[0].take()?.cholesky()?.unpack();
            let is_solved = below.par_iter_mut().map(|row| {
                let (done, rest) = row.split_at_mut(column);
                reduce(done, &mut rest[0]);
                let Some(tile) = &mut rest[0] else {
                    return true;
                };
                let mut turned = tile.transpose();
                let is_solved = factor.solve_lower_triangular_mut(&mut turned);
                *tile = turned.transpose();
                is_solved
            });
            let is_solved: Vec<bool> = is_solved.collect();
            diagonal[0] = Some(factor);
            if is_solved.contains(&false) {
                return None;
            }
        }
        Some(Factor(self))
    }
}

impl Factor {
    /// The solution of the system that was factored.
    pub fn solve(&self, right: &DVector<f64>) -> Option<DVector<f64>> {
        let rows = &self.0.rows;
        let padded = rows.len() * SIDE;
        let mut solved = DVector::zeros(padded);
        solved.rows_mut(0, self.0.size).copy_from(right);
        for (at, row) in rows.iter().enumerate() {
            let (before, mut own) =
                solved.rows_range_pair_mut(0..at * SIDE, at * SIDE..(at + 1) * SIDE);
            for (column, tile) in row[..at].iter().enumerate() {
                if let Some(tile) = tile {
                    own.gemv(-1.0, tile, &before.rows(column * SIDE, SIDE), 1.0);
                }
            }
            if !row[at].as_ref()?.solve_lower_triangular_mut(&mut own) {
                return None;
            }
        }
        for at in (0..rows.len()).rev() {
            let (mut own, after) =
                solved.rows_range_pair_mut(at * SIDE..(at + 1) * SIDE, (at + 1) * SIDE..padded);
            for (below, row) in rows[at + 1..].iter().enumerate() {
                if let Some(tile) = &row[at] {
                    own.gemv_tr(-1.0, tile, &after.rows(below * SIDE, SIDE), 1.0);
                }
            }
            if !rows[at][at]
                .as_ref()?
                .tr_solve_lower_triangular_mut(&mut own)
            {
                return None;
            }
        }
        solved.resize_vertically_mut(self.0.size, 0.0);
        Some(solved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A positive definite matrix with values near the diagonal and in its last rows, as frames in
    /// order have them.
    fn arrow(size: usize) -> (SymmetricTiles, DMatrix<f64>) {
        let (mut tiles, mut dense) = (SymmetricTiles::zeros(size), DMatrix::zeros(size, size));
        for row in 0..size {
            for column in 0..=row {
                let value = match row - column {
                    0 => 9.0 + (row % 5) as f64,
                    1..8 => (1.3 * row as f64 + column as f64).sin(),
                    _ if row + 3 > size => 0.02 * (column as f64).cos(),
                    _ => continue,
                };
                tiles.add(column, row, value);
                dense[(row, column)] = value;
                dense[(column, row)] = value;
            }
        }
        (tiles, dense)
    }

    #[test]
    fn a_system_is_solved_as_without_tiles() {
        for size in [5, SIDE, 3 * SIDE + 7] {
            let (tiles, dense) = arrow(size);
            let right = DVector::from_fn(size, |at, _| (at as f64).sin());
            let found = tiles.clone().cholesky().unwrap().solve(&right).unwrap();
            let gap = (&dense * found - &right).amax();
            assert!(gap < 1e-12, "size {size}: {gap}");
            assert_eq!(tiles.diagonal(), dense.diagonal());
        }
    }

    #[test]
    fn what_is_zero_takes_no_place() {
        let (tiles, _) = arrow(10 * SIDE);
        let kept = |tiles: &SymmetricTiles| tiles.rows.iter().flatten().flatten().count();
        // Two along the diagonal in each row, and all of the last row.
        assert_eq!(kept(&tiles), 10 + 9 + 8);
        assert_eq!(kept(&tiles.cholesky().unwrap().0), 10 + 9 + 8);
    }

    #[test]
    fn a_matrix_that_is_not_positive_definite_has_no_factor() {
        let (mut tiles, _) = arrow(2 * SIDE);
        tiles.add(SIDE + 3, SIDE + 3, -40.0);
        assert!(tiles.cholesky().is_none());
        assert!(SymmetricTiles::zeros(3).cholesky().is_none());
    }

    #[test]
    fn a_multiple_of_another_matrix_is_added() {
        let (mut tiles, dense) = arrow(SIDE + 4);
        let mut other = SymmetricTiles::zeros(SIDE + 4);
        other.add(2, SIDE + 1, 3.0);
        tiles.add_multiple(-2.0, &other);
        assert_eq!(
            tiles.rows[1][0].as_ref().unwrap()[(1, 2)],
            dense[(SIDE + 1, 2)] - 6.0
        );
    }
}
