//! Resampling on Metal.

use candle_core::backend::BackendStorage as _;
use candle_core::{Layout, MetalStorage, Result};

use super::Upsample;
use super::shader::{SHADER, plan};
use crate::launch::metal::{Bound, launch};

/// As [`super::cpu::forward`].
pub(super) fn forward(op: &Upsample, x: &MetalStorage, layout: &Layout) -> Result<MetalStorage> {
    let plan = plan(op, layout, x.dtype())?;
    launch(
        &SHADER,
        &plan,
        vec![Bound::new("x", x, layout)],
        x.dtype(),
        x.device(),
    )
}
