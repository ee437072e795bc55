//! The answer of an assembly as cameras, depths and points in the world.

use nalgebra::{Isometry3, Point3, Translation3};
use rayon::prelude::*;

use super::assembly::{Assembly, BLOCK, Solution, blocks};
use super::objective::ViewState;
use super::spanning_tree::{Frame, move_to_known};
use crate::geometry::{Camera, Intrinsics, PointMap};

/// A solved view.
pub(super) struct SolvedView {
    pub camera: Camera,
    /// Along z, world units; NaN where unknown.
    pub depth: Vec<f32>,
    pub points: PointMap,
}

impl Assembly<'_> {
    /// Moves solved frames to the world and the units of the scene. Where two poses or more are
    /// fixed they are there.
    fn place_in_world(&self, frames: &mut [Frame]) {
        let (known, fixed) = (self.known_poses(), self.fixed_poses());
        if fixed.len() > 1 {
            return;
        }
        if known.len() < 2 {
            let log_unit =
                frames.iter().map(|frame| frame.scaling().ln()).sum::<f64>() / frames.len() as f64;
            let (root, world_from_root) =
                known.first().copied().unwrap_or((0, Isometry3::identity()));
            let to_units = Frame::from_scaling((-log_unit).exp()) * frames[root].isometry.inverse();
            frames
                .iter_mut()
                .for_each(|frame| *frame = world_from_root * (to_units * *frame));
            frames[root].isometry = world_from_root;
        } else {
            move_to_known(frames, &known);
        }
    }

    /// Cameras, depths and points in the world of the known poses, or else in the frame of the
    /// assembly's first view; in the units of the known poses, or else in some that are right on
    /// average.
    pub fn solved_views(&self, solution: &Solution) -> Vec<SolvedView> {
        let state = &solution.state;
        let fixed = self.fixed_poses();
        let frame = |view: &ViewState| {
            Frame::from_parts(
                Translation3::from(view.centre),
                view.rotation,
                view.log_scale.exp(),
            )
        };
        let mut frames: Vec<Frame> = state.views.iter().map(frame).collect();
        self.place_in_world(&mut frames);
        let solved = |(index, &view): (usize, &usize)| {
            let (canonical, state) = (&self.canonical[view], &state.views[index]);
            // What is known is passed on exactly, free of rounding.
            let fixed_pose = fixed
                .iter()
                .find(|(posed, _)| *posed == index)
                .map(|(_, pose)| *pose);
            let world_from_camera = fixed_pose.unwrap_or(frames[index].isometry);
            let log_scale = frames[index].scaling().ln();
            let (width, height) = (canonical.width as u32, canonical.height as u32);
            let mut found = Intrinsics::centred(width, height, state.log_focal.exp());
            found.cx += state.principal.x;
            found.cy += state.principal.y;
            let intrinsics = self.options.known(view).intrinsics.unwrap_or(found);
            let camera = Camera {
                intrinsics,
                world_from_camera,
            };
            let confidence = self.depths[view].confidence.clone();
            let mut points = PointMap {
                width: canonical.width,
                height: canonical.height,
                points: vec![],
                confidence,
            };
            let depth: Vec<f32> = self.depths[view]
                .log_depth
                .iter()
                .enumerate()
                .map(|(pixel, log_depth)| {
                    let pixel = points.pixel(pixel);
                    let correction = interpolate(&state.corrections, blocks(canonical), pixel);
                    (f64::from(*log_depth) + log_scale + correction).exp() as f32
                })
                .collect();
            points.points = depth
                .iter()
                .enumerate()
                .map(|(pixel, depth)| {
                    let point: Point3<f64> =
                        camera.unproject(points.pixel(pixel), f64::from(*depth));
                    [point.x as f32, point.y as f32, point.z as f32]
                })
                .collect();
            SolvedView {
                camera,
                depth,
                points,
            }
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
