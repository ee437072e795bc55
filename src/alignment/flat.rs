//! Views that are solved in one system: collects the evidence of their pairs and solves the largest
//! connected component.

use rayon::prelude::*;

use super::assembly::{Agreement, Assembly, Solution};
use super::canonical::{CanonicalDepth, CanonicalView};
use super::contradiction::contradicting;
use super::links::links;
use super::options::ImageSize;
use super::pair_fit::PairFit;
use super::{AlignOptions, Verdict, ViewShape, pair_graph};
use crate::error::Result;
use crate::geometry::median;

/// Share of a pair's matches, by weight, that must agree with the cameras, and the same over that
/// of the middle pair.
const LEAST_AGREEING_SHARE: f64 = 0.15;
const LEAST_OF_TYPICAL_SHARE: f64 = 0.3;
/// Pairs that are fitted at a time at most; their maps are held in memory.
const MOST_PAIRS_AT_ONCE: usize = 8;

/// The evidence of all pairs among some views.
pub(super) struct Gathered {
    pub sizes: Vec<ImageSize>,
    pub canonical: Vec<CanonicalView>,
    pub depths: Vec<CanonicalDepth>,
    pub fits: Vec<PairFit>,
}

impl Gathered {
    /// Fits pairs from a stream, several in parallel, and adds their maps to the views in order.
    pub fn new<T: Send>(
        shapes: &[ViewShape],
        items: impl Iterator<Item = Result<T>>,
        fit: impl Fn(T) -> Result<PairFit> + Sync,
    ) -> Result<Self> {
        let mut canonical: Vec<CanonicalView> = shapes
            .iter()
            .map(|shape| CanonicalView::new(shape.width, shape.height))
            .collect();
        let mut fits = Vec::new();
        let mut items = items;
        loop {
            // As many at a time as there are threads.
            let batch = items
                .by_ref()
                .take(rayon::current_num_threads().min(MOST_PAIRS_AT_ONCE))
                .collect::<Result<Vec<T>>>()?;
            if batch.is_empty() {
                break;
            }
            let fitted = batch
                .into_par_iter()
                .map(&fit)
                .collect::<Result<Vec<PairFit>>>()?;
            for mut fit in fitted {
                fit.add_maps(&mut canonical);
                fits.push(fit);
            }
        }
        let depths: Vec<CanonicalDepth> = canonical
            .par_iter_mut()
            .map(CanonicalView::finish)
            .collect();
        fits.par_iter_mut().for_each(|fit| fit.judge(&depths));
        let sizes = shapes.iter().map(ImageSize::new).collect();
        Ok(Self {
            sizes,
            canonical,
            depths,
            fits,
        })
    }

    /// What pairs alone tell about each, and the others of the largest part.
    pub fn first_verdicts(&self) -> Vec<Verdict> {
        let alone = |fit: &PairFit| match fit.is_sound {
            true => Verdict::Used,
            false if fit.is_finite => Verdict::Unsound,
            false => Verdict::NotFinite,
        };
        let mut verdicts: Vec<Verdict> = self.fits.iter().map(alone).collect();
        let (part, used) = self.largest_part(&verdicts, &[]);
        let used_fits: Vec<&PairFit> = used.iter().map(|&index| &self.fits[index]).collect();
        let links = links(&part, &used_fits, &self.depths);
        for link in contradicting(part.len(), &links) {
            verdicts[used[link]] = Verdict::Contradicts;
        }
        verdicts
    }

    /// Solves the largest connected component of views that are not `done`, and returns it with the
    /// indices of its pairs; `None` if it has fewer than two views. Pairs that do not agree with the
    /// solution become [misfits](Verdict::Misfit) and are left out.
    pub fn solve<'a>(
        &'a self,
        options: &'a AlignOptions,
        verdicts: &mut [Verdict],
        done: &[bool],
    ) -> Option<(Assembly<'a>, Vec<usize>, Solution)> {
        let mut last: Option<(Vec<usize>, Solution)> = None;
        loop {
            let (part, used) = self.largest_part(verdicts, done);
            if part.len() < 2 {
                return None;
            }
            let assembly = Assembly {
                views: part,
                fits: used.iter().map(|&index| &self.fits[index]).collect(),
                sizes: &self.sizes,
                canonical: &self.canonical,
                depths: &self.depths,
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
            if wrong.is_empty() {
                return Some((assembly, used, solution));
            }
            wrong
                .into_iter()
                .for_each(|index| verdicts[used[index]] = Verdict::Misfit);
            last = Some((assembly.views, solution));
        }
    }

    /// Views and pairs of the largest connected component that is not done, both ascending.
    fn largest_part(&self, verdicts: &[Verdict], done: &[bool]) -> (Vec<usize>, Vec<usize>) {
        let used: Vec<usize> = (0..self.fits.len())
            .filter(|&index| verdicts[index] == Verdict::Used)
            .collect();
        let pairs = used.iter().map(|&index| self.fits[index].pair);
        let parts = pair_graph::components(self.canonical.len(), pairs);
        let is_open = |part: &Vec<usize>| !part.iter().any(|view| done.get(*view) == Some(&true));
        let part = parts.into_iter().find(is_open).unwrap_or_default();
        let inside = |index: &usize| part.binary_search(&self.fits[*index].pair.first).is_ok();
        let used = used.into_iter().filter(inside).collect();
        (part, used)
    }
}

/// The share of a pair's matches that must agree, where these are those of all pairs.
pub(super) fn least_share(shares: impl Iterator<Item = f64>) -> f64 {
    LEAST_AGREEING_SHARE.max(LEAST_OF_TYPICAL_SHARE * median(shares).unwrap_or(0.0))
}

/// Indices of pairs whose matches do not agree with the solution as those of the others do. A wrong
/// pair bends the solution for its neighbours too, so only the worst pair of either of its views
/// goes at a time.
fn misfits(fits: &[&PairFit], agreements: &[Agreement]) -> Vec<usize> {
    let least = least_share(agreements.iter().map(Agreement::share));
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
