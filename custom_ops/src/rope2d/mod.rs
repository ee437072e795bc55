//! Rotary position embedding over a two-dimensional grid.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "metal")]
mod metal;
mod norms;
#[cfg(any(test, feature = "metal"))]
pub(crate) mod shader;
mod table;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

pub use norms::{HeadNorms, rope2d_pair_of_normalised};
pub use table::{RopeTable, RopeTables};

use crate::launch::{check_dtype, check_size, with_contiguous_channels};

/// Rotates `tokens` `(batch, tokens, heads, dim)` by `table`; float32, float16 or bfloat16, any
/// strides.
///
/// In each half of the channels, channel `j` pairs with channel `j + dim / 4`. Contiguous channels
/// are read in place, whatever the other strides, so the thirds of a fused projection need no copy.
/// Returns a contiguous tensor of the same shape and dtype; the rotation itself is computed in
/// float32.
pub fn rope2d(tokens: &Tensor, table: &RopeTable) -> Result<Tensor> {
    check("tokens", tokens, table)?;
    with_contiguous_channels(tokens)?.apply_op2_no_bwd(table.tensor(), &Rope2d { norms: None })
}

/// [`rope2d`] of `q` and `k`, of one shape and dtype, in one pass.
pub fn rope2d_pair(q: &Tensor, k: &Tensor, table: &RopeTable) -> Result<(Tensor, Tensor)> {
    pair(q, k, table, None)
}

fn pair(
    q: &Tensor,
    k: &Tensor,
    table: &RopeTable,
    norms: Option<&HeadNorms>,
) -> Result<(Tensor, Tensor)> {
    check("q", q, table)?;
    if q.dims() != k.dims() || q.dtype() != k.dtype() {
        bail!(
            "rope2d: q {:?} {} and k {:?} {} must be of one shape and dtype",
            q.dims(),
            q.dtype().as_str(),
            k.dims(),
            k.dtype().as_str()
        );
    }
    let both = with_contiguous_channels(q)?.apply_op3_no_bwd(
        &with_contiguous_channels(k)?,
        table.tensor(),
        &Rope2d { norms },
    )?;
    Ok((both.get(0)?, both.get(1)?))
}

fn check(name: &str, tokens: &Tensor, table: &RopeTable) -> Result<()> {
    let &[_, count, _, dim] = tokens.dims() else {
        bail!(
            "rope2d: {name} must be (batch, tokens, heads, dim), got {:?}",
            tokens.dims()
        );
    };
    check_size("rope2d", name, tokens)?;
    check_dtype("rope2d", name, tokens)?;
    if count != table.tokens() || dim != table.dim() {
        bail!(
            "rope2d: {name} {:?} has {count} tokens of dim {dim}, the table {} of dim {}",
            tokens.dims(),
            table.tokens(),
            table.dim()
        );
    }
    Ok(())
}

struct Rope2d<'a> {
    /// Where the device has them: see [`norms::has_norms`].
    #[cfg_attr(not(feature = "cuda"), expect(dead_code))]
    norms: Option<&'a HeadNorms>,
}

/// The shape of `sources` rotated tensors: the axis over the sources only where there are two.
fn output_shape(sources: usize, layout: &Layout) -> Shape {
    let mut dims = layout.dims().to_vec();
    if sources > 1 {
        dims.insert(0, sources);
    }
    Shape::from(dims)
}

impl CustomOp2 for Rope2d<'_> {
    fn name(&self) -> &'static str {
        "rope2d"
    }

    fn cpu_fwd(
        &self,
        tokens: &CpuStorage,
        layout: &Layout,
        table: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok((
            cpu::forward(&[(tokens, layout)], table)?,
            output_shape(1, layout),
        ))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        tokens: &candle_core::CudaStorage,
        layout: &Layout,
        table: &candle_core::CudaStorage,
        _: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        Ok((
            cuda::forward(&[(tokens, layout)], table, self.norms)?,
            output_shape(1, layout),
        ))
    }

    #[cfg(feature = "metal")]
    fn metal_fwd(
        &self,
        tokens: &candle_core::MetalStorage,
        layout: &Layout,
        table: &candle_core::MetalStorage,
        _: &Layout,
    ) -> Result<(candle_core::MetalStorage, Shape)> {
        Ok((
            metal::forward(&[(tokens, layout)], table)?,
            output_shape(1, layout),
        ))
    }
}

impl CustomOp3 for Rope2d<'_> {
    fn name(&self) -> &'static str {
        "rope2d"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        table: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok((
            cpu::forward(&[(q, q_layout), (k, k_layout)], table)?,
            output_shape(2, q_layout),
        ))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        q: &candle_core::CudaStorage,
        q_layout: &Layout,
        k: &candle_core::CudaStorage,
        k_layout: &Layout,
        table: &candle_core::CudaStorage,
        _: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        Ok((
            cuda::forward(&[(q, q_layout), (k, k_layout)], table, self.norms)?,
            output_shape(2, q_layout),
        ))
    }

    #[cfg(feature = "metal")]
    fn metal_fwd(
        &self,
        q: &candle_core::MetalStorage,
        q_layout: &Layout,
        k: &candle_core::MetalStorage,
        k_layout: &Layout,
        table: &candle_core::MetalStorage,
        _: &Layout,
    ) -> Result<(candle_core::MetalStorage, Shape)> {
        Ok((
            metal::forward(&[(q, q_layout), (k, k_layout)], table)?,
            output_shape(2, q_layout),
        ))
    }
}

/// What the GPU kernels are told, in the order of their own `RopeParams`; strides in elements.
#[cfg(any(test, feature = "cuda", feature = "metal"))]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct RopeParams {
    /// Tokens of one batch entry.
    pub(crate) tokens: u32,
    pub(crate) heads: u32,
    /// A quarter of a head's channels.
    pub(crate) quarter: u32,
    /// Of the first source.
    pub(crate) batch_stride: u32,
    pub(crate) token_stride: u32,
    pub(crate) head_stride: u32,
    /// Of the second source; those of the first again where there is only one.
    pub(crate) second_batch_stride: u32,
    pub(crate) second_token_stride: u32,
    pub(crate) second_head_stride: u32,
}

#[cfg(any(test, feature = "cuda", feature = "metal"))]
impl RopeParams {
    /// For sources of one shape `(batch, tokens, heads, dim)`.
    pub(crate) fn new(first: &Layout, second: &Layout) -> Result<Self> {
        let ([_, tokens, heads, dim], [batch_stride, token_stride, head_stride, _]) =
            crate::launch::four_axes("rope2d", first)?;
        let (_, second_strides) = crate::launch::four_axes("rope2d", second)?;
        let [
            second_batch_stride,
            second_token_stride,
            second_head_stride,
            _,
        ] = second_strides;
        Ok(Self {
            tokens: tokens as u32,
            heads: heads as u32,
            quarter: (dim / 4) as u32,
            batch_stride: batch_stride as u32,
            token_stride: token_stride as u32,
            head_stride: head_stride as u32,
            second_batch_stride: second_batch_stride as u32,
            second_token_stride: second_token_stride as u32,
            second_head_stride: second_head_stride as u32,
        })
    }
}
