//! What attention on the CPU reads.

use candle_core::{CpuStorage, Layout, Result, bail};

use super::Attention;
use crate::cpu::strided_f32;

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
