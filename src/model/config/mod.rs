//! Every dimension of a network, and from them the name and shape of every tensor it needs.

pub(in crate::model) mod any_view;
mod list;
mod tensors;

use crate::views::{Framing, Resize, Resolution};

/// A stack of transformer blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct Stack {
    /// Number of blocks.
    pub depth: usize,
    /// Width of the tokens.
    pub dim: usize,
    /// Attention heads; each works on `dim / heads` channels.
    pub heads: usize,
    /// Hidden width of a block's MLP.
    pub mlp_dim: usize,
}

/// What distinguishes the two encoders.
#[derive(Clone, Debug, PartialEq)]
pub enum EncoderKind {
    /// MASt3R's encoder: positions enter through the rotary embedding only.
    Croco,
    /// DUNE's encoder: a class token, register tokens and a stored position embedding.
    Dune {
        /// Side M of the stored position grid: 24 for weights made at 336 pixels, 32 for 448.
        position_grid: usize,
        /// Register tokens between the class token and the patches; 0 if the file has none.
        registers: usize,
    },
    /// Depth Anything 3's: DINOv2's whose later blocks look at all views of a scene. It comes with a
    /// head for depths and with cameras.
    AnyView(AnyViewConfig),
}

/// What Depth Anything 3 adds to its encoder's blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct AnyViewConfig {
    /// Side M of the stored position grid: 37 for weights made at 518 pixels.
    pub position_grid: usize,
    /// The first block with camera tokens, norms of queries and keys and the rotary embedding. From
    /// it on every odd block attends to the tokens of all views.
    pub alternate_from: usize,
    /// Blocks whose outputs, beside those of the local blocks before them, the head reads.
    pub hooks: [usize; 4],
    /// Channels of the four levels of the head before fusion.
    pub layer_dims: [usize; 4],
    /// Channels of the fusion.
    pub features: usize,
    /// The blocks that make tokens of given cameras.
    pub camera_encoder: Stack,
}

/// Channels after the second output convolution of an any-view head.
pub const ANY_VIEW_LAST: usize = 32;
/// Numbers of a camera as an any-view network has it: translation, quaternion, fields of view.
pub const CAMERA_NUMBERS: usize = 9;

/// An encoder: image to tokens, one view at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// Which of the two encoders.
    pub kind: EncoderKind,
    /// Side of a square patch, in pixels.
    pub patch: usize,
    /// Its blocks.
    pub stack: Stack,
}

impl EncoderConfig {
    /// Tokens of a view besides its patches.
    pub fn special_tokens(&self) -> usize {
        match self.kind {
            EncoderKind::Croco => 0,
            EncoderKind::Dune { registers, .. } => 1 + registers,
            EncoderKind::AnyView(_) => 1,
        }
    }

    /// Channels of the features of a view: an any-view encoder's have two halves.
    pub fn channels(&self) -> usize {
        match self.kind {
            EncoderKind::AnyView(_) => 2 * self.stack.dim,
            _ => self.stack.dim,
        }
    }
}

/// The two heads, equal in structure: a DPT for points and confidence, an MLP for descriptors.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadConfig {
    /// Entries of the decoder's token list that the DPT reads; 0 is the encoder's output.
    pub hooks: [usize; 4],
    /// Channels of the four DPT levels before fusion.
    pub layer_dims: [usize; 4],
    /// Channels of the fusion.
    pub features: usize,
    /// Channels after the first output convolution (`dpt.head.0`).
    pub head_channels: usize,
    /// Channels after the second output convolution (`dpt.head.2`).
    pub last: usize,
    /// Channels of a descriptor.
    pub descriptor: usize,
    /// Whether descriptors have a confidence of their own; otherwise the points' is reused.
    pub two_confidences: bool,
    /// Hidden width of the descriptor MLP.
    pub descriptor_hidden: usize,
    /// Lower bound of the descriptors' confidence: 0, or 1 where the points' confidence mode is
    /// reused.
    pub descriptor_confidence_floor: f32,
}

/// What a two-view network adds to its encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct TwoViewConfig {
    /// The decoder; each view has blocks of its own of these dimensions.
    pub decoder: Stack,
    /// Whether the decoder adds `view_embed` to its tokens, a vector for each of the two views: a
    /// decoder that serves both with the same blocks learns from it which one it has.
    pub view_embed: bool,
    /// The heads; each view has its own.
    pub head: HeadConfig,
}

/// A whole network: an encoder alone, or an encoder with decoder and heads.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The encoder.
    pub encoder: EncoderConfig,
    /// Decoder and heads, unless the network is an encoder alone.
    pub two_view: Option<TwoViewConfig>,
}

/// What a network predicts of the views that it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Predicts {
    /// Patch features of each view: an encoder alone.
    Features,
    /// Points, confidences and descriptors of each pair of views.
    Pairs,
    /// A camera and a depth map of every view, from all views together.
    Scene,
}

impl Predicts {
    /// Views that one prediction takes at least.
    pub fn least_views(self) -> usize {
        match self {
            Self::Features | Self::Scene => 1,
            Self::Pairs => 2,
        }
    }

    /// Whether cameras and points of views follow from the predictions.
    pub fn reconstructs(self) -> bool {
        self != Self::Features
    }
}

/// Name and shape of one tensor, both as PyTorch has them.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// The name, for example `enc_blocks.0.attn.qkv.weight`.
    pub name: String,
    /// The shape: linear `(out, in)`, convolution `(out, in, height, width)`, transposed `(in, out,
    /// height, width)`.
    pub shape: Vec<usize>,
}

/// DPT hooks for a decoder of `depth` blocks: 0, half, three quarters and the end.
pub const fn hooks(depth: usize) -> [usize; 4] {
    [0, depth * 2 / 4, depth * 3 / 4, depth]
}

impl HeadConfig {
    /// Channels that the descriptor MLP makes per pixel: the descriptor and, if it has one, its
    /// confidence.
    pub fn descriptor_channels(&self) -> usize {
        self.descriptor + usize::from(self.two_confidences)
    }
}

impl Config {
    /// Prefix of the encoder's tensors: `dune_backbone.` inside DuneMASt3R, otherwise empty.
    pub fn encoder_prefix(&self) -> &'static str {
        if self.is_dune() && self.two_view.is_some() {
            "dune_backbone."
        } else {
            ""
        }
    }

    /// Prefix of the decoder's and the heads' tensors: `mast3r.` inside DuneMASt3R, otherwise
    /// empty.
    pub fn decoder_prefix(&self) -> &'static str {
        if self.is_dune() { "mast3r." } else { "" }
    }

    /// Checks what the shapes of tensors cannot show: that the heads divide the widths.
    ///
    /// # Errors
    /// A sentence that names the stack and both values.
    pub fn check(&self) -> Result<(), String> {
        heads_divide("encoder", &self.encoder.stack, !self.is_dune())?;
        if let Some(any_view) = self.any_view() {
            any_view.check(self.encoder.stack.depth)?;
        }
        match &self.two_view {
            Some(two_view) => heads_divide("decoder", &two_view.decoder, true),
            None => Ok(()),
        }
    }

    /// What the network predicts.
    pub fn predicts(&self) -> Predicts {
        match (&self.two_view, self.any_view()) {
            (Some(_), _) => Predicts::Pairs,
            (None, Some(_)) => Predicts::Scene,
            (None, None) => Predicts::Features,
        }
    }

    /// The kind of network in the words of its authors.
    pub fn family(&self) -> &'static str {
        match (self.is_dune(), self.predicts()) {
            (_, Predicts::Scene) => "Depth Anything 3",
            (false, Predicts::Features) => "MASt3R's encoder",
            (false, _) => "MASt3R",
            (true, Predicts::Features) => "DUNE",
            (true, _) => "DuneMASt3R",
        }
    }

    /// How a network of these dimensions that is none of the known ones wants its images: of
    /// `resolution`, or of the long side that its family was trained at.
    pub fn framing(&self, resolution: Option<Resolution>) -> Framing {
        let usual_side = match self.encoder.kind {
            EncoderKind::Croco => 512,
            EncoderKind::Dune { .. } => 336,
            EncoderKind::AnyView(_) => 504,
        };
        let resize = self.resize();
        Framing {
            resize,
            resolution: resolution.unwrap_or(Resolution::LongSide(usual_side)),
            patch: self.encoder.patch as u32,
            square_allowed: self.is_dune(),
            square_at_224: resize == Resize::Pillow,
        }
    }

    /// How the reference resizes images.
    pub fn resize(&self) -> Resize {
        match self.any_view() {
            Some(_) => Resize::OpenCv,
            None => Resize::Pillow,
        }
    }

    /// What an any-view network adds to its encoder.
    pub fn any_view(&self) -> Option<&AnyViewConfig> {
        match &self.encoder.kind {
            EncoderKind::AnyView(any_view) => Some(any_view),
            _ => None,
        }
    }

    /// Whether the encoder is DUNE's.
    pub fn is_dune(&self) -> bool {
        matches!(self.encoder.kind, EncoderKind::Dune { .. })
    }
}

/// The rotary embedding splits a head in two axes of channel pairs, so it needs multiples of four.
fn heads_divide(what: &str, stack: &Stack, rotary: bool) -> Result<(), String> {
    let Stack { dim, heads, .. } = *stack;
    if heads == 0 {
        return Err(format!(
            "the number of attention heads of the {what}, {dim} channels wide, is not recorded; put the config.json of \
             the weights beside them"
        ));
    }
    if dim % heads != 0 {
        return Err(format!(
            "the {what} is {dim} channels wide, which {heads} attention heads do not divide"
        ));
    }
    if rotary && (dim / heads) % 4 != 0 {
        return Err(format!(
            "the {what} has {} channels per attention head, which the rotary embedding needs to be a multiple of 4",
            dim / heads
        ));
    }
    Ok(())
}

impl AnyViewConfig {
    /// Checks what the shapes of tensors cannot show.
    fn check(&self, depth: usize) -> Result<(), String> {
        heads_divide("camera encoder", &self.camera_encoder, false)?;
        let ordered = self.hooks.is_sorted() && self.hooks.iter().all(|hook| *hook < depth);
        if ordered && self.alternate_from > 0 && self.hooks[0] + 1 >= self.alternate_from {
            return Ok(());
        }
        Err(format!(
            "its head reads blocks {:?} and views meet from block {} on, which {depth} blocks cannot have",
            self.hooks, self.alternate_from
        ))
    }
}
