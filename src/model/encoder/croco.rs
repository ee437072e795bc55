//! MASt3R's encoder: a plain vision transformer with rotary positions.

use candle_core::{Result, Tensor};

use crate::model::config::{EncoderConfig, Stack};
use crate::nn::{Builder, EncoderBlock, LayerNorm, Observer, PatchEmbed, Ropes};

/// Base of the rotary embedding's frequencies, in the encoder and in the decoder.
pub(crate) const ROPE_BASE: f32 = 100.;

/// MASt3R's encoder.
#[derive(Clone, Debug)]
pub struct CrocoEncoder {
    patch_embed: PatchEmbed,
    blocks: Vec<EncoderBlock>,
    norm: LayerNorm,
    rope: Ropes,
}

impl CrocoEncoder {
    /// Reads `patch_embed.*`, `enc_blocks.*` and `enc_norm.*`.
    pub fn new(config: &EncoderConfig, vb: Builder<'_>) -> Result<Self> {
        let Stack {
            depth,
            dim,
            heads,
            mlp_dim,
        } = config.stack;
        let block =
            |i: usize| EncoderBlock::new(dim, heads, mlp_dim, false, vb.pp("enc_blocks").pp(i));
        Ok(Self {
            patch_embed: PatchEmbed::new(config.patch, dim, vb.pp("patch_embed"))?,
            blocks: (0..depth).map(block).collect::<Result<_>>()?,
            norm: LayerNorm::new(dim, 1e-6, vb.pp("enc_norm"))?,
            rope: Ropes::new(dim / heads, ROPE_BASE, &vb),
        })
    }

    /// `(batch, 3, height, width)` in [-1, 1] to `(batch, rows * columns, dim)`.
    pub fn forward(
        &self,
        images: &Tensor,
        norm: bool,
        observe: &mut Observer<'_>,
    ) -> Result<Tensor> {
        let [rows, columns] = self.patch_embed.grid(images)?;
        let rope = self.rope.grid(rows, columns)?;
        let mut x = self.patch_embed.forward(images)?;
        observe.see("enc.patch_embed", &x)?;
        for (i, block) in self.blocks.iter().enumerate() {
            let _span = tracing::debug_span!("enc_block", index = i).entered();
            x = block.forward(&x, Some(&rope))?;
            observe.see(format_args!("enc.block{i}"), &x)?;
        }
        if norm {
            x = self.norm.forward(&x)?;
            observe.see("enc.out", &x)?;
        }
        Ok(x)
    }
}
