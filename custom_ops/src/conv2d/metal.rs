//! Gathering taps on Metal.

use candle_core::backend::BackendStorage as _;
use candle_core::{Layout, MetalStorage, Result};

use super::shader::{SHADER, plan};
use super::taps::Taps;
use crate::launch::metal::{Bound, launch};

/// As [`super::taps3x3`].
pub(super) fn taps(op: &Taps, x: &MetalStorage, layout: &Layout) -> Result<MetalStorage> {
    launch(
        &SHADER,
        &plan(op, layout, x.dtype())?,
        vec![Bound::new("x", x, layout)],
        x.dtype(),
        x.device(),
    )
}
