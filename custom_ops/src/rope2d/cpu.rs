//! The rotation on the CPU: tasks of a few tokens, each token's angles read once for all its heads.

#![allow(unsafe_code)] // Threads write disjoint tokens of one output; each use states its invariant.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, Layout, Result, bail};
use rayon::prelude::*;

use crate::cpu::{
    element::Element,
    levels::{self, Level, Task},
    written,
};
use crate::launch::four_axes;

/// Tokens of a task, some tens of kilobytes.
const TOKENS_PER_TASK: usize = 8;

/// One or two `sources` `(batch, tokens, heads, dim)` of one shape and dtype, channels contiguous,
/// rotated one after the other.
pub(super) fn forward(
    sources: &[(&CpuStorage, &Layout)],
    table: &CpuStorage,
) -> Result<CpuStorage> {
    let CpuStorage::F32(table) = table else {
        bail!("rope2d: the table must be f32")
    };
    match sources {
        [(CpuStorage::F32(_), _), ..] => Ok(CpuStorage::F32(rotated(sources, table)?)),
        [(CpuStorage::F16(_), _), ..] => Ok(CpuStorage::F16(rotated(sources, table)?)),
        [(CpuStorage::BF16(_), _), ..] => Ok(CpuStorage::BF16(rotated(sources, table)?)),
        _ => bail!("rope2d: tokens must be f32, f16 or bf16"),
    }
}

fn rotated<T: Element>(sources: &[(&CpuStorage, &Layout)], table: &[f32]) -> Result<Vec<T>> {
    let mut parts = Vec::with_capacity(sources.len());
    for (storage, layout) in sources {
        let values = &storage.as_slice::<T>()?[layout.start_offset()..];
        let ([batch, count, heads, dim], [batch_stride, token_stride, head_stride, _]) =
            four_axes("rope2d", layout)?;
        let (cos, sin) = table.split_at(count * dim / 2);
        parts.push(Part {
            values,
            batch,
            count,
            heads,
            dim,
            batch_stride,
            token_stride,
            head_stride,
            cos,
            sin,
        });
    }
    let length = parts.iter().map(Part::len).sum();
    // SAFETY: the parts fill the output one after the other, each with all its tokens.
    Ok(unsafe {
        written(length, |mut out| {
            for part in &parts {
                let (own, rest) = out.split_at_mut(part.len());
                out = rest;
                let chunks = own
                    .par_chunks_mut(TOKENS_PER_TASK * part.heads * part.dim)
                    .enumerate();
                chunks.for_each(|(index, out)| {
                    levels::run(&mut TokensTask {
                        out,
                        part,
                        first: index * TOKENS_PER_TASK,
                    });
                });
            }
        })
    })
}

/// One source and the angles of its tokens.
struct Part<'a, T> {
    values: &'a [T],
    batch: usize,
    count: usize,
    heads: usize,
    dim: usize,
    batch_stride: usize,
    token_stride: usize,
    head_stride: usize,
    /// `(count, dim / 2)`.
    cos: &'a [f32],
    sin: &'a [f32],
}

impl<T> Part<'_, T> {
    fn len(&self) -> usize {
        self.batch * self.count * self.heads * self.dim
    }
}

struct TokensTask<'a, T> {
    out: &'a mut [MaybeUninit<T>],
    part: &'a Part<'a, T>,
    /// The first token, counted through the batch.
    first: usize,
}

impl<T: Element> Task for TokensTask<'_, T> {
    #[inline(always)]
    fn run<L: Level>(&mut self) {
        // Loops of a known length need no remainder: all published networks have heads of 64.
        match self.part.dim / 4 {
            16 => self.turn::<L>(16),
            quarter => self.turn::<L>(quarter),
        }
    }
}

impl<T: Element> TokensTask<'_, T> {
    #[inline(always)]
    fn turn<L: Level>(&mut self, quarter: usize) {
        let &Part {
            values,
            count,
            heads,
            batch_stride,
            token_stride,
            head_stride,
            cos,
            sin,
            ..
        } = self.part;
        let (half, dim) = (2 * quarter, 4 * quarter);
        for (index, out) in self.out.chunks_exact_mut(heads * dim).enumerate() {
            let (b, token) = ((self.first + index) / count, (self.first + index) % count);
            let values = &values[b * batch_stride + token * token_stride..];
            let (cos, sin) = (&cos[token * half..][..half], &sin[token * half..][..half]);
            for (head, out) in out.chunks_exact_mut(dim).enumerate() {
                let values = &values[head * head_stride..][..dim];
                let halves = values.chunks_exact(half).zip(out.chunks_exact_mut(half));
                for ((values, out), (cos, sin)) in
                    halves.zip(cos.chunks_exact(quarter).zip(sin.chunks_exact(quarter)))
                {
                    let (first, second) = values.split_at(quarter);
                    let (out_first, out_second) = out.split_at_mut(quarter);
                    turn_half::<L, T>(out_first, out_second, first, second, cos, sin);
                }
            }
        }
    }
}

/// All slices of one length.
#[inline(always)]
fn turn_half<L: Level, T: Element>(
    out_first: &mut [MaybeUninit<T>],
    out_second: &mut [MaybeUninit<T>],
    first: &[T],
    second: &[T],
    cos: &[f32],
    sin: &[f32],
) {
    for j in 0..cos.len() {
        let (a, b) = (first[j].widen(), second[j].widen());
        out_first[j].write(T::round(L::mul_add(a, cos[j], -(b * sin[j]))));
        out_second[j].write(T::round(L::mul_add(b, cos[j], a * sin[j])));
    }
}
