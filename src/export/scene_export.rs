//! What a format of scenes is, and what it reports.

use std::fmt;
use std::path::Path;

use super::ExportOptions;
use super::images::{ImageCounts, Images};
use crate::error::{Error, Result};
use crate::scene::{PointCounts, Scene};

/// How scenes are written in one format.
///
/// A new format is a type with this trait, in a file of its own, and a line in
/// [`SceneFormat::ALL`](super::SceneFormat::ALL); a program may have formats of its own, see
/// [`SceneFormat::new`](super::SceneFormat::new).
pub trait SceneExport: Sync {
    /// The name that [`SceneFormat`](super::SceneFormat) is parsed from.
    fn name(&self) -> &'static str;

    /// What its outputs are, in reports: formats of one kind share it.
    fn kind(&self) -> &'static str {
        self.name()
    }

    /// Extensions of files that are in this format, without their dots and in lower case; none for
    /// folders.
    fn extensions(&self) -> &'static [&'static str] {
        &[]
    }

    /// What it needs and takes.
    fn traits(&self) -> FormatTraits;

    /// Opens `path` for a scene; `images` are looked at, their headers alone.
    ///
    /// # Errors
    /// As [`SceneOutput::create`](super::SceneOutput::create).
    fn open(&self, path: &Path, images: &Images) -> Result<Box<dyn OpenExport>>;
}

/// What a format holds of a scene.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FormatTraits {
    /// Points, which a check of views against one another may drop.
    pub points: bool,
    /// Images beside the cameras.
    pub images: bool,
}

/// An output that [`SceneExport::open`] opened.
pub trait OpenExport: fmt::Debug {
    /// The path as it was given.
    fn path(&self) -> &Path;

    /// Writes images without lens distortion from now on, see [`SceneOutput::undistorted`](super::SceneOutput::undistorted).
    ///
    /// # Errors
    /// As [`SceneOutput::undistorted`](super::SceneOutput::undistorted).
    fn undistort(&mut self) -> Result<()> {
        Ok(())
    }

    /// Writes the scene, and gives the complete file or folder its name.
    ///
    /// # Errors
    /// As [`SceneOutput::write`](super::SceneOutput::write).
    fn write(self: Box<Self>, scene: &Scene, options: &ExportOptions) -> Result<SceneReport>;
}

/// What was written; a format has the facts that apply to it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SceneReport {
    /// What became of the points of a cloud.
    pub cloud: Option<PointCounts>,
    /// The images, and so the poses.
    pub images: Option<ImageCounts>,
    /// Cameras: one for all images of one size with equal intrinsics.
    pub cameras: Option<usize>,
    /// Points.
    pub points: Option<usize>,
    /// How often points are seen.
    pub observations: Option<usize>,
    /// Mean over the points of how far their observations are from where they project, in pixels of
    /// the images beside the model: what COLMAP calls the mean reprojection error.
    pub mean_error_px: Option<f64>,
    /// Poses of a trajectory.
    pub poses: Option<usize>,
}

/// Refuses a scene without a camera, of which there can be no `what`.
pub(super) fn check_placed(scene: &Scene, what: &str) -> Result<()> {
    match scene.views.iter().any(|view| view.camera.is_some()) {
        true => Ok(()),
        false => Err(Error::NoCameras {
            what: what.into(),
            reason: "no image has one".into(),
        }),
    }
}
