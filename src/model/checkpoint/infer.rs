//! A network's dimensions, read off the shapes of its tensors and, for what shapes cannot show, off
//! the settings recorded with them.

use super::literal::{Literal, Settings};
use super::source::Tensors;
use crate::model::config::{
    AnyViewConfig, EncoderConfig, EncoderKind, HeadConfig, Stack, TwoViewConfig, hooks,
};

/// No network has a wider layer or more blocks; beyond, the shapes are nonsense.
const MAX_DIM: usize = 1 << 20;
const MAX_DEPTH: usize = 512;
const MAX_PATCH: usize = 256;
/// Width of an attention head in every published network.
const HEAD_DIM: usize = 64;

pub(super) fn croco(
    shapes: &Shapes<'_>,
    settings: Option<&Settings>,
) -> Result<EncoderConfig, String> {
    let (dim, patch) = shapes.patch_embed("")?;
    let stack = shapes.stack("enc_blocks.", dim, recorded_heads(settings, "enc", dim)?)?;
    Ok(EncoderConfig {
        kind: EncoderKind::Croco,
        patch,
        stack,
    })
}

/// `options` are those of DUNE itself; `settings` those of the decoder, which names an encoder in
/// passing.
pub(super) fn dune(
    shapes: &Shapes<'_>,
    prefix: &str,
    options: Option<&Settings>,
    settings: Option<&Settings>,
) -> Result<EncoderConfig, String> {
    let named = |name: &str| format!("{prefix}{name}");
    let (dim, patch) = shapes.patch_embed(prefix)?;
    let position_grid = shapes.position_grid(&named("pos_embed"))?;
    let registers = match shapes.0.contains_key(&named("register_tokens")) {
        true => shapes.of::<3>(&named("register_tokens"))?[1],
        false => 0,
    };
    let mut heads = match options {
        Some(options) => options.size("num_heads")?,
        None => None,
    };
    if heads.is_none() && dim % HEAD_DIM != 0 {
        heads = recorded_heads(settings, "enc", dim)?;
    }
    let stack = shapes.stack(&named("blocks.0."), dim, heads)?;
    Ok(EncoderConfig {
        kind: EncoderKind::Dune {
            position_grid,
            registers,
        },
        patch,
        stack,
    })
}

/// Heads of the camera encoder in every published any-view network.
const CAMERA_HEADS: usize = 16;

pub(super) fn any_view(shapes: &Shapes<'_>) -> Result<EncoderConfig, String> {
    const BACKBONE: &str = "backbone.pretrained.";
    let named = |name: &str| format!("{BACKBONE}{name}");
    let (dim, patch) = shapes.patch_embed(BACKBONE)?;
    let stack = shapes.stack(&named("blocks."), dim, None)?;
    let normed = |i: &usize| {
        shapes
            .0
            .contains_key(&named(&format!("blocks.{i}.attn.q_norm.weight")))
    };
    let alternate_from = (0..stack.depth).find(normed).ok_or_else(|| {
        format!(
            "no block of {BACKBONE}* has norms of queries and keys, as any-view networks have them"
        )
    })?;
    let Some(first_hook) = stack.depth.checked_sub(7) else {
        return Err(format!(
            "has {} blocks called {BACKBONE}*, and its head reads the last but six",
            stack.depth
        ));
    };
    let mut layer_dims = [0; 4];
    for (k, width) in layer_dims.iter_mut().enumerate() {
        *width = shapes.of::<4>(&format!("head.projects.{k}.weight"))?[0];
    }
    let any_view = AnyViewConfig {
        position_grid: shapes.position_grid(&named("pos_embed"))?,
        alternate_from,
        hooks: [0, 2, 4, 6].map(|step| first_hook + step),
        layer_dims,
        features: shapes.of::<4>("head.scratch.layer1_rn.weight")?[0],
        camera_encoder: shapes.stack("cam_enc.trunk.", dim, Some(CAMERA_HEADS))?,
    };
    Ok(EncoderConfig {
        kind: EncoderKind::AnyView(any_view),
        patch,
        stack,
    })
}

pub(super) fn two_view(
    shapes: &Shapes<'_>,
    prefix: &str,
    encoder: &EncoderConfig,
    settings: Option<&Settings>,
) -> Result<TwoViewConfig, String> {
    let named = |name: &str| format!("{prefix}{name}");
    let [dim, encoder_dim] = shapes.of(&named("decoder_embed.weight"))?;
    if encoder_dim != encoder.stack.dim {
        return Err(format!(
            "the decoder was made for an encoder {encoder_dim} channels wide, and this one has {}",
            encoder.stack.dim
        ));
    }
    let decoder = shapes.stack(
        &named("dec_blocks."),
        dim,
        recorded_heads(settings, "dec", dim)?,
    )?;

    let mlp = named("downstream_head1.head_local_features");
    if !shapes.0.contains_key(&format!("{mlp}.fc2.weight")) {
        return Err(format!(
            "lacks {mlp}.fc2.weight, so it makes no descriptors: DUSt3R or CroCo, not MASt3R"
        ));
    }
    let [outputs, descriptor_hidden] = shapes.of(&format!("{mlp}.fc2.weight"))?;
    let channels = outputs / (encoder.patch * encoder.patch);
    let (descriptor, two_confidences) = descriptor(channels, settings)?;

    let dpt = named("downstream_head1.dpt");
    let mut layer_dims = [0; 4];
    for (k, dim) in layer_dims.iter_mut().enumerate() {
        *dim = shapes.of::<4>(&format!("{dpt}.act_postprocess.{k}.0.weight"))?[0];
    }
    let rows = |name: &str| -> Result<usize, String> {
        Ok(shapes.of::<4>(&format!("{dpt}.{name}.weight"))?[0])
    };
    let head = HeadConfig {
        hooks: hooks(decoder.depth),
        layer_dims,
        features: rows("scratch.layer1_rn")?,
        head_channels: rows("head.0")?,
        last: rows("head.2")?,
        descriptor,
        two_confidences,
        descriptor_hidden,
        descriptor_confidence_floor: descriptor_confidence_floor(settings)?,
    };
    Ok(TwoViewConfig {
        decoder,
        view_embed: shapes.0.contains_key(&named("view_embed")),
        head,
    })
}

/// The number of heads that `settings` record for the stack `enc` or `dec` of width `dim`.
fn recorded_heads(
    settings: Option<&Settings>,
    stack: &str,
    dim: usize,
) -> Result<Option<usize>, String> {
    let Some(settings) = settings else {
        return Ok(None);
    };
    let width = format!("{stack}_embed_dim");
    match settings.size(&width)? {
        Some(recorded) if recorded != dim => Err(format!(
            "{} says {width}={recorded}, and the tensors are {dim} wide",
            settings.origin
        )),
        _ => settings.size(&format!("{stack}_num_heads")),
    }
}

/// How the descriptor MLP's `channels` divide into a descriptor and, perhaps, its confidence.
fn descriptor(channels: usize, settings: Option<&Settings>) -> Result<(usize, bool), String> {
    // Nothing recorded: published descriptors have an even width, so an odd channel is their
    // confidence.
    let two_confidences = match settings {
        Some(settings) => settings.flag("two_confs")?.unwrap_or(false),
        None => channels % 2 == 1,
    };
    let descriptor = channels.saturating_sub(usize::from(two_confidences));
    if let Some(settings) = settings
        && let Some(mode) = settings.get("output_mode")
        && *mode != Literal::Text(format!("pts3d+desc{descriptor}"))
    {
        return Err(format!(
            "{} says output_mode={mode}, and the tensors make {descriptor} channels",
            settings.origin
        ));
    }
    if descriptor == 0 {
        Err("the descriptor MLP makes no descriptor".to_string())
    } else {
        Ok((descriptor, two_confidences))
    }
}

/// The lower bound of `desc_conf_mode=('exp', low, inf)`; without that setting the points' mode,
/// with bound 1, is reused, and without any settings the file is taken for a published one, whose
/// bound is 0.
fn descriptor_confidence_floor(settings: Option<&Settings>) -> Result<f32, String> {
    let Some(settings) = settings else {
        return Ok(0.0);
    };
    let Some(mode) = settings.get("desc_conf_mode") else {
        return Ok(1.0);
    };
    match mode {
        Literal::Sequence(parts) => match &parts[..] {
            [Literal::Text(kind), low, high]
                if kind == "exp"
                    && high.number() == Some(f64::INFINITY)
                    && low.number().is_some_and(f64::is_finite) =>
            {
                Ok(low.number().unwrap_or_default() as f32)
            }
            _ => Err(()),
        },
        _ => Err(()),
    }
    .map_err(|()| {
        format!(
            "{} says desc_conf_mode={mode}, and only ('exp', low, inf) is supported",
            settings.origin
        )
    })
}

/// The tensors of a network under their canonical names.
pub(super) struct Shapes<'a>(pub(super) &'a Tensors);

impl Shapes<'_> {
    /// Whether there are tensors whose names begin with one of `prefixes`.
    pub(super) fn any(&self, prefixes: &[&str]) -> bool {
        let begins = |name: &String| prefixes.iter().any(|prefix| name.starts_with(prefix));
        self.0.keys().any(begins)
    }

    /// The shape of the tensor `name`, which must have `N` axes of sensible size.
    fn of<const N: usize>(&self, name: &str) -> Result<[usize; N], String> {
        let Some(tensor) = self.0.get(name) else {
            return Err(format!("lacks {name}, which its dimensions are read from"));
        };
        let stored = tensor
            .as_ref()
            .map_err(|reason| format!("its tensor {name} {reason}"))?;
        let shape = <[usize; N]>::try_from(&stored.shape[..]).ok();
        shape
            .filter(|shape| shape.iter().all(|size| (1..=MAX_DIM).contains(size)))
            .ok_or_else(|| self.misshapen(name))
    }

    fn misshapen(&self, name: &str) -> String {
        match self.0.get(name) {
            Some(Ok(stored)) => format!(
                "its tensor {name} has the impossible shape {:?}",
                stored.shape
            ),
            _ => format!("its tensor {name} has an impossible shape"),
        }
    }

    /// Width of the tokens and side of a patch.
    fn patch_embed(&self, prefix: &str) -> Result<(usize, usize), String> {
        let name = format!("{prefix}patch_embed.proj.weight");
        match self.of(&name)? {
            [dim, 3, height, width] if height == width && width <= MAX_PATCH => Ok((dim, width)),
            _ => Err(self.misshapen(&name)),
        }
    }

    /// Side of the square grid that the tensor `name` has positions for, besides that of a class
    /// token.
    fn position_grid(&self, name: &str) -> Result<usize, String> {
        let [_, positions, _] = self.of(name)?;
        let grid = (positions - 1).isqrt();
        if grid == 0 || grid * grid + 1 != positions {
            return Err(format!(
                "{name} has {positions} positions, not a square and one more"
            ));
        }
        Ok(grid)
    }

    /// The stack whose blocks are named `prefix` and a number.
    fn stack(&self, prefix: &str, dim: usize, heads: Option<usize>) -> Result<Stack, String> {
        let numbers = self
            .0
            .keys()
            .filter_map(|name| name.strip_prefix(prefix)?.split('.').next()?.parse().ok());
        let depth = numbers
            .max()
            .map_or(0, |last: usize| last.saturating_add(1));
        if depth == 0 || depth > MAX_DEPTH {
            return Err(format!(
                "has {depth} blocks called {prefix}*, and 1 to {MAX_DEPTH} are possible"
            ));
        }
        // The median block's: one misshapen tensor must not make all the others look wrong.
        let hidden = |i| {
            self.of(&format!("{prefix}{i}.mlp.fc1.weight"))
                .map(|[hidden, _]: [usize; 2]| hidden)
        };
        let mut widths: Vec<usize> = (0..depth).filter_map(|i| hidden(i).ok()).collect();
        widths.sort_unstable();
        let mlp_dim = widths
            .get(widths.len() / 2)
            .copied()
            .map_or_else(|| hidden(0), Ok)?;
        let derived = if dim.is_multiple_of(HEAD_DIM) {
            dim / HEAD_DIM
        } else {
            0
        };
        Ok(Stack {
            depth,
            dim,
            heads: heads.unwrap_or(derived),
            mlp_dim,
        })
    }
}
