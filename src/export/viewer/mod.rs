//! A scene as a web page: one file that opens from disk in any browser and needs no network.
//!
//! The page is `page/page.html` with the style sheet, the library three.js (`three/`), our modules
//! and the scene inside. A scene is JSON (see [`description`]), a block of points is base64 of
//! [`blocks`], an image is base64 of a JPEG. A content security policy lets no other script run
//! and nothing be fetched.

mod assembly;
mod blocks;
mod images;
mod levels;
mod up;

use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::frustums::image_distance;
use super::images::{ImageCounts, Images};
use super::{
    CameraEntry, CameraModels, CamerasFile, ExportOptions, FormatTraits, OpenExport, SceneExport,
    SceneReport,
};
use crate::error::Result;
use crate::files::OutputFile;
use crate::geometry::median;
use crate::scene::{PointSelection, Scene};

use assembly::Parts;
use blocks::{Block, Extent, Points};
use levels::Levels;
use up::Up;

/// The format.
pub(super) struct Page;

#[derive(Debug)]
struct OpenPage(OutputFile);

/// Version of the scene's description in the page.
const VERSION: u32 = 1;
/// Length of a frustum where no depth is known: a share of the gap between cameras, between shares
/// of the scene's extent.
const SHARE_OF_GAP: f64 = 0.6;
const SHARES_OF_EXTENT: [f64; 2] = [0.02, 0.1];

impl SceneExport for Page {
    fn name(&self) -> &'static str {
        "html"
    }

    fn kind(&self) -> &'static str {
        "page"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["html", "htm"]
    }

    fn traits(&self) -> FormatTraits {
        FormatTraits {
            points: true,
            ..FormatTraits::default()
        }
    }

    fn open(&self, path: &Path, _: &Images) -> Result<Box<dyn OpenExport>> {
        Ok(Box::new(OpenPage(OutputFile::create(path)?)))
    }
}

impl OpenExport for OpenPage {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(self: Box<Self>, scene: &Scene, options: &ExportOptions) -> Result<SceneReport> {
        let selection = scene.select(&options.filter)?;
        let cameras = cameras(scene, options.cameras)?;
        let title = self
            .path()
            .file_stem()
            .map_or("scene".into(), |stem| stem.to_string_lossy().into_owned());
        self.0
            .write_with(|out| write_page(&selection, &cameras, &title, out))?;
        Ok(SceneReport {
            cloud: Some(selection.counts()),
            images: (!cameras.is_empty()).then(|| ImageCounts {
                total: cameras.len(),
                ..ImageCounts::default()
            }),
            ..SceneReport::default()
        })
    }
}

/// The views that the page shows with a camera: their indices, and what `cameras.json` has of them.
fn cameras(scene: &Scene, models: CameraModels) -> Result<Vec<(usize, CameraEntry)>> {
    let entries = CamerasFile::new(scene)?.images.into_iter().enumerate();
    Ok(match models {
        CameraModels::Frustums => entries
            .filter(|(_, entry)| entry.world_from_camera.is_some())
            .collect(),
        CameraModels::None => Vec::new(),
    })
}

/// Writes the page of the points and cameras.
fn write_page(
    selection: &PointSelection<'_>,
    cameras: &[(usize, CameraEntry)],
    title: &str,
    out: &mut dyn Write,
) -> io::Result<()> {
    let scene = selection.scene();
    let images = images::encode(cameras.iter().map(|(view, _)| &scene.views[*view].rgb))?;
    let confidences: Vec<f32> = selection.iter().map(|point| point.confidence).collect();
    let levels = Levels::of(&confidences);
    let mut points = Points {
        positions: Vec::with_capacity(confidences.len()),
        rgb: Vec::with_capacity(confidences.len()),
        levels: confidences
            .iter()
            .map(|confidence| levels.level(*confidence))
            .collect(),
    };
    drop(confidences);
    for point in selection.iter() {
        points.positions.push(point.position);
        points.rgb.push(point.rgb);
    }
    let extent = Extent::of(&points.positions);
    let up = Up::of(scene, &points.positions, &extent);
    let blocks = blocks::blocks(&points, &extent)?;
    drop(points);
    let mut description = description(scene, &extent, cameras);
    description["title"] = title.into();
    description["up"] = json!({ "cameras": up.cameras, "ground": up.ground });
    description["levels"] = json!(levels.starts());
    description["blocks"] = blocks.iter().map(Block::description).collect();
    Parts {
        title,
        description: &description,
        blocks: &blocks,
        images: &images,
    }
    .write(out)
}

/// What the page's modules read first. Positions are in the scene's frame, poses in the world: see
/// [`Scene`].
///
/// | member | content |
/// |---|---|
/// | `title` | the file's name |
/// | `metric` | whether units are metres |
/// | `origin` | of the scene's frame in the world |
/// | `extent` | `low` and `high` corner of the box that holds most of the points |
/// | `up` | unit vectors up, by `cameras` and by `ground`, or `null` |
/// | `frustum` | distance of the images from their cameras |
/// | `levels` | the confidence at which each level begins |
/// | `blocks` | of each block `count`, `low`, `size` and `spacing` |
/// | `cameras` | of each image its entry in `cameras.json`, and the median `depth` or `null` |
fn description(scene: &Scene, extent: &Extent, cameras: &[(usize, CameraEntry)]) -> Value {
    let depth = |view: usize| {
        let known = |depth: &f32| depth.is_finite() && *depth > 0.0;
        let depths = scene.views[view].depth.iter().copied().filter(known);
        median(depths.map(f64::from))
    };
    let depths: Vec<Option<f64>> = cameras.iter().map(|(view, _)| depth(*view)).collect();
    let frustum = match depths.iter().any(Option::is_some) {
        true => image_distance(scene),
        false => {
            let [least, most] = SHARES_OF_EXTENT.map(|share| share * extent.length());
            (SHARE_OF_GAP * scene.camera_gap()).clamp(least, most)
        }
    };
    let camera = |((_, entry), depth): (&(usize, CameraEntry), Option<f64>)| json!({ "entry": entry, "depth": depth });
    json!({
        "format": "mast3r-viewer",
        "version": VERSION,
        "metric": scene.metric,
        "origin": scene.origin.as_slice(),
        "extent": { "low": extent.low, "high": extent.high },
        "frustum": frustum,
        "cameras": cameras.iter().zip(depths).map(camera).collect::<Value>(),
    })
}

#[cfg(test)]
mod tests;
