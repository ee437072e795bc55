//! The maps that a head ends with, from its last numbers, in one pass each; for GPUs.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "metal")]
mod metal;
#[cfg(any(test, feature = "metal"))]
pub(crate) mod shader;

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};

use crate::cpu::contiguous_f32;
use crate::launch::check_size;

/// Points `xyz / max(d, 1e-8) (e^d - 1)`, `d = |xyz|`, and confidences `1 + e^raw` of `geometry`
/// `(batch, height, width, 4)`, float32: `(batch, height, width, 3)` and `(batch, height, width)`.
///
/// On the CPU this is the plain loop that the kernel is held against.
pub fn geometry_maps(geometry: &Tensor) -> Result<[Tensor; 2]> {
    let &[batch, height, width, 4] = geometry.dims() else {
        bail!(
            "geometry_maps: (batch, height, width, 4) expected, got {:?}",
            geometry.dims()
        )
    };
    check("geometry_maps", geometry)?;
    let pixels = batch * height * width;
    let maps = geometry
        .contiguous()?
        .apply_op1_no_bwd(&GeometryMaps { pixels })?;
    Ok([
        maps.narrow(0, 0, 3 * pixels)?
            .reshape((batch, height, width, 3))?,
        maps.narrow(0, 3 * pixels, pixels)?
            .reshape((batch, height, width))?,
    ])
}

/// How tokens open into the descriptors of a patch's pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DescriptorMaps {
    /// Rows and columns of patches.
    pub grid: [usize; 2],
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Channels of a descriptor.
    pub channels: usize,
    /// What is added to `e^raw` of the channel after the descriptor's; `None` if there is no such
    /// channel.
    pub confidence_floor: Option<f32>,
}

/// Descriptors of unit length and their confidences, if the tokens have any, of `tokens` `(batch,
/// rows * columns, channels * patch * patch)`, float32: channel `c patch^2 + i patch + j` of a token
/// is channel `c` of its pixel `(i, j)`. Returns `(batch, height, width, channels)` and `(batch,
/// height, width)`. A descriptor of zeros has no direction and gives NaN.
///
/// On the CPU this is the plain loop that the kernel is held against.
pub fn descriptor_maps(tokens: &Tensor, maps: DescriptorMaps) -> Result<(Tensor, Option<Tensor>)> {
    let [rows, columns] = maps.grid;
    let (batch, count, numbers) = tokens.dims3()?;
    let area = maps.patch * maps.patch;
    if count != rows * columns || numbers != maps.numbers() * area {
        bail!("descriptor_maps: tokens {:?} for {maps:?}", tokens.dims());
    }
    check("descriptor_maps", tokens)?;
    let (height, width) = (rows * maps.patch, columns * maps.patch);
    let (pixels, channels) = (batch * height * width, maps.channels);
    let out = tokens.contiguous()?.apply_op1_no_bwd(&maps)?;
    let descriptors = out
        .narrow(0, 0, pixels * channels)?
        .reshape((batch, height, width, channels))?;
    let confidences = maps.confidence_floor.map(|_| {
        out.narrow(0, pixels * channels, pixels)?
            .reshape((batch, height, width))
    });
    Ok((descriptors, confidences.transpose()?))
}

fn check(op: &str, tensor: &Tensor) -> Result<()> {
    check_size(op, "input", tensor)?;
    if tensor.dtype() != DType::F32 {
        bail!("{op}: f32 expected, got {}", tensor.dtype().as_str());
    }
    Ok(())
}

pub(crate) struct GeometryMaps {
    pub(crate) pixels: usize,
}

impl CustomOp1 for GeometryMaps {
    fn name(&self) -> &'static str {
        "geometry_maps"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let raw = contiguous_f32("geometry_maps", storage, layout)?;
        let (pixels, _) = raw.as_chunks::<4>();
        let points = pixels.iter().flat_map(|&[x, y, z, _]| {
            let distance = (x * x + y * y + z * z).sqrt();
            let scale = distance.exp_m1() / distance.max(1e-8);
            [x * scale, y * scale, z * scale]
        });
        let confidences = pixels.iter().map(|[.., raw]| raw.exp() + 1.);
        let out: Vec<f32> = points.chain(confidences).collect();
        Ok((CpuStorage::F32(out), Shape::from(4 * self.pixels)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        storage: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let out = cuda::geometry(self, storage, layout)?;
        Ok((out, Shape::from(4 * self.pixels)))
    }

    #[cfg(feature = "metal")]
    fn metal_fwd(
        &self,
        storage: &candle_core::MetalStorage,
        layout: &Layout,
    ) -> Result<(candle_core::MetalStorage, Shape)> {
        let out = metal::geometry(self, storage, layout)?;
        Ok((out, Shape::from(4 * self.pixels)))
    }
}

impl DescriptorMaps {
    /// Numbers of a pixel.
    pub(crate) fn numbers(&self) -> usize {
        self.channels + usize::from(self.confidence_floor.is_some())
    }
}

impl CustomOp1 for DescriptorMaps {
    fn name(&self) -> &'static str {
        "descriptor_maps"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let tokens = contiguous_f32("descriptor_maps", storage, layout)?;
        let ([rows, columns], patch) = (self.grid, self.patch);
        let (area, numbers) = (patch * patch, self.numbers());
        let (height, width) = (rows * patch, columns * patch);
        let pixels = tokens.len() / numbers;
        let value = |pixel: usize, channel: usize| {
            let (x, y) = (pixel % width, pixel / width % height);
            let batch = pixel / width / height;
            let token = (batch * rows + y / patch) * columns + x / patch;
            tokens[(token * numbers + channel) * area + y % patch * patch + x % patch]
        };
        let descriptor = |pixel: usize| {
            let square = |channel| value(pixel, channel).powi(2);
            let length = (0..self.channels).map(square).sum::<f32>().sqrt();
            (0..self.channels).map(move |channel| value(pixel, channel) / length)
        };
        let mut out: Vec<f32> = (0..pixels).flat_map(descriptor).collect();
        if let Some(floor) = self.confidence_floor {
            out.extend((0..pixels).map(|pixel| value(pixel, self.channels).exp() + floor));
        }
        Ok((CpuStorage::F32(out), Shape::from(tokens.len())))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        storage: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let out = cuda::descriptors(self, storage, layout)?;
        Ok((out, Shape::from(layout.shape().elem_count())))
    }

    #[cfg(feature = "metal")]
    fn metal_fwd(
        &self,
        storage: &candle_core::MetalStorage,
        layout: &Layout,
    ) -> Result<(candle_core::MetalStorage, Shape)> {
        let out = metal::descriptors(self, storage, layout)?;
        Ok((out, Shape::from(layout.shape().elem_count())))
    }
}
