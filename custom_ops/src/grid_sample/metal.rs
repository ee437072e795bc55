//! Sampling on Metal.

use candle_core::backend::BackendStorage as _;
use candle_core::{Layout, MetalStorage, Result};

use super::GridSample;
use super::shader::{SHADER, plan};
use crate::launch::metal::{Bound, launch};

/// As [`super::cpu::forward`].
pub(super) fn forward(
    op: &GridSample,
    x: &MetalStorage,
    layout: &Layout,
    grid: &MetalStorage,
    grid_layout: &Layout,
) -> Result<MetalStorage> {
    let bound = vec![
        Bound::new("x", x, layout),
        Bound::new("grid", grid, grid_layout),
    ];
    launch(
        &SHADER,
        &plan(op, layout, x.dtype())?,
        bound,
        x.dtype(),
        x.device(),
    )
}
