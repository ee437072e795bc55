//! From an image to patch tokens, one view at a time; or of views together.

mod any_view;
mod croco;
mod dune;
mod position;

use candle_core::{Result, Tensor};

pub(super) use any_view::Start;
pub use any_view::{AnyViewEncoder, AnyViewTokens, ReferenceChoice};
pub use croco::CrocoEncoder;
pub(crate) use croco::ROPE_BASE;
pub use dune::DuneEncoder;
pub use position::resample_positions;

use super::config::{EncoderConfig, EncoderKind};
use crate::nn::{Builder, Observer};

/// One of the encoders.
#[derive(Clone, Debug)]
pub enum Encoder {
    /// MASt3R's: rotary embedding, normalised output.
    Croco(CrocoEncoder),
    /// DUNE's: stored positions, class and register tokens.
    Dune(DuneEncoder),
    /// Depth Anything 3's, here of each view alone.
    AnyView(AnyViewEncoder),
}

impl Encoder {
    /// Reads the encoder that `config` describes from `vb`; DUNE's final norm only `with_norm`.
    pub fn new(config: &EncoderConfig, with_norm: bool, vb: Builder<'_>) -> Result<Self> {
        Ok(match &config.kind {
            EncoderKind::AnyView(any_view) => Self::AnyView(AnyViewEncoder::new(
                config,
                any_view,
                vb.pp("backbone.pretrained"),
            )?),
            EncoderKind::Croco => Self::Croco(CrocoEncoder::new(config, vb)?),
            EncoderKind::Dune {
                position_grid,
                registers,
            } => Self::Dune(DuneEncoder::new(
                config,
                *position_grid,
                *registers,
                with_norm,
                vb,
            )?),
        })
    }

    /// `(batch, 3, height, width)` normalised images to patch tokens `(batch, rows * columns,
    /// dim)`.
    ///
    /// `norm` applies the final layer norm, which half of the channels of an any-view encoder have
    /// always. MASt3R's tokens are meant normalised; DUNE's projectors and DuneMASt3R read them before
    /// it.
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
            Self::AnyView(encoder) => encoder.features(images, observe),
        }
    }
}
