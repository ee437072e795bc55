//! The answer of an assembly as cameras, depths and points in the world.

use nalgebra::{Isometry3, Point3, Translation3, Vector2};
use rayon::prelude::*;

use super::AlignOptions;
use super::assembly::{Assembly, BLOCK, Solution, blocks};
use super::canonical::{CanonicalDepth, CanonicalView};
use super::objective::ViewState;
use super::spanning_tree::{Frame, move_to_known};
use crate::buffer::Buffer;
use crate::geometry::{Camera, Intrinsics, PointMap};

/// A solved view.
pub(super) struct SolvedView {
    pub camera: Camera,
    /// Along z, world units; NaN where unknown.
    pub depth: Buffer<f32>,
    pub points: PointMap,
}

/// Moves solved frames to the world and units of the scene. Two or more `fixed` poses define both.
/// Otherwise frames are fitted to the `known` poses, or the world is the first view's frame in the
/// mean canonical unit.
pub(super) fn place_in_world(
    frames: &mut [Frame],
    known: &[(usize, Isometry3<f64>)],
    fixed: &[(usize, Isometry3<f64>)],
) {
    if fixed.len() > 1 {
        return;
    }
    if known.len() < 2 {
        let log_unit =
            frames.iter().map(|frame| frame.scaling().ln()).sum::<f64>() / frames.len() as f64;
        let (root, world_from_root) = known.first().copied().unwrap_or((0, Isometry3::identity()));
        let to_units = Frame::from_scaling((-log_unit).exp()) * frames[root].isometry.inverse();
        frames
            .iter_mut()
            .for_each(|frame| *frame = world_from_root * (to_units * *frame));
        frames[root].isometry = world_from_root;
    } else {
        move_to_known(frames, known);
    }
}

/// World from camera, with the scale of the view's canonical units.
pub(super) fn frame_of(view: &ViewState) -> Frame {
    Frame::from_parts(
        Translation3::from(view.centre),
        view.rotation,
        view.log_scale.exp(),
    )
}

/// Corrected log depths of a view in canonical units, by pixel.
pub(super) fn corrected<'a>(
    canonical: &'a CanonicalView,
    depths: &'a CanonicalDepth,
    corrections: &'a [f64],
) -> impl Iterator<Item = f64> + 'a {
    let width = canonical.width;
    depths
        .log_depth
        .iter()
        .enumerate()
        .map(move |(index, log_depth)| {
            let pixel = [(index % width) as f64, (index / width) as f64];
            f64::from(*log_depth) + interpolate(corrections, blocks(canonical), pixel)
        })
}

impl SolvedView {
    /// From a camera and log depths; `log_scale` converts these to world units.
    pub fn new(
        camera: Camera,
        log_scale: f64,
        log_depths: impl Iterator<Item = f64>,
        confidence: Vec<f32>,
    ) -> Self {
        let Intrinsics { width, height, .. } = camera.intrinsics;
        let mut points = PointMap {
            width: width as usize,
            height: height as usize,
            points: Buffer::default(),
            confidence: confidence.into(),
        };
        let depth: Buffer<f32> = log_depths
            .map(|log_depth| (log_depth + log_scale).exp() as f32)
            .collect();
        let point = |(pixel, depth): (usize, &f32)| {
            let point: Point3<f64> = camera.unproject(points.pixel(pixel), f64::from(*depth));
            [point.x as f32, point.y as f32, point.z as f32]
        };
        points.points = depth.iter().enumerate().map(point).collect();
        Self {
            camera,
            depth,
            points,
        }
    }
}

impl AlignOptions {
    /// Known intrinsics of a view, or the solved ones.
    pub(super) fn intrinsics(
        &self,
        view: usize,
        [width, height]: [usize; 2],
        log_focal: f64,
        principal: &Vector2<f64>,
    ) -> Intrinsics {
        let mut found = Intrinsics::centred(width as u32, height as u32, log_focal.exp());
        found.cx += principal.x;
        found.cy += principal.y;
        self.known(view).intrinsics.unwrap_or(found)
    }
}

impl Assembly<'_> {
    /// Cameras, depths and points in the world of the known poses, or else in the frame of the
    /// assembly's first view; in the units of the known poses, or else in some that are right on
    /// average.
    pub fn solved_views(&self, solution: &Solution) -> Vec<SolvedView> {
        let state = &solution.state;
        let fixed = self.fixed_poses();
        let mut frames: Vec<Frame> = state.views.iter().map(frame_of).collect();
        place_in_world(&mut frames, &self.known_poses(), &fixed);
        let solved = |(index, &view): (usize, &usize)| {
            let (canonical, state) = (&self.canonical[view], &state.views[index]);
            // What is known is passed on exactly, free of rounding.
            let fixed_pose = fixed
                .iter()
                .find(|(posed, _)| *posed == index)
                .map(|(_, pose)| *pose);
            let size = [canonical.width, canonical.height];
            let camera = Camera {
                intrinsics: self
                    .options
                    .intrinsics(view, size, state.log_focal, &state.principal),
                world_from_camera: fixed_pose.unwrap_or(frames[index].isometry),
            };
            let depths = &self.depths[view];
            SolvedView::new(
                camera,
                frames[index].scaling().ln(),
                corrected(canonical, depths, &state.corrections),
                depths.confidence.clone(),
            )
        };
        self.views.par_iter().enumerate().map(solved).collect()
    }
}

/// Between the middles of blocks, linearly; beyond the outer ones as they are.
fn interpolate(values: &[f64], [across, down]: [usize; 2], pixel: [f64; 2]) -> f64 {
    let place = |at: f64, count: usize| {
        let at = ((at - (BLOCK as f64 - 1.0) / 2.0) / BLOCK as f64).clamp(0.0, (count - 1) as f64);
        let low = (at.floor() as usize).min(count.saturating_sub(2));
        (low, (low + 1).min(count - 1), at - low as f64)
    };
    let ((left, right, x), (top, bottom, y)) = (place(pixel[0], across), place(pixel[1], down));
    let row =
        |row: usize| values[row * across + left] * (1.0 - x) + values[row * across + right] * x;
    row(top) * (1.0 - y) + row(bottom) * y
}
