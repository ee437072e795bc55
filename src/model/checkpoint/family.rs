//! The families of networks that a file can hold: how each is recognised, and what is read off its
//! shapes. A new one is a variant here, with its dimensions in [`Config`].

use super::infer::{Shapes, any_view, croco, dune, two_view};
use super::literal::{Literal, Settings};
use super::source::{Recorded, Tensors};
use crate::model::config::Config;

/// A family, told by the names of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Mast3r,
    Dune,
    /// A DuneMASt3R, with or without its encoder.
    DuneMast3r,
    /// Depth Anything 3's any-view networks.
    AnyView,
}

impl Family {
    /// The family of a file, where `any` tells whether it has tensors whose names begin so.
    pub(super) fn of(any: impl Fn(&str) -> bool) -> Option<Self> {
        if any("mast3r.") {
            Some(Self::DuneMast3r)
        } else if any("backbone.pretrained.") {
            Some(Self::AnyView)
        } else if any("enc_blocks.") {
            Some(Self::Mast3r)
        } else if any("blocks.0.") {
            Some(Self::Dune)
        } else {
            None
        }
    }

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Mast3r => "MASt3R",
            Self::Dune => "a DUNE encoder",
            Self::DuneMast3r => "DuneMASt3R",
            Self::AnyView => "Depth Anything 3",
        }
    }

    /// What the names of the decoder's tensors begin with.
    pub(super) const fn decoder_prefix(self) -> &'static str {
        match self {
            Self::DuneMast3r => "mast3r.",
            Self::Mast3r | Self::Dune | Self::AnyView => "",
        }
    }

    /// The dimensions that shapes show and, where they do not, `settings` and the `encoder`'s own.
    pub(super) fn dimensions(
        self,
        shapes: &Shapes<'_>,
        settings: Option<&Settings>,
        encoder: Option<&Settings>,
    ) -> Result<Config, String> {
        let prefix = self.decoder_prefix();
        let encoder = match self {
            Self::Mast3r => croco(shapes, settings)?,
            Self::Dune => dune(shapes, "", encoder, None)?,
            Self::DuneMast3r => dune(shapes, "dune_backbone.", encoder, settings)?,
            Self::AnyView => any_view(shapes)?,
        };
        let has_decoder = match self {
            Self::Dune | Self::AnyView => false,
            Self::DuneMast3r => true,
            Self::Mast3r => shapes.any(&["dec", "downstream_head"]),
        };
        let two_view = has_decoder
            .then(|| two_view(shapes, prefix, &encoder, settings))
            .transpose()?;
        Ok(Config { encoder, two_view })
    }
}

/// The dimensions of the network that `tensors` and `recorded` describe. A head count that is not
/// recorded and cannot be derived is 0, which [`Config::check`] refuses.
pub(super) fn config(
    family: Family,
    tensors: &Tensors,
    recorded: &Recorded,
) -> Result<Config, String> {
    let shapes = &Shapes(tensors);
    let constructor = recorded
        .constructor
        .as_deref()
        .filter(|_| family != Family::Dune);
    let constructor = constructor.map(Settings::from_call).transpose()?;
    let settings = constructor.as_ref().or(recorded
        .config
        .as_ref()
        .filter(|config| is_constructor(config)));
    if let Some(settings) = settings {
        refuse_unknown_modes(settings)?;
    }
    family.dimensions(shapes, settings, recorded.encoder.as_ref())
}

/// Whether a `config.json` holds a network's constructor arguments rather than something of another
/// program.
fn is_constructor(settings: &Settings) -> bool {
    ["enc_num_heads", "dec_num_heads", "output_mode", "head_type"]
        .iter()
        .any(|name| settings.get(name).is_some())
}

/// Settings under which the same tensors mean another computation than ours.
fn refuse_unknown_modes(settings: &Settings) -> Result<(), String> {
    let mode = |low: f64| {
        let bounds = [Literal::Float(low), Literal::Float(f64::INFINITY)];
        Literal::Sequence([&[Literal::Text("exp".into())][..], &bounds[..]].concat())
    };
    let text = |value: &str| Literal::Text(value.to_string());
    for (name, expected) in [
        ("pos_embed", text("RoPE100")),
        ("head_type", text("catmlp+dpt")),
        ("depth_mode", mode(f64::NEG_INFINITY)),
        ("conf_mode", mode(1.0)),
    ] {
        match settings.get(name) {
            Some(found) if !same(found, &expected) => {
                return Err(format!(
                    "{} says {name}={found}, and only {expected} is supported",
                    settings.origin
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Equality in which 1 and 1.0 are the same.
fn same(a: &Literal, b: &Literal) -> bool {
    match (a, b) {
        (Literal::Sequence(a), Literal::Sequence(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        _ => a == b || matches!((a.number(), b.number()), (Some(a), Some(b)) if a == b),
    }
}
