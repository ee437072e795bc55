//! The Metal kernels of a head's maps, and their launches.

use candle_core::{DType, Layout, Result, bail};

use super::{DescriptorMaps, GeometryMaps};
use crate::launch::shader::{Argument, Plan, Shader, Use, VECTOR};

/// geometry_maps.metal.
pub(crate) const GEOMETRY: Shader = Shader {
    op: "geometry_maps",
    source: include_str!("geometry_maps.metal"),
    arguments: &[
        Argument::new("geometry", Use::Read, "V"),
        Argument::new("out", Use::Written, "F"),
        Argument::new("params", Use::Params, "GeometryParams"),
    ],
};

/// descriptor_maps.metal.
pub(crate) const DESCRIPTORS: Shader = Shader {
    op: "descriptor_maps",
    source: include_str!("descriptor_maps.metal"),
    arguments: &[
        Argument::new("tokens", Use::Read, "V"),
        Argument::new("out", Use::Written, "V"),
        Argument::new("params", Use::Params, "DescriptorParams"),
    ],
};

/// What the kernel is told, in the order of its own `GeometryParams`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct GeometryParams {
    pub(crate) pixels: u32,
}

/// What the kernel is told, in the order of its own `DescriptorParams`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct DescriptorParams {
    pub(crate) rows: u32,
    pub(crate) columns: u32,
    pub(crate) patch: u32,
    pub(crate) channels: u32,
    /// 0 or 1.
    pub(crate) has_confidence: u32,
    pub(crate) pixels: u32,
    pub(crate) floor: f32,
}

/// For contiguous pixels of four numbers.
pub(crate) fn geometry(op: &GeometryMaps, layout: &Layout) -> Result<Plan<GeometryParams>> {
    if !layout.start_offset().is_multiple_of(VECTOR) {
        bail!("geometry_maps: pixels of four numbers must begin at a multiple of four");
    }
    Ok(Plan {
        kernel: GEOMETRY.kernel(DType::F32, VECTOR)?,
        params: GeometryParams {
            pixels: op.pixels as u32,
        },
        threads: [op.pixels, 1, 1],
        elements: 4 * op.pixels,
    })
}

/// For contiguous tokens.
pub(crate) fn descriptors(op: &DescriptorMaps, layout: &Layout) -> Result<Plan<DescriptorParams>> {
    let elements = layout.shape().elem_count();
    let pixels = elements / op.numbers();
    Ok(Plan {
        kernel: DESCRIPTORS.kernel(DType::F32, 1)?,
        params: DescriptorParams {
            rows: op.grid[0] as u32,
            columns: op.grid[1] as u32,
            patch: op.patch as u32,
            channels: op.channels as u32,
            has_confidence: op.confidence_floor.is_some().into(),
            pixels: pixels as u32,
            floor: op.confidence_floor.unwrap_or_default(),
        },
        threads: [pixels, 1, 1],
        elements,
    })
}
