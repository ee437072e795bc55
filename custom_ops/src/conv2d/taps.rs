//! The nine taps of a 3x3 convolution side by side, for a product that a library computes on a GPU.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use crate::launch::{check_dtype, check_size};

/// The nine taps around each pixel of `rows` rows of `x` `(batch, height, width, channels)`, contiguous, from
/// `first_row` on, on CUDA: `(rows * width, 9 * channels)`, taps row by row, zeros outside the picture, `max(x, 0)` with
/// `relu`.
///
/// Rows are counted through the whole batch: row `r` is row `r % height` of picture `r / height`.
pub fn taps3x3(x: &Tensor, first_row: usize, rows: usize, relu: bool) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    check_size("taps3x3", "input", x)?;
    check_dtype("taps3x3", "input", x)?;
    if rows == 0 || first_row + rows > batch * height {
        bail!("taps3x3: rows {first_row} to {} of {batch} x {height}", first_row + rows);
    }
    if 9 * rows * width * channels > i32::MAX as usize {
        bail!("taps3x3: {rows} rows of {width} x {channels} are too many at once");
    }
    x.contiguous()?.apply_op1_no_bwd(&Taps { first_row, rows, relu })
}

pub(super) struct Taps {
    pub(super) first_row: usize,
    pub(super) rows: usize,
    pub(super) relu: bool,
}

impl CustomOp1 for Taps {
    fn name(&self) -> &'static str {
        "taps3x3"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("taps3x3: on the CPU `conv3x3` reads the taps in place")
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &candle_core::CudaStorage, layout: &Layout) -> Result<(candle_core::CudaStorage, Shape)> {
        let dims = layout.dims();
        let shape = Shape::from((self.rows * dims[2], 9 * dims[3]));
        Ok((super::cuda::taps(self, x, layout)?, shape))
    }
}
