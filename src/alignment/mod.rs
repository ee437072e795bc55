//! Many views in one world, from the predictions of their pairs.
//!
//! ```text
//! PairEvidence ── pair_fit ──▶ similarity, matches, poses of a pair ─┐
//!              └─ canonical ─▶ depths, focal lengths of a view ──────┤
//!    pair_graph     wrong pairs out, the largest connected part      │
//!    spanning_tree  first poses, averaged over all pairs             │
//!    objective, optimizer   poses, focal lengths, scales, depths ◀───┘ ──▶ Scene
//! ```
//!
//! Everything is deterministic, whatever the number of threads.

mod assembly;
mod canonical;
mod folder;
mod objective;
mod optimizer;
mod pair_fit;
mod pair_graph;
mod spanning_tree;

pub use folder::PredictionFolder;

use assembly::{Agreement, Assembly, SolvedView};
use canonical::{CanonicalDepth, CanonicalView};
use pair_fit::PairFit;
use pair_graph::Edge;

use crate::error::{Error, Result};
use crate::geometry::PointMap;
use crate::matching::Match;
use crate::scene::{Scene, SceneView};
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
    /// Points of the second and of the first view, both in the second one's frame. Units may differ from `forward`'s.
    pub reverse: [PointMap; 2],
    /// Pixels of both that show the same point.
    pub matches: Vec<Match>,
}

/// How views are aligned.
#[derive(Clone, Debug, Default)]
pub struct AlignOptions {
    /// All pictures were taken with one camera at one zoom and have one size: they get one focal length.
    pub shared_focal: bool,
}

/// Aligned views.
#[derive(Clone, Debug)]
pub struct Alignment {
    /// Every view in the order given; those not placed without a camera, their points NaN. The world is the frame of the
    /// first view that is placed.
    pub scene: Scene,
    /// What became of each view.
    pub views: Vec<ViewReport>,
    /// What became of each pair, in the order given.
    pub pairs: Vec<PairReport>,
}

/// What became of a view.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ViewReport {
    /// Whether it has a camera, or why not.
    pub placement: Placement,
    /// Share of its matches, by weight, that agree with the cameras; 0 without a camera.
    pub inlier_share: f64,
    /// Median reprojection error of those matches, pixels.
    pub reprojection_px: Option<f64>,
}

/// Whether a view has a camera.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// It has.
    Placed,
    /// No sound pairs connect it to the largest part of the views.
    Apart,
    /// Its matches do not agree with any place that was found for it.
    Misfit,
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
    /// Share of the matches, by weight, that agree with the cameras, or with the pair's own maps where it was not used.
    pub inlier_share: f64,
}

/// Whether a pair was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was.
    Used,
    /// Its own matches and maps do not agree with one another.
    Unsound,
    /// It contradicts the triangles of pairs that it is part of.
    Contradicts,
    /// Its matches do not agree with the cameras that all other pairs determine.
    Misfit,
    /// One of its views has no camera.
    Apart,
}

/// Share of a pair's or a view's matches, by weight, that must agree with the cameras.
const LEAST_AGREEING_SHARE: f64 = 0.3;

/// Aligns `views` by the evidence of pairs of them, which is taken one by one and not kept.
///
/// Pairs that contradict themselves, one another or the solution are left out; of several parts that no sound pair
/// connects the largest is reconstructed. Principal points are the middles of the pictures. At least one pair must be
/// sound.
///
/// # Errors
/// [`Error::Usage`] for pairs that name a view that there is not, for maps that are not of their view's size, and for a
/// focal length shared by pictures of different sizes;
/// [`Error::NoPose`] if not even two views could be placed; errors of `evidence` itself.
pub fn align(
    views: &[View],
    evidence: impl IntoIterator<Item = Result<PairEvidence>>,
    options: &AlignOptions,
) -> Result<Alignment> {
    options.check(views)?;
    let mut canonical: Vec<CanonicalView> =
        views.iter().map(|view| CanonicalView::new(view.rgb.width() as usize, view.rgb.height() as usize)).collect();
    let mut fits = Vec::new();
    for evidence in evidence {
        let evidence = evidence?;
        evidence.check(views)?;
        fits.push(PairFit::new(&evidence, &mut canonical));
    }
    let sizes: Vec<PictureSize> = views.iter().map(PictureSize::new).collect();
    let depths: Vec<CanonicalDepth> = canonical.iter().map(CanonicalView::finish).collect();
    let mut verdicts = first_verdicts(views.len(), &fits);
    let mut placements = vec![Placement::Apart; views.len()];
    loop {
        let used = |index: &usize| verdicts[*index] == Verdict::Used;
        let usable = |index: &usize| {
            let Pair { first, second } = fits[*index].pair;
            used(index) && [first, second].iter().all(|view| placements[*view] != Placement::Misfit)
        };
        let parts = pair_graph::components(views.len(), (0..fits.len()).filter(usable).map(|index| fits[index].pair));
        let part = parts.into_iter().next().unwrap_or_default();
        if part.len() < 2 {
            return Err(Error::NoPose { reason: "no pair of views agrees with itself".into() });
        }
        let indices: Vec<usize> = (0..fits.len())
            .filter(usable)
            .filter(|&index| part.binary_search(&fits[index].pair.first).is_ok())
            .collect();
        let assembly = Assembly {
            views: part,
            fits: indices.iter().map(|&index| &fits[index]).collect(),
            sizes: &sizes,
            canonical: &canonical,
            depths: &depths,
            options,
        };
        let solution = assembly.solve();
        let misfits: Vec<usize> = (0..indices.len())
            .filter(|&index| solution.pairs[index].share() < LEAST_AGREEING_SHARE)
            .map(|index| indices[index])
            .collect();
        if !misfits.is_empty() {
            misfits.into_iter().for_each(|index| verdicts[index] = Verdict::Misfit);
            continue;
        }
        let misfits: Vec<usize> = (0..assembly.views.len())
            .filter(|&index| solution.views[index].share() < LEAST_AGREEING_SHARE)
            .map(|index| assembly.views[index])
            .collect();
        if !misfits.is_empty() {
            misfits.into_iter().for_each(|view| placements[view] = Placement::Misfit);
            continue;
        }
        for &view in &assembly.views {
            placements[view] = Placement::Placed;
        }
        let pairs = pair_reports(&fits, &verdicts, &placements, &indices, &solution.pairs);
        let view_reports = view_reports(&placements, &assembly.views, &solution.views);
        let solved = assembly.solved_views(&solution);
        let matches = indices.iter().map(|&index| fits[index].view_matches()).collect();
        let scene = Scene { matches, ..scene(views, assembly.views, solved) };
        return Ok(Alignment { scene, views: view_reports, pairs });
    }
}

/// What pairs alone, and triangles of them, tell about each pair.
fn first_verdicts(views: usize, fits: &[PairFit]) -> Vec<Verdict> {
    let mut verdicts = vec![Verdict::Used; fits.len()];
    let (mut edges, mut indices) = (Vec::new(), Vec::new());
    for (index, fit) in fits.iter().enumerate() {
        match fit.first_from_second {
            Some(similarity) if fit.is_sound => {
                let first_from_second = similarity.isometry.rotation;
                edges.push(Edge { pair: fit.pair, first_from_second, weight: fit.inlier_share });
                indices.push(index);
            }
            _ => verdicts[index] = Verdict::Unsound,
        }
    }
    for edge in pair_graph::contradicting_triangles(views, &edges) {
        verdicts[indices[edge]] = Verdict::Contradicts;
    }
    verdicts
}

fn pair_reports(
    fits: &[PairFit],
    verdicts: &[Verdict],
    placements: &[Placement],
    used: &[usize],
    agreements: &[Agreement],
) -> Vec<PairReport> {
    let report = |(index, fit): (usize, &PairFit)| {
        let Pair { first, second } = fit.pair;
        let agreement = used.binary_search(&index).ok().map(|index| &agreements[index]);
        let apart = [first, second].iter().any(|view| placements[*view] != Placement::Placed);
        let verdict = match verdicts[index] {
            Verdict::Used if apart => Verdict::Apart,
            verdict => verdict,
        };
        let inlier_share = agreement.map_or(fit.inlier_share, Agreement::share);
        PairReport { pair: fit.pair, matches: fit.matches.len(), verdict, inlier_share }
    };
    fits.iter().enumerate().map(report).collect()
}

fn view_reports(placements: &[Placement], placed: &[usize], agreements: &[Agreement]) -> Vec<ViewReport> {
    let mut reports: Vec<ViewReport> = placements
        .iter()
        .map(|placement| ViewReport { placement: *placement, inlier_share: 0.0, reprojection_px: None })
        .collect();
    for (&view, agreement) in placed.iter().zip(agreements) {
        reports[view].inlier_share = agreement.share();
        reports[view].reprojection_px = agreement.median_px;
    }
    reports
}

fn scene(views: &[View], placed: Vec<usize>, solved: Vec<SolvedView>) -> Scene {
    let mut found: Vec<Option<SolvedView>> = views.iter().map(|_| None).collect();
    for (view, solved) in placed.into_iter().zip(solved) {
        found[view] = Some(solved);
    }
    let view = |(view, found): (&View, Option<SolvedView>)| {
        let (width, height) = (view.rgb.width() as usize, view.rgb.height() as usize);
        let (camera, depth, points) = match found {
            Some(SolvedView { camera, depth, points }) => (Some(camera), depth, points),
            None => {
                let points = vec![[f32::NAN; 3]; width * height];
                let points = PointMap { width, height, points, confidence: vec![1.0; width * height] };
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
        }
    };
    Scene { views: views.iter().zip(found).map(view).collect(), ..Scene::default() }
}

/// What pictures of one camera have in common, held upright or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PictureSize {
    /// Long side, then short side.
    file: [u32; 2],
    resized: [u32; 2],
}

impl PictureSize {
    fn new(view: &View) -> Self {
        let sorted = |width: u32, height: u32| [width.max(height), width.min(height)];
        let crop = &view.crop;
        Self {
            file: sorted(crop.file_width, crop.file_height),
            resized: sorted(crop.resized_width, crop.resized_height),
        }
    }
}

impl AlignOptions {
    fn check(&self, views: &[View]) -> Result<()> {
        let different = views.windows(2).find(|two| PictureSize::new(&two[0]) != PictureSize::new(&two[1]));
        match different.filter(|_| self.shared_focal) {
            None => Ok(()),
            Some(two) => Err(Error::Usage(format!(
                "pictures of different sizes, as {} and {}, cannot share a focal length in pixels",
                two[0].name, two[1].name
            ))),
        }
    }
}

impl PairEvidence {
    fn check(&self, views: &[View]) -> Result<()> {
        let Pair { first, second } = self.pair;
        if first >= second || second >= views.len() {
            let count = views.len();
            return Err(Error::Usage(format!("the pair ({first}, {second}) is not of two of {count} views in order")));
        }
        let [own_first, second_in_first] = &self.forward;
        let [own_second, first_in_second] = &self.reverse;
        for (view, map) in
            [(first, own_first), (second, second_in_first), (second, own_second), (first, first_in_second)]
        {
            let (width, height) = (views[view].rgb.width() as usize, views[view].rgb.height() as usize);
            if !map.is_consistent() || (map.width, map.height) != (width, height) {
                return Err(Error::Usage(format!(
                    "{}: a map of {}x{} pixels with {} points and {} confidences for a picture of {width}x{height}",
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
