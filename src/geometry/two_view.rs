//! Two cameras from what the network says about a pair of views.
//!
//! Robust PnP on the second view's points gives the pose, focal lengths come from the point maps,
//! and the matches refine both by reprojection (see `bundle`). With the reverse decode every
//! quantity is seen twice.

use nalgebra::{Isometry3, Point3, Vector2};

use super::bundle::{self, Evidence, FocalPrior, PosePrior, Problem, Sigmas};
use super::focal::{ONE_CAMERA, weiszfeld};
use super::median::median;
use super::pnp::{self, Observation, PnpOptions, Pose};
use super::procrustes::{self, Correspondence};
use super::{Camera, Intrinsics, PointMap};
use crate::error::{Error, Result};

/// What one decode gives on the host: both views' points in the first one's camera frame.
#[derive(Clone, Copy, Debug)]
pub struct PairMaps<'a> {
    /// Points of the decode's first view, in its own frame.
    pub first: &'a PointMap,
    /// Points of the decode's second view, in the first one's frame too.
    pub second: &'a PointMap,
}

/// Two cameras and how well the predictions agree with them.
#[derive(Clone, Copy, Debug)]
pub struct TwoView {
    /// World is the first camera's frame, in units of the forward decode.
    pub cameras: [Camera; 2],
    /// How many of the considered pixels lie within the threshold of where the cameras show their
    /// points.
    pub inliers: usize,
    /// Confident pixels of the second view, a sample of them if there are many.
    pub considered: usize,
    /// Median reprojection error of the inliers, pixels.
    pub reprojection_px: f64,
    /// Units of the forward decode per unit of the reverse decode; `None` without one.
    pub forward_per_reverse: Option<f64>,
    /// Too few pixels are above the confidence threshold, and the most confident ones were used
    /// instead.
    pub low_confidence: bool,
}

/// What may be set about [`two_view`].
#[derive(Clone, Debug)]
pub struct TwoViewOptions {
    /// Pixels above it are used.
    pub confidence_threshold: f64,
    /// If fewer than this share of the pixels are above the threshold, so many of the most
    /// confident ones are used.
    pub least_confident_share: f64,
    /// Reprojection error up to which a pixel agrees with a pose, over the long side of the picture
    /// (5 at 512).
    pub threshold: f64,
    /// Share of the considered pixels that must agree, or there is no pose.
    pub least_inlier_share: f64,
    /// Both images may be of one camera at one zoom, as they have one size: their focal lengths are
    /// made to agree if the maps speak for about the same one.
    pub shared_focal: bool,
    /// Matches used at most, the most confident ones.
    pub most_matches: usize,
}

impl Default for TwoViewOptions {
    fn default() -> Self {
        Self {
            confidence_threshold: 3.0,
            least_confident_share: 0.05,
            threshold: 0.01,
            least_inlier_share: 0.1,
            shared_focal: false,
            most_matches: 2000,
        }
    }
}

/// Fewest pixels that a pose may rest on.
const LEAST_PIXELS: usize = 16;
/// Threshold in pixels for pictures so small that a share of their size is less than the
/// predictions' own noise.
const LEAST_THRESHOLD_PX: f64 = 2.0;
/// Pixels that enter a similarity at most.
const MOST_CORRESPONDENCES: usize = 4000;
/// Rounds of reweighting of a similarity.
const SIMILARITY_ROUNDS: usize = 10;
/// Focal lengths beyond these, in long sides of the picture, are no camera's (170 and 1 degrees
/// wide).
const FOCAL_RANGE: [f64; 2] = [0.04, 60.0];
/// Spread of focal lengths estimated from a view's own map and from PnP alone, relative.
const OWN_FOCAL_SIGMA: f64 = 0.15;
const PNP_FOCAL_SIGMA: f64 = 0.2;
/// How far from one another focal lengths said to be shared may be, relative.
const SHARED_FOCAL_SIGMA: f64 = 0.001;

/// Poses and focal lengths of two views.
///
/// `forward` decodes (1, 2) and `reverse`, if there is one, (2, 1): its first view is view 2, its
/// frame camera 2. The world is the first camera's frame whatever the order, its scale that of
/// `forward`. `matches` are pairs of pixels (the first view's, the second's, confidence) that
/// refine poses and focal lengths by reprojection; there may be none. Principal points are the
/// middles of the pictures. Deterministic.
///
/// # Errors
/// [`Error::NoPose`] where the predictions do not determine the cameras: points that are all equal,
/// behind the camera or not finite, too few pixels, or no pose on which enough of them agree.
/// [`Error::Usage`] if the sizes of the maps do not fit one another.
pub fn two_view(
    forward: PairMaps<'_>,
    reverse: Option<PairMaps<'_>>,
    matches: &[([f64; 2], [f64; 2], f64)],
    options: &TwoViewOptions,
) -> Result<TwoView> {
    check_sizes(&forward, reverse.as_ref())?;
    let own = [Some(forward.first), reverse.map(|maps| maps.first)];
    let other = [reverse.map(|maps| maps.second), Some(forward.second)];
    let sizes = [forward.first, forward.second];
    let maps_of = |view: usize| -> Vec<&PointMap> {
        [own[view], other[view]].into_iter().flatten().collect()
    };
    let confident = [0, 1].map(|view| confident_pixels(&maps_of(view), options));

    let median_depth = median(
        confident[0]
            .indices
            .iter()
            .map(|&index| f64::from(forward.first.points[index][2])),
    )
    .filter(|depth| *depth > 0.0)
    .ok_or_else(|| no_pose("most points of the first view are behind its camera"))?;
    let first_focal = own_focal(forward.first, 1)?;
    let second_own = own[1].map(|map| own_focal(map, 2)).transpose()?;
    let guess = second_own.unwrap_or(first_focal * long_side(sizes[1]) / long_side(sizes[0]));
    let second = OtherView {
        map: forward.second,
        pixels: &confident[1].indices,
        options,
    };
    let pose = second
        .pose(guess, second_own.is_some())
        .ok_or_else(|| no_pose("no pose explains the second view's points"))?;
    let agreement = second.agreement(&pose)?;
    let second_focal = second_own.unwrap_or(checked_focal(pose.focal, forward.second, 2)?);

    let mut poses = vec![PosePrior {
        second_from_first: pose.camera_from_world,
        reverse_units: false,
    }];
    let mut focal_priors = vec![
        FocalPrior {
            view: 0,
            focal: first_focal,
            sigma: OWN_FOCAL_SIGMA,
        },
        FocalPrior {
            view: 1,
            focal: pose.focal,
            sigma: PNP_FOCAL_SIGMA,
        },
    ];
    focal_priors.extend(second_own.map(|focal| FocalPrior {
        view: 1,
        focal,
        sigma: OWN_FOCAL_SIGMA,
    }));
    let mut log_scale = 0.0;
    if let Some(reverse) = &reverse {
        log_scale = scale(&forward, reverse, &confident).unwrap_or(0.0);
        let first = OtherView {
            map: reverse.second,
            pixels: &confident[0].indices,
            options,
        };
        // The forward decode alone would do, so a reverse one that contradicts itself is left out.
        if let Some(pose) = first
            .pose(first_focal, true)
            .filter(|pose| first.agreement(pose).is_ok())
        {
            poses.push(PosePrior {
                second_from_first: pose.camera_from_world.inverse(),
                reverse_units: true,
            });
            focal_priors.push(FocalPrior {
                view: 0,
                focal: pose.focal,
                sigma: PNP_FOCAL_SIGMA,
            });
        }
    }
    let mut problem = Problem {
        matches: evidence(matches, sizes, own, options),
        focals: [first_focal, second_focal],
        focal_priors,
        poses,
        log_scale,
        median_depth,
        sigmas: Sigmas {
            match_px: 1.0,
            depth: 0.3,
            shared_focal: (options.shared_focal
                && (first_focal / second_focal).ln().abs() <= ONE_CAMERA)
                .then_some(SHARED_FOCAL_SIGMA),
            rotation: 0.03,
            translation: 0.05,
            scale: 0.02,
        },
    };
    let state = bundle::solve(&mut problem, pose.camera_from_world);
    let focals = state.log_focals.map(f64::exp);
    for view in [0, 1] {
        checked_focal(focals[view], sizes[view], view + 1)?;
    }
    let camera = |view: usize, world_from_camera: Isometry3<f64>| Camera {
        intrinsics: Intrinsics::centred(
            sizes[view].width as u32,
            sizes[view].height as u32,
            focals[view],
        ),
        world_from_camera,
    };
    Ok(TwoView {
        cameras: [
            camera(0, Isometry3::identity()),
            camera(1, state.second_from_first.inverse()),
        ],
        inliers: agreement.inliers,
        considered: agreement.considered,
        reprojection_px: agreement.median_px,
        forward_per_reverse: reverse.map(|_| state.log_scale.exp()),
        low_confidence: confident.iter().any(|pixels| pixels.low),
    })
}

fn no_pose(reason: impl Into<String>) -> Error {
    Error::NoPose {
        reason: reason.into(),
    }
}

fn check_sizes(forward: &PairMaps<'_>, reverse: Option<&PairMaps<'_>>) -> Result<()> {
    let all = [
        Some(forward.first),
        Some(forward.second),
        reverse.map(|maps| maps.first),
        reverse.map(|maps| maps.second),
    ];
    for map in all.into_iter().flatten() {
        if !map.is_consistent() || u32::try_from(map.width.max(map.height)).is_err() {
            return Err(Error::Usage(format!(
                "a point map of {}x{} pixels cannot have {} points and {} confidences",
                map.width,
                map.height,
                map.points.len(),
                map.confidence.len()
            )));
        }
    }
    let Some(reverse) = reverse else {
        return Ok(());
    };
    for (one, two) in [
        (forward.first, reverse.second),
        (forward.second, reverse.first),
    ] {
        if (one.width, one.height) != (two.width, two.height) {
            return Err(Error::Usage(format!(
                "the decodes of a pair must agree about a view's size, got {}x{} and {}x{}",
                one.width, one.height, two.width, two.height
            )));
        }
    }
    Ok(())
}

fn long_side(map: &PointMap) -> f64 {
    map.width.max(map.height) as f64
}

fn checked_focal(focal: f64, map: &PointMap, view: usize) -> Result<f64> {
    let [least, most] = FOCAL_RANGE.map(|sides| sides * long_side(map));
    if focal >= least && focal <= most {
        return Ok(focal);
    }
    Err(no_pose(format!(
        "view {view} would have a focal length of {focal:.1} pixels, allowed are {least:.1} to {most:.1}"
    )))
}

fn own_focal(map: &PointMap, view: usize) -> Result<f64> {
    // Confident pixels weigh more, and points behind the camera tell nothing.
    let weight = |index: usize| {
        let weight = f64::from(map.confidence[index]);
        if map.points[index][2] > 0.0 && weight.is_finite() {
            (weight - 0.999).max(1e-3)
        } else {
            0.0
        }
    };
    let focal = weiszfeld(map, 0..map.points.len(), weight).ok_or_else(|| {
        no_pose(format!(
            "the points of view {view} in its own frame determine no focal length"
        ))
    })?;
    checked_focal(focal, map, view)
}

/// Pixels of a view to rely on.
struct ConfidentPixels {
    indices: Vec<usize>,
    low: bool,
}

/// Pixels with finite points in all `maps` whose largest confidence is above the threshold, or the
/// most confident ones.
fn confident_pixels(maps: &[&PointMap], options: &TwoViewOptions) -> ConfidentPixels {
    let Some(pixels) = maps.first().map(|map| map.points.len()) else {
        return ConfidentPixels {
            indices: Vec::new(),
            low: true,
        };
    };
    let mut candidates: Vec<(usize, f64)> = (0..pixels)
        .filter(|&index| {
            maps.iter()
                .all(|map| map.points[index].iter().all(|value| value.is_finite()))
        })
        .map(|index| {
            (
                index,
                maps.iter()
                    .map(|map| f64::from(map.confidence[index]))
                    .fold(f64::NAN, f64::max),
            )
        })
        .filter(|(_, confidence)| !confidence.is_nan())
        .collect();
    let wanted =
        ((options.least_confident_share * pixels as f64).ceil() as usize).max(LEAST_PIXELS);
    let above = candidates
        .iter()
        .filter(|(_, confidence)| *confidence > options.confidence_threshold)
        .count();
    let low = above < wanted;
    if low {
        // Ties by index: a network that knows nothing has one confidence everywhere.
        candidates.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        candidates.truncate(wanted);
        candidates.sort_by_key(|&(index, _)| index);
    } else {
        candidates.retain(|(_, confidence)| *confidence > options.confidence_threshold);
    }
    ConfidentPixels {
        indices: candidates.into_iter().map(|(index, _)| index).collect(),
        low,
    }
}

/// A view whose points are known in the other camera's frame.
struct OtherView<'a> {
    map: &'a PointMap,
    pixels: &'a [usize],
    options: &'a TwoViewOptions,
}

struct Agreement {
    inliers: usize,
    considered: usize,
    median_px: f64,
}

impl OtherView<'_> {
    fn observations(&self) -> Vec<Observation> {
        let observation = |&index: &usize| Observation {
            point: Point3::from(self.map.points[index].map(f64::from)),
            pixel: self.map.pixel(index),
            weight: f64::from(self.map.confidence[index])
                .clamp(1.0, 1e3)
                .ln()
                .max(1e-3),
        };
        pnp::spread(self.pixels, MOST_CORRESPONDENCES)
            .iter()
            .map(observation)
            .collect()
    }

    fn settings(&self) -> PnpOptions {
        let threshold_px = (self.options.threshold * long_side(self.map)).max(LEAST_THRESHOLD_PX);
        PnpOptions {
            threshold_px,
            ..PnpOptions::default()
        }
    }

    /// Pose and focal length together, from a focal length that is `known` roughly or merely
    /// guessed.
    fn pose(&self, focal: f64, known: bool) -> Option<Pose> {
        let (observations, settings, middle) =
            (self.observations(), self.settings(), self.map.middle());
        if observations.len() < LEAST_PIXELS {
            return None;
        }
        let wide = PnpOptions {
            threshold_px: 2.0 * settings.threshold_px,
            ..settings
        };
        let near = pnp::solve(&observations, middle, focal, &wide)
            .and_then(|pose| pnp::refine(&observations, middle, pose, true, settings.threshold_px));
        let share = |pose: &Pose| {
            let errors = observations
                .iter()
                .map(|observation| pnp::reprojection_error(observation, middle, pose));
            errors
                .filter(|error| *error <= settings.threshold_px)
                .count() as f64
                / observations.len() as f64
        };
        if known || near.as_ref().is_some_and(|pose| share(pose) > 0.5) {
            return near;
        }
        let far = pnp::solve_unknown_focal(&observations, middle, long_side(self.map), &settings);
        [near, far]
            .into_iter()
            .flatten()
            .max_by(|a, b| share(a).total_cmp(&share(b)))
    }

    /// How well a pose explains the view's pixels; an error if it does not.
    fn agreement(&self, pose: &Pose) -> Result<Agreement> {
        let (observations, threshold) = (self.observations(), self.settings().threshold_px);
        let middle = self.map.middle();
        let inliers: Vec<f64> = observations
            .iter()
            .map(|observation| pnp::reprojection_error(observation, middle, pose))
            .filter(|error| *error <= threshold)
            .collect();
        let (found, considered) = (inliers.len(), observations.len());
        let needed = (self.options.least_inlier_share * considered as f64).max(LEAST_PIXELS as f64);
        match median(inliers.into_iter()) {
            Some(median_px) if found as f64 >= needed => Ok(Agreement {
                inliers: found,
                considered,
                median_px,
            }),
            _ => Err(no_pose(format!(
                "only {found} of {considered} pixels of the second view agree on one, {:.0} are needed",
                needed.ceil()
            ))),
        }
    }
}

/// Logarithm of the forward decode's units over the reverse one's, from both views' two maps.
fn scale(
    forward: &PairMaps<'_>,
    reverse: &PairMaps<'_>,
    confident: &[ConfidentPixels; 2],
) -> Option<f64> {
    let of_view = |from: &PointMap, to: &PointMap, pixels: &ConfidentPixels| {
        let pairs: Vec<Correspondence> = pnp::spread(&pixels.indices, MOST_CORRESPONDENCES)
            .iter()
            .map(|&index| Correspondence {
                from: Point3::from(from.points[index].map(f64::from)),
                to: Point3::from(to.points[index].map(f64::from)),
                weight: (f64::from(from.confidence[index]) * f64::from(to.confidence[index]))
                    .clamp(1e-3, 1e6)
                    .ln_1p(),
            })
            .collect();
        procrustes::robust_similarity(&pairs, SIMILARITY_ROUNDS).map(|fit| fit.scaling().ln())
    };
    let found = [
        of_view(reverse.second, forward.first, &confident[0]),
        of_view(reverse.first, forward.second, &confident[1]),
    ];
    let found: Vec<f64> = found.into_iter().flatten().collect();
    (!found.is_empty()).then(|| found.iter().sum::<f64>() / found.len() as f64)
}

/// Matches with what the `own` maps, in their view's frame, say at their pixels. (The other maps'
/// depths carry the error of their decode's pose, which is the same for all pixels; they count in
/// the poses.)
fn evidence(
    matches: &[([f64; 2], [f64; 2], f64)],
    sizes: [&PointMap; 2],
    own: [Option<&PointMap>; 2],
    options: &TwoViewOptions,
) -> Vec<Evidence> {
    let mut usable: Vec<&([f64; 2], [f64; 2], f64)> = matches
        .iter()
        .filter(|(_, _, confidence)| confidence.is_finite() && *confidence > 0.0)
        .collect();
    if usable.len() > options.most_matches {
        usable.sort_by(|a, b| b.2.total_cmp(&a.2));
        usable.truncate(options.most_matches);
    }
    let Some(typical) = median(usable.iter().map(|(_, _, confidence)| *confidence)) else {
        return Vec::new();
    };
    let log_depth = |map: Option<&PointMap>, index: usize| {
        let depth = map.map_or(f64::NAN, |map| f64::from(map.points[index][2]));
        if depth > 0.0 && depth.is_finite() {
            depth.ln()
        } else {
            f64::NAN
        }
    };
    let mut found = Vec::with_capacity(usable.len());
    for &&(first, second, confidence) in &usable {
        let (Some(first_index), Some(second_index)) =
            (sizes[0].index(first), sizes[1].index(second))
        else {
            continue;
        };
        let centred =
            |pixel: [f64; 2], map: &PointMap| Vector2::from(pixel) - Vector2::from(map.middle());
        found.push(Evidence {
            pixels: [centred(first, sizes[0]), centred(second, sizes[1])],
            // One match must not outweigh many, nor fall out altogether.
            weight: (confidence / typical).clamp(0.01, 1.0),
            log_depth_first: log_depth(own[0], first_index),
            log_depth_second: log_depth(own[1], second_index),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use nalgebra::{Translation3, UnitQuaternion, Vector3};

    use super::*;

    const FOCAL: f64 = 60.0;

    fn first_from_second() -> Isometry3<f64> {
        let rotation = UnitQuaternion::from_scaled_axis(Vector3::new(0.05, -0.2, 0.03));
        Isometry3::from_parts(Translation3::new(0.6, -0.1, 0.2), rotation)
    }

    /// A bumpy surface as a camera sees it, in the frame that `frame_from_camera` leads to.
    fn map(frame_from_camera: Isometry3<f64>, scale: f64) -> PointMap {
        let (width, height) = (64, 48);
        let camera = Camera {
            intrinsics: Intrinsics::centred(64, 48, FOCAL),
            world_from_camera: frame_from_camera,
        };
        let mut map = PointMap {
            width,
            height,
            points: Vec::new(),
            confidence: vec![5.0; width * height],
        };
        for index in 0..width * height {
            let [u, v] = map.pixel(index);
            let point = camera.unproject([u, v], 3.0 + (0.2 * u).sin() + (0.3 * v).cos());
            map.points
                .push([point.x, point.y, point.z].map(|value| (value * scale) as f32));
        }
        map
    }

    fn forward() -> [PointMap; 2] {
        [
            map(Isometry3::identity(), 1.0),
            map(first_from_second(), 1.0),
        ]
    }

    fn solve(forward: &[PointMap; 2], reverse: Option<&[PointMap; 2]>) -> Result<TwoView> {
        let maps = PairMaps {
            first: &forward[0],
            second: &forward[1],
        };
        let reverse = reverse.map(|[first, second]| PairMaps { first, second });
        two_view(maps, reverse, &[], &TwoViewOptions::default())
    }

    fn gap(solved: &TwoView) -> f64 {
        let found = solved.cameras[1].world_from_camera.to_homogeneous();
        let pose = (found - first_from_second().to_homogeneous()).abs().max();
        solved
            .cameras
            .iter()
            .map(|camera| (camera.intrinsics.fx / FOCAL - 1.0).abs())
            .fold(pose, f64::max)
    }

    #[test]
    fn exact_predictions_give_the_cameras_with_one_decode_and_with_two() {
        let solved = solve(&forward(), None).unwrap();
        assert!(gap(&solved) < 1e-3, "{solved:?}");
        assert!(!solved.low_confidence && solved.forward_per_reverse.is_none());
        let reverse = [
            map(Isometry3::identity(), 0.8),
            map(first_from_second().inverse(), 0.8),
        ];
        let solved = solve(&forward(), Some(&reverse)).unwrap();
        assert!(gap(&solved) < 1e-3, "{solved:?}");
        assert!((solved.forward_per_reverse.unwrap() * 0.8 - 1.0).abs() < 1e-3);
    }

    #[test]
    fn without_confident_pixels_the_best_are_used_and_that_is_said() {
        let mut maps = forward();
        maps.iter_mut().for_each(|map| {
            map.confidence
                .iter_mut()
                .for_each(|confidence| *confidence = 1.5)
        });
        let solved = solve(&maps, None).unwrap();
        assert!(solved.low_confidence && gap(&solved) < 1e-2, "{solved:?}");
    }

    fn refusal(spoil: impl Fn(usize, usize, &mut [f32; 3])) -> String {
        let mut maps = forward();
        for (view, map) in maps.iter_mut().enumerate() {
            map.points
                .iter_mut()
                .enumerate()
                .for_each(|(index, point)| spoil(view, index, point));
        }
        match solve(&maps, None) {
            Err(Error::NoPose { reason }) => reason,
            other => panic!("there is no pose to find, got {other:?}"),
        }
    }

    #[test]
    fn predictions_without_a_pose_are_refused() {
        refusal(|_, _, point| *point = [f32::NAN; 3]);
        refusal(|_, _, point| *point = [0.0; 3]);
        refusal(|_, _, point| *point = [0.3, 0.2, 1.0]);
        refusal(|view, _, point| {
            if view == 1 {
                *point = [0.3, 0.2, 1.0]
            }
        });
        refusal(|view, _, point| {
            if view == 1 {
                *point = [f32::NAN; 3]
            }
        });
        let behind = refusal(|_, _, point| *point = point.map(|value| -value));
        assert!(behind.contains("behind"), "{behind}");
        let noise = |index: usize| {
            (
                (index * 7919 % 1013) as f32 / 500.0 - 1.0,
                (index * 104_729 % 997) as f32 / 500.0,
            )
        };
        refusal(|view, index, point| {
            if view == 1 {
                *point = [noise(index).0, noise(index + 5).0, noise(index).1]
            }
        });
    }

    #[test]
    fn maps_of_unequal_sizes_are_a_usage_error() {
        let mut maps = forward();
        maps[1].points.pop();
        assert!(matches!(solve(&maps, None), Err(Error::Usage(_))));
    }
}
