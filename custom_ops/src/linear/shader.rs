//! The Metal kernel that finishes a product, and its launch for given layouts.

use candle_core::{DType, Layout, Result};

use super::Activation;
use super::finish::Finish;
use crate::launch::shader::{Argument, Plan, Shader, Use, vector};

/// finish.metal.
pub(crate) const SHADER: Shader = Shader {
    op: "finish",
    source: include_str!("finish.metal"),
    arguments: &[
        Argument::new("product", Use::Changed, "V"),
        Argument::new("bias", Use::Read, "V"),
        Argument::new("residual", Use::Read, "V"),
        Argument::new("params", Use::Params, "FinishParams"),
    ],
};

/// What the kernel is told, in the order of its own `FinishParams`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct FinishParams {
    /// In vectors, where the kernel takes vectors.
    pub(crate) columns: u32,
    /// Rows that have a bias of their own.
    pub(crate) rows: u32,
    pub(crate) activation: u32,
    /// 0 or 1, as the next.
    pub(crate) has_bias: u32,
    pub(crate) has_residual: u32,
    /// Of the product's elements, in vectors as above.
    pub(crate) count: u32,
}

/// For contiguous tensors: a product `(…, columns)`, biases of `columns` numbers, a residual of the
/// product's shape.
pub(crate) fn plan(
    op: &Finish,
    product: &Layout,
    bias: &Layout,
    residual: &Layout,
    dtype: DType,
) -> Result<Plan<FinishParams>> {
    let elements = product.shape().elem_count();
    let columns = product.dims().last().copied().unwrap_or(1);
    let biases = if op.bias {
        bias.shape().elem_count() / columns
    } else {
        1
    };
    let vector = vector(columns, &[product, bias, residual]);
    Ok(Plan {
        kernel: SHADER.kernel(dtype, vector)?,
        params: FinishParams {
            columns: (columns / vector) as u32,
            rows: (elements / columns / biases) as u32,
            activation: match op.activation {
                Activation::Identity => 0,
                Activation::Relu => 1,
                Activation::Gelu => 2,
            },
            has_bias: op.bias.into(),
            has_residual: op.residual.into(),
            count: (elements / vector) as u32,
        },
        threads: [elements / vector, 1, 1],
        elements,
    })
}
