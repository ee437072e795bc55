//! Many views: cameras and depths against scenes whose answer is known, and what must not change
//! them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mast3r::Error;
use mast3r::alignment::{
    AlignOptions, Alignment, CameraList, KnownCamera, KnownPoses, Pair, PairEvidence, PairReport,
    PredictionFolder, PrincipalPoint, SharedIntrinsics, Verdict, align,
};
use mast3r::matching::MatchOptions;
use nalgebra::{Isometry3, Matrix3, Matrix4, UnitQuaternion, Vector3};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{discover, golden_dir, read};

fn scenes() -> Vec<PathBuf> {
    let folders = discover(&golden_dir().join("multiview"), "", "");
    folders
        .into_iter()
        .filter(|folder| folder.join("views.safetensors").is_file())
        .collect()
}

fn scene(name: &str) -> PathBuf {
    golden_dir().join("multiview").join(name)
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap().to_string_lossy().into_owned()
}

fn align_folder(folder: &Path, options: &AlignOptions) -> mast3r::Result<Alignment> {
    let predictions = PredictionFolder::open(folder)?;
    align(
        &predictions.views()?,
        predictions.evidence(&MatchOptions::default()),
        options,
    )
}

fn aligned(folder: &Path) -> Alignment {
    align_folder(folder, &AlignOptions::default())
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
}

fn json(folder: &Path) -> Value {
    serde_json::from_slice(&read(&folder.join("scene.json"))).unwrap()
}

fn matrix(rows: &Value) -> Matrix4<f64> {
    Matrix4::from_fn(|row, column| rows[row][column].as_f64().unwrap())
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

/// Errors as usual for reconstructions: after a similarity whose rotation is the mean of the
/// cameras' differences, with scale and shift by least squares over the centres.
#[derive(Clone, Copy, Debug)]
struct Errors {
    /// Degrees, mean and largest.
    rotation: [f64; 2],
    /// Over the largest distance of two cameras, mean and largest.
    translation: [f64; 2],
    /// Percent, mean and largest.
    focal: [f64; 2],
    /// Median relative error of all depths, one factor for all.
    depth: f64,
}

impl Errors {
    /// Of the placed views.
    fn of(folder: &Path, alignment: &Alignment) -> Self {
        let truth = &json(folder)["truth"];
        let bytes = read(&folder.join("truth.safetensors"));
        let depths = SafeTensors::deserialize(&bytes).unwrap();
        let (mut found, mut wanted, mut focal, mut ratios) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (index, view) in alignment.scene.views.iter().enumerate() {
            let Some(camera) = &view.camera else { continue };
            found.push(camera.world_from_camera.to_homogeneous());
            wanted.push(matrix(&truth["world_from_camera"][index]));
            let inside = &truth["intrinsics"][index];
            let true_focal =
                0.5 * (inside[0][0].as_f64().unwrap() + inside[1][1].as_f64().unwrap());
            focal.push(100.0 * (camera.intrinsics.fx / true_focal - 1.0).abs());
            let depth = floats(depths.tensor(&format!("{index}.depth")).unwrap().data());
            let ratio = view
                .depth
                .iter()
                .zip(&depth)
                .map(|(found, wanted)| f64::from(found / wanted));
            ratios.extend(ratio.filter(|ratio| ratio.is_finite() && *ratio > 0.0));
        }
        let (rotation, translation) = pose_errors(&found, &wanted);
        let factor = 1.0 / median(ratios.clone());
        let depth = median(
            ratios
                .into_iter()
                .map(|ratio| (factor * ratio - 1.0).abs())
                .collect(),
        );
        Self {
            rotation: mean_and_largest(&rotation),
            translation: mean_and_largest(&translation),
            focal: mean_and_largest(&focal),
            depth,
        }
    }

    fn columns(&self) -> [f64; 7] {
        let Self {
            rotation: [r, rr],
            translation: [t, tt],
            focal: [f, ff],
            depth,
        } = *self;
        [r, rr, t, tt, f, ff, depth]
    }
}

fn turn(pose: &Matrix4<f64>) -> Matrix3<f64> {
    pose.fixed_view::<3, 3>(0, 0).into_owned()
}

fn centre(pose: &Matrix4<f64>) -> Vector3<f64> {
    pose.fixed_view::<3, 1>(0, 3).into_owned()
}

/// Degrees and shares of the largest distance between two cameras, by camera.
fn pose_errors(found: &[Matrix4<f64>], wanted: &[Matrix4<f64>]) -> (Vec<f64>, Vec<f64>) {
    let both = || found.iter().zip(wanted);
    let sum = both().fold(Matrix3::zeros(), |sum, (found, wanted)| {
        sum + turn(wanted) * turn(found).transpose()
    });
    let svd = sum.svd(true, true);
    let (u, v_t) = (svd.u.unwrap(), svd.v_t.unwrap());
    let rotation =
        u * Matrix3::from_diagonal(&Vector3::new(1.0, 1.0, (u * v_t).determinant().signum())) * v_t;
    let count = found.len() as f64;
    let mean_found = both().fold(Vector3::zeros(), |sum, (found, _)| {
        sum + rotation * centre(found)
    }) / count;
    let mean_wanted =
        both().fold(Vector3::zeros(), |sum, (_, wanted)| sum + centre(wanted)) / count;
    let offsets = |(found, wanted): (&Matrix4<f64>, &Matrix4<f64>)| {
        (
            rotation * centre(found) - mean_found,
            centre(wanted) - mean_wanted,
        )
    };
    let products = both()
        .map(offsets)
        .map(|(a, b)| (a.dot(&b), a.norm_squared()));
    let (above, below) = products.fold((0.0, 0.0), |sum, product| {
        (sum.0 + product.0, sum.1 + product.1)
    });
    let span = wanted
        .iter()
        .flat_map(|a| wanted.iter().map(|b| (centre(a) - centre(b)).norm()))
        .fold(0.0, f64::max);
    let rotations = both()
        .map(|(found, wanted)| degrees(&((rotation * turn(found)).transpose() * turn(wanted))));
    let translations = both()
        .map(offsets)
        .map(|(a, b)| (a * (above / below) - b).norm() / span);
    (rotations.collect(), translations.collect())
}

fn degrees(rotation: &Matrix3<f64>) -> f64 {
    let off = |row: usize, column: usize| rotation[(row, column)] - rotation[(column, row)];
    Vector3::new(off(2, 1), off(0, 2), off(1, 0))
        .norm()
        .atan2(rotation.trace() - 1.0)
        .to_degrees()
}

fn mean_and_largest(values: &[f64]) -> [f64; 2] {
    [
        values.iter().sum::<f64>() / values.len() as f64,
        values.iter().copied().fold(0.0, f64::max),
    ]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    0.5 * (values[(values.len() - 1) / 2] + values[values.len() / 2])
}

/// The reference's results as it is used, with the columns of [`Errors::columns`], and half of the
/// mean rotation error that it has with the principal point fixed, or that of a sketch of our
/// method, whichever is larger.
const REFERENCE: [(&str, [f64; 7], f64); 7] = [
    (
        "bridge6",
        [0.888, 1.068, 0.0086, 0.0127, 2.08, 4.70, 0.0314],
        0.184,
    ),
    (
        "forward8",
        [0.430, 0.742, 0.0062, 0.0138, 3.67, 6.79, 0.0429],
        0.123,
    ),
    (
        "orbit4",
        [0.664, 1.128, 0.0024, 0.0037, 2.67, 2.99, 0.0226],
        0.094,
    ),
    (
        "outlier5",
        [2.557, 5.262, 0.0251, 0.0414, 7.67, 13.76, 0.0378],
        0.352,
    ),
    (
        "portrait3",
        [0.434, 0.633, 0.0066, 0.0088, 5.24, 5.48, 0.0253],
        0.151,
    ),
    (
        "shared_focal4",
        [0.715, 1.245, 0.0051, 0.0089, 5.97, 6.10, 0.0184],
        0.232,
    ),
    (
        "two_view",
        [0.377, 0.377, 0.0175, 0.0175, 2.82, 3.38, 0.0100],
        0.170,
    ),
];

#[test]
fn every_scene_is_aligned_better_than_by_the_reference() {
    for folder in scenes() {
        for shared_focal in [false, true] {
            let name = name(&folder);
            let alignment = align_folder(
                &folder,
                &AlignOptions {
                    shared_focal,
                    ..AlignOptions::default()
                },
            )
            .unwrap();
            assert!(alignment.views.iter().all(|view| view.placed), "{name}");
            let errors = Errors::of(&folder, &alignment);
            println!("{name}, shared {shared_focal}: {errors:.4?}");
            let Some((_, allowed, least_rotation)) =
                REFERENCE.iter().find(|(scene, ..)| *scene == name)
            else {
                continue;
            };
            let below = errors
                .columns()
                .iter()
                .zip(allowed)
                .all(|(found, allowed)| found <= allowed);
            assert!(
                below,
                "{name}: {:.4?}, allowed {allowed:?}",
                errors.columns()
            );
            assert!(
                errors.rotation[0] <= *least_rotation,
                "{name}: {:?}, allowed {least_rotation}",
                errors.rotation
            );
        }
    }
}

#[test]
fn wrong_pairs_are_named_and_no_others() {
    for folder in scenes() {
        let is_wrong = |pair: &Value| pair["wrong"].as_bool().unwrap();
        let pairs = json(&folder)["truth"]["pairs"].as_array().unwrap().clone();
        let wrong: Vec<Value> = pairs
            .iter()
            .filter(|pair| is_wrong(pair))
            .map(|pair| pair["pair"].clone())
            .collect();
        let left_out: Vec<Value> = aligned(&folder)
            .pairs
            .iter()
            .filter(|report| report.verdict != Verdict::Used)
            .map(|report| json!([report.pair.first, report.pair.second]))
            .collect();
        assert_eq!(left_out, wrong, "{}", folder.display());
    }
}

#[test]
fn the_matches_of_every_pair_are_those_of_the_reference() {
    for folder in scenes() {
        let bytes = read(&folder.join("matches.safetensors"));
        let golden = SafeTensors::deserialize(&bytes).unwrap();
        let predictions = PredictionFolder::open(&folder).unwrap();
        for &pair in predictions.pairs() {
            let values = |end: &str| {
                let tensor = golden
                    .tensor(&format!("{}-{}.{end}", pair.first, pair.second))
                    .unwrap();
                tensor
                    .data()
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .map(|b| u32::from_le_bytes(*b))
                    .collect::<Vec<_>>()
            };
            let (first, second) = (values("first"), values("second"));
            let confidence = values("confidence").into_iter().map(f32::from_bits);
            let wanted: Vec<[u32; 4]> = first
                .as_chunks::<2>()
                .0
                .iter()
                .zip(second.as_chunks::<2>().0)
                .map(|(a, b)| [a[0], a[1], b[0], b[1]])
                .collect();
            let matches = predictions
                .read_pair(pair, &MatchOptions::default())
                .unwrap()
                .matches;
            let found: Vec<[u32; 4]> = matches
                .iter()
                .map(|m| [m.first.x, m.first.y, m.second.x, m.second.y])
                .collect();
            assert_eq!(found, wanted, "{} {pair:?}", folder.display());
            for (found, wanted) in matches.iter().zip(confidence) {
                assert!(
                    (found.confidence / wanted - 1.0).abs() < 1e-5,
                    "{found:?}, wanted {wanted}"
                );
            }
        }
    }
}

/// A folder of predictions, to be changed.
struct Stored {
    images: Vec<Value>,
    pairs: Vec<[usize; 2]>,
    views: Tensors,
    predictions: Tensors,
}

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

impl Stored {
    fn open(folder: &Path) -> Self {
        let json = json(folder);
        let tensors = |name: &str| -> Tensors {
            let bytes = read(&folder.join(name));
            let tensors = SafeTensors::deserialize(&bytes).unwrap();
            let owned = |tensor: TensorView<'_>| {
                (
                    tensor.dtype(),
                    tensor.shape().to_vec(),
                    tensor.data().to_vec(),
                )
            };
            tensors
                .iter()
                .map(|(name, tensor)| (name.to_string(), owned(tensor)))
                .collect()
        };
        Self {
            images: json["images"].as_array().unwrap().clone(),
            pairs: serde_json::from_value(json["pairs"].clone()).unwrap(),
            views: tensors("views.safetensors"),
            predictions: tensors("pairs.safetensors"),
        }
    }

    fn write(&self) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, tensors: &Tensors| {
            let views = tensors.iter().map(|(name, (dtype, shape, data))| {
                (
                    name.clone(),
                    TensorView::new(*dtype, shape.clone(), data).unwrap(),
                )
            });
            fs::write(
                folder.path().join(name),
                safetensors::serialize(views, None).unwrap(),
            )
            .unwrap();
        };
        write("views.safetensors", &self.views);
        write("pairs.safetensors", &self.predictions);
        let scene = json!({ "images": self.images, "pairs": self.pairs });
        fs::write(folder.path().join("scene.json"), scene.to_string()).unwrap();
        folder
    }

    fn aligned(&self) -> Alignment {
        aligned(self.write().path())
    }

    /// The same images and pairs under other numbers: view i becomes `number(i)`.
    fn renumbered(&self, number: impl Fn(usize) -> usize) -> Self {
        let mut images = self.images.clone();
        self.images
            .iter()
            .enumerate()
            .for_each(|(view, image)| images[number(view)] = image.clone());
        let pairs = self.pairs.iter().map(|pair| {
            let mut pair = pair.map(&number);
            pair.sort_unstable();
            pair
        });
        let view = |text: &str| number(text.parse().unwrap()).to_string();
        let views = self.views.iter().map(|(name, tensor)| {
            let (index, rest) = name.split_once('.').unwrap();
            (format!("{}.{rest}", view(index)), tensor.clone())
        });
        let predictions = self.predictions.iter().map(|(name, tensor)| {
            let (pair, rest) = name.split_once('.').unwrap();
            let (a, b) = pair.split_once('-').unwrap();
            (format!("{}-{}.{rest}", view(a), view(b)), tensor.clone())
        });
        Self {
            images,
            pairs: pairs.collect(),
            views: views.collect(),
            predictions: predictions.collect(),
        }
    }

    /// Keeps the pairs that `keep` says.
    fn with_pairs(mut self, keep: impl Fn([usize; 2]) -> bool) -> Self {
        self.pairs.retain(|pair| keep(*pair));
        self
    }

    /// Copies every tensor of `from` whose name starts with `prefix`, which becomes `new_prefix`.
    fn copy(&mut self, from: &Tensors, prefix: &str, new_prefix: &str) {
        let renamed = from.iter().filter_map(|(name, tensor)| {
            let rest = name.strip_prefix(prefix)?;
            Some((format!("{new_prefix}{rest}"), tensor.clone()))
        });
        let renamed: Vec<_> = renamed.collect();
        assert!(!renamed.is_empty(), "{prefix}");
        for (name, tensor) in renamed {
            if new_prefix.contains('-') {
                &mut self.predictions
            } else {
                &mut self.views
            }
            .insert(name, tensor);
        }
    }
}

/// How far two alignments are apart, whose views are the same: degrees, share of the span, percent
/// of the focal length.
fn gap(one: &Alignment, two: &Alignment, views: impl Fn(usize) -> usize) -> [f64; 3] {
    let (mut found, mut wanted, mut focal) = (Vec::new(), Vec::new(), 0f64);
    for (index, view) in one.scene.views.iter().enumerate() {
        let (Some(a), Some(b)) = (view.camera, two.scene.views[views(index)].camera) else {
            continue;
        };
        found.push(b.world_from_camera.to_homogeneous());
        wanted.push(a.world_from_camera.to_homogeneous());
        focal = focal.max(100.0 * (b.intrinsics.fx / a.intrinsics.fx - 1.0).abs());
    }
    assert!(found.len() > 1);
    let (rotation, translation) = pose_errors(&found, &wanted);
    [
        mean_and_largest(&rotation)[1],
        mean_and_largest(&translation)[1],
        focal,
    ]
}

/// With the numbers change which decode weighs a match that both found, units, and the order of
/// sums. That is allowed to move the solution by a fraction of its own error.
const SAME: [f64; 3] = [0.04, 0.001, 0.15];

fn assert_same(what: &str, gap: [f64; 3]) {
    println!("{what}: {gap:.5?}");
    assert!(
        gap.iter().zip(SAME).all(|(gap, allowed)| *gap <= allowed),
        "{what}: {gap:.5?}, allowed {SAME:?}"
    );
}

#[test]
fn renumbered_images_give_the_same_cameras() {
    let folder = scene("outlier5");
    let (stored, plain) = (Stored::open(&folder), aligned(&folder));
    for number in [|view: usize| 4 - view, |view: usize| (view + 2) % 5] {
        assert_same(
            "renumbered",
            gap(&plain, &stored.renumbered(number).aligned(), number),
        );
    }
}

#[test]
fn a_pair_in_other_units_gives_the_same_cameras() {
    let folder = scene("outlier5");
    let mut stored = Stored::open(&folder);
    for (name, (_, _, data)) in &mut stored.predictions {
        if (name.starts_with("1-2.") || name.starts_with("2-1.")) && name.ends_with(".points") {
            for bytes in data.as_chunks_mut::<2>().0 {
                *bytes = half::f16::from_f32(2.0 * half::f16::from_le_bytes(*bytes).to_f32())
                    .to_le_bytes();
            }
        }
    }
    assert_same(
        "doubled",
        gap(&aligned(&folder), &stored.aligned(), |view| view),
    );
}

#[test]
fn of_a_graph_that_falls_apart_the_largest_part_is_aligned_and_the_rest_is_named() {
    let folder = scene("outlier5");
    let alignment = Stored::open(&folder)
        .with_pairs(|pair| !pair.contains(&2))
        .aligned();
    let placed: Vec<bool> = alignment.views.iter().map(|view| view.placed).collect();
    assert_eq!(placed, [true, true, false, true, true]);
    let lost = &alignment.scene.views[2];
    assert!(lost.camera.is_none() && lost.depth.iter().all(|depth| depth.is_nan()));
    assert!(Errors::of(&folder, &alignment).rotation[1] < 1.0);

    let none = Stored::open(&folder).with_pairs(|_| false);
    assert!(align_folder(none.write().path(), &AlignOptions::default()).is_err());
}

#[test]
fn an_image_of_another_scene_is_left_out_and_changes_nothing() {
    let folder = scene("outlier5");
    let (plain, mut stored, other) = (
        aligned(&folder),
        Stored::open(&folder),
        Stored::open(&scene("two_view")),
    );
    let own = stored.predictions.clone();
    stored
        .images
        .push(json!({ "name": "foreign.png", "width": other.images[1]["width"], "height": other.images[1]["height"] }));
    stored.copy(&other.views, "1.", "5.");
    for view in 0..5 {
        let partner = (view + 1) % 5;
        stored.pairs.push([view, 5]);
        // What was said of each image beside another one, as if it had been said of these two.
        stored.copy(
            &own,
            &format!("{view}-{partner}.first"),
            &format!("{view}-5.first"),
        );
        stored.copy(
            &other.predictions,
            "0-1.second",
            &format!("{view}-5.second"),
        );
        stored.copy(&other.predictions, "1-0.first", &format!("5-{view}.first"));
        stored.copy(
            &own,
            &format!("{partner}-{view}.second"),
            &format!("5-{view}.second"),
        );
    }
    let alignment = stored.aligned();
    assert!(!alignment.views[5].placed);
    let used = |report: &&PairReport| report.verdict == Verdict::Used;
    assert!(
        alignment
            .pairs
            .iter()
            .filter(used)
            .all(|report| report.pair.second < 5)
    );
    assert_eq!(alignment.pairs.iter().filter(used).count(), 9);
    assert_same("with a foreign image", gap(&plain, &alignment, |view| view));
}

/// The true cameras, in a file as the program writes it, and the options that know of `views` of
/// them.
fn known(folder: &Path, intrinsics: bool, poses: &[usize]) -> AlignOptions {
    let json = json(folder);
    let images = json["images"].as_array().unwrap().iter().enumerate().map(|(index, image)| {
        let inside = &json["truth"]["intrinsics"][index];
        // At twice the size, with the middle half a pixel further.
        let twice = |value: &Value| 2.0 * value.as_f64().unwrap();
        let pose = if poses.contains(&index) { json["truth"]["world_from_camera"][index].clone() } else { Value::Null };
        json!({
            "name": image["name"], "width": twice(&image["width"]), "height": twice(&image["height"]),
            "fx": twice(&inside[0][0]), "fy": twice(&inside[1][1]),
            "cx": twice(&inside[0][2]) + 0.5, "cy": twice(&inside[1][2]) + 0.5,
            "world_from_camera": pose,
        })
    });
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("cameras.json");
    fs::write(
        &path,
        json!({ "images": images.collect::<Vec<_>>() }).to_string(),
    )
    .unwrap();
    let list = CameraList::open(&path).unwrap();
    let views = PredictionFolder::open(folder).unwrap().views().unwrap();
    let mut known = vec![KnownCamera::default(); views.len()];
    if intrinsics {
        assert_eq!(
            list.set_intrinsics(&views, &mut known).unwrap(),
            views.len()
        );
    }
    if !poses.is_empty() {
        assert_eq!(list.set_poses(&views, &mut known).unwrap(), poses.len());
    }
    AlignOptions {
        known,
        ..AlignOptions::default()
    }
}

#[test]
fn known_focal_lengths_stay_and_help() {
    for folder in scenes() {
        let plain = Errors::of(&folder, &aligned(&folder));
        let errors = Errors::of(
            &folder,
            &align_folder(&folder, &known(&folder, true, &[])).unwrap(),
        );
        println!("{}: {errors:.4?}, unknown {plain:.4?}", name(&folder));
        assert!(errors.focal[1] < 1e-9, "{errors:?}");
        assert!(
            errors.rotation[0] < plain.rotation[0].max(0.15) && errors.translation[0] < 0.004,
            "{errors:?}, unknown {plain:?}"
        );
    }
}

#[test]
fn known_poses_stay_and_the_others_are_found_in_their_world_and_scale() {
    let folder = scene("outlier5");
    for posed in [&[1, 3][..], &[0, 1, 2, 3, 4], &[2]] {
        let alignment = align_folder(&folder, &known(&folder, false, posed)).unwrap();
        let json = json(&folder);
        for (index, view) in alignment.scene.views.iter().enumerate() {
            let pose = view.camera.unwrap().world_from_camera.to_homogeneous();
            let truth = matrix(&json["truth"]["world_from_camera"][index]);
            let angle = degrees(&(turn(&pose).transpose() * turn(&truth)));
            let apart = (centre(&pose) - centre(&truth)).norm();
            println!("{posed:?}: {index} {angle:.4} {apart:.4}");
            // The world spans some metres. With one pose its scale is the network's.
            let (degrees, metres) = if posed.contains(&index) {
                (1e-6, 1e-9)
            } else {
                (0.6, 0.05)
            };
            assert!(
                angle <= degrees && (apart <= metres || posed.len() == 1),
                "{index}: {angle} degrees, {apart} m"
            );
        }
        let depth = Errors::of(&folder, &alignment).depth;
        assert!(depth < 0.01, "{depth}");
    }
}

#[test]
fn one_focal_length_for_all_images_is_that_of_every_image() {
    let folder = scene("two_view");
    let views = PredictionFolder::open(&folder).unwrap().views().unwrap();
    let mut known = vec![KnownCamera::default(); views.len()];
    SharedIntrinsics::Focal(117.76)
        .set(&views, &mut known)
        .unwrap();
    let alignment = align_folder(
        &folder,
        &AlignOptions {
            known,
            ..AlignOptions::default()
        },
    )
    .unwrap();
    let errors = Errors::of(&folder, &alignment);
    let plain = Errors::of(&folder, &aligned(&folder));
    assert!(
        errors.focal[1] < 1e-9 && errors.rotation[0] < plain.rotation[0],
        "{errors:?}, unknown {plain:?}"
    );
}

#[test]
fn poses_to_start_from_are_left_for_better_ones_nearest_to_them() {
    let folder = scene("outlier5");
    let plain = Errors::of(&folder, &aligned(&folder));
    let mut options = known(&folder, false, &[0, 1, 2, 3, 4]);
    options.known_poses = KnownPoses::Start;
    let mut off = [0.0, 0.0];
    for (index, camera) in options.known.iter_mut().enumerate() {
        // Each in a direction of its own, so that no common move explains them.
        let (sine, cosine) = (2.5 * index as f64).sin_cos();
        let turn = UnitQuaternion::from_scaled_axis(Vector3::new(sine, cosine, -sine) * 0.03);
        let pose = camera.world_from_camera.as_mut().unwrap();
        *pose = Isometry3::from_parts(
            (pose.translation.vector + Vector3::new(cosine, sine, 0.0) * 0.05).into(),
            turn * pose.rotation,
        );
        off = [turn.angle().to_degrees().max(off[0]), 0.05];
    }
    let alignment = align_folder(&folder, &options).unwrap();
    let errors = Errors::of(&folder, &alignment);
    println!("{errors:.4?}, unknown {plain:.4?}");
    for (index, view) in alignment.scene.views.iter().enumerate() {
        let pose = view.camera.unwrap().world_from_camera;
        assert_ne!(Some(pose), options.known[index].world_from_camera);
        let truth = matrix(&json(&folder)["truth"]["world_from_camera"][index]);
        let angle = degrees(&(turn(&pose.to_homogeneous()).transpose() * turn(&truth)));
        let apart = (pose.translation.vector - centre(&truth)).norm();
        // What they have in common is what the means of five random errors leave.
        assert!(
            angle < off[0] && apart < 2.0 * off[1],
            "{index}: {angle} degrees, {apart} m"
        );
    }
    assert!(
        errors.rotation[0] < plain.rotation[0] + 0.01 && errors.depth < plain.depth + 1e-3,
        "{errors:?}, {plain:?}"
    );
}

/// Options that say `factor` times the true focal lengths are probable.
fn probably(folder: &Path, factor: f64) -> AlignOptions {
    let mut options = known(folder, true, &[]);
    for camera in &mut options.known {
        camera.probable_focal = camera.intrinsics.take().map(|inside| factor * inside.fx);
    }
    options
}

#[test]
fn a_probable_focal_length_counts_unless_it_is_grossly_wrong() {
    for folder in scenes() {
        let focal = |options: &AlignOptions| {
            Errors::of(&folder, &align_folder(&folder, options).unwrap()).focal[0]
        };
        let plain = focal(&AlignOptions::default());
        let [right, near, cut] = [1.0, 1.03, 1.5].map(|factor| focal(&probably(&folder, factor)));
        println!(
            "{}: {plain:.4}, {right:.4}, {near:.4}, {cut:.4} percent",
            name(&folder)
        );
        // These scenes' matches say more of focal lengths than anybody beforehand.
        assert!(
            right < plain + 0.2 && near < plain + 0.5,
            "{}: {plain}, {right}, {near}",
            name(&folder)
        );
        assert_eq!(plain, cut, "{}", name(&folder));
    }
}

#[test]
fn a_principal_point_that_is_not_in_the_middle_is_found() {
    const CUT: usize = 8;
    let folder = scene("outlier5");
    let mut stored = Stored::open(&folder);
    for image in &mut stored.images {
        image["width"] = json!(image["width"].as_u64().unwrap() - CUT as u64);
    }
    // The first columns of everything go, so that the middle moves by half as much.
    for (_, shape, data) in stored
        .views
        .values_mut()
        .chain(stored.predictions.values_mut())
    {
        let row = data.len() / shape[0];
        let cut = row / shape[1] * CUT;
        *data = data
            .chunks_exact(row)
            .flat_map(|row| row[cut..].to_vec())
            .collect();
        shape[1] -= CUT;
    }
    let changed = stored.write();
    let align = |principal_point| {
        let options = AlignOptions {
            principal_point,
            ..AlignOptions::default()
        };
        let alignment = align_folder(changed.path(), &options).unwrap();
        let poses = alignment
            .scene
            .views
            .iter()
            .map(|view| view.camera.unwrap().world_from_camera.to_homogeneous());
        let truth = (0..stored.images.len())
            .map(|index| matrix(&json(&folder)["truth"]["world_from_camera"][index]));
        let (rotation, _) = pose_errors(&poses.collect::<Vec<_>>(), &truth.collect::<Vec<_>>());
        let inside = alignment.scene.views[0].camera.unwrap().intrinsics;
        let middle = (f64::from(inside.width) - 1.0) / 2.0;
        (mean_and_largest(&rotation)[0], inside.cx - middle)
    };
    let (middle, prior) = (align(PrincipalPoint::Middle), align(PrincipalPoint::Prior));
    println!("{middle:.3?}, {prior:.3?}");
    assert_eq!(middle.1, 0.0);
    assert!(
        (prior.1 + CUT as f64 / 2.0).abs() < 1.0 && prior.0 < middle.0,
        "{middle:?}, {prior:?}"
    );
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let folder = scene("outlier5");
    let with_threads = |count: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(count)
            .build()
            .unwrap();
        let alignment = pool.install(|| aligned(&folder));
        let bits = |value: f64| value.to_bits();
        let views = alignment.scene.views.into_iter();
        let views = views.map(|view| {
            let camera = view.camera.unwrap();
            let pose: Vec<u64> = camera
                .world_from_camera
                .to_homogeneous()
                .iter()
                .copied()
                .map(bits)
                .collect();
            (
                pose,
                bits(camera.intrinsics.fx),
                view.depth
                    .iter()
                    .map(|depth| depth.to_bits())
                    .collect::<Vec<u32>>(),
            )
        });
        views.collect::<Vec<_>>()
    };
    assert_eq!(with_threads(1), with_threads(3));
}

#[test]
fn pairs_that_are_not_finite_are_left_out_and_the_others_aligned() {
    let predictions = PredictionFolder::open(scene("outlier5")).unwrap();
    let views = predictions.views().unwrap();
    let options = AlignOptions::default();
    let matching = MatchOptions::default();
    let evidence = || predictions.evidence(&matching);
    let pair_of = |evidence: &mast3r::Result<PairEvidence>| evidence.as_ref().unwrap().pair;
    let (first, second) = (
        Pair {
            first: 0,
            second: 1,
        },
        Pair {
            first: 2,
            second: 3,
        },
    );
    let without = evidence().filter(|evidence| ![first, second].contains(&pair_of(evidence)));
    let expected = align(&views, without, &options).unwrap();
    // One is not finite in its maps; of the other the source says so itself.
    let spoilt = evidence().map(|evidence| match pair_of(&evidence) {
        pair if pair == first => evidence.map(|mut evidence| {
            evidence.reverse[1].points[7][2] = f32::NAN;
            evidence
        }),
        pair if pair == second => {
            let source = Error::NotFinite {
                what: "points".into(),
                count: 1,
                total: 9,
                hint: "none".into(),
            };
            Err(Error::PairNotFinite {
                pair: [pair.first, pair.second],
                source: Box::new(source),
            })
        }
        _ => evidence,
    });
    let found = align(&views, spoilt, &options).unwrap();
    let dropped: Vec<Pair> = found
        .pairs
        .iter()
        .filter(|report| report.verdict == Verdict::NotFinite)
        .map(|report| report.pair)
        .collect();
    assert_eq!(dropped, [first, second]);
    assert_eq!(found.pairs.len(), expected.pairs.len() + 2);
    let cameras = |alignment: &Alignment| {
        alignment
            .scene
            .views
            .iter()
            .map(|view| view.camera)
            .collect::<Vec<_>>()
    };
    assert_eq!(cameras(&found), cameras(&expected));

    // If none is finite, that is an error which names the first.
    let none = evidence().map(|evidence| {
        evidence.map(|mut evidence| {
            evidence.forward[0].confidence[3] = f32::INFINITY;
            evidence
        })
    });
    let error = align(&views, none, &options).unwrap_err();
    assert!(matches!(error, Error::NotFinite { .. }), "{error}");
    let message = "000.png and 001.png: confidences of the first view: 1 of ";
    assert!(error.to_string().starts_with(message), "{error}");
}

#[test]
fn damaged_folders_are_refused_with_their_path() {
    let stored = Stored::open(&scene("two_view"));
    let refusal = |change: &dyn Fn(&mut Stored)| {
        let mut changed = Stored {
            images: stored.images.clone(),
            pairs: stored.pairs.clone(),
            views: stored.views.clone(),
            predictions: stored.predictions.clone(),
        };
        change(&mut changed);
        align_folder(changed.write().path(), &AlignOptions::default())
            .unwrap_err()
            .to_string()
    };
    let expect =
        |part: &str, error: String| assert!(error.contains(part), "{error:?} lacks {part:?}");
    expect(
        "[0, 2] is not [i, j] with i < j < 2",
        refusal(&|stored| stored.pairs = vec![[0, 2]]),
    );
    expect(
        "is listed twice",
        refusal(&|stored| stored.pairs = vec![[0, 1]; 2]),
    );
    expect(
        "tensor 0-1.first.points is missing",
        refusal(&|stored| drop(stored.predictions.remove("0-1.first.points"))),
    );
    expect(
        "views.safetensors: the tensor 1.rgb",
        refusal(&|stored| stored.images[1]["width"] = 64.into()),
    );
    expect("no images", refusal(&|stored| stored.images.clear()));

    let folder = stored.write();
    let path = folder.path().join("pairs.safetensors");
    let whole = read(&path);
    fs::write(&path, &whole[..whole.len() - 10]).unwrap();
    expect(
        "incomplete or damaged",
        align_folder(folder.path(), &AlignOptions::default())
            .unwrap_err()
            .to_string(),
    );
    fs::write(&path, &whole[..100]).unwrap();
    expect(
        "ends inside its header",
        align_folder(folder.path(), &AlignOptions::default())
            .unwrap_err()
            .to_string(),
    );
    fs::remove_file(&path).unwrap();
    expect(
        "pairs.safetensors: no such file",
        align_folder(folder.path(), &AlignOptions::default())
            .unwrap_err()
            .to_string(),
    );
}
