//! Bilinear resampling of channels-last maps to any size.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "metal")]
mod metal;
#[cfg(any(test, feature = "metal"))]
pub(crate) mod shader;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use crate::launch::{check_dtype, check_size, with_contiguous_channels};

/// Resamples `x` `(batch, height, width, channels)` to `(batch, to_height, to_width, channels)`;
/// float32, float16 or bfloat16, any strides, blended in float32.
///
/// With `align_corners` the corner pixels of both images coincide: `source = target (in - 1) /
/// (out - 1)`, 0 where `out = 1`. Without, the outer edges do: `source = max((target + 0.5) in /
/// out - 0.5, 0)`. These are PyTorch's two conventions. Returns a contiguous tensor.
pub fn upsample_bilinear2d(
    x: &Tensor,
    to_height: usize,
    to_width: usize,
    align_corners: bool,
) -> Result<Tensor> {
    resampled(x, [to_height, to_width], align_corners, None)
}

/// [`upsample_bilinear2d`] added to `base` `(1, to_height, to_width, channels)`, which all of the
/// batch share; of the dtype of `x`. In one pass on CUDA.
pub fn upsample_bilinear2d_onto(base: &Tensor, x: &Tensor, align_corners: bool) -> Result<Tensor> {
    let (&[1, height, width, channels], &[.., of_x]) = (base.dims(), x.dims()) else {
        bail!(
            "upsample_bilinear2d: onto {:?}, which is not (1, height, width, channels)",
            base.dims()
        );
    };
    if channels != of_x || base.dtype() != x.dtype() {
        bail!(
            "upsample_bilinear2d: input {:?} {} onto {:?} {}",
            x.dims(),
            x.dtype().as_str(),
            base.dims(),
            base.dtype().as_str()
        );
    }
    if x.device().is_cuda() {
        return resampled(x, [height, width], align_corners, Some(base.contiguous()?));
    }
    let alone = resampled(x, [height, width], align_corners, None)?;
    if alone.dims() == base.dims() {
        return alone + base;
    }
    alone.broadcast_add(base)
}

fn resampled(
    x: &Tensor,
    [to_height, to_width]: [usize; 2],
    align_corners: bool,
    base: Option<Tensor>,
) -> Result<Tensor> {
    let &[batch, _, _, channels] = x.dims() else {
        bail!(
            "upsample_bilinear2d: input must be (batch, height, width, channels), got {:?}",
            x.dims()
        );
    };
    check_size("upsample_bilinear2d", "input", x)?;
    check_dtype("upsample_bilinear2d", "input", x)?;
    if to_height == 0
        || to_width == 0
        || batch * channels * to_height * to_width > i32::MAX as usize
    {
        bail!(
            "upsample_bilinear2d: input {:?} to {to_height}x{to_width} is empty or too large",
            x.dims()
        );
    }
    with_contiguous_channels(x)?.apply_op1_no_bwd(&Upsample {
        to: [to_height, to_width],
        align_corners,
        base,
    })
}

pub(crate) struct Upsample {
    /// Height and width.
    pub(crate) to: [usize; 2],
    pub(crate) align_corners: bool,
    /// What is added to every map of the batch: on CUDA alone.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code))]
    pub(crate) base: Option<Tensor>,
}

impl Upsample {
    fn output_shape(&self, layout: &Layout) -> Shape {
        let dims = layout.dims();
        Shape::from((dims[0], self.to[0], self.to[1], dims[3]))
    }
}

impl CustomOp1 for Upsample {
    fn name(&self) -> &'static str {
        "upsample_bilinear2d"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((cpu::forward(self, x, layout)?, self.output_shape(layout)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        Ok((cuda::forward(self, x, layout)?, self.output_shape(layout)))
    }

    #[cfg(feature = "metal")]
    fn metal_fwd(
        &self,
        x: &candle_core::MetalStorage,
        layout: &Layout,
    ) -> Result<(candle_core::MetalStorage, Shape)> {
        Ok((metal::forward(self, x, layout)?, self.output_shape(layout)))
    }
}

/// Source pixels per target pixel along an axis of `from` pixels resampled to `to`.
fn step(from: usize, to: usize, align_corners: bool) -> f32 {
    match (align_corners, to) {
        (true, 1) => 0.,
        (true, _) => (from - 1) as f32 / (to - 1) as f32,
        (false, _) => from as f32 / to as f32,
    }
}

/// What the GPU kernels are told, in the order of their own `UpsampleParams`; strides in elements.
#[cfg(any(test, feature = "cuda", feature = "metal"))]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct UpsampleParams {
    pub(crate) height: u32,
    pub(crate) width: u32,
    pub(crate) channels: u32,
    pub(crate) to_height: u32,
    pub(crate) to_width: u32,
    pub(crate) batch_stride: u32,
    pub(crate) row_stride: u32,
    pub(crate) column_stride: u32,
    /// 0 or 1.
    pub(crate) align_corners: u32,
    /// Source rows per target row.
    pub(crate) row_step: f32,
    /// Source columns per target column.
    pub(crate) column_step: f32,
}

#[cfg(any(test, feature = "cuda", feature = "metal"))]
impl UpsampleParams {
    /// For an input `(batch, height, width, channels)`.
    fn new(op: &Upsample, layout: &Layout) -> Result<Self> {
        let ([_, height, width, channels], [batch_stride, row_stride, column_stride, _]) =
            crate::launch::four_axes("upsample_bilinear2d", layout)?;
        let [to_height, to_width] = op.to;
        Ok(Self {
            height: height as u32,
            width: width as u32,
            channels: channels as u32,
            to_height: to_height as u32,
            to_width: to_width as u32,
            batch_stride: batch_stride as u32,
            row_stride: row_stride as u32,
            column_stride: column_stride as u32,
            align_corners: op.align_corners.into(),
            row_step: step(height, to_height, op.align_corners),
            column_step: step(width, to_width, op.align_corners),
        })
    }
}
