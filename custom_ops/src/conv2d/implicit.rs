//! 3x3 convolution by a GPU whose copies find the taps, without a gathered matrix.

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, bail};

use crate::launch::check_size;

/// Whether [`implicit_conv3x3`] has a kernel for maps of `dtype` on `device`, `input` channels to
/// `output`: on Hopper GPUs in half precision, for whole steps of channels.
pub fn has_implicit_conv3x3(device: &Device, dtype: DType, input: usize, output: usize) -> bool {
    let fits = matches!(dtype, DType::F16 | DType::BF16)
        && input > 0
        && input.is_multiple_of(8)
        && output > 0
        && output.is_multiple_of(64);
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => fits && crate::launch::cuda::is_hopper(device),
        _ => {
            let _ = fits;
            false
        }
    }
}

/// `relu?(conv3x3(x) + bias) + residual`, padding 1, stride 1, on a GPU, in float16 or bfloat16 with
/// sums in float32.
///
/// `x` is `(batch, height, width, input)`; `weight` `(9, output, input)`, taps row by row, or
/// `(parts, 9, output, input)` for equal parts of the batch; `bias` has `output` numbers for each
/// part, `residual` and the result are `(batch, height, width, output)`; all of one dtype. Needs
/// [`has_implicit_conv3x3`].
pub fn implicit_conv3x3(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    relu: bool,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let (batch, height, width, input) = x.dims4()?;
    let (parts, output) = match *weight.dims() {
        [9, output, channels] if channels == input => (1, output),
        [parts, 9, output, channels] if channels == input && batch.is_multiple_of(parts) => {
            (parts, output)
        }
        _ => bail!(
            "conv3x3: weight {:?} for maps {:?}",
            weight.dims(),
            x.dims()
        ),
    };
    check_size("conv3x3", "input", x)?;
    if !has_implicit_conv3x3(x.device(), x.dtype(), input, output) {
        bail!(
            "conv3x3: no kernel for {input} to {output} channels of {} on this device",
            x.dtype().as_str()
        );
    }
    if let Some(bias) = bias
        && bias.elem_count() != parts * output
    {
        bail!(
            "conv3x3: bias {:?} for {parts} x {output} channels",
            bias.dims()
        );
    }
    if let Some(residual) = residual
        && residual.dims() != [batch, height, width, output]
    {
        bail!(
            "conv3x3: residual {:?} for maps {:?}",
            residual.dims(),
            x.dims()
        );
    }
    let all = [Some(weight), bias, residual];
    if all.into_iter().flatten().any(|t| t.dtype() != x.dtype()) {
        bail!(
            "conv3x3: weight, bias and residual must be {}",
            x.dtype().as_str()
        );
    }
    // Copies of boxes begin at multiples of 16 bytes.
    let whole = |t: &Tensor| {
        let t = t.contiguous()?;
        if t.layout().start_offset().is_multiple_of(8) {
            Ok(t)
        } else {
            t.force_contiguous()
        }
    };
    let (x, weight) = (whole(x)?, whole(weight)?);
    let bias = bias.map(whole).transpose()?;
    let residual = residual.map(whole).transpose()?;
    x.apply_op1_no_bwd(&Conv {
        size: [batch, height, width],
        input,
        output,
        parts,
        relu,
        weight: &weight,
        bias: bias.as_ref(),
        residual: residual.as_ref(),
    })
}

/// Pixels of a block.
#[cfg(any(test, feature = "cuda"))]
pub(crate) const BLOCK_PIXELS: usize = 128;
/// Input channels of a step.
#[cfg(feature = "cuda")]
pub(super) const STEP: usize = 64;

#[cfg_attr(not(feature = "cuda"), allow(dead_code))] // What the launch on CUDA reads.
pub(super) struct Conv<'a> {
    /// Maps, rows and columns.
    pub(super) size: [usize; 3],
    pub(super) input: usize,
    pub(super) output: usize,
    /// Equal parts of the batch that have weights of their own.
    pub(super) parts: usize,
    pub(super) relu: bool,
    pub(super) weight: &'a Tensor,
    pub(super) bias: Option<&'a Tensor>,
    pub(super) residual: Option<&'a Tensor>,
}

/// The shape of blocks of pixels for a map: the binary logarithm of their columns, and how many
/// there are. Of the shapes that need fewest, the one nearest to a square.
#[cfg(any(test, feature = "cuda"))]
pub(crate) fn tiles(height: usize, width: usize) -> (u32, usize) {
    let count = |log: u32| width.div_ceil(1 << log) * height.div_ceil(BLOCK_PIXELS >> log);
    let shapes = [4, 3, 5, 2, 6, 1, 7, 0];
    let best = shapes.into_iter().min_by_key(|&log| count(log));
    let log = best.unwrap_or(4);
    (log, count(log))
}

/// Output channels of a block: 128 if they divide and there are enough blocks for a GPU of so many
/// multiprocessors, else 64.
#[cfg(any(test, feature = "cuda"))]
pub(crate) fn block_outputs(output: usize, tiles: usize, multiprocessors: usize) -> usize {
    if output.is_multiple_of(128) && tiles * (output / 128) >= multiprocessors {
        128
    } else {
        64
    }
}

impl CustomOp1 for Conv<'_> {
    fn name(&self) -> &'static str {
        "conv3x3"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("conv3x3: on the CPU `conv3x3` reads the taps in place")
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let [batch, height, width] = self.size;
        let shape = Shape::from((batch, height, width, self.output));
        Ok((super::hopper::forward(self, x, layout)?, shape))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_a_map_with_little_beside_it() {
        assert_eq!(tiles(384, 512), (4, 1536));
        assert_eq!(tiles(24, 32), (4, 6));
        // 2 x 64, 4 x 32 and 8 x 16 would need more.
        assert_eq!(tiles(12, 16), (4, 2));
        assert_eq!(tiles(1, 500), (7, 4));
        for (height, width) in [(23, 45), (1, 1), (129, 3)] {
            let (log, count) = tiles(height, width);
            assert!(
                count * BLOCK_PIXELS >= height * width,
                "{height}x{width}: {log}"
            );
        }
    }

    #[test]
    fn few_blocks_are_narrow() {
        assert_eq!(block_outputs(256, 200, 132), 128);
        assert_eq!(block_outputs(256, 12, 132), 64);
        assert_eq!(block_outputs(192, 2000, 132), 64);
    }
}
