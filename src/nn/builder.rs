//! What layers are built from.

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::{Init, VarBuilder};
use custom_ops::Storage;

use super::products::FloatProducts;
use crate::runtime::{Optimisation, Optimisations};

/// Weights under a prefix, with the optimisations that the layers built from them have.
#[derive(Clone)]
pub struct Builder<'a> {
    vb: VarBuilder<'a>,
    optimisations: Optimisations,
    products: FloatProducts,
}

impl<'a> Builder<'a> {
    /// The weights of `vb`, whose dtype is the precision of products.
    pub fn new(vb: VarBuilder<'a>, optimisations: Optimisations) -> Self {
        Self {
            vb,
            optimisations,
            products: FloatProducts::Default,
        }
    }

    /// The weights under one more part of the prefix.
    pub fn pp(&self, part: impl ToString) -> Self {
        Self {
            vb: self.vb.pp(part),
            ..self.clone()
        }
    }

    /// The same weights for the parts of a network that stay float32 in half precision too. They
    /// need its range, not all of its digits, so their products are TF32 then on a GPU that has it.
    pub fn in_float32(&self) -> Self {
        let is_half = self.dtype() != DType::F32;
        let reduced =
            is_half && self.device().is_cuda() && self.has(Optimisation::TensorFloat32Heads);
        let products = if reduced {
            FloatProducts::Tf32
        } else {
            FloatProducts::Default
        };
        Self {
            vb: self.vb.to_dtype(DType::F32),
            products,
            ..self.clone()
        }
    }

    /// The precision of products.
    pub fn dtype(&self) -> DType {
        self.vb.dtype()
    }

    /// Where the layers will compute.
    pub fn device(&self) -> &Device {
        self.vb.device()
    }

    /// How float32 products are launched.
    pub(crate) fn products(&self) -> FloatProducts {
        self.products
    }

    /// Whether the layers are to be built with an optimisation.
    pub fn has(&self, optimisation: Optimisation) -> bool {
        self.optimisations.has(optimisation)
    }

    /// The dtype of activations: float32 on the CPU, elsewhere that of products.
    pub(crate) fn activations(&self) -> DType {
        if self.device().is_cpu() {
            DType::F32
        } else {
            self.dtype()
        }
    }

    /// The precision of products on the CPU.
    pub(crate) fn storage(&self) -> Storage {
        match self.dtype() {
            DType::F16 => Storage::F16,
            DType::BF16 => Storage::Bf16,
            _ => Storage::F32,
        }
    }

    /// A tensor of the checkpoint in float32, whatever the dtype.
    pub(crate) fn float32(&self, shape: impl Into<Shape>, name: &str) -> Result<Tensor> {
        self.vb
            .get_with_hints_dtype(shape, name, Init::default(), DType::F32)
    }

    /// The layer's own name for traces: the last word of the prefix with the numbers after it, as
    /// in `qkv` and `head.0`.
    pub(crate) fn role(&self) -> String {
        let prefix = self.vb.prefix();
        let parts: Vec<&str> = prefix.split('.').collect();
        let word = parts
            .iter()
            .rposition(|part| part.parse::<usize>().is_err())
            .unwrap_or_default();
        parts[word..].join(".")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_a_word_with_its_numbers() {
        let builder = Builder::new(
            VarBuilder::zeros(DType::F32, &Device::Cpu),
            Optimisations::all(),
        );
        let role = |prefix: &str| builder.pp(prefix).role();
        assert_eq!(role("enc_blocks.3.attn.qkv"), "qkv");
        assert_eq!(role("downstream_head1.dpt.head.0"), "head.0");
        assert_eq!(role("dpt.act_postprocess.3.1"), "act_postprocess.3.1");
        assert_eq!(builder.role(), "");
    }
}
