//! An image of a point cloud and its cameras, drawn on the CPU.
//!
//! Points become elliptical splats (Zwicker et al., "Surface splatting", 2001) that are as large as
//! a pixel's footprint on the surface, so that surfaces close near and far; eye-dome lighting
//! (Boucheny, 2009) then shades them by the depth buffer alone. The result is the same bit for bit
//! with any number of threads.

mod canvas;
mod frustums;
mod splats;
mod surfels;
mod viewpoint;

#[cfg(test)]
mod tests;

use image::RgbImage;
use nalgebra::Isometry3;
use rayon::prelude::*;

use self::canvas::Canvas;
use self::surfels::{Surfel, surfels};
use crate::error::{Error, Result};
use crate::geometry::{Camera, Intrinsics, estimate_focal};
use crate::scene::{PointSelection, Scene, SceneView};

/// Samples along a pixel's side.
const SAMPLES: u32 = 2;
/// The longest side of a preview, pixels.
const LONGEST_SIDE: u32 = 8192;
/// Of scenes with more points than this every second one of every second row is drawn, or every
/// third and so on: they are finer than a preview's pixels.
const MOST_SURFELS: usize = 4_000_000;

/// How a point cloud is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PreviewOptions {
    /// Columns of the image.
    pub width: u32,
    /// Rows of the image.
    pub height: u32,
    /// Degrees that the viewer goes around the scene, to the right from behind the cameras: at 0 it
    /// looks where they look, at 90 from their right, at 180 towards them.
    pub azimuth: f64,
    /// Degrees that the viewer rises above the cameras' horizon, -90 to 90.
    pub elevation: f64,
    /// The colour behind everything, sRGB.
    pub background: [u8; 3],
    /// Whether each camera is drawn, as a frustum that holds its image.
    pub cameras: bool,
    /// Strength of the eye-dome lighting, 0 for none.
    pub shading: f32,
}

impl Default for PreviewOptions {
    fn default() -> Self {
        Self {
            width: 1280,
            height: 960,
            azimuth: 35.0,
            elevation: 20.0,
            background: [246, 247, 249],
            cameras: true,
            shading: 1.0,
        }
    }
}

impl PreviewOptions {
    /// Checks what does not depend on the scene.
    ///
    /// # Errors
    /// [`Error::Usage`] for a size of no pixels or too many, an angle out of range or a negative
    /// shading.
    pub fn check(&self) -> Result<()> {
        if ![self.width, self.height]
            .iter()
            .all(|side| (1..=LONGEST_SIDE).contains(side))
        {
            return Err(Error::Usage(format!(
                "a preview must have 1 to {LONGEST_SIDE} pixels a side, got {}x{}",
                self.width, self.height
            )));
        }
        if !self.azimuth.is_finite() || !(-90.0..=90.0).contains(&self.elevation) {
            return Err(Error::Usage(format!(
                "a preview is seen from any azimuth and an elevation of -90 to 90 degrees, got {},{}",
                self.azimuth, self.elevation
            )));
        }
        if !(self.shading.is_finite() && self.shading >= 0.0) {
            return Err(Error::Usage(format!(
                "a preview's shading must be 0 or more, got {}",
                self.shading
            )));
        }
        Ok(())
    }
}

/// Draws the points kept, and the cameras, from [`preview_camera`].
///
/// # Errors
/// As [`PreviewOptions::check`].
pub fn draw_preview(points: &PointSelection<'_>, options: &PreviewOptions) -> Result<RgbImage> {
    options.check()?;
    let _span = tracing::debug_span!("preview").entered();
    let surfels = all_surfels(points);
    let camera = viewpoint::choose(points.scene(), &surfels, options);
    Ok(draw(points.scene(), &surfels, &camera, options))
}

/// The camera of a preview: behind the cameras of the scene, turned to the side and raised as
/// `options` say, as near as it gets with the cloud and the cameras in the image. "Up" is against
/// the mean of the cameras' y axes. A few of the farthest points on every side may lie outside,
/// lest they shrink all others.
///
/// # Errors
/// As [`PreviewOptions::check`].
pub fn preview_camera(points: &PointSelection<'_>, options: &PreviewOptions) -> Result<Camera> {
    options.check()?;
    Ok(viewpoint::choose(
        points.scene(),
        &all_surfels(points),
        options,
    ))
}

/// Draws the points kept as `camera` sees them, at its size; size and angles of `options` play no
/// part.
///
/// A point is left out where no neighbour along its row, or none along its column, lies within
/// twenty times the spacing that pixels have on a surface that faces their camera, or where the
/// neighbour on one side lies beyond and that on the other not within five times: such points hang
/// between a near surface and a far one. The rule is for edges: a view that it would take more than
/// half of has no surfaces, and keeps all its points. Points nearer to `camera` than a fiftieth of
/// the median are left out too, for they would hide everything.
///
/// # Errors
/// As [`PreviewOptions::check`], for the size of `camera`.
pub fn draw_from(
    points: &PointSelection<'_>,
    camera: &Camera,
    options: &PreviewOptions,
) -> Result<RgbImage> {
    let Intrinsics { width, height, .. } = camera.intrinsics;
    PreviewOptions {
        width,
        height,
        ..*options
    }
    .check()?;
    let _span = tracing::debug_span!("preview").entered();
    Ok(draw(points.scene(), &all_surfels(points), camera, options))
}

fn draw(scene: &Scene, surfels: &[Surfel], camera: &Camera, options: &PreviewOptions) -> RgbImage {
    let inside = camera.intrinsics;
    let samples = f64::from(SAMPLES);
    let (width, height) = (inside.width * SAMPLES, inside.height * SAMPLES);
    let dense = Camera {
        intrinsics: inside.at_file(samples, samples, 0, 0, width, height),
        ..*camera
    };
    let mut canvas = Canvas::new(width as usize, height as usize, options.background);
    splats::draw(surfels, &dense, &mut canvas);
    canvas.shade(options.shading, SAMPLES as usize);
    if options.cameras {
        frustums::draw(scene, &dense, samples, &mut canvas);
    }
    canvas.shrink(SAMPLES as usize)
}

/// The surfels of all views.
fn all_surfels(points: &PointSelection<'_>) -> Vec<Surfel> {
    let stand_in = stand_in_camera(points.scene());
    let total = points.counts().total;
    let stride = (1..)
        .find(|stride| total / (stride * stride) <= MOST_SURFELS)
        .unwrap_or(1);
    let views = points.masks();
    views
        .flat_map(|(view, kept)| {
            surfels(
                view,
                view.camera.as_ref().unwrap_or(&stand_in),
                &kept,
                stride,
            )
        })
        .collect()
}

/// The cameras that are drawn, with their views: those placed, or the first alone, which is the
/// world.
fn drawn_cameras(scene: &Scene) -> Vec<(Camera, &SceneView)> {
    let placed: Vec<_> = scene
        .views
        .iter()
        .filter_map(|view| Some((view.camera?, view)))
        .collect();
    match scene.views.first() {
        Some(first) if placed.is_empty() => vec![(stand_in_camera(scene), first)],
        _ => placed,
    }
}

/// What stands in for a camera not placed: the first, at the world's origin, with the focal length
/// that its points tell of, or as long as the image where they tell none.
fn stand_in_camera(scene: &Scene) -> Camera {
    let first = scene.views.first();
    if let Some(placed) = first.and_then(|view| view.camera) {
        return placed;
    }
    let intrinsics = first.map_or(Intrinsics::centred(1, 1, 1.0), |view| {
        let (width, height) = view.rgb.dimensions();
        let focal = estimate_focal(&view.points).filter(|focal| focal.is_normal());
        Intrinsics::centred(
            width,
            height,
            focal.unwrap_or_else(|| f64::from(width.max(height))),
        )
    });
    Camera {
        intrinsics,
        world_from_camera: Isometry3::identity(),
    }
}

/// The value that the `part` of `values` do not exceed, whose order is changed; `None` if there are
/// none.
fn quantile(values: &mut [f32], part: f64) -> Option<f32> {
    let last = values.len().checked_sub(1)?;
    Some(
        *values
            .select_nth_unstable_by((part * last as f64).round() as usize, f32::total_cmp)
            .1,
    )
}

/// The median depth of all points in the cameras that see them; 1 where there is none above zero.
fn median_depth(scene: &Scene) -> f64 {
    let stand_in = stand_in_camera(scene);
    let mut depths: Vec<f32> = scene
        .views
        .par_iter()
        .flat_map_iter(|view| {
            let camera_from_world = view
                .camera
                .unwrap_or(stand_in)
                .world_from_camera
                .inverse()
                .cast::<f32>();
            view.points
                .points
                .iter()
                .map(move |&point| (camera_from_world * nalgebra::Point3::from(point)).z)
        })
        .filter(|depth| depth.is_finite() && *depth > 0.0)
        .collect();
    quantile(&mut depths, 0.5).map_or(1.0, f64::from)
}
