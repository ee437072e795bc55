//! Formats that scenes are written in: opened early, written at the end.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::images::Images;
use super::scene_export::{FormatTraits, OpenExport, SceneExport, SceneReport};
use super::{ExportOptions, cloud, colmap, las, nerfstudio, trajectory, viewer};
use crate::error::{Error, Result};
use crate::scene::Scene;

/// A format, one of [`SceneFormat::ALL`] or a program's own.
#[derive(Clone, Copy)]
pub struct SceneFormat(&'static dyn SceneExport);

/// An output of a scene, open.
#[derive(Debug)]
pub struct SceneOutput(Box<dyn OpenExport>);

impl SceneFormat {
    /// Binary PLY, a file of points.
    pub const PLY: Self = Self(&cloud::PLY);
    /// Binary glTF, a file of points with the cameras.
    pub const GLB: Self = Self(&cloud::GLB);
    /// A folder with the images and a binary COLMAP model, `images/` and `sparse/0/`.
    ///
    /// Its cameras are PINHOLE, or SIMPLE_RADIAL, RADIAL or OPENCV where lens distortion was found
    /// and stays; images of one size with equal intrinsics share one. Its points are the tracks of
    /// refined cameras, or else those of the matches: places that two images or more see alike,
    /// from different directions, each near to where all of them have it.
    pub const COLMAP: Self = Self(&colmap::BINARY);
    /// The same, and `database.db` with the keypoints, matches and two-view geometries of the
    /// model's tracks, for COLMAP's and GLOMAP's mappers.
    #[cfg(feature = "database")]
    pub const COLMAP_DATABASE: Self = Self(&colmap::DATABASE);
    /// The same as [`Self::COLMAP`] with a model that people can read.
    pub const COLMAP_TEXT: Self = Self(&colmap::TEXT);
    /// A folder with the images, `transforms.json` and `sparse_pc.ply`, as nerfstudio has them.
    pub const NERFSTUDIO: Self = Self(&nerfstudio::Nerfstudio);
    /// A file of camera poses, as the TUM benchmark has them: with the times that images are named
    /// after, or else their indices.
    pub const TUM: Self = Self(&trajectory::Trajectory);
    /// A web page that shows the points and the cameras: one file that needs no network.
    pub const HTML: Self = Self(&viewer::Page);

    /// LAS 1.2, a file of points: in UTM if the scene is georeferenced.
    pub const LAS: Self = Self(&las::LAS);
    /// The same compressed.
    pub const LAZ: Self = Self(&las::LAZ);

    /// Every format of the library.
    pub const ALL: &[Self] = &[
        Self::PLY,
        Self::GLB,
        Self::LAS,
        Self::LAZ,
        Self::COLMAP,
        #[cfg(feature = "database")]
        Self::COLMAP_DATABASE,
        Self::COLMAP_TEXT,
        Self::NERFSTUDIO,
        Self::TUM,
        Self::HTML,
    ];

    /// A format of a program's own.
    pub const fn new(export: &'static dyn SceneExport) -> Self {
        Self(export)
    }

    /// The name that [`from_str`](Self::from_str) takes.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// What its outputs are, in reports.
    pub fn kind(self) -> &'static str {
        self.0.kind()
    }

    /// What it holds of a scene.
    pub fn traits(self) -> FormatTraits {
        self.0.traits()
    }

    /// The format of the output `path`: by its extension, `.ply`, `.glb`, `.las`, `.laz`, `.html`,
    /// `.txt` or `.tum`, and else as `named`.
    ///
    /// # Errors
    /// [`Error::Usage`] if neither tells.
    pub fn of_output(path: impl AsRef<Path>, named: Option<Self>) -> Result<Self> {
        let path = path.as_ref();
        let extension = path
            .extension()
            .map(|extension| extension.to_string_lossy().to_lowercase());
        let by_extension = extension.as_deref().and_then(|extension| {
            Self::ALL
                .iter()
                .find(|format| format.0.extensions().contains(&extension))
                .copied()
        });
        by_extension.or(named).ok_or_else(|| {
            let what = extension.map_or("no extension".into(), |extension| {
                format!("unknown extension .{extension}")
            });
            let formats = known_formats();
            Error::Usage(format!(
                "{}: {what}; name it .ply, .glb, .las, .laz, .html or .txt, or name a format: {formats}",
                path.display()
            ))
        })
    }
}

impl PartialEq for SceneFormat {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for SceneFormat {}

impl fmt::Debug for SceneFormat {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("SceneFormat").field(&self.name()).finish()
    }
}

impl fmt::Display for SceneFormat {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for SceneFormat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL
            .iter()
            .copied()
            .find(|format| format.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| {
            Error::Usage(format!(
                "unknown format {name}; known are {}",
                known_formats()
            ))
        })
    }
}

fn known_formats() -> String {
    let names: Vec<&str> = SceneFormat::ALL
        .iter()
        .map(|format| format.name())
        .collect();
    names.join(", ")
}

impl SceneOutput {
    /// Opens `path` for a scene in `format`; `images` are looked at, their headers alone.
    ///
    /// A folder may exist already. Images that are there stay as they are, and no other program's
    /// model is replaced.
    ///
    /// # Errors
    /// [`Error::Usage`] if `path` cannot be used, or a COLMAP model or another file of an image's
    /// name is in it already; [`Error::Input`] for an image that cannot be read; [`Error::Io`] with
    /// the path.
    pub fn create(path: impl AsRef<Path>, format: SceneFormat, images: &Images) -> Result<Self> {
        format.0.open(path.as_ref(), images).map(Self)
    }

    /// The same, with images without lens distortion: where some was found, an image is written as
    /// the pinhole camera [`Lens::undistorted`](crate::geometry::Lens::undistorted) sees it, JPEG
    /// as JPEG of quality 95 and others as PNG. Its camera is that pinhole; observations are moved to
    /// where it shows them, and those that it does not show are left out.
    ///
    /// Outputs without images, and images whose cameras have no distortion, stay as they are.
    ///
    /// # Errors
    /// [`Error::Usage`] if an image itself is where its undistorted one would be written, or another
    /// file of its name is.
    pub fn undistorted(mut self) -> Result<Self> {
        self.0.undistort()?;
        Ok(self)
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes the scene, and gives the complete file or folder its name. Views without a camera are
    /// left out of all but clouds.
    ///
    /// # Errors
    /// [`Error::Usage`] for a scene that is inconsistent, a filter that keeps nothing, no camera,
    /// or no track where the format wants one; those of images; [`Error::Io`] with the path. A new
    /// folder then does not appear.
    pub fn write(self, scene: &Scene, options: &ExportOptions) -> Result<SceneReport> {
        let _span = tracing::debug_span!("export").entered();
        self.0.write(scene, options)
    }
}
