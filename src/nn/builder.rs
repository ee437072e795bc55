//! What layers are built from.

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::{Init, VarBuilder};
use custom_ops::Storage;

use super::products::FloatProducts;
use crate::runtime::{Optimisation, Optimisations, Precision};

/// What the name of a tensor that is stored as integers ends with for that of its units.
pub(crate) const UNITS: &str = ".units";

/// Weights under a prefix, with the optimisations that the layers built from them have.
#[derive(Clone)]
pub struct Builder<'a> {
    vb: VarBuilder<'a>,
    /// Of the second view's layers, where those of both views are built as one.
    second: Option<VarBuilder<'a>>,
    optimisations: Optimisations,
    products: FloatProducts,
    /// Linear layers multiply int8 where others are bfloat16.
    int8: bool,
}

impl<'a> Builder<'a> {
    /// The weights of `vb`, whose dtype is the precision of products.
    pub fn new(vb: VarBuilder<'a>, optimisations: Optimisations) -> Self {
        Self {
            vb,
            second: None,
            optimisations,
            products: FloatProducts::Default,
            int8: false,
        }
    }

    /// The same weights for a network of this precision, which says more than their dtype.
    #[must_use]
    pub fn in_precision(self, precision: Precision) -> Self {
        Self {
            products: FloatProducts::of(precision),
            int8: precision == Precision::Int8,
            ..self
        }
    }

    /// Both views' weights, of the same shapes, stacked along a new first axis: layers built from
    /// them take both views as one batch, the first view's half before the second's.
    pub(crate) fn both(first: &Self, second: &Self) -> Self {
        Self {
            second: Some(second.vb.clone()),
            ..first.clone()
        }
    }

    /// Whether there are two views' weights.
    pub(crate) fn is_both(&self) -> bool {
        self.second.is_some()
    }

    /// What `shape` makes of a tensor, or of each view's half of a stacked one.
    pub(crate) fn each(
        &self,
        tensor: &Tensor,
        shape: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        if self.is_both() {
            Tensor::stack(&[shape(&tensor.get(0)?)?, shape(&tensor.get(1)?)?], 0)
        } else {
            shape(tensor)
        }
    }

    /// The weights under one more part of the prefix.
    pub fn pp(&self, part: impl ToString) -> Self {
        let part = part.to_string();
        Self {
            second: self.second.as_ref().map(|vb| vb.pp(&part)),
            vb: self.vb.pp(&part),
            ..self.clone()
        }
    }

    /// The same weights for the parts of a network that are float32 in half precision too. There
    /// they do not need all of its digits: on an NVIDIA GPU they are float16 then, which has as many
    /// as TF32 and saturates at its largest numbers, or their products are TF32; on the CPU they are
    /// bfloat16 where the rest is, and where it is int8, which points and confidences do not bear.
    pub fn in_float32(&self) -> Self {
        let has = |optimisation| {
            let is_reduced = self.dtype() != DType::F32 || self.products == FloatProducts::Tf32;
            is_reduced && self.has(optimisation)
        };
        let (dtype, products) = if self.device().is_cpu() {
            let is_reduced = self.dtype() == DType::BF16 && self.has(Optimisation::HalfHeads);
            let dtype = if is_reduced { DType::BF16 } else { DType::F32 };
            (dtype, FloatProducts::Default)
        } else if has(Optimisation::HalfHeads) {
            (DType::F16, FloatProducts::Default)
        } else if has(Optimisation::TensorFloat32Heads) {
            (DType::F32, FloatProducts::Tf32)
        } else {
            (DType::F32, FloatProducts::Default)
        };
        Self {
            vb: self.vb.to_dtype(dtype),
            products,
            int8: false,
            second: self.second.as_ref().map(|vb| vb.to_dtype(dtype)),
            ..self.clone()
        }
    }

    /// The same weights for parts that are float32 on every device: small ones that make cameras.
    pub fn in_exact_float32(&self) -> Self {
        Self {
            vb: self.vb.to_dtype(DType::F32),
            products: FloatProducts::Default,
            second: self.second.as_ref().map(|vb| vb.to_dtype(DType::F32)),
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

    /// Whether the layers are to be built with an optimisation, which there is on their device.
    pub fn has(&self, optimisation: Optimisation) -> bool {
        self.optimisations.has(optimisation) && optimisation.runs_on(self.device())
    }

    /// Whether both views' layers are built as one. The views may differ in size all the same, and
    /// are then taken one after the other.
    pub(crate) fn batches_views(&self) -> bool {
        self.has(Optimisation::BatchedViews) && self.has(Optimisation::ChannelsLastConv)
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
            DType::BF16 if self.int8 => Storage::Int8,
            DType::BF16 => Storage::Bf16,
            _ => Storage::F32,
        }
    }

    /// A tensor of the checkpoint in float32, whatever the dtype; both views' stacked.
    pub(crate) fn float32(&self, shape: impl Into<Shape>, name: &str) -> Result<Tensor> {
        let shape = shape.into();
        let read = |vb: &VarBuilder| {
            vb.get_with_hints_dtype(shape.clone(), name, Init::default(), DType::F32)
        };
        match &self.second {
            None => read(&self.vb),
            Some(second) => Tensor::stack(&[read(&self.vb)?, read(second)?], 0),
        }
    }

    /// Whether linear layers pack their weights and the checkpoint has the tensor as int8.
    pub(crate) fn has_int8(&self, name: &str) -> bool {
        self.has(Optimisation::PackedLinear) && self.vb.contains_tensor(&format!("{name}{UNITS}"))
    }

    /// A tensor that [`Builder::has_int8`]: its bytes, and the unit of each of its rows.
    pub(crate) fn int8(&self, shape: impl Into<Shape>, name: &str) -> Result<(Tensor, Tensor)> {
        let shape = shape.into();
        let rows = shape.dims().first().copied().unwrap_or(0);
        let read = |shape: Shape, name: &str, dtype| {
            let init = Init::default();
            self.vb.get_with_hints_dtype(shape, name, init, dtype)
        };
        Ok((
            read(shape, name, DType::U8)?,
            read(rows.into(), &format!("{name}{UNITS}"), DType::F32)?,
        ))
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
    fn role_keeps_trailing_indices() {
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
