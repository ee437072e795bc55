//! Points with the extent that their pixels have on the surface.

use image::Rgb;
use nalgebra::{Point3, Vector3};
use rayon::prelude::*;

use crate::geometry::Camera;
use crate::scene::SceneView;

/// A neighbour farther than this many pixel spacings is on another surface. On one surface it means
/// that the surface is seen at more than 87.1 degrees off its normal.
const FARTHEST_NEIGHBOUR: f32 = 20.0;
/// Where the neighbour on one side is on another surface, the one on the other side must be as near
/// as this part of that: farther apart, points are the fringe of an edge.
const AT_AN_EDGE: f32 = 0.25;
/// Steps to both sides whose lengths differ by more than this factor have an edge or a bend beyond
/// the longer one.
const UNEVEN: f32 = 2.0;
/// Surfaces nearer to one another than this part of a point's depth are drawn as one: several views
/// of one surface disagree by about as much.
const MERGED_DEPTHS: f32 = 0.01;

/// A point of a surface and the patch of it that belongs to the point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Surfel {
    /// World coordinates.
    pub position: Point3<f32>,
    /// To the next point of the row and of the column.
    pub axes: [Vector3<f32>; 2],
    /// How far behind another surface the point still shows, mixed with it.
    pub tolerance: f32,
    /// sRGB.
    pub rgb: [u8; 3],
}

/// What the neighbours along a row or a column say.
enum Spacing {
    /// The next point of this surface.
    Next(Vector3<f32>),
    /// There are neighbours, all of them far away.
    Loose,
    /// There are none.
    Alone,
}

/// The surfels of a view's points for which `kept` is set, in row order, without those that hang
/// between surfaces; of every `stride`-th point of every `stride`-th row.
///
/// `camera` is the view's own, or what stands in for it.
pub(super) fn surfels(
    view: &SceneView,
    camera: &Camera,
    kept: &[bool],
    stride: usize,
) -> Vec<Surfel> {
    let (width, height) = (view.points.width, view.points.height);
    let camera_from_world = camera.world_from_camera.inverse();
    let pixel_axes = [
        Vector3::x() / camera.intrinsics.fx,
        Vector3::y() / camera.intrinsics.fy,
    ]
    .map(|axis| (camera.world_from_camera.rotation * axis * stride as f64).cast::<f32>());
    let point = |index: usize| kept[index].then(|| Point3::from(view.points.points[index]));

    let surfel = |row: usize, column: usize| {
        let index = row * width + column;
        let position = point(index)?;
        let depth = (camera_from_world * position.cast::<f64>()).z.abs() as f32;
        let neighbours = [
            [
                column
                    .checked_sub(stride)
                    .and_then(|_| point(index - stride)),
                (column + stride < width)
                    .then(|| point(index + stride))
                    .flatten(),
            ],
            [
                row.checked_sub(stride)
                    .and_then(|_| point(index - stride * width)),
                (row + stride < height)
                    .then(|| point(index + stride * width))
                    .flatten(),
            ],
        ];
        let mut loose = false;
        let mut axes = pixel_axes.map(|axis| axis * depth);
        for (axis, [before, after]) in axes.iter_mut().zip(neighbours) {
            let steps = [
                before.map(|before| position - before),
                after.map(|after| after - position),
            ];
            match spacing(steps, FARTHEST_NEIGHBOUR * axis.norm()) {
                Spacing::Next(step) => *axis = step,
                Spacing::Loose => loose = true,
                Spacing::Alone => {}
            }
        }
        let Rgb(rgb) = *view.rgb.get_pixel(column as u32, row as u32);
        Some((
            Surfel {
                position,
                axes,
                tolerance: MERGED_DEPTHS * depth,
                rgb,
            },
            loose,
        ))
    };
    let columns = || (0..width).step_by(stride);
    let rows: Vec<usize> = (0..height).step_by(stride).collect();
    let found: Vec<(Surfel, bool)> = rows
        .into_par_iter()
        .flat_map_iter(|row| columns().filter_map(move |column| surfel(row, column)))
        .collect();
    let loose = found.iter().filter(|(_, loose)| *loose).count();
    let keep_loose = 2 * loose > found.len();
    found
        .into_iter()
        .filter(|(_, loose)| keep_loose || !loose)
        .map(|(surfel, _)| surfel)
        .collect()
}

/// The step to the next point of the surface, from the steps to both neighbours.
fn spacing(steps: [Option<Vector3<f32>>; 2], farthest: f32) -> Spacing {
    match steps.map(|step| step.map(|step| (step, step.norm()))) {
        [Some((before, to_before)), Some((after, to_after))] => {
            let (step, nearer) = if to_before <= to_after {
                (before, to_before)
            } else {
                (after, to_after)
            };
            let longer = to_before.max(to_after);
            let reach = if longer > farthest {
                AT_AN_EDGE * farthest
            } else {
                farthest
            };
            match (before + after) / 2.0 {
                _ if nearer > reach => Spacing::Loose,
                // A patch must not stick out over an edge.
                _ if longer > UNEVEN * nearer => Spacing::Next(step),
                mean => Spacing::Next(mean),
            }
        }
        [Some((_, length)), None] | [None, Some((_, length))] if length > farthest => {
            Spacing::Loose
        }
        [Some((step, _)), None] | [None, Some((step, _))] => Spacing::Next(step),
        [None, None] => Spacing::Alone,
    }
}
