//! The tables of a profile: which span belongs to which component.

use std::collections::BTreeMap;
use std::time::Duration;

use tracing::Level;

use crate::breakdown::{Breakdown, Classify, Sum, Tally};
use crate::spans::{Recording, Span};

/// What the blocks of a stack computed on, for titles.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct BlockTerms {
    /// Sequences at once.
    pub(super) batch: usize,
    /// Tokens of a sequence.
    pub(super) tokens: String,
    /// Channels.
    pub(super) dim: usize,
}

/// Recordings of one job done again and again, each with a span `run` around everything.
pub(super) struct Runs<'a>(pub(super) &'a [Recording]);

/// A part of a block with a subtotal: its name and its components.
type Section = (&'static str, &'static [&'static str]);

const STAGES: &[(&str, &str)] = &[
    ("image_decode", "image decoding"),
    ("image_resize", "image resizing"),
    ("weights", WEIGHTS),
    ("encode", "encoder"),
    ("decoder", "decoder"),
    ("head", "heads"),
    ("fetch", "fetching results"),
    ("match", "matching"),
    ("solve", "cameras"),
    ("export", "export"),
];
const WEIGHTS: &str = "weight loading";

const KINDS: &[(&str, &[&str])] = &[
    ("linear layers", &["linear"]),
    ("attention", &["attention"]),
    ("convolutions", &["conv3x3"]),
    ("layer norms", &["layer_norm"]),
    ("RoPE", &["rope"]),
    ("upsampling", &["upsample"]),
    (
        "elementwise",
        &[
            "gelu",
            "relu",
            "residual",
            "bias",
            "add",
            "layer_scale",
            "cast",
            "normalise",
            "postprocess",
        ],
    ),
    (
        "positions and rearrangement",
        &["positions", "open", "gather"],
    ),
];

const ENCODER_BLOCK: &[Section] = &[("attention total", ATTENTION), ("MLP total", MLP)];
const DECODER_BLOCK: &[Section] = &[
    ("self-attention total", ATTENTION),
    (
        "cross-attention total",
        &[
            "LayerNorm (pre-cross-attention)",
            "LayerNorm (other view)",
            "Q linear",
            "K and V linear",
            "RoPE 2D (cross)",
            "cross-attention",
            "output projection (cross)",
            "residual (cross-attention)",
        ],
    ),
    ("MLP total", MLP),
];
const ATTENTION: &[&str] = &[
    "LayerNorm (pre-attention)",
    "QKV linear",
    "RoPE 2D",
    "attention",
    "output projection",
    "layer scale (attention)",
    "residual (attention)",
];
const MLP: &[&str] = &[
    "LayerNorm (pre-MLP)",
    "FC1",
    "GELU",
    "FC2",
    "layer scale (MLP)",
    "residual (MLP)",
];

/// What may happen as a product is finished: the component, the product and the word for it there.
const FINISHED: &[(&str, &str, &str)] = &[
    ("residual (attention)", "output projection", "residual"),
    (
        "residual (cross-attention)",
        "output projection (cross)",
        "residual",
    ),
    ("GELU", "FC1", "gelu"),
    ("residual (MLP)", "FC2", "residual"),
];

impl Runs<'_> {
    fn count(&self) -> f64 {
        self.0.len() as f64
    }

    fn tally(&self, is_root: impl Fn(&Span) -> bool, classify: &Classify<'_>) -> Tally {
        Tally::of(&self.0.iter().collect::<Vec<_>>(), is_root, classify)
    }

    /// The whole job; `weights` are loaded once.
    pub(super) fn stages(&self, weights: Duration) -> Breakdown {
        let mut tally = self.tally(|span| span.name == "run", &|recording, index, around| {
            let name = recording.spans()[index].name;
            // What a stage consists of is that stage's.
            let stage = STAGES
                .iter()
                .find(|(span, _)| *span == name && around.is_none());
            stage.map(|(_, stage)| stage.to_string())
        });
        let runs = self.0.len() as u32;
        tally.put_beside(
            WEIGHTS,
            Sum {
                calls: runs.into(),
                time: weights * runs,
                ..Sum::default()
            },
        );
        let mut stages = Breakdown::new("Stages");
        for (span, stage) in STAGES {
            let Some(sum) = tally.get(stage) else {
                continue;
            };
            stages.part(stage, sum, self.count()).note = match *span {
                "image_decode" => "one image after the other".into(),
                "weights" => "once".into(),
                "encode" => "with its input".into(),
                _ => String::new(),
            };
        }
        stages.finish(&tally, self.count())
    }

    /// Encoder and its input.
    pub(super) fn encoder(&self) -> Breakdown {
        let tally = self.tally(|span| span.name == "encode", &|recording, index, around| {
            let span = &recording.spans()[index];
            let component = match span.name {
                "enc_block" => "all blocks",
                "patch_embed" => "patch embedding",
                "positions" => "positions",
                "normalise" => "normalising images",
                "layer_norm" if around.is_none() => "final norm",
                name => return leaf(span, name).filter(|_| around.is_none()),
            };
            (around.is_none()).then(|| component.to_string())
        });
        let mut encoder = Breakdown::new("Encoder");
        for component in tally.components() {
            encoder.part(
                component,
                tally.get(component).unwrap_or_default(),
                self.count(),
            );
            if component == "all blocks" {
                self.samples(&mut encoder, "enc_block", "");
            }
        }
        encoder.finish(&tally, self.count())
    }

    /// Decoder and heads.
    pub(super) fn decoder(&self) -> Breakdown {
        let tally = self.tally(|span| span.name == "decode", &|recording, index, around| {
            let span = &recording.spans()[index];
            let inside = |name: &str| recording.around(index).any(|outer| outer.name == name);
            let component = match span.name {
                "decoder_embed" => "decoder_embed".into(),
                // The last block's result is normalised wherever that is done.
                "layer_norm" if span.text("role") == "dec_norm" => "dec_norm".into(),
                "dec_block" => "all blocks".into(),
                "dpt_stage" => format!("DPT head: {}", span.text("stage")),
                "dpt" => "DPT head: rest".into(),
                "descriptor_mlp" => "descriptor MLP".into(),
                "postprocess" => "postprocessing".into(),
                name if around.is_none() => {
                    return leaf(span, name).map(|name| {
                        if inside("head") {
                            format!("heads: {name}")
                        } else {
                            name
                        }
                    });
                }
                _ => return None,
            };
            Some(component)
        });
        let mut decoder = Breakdown::new("Decoder and heads, both views");
        for component in tally.components() {
            decoder.part(
                component,
                tally.get(component).unwrap_or_default(),
                self.count(),
            );
            if component == "all blocks" {
                self.samples(&mut decoder, "dec_block", " (both views)");
            }
        }
        decoder.finish(&tally, self.count())
    }

    /// The first block of a stack, the middle one and the last, which are in the stack's time
    /// already.
    fn samples(&self, breakdown: &mut Breakdown, name: &str, suffix: &str) {
        let indices = self
            .0
            .iter()
            .flat_map(Recording::spans)
            .filter(|span| span.name == name);
        let Some(last) = indices.filter_map(|span| span.number("index")).max() else {
            return;
        };
        for index in BTreeMap::from([(0, ()), (last.div_ceil(2), ()), (last, ())]).into_keys() {
            let block = self.tally(
                |span| span.name == name && span.number("index") == Some(index),
                &|_, _, _| None,
            );
            breakdown
                .aside(
                    &format!("block {index}{suffix}"),
                    block.total(),
                    self.count(),
                )
                .note = "in all blocks".into();
        }
    }

    /// An encoder block.
    pub(super) fn encoder_block(&self, terms: &BlockTerms) -> Breakdown {
        self.block(
            "Transformer block of the encoder",
            "enc_block",
            ENCODER_BLOCK,
            "LayerNorm (pre-MLP)",
            terms,
        )
    }

    /// A decoder block.
    pub(super) fn decoder_block(&self, terms: &BlockTerms) -> Breakdown {
        let norm2 = "LayerNorm (pre-cross-attention)";
        self.block(
            "Transformer block of the decoder",
            "dec_block",
            DECODER_BLOCK,
            norm2,
            terms,
        )
    }

    fn block(
        &self,
        title: &str,
        name: &str,
        sections: &[Section],
        norm2: &str,
        terms: &BlockTerms,
    ) -> Breakdown {
        let classify = |recording: &Recording, index: usize, around: Option<&str>| {
            block_component(recording, index, around, norm2)
        };
        let tally = self.tally(|span| span.name == name, &classify);
        let fused = self.finished_in_products(name, &classify);
        let count = tally.total().calls.max(1) as f64;
        let BlockTerms { batch, tokens, dim } = terms;
        let blocks = count / self.count();
        let mut block = Breakdown::new(format!(
            "{title}, B={batch}, N={tokens}, D={dim}: mean of {blocks} blocks"
        ));
        for (total, components) in sections {
            let mut subtotal = Sum::default();
            for &component in *components {
                if let Some(sum) = tally.get(component) {
                    subtotal.add(sum);
                    block.part(component, sum, count).note = match component {
                        "output projection" | "output projection (cross)" | "FC1" | "FC2" => fused
                            .get(component)
                            .map(|what| format!("with {what}"))
                            .unwrap_or_default(),
                        _ => String::new(),
                    };
                } else if let Some((_, product, _)) =
                    FINISHED.iter().find(|(finished, product, word)| {
                        *finished == component
                            && fused.get(*product).is_some_and(|what| what.contains(word))
                    })
                {
                    block.without_time(component, format!("in {product}"));
                }
            }
            block.aside(
                total,
                Sum {
                    calls: 0,
                    ..subtotal
                },
                count,
            );
        }
        block.finish(&tally, count)
    }

    /// What each kind of product does besides, as its spans say.
    fn finished_in_products(
        &self,
        root: &str,
        classify: &Classify<'_>,
    ) -> BTreeMap<String, String> {
        let mut fused = BTreeMap::new();
        for recording in self.0 {
            for (index, span) in recording.spans().iter().enumerate() {
                let what = span.text("fused");
                if !what.is_empty()
                    && recording.around(index).any(|outer| outer.name == root)
                    && let Some(component) = classify(recording, index, None)
                {
                    fused.insert(component, what.replace('+', ", "));
                }
            }
        }
        fused
    }

    /// The network's time by what is computed.
    pub(super) fn kinds(&self) -> Breakdown {
        let tally = self.tally(
            |span| matches!(span.name, "encode" | "decode"),
            &|recording, index, _| {
                let span = &recording.spans()[index];
                let kind = KINDS.iter().find(|(_, names)| names.contains(&span.name));
                kind.map(|(kind, _)| kind.to_string())
                    .or_else(|| leaf(span, span.name))
            },
        );
        let mut kinds = Breakdown::new("Network by kind of operation");
        for (kind, _) in KINDS {
            if let Some(sum) = tally.get(kind) {
                kinds.part(kind, sum, self.count());
            }
        }
        kinds.finish(&tally, self.count())
    }
}

/// An operation that no table knows stands under its own name.
fn leaf(span: &Span, name: &str) -> Option<String> {
    (span.level == Level::TRACE).then(|| name.to_string())
}

/// Which component of a block a span inside it belongs to; `norm2` is what the layer norm of that
/// name precedes.
fn block_component(
    recording: &Recording,
    index: usize,
    around: Option<&str>,
    norm2: &str,
) -> Option<String> {
    let span = &recording.spans()[index];
    let inside = |name: &str| recording.around(index).any(|outer| outer.name == name);
    let by_place = |own: &str, cross: &str, mlp: &str| {
        let place = if inside("cross_attn") {
            cross
        } else if inside("mlp") {
            mlp
        } else {
            own
        };
        place.to_string()
    };
    let component = match (span.name, span.text("role")) {
        ("layer_norm", "norm1") => "LayerNorm (pre-attention)".into(),
        ("layer_norm", "norm2") => norm2.into(),
        ("layer_norm", "norm3") => "LayerNorm (pre-MLP)".into(),
        ("layer_norm", "norm_y") => "LayerNorm (other view)".into(),
        ("linear", "qkv") => "QKV linear".into(),
        ("linear", "projq") => "Q linear".into(),
        ("linear", "projk" | "projv" | "projkv") => "K and V linear".into(),
        ("linear", "proj") => by_place(
            "output projection",
            "output projection (cross)",
            "output projection",
        ),
        ("linear", "fc1") => "FC1".into(),
        ("linear", "fc2") => "FC2".into(),
        ("attention", _) => by_place("attention", "cross-attention", "attention"),
        ("rope", _) => by_place("RoPE 2D", "RoPE 2D (cross)", "RoPE 2D"),
        ("gelu", _) => "GELU".into(),
        ("layer_scale", _) => by_place(
            "layer scale (attention)",
            "layer scale (cross-attention)",
            "layer scale (MLP)",
        ),
        ("residual", _) => by_place(
            "residual (attention)",
            "residual (cross-attention)",
            "residual (MLP)",
        ),
        (name, _) if around.is_none() => return leaf(span, name),
        _ => return None,
    };
    Some(component)
}
