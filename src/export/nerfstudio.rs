//! Scenes as nerfstudio reads them: `transforms.json`, the images, and a cloud to begin from.
//!
//! nerfstudio's world has z up, so a point (x, y, z) of the OpenCV world becomes (x, z, -y), which
//! the file states as `applied_transform`; the cloud is turned too. Readers keep poses in float32,
//! so a scene far from the world's origin is in its own frame, see
//! [`Scene::origin`](crate::scene::Scene::origin), and the transform takes the origin off too.
//! Cameras have OpenGL's axes, y up and z backward, and their principal points count from the
//! corner of the top left pixel.

use std::io::{self, Write};
use std::path::Path;

use serde_json::json;

use super::images::{ImageFolder, Images, Naming, PlacedImage};
use super::scene_export::{FormatTraits, OpenExport, SceneExport, SceneReport, check_placed};
use super::{ExportOptions, axes};
use crate::error::Result;
use crate::files::OutputFolder;
use crate::formats::{PosedImage, transforms};
use crate::scene::{PointSelection, Scene, ScenePoint};

/// Points of the cloud at most: as many as seed a splat; training makes more where they are wanted.
const MOST_POINTS: usize = 100_000;

/// The format.
pub(super) struct Nerfstudio;

#[derive(Debug)]
struct OpenNerfstudio {
    folder: OutputFolder,
    images: ImageFolder,
}

impl SceneExport for Nerfstudio {
    fn name(&self) -> &'static str {
        "nerfstudio"
    }

    fn traits(&self) -> FormatTraits {
        FormatTraits {
            points: true,
            images: true,
        }
    }

    fn open(&self, path: &Path, images: &Images) -> Result<Box<dyn OpenExport>> {
        let folder = OutputFolder::create(path)?;
        let images = ImageFolder::new(folder.folder(transforms::IMAGES)?, images, Naming::Any)?;
        Ok(Box::new(OpenNerfstudio { folder, images }))
    }
}

impl OpenExport for OpenNerfstudio {
    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn undistort(&mut self) -> Result<()> {
        self.images.undistort()
    }

    fn write(self: Box<Self>, scene: &Scene, options: &ExportOptions) -> Result<SceneReport> {
        check_placed(scene, "a nerfstudio folder")?;
        let scene = &*axes::with_y_down(scene);
        let selection = scene.select(&options.filter)?;
        let placed = self.images.placed(scene)?;
        let posed: Vec<PosedImage<'_>> = placed.iter().map(PlacedImage::posed).collect();
        let mut content = transforms::content(&posed, scene.origin);
        if let Some(origin) = scene.georeference {
            // z is up in that world already, and so nothing was applied to it.
            content["applied_transform"] = json!([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]);
            content["georeference"] = axes::georeference(origin, "x east, y north, z up");
        }
        let images = self.images.fill(&placed)?;
        self.folder
            .file(transforms::CLOUD)?
            .write_with(|out| write_cloud(&selection, out))?;
        // Last, because it names all others.
        self.folder.file(transforms::FILE)?.write_with(|out| {
            serde_json::to_writer_pretty(&mut *out, &content)?;
            out.write_all(b"\n")
        })?;
        self.folder.commit()?;
        Ok(SceneReport {
            images: Some(images),
            points: Some(cloud_size(&selection)),
            ..SceneReport::default()
        })
    }
}

/// Writes [`cloud_size`] of the points, evenly chosen, as PLY with positions and colours alone.
fn write_cloud(points: &PointSelection<'_>, out: &mut dyn Write) -> io::Result<()> {
    let (total, wanted) = (points.counts().kept, cloud_size(points));
    write!(
        out,
        "ply\nformat binary_little_endian 1.0\nelement vertex {}\n\
         property float x\nproperty float y\nproperty float z\n\
         property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n",
        wanted
    )?;
    // The point at which the share of those taken passes another whole one is taken.
    let taken = |index: &usize| (index + 1) * wanted / total > index * wanted / total;
    for (
        _,
        ScenePoint {
            position: [x, y, z],
            rgb,
            ..
        },
    ) in points.iter().enumerate().filter(|(index, _)| taken(index))
    {
        for value in [x, z, 0.0 - y] {
            out.write_all(&value.to_le_bytes())?;
        }
        out.write_all(&rgb)?;
    }
    Ok(())
}

/// How many points [`write_cloud`] writes.
fn cloud_size(points: &PointSelection<'_>) -> usize {
    points.counts().kept.min(MOST_POINTS)
}
