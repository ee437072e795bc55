//! Everything that is written to disk.
//!
//! Point clouds go through [`write()`], which picks the [`Format`] by the file's extension.
//! [`SceneOutput`] also makes what other programs go on from: COLMAP models, nerfstudio folders,
//! trajectories. Cameras, matches, depth maps, tensors and previews have a writer each. All of them
//! take plain data; [`OutputFile`] and [`OutputFolder`] are the ones that never leave half a file.

mod axes;
mod checkpoint;
mod cloud;
mod colmap;
mod colors;
mod depth;
mod exr;
mod features;
mod format;
mod frustums;
mod glb;
mod images;
mod las;
mod matches;
mod nerfstudio;
mod normals;
mod npy;
mod pca;
mod ply;
mod preview;
mod quantised;
mod scene_export;
mod tensors;
mod trajectory;
mod viewer;

use std::borrow::Cow;
use std::fmt;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::str::FromStr;

pub use checkpoint::write_checkpoint;
pub use depth::{DepthReport, depth_files, write_depth, write_depth_tensors, write_rgb_png};
pub use features::{FeatureSink, NpyFolder, image_metadata};
pub use format::{SceneFormat, SceneOutput};
pub use frustums::CameraModels;
pub use images::{ImageCounts, Images};
pub use matches::{
    MATCHES_HEADER, MatchedImage, PAIR_MATCHES_HEADER, match_tensors, write_matches,
    write_pair_matches,
};
pub use npy::{ElementType, write_npy};
pub use pca::{Pca, PcaBuilder, TokenGrid, draw_token_grids};
pub use preview::{PreviewOptions, draw_from, draw_preview, preview_camera};
pub use quantised::{WeightFormat, write_quantised};
pub use scene_export::{FormatTraits, OpenExport, SceneExport, SceneReport};
pub use tensors::{SafetensorsWriter, TensorMetadata, TensorSpec, WrittenTensors};

pub use crate::files::{
    OutputFile, OutputFolder, Placing, TemporaryFolder, remove_temporaries, try_remove_temporaries,
};
pub use crate::formats::cameras::{CameraEntry, CamerasFile, SizedIntrinsics};

use crate::error::{Error, Result};
use crate::scene::{PointCounts, PointFilter, PointSelection, Scene};

/// A file format for point clouds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Binary little-endian PLY, OpenCV axes.
    Ply,
    /// Binary glTF 2.0, y up, with the cameras.
    Glb,
}

/// What goes into a point cloud.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ExportOptions {
    /// The points to keep.
    pub filter: PointFilter,
    /// What shows the cameras in a GLB file.
    pub cameras: CameraModels,
    /// Whether a PLY file has normals.
    pub normals: bool,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 2] = [Self::Ply, Self::Glb];

    /// The extension, without its dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Ply => "ply",
            Self::Glb => "glb",
        }
    }

    /// The format that a path's extension asks for.
    ///
    /// # Errors
    /// [`Error::Usage`] listing the formats.
    pub fn from_path(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let extension = path
            .extension()
            .map(|extension| extension.display().to_string());
        let found = extension
            .as_deref()
            .and_then(|extension| extension.parse().ok());
        found.ok_or_else(|| {
            let what = extension.map_or("no extension".into(), |extension| {
                format!("unknown extension .{extension}")
            });
            Error::Usage(format!(
                "{}: {what}; point clouds are written as {}",
                path.display(),
                known_formats(" or .")
            ))
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.extension())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL
            .into_iter()
            .find(|format| format.extension().eq_ignore_ascii_case(name));
        found.ok_or_else(|| {
            Error::Usage(format!(
                "unknown format {name}; known are {}",
                known_formats(" and .")
            ))
        })
    }
}

/// Writes the scene's points to `path` in the format that its extension names.
///
/// # Errors
/// [`Error::Usage`] for an unknown extension, an unusable path or a filter that keeps nothing,
/// [`Error::NotFinite`] for a scene without a finite point, [`Error::Io`] with the path.
pub fn write(
    scene: &Scene,
    path: impl AsRef<Path>,
    options: &ExportOptions,
) -> Result<PointCounts> {
    let path = path.as_ref();
    let format = Format::from_path(path)?;
    write_file(scene, format, options, OutputFile::create(path)?)
}

/// Writes the scene's points to a file that is open already, and commits it.
///
/// # Errors
/// As [`write()`].
pub fn write_file(
    scene: &Scene,
    format: Format,
    options: &ExportOptions,
    file: OutputFile,
) -> Result<PointCounts> {
    let _span = tracing::debug_span!("export").entered();
    let scene = in_axes_of(format, scene);
    let points = scene.select(&options.filter)?;
    file.write_with(|out| write_points(&points, format, options, out))?;
    Ok(points.counts())
}

/// Writes the scene's points to `out`, for instance standard output.
///
/// # Errors
/// As [`write()`], with `standard output` in place of the path.
pub fn write_to(
    scene: &Scene,
    format: Format,
    options: &ExportOptions,
    out: &mut dyn Write,
) -> Result<PointCounts> {
    let _span = tracing::debug_span!("export").entered();
    let scene = in_axes_of(format, scene);
    let points = scene.select(&options.filter)?;
    let mut out = BufWriter::new(out);
    write_points(&points, format, options, &mut out)
        .and_then(|()| out.flush())
        .map_err(|error| Error::io("standard output", error))?;
    Ok(points.counts())
}

/// The scene in the axes that the format's writer starts from.
fn in_axes_of(format: Format, scene: &Scene) -> Cow<'_, Scene> {
    match format {
        Format::Ply => Cow::Borrowed(scene),
        Format::Glb => axes::with_y_down(scene),
    }
}

fn write_points(
    points: &PointSelection<'_>,
    format: Format,
    options: &ExportOptions,
    out: &mut dyn Write,
) -> io::Result<()> {
    match format {
        Format::Ply => ply::write_ply(points, options.normals, out),
        Format::Glb => glb::write_glb(points, options.cameras, out),
    }
}

fn known_formats(separator: &str) -> String {
    format!(".{}", Format::ALL.map(Format::extension).join(separator))
}
