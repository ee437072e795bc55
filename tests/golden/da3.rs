//! Depth Anything 3 against its reference: every stage of a small network in every case, and the
//! real sizes.
//!
//! `MAST3R_GOLDEN_DA3=DIR` runs the same tests on another folder of the layout of `da3/`; the
//! real-size cases are in such a folder only. `MAST3R_DEVICE` chooses the device, as `--device` does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use mast3r::geometry::{Camera, Intrinsics};
use mast3r::model::checkpoint::Checkpoint;
use mast3r::model::config::{AnyViewConfig, Config, EncoderConfig, EncoderKind, Stack};
use mast3r::model::encoder::ReferenceChoice;
use mast3r::model::registry::Network;
use mast3r::model::{AnyViewMaps, DepthAnything, PoseEncoding, Rays, input};
use mast3r::nn::{Observer, unobserved};
use mast3r::runtime::Precision;
use mast3r::views::{self, Limits, Resolution};
use nalgebra::{Isometry3, Matrix3, Rotation3, UnitQuaternion, Vector3};
use serde::Deserialize;
use serde_json::Value;

use crate::common::{
    Reference, Report, channels_first, discover, every, flat, hex_sha256, read, runtime,
    runtime_in, weights_of_case,
};

fn folder() -> PathBuf {
    match std::env::var_os("MAST3R_GOLDEN_DA3") {
        Some(folder) => folder.into(),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/da3"),
    }
}

/// Largest error and decorrelation. Scores are differences of nearly equal numbers.
fn allowed(name: &str) -> (f64, f64) {
    let runtime = runtime();
    // Differences of nearly equal numbers: what they choose shows in everything after them.
    if name == "ref.scores" && runtime.precision() != Precision::F32 {
        return (f64::INFINITY, f64::INFINITY);
    }
    match runtime.precision() {
        Precision::F32 if runtime.device().is_cpu() => {}
        Precision::F32 => return (2e-4, 1e-7),
        Precision::Tf32 | Precision::F16 => return (1e-1, 1e-3),
        Precision::Bf16 | Precision::Int8 => return (3e-1, 2e-2),
    }
    match name {
        "ref.scores" => (1e-3, 1e-5),
        name if name.starts_with("out.intrinsics") => (1e-4, 1e-8),
        name if name.starts_with("out.") => (5e-5, 1e-8),
        _ => (3e-5, 1e-7),
    }
}

fn size(settings: &Value, name: &str) -> usize {
    settings[name].as_u64().unwrap_or_else(|| panic!("{name}")) as usize
}

fn tiny_config(json: &Value) -> Config {
    let settings = &json["config"];
    let list = |name: &str| [0, 1, 2, 3].map(|k| settings[name][k].as_u64().unwrap() as usize);
    let (dim, patch) = (size(settings, "embed_dim"), size(settings, "patch_size"));
    let stack = Stack {
        depth: size(settings, "depth"),
        dim,
        heads: size(settings, "num_heads"),
        mlp_dim: size(settings, "mlp_ratio") * dim,
    };
    Config {
        encoder: EncoderConfig {
            kind: EncoderKind::AnyView(AnyViewConfig {
                position_grid: size(settings, "image_size") / patch,
                alternate_from: size(settings, "alt_start"),
                hooks: list("out_layers"),
                layer_dims: list("out_channels"),
                features: size(settings, "features"),
                camera_encoder: Stack {
                    depth: size(settings, "cam_enc_depth"),
                    heads: size(settings, "cam_enc_heads"),
                    ..stack.clone()
                },
            }),
            patch,
            stack,
        },
        two_view: None,
    }
}

/// Reference maps are channels-first, ours channels-last.
fn as_reference(name: &str, value: &Tensor) -> Tensor {
    if name.starts_with("head.") {
        channels_first(value)
    } else {
        value.clone()
    }
}

/// World to camera, row by row, of every view.
fn extrinsics(poses: &[PoseEncoding]) -> Vec<f64> {
    let rows = |pose: &PoseEncoding| {
        let matrix = pose.world_from_camera().unwrap().inverse().to_homogeneous();
        matrix.fixed_rows::<3>(0).transpose().as_slice().to_vec()
    };
    poses.iter().flat_map(rows).collect()
}

/// Row by row, of every view; an angle that is no estimate gives the reference's largest number.
fn intrinsics(poses: &[PoseEncoding], [height, width]: [u32; 2]) -> Vec<f64> {
    let rows = |pose: &PoseEncoding| {
        let [fx, fy] = pose.focals(width, height);
        let half = [width, height].map(|side| f64::from(side) / 2.0);
        let focal = |focal: Option<f64>, half: f64| focal.unwrap_or(half * 1e6);
        [
            focal(fx, half[0]),
            0.0,
            half[0],
            0.0,
            focal(fy, half[1]),
            half[1],
            0.0,
            0.0,
            1.0,
        ]
    };
    poses.iter().flat_map(rows).collect()
}

/// Adds the largest relative difference of elements.
fn add_relative(report: &mut Report, name: &str, got: &[f64], want: &[f64]) {
    let relative: Vec<f64> = got
        .iter()
        .zip(want)
        .map(|(got, want)| if *want == 0.0 { 1.0 + got } else { got / want })
        .collect();
    report.add(name, &relative, &vec![1.0; want.len()]);
}

fn compare_outputs(case: &Reference, maps: &AnyViewMaps, report: &mut Report) {
    case.compare("out.depth", &maps.depth, report);
    case.compare("out.depth_conf", &maps.confidence, report);
    let rays = maps.rays.as_ref().unwrap();
    case.compare("out.ray", &rays.rays, report);
    case.compare("out.ray_conf", &rays.confidence, report);
    let size = [2, 3].map(|axis| case.shape("out.depth")[axis] as u32);
    compare_cameras(case, &maps.poses, size, report);
}

fn compare_cameras(case: &Reference, poses: &[PoseEncoding], size: [u32; 2], report: &mut Report) {
    report.add(
        "out.extrinsics",
        &extrinsics(poses),
        &flat(case.get("out.extrinsics")),
    );
    let want = flat(case.get("out.intrinsics"));
    add_relative(report, "out.intrinsics", &intrinsics(poses, size), &want);
}

/// The cameras `in.extrinsics` (world to camera) and `in.intrinsics` of a case.
fn given(case: &Reference, [height, width]: [u32; 2]) -> Vec<PoseEncoding> {
    let poses = flat(case.get("in.extrinsics"));
    let inside = flat(case.get("in.intrinsics"));
    poses
        .chunks_exact(16)
        .zip(inside.chunks_exact(9))
        .map(|(pose, inside)| {
            let at = |row: usize, column: usize| pose[4 * row + column];
            let rotation = Rotation3::from_matrix_unchecked(Matrix3::from_fn(at));
            let camera_from_world = Isometry3::from_parts(
                Vector3::new(at(0, 3), at(1, 3), at(2, 3)).into(),
                UnitQuaternion::from_rotation_matrix(&rotation),
            );
            PoseEncoding::of(&Camera {
                intrinsics: Intrinsics {
                    width,
                    height,
                    fx: inside[0],
                    fy: inside[4],
                    cx: inside[2],
                    cy: inside[5],
                },
                world_from_camera: camera_from_world.inverse(),
            })
        })
        .collect()
}

fn reference(case: &Reference) -> ReferenceChoice {
    match case.json("case")["strategy"].as_str() {
        Some("first") => ReferenceChoice::First,
        Some("middle") => ReferenceChoice::Middle,
        _ => ReferenceChoice::Balanced,
    }
}

#[test]
fn every_stage_of_a_small_any_view_network_equals_the_reference() {
    let folder = folder().join("tiny");
    let json: Value = serde_json::from_slice(&read(&folder.join("config.json"))).unwrap();
    let config = tiny_config(&json);
    let seed = json["weight_seed"].as_str().unwrap();
    let cases = discover(&folder, "case_", ".safetensors");
    assert!(
        cases.len() >= 9,
        "{} cases in {}",
        cases.len(),
        folder.display()
    );
    for path in cases {
        let case = Reference::open(&path);
        let runtime = runtime();
        let vb = weights_of_case(&config, seed, &case);
        let mut network = DepthAnything::with_rays(&config, &vb, &runtime).unwrap();
        network.reference = reference(&case);
        let images = case.get("in.img").squeeze(0).unwrap();
        let images = images.to_device(runtime.device()).unwrap();
        let (_, _, height, width) = images.dims4().unwrap();
        let cameras = case
            .tensors
            .contains_key("in.extrinsics")
            .then(|| given(&case, [height as u32, width as u32]));
        let mut report = Report::new(path.display().to_string(), allowed);
        let mut observe = Observer::new(|name, value| {
            case.compare(name, &as_reference(name, value), &mut report);
            Ok(())
        });
        let maps = network
            .forward(&images, cameras.as_deref(), &mut observe)
            .unwrap();
        drop(observe);
        compare_outputs(&case, &maps, &mut report);
        let inputs = case.tensors.keys().filter(|name| name.starts_with("in."));
        let least = case.tensors.len() - inputs.count();
        let compared = report.rows.len();
        assert!(
            compared >= least,
            "{}: {compared} of {least}",
            path.display()
        );
        let chosen = report.rows.iter().find(|(name, _)| name == "ref.index");
        let is_same = chosen.is_none_or(|(_, closeness)| closeness.error == 0.0);
        assert!(is_same, "{}: another reference view", path.display());
        // A CPU makes maps view by view where nobody looks, and without rays the rest is the same.
        network = DepthAnything::new(&config, &vb, &runtime).unwrap();
        network.reference = reference(&case);
        let alone = network
            .forward(&images, cameras.as_deref(), &mut unobserved())
            .unwrap();
        assert!(alone.rays.is_none());
        case.compare("out.depth", &alone.depth, &mut report);
        case.compare("out.depth_conf", &alone.confidence, &mut report);
        report.finish(least + 2);
    }
}

#[test]
fn cameras_are_decoded_and_encoded_as_by_the_reference() {
    let case = Reference::open(&folder().join("tiny/posedecode.safetensors"));
    let size = case.json("image_hw");
    let size = [0, 1].map(|axis| size[axis].as_u64().unwrap() as u32);
    let numbers = case.get("in.pose_enc").squeeze(0).unwrap();
    let poses: Vec<PoseEncoding> = numbers
        .to_vec2::<f32>()
        .unwrap()
        .into_iter()
        .map(|row| PoseEncoding::from_numbers(row.try_into().unwrap()))
        .collect();
    let mut report = Report::new("posedecode", |_| (1e-5, 1e-8));
    report.add(
        "out.extrinsics",
        &extrinsics(&poses),
        &flat(case.get("out.extrinsics")),
    );
    let want = flat(case.get("out.intrinsics"));
    add_relative(
        &mut report,
        "out.intrinsics",
        &intrinsics(&poses, size),
        &want,
    );
    let encoded = given(&case, size);
    let numbers: Vec<f64> = encoded
        .iter()
        .flat_map(|pose| pose.numbers().map(f64::from))
        .collect();
    report.add("out.pose_enc", &numbers, &flat(case.get("out.pose_enc")));
    report.finish(3);
}

#[test]
fn rays_give_the_cameras_that_they_are_of() {
    let case = Reference::open(&folder().join("tiny/raypose.safetensors"));
    let size = case.json("image_hw");
    let [height, width] = [0, 1].map(|axis| size[axis].as_u64().unwrap() as u32);
    let of_views = |name: &str| case.get(name).squeeze(0).unwrap();
    let rays = Rays {
        rays: of_views("in.ray"),
        confidence: of_views("in.ray_conf"),
    };
    let cameras = rays.cameras(width, height).unwrap();
    let matrices: Vec<f64> = cameras
        .iter()
        .flat_map(|camera| {
            let matrix = camera.world_from_camera.inverse().to_homogeneous();
            let rows = matrix.fixed_rows::<3>(0).transpose();
            rows.iter().copied().collect::<Vec<_>>()
        })
        .collect();
    let intrinsics: Vec<f64> = cameras
        .iter()
        .flat_map(|camera| {
            let of = camera.intrinsics;
            [of.fx, 0.0, of.cx, 0.0, of.fy, of.cy, 0.0, 0.0, 1.0]
        })
        .collect();
    let mut report = Report::new("raypose", |_| (1e-5, 1e-8));
    report.add(
        "true.extrinsics",
        &matrices,
        &flat(case.get("true.extrinsics")),
    );
    let want = flat(case.get("true.intrinsics"));
    add_relative(&mut report, "true.intrinsics", &intrinsics, &want);
    // The reference's answer is the same where the principal point is in the middle.
    for view in [0, 2] {
        let part = |values: &[f64], of: usize| values[view * of..][..of].to_vec();
        let want = flat(case.get("out.extrinsics"));
        report.add("out.extrinsics", &part(&matrices, 12), &part(&want, 12));
        let want = flat(case.get("out.intrinsics"));
        add_relative(
            &mut report,
            "out.intrinsics",
            &part(&intrinsics, 9),
            &part(&want, 9),
        );
    }
    report.finish(6);
    // No camera has rays that all lie in its plane.
    let flat_rays = Rays {
        rays: rays.rays.zeros_like().unwrap(),
        confidence: rays.confidence.clone(),
    };
    assert!(flat_rays.cameras(width, height).is_err());
}

fn full_size(precision: Precision, allowed: fn(&str) -> (f64, f64)) {
    let runtime = runtime_in(precision);
    let cases = discover(&folder().join("full"), "da3_", ".safetensors");
    assert!(!cases.is_empty(), "no case in {}/full", folder().display());
    for path in cases {
        let case = Reference::open(&path);
        let name = case.metadata["manifest"]
            .trim_end_matches(".json")
            .replace('_', "-");
        let config = &Network::find(&name).unwrap().config;
        let checkpoint = Checkpoint::random(config, &case.metadata["seed"]);
        let vb = checkpoint.var_builder(precision.dtype(), runtime.device());
        let network = DepthAnything::with_rays(config, &vb, &runtime).unwrap();
        let levels = case.get("in.u8");
        let (views, _, height, width) = levels.dims4().unwrap();
        let image = |view: usize| {
            let planes = levels.get(view).unwrap().permute((1, 2, 0)).unwrap();
            let bytes = planes.flatten_all().unwrap().to_vec1().unwrap();
            image::RgbImage::from_raw(width as u32, height as u32, bytes).unwrap()
        };
        let images: Vec<_> = (0..views).map(image).collect();
        let images: Vec<_> = images.iter().collect();
        let images =
            input::images(&images, input::Normalisation::ImageNet, runtime.device()).unwrap();
        let mut report = Report::new(path.display().to_string(), allowed);
        let mut observe = Observer::new(|name, value| {
            if name.starts_with("vit.out.") {
                let full_name = format!("{name}.every16");
                case.compare(&full_name, &every(value, 1, 16), &mut report);
            }
            case.compare(name, value, &mut report);
            Ok(())
        });
        let maps = network.forward(&images, None, &mut observe).unwrap();
        drop(observe);
        case.compare("out.depth", &maps.depth, &mut report);
        let rays = maps.rays.as_ref().unwrap();
        for (name, map, step) in [
            ("out.depth_conf", &maps.confidence, 2),
            ("out.ray", &rays.rays, 4),
            ("out.ray_conf", &rays.confidence, 4),
        ] {
            let sampled = every(&every(map, 1, step), 2, step);
            case.compare(&format!("{name}.every{step}"), &sampled, &mut report);
        }
        let size = [height as u32, width as u32];
        compare_cameras(&case, &maps.poses, size, &mut report);
        for (stage, closeness) in &report.rows {
            println!(
                "| {name} | {precision} | {stage} | {:.1e} | {:.1e} |",
                closeness.error, closeness.decorrelation
            );
        }
        report.finish(12);
    }
}

#[test]
#[ignore = "real-size networks; needs MAST3R_GOLDEN_DA3"]
fn full_size_any_view_networks_in_f32() {
    full_size(Precision::F32, |_| (1e-4, 1e-7));
}

#[test]
#[ignore = "real-size networks; needs MAST3R_GOLDEN_DA3"]
fn full_size_any_view_networks_in_f16() {
    full_size(Precision::F16, |_| (1e-2, 5e-5));
}

#[test]
#[ignore = "real-size networks; needs MAST3R_GOLDEN_DA3"]
fn full_size_any_view_networks_in_bf16() {
    full_size(Precision::Bf16, |_| (1e-1, 5e-4));
}

/// What OpenCV makes of an image, by the name `SIDE_upper_bound_resize`.
#[derive(Deserialize)]
struct Prepared {
    shape_3hw: [u32; 3],
    u8_sha256: String,
    f32_sha256: String,
    /// By OpenCV without Intel's library.
    noipp_u8_sha256: String,
    /// Share of values that differ between the two; none where only areas took part.
    noipp_pixels_different: f64,
}

#[derive(Deserialize)]
struct Pictures {
    pictures: BTreeMap<String, Variants>,
}

#[derive(Deserialize)]
struct Variants {
    variants: BTreeMap<String, Prepared>,
}

/// The planes of an image prepared at a long side.
fn prepared(path: &Path, side: u32) -> (Vec<u8>, [u32; 3]) {
    let framing = Network::find("da3-small")
        .unwrap()
        .framing(Resolution::LongSide(side));
    let view = views::load_one(path, &framing, &Limits::default()).unwrap();
    let planes = (0..3).flat_map(|c| view.rgb.pixels().map(move |pixel| pixel.0[c]));
    (planes.collect(), [3, view.rgb.height(), view.rgb.width()])
}

fn check_preparation(list: &Path, images: &Path, exact: impl Fn(&str) -> bool) {
    let list: Pictures = serde_json::from_slice(&read(list)).unwrap();
    let (mut compared, mut failures) = (0, Vec::new());
    for (file, Variants { variants }) in &list.pictures {
        for (name, want) in variants {
            let Some(side) = name.strip_suffix("_upper_bound_resize") else {
                continue;
            };
            let (planes, shape) = prepared(&images.join(file), side.parse().unwrap());
            if file.contains("exif") {
                // The reference leaves images lying on their side; here they are upright.
                assert_eq!(shape, [3, want.shape_3hw[2], want.shape_3hw[1]]);
                continue;
            }
            compared += 1;
            let sum = hex_sha256(&planes);
            let is_same = sum == want.u8_sha256 || sum == want.noipp_u8_sha256;
            let must = exact(file) && want.noipp_pixels_different == 0.0;
            println!("{file} {name}: {}", if is_same { "same" } else { "other" });
            if shape != want.shape_3hw || (must && !is_same) {
                failures.push(format!("{file} {name}: {shape:?}"));
            }
            if sum == want.u8_sha256 {
                let (mean, deviation) = ([0.485f32, 0.456, 0.406], [0.229f32, 0.224, 0.225]);
                let plane = planes.len() / 3;
                let normal = planes.iter().enumerate().flat_map(|(at, level)| {
                    let c = at / plane;
                    ((f32::from(*level) / 255.0 - mean[c]) / deviation[c]).to_le_bytes()
                });
                assert_eq!(hex_sha256(&normal.collect::<Vec<u8>>()), want.f32_sha256);
            }
        }
    }
    assert!(
        compared > 0 && failures.is_empty(),
        "{}",
        failures.join("\n")
    );
}

#[test]
fn images_are_resized_to_whole_patches_like_opencv_does() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = root.join("tests/golden/da3/preprocess.json");
    check_preparation(&list, &root.join("tests/images"), |_| true);
}

#[test]
#[ignore = "photographs; needs MAST3R_GOLDEN_DA3"]
fn photographs_are_prepared_like_the_reference_does() {
    let folder = folder();
    let images = folder.join("../images");
    let list = folder.join("full/preprocess.json");
    // Bytes of a JPEG depend on its decoder.
    check_preparation(&list, &images, |file| file.ends_with(".png"));
    let sampled = Reference::open(&folder.join("full/preprocess_504_every4.safetensors"));
    for name in sampled.tensors.keys().filter(|name| !name.contains("exif")) {
        let (planes, shape) = prepared(&images.join(name), 504);
        let planes = Tensor::from_vec(planes, shape.map(|n| n as usize).to_vec(), &Device::Cpu);
        let got = flat(&every(&every(&planes.unwrap(), 1, 4), 2, 4));
        let want = flat(sampled.get(name));
        let gaps = got.iter().zip(&want).map(|(got, want)| (got - want).abs());
        let (most, off) = gaps.fold((0f64, 0usize), |(most, off), gap| {
            (most.max(gap), off + usize::from(gap > 0.0))
        });
        let share = off as f64 / want.len() as f64;
        println!("{name}: {share:.1e} of the values off, by {most} at most");
        assert!(
            most <= 1.0 && share < 1e-3,
            "{name}: {share} off, by {most}"
        );
    }
}
