//! Passes over memory that are no layers: casts, copies, sums. Each has a span, so that a profile
//! has no gaps.

use candle_core::{DType, Result, Tensor};
use custom_ops::{Activation, plain};

use super::work;

/// `x` in another dtype.
pub(crate) fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    if x.dtype() == dtype {
        return Ok(x.clone());
    }
    let after = work::elements(x) * dtype.size_in_bytes() as u64;
    let _span = tracing::trace_span!("cast", flop = 0u64, bytes = work::bytes(x) + after).entered();
    x.to_dtype(dtype)
}

/// A contiguous copy of a view, unless it is contiguous.
pub(crate) fn gathered(x: &Tensor) -> Result<Tensor> {
    if x.is_contiguous() {
        return Ok(x.clone());
    }
    let _span = tracing::trace_span!("gather", flop = 0u64, bytes = 2 * work::bytes(x)).entered();
    x.contiguous()
}

/// Tensors side by side along `axis`.
pub(crate) fn joined(parts: &[&Tensor], axis: usize) -> Result<Tensor> {
    let bytes = || 2 * parts.iter().map(|part| work::bytes(part)).sum::<u64>();
    let _span = tracing::trace_span!("gather", flop = 0u64, bytes = bytes()).entered();
    Tensor::cat(parts, axis)
}

/// `x + y` of maps.
pub(crate) fn sum(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let _span = tracing::trace_span!(
        "add",
        flop = work::ONE * work::elements(x),
        bytes = 3 * work::bytes(x)
    )
    .entered();
    x + y
}

/// `x gamma`, channel by channel.
pub(crate) fn scaled(x: &Tensor, gamma: &Tensor) -> Result<Tensor> {
    let (flop, bytes) = (
        || work::ONE * work::elements(x),
        || 2 * work::bytes(x) + work::bytes(gamma),
    );
    let _span = tracing::trace_span!("layer_scale", flop = flop(), bytes = bytes()).entered();
    x.broadcast_mul(gamma)
}

/// `max(x, 0)`.
pub(crate) fn relu(x: &Tensor) -> Result<Tensor> {
    let _span = tracing::trace_span!(
        "relu",
        flop = work::ONE * work::elements(x),
        bytes = 2 * work::bytes(x)
    )
    .entered();
    plain::activate(x, Activation::Relu)
}

/// Both views' rows `(2, rows, channels)` of a tensor whose first half is the first view's.
pub(crate) fn halves(x: &Tensor) -> Result<Tensor> {
    let channels = x.dims().last().copied().unwrap_or(1);
    x.contiguous()?.reshape((2, (), channels))
}

/// What follows a product.
#[derive(Clone, Copy, Default)]
pub(crate) struct Epilogue<'a> {
    pub(crate) bias: Option<&'a Tensor>,
    pub(crate) activation: Activation,
    pub(crate) residual: Option<&'a Tensor>,
}

impl Epilogue<'_> {
    /// What is done where the product is written, and what in passes of its own.
    pub(crate) fn split(self, fused: bool) -> (Self, Self) {
        if fused {
            (self, Self::default())
        } else {
            (Self::default(), self)
        }
    }

    /// Whether there is anything to do that reads more than the product.
    pub(crate) fn has_operand(self) -> bool {
        self.bias.is_some() || self.residual.is_some()
    }

    /// What there is to do, for a span: `bias+gelu`. Packed weights may have a bias of their own.
    pub(crate) fn parts(self, packed_bias: bool) -> Option<String> {
        let activation = match self.activation {
            Activation::Identity => None,
            Activation::Relu => Some("relu"),
            Activation::Gelu => Some("gelu"),
        };
        let bias = (packed_bias || self.bias.is_some()).then_some("bias");
        let parts: Vec<_> = [bias, activation, self.residual.map(|_| "residual")]
            .into_iter()
            .flatten()
            .collect();
        (!parts.is_empty()).then(|| parts.join("+"))
    }

    /// Bytes of what is read besides the product.
    pub(crate) fn bytes(self) -> u64 {
        self.bias
            .into_iter()
            .chain(self.residual)
            .map(work::bytes)
            .sum()
    }

    /// In one pass over a product on a GPU that nobody shares, in place; nothing without an operand.
    pub(crate) fn in_place(self, product: &Tensor) -> Result<()> {
        if !self.has_operand() {
            return Ok(());
        }
        if !self.is_of_both() {
            return custom_ops::finish(product, self.bias, self.activation, self.residual);
        }
        let residual = self.residual.map(halves).transpose()?;
        custom_ops::finish(
            &halves(product)?,
            self.bias,
            self.activation,
            residual.as_ref(),
        )
    }

    /// Whether each view's half of the product has a bias of its own.
    fn is_of_both(self) -> bool {
        self.bias.is_some_and(|bias| bias.rank() == 3)
    }

    /// In passes of their own.
    pub(crate) fn passes(self, product: Tensor) -> Result<Tensor> {
        if !self.is_of_both() {
            return self.in_turn(product);
        }
        let residual = self.residual.map(halves).transpose()?;
        let passes = Epilogue {
            bias: self.bias,
            activation: self.activation,
            residual: residual.as_ref(),
        };
        passes.in_turn(halves(&product)?)?.reshape(product.dims())
    }

    fn in_turn(self, product: Tensor) -> Result<Tensor> {
        let mut x = product;
        if let Some(bias) = self.bias {
            let (flop, bytes) = (
                || work::ONE * work::elements(&x),
                || 2 * work::bytes(&x) + work::bytes(bias),
            );
            let _span = tracing::trace_span!("bias", flop = flop(), bytes = bytes()).entered();
            x = x.broadcast_add(bias)?;
        }
        x = match self.activation {
            Activation::Identity => x,
            Activation::Relu => relu(&x)?,
            Activation::Gelu => {
                let (flop, bytes) = (|| work::GELU * work::elements(&x), || 2 * work::bytes(&x));
                let _span = tracing::trace_span!("gelu", flop = flop(), bytes = bytes()).entered();
                plain::activate(&x, Activation::Gelu)?
            }
        };
        if let Some(residual) = self.residual {
            let (flop, bytes) = (|| work::ONE * work::elements(&x), || 3 * work::bytes(&x));
            let _span = tracing::trace_span!("residual", flop = flop(), bytes = bytes()).entered();
            x = (x + residual)?;
        }
        Ok(x)
    }
}
