//! The search for matches where the descriptors are: on a GPU, so that they need not travel.

use candle_core::Tensor;
use custom_ops::{has_reciprocal_walks, reciprocal_walks};

use super::finite;
use crate::Result;
use crate::matching::{
    ConfidenceMap, Match, MatchOptions, Settled, merge_settled, seeds, settled_matches, unusable_descriptors,
};
use crate::model::{Mast3r, PairPrediction, Prediction};
use crate::runtime::Optimisation;

/// The matches of one pair, sought on the device: those of its decode, or of both orders where `reverse` is given, the
/// same as the host finds. `None` where the search is the host's: on devices other than CUDA, with a tolerance, without
/// [`Optimisation::DeviceMatching`].
///
/// # Errors
/// [`Error::Usage`](crate::Error::Usage) for options that make no sense; [`Error::NotFinite`](crate::Error::NotFinite) for descriptors without a direction or
/// confidences that are not finite; errors of the device.
pub(crate) fn matches_on_device(
    model: &Mast3r,
    forward: &PairPrediction,
    reverse: Option<&PairPrediction>,
    options: &MatchOptions,
) -> Result<Option<Vec<Match>>> {
    let mut decodes = vec![[&forward.first, &forward.second_in_first]];
    // The first view is the second one of this order.
    decodes.extend(reverse.map(|reverse| [&reverse.second_in_first, &reverse.first]));
    let is_wanted = model.runtime().optimisations().has(Optimisation::DeviceMatching) && options.tolerance.is_none();
    if !is_wanted || !decodes.iter().flatten().all(|view| has_reciprocal_walks(&view.descriptors)) {
        return Ok(None);
    }
    let _span = tracing::debug_span!("match").entered();
    let settled = settle(&decodes, options)?;
    let confidences: Vec<[Vec<f32>; 2]> = decodes
        .iter()
        .map(|[first, second]| {
            let of = |view: &Prediction, whose| finite(&view.descriptor_confidence, "descriptor confidences", whose);
            Ok([of(first, "first")?, of(second, "second")?])
        })
        .collect::<Result<_>>()?;
    let sizes = [sizes(decodes[0][0])?, sizes(decodes[0][1])?];
    let views: Vec<[ConfidenceMap<'_>; 2]> = confidences
        .iter()
        .map(|both| {
            [0, 1].map(|view| {
                let [height, width] = sizes[view];
                ConfidenceMap { width, height, confidence: &both[view] }
            })
        })
        .collect();
    Ok(Some(match settled.as_slice() {
        [one] => settled_matches(one, views[0], options),
        both => merge_settled(both, &views, options)?,
    }))
}

/// Where the seeds of each decode come to rest.
fn settle(decodes: &[[&Prediction; 2]], options: &MatchOptions) -> Result<Vec<Settled>> {
    options.check()?;
    let map = |view: &Prediction| view.descriptors.squeeze(0);
    let maps: Vec<[Tensor; 2]> =
        decodes.iter().map(|[first, second]| Ok([map(first)?, map(second)?])).collect::<Result<_>>()?;
    let grid = |view: &Prediction| -> Result<Vec<u32>> {
        let [height, width] = sizes(view)?;
        Ok(seeds(width, height, options.subsample))
    };
    let on = [grid(decodes[0][0])?, grid(decodes[0][1])?];
    let borrowed: Vec<[&Tensor; 2]> = maps.iter().map(|maps| maps.each_ref()).collect();
    let settled = reciprocal_walks(&borrowed, on.each_ref().map(Vec::as_slice), options.rounds)?;
    for (decode, views) in settled.iter().zip(decodes) {
        for ((&count, view), whose) in decode.unusable.iter().zip(views).zip(["first", "second"]) {
            if count > 0 {
                return Err(unusable_descriptors(whose, count, sizes(view)?.iter().product()));
            }
        }
    }
    Ok(settled.into_iter().map(|decode| Settled { pairs: decode.pairs }).collect())
}

/// Height and width.
fn sizes(view: &Prediction) -> Result<[usize; 2]> {
    let (_, height, width, _) = view.descriptors.dims4()?;
    Ok([height, width])
}
