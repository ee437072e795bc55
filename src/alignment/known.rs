//! Cameras that are known beforehand, from a `cameras.json` as this program writes it.

use std::fs;
use std::path::{Path, PathBuf};

use nalgebra::{Isometry3, Matrix3, Matrix4, Rotation3, Translation3, UnitQuaternion};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::geometry::Intrinsics;
use crate::views::View;

/// How far a matrix may be from a rotation, per element.
const ROUNDING: f64 = 1e-3;

/// What is known of a view's camera; it stays as it is given.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct KnownCamera {
    /// At the size of the view.
    pub intrinsics: Option<Intrinsics>,
    /// In the world that the scene is to be in; where two views or more have one, they settle its scale too.
    pub world_from_camera: Option<Isometry3<f64>>,
}

/// The content of a `cameras.json`, as far as it is read.
#[derive(Debug)]
pub struct CameraList {
    path: PathBuf,
    images: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct CamerasFile {
    images: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    name: String,
    width: f64,
    height: f64,
    fx: Option<f64>,
    fy: Option<f64>,
    cx: Option<f64>,
    cy: Option<f64>,
    world_from_camera: Option<[[f64; 4]; 4]>,
}

impl CameraList {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Input`] if it is missing or no list of cameras; [`Error::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = fs::read(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::input(path, "there is no such file"),
            _ => Error::io(path, error),
        })?;
        let file: CamerasFile = serde_json::from_slice(&text)
            .map_err(|error| Error::input(path, format!("is no list of cameras: {error}")))?;
        Ok(Self { path: path.to_path_buf(), images: file.images })
    }

    /// Sets the intrinsics of `known`, one entry a view, of every view that the file knows by name, at the view's size.
    /// Returns how many there are.
    ///
    /// # Errors
    /// [`Error::Input`] for numbers that are no camera's.
    pub fn set_intrinsics(&self, views: &[View], known: &mut [KnownCamera]) -> Result<usize> {
        self.set(views, known, |entry, view, known| {
            let (Some(fx), Some(fy), Some(cx), Some(cy)) = (entry.fx, entry.fy, entry.cx, entry.cy) else {
                return Ok(false);
            };
            let [kx, ky] = [f64::from(view.rgb.width()) / entry.width, f64::from(view.rgb.height()) / entry.height];
            let found = Intrinsics {
                width: view.rgb.width(),
                height: view.rgb.height(),
                fx: fx * kx,
                fy: fy * ky,
                // Pictures scale about their corner, half a pixel off the centre of the first pixel.
                cx: (cx + 0.5) * kx - 0.5,
                cy: (cy + 0.5) * ky - 0.5,
            };
            let usable = [found.fx, found.fy].iter().all(|focal| focal.is_finite() && *focal > 0.0);
            if !usable || !found.cx.is_finite() || !found.cy.is_finite() {
                return Err(self.refusal(entry, "the intrinsics are no camera's"));
            }
            known.intrinsics = Some(found);
            Ok(true)
        })
    }

    /// Sets the poses of `known`, one entry a view, of every view that the file knows by name and has a pose of.
    /// Returns how many there are.
    ///
    /// # Errors
    /// [`Error::Input`] for a matrix that is no pose.
    pub fn set_poses(&self, views: &[View], known: &mut [KnownCamera]) -> Result<usize> {
        self.set(views, known, |entry, _, known| {
            let Some(rows) = entry.world_from_camera else { return Ok(false) };
            known.world_from_camera = Some(
                pose(&rows).ok_or_else(|| self.refusal(entry, "world_from_camera is no rotation and translation"))?,
            );
            Ok(true)
        })
    }

    fn set(
        &self,
        views: &[View],
        known: &mut [KnownCamera],
        set: impl Fn(&Entry, &View, &mut KnownCamera) -> Result<bool>,
    ) -> Result<usize> {
        let mut count = 0;
        for (view, known) in views.iter().zip(known) {
            if let Some(entry) = self.images.iter().find(|entry| entry.name == view.name) {
                count += usize::from(set(entry, view, known)?);
            }
        }
        if count == 0 {
            return Err(Error::input(&self.path, "it says nothing of these pictures; it knows them by name"));
        }
        Ok(count)
    }

    fn refusal(&self, entry: &Entry, reason: &str) -> Error {
        Error::input(&self.path, format!("{}: {reason}", entry.name))
    }
}

fn pose(rows: &[[f64; 4]; 4]) -> Option<Isometry3<f64>> {
    let matrix = Matrix4::from_fn(|row, column| rows[row][column]);
    let rotation: Matrix3<f64> = matrix.fixed_view::<3, 3>(0, 0).into_owned();
    let off = (rotation * rotation.transpose() - Matrix3::identity()).amax();
    let sound = matrix.iter().all(|value| value.is_finite()) && off < ROUNDING && rotation.determinant() > 0.0;
    let turn = UnitQuaternion::from_rotation_matrix(&Rotation3::from_matrix_unchecked(rotation));
    let shift = Translation3::from(matrix.fixed_view::<3, 1>(0, 3).into_owned());
    sound.then(|| Isometry3::from_parts(shift, UnitQuaternion::new_normalize(turn.into_inner())))
}
