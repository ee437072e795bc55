//! From an image to patch tokens, one view at a time.

mod croco;
mod dune;
mod position;

use candle_core::{Result, Tensor};

pub use croco::CrocoEncoder;
pub(crate) use croco::ROPE_BASE;
pub use dune::DuneEncoder;
pub use position::resample_positions;

use super::config::{EncoderConfig, EncoderKind};
use crate::nn::{Builder, Observer};

/// MASt3R's or DUNE's encoder.
#[derive(Clone, Debug)]
pub enum Encoder {
    /// MASt3R's: rotary embedding, normalised output.
    Croco(CrocoEncoder),
    /// DUNE's: stored positions, class and register tokens.
    Dune(DuneEncoder),
}

impl Encoder {
    /// Reads the encoder that `config` describes from `vb`; DUNE's final norm only `with_norm`.
    pub fn new(config: &EncoderConfig, with_norm: bool, vb: Builder<'_>) -> Result<Self> {
        Ok(match config.kind {
            EncoderKind::Croco => Self::Croco(CrocoEncoder::new(config, vb)?),
            EncoderKind::Dune {
                position_grid,
                registers,
            } => Self::Dune(DuneEncoder::new(
                config,
                position_grid,
                registers,
                with_norm,
                vb,
            )?),
        })
    }

    /// `(batch, 3, height, width)` normalised images to patch tokens `(batch, rows * columns,
    /// dim)`.
    ///
    /// `norm` applies the final layer norm. MASt3R's tokens are meant normalised; DUNE's projectors
    /// and DuneMASt3R read them before it.
    pub fn forward(
        &self,
        images: &Tensor,
        norm: bool,
        observe: &mut Observer<'_>,
    ) -> Result<Tensor> {
        match self {
            Self::Croco(encoder) => encoder.forward(images, norm, observe),
            Self::Dune(encoder) => {
                let tokens = encoder.forward(images, observe)?;
                let tokens = if norm {
                    encoder.normalise(&tokens)?
                } else {
                    tokens
                };
                encoder.patches(&tokens)
            }
        }
    }
}
