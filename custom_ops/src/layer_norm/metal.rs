//! Layer normalisation on Metal.

use candle_core::backend::BackendStorage as _;
use candle_core::{Layout, MetalStorage, Result};

use super::LayerNorm;
use super::shader::{SHADER, plan};
use crate::launch::metal::{Bound, launch};

/// As on CUDA: contiguous `x` `(…, dim)`; `scale` and `shift` float32, `dim` of them for each part.
pub(super) fn forward(
    op: &LayerNorm,
    x: (&MetalStorage, &Layout),
    scale: (&MetalStorage, &Layout),
    shift: (&MetalStorage, &Layout),
) -> Result<MetalStorage> {
    let bound = vec![
        Bound::new("x", x.0, x.1),
        Bound::new("scale", scale.0, scale.1),
        Bound::new("shift", shift.0, shift.1),
    ];
    let dtype = x.0.dtype();
    let plan = plan(op, x.1, scale.1, shift.1, dtype)?;
    launch(&SHADER, &plan, bound, dtype, x.0.device())
}
