//! Many views: cameras and depths against scenes whose answer is known, and what must not change
//! them.

mod changed;
mod known;
mod scenes;
mod stored;

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

/// The angle of a rotation, also of a tiny one.
pub(crate) fn degrees(rotation: &Matrix3<f64>) -> f64 {
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
