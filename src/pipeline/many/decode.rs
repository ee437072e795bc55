//! Decoding pairs: the device's part.

use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use candle_core::Tensor;

use crate::Result;
use crate::alignment::{Pair, PairEvidence};
use crate::geometry::PointMap;
use crate::matching::{Match, MatchOptions, ViewMaps};
use crate::model::{Features, Mast3r, PairPrediction};
use crate::pipeline::features::FeatureStore;
use crate::pipeline::seek::matches_on_device;
use crate::pipeline::{fetch, fetch_points};

/// Pixels that a GPU decodes together, about: both orders of two pairs of 512x384. A CPU decodes one order at a time:
/// together they would fall out of its caches.
const PIXELS_TOGETHER: usize = 4 * 512 * 384;
const MOST_PAIRS_TOGETHER: usize = 8;

/// Decodes pairs and sends what the network says of them, in order. Ends early if nobody listens any more.
pub(super) fn decode_all(
    model: &Mast3r,
    pairs: &[[usize; 2]],
    features: &mut FeatureStore,
    matching: &MatchOptions,
    sender: SyncSender<Result<Decoded>>,
) -> Duration {
    let mut busy = Duration::ZERO;
    let mut rest = pairs;
    while !rest.is_empty() {
        let started = Instant::now();
        let decoded = decode_some(model, &mut rest, features, matching);
        busy += started.elapsed();
        let (results, failed) = match decoded {
            Ok(decoded) => (decoded.into_iter().map(Ok).collect(), false),
            Err(error) => (vec![Err(error)], true),
        };
        let is_heard = results.into_iter().all(|result: Result<Decoded>| sender.send(result).is_ok());
        if failed || !is_heard {
            break;
        }
    }
    busy
}

/// Decodes the first of the pairs together, both orders, and takes them off the list.
fn decode_some(
    model: &Mast3r,
    rest: &mut &[[usize; 2]],
    features: &mut FeatureStore,
    matching: &MatchOptions,
) -> Result<Vec<Decoded>> {
    let extractor = model.extractor();
    let (on_cpu, patch) = (extractor.device().is_cpu(), extractor.patch());
    let mut ends: Vec<[Features; 2]> = Vec::new();
    let mut pixels = 0;
    for [first, second] in rest.iter().take(MOST_PAIRS_TOGETHER) {
        let both = [features.get(*first, extractor)?, features.get(*second, extractor)?];
        pixels += both.iter().map(|view| view.grid[0] * view.grid[1] * patch * patch).sum::<usize>();
        let is_full = on_cpu || pixels > PIXELS_TOGETHER;
        if is_full && !ends.is_empty() {
            break;
        }
        ends.push(both);
    }
    *rest = &rest[ends.len()..];
    // Orders whose views have the same sizes go together.
    let orders: Vec<[&Features; 2]> = ends.iter().flat_map(|[a, b]| [[a, b], [b, a]]).collect();
    let mut predictions: Vec<Option<PairPrediction>> = orders.iter().map(|_| None).collect();
    for at in 0..orders.len() {
        if predictions[at].is_some() {
            continue;
        }
        let grids = orders[at].map(|view| view.grid);
        let alike = (at..orders.len()).filter(|&other| orders[other].map(|view| view.grid) == grids);
        let group: Vec<usize> = alike.take(if on_cpu { 1 } else { orders.len() }).collect();
        let joined = |view: usize| -> Result<Features> {
            let tokens: Vec<&Tensor> = group.iter().map(|&order| &orders[order][view].tokens).collect();
            Ok(Features { tokens: Tensor::cat(&tokens, 0)?, grid: grids[view] })
        };
        let predicted = model.decode(&joined(0)?, &joined(1)?)?;
        for (index, order) in group.into_iter().enumerate() {
            predictions[order] = Some(predicted.one(index)?);
        }
    }
    let mut predictions = predictions.into_iter().flatten();
    let orders = std::iter::from_fn(|| Some([predictions.next()?, predictions.next()?]));
    orders.map(|[forward, reverse]| Decoded::new(model, &forward, &reverse, matching)).collect()
}

/// What the network says of a pair in both orders.
#[derive(Debug)]
pub(super) enum Decoded {
    /// The host is to seek matches.
    Maps([[ViewMaps; 2]; 2]),
    /// The device has.
    Matched([[PointMap; 2]; 2], Vec<Match>),
}

impl Decoded {
    fn new(
        model: &Mast3r,
        forward: &PairPrediction,
        reverse: &PairPrediction,
        matching: &MatchOptions,
    ) -> Result<Self> {
        Ok(match matches_on_device(model, forward, Some(reverse), matching)? {
            None => Self::Maps([fetch(forward)?, fetch(reverse)?]),
            Some(matches) => Self::Matched([fetch_points(forward)?, fetch_points(reverse)?], matches),
        })
    }

    pub fn evidence(self, pair: Pair, matching: &MatchOptions) -> Result<PairEvidence> {
        match self {
            Self::Maps([forward, reverse]) => {
                let _span = tracing::debug_span!("match").entered();
                PairEvidence::of_decodes(pair, forward, reverse, matching)
            }
            Self::Matched([forward, reverse], matches) => Ok(PairEvidence { pair, forward, reverse, matches }),
        }
    }
}
