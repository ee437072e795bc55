//! Tracks: points of a scene with the pixels of several views that show them, from the matches of
//! its pairs.
//!
//! ```text
//! matches ── both ways within a few pixels, by the aligned depths ──▶ joined, best first, never two pixels of a view
//!         ── point nearest to all observations and depths ──▶ observations too far off dropped, worst first
//!         ── seen from different directions ──▶ Track
//! ```

use std::collections::HashMap;

use nalgebra::{Matrix3, Point3, RowVector3, Vector3};
use rayon::prelude::*;

use crate::geometry::Camera;
use crate::matching::Pixel;
use crate::scene::{Observation, PointSelection, SceneView, Track};

/// An observation counts up to this many pixels from where its point projects, at the size that the
/// network saw.
const MOST_ERROR_PX: f64 = 3.0;
/// Expected error of an observation, pixels per axis.
const PIXEL_SIGMA: f64 = 1.0;
/// Expected relative error of an aligned depth; what holds a point whose rays are nearly parallel.
const DEPTH_SIGMA: f64 = 0.03;
/// The widest angle between two of a track's rays is this at least, degrees, as COLMAP's mapper has
/// it: a bundle adjustment, which knows nothing of predicted depths, takes points with narrower
/// ones to infinity.
pub(super) const LEAST_ANGLE: f64 = 1.5;
/// Steps towards a point's best place at most, and the share of its distance below which one ends
/// them.
const STEPS: usize = 10;
const LEAST_STEP: f64 = 1e-9;

/// A matched pixel, and the depth that its view alone has there.
#[derive(Clone, Copy)]
struct Ray<'a> {
    /// Index of the view.
    view: usize,
    /// At the size that the network saw.
    pixel: Pixel,
    camera: &'a Camera,
    depth: f64,
}

/// The tracks of the matches whose pixels `selection` keeps, by their first observation.
pub(super) fn tracks(selection: &PointSelection<'_>) -> Vec<Track> {
    let views = &selection.scene().views;
    let ray = |view: usize, pixel: Pixel| {
        let camera = views[view].camera.as_ref()?;
        let index = (pixel.y * views[view].rgb.width() + pixel.x) as usize;
        let depth = f64::from(views[view].depth[index]);
        let usable = depth.is_finite() && depth > 0.0 && selection.keeps_pixel(view, index);
        usable.then_some(Ray {
            view,
            pixel,
            camera,
            depth,
        })
    };
    let mut links: Vec<(f64, [Ray<'_>; 2])> = Vec::new();
    for pair in &selection.scene().matches {
        for matched in &pair.matches {
            let [Some(one), Some(two)] = [
                ray(pair.views[0], matched.first),
                ray(pair.views[1], matched.second),
            ] else {
                continue;
            };
            let error = one.error_px(&two.point()).max(two.error_px(&one.point()));
            if error <= MOST_ERROR_PX {
                links.push((error, [one, two]));
            }
        }
    }
    // Equal errors keep the order of the matches.
    links.sort_by(|one, two| one.0.total_cmp(&two.0));
    let mut tracks: Vec<Track> = join(&links)
        .into_par_iter()
        .filter_map(|rays| locate(rays, views))
        .collect();
    tracks.sort_by(|one, two| {
        let key = |track: &Track| {
            let Observation { view, pixel } = track.observations[0];
            (view, pixel.map(|at| at as u32))
        };
        key(one).cmp(&key(two))
    });
    tracks
}

/// Joins linked pixels to groups, in the order of the links; a link that would bring two pixels of
/// a view into one group is not followed.
fn join<'a>(links: &[(f64, [Ray<'a>; 2])]) -> Vec<Vec<Ray<'a>>> {
    let mut group_of: HashMap<(usize, Pixel), usize> = HashMap::new();
    let mut groups: Vec<Vec<Ray<'a>>> = Vec::new();
    for (_, rays) in links {
        let [one, two] = rays.map(|ray| {
            *group_of.entry(ray.place()).or_insert_with(|| {
                groups.push(vec![ray]);
                groups.len() - 1
            })
        });
        let views = |group: usize| groups[group].iter().map(|ray| ray.view);
        if one == two || views(one).any(|view| views(two).any(|other| other == view)) {
            continue;
        }
        // The smaller into the larger, so that a pixel changes groups seldom.
        let (from, to) = if groups[one].len() < groups[two].len() {
            (one, two)
        } else {
            (two, one)
        };
        let moved = std::mem::take(&mut groups[from]);
        group_of.extend(moved.iter().map(|ray| (ray.place(), to)));
        groups[to].extend(moved);
    }
    groups.retain(|group| group.len() > 1);
    groups
}

/// The point that most of `rays` agree on, without those that do not; `None` if fewer than two are
/// left, or all see it from one direction.
fn locate(mut rays: Vec<Ray<'_>>, views: &[SceneView]) -> Option<Track> {
    rays.sort_by_key(Ray::place);
    loop {
        let position = nearest_point(&rays);
        let errors = rays.iter().map(|ray| ray.error_px(&position));
        let (worst, error) = errors
            .enumerate()
            .max_by(|one, two| one.1.total_cmp(&two.1))?;
        if error <= MOST_ERROR_PX {
            let seen = |ray: &Ray<'_>| Observation {
                view: ray.view,
                pixel: ray.pixel(),
            };
            let track = Track {
                position,
                rgb: mean_color(&rays, views),
                observations: rays.iter().map(seen).collect(),
            };
            return (widest_angle(&rays, &position) >= LEAST_ANGLE.to_radians()).then_some(track);
        }
        rays.remove(worst);
        if rays.len() < 2 {
            return None;
        }
    }
}

impl Ray<'_> {
    /// The view and its pixel, by which rays are told apart.
    fn place(&self) -> (usize, Pixel) {
        (self.view, self.pixel)
    }

    fn pixel(&self) -> [f64; 2] {
        self.pixel.xy().map(f64::from)
    }

    fn point(&self) -> Point3<f64> {
        self.camera.unproject(self.pixel(), self.depth)
    }

    /// Distance of the pixel from where `point` projects; infinite for a point that is not in front
    /// of the camera.
    fn error_px(&self, point: &Point3<f64>) -> f64 {
        let pixel = self.pixel();
        self.camera.project(point).map_or(f64::INFINITY, |seen| {
            (seen[0] - pixel[0]).hypot(seen[1] - pixel[1])
        })
    }
}

/// Between two of the directions from which the rays see the point, radians.
fn widest_angle(rays: &[Ray<'_>], point: &Point3<f64>) -> f64 {
    let direction = |ray: &Ray<'_>| ray.camera.world_from_camera.translation.vector - point.coords;
    let pairs = rays
        .iter()
        .enumerate()
        .flat_map(|(index, one)| rays[..index].iter().map(move |two| (one, two)));
    pairs
        .map(|(one, two)| direction(one).angle(&direction(two)))
        .fold(0.0, f64::max)
}

/// Gauss-Newton on reprojection errors and logarithms of depths, from the mean of the rays' own
/// points.
fn nearest_point(rays: &[Ray<'_>]) -> Point3<f64> {
    let sum: Vector3<f64> = rays.iter().map(|ray| ray.point().coords).sum();
    let mut best = Point3::from(sum / rays.len() as f64);
    let Some((mut cost, mut step)) = step_to(&best, rays) else {
        return best;
    };
    for _ in 0..STEPS {
        let candidate = best + step;
        let Some((new_cost, next)) = step_to(&candidate, rays) else {
            break;
        };
        if new_cost >= cost {
            break;
        }
        let reach = step.norm();
        (best, cost, step) = (candidate, new_cost, next);
        if reach <= LEAST_STEP * rays[0].depth {
            break;
        }
    }
    best
}

/// Half the sum of squared errors at `point`, in sigmas, and the step that the linearised errors
/// ask for; `None` if the point is behind a camera.
fn step_to(point: &Point3<f64>, rays: &[Ray<'_>]) -> Option<(f64, Vector3<f64>)> {
    let (mut normal, mut gradient, mut cost) = (Matrix3::zeros(), Vector3::zeros(), 0.0);
    for ray in rays {
        let inside = &ray.camera.intrinsics;
        let pose = &ray.camera.world_from_camera;
        let local = pose.inverse_transform_point(point);
        let seen = inside.project(&local)?;
        let camera_from_world = pose.rotation.to_rotation_matrix().into_inner().transpose();
        let (x, y, z) = (local.x, local.y, local.z);
        let pixel = ray.pixel();
        let rows = [
            (
                seen[0] - pixel[0],
                RowVector3::new(1.0, 0.0, -x / z) * (inside.fx / z),
                PIXEL_SIGMA,
            ),
            (
                seen[1] - pixel[1],
                RowVector3::new(0.0, 1.0, -y / z) * (inside.fy / z),
                PIXEL_SIGMA,
            ),
            (
                (z / ray.depth).ln(),
                RowVector3::new(0.0, 0.0, 1.0 / z),
                DEPTH_SIGMA,
            ),
        ];
        for (error, slope, sigma) in rows {
            let (error, slope) = (error / sigma, slope * camera_from_world / sigma);
            normal += slope.transpose() * slope;
            gradient += slope.transpose() * error;
            cost += 0.5 * error * error;
        }
    }
    let step = normal
        .cholesky()
        .map_or_else(Vector3::zeros, |normal| -normal.solve(&gradient));
    Some((cost, step))
}

fn mean_color(rays: &[Ray<'_>], views: &[SceneView]) -> [u8; 3] {
    let pixels = || {
        let color = |ray: &Ray<'_>| views[ray.view].rgb.get_pixel(ray.pixel.x, ray.pixel.y).0;
        rays.iter().map(color)
    };
    let count = rays.len() as u32;
    std::array::from_fn(|channel| {
        let sum: u32 = pixels().map(|pixel| u32::from(pixel[channel])).sum();
        ((sum + count / 2) / count) as u8
    })
}
