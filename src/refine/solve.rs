//! Rounds of triangulation and bundle adjustment, each with less tolerance than the one before.

use rayon::prelude::*;

use crate::geometry::median;
use crate::geometry::pnp::{self, PixelCorrespondence, PnpOptions};

use super::bundle::{Bundle, CAUCHY_WIDTH, Freedom, Loss};
use super::tracks::{PIXELS, Point, Rig, Tolerance, Track, Widths, triangulate, triangulate_all};

/// A round: how far off observations may be, how soon the robust error gives them up, and steps at
/// most.
struct Round {
    tolerance: Tolerance,
    width: Tolerance,
    steps: usize,
    /// Whether lens distortion is solved for: not before focal lengths and poses are near.
    with_distortion: bool,
}

impl Round {
    /// Whether it tolerates more than the noise of keypoints.
    fn is_coarse(&self) -> bool {
        self.tolerance.share > 0.0
    }
}

const fn coarse(share: f64, steps: usize, with_distortion: bool) -> Round {
    let width = Tolerance {
        share: share / 4.0,
        px: 1.0,
    };
    Round {
        tolerance: Tolerance { share, px: 4.0 },
        width,
        steps,
        with_distortion,
    }
}

const fn fine(px: f64, steps: usize) -> Round {
    let tolerance = Tolerance { share: 0.0, px };
    Round {
        tolerance,
        width: Tolerance {
            share: 0.0,
            px: 1.0,
        },
        steps,
        with_distortion: true,
    }
}

/// The first tolerates cameras that are off by 3 % of the image, as those are that a network's
/// depths were aligned by.
const ROUNDS: [Round; 4] = [
    coarse(0.03, 10, false),
    coarse(0.015, 15, true),
    coarse(0.006, 20, true),
    fine(4.0, 20),
];

/// Tracks of the coarse rounds at most: so many, or so many an image.
const COARSE_TRACKS: usize = 5000;
const COARSE_TRACKS_PER_IMAGE: usize = 200;

const UNIT: Tolerance = PIXELS.px;
const MEDIAN_OF_RAYLEIGH: f64 = 1.177_4;
const NARROW_ROUNDS: usize = 2;
const NARROW_STEPS: usize = 30;
const MOST_WIDTHS: f64 = 6.0;

/// Moves the cameras that are free to where `tracks` agree best, and returns the points with the
/// observations that do.
pub(super) fn solve(rig: &mut Rig, tracks: &[Track], freedom: &Freedom) -> Vec<Point> {
    let priors = freedom.priors;
    let mut points = Vec::new();
    let most = COARSE_TRACKS.max(COARSE_TRACKS_PER_IMAGE * freedom.poses.len());
    let step = tracks.len().div_ceil(most).max(1);
    let some: Vec<Track> = tracks.iter().step_by(step).cloned().collect();
    for round in &ROUNDS {
        let tracks = if round.is_coarse() { &some } else { tracks };
        if round.with_distortion {
            register_again(rig, tracks, freedom, round.tolerance);
        }
        let mut freedom = freedom.clone();
        if !round.with_distortion {
            freedom
                .lenses
                .iter_mut()
                .for_each(|free| free[1..].fill(false));
        }
        let with_depths = priors.keeps_depths || round.is_coarse();
        let widths = Widths {
            px: round.width,
            log_depth: with_depths.then_some(priors.log_depth),
        };
        points = adjusted(rig, tracks, freedom, round.tolerance, widths, round.steps);
    }
    // Then as narrow as the noise is.
    let log_depth = priors.keeps_depths.then_some(priors.log_depth);
    let mut px = 1.0;
    for _ in 0..NARROW_ROUNDS {
        let errors = points.iter().flat_map(|point| {
            point
                .track
                .iter()
                .map(|seen| rig.error_px(seen, &point.position) / UNIT.of(rig.lens(seen.view)))
        });
        let noise = median(errors).unwrap_or(1.0) / MEDIAN_OF_RAYLEIGH;
        px = (CAUCHY_WIDTH * noise).clamp(0.1, 1.0);
        let widths = Widths {
            px: UNIT.times(px),
            log_depth,
        };
        points = adjusted(
            rig,
            tracks,
            freedom.clone(),
            UNIT.times(MOST_WIDTHS * px),
            widths,
            NARROW_STEPS,
        );
    }
    points = agreeing(rig, points, UNIT.times(MOST_WIDTHS * px));
    if !priors.keeps_depths {
        // And by least squares on what agrees, which any other bundle adjustment of the same model
        // confirms.
        adjust(
            rig,
            &mut points,
            freedom.clone(),
            Loss::Squares,
            PIXELS,
            NARROW_STEPS,
        );
    }
    points
}

/// How many times smaller the median error of the points' observations gets if each view has the lens
/// `lens_of` that it shares with fewer views than in `rig`.
pub(super) fn gain_of_own_lenses(
    rig: &Rig,
    points: &[Point],
    lens_of: &[usize],
    freedom: &Freedom,
) -> f64 {
    let count = freedom.lenses.len();
    if count == rig.lenses.len() {
        return 1.0;
    }
    let (mut own, mut points) = (rig.clone(), points.to_vec());
    own.lenses.resize(count, rig.lenses[0]);
    own.lens_of = lens_of.to_vec();
    (0..lens_of.len()).for_each(|view| own.lenses[lens_of[view]] = *rig.lens(view));
    let error = |rig: &Rig, points: &[Point]| {
        let errors = errors_px(rig, points, lens_of.len());
        median(errors.into_iter().flatten())
    };
    let before = error(rig, &points);
    adjust(
        &mut own,
        &mut points,
        freedom.clone(),
        Loss::Robust,
        PIXELS,
        NARROW_STEPS,
    );
    match (before, error(&own, &points)) {
        (Some(before), Some(after)) => before / after,
        _ => 1.0,
    }
}

/// The points with their observations within `tolerance`, two at least.
fn agreeing(rig: &Rig, points: Vec<Point>, tolerance: Tolerance) -> Vec<Point> {
    let of_point = |mut point: Point| {
        point.track.retain(|seen| {
            rig.error_px(seen, &point.position) <= tolerance.of(rig.lens(seen.view))
        });
        (point.track.len() >= 2).then_some(point)
    };
    points.into_iter().filter_map(of_point).collect()
}

/// The points that tracks agree on within `tolerance`, and the cameras adjusted to them with the
/// robust errors' `widths`.
fn adjusted(
    rig: &mut Rig,
    tracks: &[Track],
    freedom: Freedom,
    tolerance: Tolerance,
    widths: Widths,
    most_steps: usize,
) -> Vec<Point> {
    let mut points = triangulate_all(rig, tracks, tolerance);
    adjust(rig, &mut points, freedom, Loss::Robust, widths, most_steps);
    points
}

/// Bundle adjustment of the points and of what sees them.
fn adjust(
    rig: &mut Rig,
    points: &mut [Point],
    mut freedom: Freedom,
    loss: Loss,
    widths: Widths,
    most_steps: usize,
) {
    freedom.only_seen(points);
    Bundle {
        freedom: &freedom,
        loss,
        widths,
        most_steps,
    }
    .adjust(rig, points);
}

/// Images that agree with so many more points of the others from another place, and so many at
/// least, are moved there.
const LEAST_GAIN: f64 = 1.3;
const LEAST_AGREEING: usize = 12;
/// Images without a pose get the one that so many points agree with, and this share of those that
/// they show.
const LEAST_REGISTERED: usize = 30;
const LEAST_REGISTERED_SHARE: f64 = 0.25;

/// Places images anew that do not agree with the points of the others, by the pose that most of
/// these agree with; and, one after another, images that have no pose yet.
fn register_again(rig: &mut Rig, tracks: &[Track], freedom: &Freedom, tolerance: Tolerance) {
    loop {
        let mut is_any_new = false;
        for view in (0..freedom.poses.len()).filter(|&view| freedom.poses[view]) {
            let Some(found) = better_pose(rig, tracks, freedom, view, tolerance) else {
                continue;
            };
            is_any_new |= rig.camera_from_world[view].is_none();
            rig.camera_from_world[view] = Some(found.camera_from_world);
            let lens = &mut rig.lenses[rig.lens_of[view]];
            // A known focal length is passed on, and it may be another one along y.
            if found.focal != lens.focal[0] {
                lens.focal = [found.focal; 2];
            }
        }
        if !is_any_new {
            break;
        }
    }
}

fn better_pose(
    rig: &Rig,
    tracks: &[Track],
    freedom: &Freedom,
    view: usize,
    tolerance: Tolerance,
) -> Option<pnp::Pose> {
    let (lens, current) = (*rig.lens(view), rig.camera_from_world[view]);
    let mut others = rig.clone();
    others.camera_from_world[view] = None;
    let seen: Vec<&Track> = tracks
        .iter()
        .filter(|track| track.iter().any(|seen| seen.view == view))
        .collect();
    let observation = |track: &&Track| {
        let own = track.iter().find(|seen| seen.view == view)?;
        let point = triangulate(&others, track, tolerance)?;
        let [x, y] = lens.unproject(own.pixel);
        let pixel = [
            x * lens.focal[0] + lens.principal[0],
            y * lens.focal[0] + lens.principal[1],
        ];
        Some(PixelCorrespondence {
            point: point.position.into(),
            pixel,
            weight: 1.0,
        })
    };
    let observations: Vec<PixelCorrespondence> = seen.par_iter().filter_map(observation).collect();
    let limit = tolerance.of(&lens);
    let focal = lens.focal[0];
    let agreeing = |pose: &pnp::Pose| {
        let error =
            |seen: &&PixelCorrespondence| pnp::reprojection_error(seen, lens.principal, pose);
        observations
            .iter()
            .filter(|seen| error(seen) <= limit)
            .count()
    };
    let options = PnpOptions {
        threshold_px: limit,
        most_samples: 300,
        ..PnpOptions::default()
    };
    let needed = match current {
        Some(camera_from_world) => {
            let before = agreeing(&pnp::Pose {
                camera_from_world,
                focal,
            });
            // Most images are right.
            if before * 2 > observations.len() {
                return None;
            }
            LEAST_AGREEING.max((LEAST_GAIN * before as f64) as usize + 1)
        }
        None => LEAST_REGISTERED.max((LEAST_REGISTERED_SHARE * observations.len() as f64) as usize),
    };
    let own = rig.lens_of[view];
    let is_guessed = freedom.lenses[own][0]
        && (0..rig.lens_of.len())
            .all(|view| rig.lens_of[view] != own || rig.camera_from_world[view].is_none());
    let found = match is_guessed {
        true => {
            let long_side = f64::from(lens.width.max(lens.height));
            pnp::solve_unknown_focal(&observations, lens.principal, long_side, &options)?
        }
        false => pnp::solve(&observations, lens.principal, focal, &options)?,
    };
    (agreeing(&found) >= needed).then_some(found)
}

impl Freedom {
    /// Holds what no point is seen by.
    fn only_seen(&mut self, points: &[Point]) {
        let mut seen = vec![0; self.poses.len()];
        points
            .iter()
            .flat_map(|point| &point.track)
            .for_each(|observation| seen[observation.view] += 1);
        self.poses
            .iter_mut()
            .zip(seen)
            .for_each(|(free, seen)| *free &= seen > 2);
    }
}

/// Errors of all observations of a view, pixels.
pub(super) fn errors_px(rig: &Rig, points: &[Point], views: usize) -> Vec<Vec<f64>> {
    let mut errors = vec![Vec::new(); views];
    let found: Vec<Vec<f64>> = points
        .par_iter()
        .map(|point| {
            point
                .track
                .iter()
                .map(|seen| rig.error_px(seen, &point.position))
                .collect()
        })
        .collect();
    for (point, found) in points.iter().zip(found) {
        point
            .track
            .iter()
            .zip(found)
            .for_each(|(seen, error)| errors[seen.view].push(error));
    }
    errors
}
