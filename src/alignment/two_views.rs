//! The report on a scene of two views that was solved without an alignment.

use super::assembly::{Agreement, agreement_px};
use super::{Alignment, Pair, PairReport, Verdict, ViewReport};
use crate::geometry::median;
use crate::matching::Match;
use crate::scene::{Scene, ViewMatches};

impl Alignment {
    /// The alignment of a scene of two views with their `matches`, which become the scene's too.
    /// `cameras_error` tells why there are no cameras, if so. Agreement of matches with the cameras
    /// is measured as [`align`](super::align) does.
    pub(crate) fn of_two_views(
        mut scene: Scene,
        matches: &[Match],
        cameras_error: Option<String>,
    ) -> Self {
        let at = |pixel: crate::matching::Pixel| [pixel.x, pixel.y];
        let usable = |m: &&Match| m.confidence.is_finite() && m.confidence > 0.0;
        let pixels: Vec<[[u32; 2]; 2]> = matches
            .iter()
            .filter(usable)
            .map(|m| [at(m.first), at(m.second)])
            .collect();
        let confidences = || {
            matches
                .iter()
                .filter(usable)
                .map(|m| f64::from(m.confidence))
        };
        let typical = median(confidences()).unwrap_or(1.0);
        let weights: Vec<f64> = confidences()
            .map(|confidence| (confidence / typical).min(1.0))
            .collect();

        let [first, second] =
            [[0, 1], [1, 0]].map(|direction| agreement(&scene, &pixels, &weights, direction));
        let (views, pair) = ([first.0, second.0], first.0.joined(second.0));
        let placed = cameras_error.is_none();
        let report = |(agreement, errors): (Agreement, Vec<f64>)| ViewReport {
            placed,
            inlier_share: agreement.share(),
            reprojection_px: median(errors.into_iter()),
            overruled_focal: None,
        };
        let pair = PairReport {
            pair: Pair {
                first: 0,
                second: 1,
            },
            matches: matches.len(),
            verdict: if placed {
                Verdict::Used
            } else {
                Verdict::Unsound
            },
            inlier_share: pair.share(),
        };
        scene.matches = vec![ViewMatches {
            views: [0, 1],
            pixels,
        }];
        let views = views
            .into_iter()
            .zip([first.1, second.1])
            .map(report)
            .collect();
        Self {
            scene,
            views,
            pairs: vec![pair],
            cameras_error,
        }
    }
}

/// How far the pixels of the view `own` agree with where the other one has their points, and the
/// errors of those that do.
fn agreement(
    scene: &Scene,
    pixels: &[[[u32; 2]; 2]],
    weights: &[f64],
    [own, other]: [usize; 2],
) -> (Agreement, Vec<f64>) {
    let (mut agreement, mut errors) = (Agreement::default(), Vec::new());
    let view = &scene.views[own];
    let (Some(camera), Some(other_camera)) = (&view.camera, &scene.views[other].camera) else {
        return (agreement, errors);
    };
    let (width, height) = view.rgb.dimensions();
    for (pixels, weight) in pixels.iter().zip(weights) {
        let [x, y] = pixels[own];
        let depth = f64::from(view.depth[(y * width + x) as usize]);
        if depth.is_nan() {
            continue;
        }
        agreement.weight += weight;
        let seen = other_camera.project(&camera.unproject([f64::from(x), f64::from(y)], depth));
        let [to_x, to_y] = pixels[other].map(f64::from);
        let error = seen.map_or(f64::INFINITY, |[x, y]| (x - to_x).hypot(y - to_y));
        if error <= agreement_px(width.max(height) as usize) {
            agreement.inlier_weight += weight;
            errors.push(error);
        }
    }
    (agreement, errors)
}
