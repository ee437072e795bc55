//! Layer norms over the channels of each head, before the rotation.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::{RopeTable, pair, rope2d_pair};
use crate::layer_norm;

/// The layer norms of queries and of keys.
#[derive(Clone, Debug)]
pub struct HeadNorms {
    /// `(2, 2, dim)`, float32, contiguous: scales and shifts for queries, then for keys.
    pub(super) values: Tensor,
    pub(super) eps: f32,
}

impl HeadNorms {
    /// From `[scale, shift]`, each `(dim)`, float32, of queries and of keys.
    ///
    /// Fails if they are of several sizes or other dtypes.
    pub fn new(q: [&Tensor; 2], k: [&Tensor; 2], eps: f32) -> Result<Self> {
        let parts = [q, k].concat();
        if parts
            .iter()
            .any(|part| part.dtype() != DType::F32 || part.rank() != 1)
        {
            bail!("rope2d: scales and shifts of heads must be float32 (dim)");
        }
        let values = Tensor::stack(&parts, 0)?.reshape((2, 2, ()))?;
        Ok(Self { values, eps })
    }

    /// Channels of a head.
    pub fn dim(&self) -> usize {
        self.values.dims()[2]
    }

    fn apart(&self, q: &Tensor, k: &Tensor) -> Result<(Tensor, Tensor)> {
        let normalised = |x: &Tensor, of: usize| {
            let [scale, shift] = [0, 1].map(|i| self.values.get(of)?.get(i));
            layer_norm(x, &scale?, &shift?, self.eps)
        };
        Ok((normalised(q, 0)?, normalised(k, 1)?))
    }
}

/// [`rope2d_pair`] of `q` and `k` after a [`layer_norm`] over the channels of each head: in one pass
/// on CUDA, where no half precision comes between them.
pub fn rope2d_pair_of_normalised(
    q: &Tensor,
    k: &Tensor,
    norms: &HeadNorms,
    table: &RopeTable,
) -> Result<(Tensor, Tensor)> {
    if norms.dim() != table.dim() {
        bail!(
            "rope2d: norms of {} channels and a table of {}",
            norms.dim(),
            table.dim()
        );
    }
    if has_norms(q.device(), norms.dim()) {
        return pair(q, k, table, Some(norms));
    }
    let (q, k) = norms.apart(q, k)?;
    rope2d_pair(&q, &k, table)
}

fn has_norms(device: &Device, dim: usize) -> bool {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return super::cuda::has_norms(dim);
    }
    let _ = (device, dim);
    false
}
