//! The ops of this crate as plain Candle expressions, on any device, in float32, float16 and
//! bfloat16.
//!
//! They are the opponents in benchmarks, the second opinion in tests, and what a switched-off
//! optimisation falls back on. Shapes are those of the ops: maps are channels-last.

use candle_core::{D, DType, Device, Result, Tensor, bail};

use crate::{Activation, Padding, RopeTable};

/// [`attention`](crate::attention) with the score matrix in memory: `q` `(batch, queries, heads,
/// dim)`, `k` and `v` `(batch, keys, heads, dim)` to `(batch, queries, heads * dim)`.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let scale = 1. / (q.dim(3)? as f64).sqrt();
    let heads_first = |t: &Tensor| t.transpose(1, 2)?.contiguous();
    let (q, k, v) = (heads_first(q)?, heads_first(k)?, heads_first(v)?);
    let scores = (q.matmul(&k.transpose(D::Minus2, D::Minus1)?)? * scale)?;
    candle_nn::ops::softmax_last_dim(&scores)?
        .matmul(&v)?
        .transpose(1, 2)?
        .flatten_from(2)
}

/// [`layer_norm`](crate::layer_norm) in float32, whatever the dtypes of `x` `(…, dim)`, `scale` and
/// `shift` `(dim)`.
pub fn layer_norm(x: &Tensor, scale: &Tensor, shift: &Tensor, eps: f32) -> Result<Tensor> {
    let wide = x.to_dtype(DType::F32)?;
    let centred = wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normal = centred.broadcast_div(&(variance + f64::from(eps))?.sqrt()?)?;
    let (scale, shift) = (scale.to_dtype(DType::F32)?, shift.to_dtype(DType::F32)?);
    normal
        .broadcast_mul(&scale)?
        .broadcast_add(&shift)?
        .to_dtype(x.dtype())
}

/// `x W` of `x` `(…, in)` and `weight` `(in, out)`, computed in the dtype of `weight`, in that of
/// `x` in the end. Of `weight` `(n, in, out)` each matrix multiplies its own part of `x` `(n, …, in)`.
pub fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    let Some(last) = dims.last_mut() else {
        bail!("product: a scalar has no channels")
    };
    let input = std::mem::replace(last, weight.dim(D::Minus1)?);
    let x_rows = x.to_dtype(weight.dtype())?.contiguous()?;
    let rows = match weight.dims() {
        &[parts, _, _] => x_rows.reshape((parts, (), input))?,
        _ => x_rows.reshape(((), input))?,
    };
    rows.matmul(weight)?.reshape(dims)?.to_dtype(x.dtype())
}

/// An activation, in a pass of its own.
pub fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Identity => Ok(x.clone()),
        Activation::Relu => x.relu(),
        Activation::Gelu => x.gelu_erf(),
    }
}

/// [`finish`](crate::finish) in a pass each: `activation(product + bias) + residual`.
pub fn finish(
    product: Tensor,
    bias: Option<&Tensor>,
    activation: Activation,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let biased = match bias {
        Some(bias) => product.broadcast_add(bias)?,
        None => product,
    };
    let activated = activate(&biased, activation)?;
    match residual {
        Some(residual) => activated + residual,
        None => Ok(activated),
    }
}

/// [`linear`](crate::linear) with `weight` `(in, out)` as it comes.
pub fn linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    activation: Activation,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    finish(product(x, weight)?, bias, activation, residual)
}

/// A 3x3 convolution with padding 1, without bias, by Candle's `conv2d`, between copies to channels
/// first and back: `x` `(batch, height, width, in)`, `weight` `(out, in, 3, 3)`, computed in the
/// dtype of `weight`, in that of `x` in the end.
pub fn conv3x3(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    // Candle convolves bfloat16 on GPUs only.
    let wide = x.device().is_cpu() && weight.dtype() == DType::BF16;
    let rounded = x.to_dtype(weight.dtype())?.permute((0, 3, 1, 2))?;
    let map = if wide {
        rounded.to_dtype(DType::F32)?.contiguous()?.conv2d(
            &weight.to_dtype(DType::F32)?,
            1,
            1,
            1,
            1,
        )?
    } else {
        rounded
            .contiguous()?
            .conv2d(&weight.contiguous()?, 1, 1, 1, 1)?
    };
    map.permute((0, 2, 3, 1))?.contiguous()?.to_dtype(x.dtype())
}

/// [`taps3x3`](crate::taps3x3) by framing the map and reading it nine times.
pub fn taps3x3(x: &Tensor, first_row: usize, rows: usize, relu: bool) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    let seen = if relu { x.relu()? } else { x.clone() };
    let framed = seen.pad_with_zeros(1, 1, 1)?.pad_with_zeros(2, 1, 1)?;
    let tap = |tap: usize| framed.narrow(1, tap / 3, height)?.narrow(2, tap % 3, width);
    let taps = Tensor::cat(&(0..9).map(tap).collect::<Result<Vec<_>>>()?, D::Minus1)?;
    let taps = taps.reshape((batch * height, width, 9 * channels))?;
    taps.narrow(0, first_row, rows)?
        .reshape((rows * width, 9 * channels))
}

/// The cosines and signed sines of a [`RopeTable`] for whole rows of channels.
#[derive(Clone, Debug)]
pub struct RopeFactors {
    /// `(tokens, 1, dim)`.
    cos: Tensor,
    /// `(tokens, 1, dim)`, negative for the first of two channels that turn together.
    sin: Tensor,
}

impl RopeFactors {
    /// The factors of `table` in the dtype of the tokens.
    pub fn new(table: &RopeTable, dtype: DType) -> Result<Self> {
        let (tokens, dim) = (table.tokens(), table.dim());
        // `(tokens, 2 axes, dim / 4)`, for both of two that turn together.
        let factors = |index: usize, first_sign: f64| {
            let values = table
                .tensor()
                .get(index)?
                .reshape((tokens, 2, 1, dim / 4))?;
            Tensor::cat(&[(&values * first_sign)?, values], 2)?
                .reshape((tokens, 1, dim))?
                .to_dtype(dtype)
        };
        Ok(Self {
            cos: factors(0, 1.)?,
            sin: factors(1, -1.)?,
        })
    }

    /// Says that they live in a cache: see [`keep_captured`](crate::keep_captured).
    pub fn keep_captured(&self) {
        for factor in [&self.cos, &self.sin] {
            crate::keep_captured(factor);
        }
    }
}

/// [`rope2d`](crate::rope2d) as `x cos + swapped(x) sin`, whole rows at a time, in the dtype of
/// `tokens`.
pub fn rope2d(tokens: &Tensor, factors: &RopeFactors) -> Result<Tensor> {
    let (batch, count, heads, dim) = tokens.dims4()?;
    let tokens = tokens.contiguous()?;
    let pairs = tokens.reshape((batch, count, heads, 2, 2, dim / 4))?;
    let swapped = Tensor::cat(&[pairs.narrow(4, 1, 1)?, pairs.narrow(4, 0, 1)?], 4)?
        .reshape(tokens.shape())?;
    tokens.broadcast_mul(&factors.cos)? + swapped.broadcast_mul(&factors.sin)?
}

/// [`upsample_bilinear2d`](crate::upsample_bilinear2d) by Candle's own, between copies to channels
/// first and back.
pub fn upsample_bilinear2d(
    x: &Tensor,
    to_height: usize,
    to_width: usize,
    align_corners: bool,
) -> Result<Tensor> {
    let first = x.permute((0, 3, 1, 2))?.contiguous()?;
    first
        .upsample_bilinear2d(to_height, to_width, align_corners)?
        .permute((0, 2, 3, 1))?
        .contiguous()
}

/// Bilinear resampling along one axis of a channels-last map, its indices and weights at hand: two
/// of them make [`upsample_bilinear2d`](crate::upsample_bilinear2d) without leaving channels last.
#[derive(Clone, Debug)]
pub struct AxisTaps {
    axis: usize,
    low: Tensor,
    high: Tensor,
    low_weight: Tensor,
    high_weight: Tensor,
}

impl AxisTaps {
    /// From `from` pixels to `to` along `axis` of four, for maps of `dtype` on `device`.
    pub fn new(
        [from, to]: [usize; 2],
        axis: usize,
        align_corners: bool,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let place = |target: usize| match (align_corners, to) {
            (true, 1) => 0.,
            (true, _) => (target * (from - 1)) as f64 / (to - 1) as f64,
            (false, _) => ((target as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.),
        };
        let last = from as u32 - 1;
        let low: Vec<u32> = (0..to)
            .map(|target| (place(target) as u32).min(last))
            .collect();
        let high: Vec<u32> = low.iter().map(|&low| (low + 1).min(last)).collect();
        let weights: Vec<f32> = low
            .iter()
            .enumerate()
            .map(|(i, &low)| (place(i) - f64::from(low)) as f32)
            .collect();
        let mut shape = [1; 4];
        shape[axis] = to;
        let weights = Tensor::from_vec(weights, &shape, device)?;
        Ok(Self {
            axis,
            low: Tensor::from_vec(low, to, device)?,
            high: Tensor::from_vec(high, to, device)?,
            low_weight: weights.affine(-1., 1.)?.to_dtype(dtype)?,
            high_weight: weights.to_dtype(dtype)?,
        })
    }

    /// `x` resampled along the axis.
    pub fn blend(&self, x: &Tensor) -> Result<Tensor> {
        let low = x
            .index_select(&self.low, self.axis)?
            .broadcast_mul(&self.low_weight)?;
        let high = x
            .index_select(&self.high, self.axis)?
            .broadcast_mul(&self.high_weight)?;
        low + high
    }
}

/// [`grid_sample`](crate::grid_sample) by four gathers of whole pixels; places must be numbers.
pub fn grid_sample(
    x: &Tensor,
    grid: &Tensor,
    padding: Padding,
    align_corners: bool,
) -> Result<Tensor> {
    let batch = x.dim(0)?;
    let samples = (0..batch).map(|i| sample_one(&x.get(i)?, &grid.get(i)?, padding, align_corners));
    let samples = samples.collect::<Result<Vec<_>>>()?;
    if let [only] = samples.as_slice() {
        only.unsqueeze(0)
    } else {
        Tensor::stack(&samples, 0)
    }
}

/// Along one axis, for each place: the two neighbours' indices and weights, `(places, 1)`, float32.
struct Neighbours {
    indices: [Tensor; 2],
    weights: [Tensor; 2],
}

impl Neighbours {
    fn new(place: &Tensor, size: usize, padding: Padding, align_corners: bool) -> Result<Self> {
        let last = (size - 1) as f64;
        let pixel = if align_corners {
            place.affine(last / 2., last / 2.)?
        } else {
            place.affine(size as f64 / 2., size as f64 / 2. - 0.5)?
        };
        // With the border repeated, clamping first leaves no neighbour to mask.
        let pixel = if padding == Padding::Border {
            pixel.clamp(0f64, last)?
        } else {
            pixel
        };
        let low = pixel.floor()?;
        let (high, high_weight) = ((&low + 1.)?, (&pixel - &low)?);
        let (mut low_weight, mut high_weight) = (high_weight.affine(-1., 1.)?, high_weight);
        if padding == Padding::Zeros {
            let inside =
                |index: &Tensor| index.ge(0f64)?.mul(&index.le(last)?)?.to_dtype(DType::F32);
            (low_weight, high_weight) = (
                (low_weight * inside(&low)?)?,
                (high_weight * inside(&high)?)?,
            );
        }
        Ok(Self {
            indices: [low.clamp(0f64, last)?, high.clamp(0f64, last)?],
            weights: [low_weight, high_weight],
        })
    }
}

/// One map `(height, width, channels)` at places `(to_height, to_width, 2)`.
fn sample_one(x: &Tensor, grid: &Tensor, padding: Padding, align_corners: bool) -> Result<Tensor> {
    let (height, width, channels) = x.dims3()?;
    let (to_height, to_width, _) = grid.dims3()?;
    let places = grid.reshape((to_height * to_width, 2))?;
    let axis = |index: usize, size: usize| {
        Neighbours::new(
            &places.narrow(1, index, 1)?.contiguous()?,
            size,
            padding,
            align_corners,
        )
    };
    let (columns, rows) = (axis(0, width)?, axis(1, height)?);
    let pixels = x.reshape((height * width, channels))?;
    let corner = |row: usize, column: usize| -> Result<Tensor> {
        let index = ((&rows.indices[row] * width as f64)? + &columns.indices[column])?;
        let weight = (&rows.weights[row] * &columns.weights[column])?.to_dtype(x.dtype())?;
        pixels
            .index_select(&index.to_dtype(DType::U32)?.flatten_all()?, 0)?
            .broadcast_mul(&weight)
    };
    let (top, bottom) = (
        (corner(0, 0)? + corner(0, 1)?)?,
        (corner(1, 0)? + corner(1, 1)?)?,
    );
    (top + bottom)?.reshape((to_height, to_width, channels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::normal;

    /// In `dtype`; values are of the order of one, so that a few roundings of them bound the gap.
    fn assert_close(what: &str, got: &Tensor, want: &Tensor, dtype: DType) {
        assert_eq!(
            (got.dims(), got.dtype()),
            (want.dims(), want.dtype()),
            "{what}"
        );
        let gap = (got.to_dtype(DType::F32).unwrap() - want.to_dtype(DType::F32).unwrap()).unwrap();
        let gap = gap
            .abs()
            .unwrap()
            .max_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        let allowed = match dtype {
            DType::F32 => 1e-5,
            DType::F16 => 1e-2,
            _ => 1e-1,
        };
        assert!(
            gap <= allowed,
            "{what} in {}: gap {gap:.1e}",
            dtype.as_str()
        );
    }

    #[test]
    fn plain_expressions_equal_the_ops() {
        let device = Device::Cpu;
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let cast = |t: Tensor| t.to_dtype(dtype).unwrap();
            let table = RopeTable::grid(3, 5, 8, 100., &device).unwrap();
            let tokens = cast(normal(1, &[2, 15, 3, 8]));
            let plain = rope2d(&tokens, &RopeFactors::new(&table, dtype).unwrap()).unwrap();
            assert_close(
                "rope2d",
                &plain,
                &crate::rope2d(&tokens, &table).unwrap(),
                dtype,
            );

            let x = cast(normal(2, &[2, 4, 5, 6]));
            for (to_height, to_width) in [(8, 10), (7, 3), (1, 9)] {
                for align_corners in [true, false] {
                    let want =
                        crate::upsample_bilinear2d(&x, to_height, to_width, align_corners).unwrap();
                    let rows =
                        AxisTaps::new([4, to_height], 1, align_corners, dtype, &device).unwrap();
                    let columns =
                        AxisTaps::new([5, to_width], 2, align_corners, dtype, &device).unwrap();
                    let plain = columns.blend(&rows.blend(&x).unwrap()).unwrap();
                    assert_close("blends along the axes", &plain, &want, dtype);
                    let plain =
                        upsample_bilinear2d(&x, to_height, to_width, align_corners).unwrap();
                    assert_close("upsample_bilinear2d", &plain, &want, dtype);
                }
            }

            let grid = normal(3, &[2, 7, 9, 2]);
            for padding in [Padding::Zeros, Padding::Border] {
                for align_corners in [true, false] {
                    let plain = grid_sample(&x, &grid, padding, align_corners).unwrap();
                    let want = crate::grid_sample(&x, &grid, padding, align_corners).unwrap();
                    assert_close("grid_sample", &plain, &want, dtype);
                }
            }

            for (first_row, rows) in [(0, 8), (3, 4)] {
                let plain = taps3x3(&x, first_row, rows, true).unwrap();
                assert_close(
                    "taps3x3",
                    &plain,
                    &crate::taps3x3(&x, first_row, rows, true).unwrap(),
                    dtype,
                );
            }
        }
    }

    #[test]
    fn plain_layer_norm_equals_the_op() {
        let (x, scale, shift) = (normal(4, &[2, 5, 24]), normal(5, &[24]), normal(6, &[24]));
        let want = crate::layer_norm(&x, &scale, &shift, 1e-6).unwrap();
        assert_close(
            "layer_norm",
            &layer_norm(&x, &scale, &shift, 1e-6).unwrap(),
            &want,
            DType::F32,
        );
    }

    #[test]
    fn half_weights_multiply_float32_activations() {
        let (x, weight) = (normal(7, &[2, 3, 5, 8]), normal(8, &[4, 8, 3, 3]));
        let flat = weight
            .get(0)
            .unwrap()
            .flatten_all()
            .unwrap()
            .reshape((8, 9))
            .unwrap();
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let (rounded, flat_rounded) = (
                weight.to_dtype(dtype).unwrap(),
                flat.to_dtype(dtype).unwrap(),
            );
            let allowed = if dtype == DType::F32 { 1e-5f32 } else { 0.3 };
            for (plain, want) in [
                (
                    conv3x3(&x, &rounded).unwrap(),
                    conv3x3(&x, &weight).unwrap(),
                ),
                (
                    product(&x, &flat_rounded).unwrap(),
                    product(&x, &flat).unwrap(),
                ),
            ] {
                assert_eq!((plain.dtype(), plain.dims()), (DType::F32, want.dims()));
                let gap = (plain - want)
                    .unwrap()
                    .abs()
                    .unwrap()
                    .max_all()
                    .unwrap()
                    .to_scalar::<f32>()
                    .unwrap();
                assert!(gap <= allowed, "{dtype:?}: gap {gap}");
            }
        }
    }
}
