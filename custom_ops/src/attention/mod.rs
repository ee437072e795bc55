//! Softmax attention without the score matrix in memory.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod heads;
mod words;

use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result, Shape, Tensor, bail};

use crate::linear::Storage;

/// `softmax(q k^T / sqrt(dim)) v` for every head.
///
/// `q` is `(batch, queries, heads, dim)`, `k` and `v` are `(batch, keys, heads, dim)`, any strides
/// with contiguous channels, so the thirds of a fused projection are read in place. Returns
/// `(batch, queries, heads * dim)`.
///
/// On the CPU they are float32, and `precision` is that of the products; [`Storage::F16`] computes
/// in float32, [`Storage::Int8`] in bfloat16. On CUDA they are of [`GPU_HEAD_DIM`]
/// channels, and sums are float32; float32 products there are sums of three of TF32. On Metal the kernel is Candle's.
/// [`has_attention`] says for which there is one.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, precision: Storage) -> Result<Tensor> {
    let (batch, queries, heads, dim) = q.dims4()?;
    let (_, keys, _, _) = k.dims4()?;
    if k.dims() != [batch, keys, heads, dim] || v.dims() != k.dims() {
        bail!(
            "attention: q {:?}, k {:?} and v {:?} do not fit together",
            q.dims(),
            k.dims(),
            v.dims()
        );
    }
    if batch * queries * keys * heads * dim == 0 {
        bail!(
            "attention: q {:?}, k {:?}: nothing may be empty",
            q.dims(),
            k.dims()
        );
    }
    if q.device().is_metal() {
        return heads_first(q, k, v);
    }
    // On CUDA rows are read 16 bytes at a time.
    let whole = |t: &Tensor| {
        t.stride()[..3].iter().all(|n| n.is_multiple_of(8))
            && t.layout().start_offset().is_multiple_of(8)
    };
    let aligned = |t: &Tensor| {
        if q.device().is_cpu() || (whole(t) && t.stride()[3] == 1) {
            Ok(t.clone())
        } else {
            t.force_contiguous()
        }
    };
    let (q, k, v) = (aligned(q)?, aligned(k)?, aligned(v)?);
    let op = Attention {
        batch,
        queries,
        keys,
        heads,
        dim,
        bf16: matches!(precision, Storage::Bf16 | Storage::Int8),
    };
    q.apply_op3_no_bwd(&k, &v, &op)
}

/// Whether [`attention`] has a kernel for queries like these on their device.
///
/// Candle's on Metal is made for a few widths of a head and for more than one query: its kernel for
/// a single one ignores the strides of `q`.
pub fn has_attention(q: &Tensor) -> bool {
    match (q.device(), q.dims()) {
        (Device::Cpu, _) => true,
        (Device::Cuda(_), &[_, _, _, dim]) => dim == GPU_HEAD_DIM,
        (Device::Metal(_), &[_, queries, _, dim]) => {
            matches!(dim, 32 | 64 | 72 | 80 | 96 | 128 | 256) && queries > 1
        }
        _ => false,
    }
}

/// By Candle's kernel, which has each head's tokens side by side.
fn heads_first(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let scale = 1. / (q.dim(3)? as f64).sqrt();
    let [q, k, v] = [q.transpose(1, 2)?, k.transpose(1, 2)?, v.transpose(1, 2)?];
    candle_nn::ops::sdpa(&q, &k, &v, None, false, scale as f32, 1.)?
        .transpose(1, 2)?
        .flatten_from(2)
}

/// Channels of a head on an NVIDIA GPU: what all full-size networks have.
pub const GPU_HEAD_DIM: usize = 64;

struct Attention {
    batch: usize,
    queries: usize,
    keys: usize,
    heads: usize,
    dim: usize,
    bf16: bool,
}

impl Attention {
    /// Where a query's channels begin in the output, of batch item and head in one index.
    fn output(&self, index: usize, query: usize) -> usize {
        let (batch, head) = (index / self.heads, index % self.heads);
        ((batch * self.queries + query) * self.heads + head) * self.dim
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let q = heads::Heads::new(q, q_layout)?;
        let k = heads::Heads::new(k, k_layout)?;
        let v = heads::Heads::new(v, v_layout)?;
        let out = cpu::forward(self, q, k, v);
        Ok((
            CpuStorage::F32(out),
            Shape::from((self.batch, self.queries, self.heads * self.dim)),
        ))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        q: &candle_core::CudaStorage,
        q_layout: &Layout,
        k: &candle_core::CudaStorage,
        k_layout: &Layout,
        v: &candle_core::CudaStorage,
        v_layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let out = cuda::forward(self, [(q, q_layout), (k, k_layout), (v, v_layout)])?;
        Ok((
            out,
            Shape::from((self.batch, self.queries, self.heads * self.dim)),
        ))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::random::normal;

    fn check(batch: usize, queries: usize, keys: usize, heads: usize, dim: usize) {
        let q = normal(0, (batch, queries, heads, dim));
        // k and v as two thirds of one projection: strided views.
        let kv = normal(1, (batch, keys, 3, heads, dim));
        let (k, v) = (kv.get_on_dim(2, 1).unwrap(), kv.get_on_dim(2, 2).unwrap());
        let want = crate::plain::attention(&q, &k, &v).unwrap();
        for (precision, allowed) in [
            (Storage::F32, 3e-6),
            (Storage::F16, 3e-6),
            (Storage::Bf16, 3e-2),
        ] {
            let got = attention(&q, &k, &v, precision).unwrap();
            let gap = (got - &want)
                .unwrap()
                .abs()
                .unwrap()
                .flatten_all()
                .unwrap()
                .max(0)
                .unwrap();
            let gap = gap.to_scalar::<f32>().unwrap();
            assert!(
                gap <= allowed,
                "{batch} {queries} {keys} {heads} {dim} {precision:?}: gap {gap}"
            );
        }
    }

    #[test]
    fn attention_equals_the_plain_expression_at_every_edge() {
        check(1, 1, 1, 1, 1);
        check(2, 33, 25, 3, 12);
        check(1, 64, 96, 2, 64);
        check(2, 20, 49, 4, 8);
        check(1, 31, 13, 1, 30);
        // Several strips of keys, for several blocks of queries, and keys that do not fill them.
        check(1, 200, 600, 2, 64);
        check(2, 5, 273, 1, 40);
        check(1, 33, 256, 1, 12);
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let device = Device::Cpu;
        let q =
            (Tensor::ones((1, 2, 1, 8), candle_core::DType::F32, &device).unwrap() * 300.).unwrap();
        let out = attention(&q, &q, &q, Storage::F32).unwrap();
        assert_eq!(
            out.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            vec![300f32; 16]
        );
    }
}
