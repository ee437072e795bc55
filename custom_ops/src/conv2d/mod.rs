//! 3x3 convolution over channels-last maps without an im2col buffer.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
mod hopper;
pub(crate) mod implicit;
#[cfg(feature = "metal")]
mod metal;
#[cfg(any(test, feature = "metal"))]
pub(crate) mod shader;
pub(crate) mod taps;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};

pub use implicit::{has_implicit_conv3x3, implicit_conv3x3};
pub use taps::{MOST_TAPS_ON_METAL, every_second_taps3x3, most_taps, taps3x3};

use crate::cpu::blocks::CHUNK;
use crate::linear::{Activation, PackedLinear, PackedMatrix, Storage};

/// Packed weights and bias of a 3x3 convolution with padding 1, for the CPU.
#[derive(Clone, Debug)]
pub struct PackedConv3x3 {
    /// The inner dimension runs over the nine taps, row by row, and over the channels of each.
    taps: PackedLinear,
    channels: usize,
}

impl PackedConv3x3 {
    /// Packs `weight` `(out, in, 3, 3)`, float32, row major, and the optional `bias` `(out)`.
    /// [`Storage::Int8`] is bfloat16 here.
    pub fn new(
        weight: &[f32],
        channels: usize,
        bias: Option<&[f32]>,
        storage: Storage,
    ) -> Result<Self> {
        if channels == 0 || weight.is_empty() || !weight.len().is_multiple_of(9 * channels) {
            bail!(
                "conv3x3: {} weights are no whole number of {channels} x 3 x 3 kernels",
                weight.len()
            );
        }
        // A tap's bfloat16 fill whole chunks. Int8 would need one unit for all pixels.
        let (storage, padded) = match storage {
            Storage::Bf16 | Storage::Int8 => (Storage::Bf16, channels.next_multiple_of(2 * CHUNK)),
            _ => (storage, channels),
        };
        let (output, k) = (weight.len() / (9 * channels), 9 * padded);
        let mut columns = vec![0f32; output * k];
        for (column, kernel) in columns
            .chunks_exact_mut(k)
            .zip(weight.chunks_exact(9 * channels))
        {
            for (channel, taps) in kernel.chunks_exact(9).enumerate() {
                for (tap, &value) in taps.iter().enumerate() {
                    column[tap * padded + channel] = value;
                }
            }
        }
        let matrix =
            PackedMatrix::from_columns(k, output, storage, |j| &columns[j * k..(j + 1) * k]);
        Ok(Self {
            taps: PackedLinear::from_packed(matrix, bias)?,
            channels,
        })
    }

    /// Input channels.
    pub fn input(&self) -> usize {
        self.channels
    }

    /// Output channels.
    pub fn output(&self) -> usize {
        self.taps.output()
    }

    /// Whether a bias is added.
    pub fn has_bias(&self) -> bool {
        self.taps.has_bias()
    }

    /// Bytes of weights and bias, without what packing adds to fill panels.
    pub fn bytes(&self) -> usize {
        self.taps.bytes()
    }
}

/// `activation(conv3x3(relu?(x)) + b) + residual`, padding 1, stride 1.
///
/// `x` is `(batch, height, width, in)`, contiguous float32 on the CPU; `residual`, where given, and
/// the result are `(batch, height, width, out)`. With `relu_first` the convolution reads `max(x,
/// 0)`.
pub fn conv3x3(
    x: &Tensor,
    layer: &PackedConv3x3,
    relu_first: bool,
    activation: Activation,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    if channels != layer.channels {
        bail!(
            "conv3x3: input {:?} must have {} channels",
            x.dims(),
            layer.channels
        );
    }
    if batch * height * width == 0 {
        bail!("conv3x3: input {:?} is empty", x.dims());
    }
    let op = Conv3x3 {
        layer,
        relu_first,
        activation,
        size: [batch, height, width],
    };
    match residual {
        None => x.apply_op1_no_bwd(&op),
        Some(residual) if residual.shape() == &op.shape() => x.apply_op2_no_bwd(residual, &op),
        Some(residual) => bail!(
            "conv3x3: residual {:?} for output {:?}",
            residual.dims(),
            op.shape().dims()
        ),
    }
}

struct Conv3x3<'a> {
    layer: &'a PackedConv3x3,
    relu_first: bool,
    activation: Activation,
    size: [usize; 3],
}

impl Conv3x3<'_> {
    fn shape(&self) -> Shape {
        let [batch, height, width] = self.size;
        Shape::from((batch, height, width, self.layer.output()))
    }

    fn forward(&self, x: &[f32], residual: Option<&[f32]>) -> (CpuStorage, Shape) {
        (
            CpuStorage::F32(cpu::forward(x, self, residual)),
            self.shape(),
        )
    }
}

impl CustomOp1 for Conv3x3<'_> {
    fn name(&self) -> &'static str {
        "conv3x3"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok(self.forward(
            crate::cpu::contiguous_f32("conv3x3", storage, layout)?,
            None,
        ))
    }
}

impl CustomOp2 for Conv3x3<'_> {
    fn name(&self) -> &'static str {
        "conv3x3"
    }

    fn cpu_fwd(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = crate::cpu::contiguous_f32("conv3x3", storage, layout)?;
        let residual = crate::cpu::contiguous_f32("conv3x3", residual, residual_layout)?;
        Ok(self.forward(x, Some(residual)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plain;
    use crate::random::normal;

    fn check(
        size: (usize, usize, usize),
        input: usize,
        output: usize,
        storage: Storage,
        allowed: f32,
    ) {
        let (batch, height, width) = size;
        let x = normal(0, (batch, height, width, input));
        let w = normal(1, (output, input, 3, 3));
        let b = normal(2, output);
        let residual = normal(3, (batch, height, width, output));
        let weights = w.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let layer =
            PackedConv3x3::new(&weights, input, Some(&b.to_vec1::<f32>().unwrap()), storage)
                .unwrap();
        for relu_first in [false, true] {
            let read = if relu_first {
                x.relu().unwrap()
            } else {
                x.clone()
            };
            let product = plain::conv3x3(&read, &w).unwrap();
            for residual in [None, Some(&residual)] {
                let got = conv3x3(&x, &layer, relu_first, Activation::Relu, residual).unwrap();
                let want =
                    plain::finish(product.clone(), Some(&b), Activation::Relu, residual).unwrap();
                let gap = (got - want)
                    .unwrap()
                    .abs()
                    .unwrap()
                    .flatten_all()
                    .unwrap()
                    .max(0)
                    .unwrap();
                let gap = gap.to_scalar::<f32>().unwrap() / (9. * input as f32).sqrt();
                assert!(
                    gap <= allowed,
                    "{size:?} {input} to {output} {storage:?}: gap {gap}"
                );
            }
        }
    }

    #[test]
    fn convolution_equals_candles_at_every_edge() {
        for (size, input, output) in [
            ((1, 1, 1), 1, 1),
            ((2, 3, 5), 4, 7),
            ((1, 7, 12), 8, 32),
            ((3, 9, 40), 5, 33),
            ((1, 24, 11), 16, 70),
        ] {
            check(size, input, output, Storage::F32, 1e-5);
            check(size, input, output, Storage::F16, 4e-3);
            check(size, input, output, Storage::Bf16, 4e-2);
        }
        // The last tile ends at every place of a row and beyond.
        for width in 1..=12 {
            check((1, 1, width), 2, 3, Storage::F32, 1e-5);
        }
    }
}
