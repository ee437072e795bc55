//! The maps of a head on Metal.

use candle_core::backend::BackendStorage as _;
use candle_core::{DType, Layout, MetalStorage, Result};

use super::shader::{self, DESCRIPTORS, GEOMETRY};
use super::{DescriptorMaps, GeometryMaps};
use crate::launch::metal::{Bound, launch};

pub(super) fn geometry(
    op: &GeometryMaps,
    storage: &MetalStorage,
    layout: &Layout,
) -> Result<MetalStorage> {
    let plan = shader::geometry(op, layout)?;
    let bound = vec![Bound::new("geometry", storage, layout)];
    launch(&GEOMETRY, &plan, bound, DType::F32, storage.device())
}

pub(super) fn descriptors(
    op: &DescriptorMaps,
    storage: &MetalStorage,
    layout: &Layout,
) -> Result<MetalStorage> {
    let plan = shader::descriptors(op, layout)?;
    let bound = vec![Bound::new("tokens", storage, layout)];
    launch(&DESCRIPTORS, &plan, bound, DType::F32, storage.device())
}
