//! The spans of a forward pass: what a profile is made of. A program of its own: tracing asks once
//! whether anybody listens, for all threads.

// A panic is how a test fails, in its helpers too.
#![allow(clippy::unwrap_used)]

mod small_network;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor};
use mast3r::model::checkpoint::Checkpoint;
use mast3r::model::config::EncoderKind;
use mast3r::model::registry::Network;
use mast3r::model::{FeatureExtractor, Features, Mast3r};
use mast3r::nn::unobserved;
use mast3r::runtime::{DeviceChoice, Optimisations, Precision, Runtime};
use small_network::small_pair;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// A span as it was made.
#[derive(Clone, Debug, Default)]
struct Span {
    name: &'static str,
    leaf: bool,
    flop: Option<u64>,
    bytes: Option<u64>,
    fused: Option<String>,
    role: Option<String>,
    parents: Vec<&'static str>,
}

impl Visit for Span {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "flop" => self.flop = Some(value),
            "bytes" => self.bytes = Some(value),
            _ => {}
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "fused" => self.fused = Some(value.to_string()),
            "role" => self.role = Some(value.to_string()),
            _ => {}
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

/// All spans, and the numbers of those that are open.
#[derive(Default)]
struct Seen {
    spans: Vec<Span>,
    open: Vec<usize>,
}

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Seen>>);

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target().starts_with("mast3r")
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut seen = self.0.lock().unwrap();
        let metadata = attributes.metadata();
        let parents = seen
            .open
            .iter()
            .map(|&open| seen.spans[open].name)
            .collect();
        let leaf = *metadata.level() == Level::TRACE;
        let mut span = Span {
            name: metadata.name(),
            leaf,
            parents,
            ..Span::default()
        };
        attributes.record(&mut span);
        seen.spans.push(span);
        Id::from_u64(seen.spans.len() as u64)
    }

    fn enter(&self, id: &Id) {
        self.0.lock().unwrap().open.push(id.into_u64() as usize - 1);
    }

    fn exit(&self, _: &Id) {
        self.0.lock().unwrap().open.pop();
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
}

fn spans_of(run: impl FnOnce()) -> Vec<Span> {
    let collector = Collector::default();
    tracing::subscriber::with_default(collector.clone(), run);
    collector.0.lock().unwrap().spans.clone()
}

fn image(views: usize, side: usize) -> Tensor {
    Tensor::rand(-1f32, 1., (views, 3, side, side), &Device::Cpu).unwrap()
}

fn pair_spans(kind: EncoderKind, optimisations: Optimisations) -> Vec<Span> {
    let runtime =
        Runtime::with_optimisations(DeviceChoice::Cpu, Precision::F32, optimisations).unwrap();
    let config = small_pair(kind, 8, 32);
    let vb = Checkpoint::random(&config, "0").var_builder(Precision::F32.dtype(), &Device::Cpu);
    let model = Mast3r::new(&config, &vb, &runtime).unwrap();
    let images = image(2, 40);
    spans_of(|| {
        let tokens = model
            .extractor()
            .forward(&images, true, &mut unobserved())
            .unwrap();
        let view = |index| Features {
            tokens: tokens.narrow(0, index, 1).unwrap(),
            grid: [5, 5],
        };
        model.decode(&view(0), &view(1)).unwrap();
    })
}

#[test]
fn operations_of_dune_small_add_up_to_the_count_by_hand() {
    let network = Network::find("dune-small").unwrap();
    let config = network.config_at(336);
    let runtime = Runtime::new(DeviceChoice::Cpu, Precision::F32).unwrap();
    let vb = Checkpoint::random(&config, "0").var_builder(Precision::F32.dtype(), &Device::Cpu);
    let extractor = FeatureExtractor::new(&config, &vb, &runtime).unwrap();
    let images = image(1, 336);
    let spans = spans_of(|| {
        extractor.forward(&images, true, &mut unobserved()).unwrap();
    });
    // 24 x 24 patches of 14 x 14 pixels, a class token and 4 registers, 12 blocks of 384 channels.
    let (patches, tokens, dim) = (24 * 24, 24 * 24 + 5, 384);
    let linear = |rows: u64, input: u64, output: u64| 2 * rows * input * output;
    let block = linear(tokens, dim, 3 * dim)
        + 4 * tokens * tokens * dim
        + linear(tokens, dim, dim)
        + linear(tokens, dim, 4 * dim)
        + linear(tokens, 4 * dim, dim);
    let by_hand = linear(patches, 3 * 14 * 14, dim) + 12 * block;
    let counted: u64 = spans.iter().filter_map(|span| span.flop).sum();
    let products: u64 = spans
        .iter()
        .filter(|span| ["linear", "attention"].contains(&span.name))
        .filter_map(|span| span.flop)
        .sum();
    assert_eq!(products, by_hand);
    // Everything else is a few operations for each element.
    assert!(
        counted > by_hand && (counted - by_hand) * 100 < by_hand,
        "{counted} against {by_hand}"
    );
}

#[test]
fn leaves_state_their_work_and_lie_in_groups_that_state_none() {
    for kind in [
        EncoderKind::Croco,
        EncoderKind::Dune {
            position_grid: 4,
            registers: 2,
        },
    ] {
        for optimisations in [Optimisations::all(), Optimisations::none()] {
            let spans = pair_spans(kind.clone(), optimisations);
            for span in &spans {
                assert_eq!(span.flop.is_some(), span.leaf, "{span:?}");
                assert_eq!(
                    span.bytes.is_some_and(|bytes| bytes > 0),
                    span.leaf,
                    "{span:?}"
                );
            }
            let leaves: BTreeSet<_> = spans
                .iter()
                .filter(|span| span.leaf)
                .map(|span| span.name)
                .collect();
            for span in &spans {
                assert!(
                    span.parents.iter().all(|parent| !leaves.contains(parent)),
                    "{span:?} in a leaf"
                );
            }
            for group in [
                "encoder",
                "patch_embed",
                "enc_block",
                "decoder",
                "decoder_embed",
                "dec_block",
                "head",
                "dpt",
            ] {
                assert!(
                    spans.iter().any(|span| span.name == group && !span.leaf),
                    "no {group}"
                );
            }
            // Everything in a head is in one of its parts.
            for span in spans
                .iter()
                .filter(|span| span.leaf && span.parents.contains(&"head"))
            {
                let part = ["dpt_stage", "descriptor_mlp"]
                    .iter()
                    .any(|part| span.parents.contains(part));
                assert!(part || span.name == "postprocess", "{span:?}");
            }
        }
    }
}

#[test]
fn fused_ends_are_named_and_others_have_spans_of_their_own() {
    let count = |spans: &[Span], name: &str| spans.iter().filter(|span| span.name == name).count();
    let fused = |spans: &[Span], role: &str| -> BTreeSet<Option<String>> {
        spans
            .iter()
            .filter(|span| span.role.as_deref() == Some(role))
            .map(|span| span.fused.clone())
            .collect()
    };
    let only = |text: &str| BTreeSet::from([Some(text.to_string())]);
    let dune = EncoderKind::Dune {
        position_grid: 4,
        registers: 2,
    };
    let spans = pair_spans(dune.clone(), Optimisations::all());
    assert_eq!(fused(&spans, "qkv"), only("bias"));
    assert_eq!(fused(&spans, "fc1"), only("bias+gelu"));
    assert_eq!(fused(&spans, "proj").last(), only("bias+residual").last());
    assert_eq!(fused(&spans, "conv2"), only("bias+residual"));
    assert_eq!(fused(&spans, "head.2"), only("bias+relu"));
    for name in ["gelu", "relu", "residual", "bias", "layer_scale"] {
        assert_eq!(count(&spans, name), 0, "{name}");
    }
    let spans = pair_spans(dune, Optimisations::none());
    // Two encoder blocks and four decoder blocks a view, a descriptor MLP a view.
    let blocks = 2 + 2 * 4;
    assert_eq!(count(&spans, "gelu"), blocks + 2);
    assert_eq!(count(&spans, "layer_scale"), 2 * 2);
    // Attention and MLP of a block, cross-attention of a decoder's, and seven units of convolutions
    // a head.
    assert_eq!(count(&spans, "residual"), 2 * blocks + 2 * 4 + 2 * 7);
    assert_eq!(fused(&spans, "fc1"), BTreeSet::from([None]));
}
