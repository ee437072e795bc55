//! The two-view decoder: each view attends to itself and to the other.

use candle_core::{Result, Tensor};

use super::config::TwoViewConfig;
use super::encoder::ROPE_BASE;
use crate::nn::passes::joined;
use crate::nn::{Builder, DecoderBlock, LayerNorm, Linear, Observer, Ropes};

/// MASt3R's decoder.
#[derive(Clone, Debug)]
pub struct Decoder {
    embed: Linear,
    /// What is added to the tokens of either view, `(dim)`.
    view_embed: Option<[Tensor; 2]>,
    blocks: [Vec<DecoderBlock>; 2],
    /// The same blocks of both views as one, where the device gains by it.
    both: Option<Vec<DecoderBlock>>,
    norm: LayerNorm,
    hooks: [usize; 4],
    rope: Ropes,
}

/// What the heads read: the hooked entries of the token list, `(batch, rows * columns, channels)`.
#[derive(Clone, Debug)]
pub enum Hooked {
    /// Of each view.
    Apart([[Tensor; 4]; 2]),
    /// Of both as one batch, the first view's half before the second's.
    Both([Tensor; 4]),
}

impl Hooked {
    /// Of each view; halves of the batch where both are one.
    pub fn apart(self) -> Result<[[Tensor; 4]; 2]> {
        let [a, b, c, d] = match self {
            Self::Apart(tokens) => return Ok(tokens),
            Self::Both(tokens) => tokens,
        };
        let view = |view: usize| -> Result<[Tensor; 4]> {
            let half = |tokens: &Tensor| {
                let batch = tokens.dim(0)? / 2;
                tokens.narrow(0, view * batch, batch)
            };
            Ok([half(&a)?, half(&b)?, half(&c)?, half(&d)?])
        };
        Ok([view(0)?, view(1)?])
    }

    /// Of both as one batch.
    pub fn both(self) -> Result<[Tensor; 4]> {
        match self {
            Self::Both(tokens) => Ok(tokens),
            Self::Apart([[a, b, c, d], [e, f, g, h]]) => {
                let joined = |first: &Tensor, second: &Tensor| joined(&[first, second], 0);
                Ok([
                    joined(&a, &e)?,
                    joined(&b, &f)?,
                    joined(&c, &g)?,
                    joined(&d, &h)?,
                ])
            }
        }
    }
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
        let blocks = |vb: Builder<'_>| {
            let block =
                |i: usize| DecoderBlock::new(stack.dim, stack.heads, stack.mlp_dim, vb.pp(i));
            (0..stack.depth).map(block).collect::<Result<Vec<_>>>()
        };
        let (first, second) = (vb.pp("dec_blocks"), vb.pp("dec_blocks2"));
        let (blocks, both) = if vb.batches_views() {
            let both = blocks(Builder::both(&first, &second))?;
            let view = |view: usize| {
                let blocks = both.iter().map(|block| block.of_view(view));
                blocks.collect::<Result<Vec<_>>>()
            };
            ([view(0)?, view(1)?], Some(both))
        } else {
            ([blocks(first)?, blocks(second)?], None)
        };
        Ok(Self {
            embed: Linear::new(input, stack.dim, vb.pp("decoder_embed"))?,
            view_embed: two_view.view_embed.then(view_embed).transpose()?,
            blocks,
            both,
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

    /// The hooked token lists of both views: as one batch where the blocks are, the views are of one
    /// size and nobody looks. Both updates of a layer read the values from before
    /// that layer.
    pub fn forward(
        &self,
        first: GridTokens<'_>,
        second: GridTokens<'_>,
        observe: &mut Observer<'_>,
    ) -> Result<Hooked> {
        let _span = tracing::debug_span!("decoder").entered();
        if let Some(blocks) = &self.both
            && !observe.looks()
            && first.grid == second.grid
            && first.tokens.shape() == second.tokens.shape()
        {
            let tokens = joined(&[first.tokens, second.tokens], 0)?;
            return Ok(Hooked::Both(self.forward_both(blocks, tokens, first.grid)?));
        }
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
            return Err(self.misplaced_hooks(depth));
        };
        for (view, tokens) in [(1, &first), (2, &second)] {
            for (hook, tokens) in self.hooks.iter().zip(tokens) {
                observe.see(format_args!("dec.tokens.{hook}.{view}"), tokens)?;
            }
        }
        Ok(Hooked::Apart([first, second]))
    }

    /// Both views, of one size, as one batch.
    fn forward_both(
        &self,
        blocks: &[DecoderBlock],
        tokens: Tensor,
        grid: [usize; 2],
    ) -> Result<[Tensor; 4]> {
        let rope = self.rope.grid(grid[0], grid[1])?;
        let mut x = {
            let _span = tracing::debug_span!("decoder_embed").entered();
            self.embed.forward(&tokens)?
        };
        if let Some([first, second]) = &self.view_embed {
            let embed = Tensor::stack(&[first, second], 0)?.unsqueeze(1)?;
            let (batch, count, dim) = x.dims3()?;
            x = x
                .reshape((2, batch / 2 * count, dim))?
                .broadcast_add(&embed)?
                .reshape((batch, count, dim))?;
        }
        let mut hooked = vec![tokens];
        for (i, block) in blocks.iter().enumerate() {
            let _span = tracing::debug_span!("dec_block", index = i, view = 0u64).entered();
            x = block.forward_both(&x, &rope)?;
            if self.hooks.contains(&(i + 1)) {
                let is_last = i + 1 == blocks.len();
                hooked.push(if is_last {
                    self.norm.forward(&x)?
                } else {
                    x.clone()
                });
            }
        }
        <[Tensor; 4]>::try_from(hooked).map_err(|_| self.misplaced_hooks(blocks.len()))
    }

    fn misplaced_hooks(&self, depth: usize) -> candle_core::Error {
        candle_core::Error::Msg(format!(
            "hooks {:?} are not four entries of a decoder of {depth} blocks",
            self.hooks
        ))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::super::checkpoint::Checkpoint;
    use super::super::config::{
        Config, EncoderConfig, EncoderKind, HeadConfig, Stack, TwoViewConfig, hooks,
    };
    use super::*;
    use crate::runtime::{Optimisation, Optimisations};

    const DIM: usize = 24;
    const HEADS: usize = 2;
    const MLP: usize = 40;

    fn config() -> Config {
        let stack = Stack {
            depth: 4,
            dim: DIM,
            heads: HEADS,
            mlp_dim: MLP,
        };
        let head = HeadConfig {
            hooks: hooks(4),
            layer_dims: [4, 4, 4, 4],
            features: 4,
            head_channels: 4,
            last: 4,
            descriptor: 4,
            two_confidences: true,
            descriptor_hidden: 8,
            descriptor_confidence_floor: 0.,
        };
        Config {
            encoder: EncoderConfig {
                kind: EncoderKind::Croco,
                patch: 4,
                stack: stack.clone(),
            },
            two_view: Some(TwoViewConfig {
                decoder: stack,
                view_embed: false,
                head,
            }),
        }
    }

    fn gap(a: &Tensor, b: &Tensor) -> f32 {
        let gap = (a - b).unwrap().abs().unwrap();
        gap.max_all().unwrap().to_scalar().unwrap()
    }

    /// Weights as a GPU has them, which no packed product reads.
    #[test]
    fn a_block_of_both_views_is_the_two_blocks() {
        let device = Device::Cpu;
        let vb = Checkpoint::random(&config(), "0").var_builder(DType::F32, &device);
        let stacked = Optimisation::StackedKeyValue;
        for set in [
            Optimisations::none(),
            Optimisations::none().with(stacked),
            Optimisations::none().with(Optimisation::FusedLayerNorm),
        ] {
            let vb = Builder::new(vb.clone(), set);
            let (first, second) = (vb.pp("dec_blocks").pp(1), vb.pp("dec_blocks2").pp(1));
            let block = |vb| DecoderBlock::new(DIM, HEADS, MLP, vb).unwrap();
            let both = block(Builder::both(&first, &second));
            let blocks = [block(first), block(second)];
            let rope = Ropes::new(DIM / HEADS, ROPE_BASE, &vb).grid(2, 3).unwrap();
            // Batches of one pair and of two.
            for batch in [1, 2] {
                let x = Tensor::randn(0f32, 1., (2 * batch, 6, DIM), &device).unwrap();
                let views = [0, 1].map(|view| x.narrow(0, view * batch, batch).unwrap());
                let got = both.forward_both(&x, &rope).unwrap();
                for view in [0, 1] {
                    let (own, other) = (&views[view], &views[1 - view]);
                    let want = blocks[view].forward(own, other, &rope, &rope).unwrap();
                    let half = got.narrow(0, view * batch, batch).unwrap();
                    assert!(gap(&half, &want) < 1e-5, "{set:?}, view {view} of {batch}");
                    let alone = both.of_view(view).unwrap();
                    let alone = alone.forward(own, other, &rope, &rope).unwrap();
                    assert!(gap(&alone, &want) < 1e-5, "{set:?}, view {view} alone");
                }
            }
        }
    }
}
