//! The rotation on Metal.

use candle_core::backend::BackendStorage as _;
use candle_core::{Layout, MetalStorage, Result, bail};

use super::shader::{SHADER, plan};
use crate::launch::metal::{Bound, launch};

/// As [`super::cpu::forward`].
pub(super) fn forward(
    sources: &[(&MetalStorage, &Layout)],
    table: &MetalStorage,
) -> Result<MetalStorage> {
    let (Some((first, first_layout)), Some((second, second_layout))) =
        (sources.first(), sources.last())
    else {
        bail!("rope2d: nothing to rotate");
    };
    let layouts: Vec<&Layout> = sources.iter().map(|&(_, layout)| layout).collect();
    let bound = vec![
        Bound::new("first", first, first_layout),
        Bound::new("second", second, second_layout),
        Bound::whole("table", table.buffer()),
    ];
    launch(
        &SHADER,
        &plan(&layouts, first.dtype())?,
        bound,
        first.dtype(),
        first.device(),
    )
}
