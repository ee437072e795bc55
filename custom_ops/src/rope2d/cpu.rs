//! The rotation on the CPU: one task a token.

#![allow(unsafe_code)] // Threads write disjoint tokens of one output; each use states its invariant.

use candle_core::{CpuStorage, Layout, Result, bail};
use rayon::prelude::*;

use crate::cpu::{
    Shared,
    element::Element,
    levels::{self, Level, Task},
};

/// One or two `sources` `(batch, tokens, heads, dim)` of one shape and dtype, channels contiguous, rotated one after
/// the other.
pub(super) fn forward(sources: &[(&CpuStorage, &Layout)], table: &CpuStorage) -> Result<CpuStorage> {
    let CpuStorage::F32(table) = table else { bail!("rope2d: the table must be f32") };
    match sources {
        [(CpuStorage::F32(_), _), ..] => Ok(CpuStorage::F32(rotated(sources, table)?)),
        [(CpuStorage::F16(_), _), ..] => Ok(CpuStorage::F16(rotated(sources, table)?)),
        [(CpuStorage::BF16(_), _), ..] => Ok(CpuStorage::BF16(rotated(sources, table)?)),
        _ => bail!("rope2d: tokens must be f32, f16 or bf16"),
    }
}

fn rotated<T: Element>(sources: &[(&CpuStorage, &Layout)], table: &[f32]) -> Result<Vec<T>> {
    let mut out = Vec::new();
    for (storage, layout) in sources {
        let values = &storage.as_slice::<T>()?[layout.start_offset()..];
        let &[_, count, heads, dim] = layout.dims() else { bail!("rope2d: four axes expected") };
        let &[batch_stride, token_stride, head_stride, _] = layout.stride() else { bail!("rope2d: four strides") };
        let (cos, sin) = table.split_at(count * dim / 2);
        let start = out.len();
        out.resize(start + layout.shape().elem_count(), T::zero());
        out[start..].par_chunks_mut(heads * dim).enumerate().for_each(|(index, out)| {
            let (b, token) = (index / count, index % count);
            let at = token * dim / 2..(token + 1) * dim / 2;
            levels::run(&TokenTask {
                out: Shared::new(out),
                values: &values[b * batch_stride + token * token_stride..],
                cos: &cos[at.clone()],
                sin: &sin[at],
                heads,
                head_stride,
            });
        });
    }
    Ok(out)
}

struct TokenTask<'a, T> {
    out: Shared<T>,
    values: &'a [T],
    /// The token's, `dim / 2` each.
    cos: &'a [f32],
    sin: &'a [f32],
    heads: usize,
    head_stride: usize,
}

impl<T: Element> Task for TokenTask<'_, T> {
    #[inline(always)]
    fn run<L: Level>(&self) {
        let quarter = self.cos.len() / 2;
        let dim = 4 * quarter;
        // SAFETY: this token is this task's alone.
        let out = unsafe { self.out.range(0, self.heads * dim) };
        for (head, out) in out.chunks_exact_mut(dim).enumerate() {
            let values = &self.values[head * self.head_stride..][..dim];
            for half in 0..2 {
                let angles = half * quarter..(half + 1) * quarter;
                let (cos, sin) = (&self.cos[angles.clone()], &self.sin[angles]);
                let (first, second) = values[half * dim / 2..][..dim / 2].split_at(quarter);
                let (out_first, out_second) = out[half * dim / 2..][..dim / 2].split_at_mut(quarter);
                for j in 0..quarter {
                    let (a, b) = (first[j].widen(), second[j].widen());
                    out_first[j] = T::round(L::mul_add(a, cos[j], -(b * sin[j])));
                    out_second[j] = T::round(L::mul_add(b, cos[j], a * sin[j]));
                }
            }
        }
    }
}
