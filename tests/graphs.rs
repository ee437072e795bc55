//! Captured CUDA graphs and views as one batch: the same maps as launched one by one, whatever the
//! images.
//!
//! Without the feature `cuda` or without a GPU there is nothing to compare, and the test says so;
//! with `MAST3R_REQUIRE_GPU=1` it fails then.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use std::fmt::Debug;

use candle_core::{DType, Device, Tensor};
use mast3r::model::checkpoint::Checkpoint;
use mast3r::model::config::{
    AnyViewConfig, Config, EncoderConfig, EncoderKind, HeadConfig, Stack, TwoViewConfig, hooks,
};
use mast3r::model::encoder::ReferenceChoice;
use mast3r::model::{AnyViewMaps, DepthAnything, Features, Mast3r, PairPrediction, PoseEncoding};
use mast3r::nn::unobserved;
use mast3r::runtime::{DeviceChoice, Optimisation, Optimisations, Precision, Runtime};

const PATCH: usize = 16;

/// The GPU with a set of optimisations; else nothing, or a failure where one is required.
fn gpu(precision: Precision, optimisations: Optimisations) -> Option<Runtime> {
    match Runtime::with_optimisations(DeviceChoice::Cuda(0), precision, optimisations) {
        Ok(runtime) => Some(runtime),
        Err(error) => {
            let is_required = std::env::var("MAST3R_REQUIRE_GPU").is_ok_and(|value| value == "1");
            assert!(!is_required, "MAST3R_REQUIRE_GPU=1, but: {error}");
            println!("skipped: {error}");
            None
        }
    }
}

fn stack(depth: usize) -> Stack {
    Stack {
        depth,
        dim: 128,
        heads: 2,
        mlp_dim: 256,
    }
}

/// Heads of 64 channels and convolutions of whole steps, so that the kernels of large networks run.
fn pair(kind: EncoderKind) -> Config {
    Config {
        encoder: EncoderConfig {
            kind,
            patch: PATCH,
            stack: stack(2),
        },
        two_view: Some(TwoViewConfig {
            decoder: stack(4),
            view_embed: false,
            head: HeadConfig {
                hooks: hooks(4),
                layer_dims: [24, 48, 64, 128],
                features: 64,
                head_channels: 64,
                last: 64,
                descriptor: 24,
                two_confidences: true,
                descriptor_hidden: 128,
                descriptor_confidence_floor: 0.,
            },
        }),
    }
}

fn any_view() -> Config {
    Config {
        encoder: EncoderConfig {
            kind: EncoderKind::AnyView(AnyViewConfig {
                position_grid: 4,
                alternate_from: 2,
                hooks: [1, 2, 3, 3],
                layer_dims: [24, 48, 64, 128],
                features: 64,
                camera_encoder: stack(2),
            }),
            patch: PATCH,
            stack: stack(4),
        },
        two_view: None,
    }
}

/// `batch` pairs of images of other sizes and values, `(rows, columns)` of patches a view.
fn images(batch: usize, grids: [[usize; 2]; 2]) -> [Tensor; 2] {
    grids.map(|[rows, columns]| {
        let size = (batch, 3, rows * PATCH, columns * PATCH);
        Tensor::rand(-1f32, 1., size, &Device::Cpu).unwrap()
    })
}

fn predict(model: &Mast3r, images: &[Tensor; 2], grids: [[usize; 2]; 2]) -> PairPrediction {
    let view = |index: usize| Features {
        tokens: model
            .extractor()
            .forward(&images[index], true, &mut unobserved())
            .unwrap(),
        grid: grids[index],
    };
    model.decode(&view(0), &view(1)).unwrap()
}

type Maps = Vec<(&'static str, Vec<f32>)>;

fn values(t: &Tensor) -> Vec<f32> {
    assert_eq!(t.dtype(), DType::F32);
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn maps(prediction: &PairPrediction) -> Maps {
    [&prediction.first, &prediction.second_in_first]
        .into_iter()
        .flat_map(|view| {
            [
                ("points", values(&view.points)),
                ("confidence", values(&view.confidence)),
                ("descriptors", values(&view.descriptors)),
                ("descriptor confidence", values(&view.descriptor_confidence)),
            ]
        })
        .collect()
}

fn any_view_maps(prediction: &AnyViewMaps) -> Maps {
    let poses = prediction.poses.iter().flat_map(PoseEncoding::numbers);
    vec![
        ("depth", values(&prediction.depth)),
        ("confidence", values(&prediction.confidence)),
        ("cameras", poses.collect()),
    ]
}

/// The gap relative to the largest value, map by map.
fn assert_near(got: &Maps, want: &Maps, allowed: f32, what: impl Debug) {
    for ((name, got), (_, want)) in got.iter().zip(want) {
        assert_eq!(got.len(), want.len(), "{what:?}: {name}");
        let largest = want.iter().fold(0f32, |most, value| most.max(value.abs()));
        let gap = got.iter().zip(want).map(|(a, b)| (a - b).abs());
        // What is not a number is as far as can be.
        let gap = gap.fold(0f32, |most, gap| {
            if gap.is_nan() {
                f32::INFINITY
            } else {
                most.max(gap)
            }
        });
        assert!(
            gap <= allowed * largest,
            "{what:?}: {name} {gap:e} apart, of {largest}"
        );
    }
}

#[test]
fn replayed_graphs_give_what_launches_give_for_other_images() {
    let plain = [Optimisation::CapturedGraphs, Optimisation::BatchedViews]
        .into_iter()
        .fold(Optimisations::all(), |set, one| set.without(one));
    let dune = EncoderKind::Dune {
        position_grid: 4,
        registers: 4,
    };
    // Both views as one batch sum in another order, in half precision with other roundings.
    for (precision, allowed) in [
        (Precision::F32, 1e-4),
        (Precision::F16, 2e-2),
        (Precision::Bf16, 8e-2),
    ] {
        for kind in [EncoderKind::Croco, dune.clone()] {
            let Some(runtime) = gpu(precision, Optimisations::all()) else {
                return;
            };
            let Some(plain) = gpu(precision, plain) else {
                return;
            };
            let config = pair(kind.clone());
            let checkpoint = Checkpoint::random(&config, "0");
            let model = |runtime: &Runtime| {
                let vb = checkpoint.var_builder(precision.dtype(), runtime.device());
                Mast3r::new(&config, &vb, runtime).unwrap()
            };
            let (captured, launched) = (model(&runtime), model(&plain));
            // Views of one size and of two, alone and as a batch.
            for (batch, grids) in [
                (1, [[4, 5], [4, 5]]),
                (2, [[3, 4], [3, 4]]),
                (1, [[4, 5], [5, 4]]),
            ] {
                // Once as it is, once to be captured, and replays.
                let mut earlier: Option<(PairPrediction, PairPrediction)> = None;
                for turn in 0..4 {
                    let images = images(batch, grids);
                    let on = |runtime: &Runtime| {
                        images
                            .each_ref()
                            .map(|image| image.to_device(runtime.device()).unwrap())
                    };
                    let got = predict(&captured, &on(&runtime), grids);
                    let want = predict(&launched, &on(&plain), grids);
                    let what = (&kind, precision, batch, grids, turn);
                    assert_near(&maps(&got), &maps(&want), allowed, what);
                    // What was returned before is as it was.
                    if let Some((got, want)) = &earlier {
                        assert_near(&maps(got), &maps(want), allowed, what);
                    }
                    earlier = Some((got, want));
                }
            }
        }
    }
}

#[test]
fn replayed_graphs_of_all_views_give_what_launches_give() {
    let plain = Optimisations::all().without(Optimisation::CapturedGraphs);
    for (precision, allowed) in [
        (Precision::F32, 1e-4),
        (Precision::F16, 2e-2),
        (Precision::Bf16, 8e-2),
    ] {
        let Some(runtime) = gpu(precision, Optimisations::all()) else {
            return;
        };
        let Some(plain) = gpu(precision, plain) else {
            return;
        };
        let config = any_view();
        let checkpoint = Checkpoint::random(&config, "0");
        let model = |runtime: &Runtime| {
            let vb = checkpoint.var_builder(precision.dtype(), runtime.device());
            let mut model = DepthAnything::new(&config, &vb, runtime).unwrap();
            if precision != Precision::F32 {
                // Two views may be as good a reference as each other but for roundings.
                model.reference = ReferenceChoice::Middle;
            }
            model
        };
        let (captured, launched) = (model(&runtime), model(&plain));
        for (views, rows, given) in [(2, 4, false), (5, 3, false), (3, 4, true), (10, 3, false)] {
            let cameras: Vec<PoseEncoding> = (0..views)
                .map(|view| PoseEncoding {
                    translation: [view as f64, 0.0, 0.5],
                    quaternion: [0.0, 0.1 * view as f64, 0.0, 1.0],
                    field_of_view: [1.0, 0.8],
                })
                .collect();
            let given = given.then_some(&cameras[..]);
            for turn in 0..4 {
                let [images, _] = images(views, [[rows, 5], [1, 1]]);
                let predict = |model: &DepthAnything, runtime: &Runtime| {
                    let images = images.to_device(runtime.device()).unwrap();
                    let maps = model.forward(&images, given, &mut unobserved());
                    any_view_maps(&maps.unwrap())
                };
                let (got, want) = (predict(&captured, &runtime), predict(&launched, &plain));
                assert_near(&got, &want, allowed, (precision, views, rows, turn));
            }
        }
    }
}
