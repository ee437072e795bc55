//! Many views in one world, from the predictions of their pairs.
//!
//! ```text
//! PairEvidence ── pair_fit ──▶ similarity, matches, poses of a pair ─┐
//!              └─ canonical ─▶ depths, focal lengths of a view ──────┤
//!    pair_graph     wrong pairs out (contradiction), connected part     │
//!    spanning_tree  first poses, averaged over all pairs             │
//!    objective, optimizer   poses, focal lengths, scales, depths ◀───┘
//!    solved         cameras, depths and points in the world ──▶ Scene
//! ```
//!
//! Sets of more than 150 views are solved in submaps.
//!
//! Everything is deterministic, whatever the number of threads.

mod assembly;
mod canonical;
mod contradiction;
mod dense;
mod equations;
mod evidence;
mod flat;
mod folder;
mod known;
mod large;
mod links;
mod objective;
mod observation;
mod optimizer;
mod options;
mod pair_file;
mod pair_fit;
mod pair_graph;
mod priors;
mod reports;
mod shape;
mod solved;
mod spanning_tree;

pub(crate) use dense::PIXEL_BYTES as SCENE_PIXEL_BYTES;
pub use folder::PredictionFolder;
pub(crate) use known::pose;
pub use known::{CameraList, KnownCamera, KnownPoses, SharedIntrinsics};
pub use large::{EvidenceStore, StoredAlignment, align_stored};
pub(crate) use large::{MOST_SUBMAP_BYTES, SUBMAP_PIXEL_BYTES};
pub(crate) use pair_graph::components;
pub use shape::ViewShape;

use std::sync::Mutex;

use dense::scene;
use evidence::{NotFinite, sort_out};
use flat::Gathered;
use large::Spool;
use pair_fit::PairFit;
use reports::{pair_reports, view_reports};

use crate::error::Result;
use crate::geometry::PointMap;
use crate::matching::Match;
use crate::progress::{Watch, unwatched};
use crate::scene::Scene;
use crate::views::View;

/// Default of [`AlignOptions::most_together`].
const MOST_TOGETHER: usize = 150;

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
    /// Most views that are solved in one system; `None` is 150. Larger sets are cut into
    /// overlapping submaps, which are solved one by one, joined and refined together.
    pub most_together: Option<usize>,
    /// Leave [`Scene::matches`] empty, which take 20 bytes each: the refinement and models for
    /// COLMAP need them, and nothing else does.
    pub without_matches: bool,
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

/// Aligns `views` by the evidence of pairs of them, which is taken one by one and not kept.
///
/// Pairs that contradict themselves, one another or the solution are left out, and so are pairs
/// whose maps are not finite or whose evidence is an [`Error::PairNotFinite`](crate::Error::PairNotFinite); of several parts
/// that no sound pair connects the largest is reconstructed. Principal points are the middles of
/// the images where they are not known. If no pair is sound, no view has a camera, see
/// [`Alignment::cameras_error`].
///
/// # Errors
/// [`Error::Usage`](crate::Error::Usage) for pairs that name a view that there is not, for maps that are not of their
/// view's size, and for a focal length shared by images of different sizes or not above 0;
/// [`Error::NotFinite`](crate::Error::NotFinite) if no pair's predictions are finite; other errors of `evidence` itself.
pub fn align(
    views: &[View],
    evidence: impl IntoIterator<Item = Result<PairEvidence>>,
    options: &AlignOptions,
) -> Result<Alignment> {
    align_watched(views, evidence, options, &unwatched)
}

/// [`align_watched`] of evidence that can be read more than once, so that a large set needs no
/// temporary copy of it.
///
/// # Errors
/// Those of [`align_watched`].
pub fn align_from(
    views: &[View],
    store: &dyn EvidenceStore,
    options: &AlignOptions,
    watch: Watch<'_>,
) -> Result<Alignment> {
    if !options.solves_in_submaps(views.len()) {
        let evidence = (0..store.pairs().len()).map(|index| store.read(index));
        return align_watched(views, evidence, options, watch);
    }
    let shapes: Vec<ViewShape> = views.iter().map(ViewShape::of).collect();
    options.check(&shapes)?;
    let (options, origin) = options.near_their_poses();
    let mut source = large::Fitted::new(&shapes, store);
    if !options.without_matches {
        source = source.keeping_matches();
    }
    let aligned = large::align_fits(&shapes, &source, &options, watch)?;
    source.check_finite()?;
    aligned.into_scene(views, &source, &options, origin)
}

/// [`align`] with progress: `watch` receives one step per submap of a large set, and may cancel.
///
/// # Errors
/// Those of [`align`], and [`Error::Cancelled`](crate::Error::Cancelled).
pub fn align_watched(
    views: &[View],
    evidence: impl IntoIterator<Item = Result<PairEvidence>>,
    options: &AlignOptions,
    watch: Watch<'_>,
) -> Result<Alignment> {
    let shapes: Vec<ViewShape> = views.iter().map(ViewShape::of).collect();
    options.check(&shapes)?;
    let is_large = options.solves_in_submaps(views.len());
    let (options, origin) = options.near_their_poses();
    let options = &*options;
    let mut first_not_finite = None;
    let own_maps = Mutex::new(None);
    let finite = evidence
        .into_iter()
        .map(|evidence| match sort_out(evidence, &shapes)? {
            Ok(evidence) => Ok(Ok(evidence)),
            Err(NotFinite { pair, error }) => {
                first_not_finite.get_or_insert(error);
                Ok(Err(pair))
            }
        });
    let fit = |item: Result<PairEvidence, Pair>| {
        Ok(match item {
            Ok(evidence) => {
                let fit = PairFit::new(&evidence, options);
                if let ([_, _], Ok(mut own)) = (views, own_maps.lock()) {
                    *own = Some(evidence.forward);
                }
                fit
            }
            Err(pair) => PairFit::not_finite(pair),
        })
    };
    if is_large {
        let spool = Spool::of(&shapes, finite, fit)?;
        if let Some(error) = first_not_finite.filter(|_| spool.none_is_finite()) {
            return Err(error);
        }
        let aligned = large::align_fits(&shapes, &spool, options, watch)?;
        return aligned.into_scene(views, &spool, options, origin);
    }
    let gathered = Gathered::new(&shapes, finite, fit)?;
    let fits = &gathered.fits;
    if let Some(error) = first_not_finite
        && fits.iter().all(|fit| !fit.is_finite)
    {
        return Err(error);
    }
    let mut verdicts = gathered.first_verdicts();
    let Some((assembly, used, solution)) = gathered.solve(options, &mut verdicts, &[]) else {
        let mut scene = scene(views, Vec::new(), Vec::new())?;
        if let Some(maps) = own_maps.into_inner().ok().flatten() {
            scene.set_maps_of_two(maps);
        }
        return Ok(Alignment {
            scene,
            views: view_reports(views.len(), &[], &[]),
            pairs: pair_reports(fits, &verdicts, &[], &[]),
            cameras_error: Some(options.no_cameras(fits.len())),
        });
    };
    let pairs = pair_reports(fits, &verdicts, &used, &solution.pairs);
    let solved = assembly.solved_views(&solution);
    let kept = used.iter().filter(|_| !options.without_matches);
    let matches = kept.map(|&index| fits[index].pair_matches());
    let mut reports = view_reports(views.len(), &assembly.views, &solution.views);
    assembly
        .views
        .iter()
        .for_each(|&view| reports[view].overruled_focal = assembly.overruled_focal(view));
    let scene = Scene {
        matches: matches.collect(),
        ..scene(views, assembly.views, solved)?
    };
    Ok(Alignment {
        scene: scene.with_origin(origin),
        views: reports,
        pairs,
        cameras_error: None,
    })
}
