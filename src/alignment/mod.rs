//! Many views in one world, from the predictions of their pairs.
//!
//! ```text
//! PairEvidence ── pair_fit ──▶ similarity, matches, poses of a pair ─┐
//!              └─ canonical ─▶ depths, focal lengths of a view ──────┤
//!    pair_graph     wrong pairs out, the largest connected part      │
//!    spanning_tree  first poses, averaged over all pairs             │
//!    objective, optimizer   poses, focal lengths, scales, depths ◀───┘
//!    solved         cameras, depths and points in the world ──▶ Scene
//! ```
//!
//! Everything is deterministic, whatever the number of threads.

mod assembly;
mod canonical;
mod equations;
mod folder;
mod known;
mod objective;
mod observation;
mod optimizer;
mod pair_file;
mod pair_fit;
mod pair_graph;
mod priors;
mod solved;
mod spanning_tree;
mod tiles;

use std::borrow::Cow;

pub use folder::PredictionFolder;
pub(crate) use known::pose;
pub use known::{CameraList, KnownCamera, KnownPoses, SharedIntrinsics};
pub(crate) use pair_graph::components;

use assembly::{Agreement, Assembly, Solution};
use canonical::{CanonicalDepth, CanonicalView};
use nalgebra::Vector3;
use pair_fit::PairFit;
use rayon::prelude::*;
use solved::SolvedView;
use spanning_tree::Link;

use crate::error::{Error, Result};
use crate::geometry::{PointMap, median};
use crate::matching::{Match, MatchOptions, ViewMaps};
use crate::scene::{FAR_EXTENTS, Scene, SceneView};
use crate::views::View;

/// Two different views by their indices, the smaller first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair {
    /// Less than `second`.
    pub first: usize,
    /// More than `first`.
    pub second: usize,
}

/// What the network says of a pair, decoded in both orders.
#[derive(Clone, Debug)]
pub struct PairEvidence {
    /// Which views.
    pub pair: Pair,
    /// Points of the first and of the second view, both in the first one's frame.
    pub forward: [PointMap; 2],
    /// Points of the second and of the first view, both in the second one's frame. Units may differ
    /// from `forward`'s.
    pub reverse: [PointMap; 2],
    /// Pixels of both that show the same point.
    pub matches: Vec<Match>,
}

/// How views are aligned.
#[derive(Clone, Debug, Default)]
pub struct AlignOptions {
    /// All images were taken with one camera at one zoom and have one size: they get one focal
    /// length.
    pub shared_focal: bool,
    /// Every image has a focal length of its own. Otherwise images of one size share one where
    /// their maps speak for about the same.
    pub separate_cameras: bool,
    /// What is known of each view's camera; none is if this is empty.
    pub known: Vec<KnownCamera>,
    /// What is done with the poses among them.
    pub known_poses: KnownPoses,
    /// Where the principal points are that are not known.
    pub principal_point: PrincipalPoint,
}

impl AlignOptions {
    /// Whether known poses, two or more, determine the scene's scale.
    pub fn has_known_scale(&self) -> bool {
        let known = self.known.iter();
        known
            .filter(|camera| camera.world_from_camera.is_some())
            .count()
            > 1
    }
}

/// Where principal points are that are not known.
///
/// Freeing them is right where they are off, and costs accuracy where they are not. Mean rotation
/// errors in degrees, with the true one in the middle: 0.12 and 0.29 (`Middle` and `Prior`) on the
/// scene `bridge6`, 0.08 and 0.18 on `two_view`, 0.11 and 0.10 on `outlier5`, 0.03 and 0.04 on
/// `orbit4` and on 40 views of a walk; off by 3 % of the width: 0.33 and 0.03 on 12 views of a
/// room, 0.89 and 0.07 on the walk; by 1 %: 0.12 and 0.02 on the room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrincipalPoint {
    /// In the middle of the image.
    #[default]
    Middle,
    /// Found, one for all images of a size, and held to the middle by 1.5 percent of the long
    /// side.
    Prior,
}

/// Aligned views.
#[derive(Clone, Debug)]
pub struct Alignment {
    /// Every view in the order given; those not placed without a camera, their points NaN. The
    /// world is the frame of the first view that is placed, if no poses are known.
    pub scene: Scene,
    /// What became of each view.
    pub views: Vec<ViewReport>,
    /// What became of each pair, in the order given.
    pub pairs: Vec<PairReport>,
    /// Why there are no cameras, if not even two views could be placed. All points are then NaN,
    /// but of two views: theirs are the network's own, in the first one's frame.
    pub cameras_error: Option<String>,
}

/// What became of a view.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ViewReport {
    /// Whether it has a camera: sound pairs connect it to the largest part of the views.
    pub placed: bool,
    /// Share of its matches, by weight, that agree with the cameras; 0 where the alignment left it
    /// out.
    pub inlier_share: f64,
    /// Median reprojection error of those matches, pixels.
    pub reprojection_px: Option<f64>,
    /// The [`KnownCamera::probable_focal`] that was not used, because the view's maps suggest one
    /// that is more than a quarter off.
    pub overruled_focal: Option<f64>,
}

/// What became of a pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairReport {
    /// Which views.
    pub pair: Pair,
    /// Matches between them.
    pub matches: usize,
    /// Whether it was used, or why not.
    pub verdict: Verdict,
    /// Share of the matches, by weight, that agree with the cameras, or with the pair's own maps
    /// where it was not used.
    pub inlier_share: f64,
}

/// Whether a pair was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was.
    Used,
    /// Its matches and maps do not agree with one another, or its maps not with what other pairs
    /// say of the same views.
    Unsound,
    /// Its rotation contradicts the one that most other pairs agree on.
    Contradicts,
    /// Its matches do not agree with the cameras that all other pairs determine.
    Misfit,
    /// Its views are not of the largest part.
    Disconnected,
    /// Its predictions are not finite.
    NotFinite,
}

/// Share of a pair's matches, by weight, that must agree with the cameras, and the same over that
/// of the middle pair.
const LEAST_AGREEING_SHARE: f64 = 0.15;
const LEAST_OF_TYPICAL_SHARE: f64 = 0.3;
/// Pairs that are fitted at a time at most; their maps are held in memory.
const MOST_PAIRS_AT_ONCE: usize = 8;

/// Aligns `views` by the evidence of pairs of them, which is taken one by one and not kept.
///
/// Pairs that contradict themselves, one another or the solution are left out, and so are pairs
/// whose maps are not finite or whose evidence is an [`Error::PairNotFinite`]; of several parts
/// that no sound pair connects the largest is reconstructed. Principal points are the middles of
/// the images where they are not known. If no pair is sound, no view has a camera, see
/// [`Alignment::cameras_error`].
///
/// # Errors
/// [`Error::Usage`] for pairs that name a view that there is not, for maps that are not of their
/// view's size, and for a focal length shared by images of different sizes or not above 0;
/// [`Error::NotFinite`] if no pair's predictions are finite; other errors of `evidence` itself.
pub fn align(
    views: &[View],
    evidence: impl IntoIterator<Item = Result<PairEvidence>>,
    options: &AlignOptions,
) -> Result<Alignment> {
    options.check(views)?;
    let (options, origin) = options.near_their_poses();
    let options = &*options;
    let mut canonical: Vec<CanonicalView> = views
        .iter()
        .map(|view| CanonicalView::new(view.rgb.width() as usize, view.rgb.height() as usize))
        .collect();
    let mut fits = Vec::new();
    let mut first_not_finite = None;
    let mut own_maps = None;
    let mut evidence = evidence.into_iter();
    loop {
        // As many at a time as there are threads; what is added to the views is added in order.
        let batch = evidence
            .by_ref()
            .take(rayon::current_num_threads().min(MOST_PAIRS_AT_ONCE));
        let batch = batch
            .map(|evidence| sort_out(evidence, views))
            .collect::<Result<Vec<_>>>()?;
        if batch.is_empty() {
            break;
        }
        if let ([_, _], [Ok(evidence)]) = (views, &batch[..]) {
            own_maps = Some(evidence.forward.clone());
        }
        let fit = |evidence: &Result<PairEvidence, NotFinite>| match evidence {
            Ok(evidence) => PairFit::new(evidence, options),
            Err(NotFinite { pair, .. }) => PairFit::not_finite(*pair),
        };
        let fitted: Vec<PairFit> = batch.par_iter().map(fit).collect();
        let found = batch.into_iter().find_map(Result::err);
        first_not_finite = first_not_finite.or(found.map(|NotFinite { error, .. }| error));
        for mut fit in fitted {
            fit.add_maps(&mut canonical);
            fits.push(fit);
        }
    }
    if let Some(error) = first_not_finite
        && fits.iter().all(|fit| !fit.is_finite)
    {
        return Err(error);
    }
    let sizes: Vec<ImageSize> = views.iter().map(ImageSize::new).collect();
    let depths: Vec<CanonicalDepth> = canonical.par_iter().map(CanonicalView::finish).collect();
    fits.par_iter_mut().for_each(|fit| fit.judge(&depths));
    let mut verdicts = first_verdicts(views.len(), &fits, &depths);
    let mut last: Option<(Vec<usize>, Solution)> = None;
    loop {
        let (part, used) = largest_part(views.len(), &fits, &verdicts);
        if part.len() < 2 {
            let known = if options
                .known
                .iter()
                .any(|known| known.world_from_camera.is_some())
            {
                " and agrees with the poses that are given"
            } else {
                ""
            };
            let mut scene = scene(views, Vec::new(), Vec::new());
            if let Some(maps) = own_maps {
                scene.set_maps_of_two(maps);
            }
            return Ok(Alignment {
                scene,
                views: view_reports(views.len(), &[], &[]),
                pairs: pair_reports(&fits, &verdicts, &[], &[]),
                cameras_error: Some(format!(
                    "none of {} image pairs is sound{known}",
                    fits.len()
                )),
            });
        }
        let assembly = Assembly {
            views: part,
            fits: used.iter().map(|&index| &fits[index]).collect(),
            sizes: &sizes,
            canonical: &canonical,
            depths: &depths,
            options,
        };
        let before = last
            .as_ref()
            .filter(|(views, _)| *views == assembly.views)
            .map(|(_, solution)| solution);
        let mut solution = assembly.solve(before);
        let mut wrong = misfits(&assembly.fits, &solution.pairs);
        if wrong.is_empty() {
            solution = assembly.refine(solution);
            wrong = misfits(&assembly.fits, &solution.pairs);
        }
        if !wrong.is_empty() {
            wrong
                .into_iter()
                .for_each(|index| verdicts[used[index]] = Verdict::Misfit);
            last = Some((assembly.views, solution));
            continue;
        }
        let pairs = pair_reports(&fits, &verdicts, &used, &solution.pairs);
        let solved = assembly.solved_views(&solution);
        let matches = used
            .iter()
            .map(|&index| fits[index].pair_matches())
            .collect();
        let mut reports = view_reports(views.len(), &assembly.views, &solution.views);
        assembly
            .views
            .iter()
            .for_each(|&view| reports[view].overruled_focal = assembly.overruled_focal(view));
        let scene = Scene {
            matches,
            ..scene(views, assembly.views, solved)
        };
        return Ok(Alignment {
            scene: scene.with_origin(origin),
            views: reports,
            pairs,
            cameras_error: None,
        });
    }
}

/// A pair that is left out because its predictions are not finite.
struct NotFinite {
    pair: Pair,
    error: Error,
}

/// Checks a pair's evidence, and tells what spoils the pair alone from what ends the alignment.
fn sort_out(
    evidence: Result<PairEvidence>,
    views: &[View],
) -> Result<Result<PairEvidence, NotFinite>> {
    let (pair, error) = match evidence {
        Ok(evidence) => {
            evidence.check(views)?;
            match evidence.check_finite() {
                Ok(()) => return Ok(Ok(evidence)),
                Err(error) => (evidence.pair, error),
            }
        }
        Err(Error::PairNotFinite {
            pair: [first, second],
            source,
        }) => (Pair { first, second }, *source),
        Err(error) => return Err(error),
    };
    pair.check(views)?;
    let names = [pair.first, pair.second].map(|view| &*views[view].name);
    let error = error.of_images(names);
    tracing::info!("{error}");
    Ok(Err(NotFinite { pair, error }))
}

/// What pairs alone tell about each, and the others of the largest part.
fn first_verdicts(views: usize, fits: &[PairFit], depths: &[CanonicalDepth]) -> Vec<Verdict> {
    let alone = |fit: &PairFit| match fit.is_sound {
        true => Verdict::Used,
        false if fit.is_finite => Verdict::Unsound,
        false => Verdict::NotFinite,
    };
    let mut verdicts: Vec<Verdict> = fits.iter().map(alone).collect();
    let (part, used) = largest_part(views, fits, &verdicts);
    let used_fits: Vec<&PairFit> = used.iter().map(|&index| &fits[index]).collect();
    for link in pair_graph::contradicting(part.len(), &links(&part, &used_fits, depths)) {
        verdicts[used[link]] = Verdict::Contradicts;
    }
    verdicts
}

/// Where a pair's view is among `views`, ascending.
fn place(views: &[usize], view: usize) -> usize {
    views
        .binary_search(&view)
        .expect("a pair's views are among them")
}

/// What sound pairs say of how their views, of which `views` has the indices, ascending, lie to one
/// another.
fn links(views: &[usize], fits: &[&PairFit], depths: &[CanonicalDepth]) -> Vec<Link> {
    let link = |fit: &&PairFit| {
        let Pair { first, second } = fit.pair;
        Some(Link {
            pair: Pair {
                first: place(views, first),
                second: place(views, second),
            },
            first_from_second: fit.first_from_second?,
            // How much of it agrees, not how much there is: a wrong pair has as many matches as a
            // right one.
            weight: fit.inlier_share * fit.map_agreement,
            unit: depths[first].log_median.exp(),
        })
    };
    fits.iter().filter_map(link).collect()
}

/// The views of the largest part that used pairs connect, and the indices of its pairs, both
/// ascending.
fn largest_part(views: usize, fits: &[PairFit], verdicts: &[Verdict]) -> (Vec<usize>, Vec<usize>) {
    let used: Vec<usize> = (0..fits.len())
        .filter(|&index| verdicts[index] == Verdict::Used)
        .collect();
    let parts = pair_graph::components(views, used.iter().map(|&index| fits[index].pair));
    let part = parts.into_iter().next().unwrap_or_default();
    let inside = |index: &usize| part.binary_search(&fits[*index].pair.first).is_ok();
    let used = used.into_iter().filter(inside).collect();
    (part, used)
}

/// Indices of pairs whose matches do not agree with the solution as those of the others do. A wrong
/// pair bends the solution for its neighbours too, so only the worst pair of either of its views
/// goes at a time.
fn misfits(fits: &[&PairFit], agreements: &[Agreement]) -> Vec<usize> {
    let typical = median(agreements.iter().map(Agreement::share)).unwrap_or(0.0);
    let least = LEAST_AGREEING_SHARE.max(LEAST_OF_TYPICAL_SHARE * typical);
    let score = |index: usize| agreements[index].share() * fits[index].map_agreement;
    let ends = |index: usize| [fits[index].pair.first, fits[index].pair.second];
    let low: Vec<usize> = (0..fits.len())
        .filter(|&index| agreements[index].share() < least)
        .collect();
    let is_worst_of = |index: usize, view: usize| {
        low.iter()
            .filter(|&&other| ends(other).contains(&view))
            .all(|&other| (score(index), index) <= (score(other), other))
    };
    low.iter()
        .copied()
        .filter(|&index| ends(index).iter().any(|&view| is_worst_of(index, view)))
        .collect()
}

fn pair_reports(
    fits: &[PairFit],
    verdicts: &[Verdict],
    used: &[usize],
    agreements: &[Agreement],
) -> Vec<PairReport> {
    let report = |(index, fit): (usize, &PairFit)| {
        let agreement = used
            .binary_search(&index)
            .ok()
            .map(|place| &agreements[place]);
        let verdict = match verdicts[index] {
            Verdict::Used if agreement.is_none() => Verdict::Disconnected,
            verdict => verdict,
        };
        let inlier_share = agreement.map_or(fit.inlier_share, Agreement::share);
        PairReport {
            pair: fit.pair,
            matches: fit.matches.len(),
            verdict,
            inlier_share,
        }
    };
    fits.iter().enumerate().map(report).collect()
}

fn view_reports(views: usize, placed: &[usize], agreements: &[Agreement]) -> Vec<ViewReport> {
    let mut reports = vec![
        ViewReport {
            placed: false,
            inlier_share: 0.0,
            reprojection_px: None,
            overruled_focal: None
        };
        views
    ];
    for (&view, agreement) in placed.iter().zip(agreements) {
        let (inlier_share, reprojection_px) = (agreement.share(), agreement.median_px);
        reports[view] = ViewReport {
            placed: true,
            inlier_share,
            reprojection_px,
            overruled_focal: None,
        };
    }
    reports
}

/// The mean of points, and how far from it the farthest one is.
fn mean_and_spread(points: &[Vector3<f64>]) -> Option<(Vector3<f64>, f64)> {
    let mean = points.iter().sum::<Vector3<f64>>() / points.len() as f64;
    let spread = points
        .iter()
        .map(|point| (point - mean).norm())
        .reduce(f64::max)?;
    Some((mean, spread))
}

impl Scene {
    /// Takes the points of two views without cameras from `maps`, which are in the first one's
    /// frame; the second one's depths stay unknown.
    fn set_maps_of_two(&mut self, maps: [PointMap; 2]) {
        for (index, (view, map)) in self.views.iter_mut().zip(maps).enumerate() {
            if index == 0 {
                view.depth = map.points.iter().map(|point| point[2]).collect();
            }
            view.points = map;
        }
    }

    /// The scene, which is in a frame with its origin at `origin`, as it is kept: in that frame if
    /// that lies far from the world's, for the extent of cameras and depths, and else in the world
    /// itself.
    fn with_origin(mut self, origin: Vector3<f64>) -> Self {
        if origin == Vector3::zeros() {
            return self;
        }
        let placed = || {
            self.views
                .iter()
                .filter_map(|view| Some((view.camera.as_ref()?, view)))
        };
        let centres: Vec<_> = placed()
            .map(|(camera, _)| camera.world_from_camera.translation.vector)
            .collect();
        let spread = mean_and_spread(&centres).map_or(0.0, |(_, spread)| spread);
        let depths = |view: &SceneView| {
            median(
                view.depth
                    .iter()
                    .map(|depth| f64::from(*depth))
                    .filter(|d| d.is_finite()),
            )
        };
        let depth = median(placed().filter_map(|(_, view)| depths(view))).unwrap_or(0.0);
        if origin.amax() > FAR_EXTENTS * spread.max(depth) {
            return Self { origin, ..self };
        }
        for view in &mut self.views {
            if let Some(camera) = &mut view.camera {
                camera.world_from_camera.translation.vector += origin;
            }
            for point in &mut view.points.points {
                *point = std::array::from_fn(|axis| (f64::from(point[axis]) + origin[axis]) as f32);
            }
        }
        self
    }
}

fn scene(views: &[View], placed: Vec<usize>, solved: Vec<SolvedView>) -> Scene {
    let mut found: Vec<Option<SolvedView>> = views.iter().map(|_| None).collect();
    for (view, solved) in placed.into_iter().zip(solved) {
        found[view] = Some(solved);
    }
    let view = |(view, found): (&View, Option<SolvedView>)| {
        let (width, height) = (view.rgb.width() as usize, view.rgb.height() as usize);
        let (camera, depth, points) = match found {
            Some(SolvedView {
                camera,
                depth,
                points,
            }) => (Some(camera), depth, points),
            None => {
                let points = vec![[f32::NAN; 3]; width * height];
                let points = PointMap {
                    width,
                    height,
                    points,
                    confidence: vec![1.0; width * height],
                };
                (None, vec![f32::NAN; width * height], points)
            }
        };
        SceneView {
            name: view.name.clone(),
            crop: view.crop,
            camera,
            points,
            depth,
            rgb: view.rgb.clone(),
            contradicted: None,
            masked: 0,
        }
    };
    Scene {
        views: views.iter().zip(found).map(view).collect(),
        ..Scene::default()
    }
}

/// What images of one camera have in common, held upright or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ImageSize {
    /// Long side, then short side.
    file: [u32; 2],
    resized: [u32; 2],
}

impl ImageSize {
    pub(crate) fn new(view: &View) -> Self {
        let sorted = |width: u32, height: u32| [width.max(height), width.min(height)];
        let crop = &view.crop;
        Self {
            file: sorted(crop.file_width, crop.file_height),
            resized: sorted(crop.resized_width, crop.resized_height),
        }
    }
}

impl Pair {
    fn check(self, views: &[View]) -> Result<()> {
        let (Self { first, second }, count) = (self, views.len());
        if first < second && second < count {
            return Ok(());
        }
        Err(Error::Usage(format!(
            "the pair ({first}, {second}) is not of two of {count} views in order"
        )))
    }
}

impl AlignOptions {
    /// The options for a frame whose origin lies near the known poses, where these lie far from the
    /// world's, and that origin.
    ///
    /// So nothing is solved in numbers that are large for where the world's origin is. The origin
    /// has 18 bits: poses near it lose nothing when it is subtracted and added again, and float32
    /// holds it exactly.
    fn near_their_poses(&self) -> (Cow<'_, Self>, Vector3<f64>) {
        let poses = || {
            self.known
                .iter()
                .filter_map(|known| known.world_from_camera.as_ref())
        };
        let centres: Vec<Vector3<f64>> = poses().map(|pose| pose.translation.vector).collect();
        let origin = match mean_and_spread(&centres) {
            Some((mean, spread)) if mean.amax() > FAR_EXTENTS * spread => {
                let step = (mean.amax().log2().floor() - 17.0).exp2();
                mean.map(|value| (value / step).round() * step)
            }
            _ => Vector3::zeros(),
        };
        if origin == Vector3::zeros() {
            return (Cow::Borrowed(self), origin);
        }
        let mut local = self.clone();
        for pose in local
            .known
            .iter_mut()
            .filter_map(|known| known.world_from_camera.as_mut())
        {
            pose.translation.vector -= origin;
        }
        (Cow::Owned(local), origin)
    }

    fn known(&self, view: usize) -> KnownCamera {
        self.known.get(view).copied().unwrap_or_default()
    }

    fn check(&self, views: &[View]) -> Result<()> {
        if !self.known.is_empty() && self.known.len() != views.len() {
            let (known, views) = (self.known.len(), views.len());
            return Err(Error::Usage(format!(
                "{known} known cameras for {views} views; give one for each, or none"
            )));
        }
        if self.shared_focal && self.separate_cameras {
            return Err(Error::Usage(
                "focal lengths cannot be both shared and separate".into(),
            ));
        }
        if self.shared_focal && self.known.iter().any(|known| known.intrinsics.is_some()) {
            return Err(Error::Usage(
                "focal lengths cannot be both known and shared".into(),
            ));
        }
        let improbable = |focal: f64| !(focal.is_finite() && focal > 0.0);
        if let Some(focal) = self
            .known
            .iter()
            .filter_map(|known| known.probable_focal)
            .find(|focal| improbable(*focal))
        {
            return Err(Error::Usage(format!(
                "a probable focal length of {focal} pixels; give one above 0"
            )));
        }
        let different = views
            .windows(2)
            .find(|two| ImageSize::new(&two[0]) != ImageSize::new(&two[1]));
        match different.filter(|_| self.shared_focal) {
            None => Ok(()),
            Some(two) => Err(Error::Usage(format!(
                "images of different sizes, as {} and {}, cannot share a focal length in pixels",
                two[0].name, two[1].name
            ))),
        }
    }
}

impl PairEvidence {
    /// From what was said of `pair` in both orders, whose matches are sought by `options`:
    /// `forward` is of its first and second view, `reverse` of its second and first.
    ///
    /// # Errors
    /// Those of [`ViewMaps::matches`].
    pub fn of_decodes(
        pair: Pair,
        forward: [ViewMaps; 2],
        reverse: [ViewMaps; 2],
        options: &MatchOptions,
    ) -> Result<Self> {
        let matches = ViewMaps::matches(&forward, &reverse, options)?;
        let points = |maps: [ViewMaps; 2]| maps.map(|maps| maps.points);
        Ok(Self {
            pair,
            forward: points(forward),
            reverse: points(reverse),
            matches,
        })
    }

    /// Checks that all points and confidences are finite.
    fn check_finite(&self) -> Result<()> {
        let [first, second] = ["first", "second"];
        let maps = self
            .forward
            .iter()
            .zip([first, second])
            .chain(self.reverse.iter().zip([second, first]));
        for (map, whose) in maps {
            for (values, what) in [
                (map.points.as_flattened(), "points"),
                (&map.confidence, "confidences"),
            ] {
                let count = values.iter().filter(|value| !value.is_finite()).count();
                if count > 0 {
                    return Err(Error::not_finite_map(what, whose, count, values.len()));
                }
            }
        }
        Ok(())
    }

    fn check(&self, views: &[View]) -> Result<()> {
        self.pair.check(views)?;
        let Pair { first, second } = self.pair;
        let [own_first, second_in_first] = &self.forward;
        let [own_second, first_in_second] = &self.reverse;
        for (view, map) in [
            (first, own_first),
            (second, second_in_first),
            (second, own_second),
            (first, first_in_second),
        ] {
            let (width, height) = (
                views[view].rgb.width() as usize,
                views[view].rgb.height() as usize,
            );
            if !map.is_consistent() || (map.width, map.height) != (width, height) {
                return Err(Error::Usage(format!(
                    "{}: a map of {}x{} pixels with {} points and {} confidences for an image of {width}x{height}",
                    views[view].name,
                    map.width,
                    map.height,
                    map.points.len(),
                    map.confidence.len()
                )));
            }
        }
        Ok(())
    }
}
