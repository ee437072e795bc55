//! DUNE's encoder: class and register tokens before the patches, stored positions, layer scale.

use candle_core::{Result, Tensor};

use super::position::StoredPositions;
use crate::model::config::{EncoderConfig, Stack};
use crate::nn::passes::gathered;
use crate::nn::{Builder, EncoderBlock, LayerNorm, Observer, PatchEmbed};

/// DUNE's encoder.
#[derive(Clone, Debug)]
pub struct DuneEncoder {
    patch_embed: PatchEmbed,
    /// `(1, 1, dim)`.
    class_token: Tensor,
    /// `(1, registers, dim)`, if there are any.
    register_tokens: Option<Tensor>,
    positions: StoredPositions,
    blocks: Vec<EncoderBlock>,
    /// Absent inside DuneMASt3R, which reads the tokens before it.
    norm: Option<LayerNorm>,
}

impl DuneEncoder {
    /// Reads `patch_embed.*`, `cls_token`, `pos_embed`, `register_tokens`, `blocks.0.*` and,
    /// `with_norm`, `norm.*`.
    pub fn new(
        config: &EncoderConfig,
        grid: usize,
        registers: usize,
        with_norm: bool,
        vb: Builder<'_>,
    ) -> Result<Self> {
        let Stack {
            depth,
            dim,
            heads,
            mlp_dim,
        } = config.stack;
        let block =
            |i: usize| EncoderBlock::new(dim, heads, mlp_dim, true, vb.pp("blocks").pp(0).pp(i));
        let activations = |shape: (usize, usize, usize), name: &str| {
            vb.float32(shape, name)?.to_dtype(vb.activations())
        };
        Ok(Self {
            patch_embed: PatchEmbed::new(config.patch, dim, vb.pp("patch_embed"))?,
            class_token: activations((1, 1, dim), "cls_token")?,
            register_tokens: (registers > 0)
                .then(|| activations((1, registers, dim), "register_tokens"))
                .transpose()?,
            positions: StoredPositions::new(grid, dim, &vb)?,
            blocks: (0..depth).map(block).collect::<Result<_>>()?,
            norm: with_norm
                .then(|| LayerNorm::new(dim, 1e-6, vb.pp("norm")))
                .transpose()?,
        })
    }

    /// ImageNet-normalised `(batch, 3, height, width)` to all tokens `(batch, 1 + registers + rows
    /// * columns, dim)`, class token first, before the final norm.
    pub fn forward(&self, images: &Tensor, observe: &mut Observer<'_>) -> Result<Tensor> {
        let [rows, columns] = self.patch_embed.grid(images)?;
        let patches = self.patch_embed.forward(images)?;
        observe.see("enc.patch_embed", &patches)?;
        let mut x = self.positions.tokens(
            &self.class_token,
            self.register_tokens.as_ref(),
            patches,
            [rows, columns],
            "enc.pos_embed",
            observe,
        )?;
        observe.see("enc.tokens", &x)?;
        for (i, block) in self.blocks.iter().enumerate() {
            let _span = tracing::debug_span!("enc_block", index = i).entered();
            x = block.forward(&x, None)?;
            observe.see(format_args!("enc.block{i}"), &x)?;
        }
        observe.see("enc.last_block", &x)?;
        Ok(x)
    }

    /// The final layer norm.
    pub fn normalise(&self, tokens: &Tensor) -> Result<Tensor> {
        match &self.norm {
            Some(norm) => norm.forward(tokens),
            None => candle_core::bail!("this DUNE encoder was read without its final norm"),
        }
    }

    /// The patch tokens `(batch, rows * columns, dim)` of all tokens.
    pub fn patches(&self, tokens: &Tensor) -> Result<Tensor> {
        let skip = 1 + self.registers();
        gathered(&tokens.narrow(1, skip, tokens.dim(1)? - skip)?)
    }

    /// Number of register tokens, which stand between the class token and the patches.
    pub fn registers(&self) -> usize {
        self.register_tokens
            .as_ref()
            .map_or(0, |tokens| tokens.dims()[1])
    }
}
