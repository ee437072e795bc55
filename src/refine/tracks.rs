//! Tracks: keypoints of several images that show one point, and where that is.

use std::collections::HashMap;

use nalgebra::{Isometry3, Matrix3, SMatrix, Vector2, Vector3};
use rayon::prelude::*;

use crate::geometry::{LENS_PARAMETERS, Lens};

/// Pairs of rays that a point is sought from at most.
const MOST_HYPOTHESES: usize = 20;
/// The widest angle between two rays of a point is this at least, degrees: with less its distance
/// is not known.
const LEAST_ANGLE: f64 = 1.5;
const STEPS: usize = 8;

/// Cameras as they are known at the moment.
#[derive(Clone, Debug)]
pub(super) struct Rig {
    /// Of images that take part.
    pub camera_from_world: Vec<Option<Isometry3<f64>>>,
    /// Images share lenses.
    pub lenses: Vec<Lens>,
    pub lens_of: Vec<usize>,
}

/// A keypoint of a track.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Observation {
    pub view: usize,
    /// Pixels of the file.
    pub pixel: [f64; 2],
    /// The depth that the view's network has there, units of the aligned scene; `None` where it has
    /// none.
    pub depth: Option<f64>,
}

impl Observation {
    /// The logarithm of the depth of a point at `local` in the camera's frame over the network's,
    /// in `width`s; `None` where that is not known, or the point is behind the camera.
    fn depth_error(&self, local: &Vector3<f64>, width: f64) -> Option<f64> {
        (local.z > 0.0).then_some((local.z / self.depth?).ln() / width)
    }
}

/// The errors of an observation, and their derivatives: two of the pixel, and one of the depth, which
/// is 0 where none is known.
pub(super) struct ObservationErrors {
    pub errors: Vector3<f64>,
    pub by_local: Matrix3<f64>,
    pub by_lens: SMatrix<f64, 3, LENS_PARAMETERS>,
}

/// What errors are divided by: pixels, and the logarithm of depths; without the latter these do not
/// count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Widths {
    pub px: Tolerance,
    pub log_depth: Option<f64>,
}

/// Keypoints that match, one of an image at most, by ascending image.
pub(super) type Track = Vec<Observation>;

/// A point with the observations that agree with it.
#[derive(Clone, Debug)]
pub(super) struct Point {
    pub position: Vector3<f64>,
    pub track: Track,
}

/// How far off observations of an image may be, and how much their errors count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tolerance {
    /// Share of the image's long side.
    pub share: f64,
    /// Pixels of an image of 1280 pixels; of others the errors of keypoints grow as the square root
    /// of the size.
    pub px: f64,
}

impl Tolerance {
    pub fn times(self, factor: f64) -> Self {
        Self {
            share: factor * self.share,
            px: factor * self.px,
        }
    }

    pub fn of(&self, lens: &Lens) -> f64 {
        let long_side = f64::from(lens.width.max(lens.height));
        self.share * long_side + self.px * (long_side / 1280.0).sqrt()
    }
}

impl Rig {
    pub fn lens(&self, view: usize) -> &Lens {
        &self.lenses[self.lens_of[view]]
    }

    /// A point in the frame of a view's camera, where the view takes part.
    pub fn local(&self, view: usize, point: &Vector3<f64>) -> Option<Vector3<f64>> {
        self.camera_from_world[view].map(|pose| pose.rotation * point + pose.translation.vector)
    }

    /// Distance of an observation from where a point projects, pixels; infinite for a point behind the
    /// camera.
    pub fn error_px(&self, observation: &Observation, point: &Vector3<f64>) -> f64 {
        let seen = self
            .local(observation.view, point)
            .and_then(|local| self.lens(observation.view).project(&local));
        seen.map_or(f64::INFINITY, |seen| {
            (seen[0] - observation.pixel[0]).hypot(seen[1] - observation.pixel[1])
        })
    }

    /// Cost of an observation of a point: that of the squares of its errors, those of pixels `most` at
    /// most.
    pub fn cost(
        &self,
        seen: &Observation,
        point: &Vector3<f64>,
        widths: Widths,
        most: f64,
        of: impl Fn(f64) -> f64,
    ) -> f64 {
        let pixels = (self.error_px(seen, point) / widths.px.of(self.lens(seen.view))).min(most);
        let depth = widths
            .log_depth
            .and_then(|width| seen.depth_error(&self.local(seen.view, point)?, width));
        of(pixels * pixels) + depth.map_or(0.0, |depth| of(depth * depth))
    }

    /// Errors of an observation of a point at `local` in the camera's frame, before it, each times the
    /// root of its `weight`.
    pub fn linearised(
        &self,
        seen: &Observation,
        local: &Vector3<f64>,
        widths: Widths,
        weight: impl Fn(f64) -> f64,
    ) -> ObservationErrors {
        let lens = self.lens(seen.view);
        let width = widths.px.of(lens);
        let projection = lens.derivatives(local);
        let error = (projection.pixel - Vector2::from(seen.pixel)) / width;
        let root = weight(error.norm_squared()).sqrt();
        let mut found = ObservationErrors {
            errors: (error * root).push(0.0),
            by_local: Matrix3::zeros(),
            by_lens: SMatrix::zeros(),
        };
        found
            .by_local
            .fixed_rows_mut::<2>(0)
            .copy_from(&(projection.by_point * (root / width)));
        found
            .by_lens
            .fixed_rows_mut::<2>(0)
            .copy_from(&(projection.by_lens * (root / width)));
        if let Some(width) = widths.log_depth
            && let Some(depth) = seen.depth_error(local, width)
        {
            let root = weight(depth * depth).sqrt();
            found.errors.z = depth * root;
            found.by_local[(2, 2)] = root / (width * local.z);
        }
        found
    }

    pub fn centre(&self, view: usize) -> Option<Vector3<f64>> {
        self.camera_from_world[view]
            .as_ref()
            .map(|pose| pose.inverse().translation.vector)
    }
}

/// Matches of two images: indices of their keypoints.
pub(super) struct KeypointMatches {
    pub views: [usize; 2],
    pub matches: Vec<[usize; 2]>,
}

/// Joins matches of `pixels` of each image to tracks. Pairs with many matches come first; a match
/// that would bring two pixels of an image into one track is not followed.
pub(super) fn join(pixels: &[Vec<[f64; 2]>], pairs: &[KeypointMatches]) -> Vec<Track> {
    let starts: Vec<usize> = pixels
        .iter()
        .scan(0, |start, pixels| {
            Some(std::mem::replace(start, *start + pixels.len()))
        })
        .collect();
    let count = pixels.iter().map(Vec::len).sum();
    let view_of = |node: usize| starts.partition_point(|start| *start <= node) - 1;
    let mut order: Vec<&KeypointMatches> = pairs.iter().collect();
    order.sort_by_key(|pair| std::cmp::Reverse(pair.matches.len()));
    let mut group: Vec<usize> = (0..count).collect();
    let mut members: HashMap<usize, Vec<usize>> = HashMap::new();
    for pair in order {
        for matched in &pair.matches {
            let [one, two] = [0, 1].map(|side| group[starts[pair.views[side]] + matched[side]]);
            if one == two {
                continue;
            }
            let of = |root: usize| members.get(&root).cloned().unwrap_or_else(|| vec![root]);
            let (mut ours, theirs) = (of(one), of(two));
            let is_new = |node: &usize| ours.iter().all(|own| view_of(*own) != view_of(*node));
            if theirs.iter().all(is_new) {
                theirs.iter().for_each(|&node| group[node] = one);
                members.remove(&two);
                ours.extend(theirs);
                members.insert(one, ours);
            }
        }
    }
    let mut tracks: Vec<Vec<usize>> = members.into_values().collect();
    tracks.iter_mut().for_each(|track| track.sort_unstable());
    tracks.sort_unstable();
    let observation = |node: usize| {
        let view = view_of(node);
        Observation {
            view,
            depth: None,
            pixel: pixels[view][node - starts[view]],
        }
    };
    tracks
        .into_iter()
        .map(|track| track.into_iter().map(observation).collect())
        .collect()
}

/// Points of those tracks whose observations agree on one, within `tolerance`.
pub(super) fn triangulate_all(rig: &Rig, tracks: &[Track], tolerance: Tolerance) -> Vec<Point> {
    tracks
        .par_iter()
        .filter_map(|track| triangulate(rig, track, tolerance))
        .collect()
}

/// The point that most observations agree with, from pairs of their rays and then all rays that agree.
pub(super) fn triangulate(rig: &Rig, track: &Track, tolerance: Tolerance) -> Option<Point> {
    struct Ray {
        observation: Observation,
        centre: Vector3<f64>,
        direction: Vector3<f64>,
        limit: f64,
    }
    let rays: Vec<Ray> = track
        .iter()
        .filter_map(|observation| {
            let pose = rig.camera_from_world[observation.view].as_ref()?.inverse();
            let lens = rig.lens(observation.view);
            let [x, y] = lens.unproject(observation.pixel);
            let direction = pose.rotation * Vector3::new(x, y, 1.0).normalize();
            Some(Ray {
                observation: *observation,
                centre: pose.translation.vector,
                direction,
                limit: tolerance.of(lens),
            })
        })
        .collect();
    let mut pairs: Vec<(f64, usize, usize)> = (0..rays.len())
        .flat_map(|one| (0..one).map(move |two| (two, one)))
        .map(|(one, two)| (rays[one].direction.dot(&rays[two].direction), one, two))
        .collect();
    // The widest angles first: what they say of the distance is the surest.
    pairs.sort_by(|one, two| one.0.total_cmp(&two.0));
    let step = pairs.len().div_ceil(MOST_HYPOTHESES).max(1);
    let cost = |point: &Vector3<f64>| -> f64 {
        rays.iter()
            .map(|ray| {
                (rig.error_px(&ray.observation, point) / ray.limit)
                    .min(1.0)
                    .powi(2)
            })
            .sum()
    };
    let mut best: Option<(f64, Vector3<f64>)> = None;
    for &(_, one, two) in pairs.iter().step_by(step) {
        let Some(point) =
            nearest_to_rays([one, two].map(|ray| (rays[ray].centre, rays[ray].direction)))
        else {
            continue;
        };
        let found = cost(&point);
        if best.is_none_or(|(least, _)| found < least) {
            best = Some((found, point));
        }
    }
    let (_, mut position) = best?;
    let agreeing = |position: &Vector3<f64>| -> Track {
        let agrees = |ray: &&Ray| rig.error_px(&ray.observation, position) <= ray.limit;
        rays.iter()
            .filter(agrees)
            .map(|ray| ray.observation)
            .collect()
    };
    let mut track = agreeing(&position);
    for _ in 0..2 {
        if track.len() < 2 {
            return None;
        }
        position = refined(rig, &track, position);
        track = agreeing(&position);
    }
    let point = Point { position, track };
    (point.track.len() >= 2 && widest_angle(rig, &point) >= LEAST_ANGLE.to_radians())
        .then_some(point)
}

/// The widest angle between two rays of a point, radians.
pub(super) fn widest_angle(rig: &Rig, point: &Point) -> f64 {
    let ray = |observation: &Observation| {
        Some((rig.centre(observation.view)? - point.position).normalize())
    };
    let rays: Vec<Vector3<f64>> = point.track.iter().filter_map(ray).collect();
    let pairs = rays
        .iter()
        .enumerate()
        .flat_map(|(index, one)| rays[..index].iter().map(move |two| one.angle(two)));
    pairs.fold(0.0, f64::max)
}

/// The point with the least sum of squared distances from two rays; `None` for parallel ones.
fn nearest_to_rays(rays: [(Vector3<f64>, Vector3<f64>); 2]) -> Option<Vector3<f64>> {
    let (mut normal, mut right) = (Matrix3::zeros(), Vector3::zeros());
    for (centre, direction) in rays {
        let across = Matrix3::identity() - direction * direction.transpose();
        normal += across;
        right += across * centre;
    }
    let point = normal.try_inverse()? * right;
    point.iter().all(|value| value.is_finite()).then_some(point)
}

/// The Gauss-Newton step of a point on the errors of its observations, each with the weight of its
/// square.
pub(super) fn point_step(
    rig: &Rig,
    track: &Track,
    position: &Vector3<f64>,
    widths: Widths,
    weight: impl Fn(f64) -> f64,
) -> Option<Vector3<f64>> {
    let (mut normal, mut gradient) = (Matrix3::zeros(), Vector3::zeros());
    for observation in track {
        let Some(pose) = &rig.camera_from_world[observation.view] else {
            continue;
        };
        let Some(local) = rig
            .local(observation.view, position)
            .filter(|local| local.z > 0.0)
        else {
            continue;
        };
        let found = rig.linearised(observation, &local, widths, &weight);
        let slope = found.by_local * pose.rotation.to_rotation_matrix().matrix();
        normal += slope.tr_mul(&slope);
        gradient += slope.tr_mul(&found.errors);
    }
    normal.cholesky().map(|normal| -normal.solve(&gradient))
}

/// Errors in pixels of an image of 1280 pixels.
pub(super) const PIXELS: Widths = Widths {
    px: Tolerance {
        share: 0.0,
        px: 1.0,
    },
    log_depth: None,
};

/// Gauss-Newton on the reprojection errors of observations, as far as it lowers them.
fn refined(rig: &Rig, track: &Track, start: Vector3<f64>) -> Vector3<f64> {
    let cost = |point: &Vector3<f64>| -> f64 {
        track
            .iter()
            .map(|seen| rig.error_px(seen, point).powi(2))
            .sum()
    };
    let (mut best, mut least) = (start, cost(&start));
    for _ in 0..STEPS {
        let Some(step) = point_step(rig, track, &best, PIXELS, |_| 1.0) else {
            break;
        };
        let candidate = best + step;
        let found = cost(&candidate);
        if found.is_nan() || found >= least {
            break;
        }
        let is_settled = found > least * (1.0 - 1e-6);
        (best, least) = (candidate, found);
        if is_settled {
            break;
        }
    }
    best
}
