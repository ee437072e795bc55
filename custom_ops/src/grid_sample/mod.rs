//! Bilinear sampling of channels-last maps at given places.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "metal")]
mod metal;
#[cfg(any(test, feature = "metal"))]
pub(crate) mod shader;

use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};

use crate::launch::{check_dtype, check_size, with_contiguous_channels};

/// What lies outside a sampled map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Padding {
    /// Zeros: a sample fades out over the last half pixel.
    #[default]
    Zeros,
    /// The nearest pixel of the edge.
    Border,
}

/// Samples `x` `(batch, height, width, channels)` bilinearly at `grid` `(batch, to_height,
/// to_width, 2)`.
///
/// The grid holds `(x, y)` in float32, -1 to 1 over the map: to the centres of the corner pixels
/// with `align_corners`, `pixel = (g + 1) / 2 (size - 1)`; to the outer edges without, `pixel = ((g
/// + 1) size - 1) / 2`. These are PyTorch's conventions. A place that is not a number counts as
/// outside: zero with [`Padding::Zeros`], the first pixel with [`Padding::Border`].
///
/// `x` is float32, float16 or bfloat16, of any strides; samples are blended in float32. Returns a
/// contiguous `(batch, to_height, to_width, channels)` of the dtype of `x`.
pub fn grid_sample(
    x: &Tensor,
    grid: &Tensor,
    padding: Padding,
    align_corners: bool,
) -> Result<Tensor> {
    let &[batch, _, _, channels] = x.dims() else {
        bail!(
            "grid_sample: input must be (batch, height, width, channels), got {:?}",
            x.dims()
        );
    };
    check_size("grid_sample", "input", x)?;
    check_dtype("grid_sample", "input", x)?;
    let &[grid_batch, to_height, to_width, 2] = grid.dims() else {
        bail!(
            "grid_sample: grid must be (batch, to_height, to_width, 2), got {:?}",
            grid.dims()
        );
    };
    check_size("grid_sample", "grid", grid)?;
    if grid_batch != batch {
        bail!(
            "grid_sample: input {:?} and grid {:?} differ in batch",
            x.dims(),
            grid.dims()
        );
    }
    if grid.dtype() != DType::F32 {
        bail!(
            "grid_sample: grid must be f32, which half a pixel of a large map needs, got {}",
            grid.dtype().as_str()
        );
    }
    if batch * to_height * to_width * channels > i32::MAX as usize {
        bail!(
            "grid_sample: input {:?} at grid {:?} is too large",
            x.dims(),
            grid.dims()
        );
    }
    let op = GridSample {
        to: [to_height, to_width],
        padding,
        align_corners,
    };
    with_contiguous_channels(x)?.apply_op2_no_bwd(&grid.contiguous()?, &op)
}

pub(crate) struct GridSample {
    /// Height and width.
    pub(crate) to: [usize; 2],
    pub(crate) padding: Padding,
    pub(crate) align_corners: bool,
}

impl GridSample {
    fn output_shape(&self, layout: &Layout) -> Shape {
        let dims = layout.dims();
        Shape::from((dims[0], self.to[0], self.to[1], dims[3]))
    }
}

impl CustomOp2 for GridSample {
    fn name(&self) -> &'static str {
        "grid_sample"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        grid: &CpuStorage,
        grid_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok((
            cpu::forward(self, x, layout, grid, grid_layout)?,
            self.output_shape(layout),
        ))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        layout: &Layout,
        grid: &candle_core::CudaStorage,
        grid_layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        Ok((
            cuda::forward(self, x, layout, grid, grid_layout)?,
            self.output_shape(layout),
        ))
    }

    #[cfg(feature = "metal")]
    fn metal_fwd(
        &self,
        x: &candle_core::MetalStorage,
        layout: &Layout,
        grid: &candle_core::MetalStorage,
        grid_layout: &Layout,
    ) -> Result<(candle_core::MetalStorage, Shape)> {
        Ok((
            metal::forward(self, x, layout, grid, grid_layout)?,
            self.output_shape(layout),
        ))
    }
}

/// What the GPU kernels are told, in the order of their own `GridSampleParams`; strides in
/// elements.
#[cfg(any(test, feature = "cuda", feature = "metal"))]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct GridSampleParams {
    pub(crate) height: u32,
    pub(crate) width: u32,
    pub(crate) channels: u32,
    /// Places of one batch entry.
    pub(crate) places: u32,
    pub(crate) batch_stride: u32,
    pub(crate) row_stride: u32,
    pub(crate) column_stride: u32,
    /// 0: zeros, 1: border.
    pub(crate) border: u32,
    /// 0 or 1.
    pub(crate) align_corners: u32,
}

#[cfg(any(test, feature = "cuda", feature = "metal"))]
impl GridSampleParams {
    /// For an input `(batch, height, width, channels)`.
    fn new(op: &GridSample, layout: &Layout) -> Result<Self> {
        let ([_, height, width, channels], [batch_stride, row_stride, column_stride, _]) =
            crate::launch::four_axes("grid_sample", layout)?;
        Ok(Self {
            height: height as u32,
            width: width as u32,
            channels: channels as u32,
            places: (op.to[0] * op.to[1]) as u32,
            batch_stride: batch_stride as u32,
            row_stride: row_stride as u32,
            column_stride: column_stride as u32,
            border: (op.padding == Padding::Border).into(),
            align_corners: op.align_corners.into(),
        })
    }
}
