//! Result of the alignment of a large set, with depth maps on disk.

use std::collections::BTreeMap;

use nalgebra::{Isometry3, Similarity3, Vector3};

use super::part::{Solved, agreement, view_state};
use super::store::{DepthFile, EvidenceStore, FitSource, Fitted};
use super::{World, align_fits};
use crate::alignment::assembly::Agreement;
use crate::alignment::dense::SceneBuilder;
use crate::alignment::flat::least_share;
use crate::alignment::solved::{SolvedView, place_in_world};
use crate::alignment::{
    AlignOptions, Alignment, KnownPoses, PairReport, Verdict, ViewReport, ViewShape,
};
use crate::error::Result;
use crate::geometry::{Camera, median};
use crate::progress::Watch;
use crate::scene::Scene;
use crate::views::View;

/// Alignment of many views, with depth maps in a temporary file.
pub struct StoredAlignment {
    /// The camera of each view in the order given; `None` if it could not be placed. The world is the
    /// frame of the first placed view, or that of known poses.
    pub cameras: Vec<Option<Camera>>,
    /// What became of each view.
    pub views: Vec<ViewReport>,
    /// What became of each pair, in the order given.
    pub pairs: Vec<PairReport>,
    /// Why there are no cameras, if not even two views could be placed.
    pub cameras_error: Option<String>,
    placed: Vec<Option<Placed>>,
    depths: DepthFile,
    pixels: Vec<usize>,
}

/// Offset of a view's depth map in the temporary file, and log of world units per unit of it.
#[derive(Clone, Copy)]
pub(super) struct Placed {
    depths: u64,
    log_scale: f64,
}

/// A [`StoredAlignment`] without the file of depth maps.
pub(super) struct Outcome {
    cameras: Vec<Option<Camera>>,
    views: Vec<ViewReport>,
    pairs: Vec<PairReport>,
    cameras_error: Option<String>,
    placed: Vec<Option<Placed>>,
    pixels: Vec<usize>,
}

/// Aligns many views in bounded memory: evidence is read on demand, and depth maps stay on disk.
///
/// The method is that of [`align`](crate::alignment::align) for more views than are solved in one
/// system, for any number of views; `align` also builds a scene with all points in memory.
///
/// # Errors
/// Those of [`align_watched`](crate::alignment::align_watched).
pub fn align_stored(
    shapes: &[ViewShape],
    store: &dyn EvidenceStore,
    options: &AlignOptions,
    watch: Watch<'_>,
) -> Result<StoredAlignment> {
    options.check(shapes)?;
    let (options, origin) = options.near_their_poses();
    let mut aligned = align_fits(shapes, &Fitted::new(shapes, store), &options, watch)?;
    for camera in aligned.cameras.iter_mut().flatten() {
        camera.world_from_camera.translation.vector += origin;
    }
    Ok(aligned)
}

impl StoredAlignment {
    /// Depth map along z in world units, NaN where unknown, and confidence of a view; `None` if it is
    /// not placed.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if the temporary file cannot be read.
    pub fn depths(&self, view: usize) -> Result<Option<[Vec<f32>; 2]>> {
        let Some(placed) = self.placed.get(view).copied().flatten() else {
            return Ok(None);
        };
        let [log_depths, confidence] = self.depths.read(placed.depths, self.pixels[view])?;
        let depth = |log: &f32| (f64::from(*log) + placed.log_scale).exp() as f32;
        Ok(Some([log_depths.iter().map(depth).collect(), confidence]))
    }

    /// Builds a scene with all depth maps and points, relative to `origin`; `source` supplies the
    /// matches, if `options` want them.
    pub(in crate::alignment) fn into_scene(
        self,
        views: &[View],
        source: &dyn FitSource,
        options: &AlignOptions,
        origin: Vector3<f64>,
    ) -> Result<Alignment> {
        let mut builder = SceneBuilder::new(views)?;
        let mut of_views = Vec::with_capacity(views.len());
        for (index, view) in views.iter().enumerate() {
            let found = match (self.cameras[index], self.placed[index]) {
                (Some(camera), Some(placed)) => {
                    let pixels = self.pixels[index];
                    let [log_depths, confidence] = self.depths.read(placed.depths, pixels)?;
                    let log_depths = log_depths.into_iter().map(f64::from);
                    let scale = placed.log_scale;
                    Some(SolvedView::new(camera, scale, log_depths, confidence))
                }
                _ => None,
            };
            of_views.push(builder.view(view, found)?);
        }
        let used = self
            .pairs
            .iter()
            .enumerate()
            .filter(|(_, pair)| !options.without_matches && pair.verdict == Verdict::Used);
        let matches = used.map(|(index, _)| source.matches(index));
        let scene = Scene {
            matches: matches.collect::<Result<_>>()?,
            views: of_views,
            ..Scene::default()
        };
        Ok(Alignment {
            scene: scene.with_origin(origin),
            views: self.views,
            pairs: self.pairs,
            cameras_error: self.cameras_error,
        })
    }
}

impl Outcome {
    pub fn with_depths(self, depths: DepthFile) -> StoredAlignment {
        let Self {
            cameras,
            views,
            pairs,
            cameras_error,
            placed,
            pixels,
        } = self;
        StoredAlignment {
            cameras,
            views,
            pairs,
            cameras_error,
            placed,
            depths,
            pixels,
        }
    }
}

impl World<'_> {
    /// Cameras in the world, with reports on views and pairs.
    pub(super) fn outcome(&self, solved: &[Solved]) -> Outcome {
        let placed: Vec<usize> = (0..self.shapes.len())
            .filter(|&view| self.homes[view].is_some())
            .collect();
        let known = self.known_poses();
        let fixed = match self.options.known_poses {
            KnownPoses::Fixed => &known[..],
            KnownPoses::Start => &[],
        };
        let mut frames: Vec<Similarity3<f64>> = self.nodes.iter().map(|node| node.frame).collect();
        frames.truncate(placed.len());
        if !frames.is_empty() {
            place_in_world(&mut frames, &known, fixed);
        }
        let mut outcome = Outcome {
            cameras: vec![None; self.shapes.len()],
            views: Vec::new(),
            pairs: Vec::new(),
            cameras_error: placed
                .is_empty()
                .then(|| self.options.no_cameras(self.source.pairs().len())),
            placed: vec![None; self.shapes.len()],
            pixels: self
                .shapes
                .iter()
                .map(|shape| shape.width * shape.height)
                .collect(),
        };
        // Fixed poses are passed on exactly, without rounding.
        let exact: BTreeMap<usize, Isometry3<f64>> = fixed.iter().copied().collect();
        for (node, (&view, frame)) in placed.iter().zip(&frames).enumerate() {
            let (shape, found) = (&self.shapes[view], &self.nodes[node]);
            let size = [shape.width, shape.height];
            outcome.cameras[view] = Some(Camera {
                intrinsics: self
                    .options
                    .intrinsics(view, size, found.log_focal, &found.principal),
                world_from_camera: exact.get(&node).copied().unwrap_or(frame.isometry),
            });
            outcome.placed[view] = self.homes[view].map(|home| Placed {
                depths: self.view(home).depths,
                log_scale: frame.scaling().ln(),
            });
        }
        self.report(solved, &frames, &mut outcome);
        outcome
    }

    /// Checks pairs and views against the final cameras. Pairs behind a doubtful loop closure, and
    /// those that do not agree with the final cameras, are misfits.
    fn report(&self, solved: &[Solved], frames: &[Similarity3<f64>], outcome: &mut Outcome) {
        let pairs = self.source.pairs();
        let mut reports: Vec<Option<(usize, PairReport)>> = vec![None; pairs.len()];
        let mut views = vec![(Agreement::default(), Vec::new()); self.shapes.len()];
        for (group, solved) in solved.iter().enumerate() {
            for found in &solved.pairs {
                let pair = pairs[found.pair];
                let mut report = PairReport {
                    pair,
                    matches: found.matches,
                    verdict: found.verdict,
                    inlier_share: found.inlier_share,
                };
                let member = found
                    .part
                    .map(|part| &self.members[self.first_parts[group] + part]);
                let mut rank = 1;
                match member {
                    Some(Some(member)) => {
                        let at = [pair.first, pair.second]
                            .map(|view| member.part.views.binary_search(&view).unwrap_or(0));
                        let nodes = at.map(|at| member.nodes[at]);
                        if nodes.iter().any(|node| *node >= frames.len()) {
                            (report.verdict, rank) = (Verdict::Misfit, 2);
                        } else {
                            rank = 3;
                            let states = [0, 1].map(|end| {
                                let node = &self.nodes[nodes[end]];
                                let mut state =
                                    view_state(&frames[nodes[end]], node.log_focal, node.principal);
                                state.log_scale -= member.log_units[at[end]];
                                state
                            });
                            let ViewShape { width, height, .. } = self.shapes[pair.first];
                            let (agreement, errors) =
                                agreement(&found.probes, states.each_ref(), width.max(height));
                            report.inlier_share = agreement.share();
                            for view in [pair.first, pair.second] {
                                let (sum, all) = &mut views[view];
                                sum.weight += agreement.weight;
                                sum.inlier_weight += agreement.inlier_weight;
                                all.extend(errors.iter().copied());
                            }
                        }
                    }
                    Some(None) => report.verdict = Verdict::Disconnected,
                    None => rank = 0,
                }
                let slot = &mut reports[found.pair];
                if slot.as_ref().is_none_or(|(best, _)| *best < rank) {
                    *slot = Some((rank, report));
                }
            }
        }
        let used = reports.iter().flatten().filter(|(rank, _)| *rank == 3);
        let least = least_share(used.map(|(_, report)| report.inlier_share));
        let report = |(found, pair)| match found {
            Some((3, PairReport { inlier_share, .. })) if inlier_share < least => PairReport {
                verdict: Verdict::Misfit,
                pair,
                matches: found.map_or(0, |(_, report)| report.matches),
                inlier_share,
            },
            Some((_, report)) => report,
            None => PairReport {
                pair,
                matches: 0,
                verdict: Verdict::Disconnected,
                inlier_share: 0.0,
            },
        };
        outcome.pairs = reports
            .into_iter()
            .zip(pairs.iter().copied())
            .map(report)
            .collect();
        outcome.views = (views.into_iter().enumerate())
            .map(|(view, (agreement, errors))| ViewReport {
                placed: self.homes[view].is_some(),
                inlier_share: agreement.share(),
                reprojection_px: median(errors.into_iter()),
                overruled_focal: self.homes[view].and_then(|home| self.view(home).overruled_focal),
            })
            .collect();
    }
}
