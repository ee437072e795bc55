//! The nine taps of a 3x3 convolution side by side, for a product that a library computes on a GPU.

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, bail};

use crate::cpu::element::Element;
use crate::launch::{check_dtype, check_size};

/// The nine taps around each pixel of `rows` rows of `x` `(batch, height, width, channels)` from
/// `first_row` on: `(rows * width, 9 * channels)`, taps row by row, zeros outside the image,
/// `max(x, 0)` with `relu`.
///
/// Rows are counted through the whole batch: row `r` is row `r % height` of image `r / height`.
/// For GPUs; on the CPU [`conv3x3`](crate::conv3x3) reads the taps in place, and this is the plain
/// loop that the kernels are held against.
pub fn taps3x3(x: &Tensor, first_row: usize, rows: usize, relu: bool) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    check_size("taps3x3", "input", x)?;
    check_dtype("taps3x3", "input", x)?;
    if rows == 0 || first_row + rows > batch * height {
        bail!(
            "taps3x3: rows {first_row} to {} of {batch} x {height}",
            first_row + rows
        );
    }
    if 9 * rows * width * channels > i32::MAX as usize {
        bail!("taps3x3: {rows} rows of {width} x {channels} are too many at once");
    }
    x.contiguous()?.apply_op1_no_bwd(&Taps {
        first_row,
        rows,
        step: 1,
        relu,
    })
}

/// The nine taps around every second pixel of every second row of `x` `(batch, height, width,
/// channels)`: `(batch, ceil(height / 2), ceil(width / 2), 9 * channels)`, as [`taps3x3`] has them.
pub fn every_second_taps3x3(x: &Tensor) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    check_size("taps3x3", "input", x)?;
    check_dtype("taps3x3", "input", x)?;
    let (rows, columns) = (height.div_ceil(2), width.div_ceil(2));
    let taps = x.contiguous()?.apply_op1_no_bwd(&Taps {
        first_row: 0,
        rows: batch * rows,
        step: 2,
        relu: false,
    })?;
    taps.reshape((batch, rows, columns, 9 * channels))
}

/// Bytes of taps that should be gathered at once on Metal, whose GPUs share the memory of the Mac.
pub const MOST_TAPS_ON_METAL: usize = 1 << 26;

/// Bytes of taps that should be gathered at once: on CUDA all that there are, in few launches.
pub fn most_taps(device: &Device) -> usize {
    if device.is_metal() {
        MOST_TAPS_ON_METAL
    } else {
        1 << 31
    }
}

pub(crate) struct Taps {
    /// Of the result's.
    pub(crate) first_row: usize,
    pub(crate) rows: usize,
    /// From one pixel and one row to the next.
    pub(crate) step: usize,
    pub(crate) relu: bool,
}

impl Taps {
    fn shape(&self, layout: &Layout) -> Shape {
        let dims = layout.dims();
        Shape::from((self.rows * dims[2].div_ceil(self.step), 9 * dims[3]))
    }

    fn gather<T: Element>(&self, x: &[T], [height, width, channels]: [usize; 3]) -> Vec<T> {
        let (rows, columns) = (height.div_ceil(self.step), width.div_ceil(self.step));
        let mut taps = Vec::with_capacity(9 * self.rows * columns * channels);
        for batch_row in self.first_row..self.first_row + self.rows {
            let image = &x[batch_row / rows * height * width * channels..];
            for column in 0..columns {
                for (dy, dx) in (0..9).map(|tap| (tap / 3, tap % 3)) {
                    // Both count from one outside of the image.
                    let (y, x) = (batch_row % rows * self.step + dy, column * self.step + dx);
                    if (1..=height).contains(&y) && (1..=width).contains(&x) {
                        let pixel = &image[((y - 1) * width + x - 1) * channels..][..channels];
                        let seen = |&value: &T| {
                            if self.relu {
                                T::round(value.widen().max(0.))
                            } else {
                                value
                            }
                        };
                        taps.extend(pixel.iter().map(seen));
                    } else {
                        taps.resize(taps.len() + channels, T::zero());
                    }
                }
            }
        }
        taps
    }
}

impl CustomOp1 for Taps {
    fn name(&self) -> &'static str {
        "taps3x3"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, height, width, channels) = layout.shape().dims4()?;
        let size = [height, width, channels];
        let start = layout.start_offset();
        let taps = match x {
            CpuStorage::F32(x) => CpuStorage::F32(self.gather(&x[start..], size)),
            CpuStorage::F16(x) => CpuStorage::F16(self.gather(&x[start..], size)),
            CpuStorage::BF16(x) => CpuStorage::BF16(self.gather(&x[start..], size)),
            _ => bail!("taps3x3: input must be f32, f16 or bf16"),
        };
        Ok((taps, self.shape(layout)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        Ok((super::cuda::taps(self, x, layout)?, self.shape(layout)))
    }

    #[cfg(feature = "metal")]
    fn metal_fwd(
        &self,
        x: &candle_core::MetalStorage,
        layout: &Layout,
    ) -> Result<(candle_core::MetalStorage, Shape)> {
        Ok((super::metal::taps(self, x, layout)?, self.shape(layout)))
    }
}
