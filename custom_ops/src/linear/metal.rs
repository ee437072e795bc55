//! The finish of a product on Metal.

use candle_core::backend::BackendStorage as _;
use candle_core::{Layout, MetalStorage, Result};

use super::finish::Finish;
use super::shader::{SHADER, plan};
use crate::launch::metal::{Bound, encode};

/// In place; an argument that is not there is not read.
pub(super) fn finish(
    op: &Finish,
    product: (&MetalStorage, &Layout),
    bias: (&MetalStorage, &Layout),
    residual: (&MetalStorage, &Layout),
) -> Result<()> {
    let bound = [
        Bound::new("product", product.0, product.1),
        Bound::new("bias", bias.0, bias.1),
        Bound::new("residual", residual.0, residual.1),
    ];
    let plan = plan(op, product.1, bias.1, residual.1, product.0.dtype())?;
    encode(&SHADER, &plan, &bound, product.0.device())
}
