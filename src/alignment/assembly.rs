//! From fits of pairs to solved views: the problem is put together and solved.

use std::collections::BTreeMap;

use nalgebra::{Isometry3, Vector2};
use rayon::prelude::*;

use super::canonical::{CanonicalDepth, CanonicalView, sampled};
use super::links::{links, place};
use super::objective::{
    FOCAL, Loss, Neighbour, Observation, PRINCIPAL, Problem, SCALE, Sigmas, State, UNKNOWNS,
    ViewEvidence, ViewState,
};
use super::optimizer::{Budget, minimise};
use super::options::ImageSize;
use super::pair_fit::PairFit;
use super::spanning_tree::{Frame, frames, move_to_known};
use super::{AlignOptions, KnownPoses, PrincipalPoint};
use crate::geometry::{Intrinsics, ONE_CAMERA, median};

/// Side of the blocks of pixels that share a correction of their depths.
pub(super) const BLOCK: usize = 8;
/// Expected errors of what the network says, relative or in radians. Errors of near-by pixels are
/// alike, so that many of them tell less than they would alone: where so many speak as of depths,
/// these are larger than what one pixel is off.
const DEPTH_SIGMA: f64 = 0.03;
/// The same once a rough solution has shown how far the depths of matches are apart: so many times
/// the typical gap, and this at most. Errors of a coarse network's depths are as large as the
/// parallax, and would bend the cameras.
const DEPTH_GAPS: f64 = 2.0;
const MOST_DEPTH_SIGMA: f64 = 0.3;
/// Of the focal length that all maps of all images of one camera speak for. Images that were moved
/// but hardly turned determine no focal length. What their matches then seem to prefer are errors
/// that many of them have in common, so that this has to hold against many.
const FOCAL_SIGMA: f64 = 0.01;
/// Of a focal length that a file states: rounded to a millimetre, of a lens that breathes.
const PROBABLE_FOCAL_SIGMA: f64 = 0.03;
/// Of the focal length that all maps of a view together speak for, beside a stated one.
const MAPS_FOCAL_SIGMA: f64 = 0.1;
/// A stated focal length that is further from the maps' than this, as a difference of logarithms,
/// is not believed: an image that was cut or zoomed into since states one that is wrong by a half
/// or more, and maps seldom err by a quarter.
const MOST_IMPROBABLE: f64 = 0.25;
/// Of the middle of an image as its principal point, over its long side.
const PRINCIPAL_SIGMA: f64 = 0.015;
const ROTATION_SIGMA: f64 = 0.01;
const TRANSLATION_SIGMA: f64 = 0.1;
/// Expected error of a match, pixels per axis.
const MATCH_PX: f64 = 0.5;
/// Losses of matches one after the other: wide for convergence, then as narrow as the noise and
/// blind to wrong matches.
pub(super) const LOSSES: [Loss; 3] = [
    Loss::Cauchy(16.0),
    Loss::Cauchy(6.0),
    Loss::GemanMcClure(6.0),
];
/// As far as it takes to tell right pairs from wrong ones.
const ROUGH: Budget = Budget {
    steps: 15,
    least_gain: 1e-3,
};
/// As far as it goes.
const FINE: Budget = Budget {
    steps: 30,
    least_gain: 1e-6,
};
/// Losses that are left out where a solution that had some wrong pairs is where the search begins.
const KNOWN_LOSSES: usize = 1;
/// Matches that are solved for at most, of all pairs and of one, and how many of each pair all the
/// same. Those beyond are left out evenly: what errors near-by ones have is alike, and time and
/// memory grow with them.
const MOST_MATCHES: usize = 1_000_000;
const MOST_OF_PAIR: usize = 1500;
const LEAST_OF_PAIR: usize = 300;
/// A match agrees with the cameras within this share of the long side, and its least value in
/// pixels.
const AGREEMENT: (f64, f64) = (0.01, 3.0);

/// Views that are solved together, and everything known of them.
pub(super) struct Assembly<'a> {
    /// Indices among all views, ascending.
    pub views: Vec<usize>,
    /// The pairs between them that count.
    pub fits: Vec<&'a PairFit>,
    /// Of all views.
    pub sizes: &'a [ImageSize],
    pub canonical: &'a [CanonicalView],
    pub depths: &'a [CanonicalDepth],
    pub options: &'a AlignOptions,
}

/// How far matches agree with the solution.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Agreement {
    pub weight: f64,
    pub inlier_weight: f64,
    /// Median of the inliers' errors, pixels.
    pub median_px: Option<f64>,
}

impl Agreement {
    /// Share of the weight that agrees; 0 of nothing.
    pub fn share(&self) -> f64 {
        if self.weight > 0.0 {
            self.inlier_weight / self.weight
        } else {
            0.0
        }
    }
}

/// The answer for an assembly.
pub(super) struct Solution {
    pub problem: Problem,
    pub state: State,
    /// By the assembly's pairs and by its views.
    pub pairs: Vec<Agreement>,
    pub views: Vec<Agreement>,
}

impl Assembly<'_> {
    /// Solves for all unknowns, roughly, beginning where a solution for the same views is, if there
    /// is one.
    pub fn solve(&self, before: Option<&Solution>) -> Solution {
        let cameras = self.cameras();
        let problem = self.problem(&cameras);
        let (mut state, skipped) = match before {
            Some(before) => (before.state.clone(), KNOWN_LOSSES),
            None => (self.start(&cameras), 0),
        };
        for loss in &LOSSES[skipped..] {
            state = minimise(&problem, state, *loss, ROUGH);
        }
        self.solution(problem, state)
    }

    /// Solves to the end from a rough solution.
    pub fn refine(&self, rough: Solution) -> Solution {
        let Solution {
            mut problem, state, ..
        } = rough;
        if let Some(gap) = self.typical_depth_gap(&problem, &state) {
            let sigma = (DEPTH_GAPS * gap).clamp(DEPTH_SIGMA, MOST_DEPTH_SIGMA);
            problem.sigmas.seen_depth = sigma;
            problem
                .views
                .iter_mut()
                .for_each(|view| view.block_sigmas.fill(sigma));
        }
        let state = minimise(&problem, state, LOSSES[LOSSES.len() - 1], FINE);
        self.solution(problem, state)
    }

    fn solution(&self, problem: Problem, state: State) -> Solution {
        let (pairs, views) = self.agreement(&problem, &state);
        Solution {
            problem,
            state,
            pairs,
            views,
        }
    }

    fn start(&self, cameras: &[Vec<usize>]) -> State {
        let links = links(&self.views, &self.fits, self.depths);
        let known = self.known_poses();
        let root = known.first().map_or(0, |(local, _)| *local);
        let mut frames = frames(self.views.len(), &links, root);
        move_to_known(&mut frames, &known);
        for (view, pose) in &known {
            frames[*view].isometry = *pose;
        }
        let state = |(&view, frame): (&usize, &Frame)| ViewState {
            rotation: frame.isometry.rotation,
            centre: frame.isometry.translation.vector,
            log_focal: self.log_focal(view),
            log_scale: frame.scaling().ln(),
            principal: Vector2::zeros(),
            corrections: vec![0.0; blocks(&self.canonical[view]).iter().product()],
        };
        let mut views: Vec<ViewState> = self.views.iter().zip(&frames).map(state).collect();
        for group in cameras {
            let shared = median(group.iter().map(|&view| views[view].log_focal)).unwrap_or(0.0);
            group
                .iter()
                .for_each(|&view| views[view].log_focal = shared);
        }
        State { views }
    }

    /// The one that is known, or probable, or the middle one of those that the view's maps speak
    /// for.
    fn log_focal(&self, view: usize) -> f64 {
        if let Some(known) = self.options.known(view).intrinsics {
            return known.fx.ln();
        }
        let canonical = &self.canonical[view];
        let typical = || (1.2 * canonical.width.max(canonical.height) as f64).ln();
        let by_maps = median(canonical.log_focals.iter().copied());
        self.probable_log_focal(view)
            .or(by_maps)
            .unwrap_or_else(typical)
    }

    /// Logarithms of the focal lengths that are expected of a view of a camera with so many images,
    /// each with its expected error: the middle one of those that its maps speak for, and the
    /// probable one. The maps of one network err alike, so all of them together count no more than
    /// one.
    fn log_focals(&self, view: usize, images: usize) -> Vec<[f64; 2]> {
        let by_maps = median(self.canonical[view].log_focals.iter().copied());
        let probable = self.probable_log_focal(view);
        let sigma = if probable.is_some() {
            MAPS_FOCAL_SIGMA
        } else {
            FOCAL_SIGMA * (images as f64).sqrt()
        };
        let by_maps = by_maps.map(|focal| [focal, sigma]);
        by_maps
            .into_iter()
            .chain(probable.map(|focal| [focal, PROBABLE_FOCAL_SIGMA]))
            .collect()
    }

    /// The focal length that is probable beforehand, if the view's maps do not speak for quite
    /// another one.
    fn probable_log_focal(&self, view: usize) -> Option<f64> {
        let probable = self.options.known(view).probable_focal?.ln();
        let by_maps = median(self.canonical[view].log_focals.iter().copied());
        by_maps
            .is_none_or(|by_maps| (probable - by_maps).abs() <= MOST_IMPROBABLE)
            .then_some(probable)
    }

    /// The focal length that was probable beforehand and is not used.
    pub fn overruled_focal(&self, view: usize) -> Option<f64> {
        let known = self.options.known(view);
        known
            .probable_focal
            .filter(|_| known.intrinsics.is_none() && self.probable_log_focal(view).is_none())
    }

    fn problem(&self, cameras: &[Vec<usize>]) -> Problem {
        let images = |local: usize| {
            cameras
                .iter()
                .find(|group| group.contains(&local))
                .map_or(1, Vec::len)
        };
        let mut views: Vec<ViewEvidence> = self
            .views
            .iter()
            .enumerate()
            .map(|(local, &view)| ViewEvidence {
                log_focals: self.log_focals(view, images(local)),
                block_sigmas: vec![DEPTH_SIGMA; blocks(&self.canonical[view]).iter().product()],
                median_depth: self.depths[view].log_median.exp(),
                principal_px: PRINCIPAL_SIGMA
                    * self.canonical[view].width.max(self.canonical[view].height) as f64,
                ..ViewEvidence::default()
            })
            .collect();
        let most = (MOST_MATCHES / self.fits.len().max(1)).clamp(LEAST_OF_PAIR, MOST_OF_PAIR);
        for (pair, fit) in self.fits.iter().enumerate() {
            let ends = [fit.pair.first, fit.pair.second];
            let locals = ends.map(|view| place(&self.views, view));
            for (own, other) in [(0, 1), (1, 0)] {
                let neighbour = views[locals[own]].neighbours.len();
                views[locals[own]].neighbours.push(Neighbour {
                    view: locals[other],
                    pair,
                });
                let (canonical, depth) = (&self.canonical[ends[own]], &self.depths[ends[own]]);
                let [across, _] = blocks(canonical);
                for m in sampled(fit.matches.len(), most).map(|at| &fit.matches[at]) {
                    let pixels = [m.first, m.second];
                    let log_depth = f64::from(depth.log_depth[m.indices[own]]);
                    if log_depth.is_nan() {
                        continue;
                    }
                    let [x, y] = pixels[own].map(|at| at as usize / BLOCK);
                    views[locals[own]].observations.push(Observation {
                        neighbour: neighbour as u32,
                        block: (y * across + x) as u32,
                        pixel: self.centred(pixels[own], ends[own]),
                        depth: log_depth.exp(),
                        seen: self.centred(pixels[other], ends[other]),
                        seen_log_depth: f64::from(
                            self.depths[ends[other]].log_depth[m.indices[other]],
                        ),
                        weight: m.weight,
                    });
                }
            }
        }
        let order = |observation: &Observation| (observation.neighbour, observation.block);
        views
            .par_iter_mut()
            .for_each(|view| view.observations.sort_by_key(order));
        let poses = self
            .fits
            .iter()
            .flat_map(|fit| &fit.pose_priors)
            .map(|prior| {
                let mut prior = *prior;
                (prior.base, prior.seen) = (
                    place(&self.views, prior.base),
                    place(&self.views, prior.seen),
                );
                prior
            });
        let sigmas = Sigmas {
            match_px: MATCH_PX,
            rotation: ROTATION_SIGMA,
            translation: TRANSLATION_SIGMA,
            seen_depth: DEPTH_SIGMA,
        };
        let places = self.places(cameras);
        Problem {
            poses: poses.collect(),
            views,
            sigmas,
            places,
        }
    }

    /// A pixel relative to the principal point. Where the two focal lengths are known to differ,
    /// rows are stretched so that the horizontal one holds for both.
    fn centred(&self, pixel: [f64; 2], view: usize) -> Vector2<f64> {
        let CanonicalView { width, height, .. } = self.canonical[view];
        let inside = self.options.known(view).intrinsics;
        let inside = inside.unwrap_or(Intrinsics::centred(width as u32, height as u32, 1.0));
        Vector2::new(
            pixel[0] - inside.cx,
            (pixel[1] - inside.cy) * inside.fx / inside.fy,
        )
    }

    /// Local indices of the views whose poses are known, with the poses.
    pub fn known_poses(&self) -> Vec<(usize, Isometry3<f64>)> {
        let pose = |(local, &view): (usize, &usize)| {
            Some((local, self.options.known(view).world_from_camera?))
        };
        self.views.iter().enumerate().filter_map(pose).collect()
    }

    /// The known poses that stay.
    pub fn fixed_poses(&self) -> Vec<(usize, Isometry3<f64>)> {
        match self.options.known_poses {
            KnownPoses::Fixed => self.known_poses(),
            KnownPoses::Start => Vec::new(),
        }
    }

    /// The places of the views' unknowns. What concerns many views, as the focal lengths of
    /// cameras, comes last, so that few factors are filled in by it.
    ///
    /// Known cameras are fixed. Where no poses are, the first view's pose and scale are, as nothing
    /// else says where the world is; where one is, its view's scale is.
    fn places(&self, cameras: &[Vec<usize>]) -> Vec<[Option<usize>; UNKNOWNS]> {
        let mut fresh = 0..;
        let poses = self.fixed_poses();
        let mut is_shared = vec![false; self.views.len()];
        cameras
            .iter()
            .flatten()
            .for_each(|&local| is_shared[local] = true);
        let mut place = |local: usize, view: usize| {
            let known = self.options.known(view);
            let is_posed =
                poses.iter().any(|(posed, _)| *posed == local) || poses.is_empty() && local == 0;
            std::array::from_fn(|unknown| match unknown {
                FOCAL if is_shared[local] || known.intrinsics.is_some() => None,
                PRINCIPAL.. => None,
                0..FOCAL if is_posed => None,
                SCALE if is_posed && poses.len() < 2 => None,
                _ => fresh.next(),
            })
        };
        let mut places: Vec<[Option<usize>; UNKNOWNS]> = self
            .views
            .iter()
            .enumerate()
            .map(|(local, &view)| place(local, view))
            .collect();
        for group in cameras {
            let shared = fresh.next();
            group
                .iter()
                .for_each(|&local| places[local][FOCAL] = shared);
        }
        if self.options.principal_point == PrincipalPoint::Prior {
            let mut found = BTreeMap::new();
            for (places, &view) in places.iter_mut().zip(&self.views) {
                let CanonicalView { width, height, .. } = self.canonical[view];
                if self.options.known(view).intrinsics.is_none() {
                    let shared = found
                        .entry([width, height])
                        .or_insert_with(|| [fresh.next(), fresh.next()]);
                    places[PRINCIPAL..].copy_from_slice(shared);
                }
            }
        }
        places
    }

    /// The views, by their local indices, of each group that shares one focal length: images of one
    /// size whose maps speak for about the same one, unless the options say otherwise.
    fn cameras(&self) -> Vec<Vec<usize>> {
        let mut sizes = BTreeMap::<_, Vec<(f64, usize)>>::new();
        for (local, &view) in self.views.iter().enumerate() {
            if self.options.known(view).intrinsics.is_none() && !self.options.separate_cameras {
                sizes
                    .entry(self.sizes[view])
                    .or_default()
                    .push((self.log_focal(view), local));
            }
        }
        let width = if self.options.shared_focal {
            f64::INFINITY
        } else {
            ONE_CAMERA
        };
        sizes
            .into_values()
            .flat_map(|views| one_camera_each(views, width))
            .collect()
    }

    /// The middle one of the gaps between depths of points where they were matched and those that
    /// the views' maps have there, as differences of logarithms, over the matches that agree with
    /// the cameras.
    fn typical_depth_gap(&self, problem: &Problem, state: &State) -> Option<f64> {
        let gaps = problem.views.par_iter().enumerate().map(|(view, _)| {
            let canonical = &self.canonical[self.views[view]];
            let allowed = agreement_px(canonical.width.max(canonical.height));
            let errors = problem.match_errors(view, state).into_iter();
            errors
                .filter(|error| error[0] <= allowed)
                .map(|error| error[1].abs())
                .collect::<Vec<f64>>()
        });
        median(
            gaps.collect::<Vec<_>>()
                .into_iter()
                .flatten()
                .filter(|gap| !gap.is_nan()),
        )
    }

    /// Agreement of each pair and of each view.
    fn agreement(&self, problem: &Problem, state: &State) -> (Vec<Agreement>, Vec<Agreement>) {
        let mut pairs = vec![(Agreement::default(), Vec::new()); self.fits.len()];
        let mut views = vec![(Agreement::default(), Vec::new()); self.views.len()];
        for (view, evidence) in problem.views.iter().enumerate() {
            let canonical = &self.canonical[self.views[view]];
            let allowed = agreement_px(canonical.width.max(canonical.height));
            for (observation, [error, _]) in evidence
                .observations
                .iter()
                .zip(problem.match_errors(view, state))
            {
                let pair = evidence.neighbours[observation.neighbour as usize].pair;
                let [one, two] = [&mut views[view], &mut pairs[pair]];
                for (agreement, errors) in [one, two] {
                    agreement.weight += observation.weight;
                    if error <= allowed {
                        agreement.inlier_weight += observation.weight;
                        errors.push(error);
                    }
                }
            }
        }
        let finish = |list: Vec<(Agreement, Vec<f64>)>| {
            let finish = |(agreement, errors): (Agreement, Vec<f64>)| Agreement {
                median_px: median(errors.into_iter()),
                ..agreement
            };
            list.into_iter().map(finish).collect()
        };
        (finish(pairs), finish(views))
    }
}

/// Sorts views with the logarithms of their focal lengths into groups of one camera each: the most
/// that lie within `width`, then the most of the rest. A view that is alone is in no group.
pub(super) fn one_camera_each(mut views: Vec<(f64, usize)>, width: f64) -> Vec<Vec<usize>> {
    views.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut groups = Vec::new();
    loop {
        let end =
            |first: usize| views.partition_point(|(focal, _)| *focal <= views[first].0 + width);
        // The first of equally large ones.
        let largest = (0..views.len())
            .rev()
            .map(|first| first..end(first))
            .max_by_key(ExactSizeIterator::len);
        let Some(largest) = largest.filter(|range| range.len() > 1) else {
            return groups;
        };
        let mut group: Vec<usize> = views.drain(largest).map(|(_, view)| view).collect();
        group.sort_unstable();
        groups.push(group);
    }
}

/// The reprojection error up to which a match of an image with this long side agrees with the
/// cameras, pixels.
pub(super) fn agreement_px(long_side: usize) -> f64 {
    (AGREEMENT.0 * long_side as f64).max(AGREEMENT.1)
}

/// Blocks across and down.
pub(super) fn blocks(view: &CanonicalView) -> [usize; 2] {
    [view.width.div_ceil(BLOCK), view.height.div_ceil(BLOCK)]
}

#[cfg(test)]
mod tests {
    use super::super::KnownCamera;
    use super::*;

    /// The focal length of a view whose matches say nothing of it, of six maps and with one that is
    /// stated, in pixels.
    fn focal(by_maps: f64, stated: f64) -> f64 {
        let mut canonical = CanonicalView::new(16, 16);
        canonical.log_focals = vec![by_maps.ln(); 6];
        let known = vec![KnownCamera {
            probable_focal: Some(stated),
            ..KnownCamera::default()
        }];
        let assembly = Assembly {
            views: vec![0],
            fits: Vec::new(),
            sizes: &[ImageSize::square(16)],
            depths: &[canonical.finish()],
            canonical: &[canonical],
            options: &AlignOptions {
                known,
                ..AlignOptions::default()
            },
        };
        assembly.refine(assembly.solve(None)).state.views[0]
            .log_focal
            .exp()
    }

    #[test]
    fn a_stated_focal_length_wins_over_maps_that_err_alike_unless_it_is_grossly_wrong() {
        for stated in [82.0, 97.0, 103.0, 120.0] {
            let found = focal(100.0, stated);
            assert!(
                (found / stated - 1.0).abs() < 0.03,
                "{found}, stated {stated}"
            );
        }
        for stated in [50.0, 75.0, 150.0] {
            assert!(
                (focal(100.0, stated) - 100.0).abs() < 1e-6,
                "stated {stated}"
            );
        }
    }

    #[test]
    fn views_are_of_one_camera_where_their_focal_lengths_are_alike() {
        let groups =
            |focals: &[f64]| one_camera_each(focals.iter().copied().zip(0..).collect(), ONE_CAMERA);
        assert_eq!(
            groups(&[0.1, 1.0, 0.2, 0.3, 1.1, 2.0]),
            [vec![0, 2, 3], vec![1, 4]]
        );
        assert_eq!(groups(&[0.0, 0.2, 0.4]), [vec![0, 1]]);
        assert!(
            groups(&[0.0, 0.3, 0.6]).is_empty()
                && groups(&[0.5]).is_empty()
                && groups(&[]).is_empty()
        );
        assert_eq!(
            one_camera_each(vec![(0.0, 1), (3.0, 0)], f64::INFINITY),
            [vec![0, 1]]
        );
    }
}
