//! Rotary position embedding over a two-dimensional grid.

#![allow(unsafe_code)] // Threads write disjoint tokens of one output; each use states its invariant.

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{
    Shared,
    levels::{self, Level, Task},
    strided_f32,
};

/// Cosines and sines of every token's angles: the first half of a row by y, the second by x.
///
/// With `d = dim / 2`, angle `j` of a half is `position * base^(-2 j / d)` for `j` in `0..d / 2`.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// `(tokens, dim / 2)`.
    cos: Vec<f32>,
    sin: Vec<f32>,
    tokens: usize,
    dim: usize,
    /// The same on the device of the tokens, float32; unused on the CPU.
    on_device: Option<(Tensor, Tensor)>,
}

impl RopeTable {
    /// For tokens at `positions` `(y, x)` and heads of `dim` channels.
    pub fn new(positions: &[[f32; 2]], dim: usize, base: f32, device: &Device) -> Result<Self> {
        if dim == 0 || !dim.is_multiple_of(4) {
            bail!("rope2d: head dim must be a multiple of 4, got {dim}");
        }
        let half = dim / 2;
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in positions {
            for &coordinate in position {
                for j in 0..half / 2 {
                    let frequency = f64::from(base).powf(-2. * j as f64 / half as f64);
                    let angle = f64::from(coordinate) * frequency;
                    cos.push(angle.cos() as f32);
                    sin.push(angle.sin() as f32);
                }
            }
        }
        let tokens = positions.len();
        let on_device = if device.is_cpu() {
            None
        } else {
            let upload = |values: &[f32]| Tensor::from_slice(values, (tokens, 2, half / 2), device);
            Some((upload(&cos)?, upload(&sin)?))
        };
        Ok(Self { cos, sin, tokens, dim, on_device })
    }

    /// For a grid of `rows` by `columns` tokens, row major.
    pub fn grid(rows: usize, columns: usize, dim: usize, base: f32, device: &Device) -> Result<Self> {
        let positions: Vec<[f32; 2]> =
            (0..rows * columns).map(|i| [(i / columns) as f32, (i % columns) as f32]).collect();
        Self::new(&positions, dim, base, device)
    }
}

/// Rotates `tokens` `(batch, tokens, heads, dim)`, any strides with contiguous channels, by `table`.
///
/// In each half of the channels, channel `j` pairs with channel `j + dim / 4`. Returns a contiguous tensor of the same
/// shape and dtype.
pub fn rope2d(tokens: &Tensor, table: &RopeTable) -> Result<Tensor> {
    let (_, count, _, dim) = tokens.dims4()?;
    if count != table.tokens || dim != table.dim {
        bail!("rope2d: {count} tokens of dim {dim} for a table of {} of dim {}", table.tokens, table.dim);
    }
    match &table.on_device {
        None => tokens.apply_op1_no_bwd(&Rope2d { table }),
        Some((cos, sin)) => plain(tokens, cos, sin),
    }
}

/// The same as tensor operations, for devices without a kernel of their own and as the oracle of those with one.
fn plain(tokens: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (batch, count, heads, dim) = tokens.dims4()?;
    let dtype = tokens.dtype();
    let pairs = tokens.reshape((batch, count, heads, 2, 2, dim / 4))?.to_dtype(DType::F32)?;
    let (first, second) = (pairs.narrow(4, 0, 1)?, pairs.narrow(4, 1, 1)?);
    let (cos, sin) = (cos.reshape((1, count, 1, 2, 1, dim / 4))?, sin.reshape((1, count, 1, 2, 1, dim / 4))?);
    let rotated_first = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
    let rotated_second = (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?;
    Tensor::cat(&[rotated_first, rotated_second], 4)?.reshape((batch, count, heads, dim))?.to_dtype(dtype)
}

struct Rope2d<'a> {
    table: &'a RopeTable,
}

impl CustomOp1 for Rope2d<'_> {
    fn name(&self) -> &'static str {
        "rope2d"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let values = strided_f32("rope2d", storage, layout)?;
        let &[batch, count, heads, dim] = layout.dims() else { bail!("rope2d: four axes expected") };
        let &[batch_stride, token_stride, head_stride, 1] = layout.stride() else {
            bail!("rope2d: channels must be contiguous, got strides {:?}", layout.stride());
        };
        let mut out = vec![0f32; batch * count * heads * dim];
        out.par_chunks_mut((heads * dim).max(1)).enumerate().for_each(|(index, out)| {
            let (b, token) = (index / count, index % count);
            let start = b * batch_stride + token * token_stride;
            let task =
                TokenTask { out: Shared::new(out), values: &values[start..], heads, head_stride, token, op: self };
            levels::run(&task);
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

struct TokenTask<'a> {
    out: Shared<f32>,
    values: &'a [f32],
    heads: usize,
    head_stride: usize,
    token: usize,
    op: &'a Rope2d<'a>,
}

impl Task for TokenTask<'_> {
    #[inline(always)]
    fn run<L: Level>(&self) {
        let dim = self.op.table.dim;
        let quarter = dim / 4;
        // SAFETY: this token is this task's alone.
        let out = unsafe { self.out.range(0, self.heads * dim) };
        for (head, out) in out.chunks_exact_mut(dim).enumerate() {
            let values = &self.values[head * self.head_stride..][..dim];
            for half in 0..2 {
                let at = self.token * dim / 2 + half * quarter;
                let (cos, sin) = (&self.op.table.cos[at..][..quarter], &self.op.table.sin[at..][..quarter]);
                let (first, second) = values[half * dim / 2..][..dim / 2].split_at(quarter);
                let (out_first, out_second) = out[half * dim / 2..][..dim / 2].split_at_mut(quarter);
                for j in 0..quarter {
                    out_first[j] = L::mul_add(first[j], cos[j], -(second[j] * sin[j]));
                    out_second[j] = L::mul_add(second[j], cos[j], first[j] * sin[j]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strided_thirds_rotate_like_the_plain_expression() {
        let device = Device::Cpu;
        let (batch, rows, columns, heads, dim) = (2, 3, 5, 2, 12);
        let qkv = Tensor::randn(0f32, 1., (batch, rows * columns, 3, heads, dim), &device).unwrap();
        let table = RopeTable::grid(rows, columns, dim, 100., &device).unwrap();
        let cos = Tensor::from_slice(&table.cos, (rows * columns, 2, dim / 4), &device).unwrap();
        let sin = Tensor::from_slice(&table.sin, (rows * columns, 2, dim / 4), &device).unwrap();
        for third in 0..3 {
            let tokens = qkv.get_on_dim(2, third).unwrap();
            let gap = (rope2d(&tokens, &table).unwrap() - plain(&tokens, &cos, &sin).unwrap()).unwrap();
            let gap = gap.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
            assert!(gap < 1e-6, "third {third}: gap {gap}");
        }
    }

    #[test]
    fn the_origin_stays_put() {
        let device = Device::Cpu;
        let tokens = Tensor::randn(0f32, 1., (1, 1, 3, 8), &device).unwrap();
        let table = RopeTable::grid(1, 1, 8, 100., &device).unwrap();
        let got = rope2d(&tokens, &table).unwrap();
        assert_eq!(
            got.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            tokens.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        );
    }
}
