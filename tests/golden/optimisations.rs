//! What a switched-off optimisation falls back on computes the same.

use candle_core::{DType, Device, Tensor};
use mast3r::model::checkpoint::Checkpoint;
use mast3r::model::{FeatureExtractor, Features, Mast3r};
use mast3r::nn::unobserved;
use mast3r::runtime::{DeviceChoice, Optimisation, Optimisations, Precision, Runtime};

use crate::common::{Reference, Report, TinyNetwork, discover, flat, tiny_networks};

/// Float32 throughout: sums in another order, and GELU and exponentials by other formulas.
fn float32(_: &str) -> (f64, f64) {
    (2e-5, 1e-11)
}

/// Bfloat16 has 8 bits; results, weights of attention and scaled weights are rounded in other
/// places, block after block.
fn bfloat16(_: &str) -> (f64, f64) {
    (2e-2, 1e-4)
}

/// Every optimisation off by itself, then all together.
fn sets() -> Vec<(String, Optimisations)> {
    let one = |&o: &Optimisation| (format!("without {o}"), Optimisations::all().without(o));
    let mut sets: Vec<_> = Optimisation::ALL.iter().map(one).collect();
    sets.push(("without any".to_string(), Optimisations::none()));
    sets
}

/// The images of a network's first case, of both views where it takes two.
fn images(network: &TinyNetwork) -> Vec<Tensor> {
    let case = Reference::open(&discover(&network.folder, "case_", ".safetensors")[0]);
    match network.config.two_view {
        Some(_) => vec![case.get("in.img.1").clone(), case.get("in.img.2").clone()],
        None => vec![case.get("in.img").clone()],
    }
}

type Outputs = Vec<(String, Tensor)>;

fn features(network: &TinyNetwork, precision: Precision, set: Optimisations) -> Outputs {
    let runtime = Runtime::with_optimisations(DeviceChoice::Cpu, precision, set).unwrap();
    let vb = Checkpoint::random(&network.config, &network.seed)
        .var_builder(precision.dtype(), &Device::Cpu);
    let extractor = FeatureExtractor::new(&network.config, &vb, &runtime).unwrap();
    let images = images(network);
    let forward = |image: &Tensor| extractor.forward(image, true, &mut unobserved()).unwrap();
    vec![("features".to_string(), forward(&images[0]))]
}

fn maps(network: &TinyNetwork, set: Optimisations) -> Outputs {
    let runtime = Runtime::with_optimisations(DeviceChoice::Cpu, Precision::F32, set).unwrap();
    let vb =
        Checkpoint::random(&network.config, &network.seed).var_builder(DType::F32, &Device::Cpu);
    let model = Mast3r::new(&network.config, &vb, &runtime).unwrap();
    let patch = network.config.encoder.patch;
    let views: Vec<_> = images(network)
        .iter()
        .map(|image| {
            let (_, _, height, width) = image.dims4().unwrap();
            let tokens = model
                .extractor()
                .forward(image, true, &mut unobserved())
                .unwrap();
            Features {
                tokens,
                grid: [height / patch, width / patch],
            }
        })
        .collect();
    let pair = model.decode(&views[0], &views[1]).unwrap();
    let mut outputs = Outputs::new();
    for (view, prediction) in [(1, pair.first), (2, pair.second_in_first)] {
        outputs.push((format!("points.{view}"), prediction.points));
        outputs.push((format!("confidence.{view}"), prediction.confidence));
        outputs.push((format!("descriptors.{view}"), prediction.descriptors));
        outputs.push((
            format!("descriptor_confidence.{view}"),
            prediction.descriptor_confidence,
        ));
    }
    outputs
}

/// Runs all sets; everything off must also differ in some bit, or nothing was switched.
fn compare(case: &str, allowed: fn(&str) -> (f64, f64), run: impl Fn(Optimisations) -> Outputs) {
    let want = run(Optimisations::all());
    let mut report = Report::new(case, allowed);
    let mut different = false;
    for (name, set) in sets() {
        for ((output, got), (_, want)) in run(set).iter().zip(&want) {
            let (got, want) = (flat(got), flat(want));
            report.add(&format!("{name}: {output}"), &got, &want);
            different = set == Optimisations::none() && (different || got != want);
        }
    }
    report.finish(sets().len() * want.len());
    assert!(
        different,
        "{case}: nothing changes without any optimisation"
    );
}

#[test]
fn networks_without_optimisations_compute_the_same_maps() {
    for network in tiny_networks() {
        let case = network.folder.display().to_string();
        match network.config.two_view {
            Some(_) => compare(&case, float32, |set| maps(&network, set)),
            None => compare(&case, float32, |set| {
                features(&network, Precision::F32, set)
            }),
        }
    }
}

#[test]
fn encoders_in_half_precision_without_optimisations_compute_the_same_tokens() {
    for network in tiny_networks() {
        let case = network.folder.display().to_string();
        compare(&case, bfloat16, |set| {
            features(&network, Precision::Bf16, set)
        });
    }
}
