//! Layers whose input is packed by what makes it: no float32 of it travels to memory and back.

use candle_core::{CpuStorage, Device, Result, Storage, Tensor, bail};

use super::{Activation, PackedLinear, cpu};
use crate::cpu::{contiguous_f32, panels::Operand, words::PackedRows};

/// The input of a layer of bfloat16 products on the CPU, `(…, channels)`, rounded and laid out as
/// they read it.
pub struct PackedInput {
    rows: PackedRows,
    dims: Vec<usize>,
}

impl PackedInput {
    /// The dimensions of the tensor that it stands for.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }
}

/// Whether a layer can read a [`PackedInput`]: its products are of bfloat16.
pub fn reads_packed(layer: &PackedLinear) -> bool {
    layer.weight.operand() == Operand::Bf16
}

/// `activation(x W^T + b)` for layers that [read packed input](reads_packed), of one that does so
/// too.
///
/// `x` is `(…, in)`, contiguous float32 on the CPU.
pub fn linear_to_packed(
    x: &Tensor,
    layer: &PackedLinear,
    activation: Activation,
) -> Result<PackedInput> {
    let dims = output_dims(x.dims(), layer)?;
    let rows = with_f32(x, |x| {
        let x = PackedRows::bf16(x, layer.input());
        cpu::forward_to_words(&x, layer, activation)
    })?;
    Ok(PackedInput { rows, dims })
}

/// `activation(x W^T + b) + residual`, as [`linear`](super::linear) gives it.
pub fn linear_of_packed(
    x: &PackedInput,
    layer: &PackedLinear,
    activation: Activation,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let dims = output_dims(&x.dims, layer)?;
    let forward =
        |residual: Option<&[f32]>| cpu::forward_packed(&x.rows, layer, activation, residual);
    let values = match residual {
        None => forward(None),
        Some(residual) if residual.dims() == dims => {
            with_f32(residual, |residual| forward(Some(residual)))?
        }
        Some(residual) => bail!("linear: residual {:?} for output {dims:?}", residual.dims()),
    };
    Tensor::from_vec(values, dims, &Device::Cpu)
}

fn output_dims(input: &[usize], layer: &PackedLinear) -> Result<Vec<usize>> {
    if !reads_packed(layer) {
        bail!("linear: a layer that reads no packed input");
    }
    layer.output_dims(input)
}

fn with_f32<T>(x: &Tensor, read: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage @ CpuStorage::F32(_)) => {
            contiguous_f32("linear", storage, layout).map(read)
        }
        _ => bail!("linear: packed input is made of float32 on the CPU"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Storage, linear};
    use super::*;
    use crate::random::normal;

    #[test]
    fn packed_hidden_values_give_the_same_bits_as_a_tensor_of_them() {
        for (rows, input, hidden, output) in [(1, 1, 1, 1), (33, 40, 96, 70), (70, 64, 77, 32)] {
            let layer = |seed, input: usize, output: usize| {
                let weights = normal(seed, (output, input)).flatten_all().unwrap();
                let bias = normal(seed + 1, output).to_vec1::<f32>().unwrap();
                let weights = weights.to_vec1::<f32>().unwrap();
                PackedLinear::new(&weights, input, Some(&bias), Storage::Bf16).unwrap()
            };
            let (first, second) = (layer(0, input, hidden), layer(2, hidden, output));
            let (x, residual) = (normal(4, (2, rows, input)), normal(5, (2, rows, output)));
            if !reads_packed(&first) {
                assert!(linear_to_packed(&x, &first, Activation::Gelu).is_err());
                return;
            }
            for residual in [None, Some(&residual)] {
                let between = linear(&x, &first, Activation::Gelu, None).unwrap();
                let want = linear(&between, &second, Activation::Relu, residual).unwrap();
                let packed = linear_to_packed(&x, &first, Activation::Gelu).unwrap();
                assert_eq!(packed.dims(), [2, rows, hidden]);
                let got = linear_of_packed(&packed, &second, Activation::Relu, residual).unwrap();
                assert_eq!(got.dims(), want.dims());
                let bits = |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert_eq!(bits(got), bits(want));
            }
            let packed = linear_to_packed(&x, &first, Activation::Gelu).unwrap();
            let wrong = normal(6, (2, rows, output + 1));
            assert!(linear_of_packed(&packed, &second, Activation::Relu, Some(&wrong)).is_err());
            assert!(
                hidden == input
                    || linear_of_packed(&packed, &first, Activation::Relu, None).is_err()
            );
        }
    }
}
