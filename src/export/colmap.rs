//! A sparse model for COLMAP and for whatever reads its models, as text.
//!
//! COLMAP's pixels have the corner of the top left one at (0, 0), its poses take the world to the camera, and its numbers
//! count from 1. Cameras are those of the upright files; a reader that ignores EXIF orientations needs upright files.

use std::io::{self, Write};

use nalgebra::Point3;

use super::ExportOptions;
use super::cameras::at_file;
use super::folder::OutputFolder;
use super::names::distinct_names;
use crate::error::Result;
use crate::geometry::{Camera, Intrinsics};
use crate::scene::{Scene, ScenePoint, SceneView};
use crate::views::Crop;

/// Of the pixels of a view, every so many-th of every so many-th row becomes a point.
const STEP: usize = 4;
/// Another view shows a point if the depth that it has there is the point's, but for this share.
const SAME_DEPTH: f64 = 0.02;

/// What a model holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ColmapCounts {
    /// Views with a camera.
    pub images: usize,
    /// Distinct intrinsics.
    pub cameras: usize,
    /// Points.
    pub points: usize,
}

/// A point and where it is seen: views by their order in the model, and pixels of the upright file.
struct Track {
    point: ScenePoint,
    seen: Vec<(usize, [f64; 2])>,
}

/// Writes `cameras.txt`, `images.txt` and `points3D.txt` of the views that have a camera, and commits the folder.
///
/// Of the points that the filter keeps, one in sixteen is written. A point's track is its own pixel and its projections
/// into the views whose depths agree with it; its error is -1, unknown.
///
/// # Errors
/// As [`write()`](super::write()) for the scene and the filter; [`Error::Io`](crate::Error::Io) with the path.
pub fn write_colmap(scene: &Scene, options: &ExportOptions, folder: OutputFolder) -> Result<ColmapCounts> {
    let selection = scene.select(&options.filter)?;
    let names = distinct_names(scene.views.iter().map(|view| view.name.as_str()));
    let views: Vec<Placed<'_>> = scene
        .views
        .iter()
        .zip(names)
        .enumerate()
        .filter_map(|(index, (view, name))| Some(Placed { index, view, camera: view.camera?, name }))
        .collect();
    let tracks: Vec<Track> = selection
        .located()
        .filter(|(view, pixel, _)| {
            let width = scene.views[*view].points.width;
            pixel % width % STEP == STEP / 2 && pixel / width % STEP == STEP / 2
        })
        .filter_map(|(view, pixel, point)| track(&views, view, pixel, point))
        .collect();
    let cameras: Vec<Intrinsics> =
        views.iter().map(|placed| at_file(&placed.camera.intrinsics, &placed.view.crop)).collect();
    let mut distinct: Vec<Intrinsics> = Vec::new();
    let ids: Vec<usize> = cameras
        .iter()
        .map(|camera| {
            let place = distinct.iter().position(|other| other == camera).unwrap_or(distinct.len());
            if place == distinct.len() {
                distinct.push(*camera);
            }
            place + 1
        })
        .collect();
    folder.file("cameras.txt")?.write_with(|out| write_cameras(&distinct, out))?;
    // Of each view, its keypoints; of each track's element, its place among them.
    let mut keypoints: Vec<Vec<([f64; 2], usize)>> = vec![Vec::new(); views.len()];
    folder.file("points3D.txt")?.write_with(|out| {
        writeln!(out, "# POINT3D_ID X Y Z R G B ERROR (IMAGE_ID POINT2D_IDX)...")?;
        for (number, Track { point, seen }) in (1..).zip(&tracks) {
            let ([x, y, z], [r, g, b]) = (point.position, point.rgb);
            write!(out, "{number} {x} {y} {z} {r} {g} {b} -1")?;
            for (view, pixel) in seen {
                write!(out, " {} {}", view + 1, keypoints[*view].len())?;
                keypoints[*view].push((*pixel, number));
            }
            writeln!(out)?;
        }
        Ok(())
    })?;
    folder.file("images.txt")?.write_with(|out| {
        writeln!(out, "# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then (X Y POINT3D_ID)...")?;
        for (view, (placed, keypoints)) in views.iter().zip(&keypoints).enumerate() {
            write_image(view + 1, ids[view], placed, keypoints, out)?;
        }
        Ok(())
    })?;
    folder.commit()?;
    Ok(ColmapCounts { images: views.len(), cameras: distinct.len(), points: tracks.len() })
}

/// A view with a camera.
struct Placed<'a> {
    /// Among all views of the scene.
    index: usize,
    view: &'a SceneView,
    camera: Camera,
    name: String,
}

fn track(views: &[Placed<'_>], own: usize, pixel: usize, point: ScenePoint) -> Option<Track> {
    let world = Point3::from(point.position.map(f64::from));
    let mut seen = Vec::new();
    for (place, Placed { index, view, camera, .. }) in views.iter().enumerate() {
        if *index == own {
            // First, whatever its number: a track begins where its point comes from.
            seen.insert(0, (place, keypoint(view.points.pixel(pixel), &view.crop)));
        } else if let Some(at) = camera.project(&world)
            && let Some(nearest) = view.points.index(at)
            && (f64::from(view.depth[nearest]) / camera.depth(&world) - 1.0).abs() <= SAME_DEPTH
        {
            seen.push((place, keypoint(at, &view.crop)));
        }
    }
    let is_placed = views.iter().any(|placed| placed.index == own);
    is_placed.then_some(Track { point, seen })
}

fn keypoint(pixel: [f64; 2], crop: &Crop) -> [f64; 2] {
    crop.to_file(pixel).map(|at| at + 0.5)
}

fn write_cameras(cameras: &[Intrinsics], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "# CAMERA_ID MODEL WIDTH HEIGHT FX FY CX CY")?;
    for (number, Intrinsics { width, height, fx, fy, cx, cy }) in (1..).zip(cameras) {
        writeln!(out, "{number} PINHOLE {width} {height} {fx} {fy} {} {}", cx + 0.5, cy + 0.5)?;
    }
    Ok(())
}

fn write_image(
    number: usize,
    camera: usize,
    placed: &Placed<'_>,
    keypoints: &[([f64; 2], usize)],
    out: &mut dyn Write,
) -> io::Result<()> {
    let camera_from_world = placed.camera.world_from_camera.inverse();
    let (turn, shift) = (camera_from_world.rotation, camera_from_world.translation);
    write!(out, "{number} {} {} {} {} ", turn.w, turn.i, turn.j, turn.k)?;
    writeln!(out, "{} {} {} {camera} {}", shift.x, shift.y, shift.z, placed.name)?;
    for (place, ([x, y], point)) in keypoints.iter().enumerate() {
        write!(out, "{}{x:.3} {y:.3} {point}", if place > 0 { " " } else { "" })?;
    }
    writeln!(out)
}
