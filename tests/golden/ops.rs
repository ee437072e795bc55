//! Single operations against the reference, through the layers that the networks are built of.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use custom_ops::{Padding, RopeTable, Storage, grid_sample, rope2d, upsample_bilinear2d};
use mast3r::model::encoder::resample_positions;
use mast3r::model::{descriptors, input, pixels_from_tokens, points};
use mast3r::nn::{
    Builder, Conv3x3, LayerNorm, Linear, Mlp, PatchEmbed, PixelShuffleConv, StridedConv3x3,
    attention,
};
use mast3r::runtime::Optimisations;

use crate::common::{Reference, Report, flat, golden_dir};

fn open(op: &str) -> Reference {
    Reference::open(&golden_dir().join("ops").join(format!("{op}.safetensors")))
}

/// The names of the cases of which the file has `name<suffix>`.
fn cases(reference: &Reference, suffix: &str) -> Vec<String> {
    let mut names: Vec<String> = reference
        .tensors
        .keys()
        .filter_map(|name| name.strip_suffix(suffix))
        .map(str::to_string)
        .collect();
    names.sort();
    assert!(
        !names.is_empty(),
        "{}: no case with {suffix}",
        reference.path.display()
    );
    names
}

fn builder(tensors: &[(&str, Tensor)]) -> Builder<'static> {
    builder_of(
        tensors
            .iter()
            .map(|(name, t)| (name.to_string(), t.clone()))
            .collect(),
    )
}

fn builder_of(tensors: HashMap<String, Tensor>) -> Builder<'static> {
    Builder::new(
        VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu),
        Optimisations::all(),
    )
}

fn channels_last(x: &Tensor) -> Tensor {
    x.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap()
}

fn channels_first(x: &Tensor) -> Tensor {
    x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap()
}

fn marks(_: &str) -> (f64, f64) {
    (1e-5, 1e-9)
}

#[test]
fn rotary_embedding() {
    let reference = open("rope2d");
    let mut report = Report::new("rope2d", marks);
    for case in cases(&reference, ".in") {
        let tokens = reference
            .get(&format!("{case}.in"))
            .transpose(1, 2)
            .unwrap();
        let dim = tokens.dim(3).unwrap();
        let positions = reference
            .get(&format!("{case}.pos"))
            .to_dtype(DType::F32)
            .unwrap()
            .to_vec3::<f32>()
            .unwrap();
        let rotated: Vec<Tensor> = positions
            .iter()
            .enumerate()
            .map(|(item, positions)| {
                let positions: Vec<[f32; 2]> = positions.iter().map(|p| [p[0], p[1]]).collect();
                let table = RopeTable::new(&positions, dim, 100., &Device::Cpu).unwrap();
                rope2d(&tokens.narrow(0, item, 1).unwrap(), &table).unwrap()
            })
            .collect();
        let got = Tensor::cat(&rotated, 0).unwrap().transpose(1, 2).unwrap();
        reference.compare(&format!("{case}.out"), &got, &mut report);
    }
    report.finish(1);
}

#[test]
fn bilinear_resampling_in_both_conventions() {
    let reference = open("bilinear");
    let mut report = Report::new("bilinear", marks);
    for case in cases(&reference, ".in") {
        let x = channels_last(reference.get(&format!("{case}.in")));
        for (name, align_corners) in [
            (format!("{case}.out"), true),
            (format!("{case}_half_pixel.out"), false),
        ] {
            if reference.tensors.contains_key(&name) {
                let shape = reference.shape(&name);
                let got = upsample_bilinear2d(&x, shape[2], shape[3], align_corners).unwrap();
                reference.compare(&name, &channels_first(&got), &mut report);
            }
        }
    }
    report.finish(2);
}

#[test]
fn sampling_at_given_places_with_both_paddings() {
    let reference = open("grid_sample");
    let mut report = Report::new("grid_sample", marks);
    let (x, grid) = (channels_last(reference.get("in")), reference.get("grid"));
    for (name, padding) in [("zeros", Padding::Zeros), ("border", Padding::Border)] {
        for (convention, align_corners) in [("ac0", false), ("ac1", true)] {
            let got = grid_sample(&x, grid, padding, align_corners).unwrap();
            reference.compare(
                &format!("bilinear_{name}_{convention}.out"),
                &channels_first(&got),
                &mut report,
            );
        }
    }
    report.finish(4);
}

#[test]
fn position_embedding_on_another_grid() {
    let reference = open("pos_embed_bicubic");
    let mut report = Report::new("pos_embed_bicubic", |_| (2e-5, 1e-9));
    let settings = reference.json("cases");
    for case in cases(&reference, ".in") {
        let number = |v: &serde_json::Value| v.as_u64().unwrap() as usize;
        let grid = number(&settings[&case]["native"]);
        let out = [
            number(&settings[&case]["out"][0]),
            number(&settings[&case]["out"][1]),
        ];
        let cells = reference.get(&format!("{case}.in"));
        let class = Tensor::zeros((1, 1, cells.dim(2).unwrap()), DType::F32, &Device::Cpu).unwrap();
        let positions = Tensor::cat(&[&class, cells], 1).unwrap();
        let got = resample_positions(&positions, grid, out).unwrap();
        reference.compare(
            &format!("{case}.out"),
            &got.narrow(1, 1, out[0] * out[1]).unwrap(),
            &mut report,
        );
    }
    report.finish(1);
}

#[test]
fn pixel_shuffle_is_exact() {
    let reference = open("pixel_shuffle");
    let mut report = Report::new("pixel_shuffle", |_| (0., 1e-12));
    for case in cases(&reference, ".in") {
        let x = reference.get(&format!("{case}.in"));
        let shape = reference.shape(&format!("{case}.out"));
        // Maps become tokens; tokens are on the grid that the case's name states.
        let (tokens, rows) = match x.rank() {
            4 => (channels_last(x).flatten(1, 2).unwrap(), x.dim(2).unwrap()),
            _ => (
                x.clone(),
                case.rsplit('_')
                    .next()
                    .unwrap()
                    .split('x')
                    .next()
                    .unwrap()
                    .parse()
                    .unwrap(),
            ),
        };
        let columns = tokens.dim(1).unwrap() / rows;
        let got = pixels_from_tokens(&tokens, [rows, columns], shape[1], shape[2] / rows).unwrap();
        reference.compare(&format!("{case}.out"), &channels_first(&got), &mut report);
    }
    report.finish(1);
}

#[test]
fn layer_norm_with_ordinary_tiny_and_shifted_values() {
    let reference = open("layer_norm");
    let allowed = |name: &str| match name {
        name if name.starts_with("tiny_var") => (1e-3, 1e-6),
        name if name.starts_with("big_offset") => (5e-5, 1e-8),
        _ => (1e-5, 1e-9),
    };
    let mut report = Report::new("layer_norm", allowed);
    let settings = reference.json("cases");
    for case in cases(&reference, ".in") {
        let weights =
            ["weight", "bias"].map(|name| (name, reference.get(&format!("{case}.{name}")).clone()));
        let x = reference.get(&format!("{case}.in"));
        let eps = settings[&case]["eps"].as_f64().unwrap() as f32;
        let norm = LayerNorm::new(x.dim(2).unwrap(), eps, builder(&weights)).unwrap();
        reference.compare(
            &format!("{case}.out"),
            &norm.forward(x).unwrap(),
            &mut report,
        );
    }
    report.finish(1);
}

#[test]
fn gelu_is_the_exact_form() {
    let reference = open("gelu");
    let mut report = Report::new("gelu", marks);
    // Identity layers around it: the function is applied inside the first.
    let one = Tensor::ones((1, 1), DType::F32, &Device::Cpu).unwrap();
    let zero = Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap();
    let weights = ["fc1", "fc2"].map(|layer| {
        [
            (format!("{layer}.weight"), one.clone()),
            (format!("{layer}.bias"), zero.clone()),
        ]
    });
    let tensors: HashMap<String, Tensor> = weights.into_iter().flatten().collect();
    let mlp = Mlp::new(1, 1, 1, None, builder_of(tensors)).unwrap();
    let x = reference.get("in").unsqueeze(1).unwrap();
    reference.compare("out", &mlp.forward(&x).unwrap(), &mut report);
    report.finish(1);
}

#[test]
fn softmax_attention() {
    let reference = open("attention");
    let mut report = Report::new("attention", marks);
    let tokens_first = |name: &str| reference.get(name).transpose(1, 2).unwrap();
    let got = attention(
        &tokens_first("q"),
        &tokens_first("k"),
        &tokens_first("v"),
        Storage::F32,
    )
    .unwrap();
    let (batch, heads, queries, dim) = reference.get("q").dims4().unwrap();
    let got = got
        .reshape((batch, queries, heads, dim))
        .unwrap()
        .transpose(1, 2)
        .unwrap();
    reference.compare("out", &got, &mut report);
    report.finish(1);
}

#[test]
fn every_kind_of_convolution() {
    let reference = open("conv");
    let mut report = Report::new("conv", marks);
    let x = channels_last(reference.get("in"));
    for case in cases(&reference, ".weight") {
        let weight = reference.get(&format!("{case}.weight")).clone();
        let bias = reference.tensors.get(&format!("{case}.bias"));
        let mut weights = vec![("weight", weight.clone())];
        weights.extend(bias.map(|bias| ("bias", bias.clone())));
        let vb = builder(&weights);
        let (a, b, kernel, _) = weight.dims4().unwrap();
        let got = match case.as_str() {
            "conv1x1" => Linear::conv1x1(b, a, vb).unwrap().forward(&x).unwrap(),
            "conv3x3_s2_p1" => StridedConv3x3::new(b, a, vb).unwrap().forward(&x).unwrap(),
            name if name.starts_with("conv3x3") && bias.is_none() => {
                Conv3x3::without_bias(b, a, vb)
                    .unwrap()
                    .forward(&x)
                    .unwrap()
            }
            name if name.starts_with("conv3x3") => {
                Conv3x3::new(b, a, vb).unwrap().forward(&x).unwrap()
            }
            name if name.starts_with("convT") => PixelShuffleConv::new(a, b, kernel, vb)
                .unwrap()
                .forward(&x)
                .unwrap(),
            name if name.starts_with("patch") => {
                let tensors = weights
                    .iter()
                    .map(|(name, t)| (format!("proj.{name}"), t.clone()))
                    .collect();
                let vb = builder_of(tensors);
                let pixels = reference
                    .tensors
                    .get(&format!("{case}.in"))
                    .unwrap_or_else(|| reference.get("in"));
                let got = PatchEmbed::new(kernel, a, vb)
                    .unwrap()
                    .forward(pixels)
                    .unwrap();
                reference.compare(&format!("{case}.out"), &got, &mut report);
                continue;
            }
            other => panic!("conv: what is {other}?"),
        };
        reference.compare(&format!("{case}.out"), &channels_first(&got), &mut report);
    }
    report.finish(4);
}

#[test]
fn output_activations() {
    let reference = open("postprocess");
    // Depths span 17 decades: every element counts relative to itself.
    let close = |name: &str, got: &Tensor| {
        for (i, (got, want)) in flat(got).iter().zip(flat(reference.get(name))).enumerate() {
            let same = (got.is_nan() && want.is_nan()) || *got == want;
            assert!(
                same || (got - want).abs() <= 1e-5 * want.abs(),
                "{name}[{i}]: {got}, should be {want}"
            );
        }
    };
    close("depth.out", &points(reference.get("depth.in")).unwrap());
    close("desc.out", &descriptors(reference.get("desc.in")).unwrap());
    let all = channels_last(reference.get("all.in"));
    close("all.pts3d", &points(&all.narrow(3, 0, 3).unwrap()).unwrap());
    close(
        "all.desc",
        &descriptors(&all.narrow(3, 4, 24).unwrap()).unwrap(),
    );
    let confidence = |channel: usize, floor: f64| {
        (all.narrow(3, channel, 1)
            .unwrap()
            .squeeze(3)
            .unwrap()
            .exp()
            .unwrap()
            + floor)
            .unwrap()
    };
    close("all.conf", &confidence(3, 1.));
    close("all.desc_conf", &confidence(28, 0.));
}

#[test]
fn imagenet_normalisation_of_an_image_in_minus_one_to_one() {
    let reference = open("imagenet_norm");
    let mut report = Report::new("imagenet_norm", marks);
    let got = input::imagenet_from_minus_one_to_one(reference.get("in")).unwrap();
    reference.compare("out", &got, &mut report);
    report.finish(1);
}
