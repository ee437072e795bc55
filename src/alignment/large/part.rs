//! Solves one submap: cameras in a frame of its own, and the normal matrix at the solution.

use nalgebra::{Similarity3, Vector2};

use super::partition::Submap;
use super::store::{DepthFile, FitSource};
use crate::alignment::assembly::{Agreement, Assembly, LOSSES, Solution, agreement_px};
use crate::alignment::canonical::sampled;
use crate::alignment::flat::Gathered;
use crate::alignment::links::place;
use crate::alignment::objective::{Observation, UNKNOWNS, ViewState};
use crate::alignment::observation::Relative;
use crate::alignment::solved::{corrected, frame_of};
use crate::alignment::{AlignOptions, KnownCamera, Verdict, ViewShape};
use crate::error::Result;
use crate::geometry::median;

/// Depth samples kept per view, to compare its units in two parts.
const SAMPLES: usize = 256;
/// Matches kept per pair and direction, to check the final cameras.
const PROBES: usize = 24;

/// A block of a symmetric matrix: the indices of its two views, and its values by row.
pub type Block = ([u32; 2], Vec<f64>);

/// A connected component of a submap, solved.
pub struct Part {
    /// Indices among all views, ascending.
    pub views: Vec<usize>,
    pub placed: Vec<PartView>,
    /// Blocks of the reduced normal matrix on and below the diagonal, by the indices of two views;
    /// row-major, [`Self::width`] squared.
    pub curvature: Vec<Block>,
    /// Unknowns per view.
    pub width: usize,
}

/// A view of a part.
pub struct PartView {
    /// World from camera in the part's frame, with the scale of the view's canonical units.
    pub frame: Similarity3<f64>,
    pub log_focal: f64,
    pub principal: Vector2<f64>,
    /// Samples of log depth in canonical units.
    pub samples: Vec<f32>,
    /// Median of these.
    pub log_median: f64,
    /// Offset of its depth map in the temporary file.
    pub depths: u64,
    pub is_own: bool,
    pub overruled_focal: Option<f64>,
}

/// Result for a pair of a submap.
pub struct PairOutcome {
    /// Index among all pairs.
    pub pair: usize,
    pub matches: usize,
    pub verdict: Verdict,
    /// Inlier share of the pair on its own.
    pub inlier_share: f64,
    /// Which part of the submap used it.
    pub part: Option<usize>,
    pub probes: Vec<Probe>,
}

/// A match kept for the final check.
#[derive(Clone, Copy)]
pub struct Probe {
    /// Whether the pair's second view owns the point.
    pub from_second: bool,
    /// Pixels relative to the principal point, and the log depth in the owner's canonical units.
    pub pixel: [f32; 2],
    pub seen: [f32; 2],
    pub log_depth: f32,
    pub weight: f32,
}

/// A solved submap.
pub struct Solved {
    pub parts: Vec<Part>,
    pub pairs: Vec<PairOutcome>,
}

/// Inputs shared by all submaps.
pub struct Solver<'a> {
    pub shapes: &'a [ViewShape],
    pub source: &'a dyn FitSource,
    pub options: &'a AlignOptions,
    pub depths: &'a DepthFile,
}

impl Solver<'_> {
    /// Solves a submap.
    pub fn solve(&self, submap: &Submap) -> Result<Solved> {
        let shapes: Vec<ViewShape> = submap
            .views
            .iter()
            .map(|&view| self.shapes[view].clone())
            .collect();
        let known: Vec<KnownCamera> = match self.options.known.is_empty() {
            true => Vec::new(),
            false => submap
                .views
                .iter()
                .map(|&view| self.options.known[view])
                .collect(),
        };
        let options = AlignOptions {
            known,
            ..self.options.clone()
        };
        let gathered = Gathered::new(&shapes, submap.pairs.iter().map(Ok), |&pair| {
            let mut fit = self.source.fit(pair, self.options)?;
            fit.rename(|view| place(&submap.views, view));
            Ok(fit)
        })?;
        let mut verdicts = gathered.first_verdicts();
        let mut done = vec![false; submap.views.len()];
        let mut parts = Vec::new();
        let mut used_by = vec![None; gathered.fits.len()];
        let mut probes: Vec<Vec<Probe>> = vec![Vec::new(); gathered.fits.len()];
        while let Some((assembly, used, solution)) = gathered.solve(&options, &mut verdicts, &done)
        {
            assembly.views.iter().for_each(|&view| done[view] = true);
            for (&pair, found) in used.iter().zip(kept_matches(&solution, used.len())) {
                (used_by[pair], probes[pair]) = (Some(parts.len()), found);
            }
            parts.push(self.part(submap, &gathered, &assembly, solution)?);
        }
        let pairs = gathered
            .fits
            .iter()
            .enumerate()
            .map(|(index, fit)| PairOutcome {
                pair: submap.pairs[index],
                matches: fit.matches.len(),
                verdict: match verdicts[index] {
                    Verdict::Used if used_by[index].is_none() => Verdict::Disconnected,
                    verdict => verdict,
                },
                inlier_share: fit.inlier_share,
                part: used_by[index],
                probes: std::mem::take(&mut probes[index]),
            });
        Ok(Solved {
            pairs: pairs.collect(),
            parts,
        })
    }

    fn part(
        &self,
        submap: &Submap,
        gathered: &Gathered,
        assembly: &Assembly<'_>,
        solution: Solution,
    ) -> Result<Part> {
        let mut placed = Vec::with_capacity(assembly.views.len());
        for (index, &view) in assembly.views.iter().enumerate() {
            let (canonical, depths) = (&gathered.canonical[view], &gathered.depths[view]);
            let state = &solution.state.views[index];
            let log_depths: Vec<f32> = corrected(canonical, depths, &state.corrections)
                .map(|value| value as f32)
                .collect();
            let samples: Vec<f32> = sampled(log_depths.len(), SAMPLES)
                .map(|at| log_depths[at])
                .collect();
            placed.push(PartView {
                frame: frame_of(state),
                log_focal: state.log_focal,
                principal: state.principal,
                log_median: median(samples.iter().map(|value| f64::from(*value))).unwrap_or(0.0),
                samples,
                depths: self.depths.add(&log_depths, &depths.confidence)?,
                is_own: submap.is_own[view],
                overruled_focal: assembly.overruled_focal(view),
            });
        }
        let (width, curvature) = curvature(solution);
        Ok(Part {
            views: assembly
                .views
                .iter()
                .map(|&view| submap.views[view])
                .collect(),
            placed,
            curvature,
            width,
        })
    }
}

/// The reduced normal matrix at a solution, with all unknowns free and depths eliminated.
fn curvature(solution: Solution) -> (usize, Vec<Block>) {
    let Solution {
        mut problem, state, ..
    } = solution;
    let width = problem.width();
    let free = |view: usize| -> [Option<usize>; UNKNOWNS] {
        std::array::from_fn(|unknown| (unknown < width).then_some(view * width + unknown))
    };
    problem.places = (0..problem.views.len()).map(free).collect();
    let matrix = problem
        .equations(&state, LOSSES[LOSSES.len() - 1])
        .reduced();
    let mut blocks = Vec::new();
    for row in 0..problem.views.len() {
        for column in 0..=row {
            let values = (0..width * width)
                .map(|at| matrix.value(row * width + at / width, column * width + at % width));
            let values: Vec<f64> = values.collect();
            if values.iter().any(|value| *value != 0.0) {
                blocks.push(([row as u32, column as u32], values));
            }
        }
    }
    (width, blocks)
}

/// Samples the matches of each pair.
fn kept_matches(solution: &Solution, pairs: usize) -> Vec<Vec<Probe>> {
    let Solution { problem, state, .. } = solution;
    let mut kept = vec![Vec::new(); pairs];
    for (view, (evidence, state)) in problem.views.iter().zip(&state.views).enumerate() {
        let by_neighbour = evidence
            .observations
            .chunk_by(|a, b| a.neighbour == b.neighbour);
        for observations in by_neighbour {
            let other = &evidence.neighbours[observations[0].neighbour as usize];
            for at in sampled(observations.len(), PROBES) {
                let seen = &observations[at];
                let log_depth = seen.depth.ln() + state.corrections[seen.block as usize];
                kept[other.pair].push(Probe {
                    from_second: view > other.view,
                    pixel: [seen.pixel.x as f32, seen.pixel.y as f32],
                    seen: [seen.seen.x as f32, seen.seen.y as f32],
                    log_depth: log_depth as f32,
                    weight: seen.weight as f32,
                });
            }
        }
    }
    kept
}

/// Agreement of kept matches with two cameras, whose scales are those of the probes' units.
pub fn agreement<'a>(
    probes: impl IntoIterator<Item = &'a Probe>,
    [first, second]: [&ViewState; 2],
    long_side: usize,
) -> (Agreement, Vec<f64>) {
    let relatives = [Relative::new(first, second), Relative::new(second, first)];
    let (mut agreement, mut errors) = (Agreement::default(), Vec::new());
    for probe in probes {
        let owner = if probe.from_second { second } else { first };
        let vector = |[x, y]: [f32; 2]| Vector2::new(f64::from(x), f64::from(y));
        let observation = Observation {
            neighbour: 0,
            block: 0,
            pixel: vector(probe.pixel),
            depth: f64::from(probe.log_depth).exp(),
            seen: vector(probe.seen),
            seen_log_depth: f64::NAN,
            weight: f64::from(probe.weight),
        };
        let relative = &relatives[usize::from(probe.from_second)];
        let [error, _] = relative.match_error(&observation, owner.log_scale.exp());
        agreement.weight += observation.weight;
        if error <= agreement_px(long_side) {
            agreement.inlier_weight += observation.weight;
            errors.push(error);
        }
    }
    agreement.median_px = median(errors.iter().copied());
    (agreement, errors)
}

/// The state of a view without depth corrections.
pub fn view_state(frame: &Similarity3<f64>, log_focal: f64, principal: Vector2<f64>) -> ViewState {
    ViewState {
        rotation: frame.isometry.rotation,
        centre: frame.isometry.translation.vector,
        log_focal,
        log_scale: frame.scaling().ln(),
        principal,
        corrections: Vec::new(),
    }
}
