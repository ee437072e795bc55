//! `activation(x W + b) + residual` in one pass over packed weights.

pub(crate) mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub(crate) mod finish;
#[cfg(feature = "cuda")]
mod library;
#[cfg(feature = "cuda")]
mod measured;
#[cfg(feature = "metal")]
mod metal;
mod packed;
mod product;
#[cfg(any(test, feature = "metal"))]
pub(crate) mod shader;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};

pub use crate::cpu::panels::{PackedMatrix, Storage};
pub use finish::{finish, has_finish};
#[cfg(feature = "cuda")]
pub use measured::measuring_products;
pub use packed::{PackedInput, linear_of_packed, linear_to_packed, reads_packed};
pub use product::{Numbers, product};

/// What is applied to a product's elements after the bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    #[default]
    Identity,
    /// `max(x, 0)`.
    Relu,
    /// The exact (erf) form of GELU.
    Gelu,
}

/// Packed weights and bias of a linear layer, for the CPU.
#[derive(Clone, Debug)]
pub struct PackedLinear {
    pub(crate) weight: PackedMatrix,
    /// Padded with zeros to whole panels; empty without a bias.
    pub(crate) bias: Vec<f32>,
}

impl PackedLinear {
    /// Packs `weight` `(out, in)`, float32, row major, and the optional `bias` `(out)`.
    pub fn new(
        weight: &[f32],
        input: usize,
        bias: Option<&[f32]>,
        storage: Storage,
    ) -> Result<Self> {
        if input == 0 || weight.is_empty() || !weight.len().is_multiple_of(input) {
            bail!(
                "linear: {} weights are no whole number of rows of {input}",
                weight.len()
            );
        }
        let output = weight.len() / input;
        let weight = PackedMatrix::from_columns(input, output, storage, |j| {
            &weight[j * input..(j + 1) * input]
        });
        Self::from_packed(weight, bias)
    }

    /// Packs `numbers` `(out, in)`, bytes that are int8, row major, those of output `j` in units of
    /// `units[j]`, and the optional `bias` `(out)`.
    pub fn from_int8(
        numbers: &[u8],
        units: &[f32],
        bias: Option<&[f32]>,
        storage: Storage,
    ) -> Result<Self> {
        if numbers.is_empty() || units.is_empty() || !numbers.len().is_multiple_of(units.len()) {
            bail!(
                "linear: {} numbers are no {} rows",
                numbers.len(),
                units.len()
            );
        }
        let input = numbers.len() / units.len();
        let weight = PackedMatrix::from_int8_columns(input, units, storage, |j| {
            &numbers[j * input..(j + 1) * input]
        });
        Self::from_packed(weight, bias)
    }

    pub(crate) fn from_packed(weight: PackedMatrix, bias: Option<&[f32]>) -> Result<Self> {
        let mut padded = Vec::new();
        if let Some(bias) = bias {
            if bias.len() != weight.n() {
                bail!("linear: {} biases for {} columns", bias.len(), weight.n());
            }
            padded.extend_from_slice(bias);
            padded.resize(weight.panel_count() * crate::cpu::COLUMNS, 0.);
        }
        Ok(Self {
            weight,
            bias: padded,
        })
    }

    /// Width of the input.
    pub fn input(&self) -> usize {
        self.weight.k()
    }

    /// Width of the output.
    pub fn output(&self) -> usize {
        self.weight.n()
    }

    /// Whether a bias is added.
    pub fn has_bias(&self) -> bool {
        !self.bias.is_empty()
    }

    /// The dimensions of the output for an input `(…, in)`.
    fn output_dims(&self, input: &[usize]) -> Result<Vec<usize>> {
        let mut dims = input.to_vec();
        match dims.last_mut() {
            Some(last) if *last == self.input() => *last = self.output(),
            _ => bail!("linear: input {input:?} does not end in {}", self.input()),
        }
        Ok(dims)
    }

    /// Bytes of weights and bias, without what packing adds to fill panels.
    pub fn bytes(&self) -> usize {
        let bias = if self.has_bias() { self.output() } else { 0 };
        self.weight.k() * self.weight.n() * self.weight.value_bytes() + bias * size_of::<f32>()
    }
}

/// `activation(x W^T + b) + residual`.
///
/// `x` is `(…, in)`, contiguous float32 on the CPU; `residual`, where given, and the result are
/// `(…, out)`.
pub fn linear(
    x: &Tensor,
    layer: &PackedLinear,
    activation: Activation,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let dims = layer.output_dims(x.dims())?;
    let op = Linear {
        layer,
        activation,
        shape: Shape::from(dims),
    };
    match residual {
        None => x.apply_op1_no_bwd(&op),
        Some(residual) if residual.shape() == &op.shape => x.apply_op2_no_bwd(residual, &op),
        Some(residual) => bail!(
            "linear: residual {:?} for output {:?}",
            residual.dims(),
            op.shape.dims()
        ),
    }
}

struct Linear<'a> {
    layer: &'a PackedLinear,
    activation: Activation,
    shape: Shape,
}

impl CustomOp1 for Linear<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = crate::cpu::contiguous_f32("linear", storage, layout)?;
        Ok((
            CpuStorage::F32(cpu::forward(x, self.layer, self.activation, None)),
            self.shape.clone(),
        ))
    }
}

impl CustomOp2 for Linear<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = crate::cpu::contiguous_f32("linear", storage, layout)?;
        let residual = crate::cpu::contiguous_f32("linear", residual, residual_layout)?;
        Ok((
            CpuStorage::F32(cpu::forward(x, self.layer, self.activation, Some(residual))),
            self.shape.clone(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::random::normal;

    /// Of float32.
    const UNIT_ROUNDOFF: f32 = f32::EPSILON / 2.;

    fn check(rows: usize, input: usize, output: usize, storage: Storage, allowed: f32) {
        let x = normal(0, (rows, input));
        let w = normal(1, (output, input));
        let b = normal(2, output);
        let residual = normal(3, (rows, output));
        let weights = w.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let layer = PackedLinear::new(&weights, input, Some(&b.to_vec1::<f32>().unwrap()), storage)
            .unwrap();
        let w = w.t().unwrap();
        // A sum of n products of standard normal values is of the order of √n, and so are its
        // partial sums; rounding each of them leaves an error of the order of n units, √n of them
        // to a unit of the result (Higham, Accuracy and Stability of Numerical Algorithms, 4.2).
        // Both sides sum in an order of their own.
        let scale = (input as f32).sqrt();
        let allowed = allowed.max(8. * UNIT_ROUNDOFF * scale);
        for activation in [Activation::Identity, Activation::Relu, Activation::Gelu] {
            for residual in [None, Some(&residual)] {
                let got = linear(&x, &layer, activation, residual).unwrap();
                let want = crate::plain::linear(&x, &w, Some(&b), activation, residual).unwrap();
                let gap = (got - want)
                    .unwrap()
                    .abs()
                    .unwrap()
                    .flatten_all()
                    .unwrap()
                    .max(0)
                    .unwrap();
                let gap = gap.to_scalar::<f32>().unwrap() / scale;
                assert!(
                    gap <= allowed,
                    "({rows}, {input}, {output}) {storage:?} {activation:?}: gap {gap}"
                );
            }
        }
    }

    #[test]
    fn packed_products_equal_plain_ones_at_every_edge() {
        for (rows, input, output) in [
            (1, 1, 1),
            (12, 64, 32),
            (13, 7, 33),
            (25, 100, 65),
            (5, 300, 31),
            (40, 48, 200),
            (14, 5000, 40),
        ] {
            check(rows, input, output, Storage::F32, 1e-5);
            check(rows, input, output, Storage::F16, 4e-3);
            check(rows, input, output, Storage::Bf16, 4e-2);
            check(rows, input, output, Storage::Int8, 6e-2);
        }
    }

    #[test]
    fn a_layer_of_int8_multiplies_its_numbers_in_their_units() {
        let (rows, input, output) = (3, 5, 34);
        let numbers: Vec<u8> = (0..input * output).map(|i| (i * 37 % 256) as u8).collect();
        let units: Vec<f32> = (0..output).map(|j| 0.5 - j as f32 / 16.).collect();
        let weights: Vec<f32> = numbers
            .iter()
            .enumerate()
            .map(|(at, &byte)| f32::from(byte as i8) * units[at / input])
            .collect();
        let w = Tensor::from_vec(weights, (output, input), &Device::Cpu).unwrap();
        // Of whole numbers with one of 127 in each row, so that activations are exact too.
        let x: Vec<f32> = (0..rows * input)
            .map(|i| if i % input == 0 { 127. } else { i as f32 })
            .collect();
        let x = Tensor::from_vec(x, (rows, input), &Device::Cpu).unwrap();
        let want = x.matmul(&w.t().unwrap()).unwrap();
        for storage in [Storage::Int8, Storage::F32, Storage::Bf16] {
            let layer = PackedLinear::from_int8(&numbers, &units, None, storage).unwrap();
            let got = linear(&x, &layer, Activation::Identity, None).unwrap();
            let gap = (got - &want).unwrap().abs().unwrap();
            let gap = gap.flatten_all().unwrap().max(0).unwrap();
            let gap = gap.to_scalar::<f32>().unwrap();
            // A product of two numbers up to 127 in units up to 1.6, of bfloat16 rounded.
            let allowed = if storage == Storage::Bf16 { 300. } else { 0.1 };
            assert!(gap < allowed, "{storage:?}: {gap}");
        }
        let refused = |numbers: &[u8], bias: Option<&[f32]>| {
            PackedLinear::from_int8(numbers, &units, bias, Storage::Int8).is_err()
        };
        assert!(refused(&numbers[1..], None) && refused(&numbers, Some(&[0.; 3])));
    }

    #[test]
    fn wrong_widths_are_refused_by_name() {
        let layer = PackedLinear::new(&[0.; 6], 3, None, Storage::F32).unwrap();
        let x = Tensor::zeros((2, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
        let message = linear(&x, &layer, Activation::Identity, None)
            .unwrap_err()
            .to_string();
        assert!(message.contains("does not end in 3"), "{message}");
    }
}
