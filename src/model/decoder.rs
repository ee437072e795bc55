//! The two-view decoder: each view attends to itself and to the other.

use candle_core::{Result, Tensor};

use super::config::TwoViewConfig;
use super::encoder::ROPE_BASE;
use crate::nn::{Builder, DecoderBlock, LayerNorm, Linear, Observer, Ropes};

/// MASt3R's decoder.
#[derive(Clone, Debug)]
pub struct Decoder {
    embed: Linear,
    /// What is added to the tokens of either view, `(dim)`.
    view_embed: Option<[Tensor; 2]>,
    blocks: [Vec<DecoderBlock>; 2],
    norm: LayerNorm,
    hooks: [usize; 4],
    rope: Ropes,
}

/// A view's tokens on the way in: `(batch, rows * columns, channels)` over a `grid` of `[rows,
/// columns]`.
#[derive(Clone, Copy, Debug)]
pub struct GridTokens<'a> {
    /// The encoder's output.
    pub tokens: &'a Tensor,
    /// Rows and columns of patches.
    pub grid: [usize; 2],
}

impl Decoder {
    /// Reads `decoder_embed.*`, `dec_blocks.*`, `dec_blocks2.*`, `dec_norm.*` and, if the network
    /// has it, `view_embed`. The heads read the entries `head.hooks` of the token list, entry 0
    /// being the encoder's output.
    pub fn new(input: usize, two_view: &TwoViewConfig, vb: Builder<'_>) -> Result<Self> {
        let stack = &two_view.decoder;
        let view_embed = || -> Result<[Tensor; 2]> {
            let both = vb
                .float32((2, stack.dim), "view_embed")?
                .to_dtype(vb.activations())?;
            Ok([both.get(0)?, both.get(1)?])
        };
        let blocks = |name: &str| {
            let block = |i: usize| {
                DecoderBlock::new(stack.dim, stack.heads, stack.mlp_dim, vb.pp(name).pp(i))
            };
            (0..stack.depth).map(block).collect::<Result<Vec<_>>>()
        };
        Ok(Self {
            embed: Linear::new(input, stack.dim, vb.pp("decoder_embed"))?,
            view_embed: two_view.view_embed.then(view_embed).transpose()?,
            blocks: [blocks("dec_blocks")?, blocks("dec_blocks2")?],
            norm: LayerNorm::new(stack.dim, 1e-6, vb.pp("dec_norm"))?,
            hooks: two_view.head.hooks,
            rope: Ropes::new(stack.dim / stack.heads, ROPE_BASE, &vb),
        })
    }

    /// The encoder's tokens of a view, 0 or 1, as the first block takes them.
    fn embedded(&self, tokens: &Tensor, view: usize) -> Result<Tensor> {
        let tokens = self.embed.forward(tokens)?;
        match &self.view_embed {
            Some(embed) => tokens.broadcast_add(&embed[view]),
            None => Ok(tokens),
        }
    }

    /// The hooked token lists of both views. Both updates of a layer read the values from before
    /// that layer.
    pub fn forward(
        &self,
        first: GridTokens<'_>,
        second: GridTokens<'_>,
        observe: &mut Observer<'_>,
    ) -> Result<[[Tensor; 4]; 2]> {
        let _span = tracing::debug_span!("decoder").entered();
        let rope = |view: GridTokens<'_>| self.rope.grid(view.grid[0], view.grid[1]);
        let (first_rope, second_rope) = (rope(first)?, rope(second)?);
        let mut hooked = [vec![first.tokens.clone()], vec![second.tokens.clone()]];
        let (mut a, mut b) = {
            let _span = tracing::debug_span!("decoder_embed").entered();
            (
                self.embedded(first.tokens, 0)?,
                self.embedded(second.tokens, 1)?,
            )
        };
        observe.see("dec.embed.1", &a)?;
        observe.see("dec.embed.2", &b)?;
        let depth = self.blocks[0].len();
        for (i, (block, block2)) in self.blocks[0].iter().zip(&self.blocks[1]).enumerate() {
            let span = |view: u64| tracing::debug_span!("dec_block", index = i, view).entered();
            let next = {
                let _span = span(1);
                block.forward(&a, &b, &first_rope, &second_rope)?
            };
            b = {
                let _span = span(2);
                block2.forward(&b, &a, &second_rope, &first_rope)?
            };
            a = next;
            observe.see(format_args!("dec.block{i}.1"), &a)?;
            observe.see(format_args!("dec.block{i}.2"), &b)?;
            let last = i + 1 == depth;
            if self.hooks.contains(&(i + 1)) {
                hooked[0].push(if last {
                    self.norm.forward(&a)?
                } else {
                    a.clone()
                });
                hooked[1].push(if last {
                    self.norm.forward(&b)?
                } else {
                    b.clone()
                });
            }
        }
        let [first, second] = hooked.map(|tokens| <[Tensor; 4]>::try_from(tokens).ok());
        let (Some(first), Some(second)) = (first, second) else {
            candle_core::bail!(
                "hooks {:?} are not four entries of a decoder of {depth} blocks",
                self.hooks
            );
        };
        for (view, tokens) in [(1, &first), (2, &second)] {
            for (hook, tokens) in self.hooks.iter().zip(tokens) {
                observe.see(format_args!("dec.tokens.{hook}.{view}"), tokens)?;
            }
        }
        Ok([first, second])
    }
}
