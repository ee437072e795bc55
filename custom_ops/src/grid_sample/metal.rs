//! Sampling on Metal.

use candle_core::backend::BackendStorage as _;
use candle_core::{Layout, MetalStorage, Result};

use super::GridSample;
use super::shader::{SHADER, plan};
use crate::launch::metal::{Read, launch};

/// As [`super::cpu::forward`].
pub(super) fn forward(
    op: &GridSample,
    x: &MetalStorage,
    layout: &Layout,
    grid: &MetalStorage,
    grid_layout: &Layout,
) -> Result<MetalStorage> {
    let reads = [
        Read::new("x", x, layout),
        Read::new("grid", grid, grid_layout),
    ];
    launch(
        &SHADER,
        &plan(op, layout, x.dtype())?,
        &reads,
        x.dtype(),
        x.device(),
    )
}
