//! Point clouds as files, read: `.ply` and `.glb`, this program's and others'.

mod glb;
mod ply;

use std::path::Path;

use image::RgbImage;
use nalgebra::Vector3;

use crate::error::{Error, Result};
use crate::geometry::{Camera, PointMap};
use crate::scene::{FAR_EXTENTS, Scene, SceneView};
use crate::views::{Crop, pixels};

pub(crate) use glb::{METRIC, srgb_from_linear};
pub(crate) use ply::METRES;

/// Extensions of the files that [`read`] reads, without their dots and in lower case.
pub const EXTENSIONS: [&str; 2] = ["ply", "glb"];

/// Level of points without a colour.
const GREY: u8 = 190;

/// Reads a point cloud.
///
/// The scene has one view without a camera, which holds all points in one row, and of a GLB file a
/// view without points for every camera. Points without a colour are grey, and without a confidence
/// 1. Depths are unknown.
///
/// # Errors
/// [`Error::Usage`] for another extension; [`Error::Input`] for a file that is missing, truncated,
/// without a point or not of this format; [`Error::Io`].
pub fn read(path: impl AsRef<Path>) -> Result<Scene> {
    let path = path.as_ref();
    let extension = path
        .extension()
        .map(|extension| extension.to_string_lossy().to_lowercase());
    match extension.as_deref() {
        Some("ply") => ply::read(path),
        Some("glb") => glb::read(path),
        _ => Err(Error::Usage(format!(
            "{}: not a point cloud; expected .{}",
            path.display(),
            EXTENSIONS.join(" or .")
        ))),
    }
}
/// Points, as they are read.
pub(super) struct Cloud {
    positions: Vec<[f64; 3]>,
    rgb: Vec<u8>,
    confidences: Vec<f32>,
}

impl Cloud {
    /// Without points yet, of which about so many are to come.
    pub fn new(count: usize) -> Self {
        Self {
            positions: Vec::with_capacity(count),
            rgb: Vec::with_capacity(3 * count),
            confidences: Vec::with_capacity(count),
        }
    }

    pub fn add(&mut self, position: [f64; 3], rgb: Option<[u8; 3]>, confidence: f32) {
        self.positions.push(position);
        self.rgb.extend(rgb.unwrap_or([GREY; 3]));
        self.confidences.push(confidence);
    }

    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// A scene of one view without a camera, which has all points in one row.
    ///
    /// # Errors
    /// A sentence if there are no points, or too many for an image.
    pub fn into_scene(self, metric: bool) -> Result<Scene, String> {
        let count = self.positions.len();
        let Some(width) = u32::try_from(count).ok().filter(|width| *width > 0) else {
            return Err(match count {
                0 => "it has no points".into(),
                _ => format!("its {count} points are more than 2^32 - 1"),
            });
        };
        if !self.positions.iter().any(is_finite) {
            return Err("none of its points is finite".into());
        }
        let origin = origin(&self.positions);
        let points = self
            .positions
            .iter()
            .map(|position| [0, 1, 2].map(|axis| (position[axis] - origin[axis]) as f32))
            .collect();
        let rgb = RgbImage::from_raw(width, 1, self.rgb)
            .ok_or("its points have not three colour channels each")?;
        let view = SceneView {
            name: "points".into(),
            crop: Crop::whole(width, 1),
            camera: None,
            points: PointMap {
                width: count,
                height: 1,
                points,
                confidence: self.confidences.into(),
            },
            depth: vec![f32::NAN; count].into(),
            rgb: pixels(rgb),
            contradicted: None,
            masked: 0,
        };
        Ok(Scene {
            origin,
            metric,
            views: vec![view],
            ..Scene::default()
        })
    }
}

fn is_finite(position: &[f64; 3]) -> bool {
    position.iter().all(|value| value.is_finite())
}

/// Where the scene's frame has its origin: in the world's, unless all points lie far from it.
fn origin(positions: &[[f64; 3]]) -> Vector3<f64> {
    let finite = || positions.iter().filter(|position| is_finite(position));
    let bound = |pick: fn(f64, f64) -> f64| {
        finite()
            .copied()
            .reduce(|a, b| [0, 1, 2].map(|axis| pick(a[axis], b[axis])))
            .map_or(Vector3::zeros(), Vector3::from)
    };
    let (low, high) = (bound(f64::min), bound(f64::max));
    // Halved first, so that the sum of the largest numbers stays finite.
    let middle = (low / 2.0 + high / 2.0).map(f64::round);
    if middle.amax() > FAR_EXTENTS * (high - low).amax() {
        middle
    } else {
        Vector3::zeros()
    }
}

/// A view with a camera and an image, of which no points are known.
pub(super) fn posed_view(name: String, camera: Camera, rgb: RgbImage) -> SceneView {
    let (width, height) = rgb.dimensions();
    let count = width as usize * height as usize;
    SceneView {
        name,
        crop: Crop::whole(width, height),
        camera: Some(camera),
        points: PointMap {
            width: width as usize,
            height: height as usize,
            points: vec![[f32::NAN; 3]; count].into(),
            confidence: vec![1.0; count].into(),
        },
        depth: vec![f32::NAN; count].into(),
        rgb: pixels(rgb),
        contradicted: None,
        masked: 0,
    }
}
