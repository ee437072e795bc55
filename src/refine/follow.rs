//! What follows from the refined cameras: the scene's frame and scale, depth maps, points.

use nalgebra::{Isometry3, Similarity3, Translation3, UnitQuaternion, Vector3};

use super::depth_at;
use super::tracks::{Observation, Point, Rig};
use crate::alignment::{AlignOptions, KnownPoses};
use crate::geometry::procrustes::{Correspondence, similarity};
use crate::geometry::{Camera, Intrinsics, Lens, median};
use crate::scene::{self, SceneView, Track};

/// For each view the files' pixels of its tracks with their depths, in the units of the rig.
pub(super) fn depths_by_view(
    rig: &Rig,
    points: &[Point],
    views: usize,
) -> Vec<Vec<([f64; 2], f64)>> {
    let mut depths = vec![Vec::new(); views];
    for point in points {
        for seen in &point.track {
            if let Some(local) = rig.local(seen.view, &point.position) {
                depths[seen.view].push((seen.pixel, local.z));
            }
        }
    }
    depths
}

/// Ratios of the depths that a view has and those of its tracks.
pub(super) fn depth_ratios(view: &SceneView, tracks: &[([f64; 2], f64)]) -> Vec<f64> {
    tracks
        .iter()
        .filter_map(|&(pixel, depth)| Some(depth_at(view, pixel)? / depth))
        .collect()
}

/// From the frame of the bundle adjustment to that of the scene; `ratios` are the [`depth_ratios`]
/// of each view.
///
/// Two fixed poses are the frame. Poses that were a start are moved back to. Else the first refined
/// camera, or the fixed one, stays where it is, and the scale is the one that aligned depths have.
pub(super) fn world_from_rig(
    views: &[SceneView],
    rig: &Rig,
    ratios: &[Vec<f64>],
    is_refined: &[bool],
    options: &AlignOptions,
) -> Similarity3<f64> {
    let known = |view: &usize| {
        options
            .known
            .get(*view)
            .and_then(|known| known.world_from_camera)
            .is_some()
    };
    let refined: Vec<usize> = (0..views.len()).filter(|&view| is_refined[view]).collect();
    let known: Vec<usize> = refined.iter().copied().filter(known).collect();
    if known.len() >= 2 {
        if options.known_poses == KnownPoses::Fixed {
            return Similarity3::identity();
        }
        let pair = |&view: &usize| {
            let to = views[view]
                .camera
                .as_ref()?
                .world_from_camera
                .translation
                .vector;
            Some(Correspondence {
                from: rig.centre(view)?.into(),
                to: to.into(),
                weight: 1.0,
            })
        };
        let pairs: Vec<Correspondence> = known.iter().filter_map(pair).collect();
        if let Some(found) = similarity(&pairs) {
            return found;
        }
    }
    let scale = median(
        refined
            .iter()
            .flat_map(|&view| ratios[view].iter().copied()),
    )
    .unwrap_or(1.0);
    // One that the alignment left out has no place there.
    let aligned = || refined.iter().find(|&&view| views[view].camera.is_some());
    let anchor = known.first().or_else(aligned).copied().unwrap_or(0);
    let aligned = views[anchor]
        .camera
        .as_ref()
        .map(|camera| camera.world_from_camera);
    let (Some(to), Some(from)) = (aligned, rig.camera_from_world[anchor]) else {
        return Similarity3::identity();
    };
    Similarity3::from_isometry(to, 1.0) * Similarity3::from_scaling(scale) * from
}

/// The pose of a camera in the scene's frame.
pub(super) fn moved(
    world_from_rig: &Similarity3<f64>,
    camera_from_rig: &Isometry3<f64>,
) -> Isometry3<f64> {
    let pose = world_from_rig * camera_from_rig.inverse();
    let mut rotation: UnitQuaternion<f64> = pose.isometry.rotation;
    rotation.renormalize();
    Isometry3::from_parts(
        Translation3::from(pose.isometry.translation.vector),
        rotation,
    )
}

/// Depths of tracks that a view's own depths are scaled by at least.
const LEAST_DEPTHS: usize = 10;

/// Gives a view its refined camera; its depths are scaled by their `ratios` to those of its tracks,
/// and its points follow.
pub(super) fn follow(
    view: &mut SceneView,
    world_from_camera: Isometry3<f64>,
    lens: &Lens,
    known: Option<Intrinsics>,
    ratios: &[f64],
    units: f64,
) {
    let [kx, ky] = view.crop.scale_to_file();
    let [cx, cy] = view.crop.to_framed(lens.principal);
    let (width, height) = view.rgb.dimensions();
    let found = Intrinsics {
        width,
        height,
        fx: lens.focal[0] / kx,
        fy: lens.focal[1] / ky,
        cx,
        cy,
    };
    let camera = Camera {
        intrinsics: known.unwrap_or(found),
        world_from_camera,
    };
    let ratio = median(ratios.iter().copied()).filter(|_| ratios.len() >= LEAST_DEPTHS);
    let scale = ratio.map_or(1.0, |ratio| units / ratio);
    view.depth
        .iter_mut()
        .for_each(|depth| *depth = (f64::from(*depth) * scale) as f32);
    for (index, (point, depth)) in view.points.points.iter_mut().zip(&view.depth).enumerate() {
        let pixel = [index % width as usize, index / width as usize].map(|at| at as f64);
        let [x, y] = lens.unproject(view.crop.to_file(pixel));
        let depth = f64::from(*depth);
        let place = world_from_camera.rotation * Vector3::new(x * depth, y * depth, depth)
            + world_from_camera.translation.vector;
        *point = place.map(|value| value as f32).into();
    }
    view.camera = Some(camera);
}

pub(super) fn refined_track(
    point: &Point,
    world_from_rig: &Similarity3<f64>,
    views: &[SceneView],
) -> Track {
    let position = world_from_rig.transform_point(&point.position.into());
    let color = |seen: &Observation| {
        let view = &views[seen.view];
        let limits = [view.rgb.width(), view.rgb.height()].map(|side| f64::from(side) - 1.0);
        let at = view.crop.to_framed(seen.pixel);
        let [x, y] = [0, 1].map(|axis| at[axis].round().clamp(0.0, limits[axis]) as u32);
        view.rgb.get_pixel(x, y).0
    };
    let colors: Vec<[u8; 3]> = point.track.iter().map(color).collect();
    let count = colors.len() as u32;
    let mean = |channel: usize| {
        (colors
            .iter()
            .map(|rgb| u32::from(rgb[channel]))
            .sum::<u32>()
            + count / 2)
            / count
    };
    Track {
        position,
        rgb: [0, 1, 2].map(|channel| mean(channel) as u8),
        observations: point
            .track
            .iter()
            .map(|seen| scene::Observation {
                view: seen.view,
                pixel: seen.pixel,
            })
            .collect(),
    }
}
