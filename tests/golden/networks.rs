//! Every stage of every small network, in every case, against the reference; on the device that
//! `MAST3R_DEVICE` names, as `--device` does.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use mast3r::model::config::Config;
use mast3r::model::encoder::Encoder;
use mast3r::model::{Features, Mast3r};
use mast3r::nn::{Builder, Observer};
use mast3r::runtime::Precision;

use crate::common::{
    Reference, Report, TinyNetwork, channels_first, discover, golden_dir, runtime, tiny_networks,
    weights_of_case,
};

/// Largest error and decorrelation: stages, then final outputs. GPUs sum in another order.
fn allowed(name: &str) -> (f64, f64) {
    let runtime = runtime();
    match runtime.precision() {
        Precision::F32 if runtime.device().is_cpu() => {}
        Precision::F32 => return (2e-4, 1e-7),
        Precision::Tf32 | Precision::F16 => return (1e-1, 1e-4),
        Precision::Bf16 => return (3e-1, 5e-3),
        // Of so few channels that roundings average out less than in a real network.
        Precision::Int8 => return (3e-1, 1e-2),
    }
    if name.starts_with("out.") && !name.starts_with("out.norm") && name != "out.prenorm" {
        (5e-5, 1e-8)
    } else {
        (3e-5, 1e-7)
    }
}

/// Reference maps are channels-first, ours channels-last.
fn as_reference(name: &str, value: &Tensor) -> Tensor {
    if name.starts_with("dpt.") || name.starts_with("head.raw") {
        channels_first(value)
    } else {
        value.clone()
    }
}

fn two_view_case(config: &Config, vb: &VarBuilder<'_>, case: &Reference) -> Report {
    let runtime = runtime();
    let model = Mast3r::new(config, vb, &runtime).unwrap();
    let mut report = Report::new(case.path.display().to_string(), allowed);
    let mut features = Vec::new();
    for view in [1, 2] {
        let images = case.get(&format!("in.img.{view}"));
        let images = &images.to_device(runtime.device()).unwrap();
        let mut observe = Observer::new(|name, value| {
            case.compare(&format!("{name}.{view}"), value, &mut report);
            Ok(())
        });
        let tokens = model
            .extractor()
            .forward(
                &images.to_device(runtime.device()).unwrap(),
                true,
                &mut observe,
            )
            .unwrap();
        let (_, _, height, width) = images.dims4().unwrap();
        let patch = config.encoder.patch;
        features.push(Features {
            tokens,
            grid: [height / patch, width / patch],
        });
    }
    let mut observe = Observer::new(|name, value| {
        case.compare(name, &as_reference(name, value), &mut report);
        Ok(())
    });
    let observed = model
        .decode_observed(&features[0], &features[1], &mut observe)
        .unwrap();
    drop(observe);
    // A GPU takes both views as one batch and ends in fewer steps where nobody looks.
    let unobserved = model.decode(&features[0], &features[1]).unwrap();
    let views = [observed, unobserved]
        .into_iter()
        .flat_map(|pair| [(1, pair.first), (2, pair.second_in_first)]);
    for (view, prediction) in views {
        case.compare(
            &format!("out.pts3d.{view}"),
            &prediction.points,
            &mut report,
        );
        case.compare(
            &format!("out.conf.{view}"),
            &prediction.confidence,
            &mut report,
        );
        case.compare(
            &format!("out.desc.{view}"),
            &prediction.descriptors,
            &mut report,
        );
        case.compare(
            &format!("out.desc_conf.{view}"),
            &prediction.descriptor_confidence,
            &mut report,
        );
    }
    report
}

fn dune_case(network: &TinyNetwork, case: &Reference) -> Report {
    let mut report = Report::new(case.path.display().to_string(), allowed);
    let runtime = runtime();
    let vb = Builder::new(
        weights_of_case(&network.config, &network.seed, case),
        runtime.optimisations(),
    )
    .in_precision(runtime.precision());
    let Encoder::Dune(encoder) = Encoder::new(&network.config.encoder, true, vb).unwrap() else {
        panic!("a DUNE encoder expected");
    };
    let mut observe = Observer::new(|name, value| {
        case.compare(name, value, &mut report);
        Ok(())
    });
    let mut images = case.get("in.img").to_device(runtime.device()).unwrap();
    if !runtime.device().is_cpu() {
        images = images.to_dtype(runtime.precision().dtype()).unwrap();
    }
    let prenorm = encoder.forward(&images, &mut observe).unwrap();
    drop(observe);
    case.compare("out.prenorm", &prenorm, &mut report);
    let normed = encoder.normalise(&prenorm).unwrap();
    case.compare(
        "out.norm_cls",
        &normed.narrow(1, 0, 1).unwrap(),
        &mut report,
    );
    case.compare(
        "out.norm_reg",
        &normed.narrow(1, 1, encoder.registers()).unwrap(),
        &mut report,
    );
    case.compare(
        "out.norm_patch",
        &encoder.patches(&normed).unwrap(),
        &mut report,
    );
    report
}

/// The weights are the file's own, so a case made for other weights than those compiled in fails:
/// make it anew with scripts/train_tiny/golden.py.
#[cfg(feature = "tiny")]
#[test]
fn the_bundled_network_gives_what_pytorch_gives() {
    let folder = crate::common::bundled_dir();
    let paths = discover(&folder, "case_", ".safetensors");
    assert!(!paths.is_empty(), "no case in {}", folder.display());
    let checkpoint = mast3r::model::checkpoint::Checkpoint::tiny().unwrap();
    let runtime = runtime();
    let vb = checkpoint.var_builder(runtime.precision().dtype(), runtime.device());
    for path in paths {
        let case = Reference::open(&path);
        let report = two_view_case(checkpoint.config(), &vb, &case);
        report.finish(8);
    }
}

#[test]
fn every_stage_of_every_small_network_equals_the_reference() {
    let mut cases = 0;
    for network in tiny_networks() {
        let mut paths = discover(&network.folder, "case_", ".safetensors");
        paths.extend(discover(
            &network.folder.join("mlx"),
            "expected_",
            ".safetensors",
        ));
        for path in paths {
            let case = Reference::open(&path);
            let report = match network.config.two_view {
                Some(_) => {
                    let vb = weights_of_case(&network.config, &network.seed, &case);
                    two_view_case(&network.config, &vb, &case)
                }
                None => dune_case(&network, &case),
            };
            // Inputs and positions are not compared, everything else is.
            let least = case
                .tensors
                .keys()
                .filter(|name| !name.starts_with("in.") && !name.starts_with("pos."))
                .count();
            report.finish(least);
            cases += 1;
        }
    }
    assert!(cases > 0, "no case under {}", golden_dir().display());
}
