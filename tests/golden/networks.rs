//! Every stage of every small network, in every case, against the reference.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use mast3r::model::config::{Config, EncoderConfig, EncoderKind, HeadConfig, Stack, TwoViewConfig, hooks};
use mast3r::model::encoder::Encoder;
use mast3r::model::{Features, Mast3r};
use mast3r::runtime::{DeviceChoice, Precision, Runtime};
use serde_json::Value;

use crate::common::{Reference, Report, discover, golden_dir, read_json};

/// Largest error and decorrelation: stages, then final outputs.
fn allowed(name: &str) -> (f64, f64) {
    if name.starts_with("out.") && !name.starts_with("out.norm") && name != "out.prenorm" {
        (5e-5, 1e-8)
    } else {
        (3e-5, 1e-7)
    }
}

/// The dimensions that `config.json` of a small network states.
pub fn config_of(json: &Value) -> Config {
    let kind = json["kind"].as_str().unwrap();
    let c = &json["config"];
    let size = |v: &Value, key: &str| v[key].as_u64().unwrap_or_else(|| panic!("no {key}")) as usize;
    let stack = |v: &Value, prefix: &str| {
        let dim = size(v, &format!("{prefix}embed_dim"));
        Stack {
            depth: size(v, &format!("{prefix}depth")),
            dim,
            heads: size(v, &format!("{prefix}num_heads")),
            mlp_dim: 4 * dim,
        }
    };
    let dune = |v: &Value| EncoderConfig {
        kind: EncoderKind::Dune {
            position_grid: size(v, "image_size") / size(v, "patch_size"),
            registers: size(v, "num_register_tokens"),
        },
        patch: size(v, "patch_size"),
        stack: stack(v, ""),
    };
    let encoder = match kind {
        "dune" => dune(c),
        "dunemast3r" => dune(&c["dune"]),
        _ => EncoderConfig { kind: EncoderKind::Croco, patch: size(c, "patch_size"), stack: stack(c, "enc_") },
    };
    let two_view = (kind != "dune").then(|| {
        let decoder = stack(c, "dec_");
        let features = size(c, "dpt_feature_dim");
        let levels: Vec<usize> =
            c["dpt_layer_dims"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
        TwoViewConfig {
            head: HeadConfig {
                hooks: hooks(decoder.depth),
                layer_dims: levels.try_into().unwrap(),
                features,
                head_channels: features / 2,
                last: size(c, "dpt_last_dim"),
                descriptor: size(c, "desc_dim"),
                two_confidences: true,
                descriptor_hidden: 4 * (encoder.stack.dim + decoder.dim),
                descriptor_confidence_floor: 0.,
            },
            decoder,
        }
    });
    Config { encoder, two_view }
}

/// The weights of a folder, scaled where the case says so.
fn weights(folder: &Path, case: &Reference) -> VarBuilder<'static> {
    let tensors = candle_core::safetensors::load(folder.join("weights.safetensors"), &Device::Cpu).unwrap();
    let mut tensors: HashMap<String, Tensor> = tensors;
    if case.metadata.contains_key("smallscale") {
        let rule = case.json("smallscale");
        let factor = rule["factor"].as_f64().unwrap();
        let parts: Vec<&str> =
            rule["names_containing"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
        for (name, tensor) in &mut tensors {
            if parts.iter().any(|part| name.contains(part)) {
                *tensor = (&*tensor * factor).unwrap();
            }
        }
    }
    VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu)
}

/// Reference maps are channels-first, ours channels-last.
fn as_reference(name: &str, value: &Tensor) -> Tensor {
    if name.starts_with("dpt.") || name.starts_with("head.raw") {
        value.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap()
    } else {
        value.clone()
    }
}

fn two_view_case(folder: &Path, config: &Config, case: &Reference) -> Report {
    let runtime = Runtime::new(DeviceChoice::Cpu, Precision::F32).unwrap();
    let model = Mast3r::new(config, &weights(folder, case), &runtime).unwrap();
    let mut report = Report::new(case.path.display().to_string(), allowed);
    let mut features = Vec::new();
    for view in [1, 2] {
        let images = case.get(&format!("in.img.{view}"));
        let mut observe = |name: &str, value: &Tensor| {
            case.compare(&format!("{name}.{view}"), value, &mut report);
            Ok(())
        };
        let tokens = model.extractor().forward(images, true, &mut observe).unwrap();
        let (_, _, height, width) = images.dims4().unwrap();
        let patch = config.encoder.patch;
        features.push(Features { tokens, grid: [height / patch, width / patch] });
    }
    let mut observe = |name: &str, value: &Tensor| {
        case.compare(name, &as_reference(name, value), &mut report);
        Ok(())
    };
    let pair = model.decode_observed(&features[0], &features[1], &mut observe).unwrap();
    for (view, prediction) in [(1, &pair.first), (2, &pair.second_in_first)] {
        case.compare(&format!("out.pts3d.{view}"), &prediction.points, &mut report);
        case.compare(&format!("out.conf.{view}"), &prediction.confidence, &mut report);
        case.compare(&format!("out.desc.{view}"), &prediction.descriptors, &mut report);
        case.compare(&format!("out.desc_conf.{view}"), &prediction.descriptor_confidence, &mut report);
    }
    report
}

fn dune_case(folder: &Path, config: &Config, case: &Reference) -> Report {
    let mut report = Report::new(case.path.display().to_string(), allowed);
    let Encoder::Dune(encoder) = Encoder::new(&config.encoder, true, weights(folder, case)).unwrap() else {
        panic!("a DUNE encoder expected");
    };
    let mut observe = |name: &str, value: &Tensor| {
        case.compare(name, value, &mut report);
        Ok(())
    };
    let prenorm = encoder.forward(case.get("in.img"), &mut observe).unwrap();
    case.compare("out.prenorm", &prenorm, &mut report);
    let normed = encoder.normalise(&prenorm).unwrap();
    case.compare("out.norm_cls", &normed.narrow(1, 0, 1).unwrap(), &mut report);
    case.compare("out.norm_reg", &normed.narrow(1, 1, encoder.registers()).unwrap(), &mut report);
    case.compare("out.norm_patch", &encoder.patches(&normed).unwrap(), &mut report);
    report
}

#[test]
fn every_stage_of_every_small_network_equals_the_reference() {
    let mut cases = 0;
    for folder in discover(&golden_dir(), "", "_tiny") {
        let config = config_of(&read_json(&folder.join("config.json")));
        for path in discover(&folder, "case_", ".safetensors") {
            let case = Reference::open(&path);
            let report = if config.two_view.is_some() {
                two_view_case(&folder, &config, &case)
            } else {
                dune_case(&folder, &config, &case)
            };
            // Inputs and positions are not compared, everything else is.
            let least =
                case.tensors.keys().filter(|name| !name.starts_with("in.") && !name.starts_with("pos.")).count();
            report.finish(least);
            cases += 1;
        }
    }
    assert!(cases > 0, "no case under {}", golden_dir().display());
}
