//! Depth and confidence maps: 16-bit PNG, OpenEXR, NumPy arrays and a coloured preview per view.

use std::io::{self, Write};
use std::ops::Deref;

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageBuffer, ImageEncoder as _, Rgb, RgbImage};

use super::colors::{Range, scale_color};
use super::exr::write_exr;
use super::npy::write_npy;
use super::tensors::{SafetensorsWriter, TensorMetadata, TensorSpec};
use crate::error::Result;
use crate::files::OutputFile;
use crate::files::OutputFolder;
use crate::scene::{Scene, SceneView};
use crate::views::names::{distinct_names, distinct_stems};

/// PNG levels per unit of depth: millimetres where the unit is a metre.
const LEVELS_PER_UNIT: f64 = 1000.0;
/// End of the name of the file with a view's depth as it is in the scene.
const DEPTH_ARRAY: &str = "depth.npy";
/// The preview's colour where there is no depth.
const UNKNOWN_COLOR: [u8; 3] = [0, 0, 0];

/// What was written for one view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DepthReport {
    /// The files start with this, `<stem>.depth.png` and so on: the image's name without its
    /// extension, with a number where another image has the same.
    pub stem: String,
    /// Pixels in the view.
    pub pixels: usize,
    /// Pixels whose depth is not finite or not in front of the camera, 0 in the PNG.
    pub unknown: usize,
    /// Pixels farther than the PNG can tell, 65535 in it.
    pub saturated: usize,
}

/// Writes for each view, at the size that the network saw,
/// - `<stem>.depth.png`: 16-bit grey, millimetres, 0 = unknown, 65535 = 65.535 m or farther;
/// - `<stem>.depth.exr`: channels `Z`, the depth, and `confidence`, 32-bit floats as in the scene;
/// - `<stem>.depth.npy` and `<stem>.confidence.npy`: float32 `(height, width)`, as in the scene;
/// - `<stem>.depth.preview.png`: inverse depth in colours, near is bright, unknown is black;
///
/// and commits the folder. Depth is z in the view's own camera, not the distance along the ray.
///
/// # Errors
/// [`Error::Usage`](crate::Error::Usage) if a view is inconsistent, [`Error::Io`](crate::Error::Io)
/// with the path.
pub fn write_depth(scene: &Scene, folder: OutputFolder) -> Result<Vec<DepthReport>> {
    scene.check()?;
    let stems = depth_stems(scene);
    let reports = scene
        .views
        .iter()
        .zip(stems)
        .map(|(view, stem)| write_view(view, stem, &folder))
        .collect::<Result<Vec<DepthReport>>>()?;
    folder.commit()?;
    Ok(reports)
}

/// The file of each view's depth in the folder that [`write_depth`] fills, `<stem>.depth.npy`.
pub fn depth_files(scene: &Scene) -> Vec<String> {
    depth_stems(scene)
        .iter()
        .map(|stem| format!("{stem}.{DEPTH_ARRAY}"))
        .collect()
}

fn depth_stems(scene: &Scene) -> Vec<String> {
    distinct_stems(scene.views.iter().map(|view| view.name.as_str()))
}

/// Writes the depth maps of the views that have a camera as one safetensors file: float32 `(height,
/// width)`, `<name>.depth` along z in the units of the poses and `<name>.confidence`, names as in a
/// [`CamerasFile`](super::CamerasFile). Returns how many views there are.
///
/// # Errors
/// [`Error::Usage`](crate::Error::Usage) if a view is inconsistent, [`Error::Io`](crate::Error::Io)
/// with the path.
pub fn write_depth_tensors(scene: &Scene, file: OutputFile) -> Result<usize> {
    scene.check()?;
    let names = distinct_names(scene.views.iter().map(|view| view.name.as_str()));
    let placed: Vec<(&SceneView, String)> = scene
        .views
        .iter()
        .zip(names)
        .filter(|(view, _)| view.camera.is_some())
        .collect();
    let tensors = placed.iter().flat_map(|(view, name)| {
        let shape = [view.points.height, view.points.width];
        ["depth", "confidence"].map(|what| TensorSpec::new(format!("{name}.{what}"), &shape))
    });
    let path = file.path().to_path_buf();
    let mut writer =
        SafetensorsWriter::new(file, &path, tensors.collect(), &TensorMetadata::new())?;
    for (view, name) in &placed {
        writer.write(&format!("{name}.depth"), &view.depth)?;
        writer.write(&format!("{name}.confidence"), &view.points.confidence)?;
    }
    writer.commit()?;
    Ok(placed.len())
}

fn write_view(view: &SceneView, stem: String, folder: &OutputFolder) -> Result<DepthReport> {
    let (width, height) = view.rgb.dimensions();
    let shape = [height as usize, width as usize];
    let levels: Vec<u16> = view.depth.iter().map(|&depth| level_of(depth)).collect();
    let report = DepthReport {
        stem,
        pixels: levels.len(),
        unknown: levels.iter().filter(|level| **level == 0).count(),
        saturated: view
            .depth
            .iter()
            .filter(|depth| is_saturated(**depth))
            .count(),
    };
    let file = |ending: &str| folder.file(&format!("{}.{ending}", report.stem));
    file("depth.png")?.write_with(|out| {
        // The encoder takes 16-bit samples in the machine's own byte order.
        let bytes: Vec<u8> = levels
            .iter()
            .flat_map(|level| level.to_ne_bytes())
            .collect();
        write_png(&bytes, width, height, ExtendedColorType::L16, out)
    })?;
    let channels = [
        ("Z", &*view.depth),
        ("confidence", &*view.points.confidence),
    ];
    file("depth.exr")?.write_with(|out| write_exr(width, height, &channels, out))?;
    file(DEPTH_ARRAY)?.write_with(|out| write_npy(&shape, &view.depth, out))?;
    file("confidence.npy")?.write_with(|out| write_npy(&shape, &view.points.confidence, out))?;
    file("depth.preview.png")?.write_with(|out| write_rgb_png(&preview(view), out))?;
    Ok(report)
}

/// The PNG's level: never 0 for a known depth, however close.
fn level_of(depth: f32) -> u16 {
    if !is_known(depth) {
        return 0;
    }
    // The cast saturates.
    ((f64::from(depth) * LEVELS_PER_UNIT).round() as u16).max(1)
}

fn is_known(depth: f32) -> bool {
    depth.is_finite() && depth > 0.0
}

fn is_saturated(depth: f32) -> bool {
    is_known(depth) && (f64::from(depth) * LEVELS_PER_UNIT).round() > f64::from(u16::MAX)
}

/// Inverse depth on a colour scale between its robust percentiles.
fn preview(view: &SceneView) -> RgbImage {
    let known = view.depth.iter().copied().filter(|&depth| is_known(depth));
    // The inverse of the tiniest depths would be infinite.
    let inverse = |depth: f32| (1.0 / depth).min(f32::MAX);
    let range = Range::robust(&mut known.map(inverse).collect::<Vec<f32>>());
    let mut image = RgbImage::new(view.rgb.width(), view.rgb.height());
    for (pixel, &depth) in image.pixels_mut().zip(&view.depth) {
        pixel.0 = match range {
            Some(range) if is_known(depth) => scale_color(range.position(inverse(depth))),
            _ => UNKNOWN_COLOR,
        };
    }
    image
}

/// Writes a colour image as PNG.
///
/// # Errors
/// Only the writer's own and those of an image without pixels.
pub fn write_rgb_png<C: Deref<Target = [u8]>>(
    image: &ImageBuffer<Rgb<u8>, C>,
    out: &mut dyn Write,
) -> io::Result<()> {
    write_png(
        image.as_raw(),
        image.width(),
        image.height(),
        ExtendedColorType::Rgb8,
        out,
    )
}

fn write_png(
    bytes: &[u8],
    width: u32,
    height: u32,
    color: ExtendedColorType,
    out: &mut dyn Write,
) -> io::Result<()> {
    // In memory first: the encoder wraps the writer's errors beyond recognition.
    let mut png = Vec::new();
    PngEncoder::new(&mut png)
        .write_image(bytes, width, height, color)
        .map_err(io::Error::other)?;
    out.write_all(&png)
}
