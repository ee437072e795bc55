//! The rotary embedding of a patch grid.

use candle_core::{DType, Device, Result, Tensor};
use custom_ops::plain::{self, RopeFactors};
use custom_ops::{
    HeadNorms, RopeTable, RopeTables, keep_captured, rope2d, rope2d_pair, rope2d_pair_of_normalised,
};

use super::{Builder, work};
use crate::runtime::Optimisation;

/// The rotations of every grid, for heads of one size.
#[derive(Clone, Debug)]
pub struct Ropes {
    dim: usize,
    base: f32,
    device: Device,
    dtype: DType,
    fused: bool,
    /// Absent where every image makes its own.
    kept: Option<RopeTables>,
}

/// The rotations of one grid's tokens.
#[derive(Clone, Debug)]
pub struct Rope {
    turn: Turn,
}

#[derive(Clone, Debug)]
enum Turn {
    Fused(RopeTable),
    Plain(RopeFactors),
}

impl Ropes {
    /// For heads of `dim` channels, angles falling with powers of `base`; there are no weights to
    /// read.
    pub fn new(dim: usize, base: f32, vb: &Builder<'_>) -> Self {
        let kept = vb
            .has(Optimisation::KeptPositions)
            .then(|| RopeTables::new(dim, base, vb.device()));
        let fused = vb.has(Optimisation::FusedRope);
        Self {
            dim,
            base,
            device: vb.device().clone(),
            dtype: vb.activations(),
            fused,
            kept,
        }
    }

    /// The rotations of a grid of `rows` by `columns` tokens, row major.
    pub fn grid(&self, rows: usize, columns: usize) -> Result<Rope> {
        let bytes = || (rows * columns * self.dim * DType::F32.size_in_bytes()) as u64;
        let _span = tracing::trace_span!("positions", flop = 0u64, bytes = bytes()).entered();
        let table = match &self.kept {
            Some(tables) => tables.grid(rows, columns)?,
            None => RopeTable::grid(rows, columns, self.dim, self.base, &self.device)?,
        };
        self.rope(table)
    }
    /// The rotations of tokens at these positions `(y, x)`, made anew.
    pub fn at(&self, positions: &[[f32; 2]]) -> Result<Rope> {
        let bytes = || (positions.len() * self.dim * DType::F32.size_in_bytes()) as u64;
        let _span = tracing::trace_span!("positions", flop = 0u64, bytes = bytes()).entered();
        self.rope(RopeTable::new(
            positions,
            self.dim,
            self.base,
            &self.device,
        )?)
    }

    fn rope(&self, table: RopeTable) -> Result<Rope> {
        let turn = if self.fused {
            Turn::Fused(table)
        } else {
            Turn::Plain(RopeFactors::new(&table, self.dtype)?)
        };
        Ok(Rope { turn })
    }
}

impl Rope {
    /// Says that the rotations live in a cache: see [`keep_captured`].
    pub(crate) fn keep_captured(&self) {
        match &self.turn {
            Turn::Fused(table) => keep_captured(table.tensor()),
            Turn::Plain(factors) => factors.keep_captured(),
        }
    }

    /// Tokens `(batch, tokens, heads, head_dim)`, rotated.
    pub fn rotated(&self, tokens: &Tensor) -> Result<Tensor> {
        let _span = span(tokens, 1).entered();
        match &self.turn {
            Turn::Fused(table) => rope2d(tokens, table),
            Turn::Plain(factors) => plain::rope2d(tokens, factors),
        }
    }

    /// [`Rope::rotated`] of queries and keys, of one shape.
    pub fn rotated_pair(&self, q: &Tensor, k: &Tensor) -> Result<(Tensor, Tensor)> {
        let _span = span(q, 2).entered();
        match &self.turn {
            Turn::Fused(table) => rope2d_pair(q, k, table),
            Turn::Plain(factors) => Ok((plain::rope2d(q, factors)?, plain::rope2d(k, factors)?)),
        }
    }

    /// [`Rope::rotated_pair`] of queries and keys that get their layer norms before; `None` where
    /// no kernel does both.
    pub(crate) fn rotated_pair_of_normalised(
        &self,
        q: &Tensor,
        k: &Tensor,
        norms: &HeadNorms,
    ) -> Option<Result<(Tensor, Tensor)>> {
        let Turn::Fused(table) = &self.turn else {
            return None;
        };
        let _span = span(q, 2).entered();
        Some(rope2d_pair_of_normalised(q, k, norms, table))
    }
}

/// Of `count` tensors like `tokens`.
fn span(tokens: &Tensor, count: u64) -> tracing::Span {
    // A cosine and a sine in float32 for every two channels of a token, whatever the number of
    // heads and images.
    let table = || tokens.dims().iter().skip(1).step_by(2).product::<usize>() as u64 * 4;
    tracing::trace_span!(
        "rope",
        flop = count * work::ROPE * work::elements(tokens),
        bytes = count * 2 * work::bytes(tokens) + table(),
    )
}
