//! The networks at their real size, with random weights by the recipe, against the reference.
//!
//! Long and memory-hungry (5 GiB), so ignored by default; the reference outputs are not in the
//! repository:
//!
//! `MAST3R_GOLDEN=DIR cargo test --release --test golden full_size -- --ignored --nocapture
//! --test-threads 1`
//!
//! `MAST3R_DEVICE` chooses the device, as `--device` does.

use candle_core::{DType, Tensor};
use image::RgbImage;
use mast3r::model::checkpoint::Checkpoint;
use mast3r::model::encoder::Encoder;
use mast3r::model::registry::Network;
use mast3r::model::{FeatureExtractor, Features, Mast3r, input};
use mast3r::nn::{Observer, unobserved};
use mast3r::runtime::{Precision, Runtime};

use crate::common::{Reference, Report, discover, every, golden_dir, runtime_in};

/// The network that a case's model names, and the long side whose weights it took.
fn network_of(model: &str) -> (&'static Network, u32) {
    let side = |text: &str| text.rsplit('_').next().and_then(|side| side.parse().ok());
    let name = match model {
        "mast3r_vitl" => "mast3r".to_string(),
        name if name.starts_with("dune_") => name.rsplit_once('_').unwrap().0.replace('_', "-"),
        name => name.replace('_', "-"),
    };
    let network = Network::find(&name).unwrap();
    (network, side(model).unwrap_or(network.default_long_side))
}

fn image(case: &Reference, name: &str) -> RgbImage {
    let planes = case.get(name);
    let (_, _, height, width) = planes.dims4().unwrap();
    let pixels = planes
        .squeeze(0)
        .unwrap()
        .permute((1, 2, 0))
        .unwrap()
        .flatten_all()
        .unwrap();
    RgbImage::from_raw(width as u32, height as u32, pixels.to_vec1().unwrap()).unwrap()
}

/// Compares `tokens` with the file's every-Nth ones, whatever N is.
fn compare_tokens(case: &Reference, name: &str, tokens: &Tensor, report: &mut Report) {
    let prefix = format!("{name}.every");
    for full_name in case.tensors.keys() {
        if let Some(step) = full_name.strip_prefix(&prefix) {
            case.compare(full_name, &every(tokens, 1, step.parse().unwrap()), report);
        }
    }
    case.compare(name, tokens, report);
}

fn two_view(
    case: &Reference,
    encoder_case: &Reference,
    model: &Mast3r,
    runtime: &Runtime,
    report: &mut Report,
) {
    let features: Vec<Features> = [1, 2]
        .map(|view| {
            let image = image(case, &format!("in.u8.{view}"));
            let images = input::images(
                &[&image],
                model.extractor().normalisation(),
                runtime.device(),
            )
            .unwrap();
            let tokens = model
                .extractor()
                .forward(&images, true, &mut unobserved())
                .unwrap();
            let name = format!("enc.out.{view}");
            compare_tokens(case, &name, &tokens, report);
            compare_tokens(encoder_case, &name, &tokens, report);
            let patch = model.extractor().patch();
            Features {
                tokens,
                grid: [
                    image.height() as usize / patch,
                    image.width() as usize / patch,
                ],
            }
        })
        .into();
    let mut observe = Observer::new(|name, value| {
        if name.starts_with("dec.tokens.") {
            compare_tokens(case, name, &value.to_dtype(DType::F32)?, report);
        }
        Ok(())
    });
    let mut pair = model
        .decode_observed(&features[0], &features[1], &mut observe)
        .unwrap();
    drop(observe);
    if runtime.device().is_cuda() {
        // As the program decodes: both views as one batch, and the third time a replayed graph.
        for _ in 0..3 {
            pair = model.decode(&features[0], &features[1]).unwrap();
        }
    }
    let stride = case.metadata["stride"].parse().unwrap();
    for (view, prediction) in [(1, &pair.first), (2, &pair.second_in_first)] {
        let mut compare = |name: &str, map: &Tensor| {
            let sampled = every(&every(map, 1, stride), 2, stride);
            case.compare(&format!("out.{name}.{view}"), &sampled, report);
        };
        compare("pts3d", &prediction.points);
        compare("conf", &prediction.confidence);
        compare("desc", &prediction.descriptors);
        compare("desc_conf", &prediction.descriptor_confidence);
    }
}

fn dune(
    case: &Reference,
    encoder_case: &Reference,
    model: &FeatureExtractor,
    runtime: &Runtime,
    report: &mut Report,
) {
    let image = image(case, "in.u8");
    let images = input::images(&[&image], model.normalisation(), runtime.device()).unwrap();
    let Encoder::Dune(encoder) = model.encoder() else {
        panic!("a DUNE encoder expected")
    };
    let images = if runtime.device().is_cpu() {
        images
    } else {
        images.to_dtype(runtime.precision().dtype()).unwrap()
    };
    let prenorm = encoder.forward(&images, &mut unobserved()).unwrap();
    compare_tokens(encoder_case, "out.prenorm", &prenorm, report);
    let normed = encoder.normalise(&prenorm).unwrap();
    case.compare("out.norm_cls", &normed.narrow(1, 0, 1).unwrap(), report);
    case.compare(
        "out.norm_reg",
        &normed.narrow(1, 1, encoder.registers()).unwrap(),
        report,
    );
    compare_tokens(
        case,
        "out.norm_patch",
        &encoder.patches(&normed).unwrap(),
        report,
    );
}

fn check(precision: Precision, allowed: fn(&str) -> (f64, f64)) {
    let runtime = runtime_in(precision);
    let mut cases = discover(&golden_dir().join("full"), "", ".safetensors");
    cases.retain(|path| !path.to_string_lossy().ends_with("_encoder.safetensors"));
    assert!(
        !cases.is_empty(),
        "no full-size case under {}; set MAST3R_GOLDEN",
        golden_dir().display()
    );
    for path in cases {
        let case = Reference::open(&path);
        let encoder_case = Reference::open(&path.with_file_name(format!(
            "{}_encoder.safetensors",
            path.file_stem().unwrap().to_string_lossy()
        )));
        let (network, side) = network_of(&case.metadata["model"]);
        let config = network.config_at(side);
        let checkpoint = Checkpoint::random(&config, &case.metadata["weight_seed"]);
        let vb = checkpoint.var_builder(precision.dtype(), runtime.device());
        let mut report = Report::new(path.display().to_string(), allowed);
        if config.two_view.is_some() {
            let model = Mast3r::new(&config, &vb, &runtime).unwrap();
            two_view(&case, &encoder_case, &model, &runtime, &mut report);
        } else {
            let model = FeatureExtractor::new(&config, &vb, &runtime).unwrap();
            dune(&case, &encoder_case, &model, &runtime, &mut report);
        }
        let stem = path.file_stem().unwrap().to_string_lossy();
        for (name, closeness) in &report.rows {
            println!(
                "| {stem} | {precision} | {name} | {:.1e} | {:.1e} |",
                closeness.error, closeness.decorrelation
            );
        }
        report.finish(4);
    }
}

fn is_final(name: &str) -> bool {
    ["pts3d", "conf", "desc"]
        .iter()
        .any(|part| name.contains(part))
}

#[test]
#[ignore = "real-size networks; needs MAST3R_GOLDEN"]
fn full_size_networks_in_f32() {
    check(Precision::F32, |name| {
        if is_final(name) {
            (1e-4, 1e-7)
        } else {
            (3e-5, 1e-7)
        }
    });
}

#[test]
#[ignore = "real-size networks; needs MAST3R_GOLDEN"]
fn full_size_networks_in_tf32() {
    check(Precision::Tf32, |_| (1e-1, 1e-4));
}

#[test]
#[ignore = "real-size networks; needs MAST3R_GOLDEN"]
fn full_size_networks_in_f16() {
    check(Precision::F16, |_| (1e-1, 1e-4));
}

#[test]
#[ignore = "real-size networks; needs MAST3R_GOLDEN"]
fn full_size_networks_in_bf16() {
    check(Precision::Bf16, |_| (3e-1, 1e-3));
}
