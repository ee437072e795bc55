//! What attention on the CPU reads, and how threads share it.

use std::ops::Range;

use candle_core::{CpuStorage, Layout, Result, bail};
use rayon::prelude::*;

use super::Attention;
use crate::cpu::strided_f32;

/// Blocks of queries that read a strip of keys while it is in the second-level cache.
const GROUP: usize = 4;

/// A `(batch, tokens, heads, dim)` argument in place.
#[derive(Clone, Copy)]
pub(super) struct Heads<'a> {
    values: &'a [f32],
    batch: usize,
    token: usize,
    head: usize,
}

impl<'a> Heads<'a> {
    pub(super) fn new(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let values = strided_f32("attention", storage, layout)?;
        match layout.stride() {
            &[batch, token, head, 1] => Ok(Self {
                values,
                batch,
                token,
                head,
            }),
            // A dimension of one may carry any stride.
            &[batch, token, head, _] if layout.dims()[3] == 1 => Ok(Self {
                values,
                batch,
                token,
                head,
            }),
            strides => bail!("attention: channels must be contiguous, got strides {strides:?}"),
        }
    }

    /// The channels of one token, of batch item and head in one index.
    #[inline(always)]
    pub(super) fn token(&self, op: &Attention, index: usize, token: usize) -> &'a [f32] {
        let (batch, head) = (index / op.heads, index % op.heads);
        &self.values[batch * self.batch + head * self.head + token * self.token..][..op.dim]
    }
}

/// Hands all blocks of `width` queries to `task`, some of one head of one batch item at a time.
pub(super) fn in_groups(op: &Attention, width: usize, task: impl Fn(usize, Range<usize>) + Sync) {
    let (heads, blocks) = (op.batch * op.heads, op.queries.div_ceil(width));
    // Enough tasks for all threads.
    let wanted = 4 * rayon::current_num_threads();
    let group = (heads * blocks / wanted).clamp(1, GROUP);
    let groups = blocks.div_ceil(group);
    (0..heads * groups).into_par_iter().for_each(|index| {
        let first = index % groups * group;
        task(index / groups, first..blocks.min(first + group));
    });
}
