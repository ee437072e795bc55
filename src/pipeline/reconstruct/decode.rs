//! Decoding pairs: the device's part.

use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use custom_ops::Downloader;

use crate::alignment::{Pair, PairEvidence};
use crate::matching::{MatchOptions, ViewMaps};
use crate::model::{Features, Mast3r, PairPrediction};
use crate::pipeline::device_match::DeviceSearch;
use crate::pipeline::features::FeatureStore;
use crate::pipeline::fetch::{Arriving, Wanted, exactly};
use crate::runtime::Together;
use crate::{Error, Result};

/// Pixels that a GPU decodes together, about: both orders of two pairs of 512x384. A CPU decodes
/// one order at a time: together they would fall out of its caches.
const PIXELS_TOGETHER: usize = 4 * 512 * 384;
const MOST_PAIRS_TOGETHER: usize = 8;

/// Decodes pairs and sends what the network says of them, in order. Ends early if nobody listens
/// any more.
pub(super) fn decode_all(
    model: &Mast3r,
    pairs: &[[usize; 2]],
    features: &mut FeatureStore,
    matching: &MatchOptions,
    sender: SyncSender<Result<Decoded>>,
) -> Duration {
    let mut busy = Duration::ZERO;
    let mut rest = pairs;
    let downloader = Downloader::default();
    // Both orders of each pair.
    let together = Together::at_most(2 * MOST_PAIRS_TOGETHER);
    while !rest.is_empty() {
        let started = Instant::now();
        let mut is_first = true;
        let attempt = |most| {
            if !std::mem::take(&mut is_first) {
                features.halve_memory()?;
            }
            decode_some(model, rest, most, features, matching, &downloader)
        };
        let out_of_memory = || {
            let [first, second] = rest[0];
            let work = format!("decoding the images {first} and {second}, counted from 0");
            Error::out_of_memory(model.runtime().device_name(), work)
        };
        let decoded = together.run("decodes", attempt, out_of_memory);
        busy += started.elapsed();
        let (results, failed) = match decoded {
            Ok(decoded) => {
                rest = &rest[decoded.len()..];
                (decoded.into_iter().map(Ok).collect(), false)
            }
            Err(error) => (vec![Err(error)], true),
        };
        let is_heard = results
            .into_iter()
            .all(|result: Result<Decoded>| sender.send(result).is_ok());
        if failed || !is_heard {
            break;
        }
    }
    busy
}

/// Decodes the first of the pairs, both orders, at most `most` orders together. A GPU is given the
/// work, and what it says is on its way.
fn decode_some(
    model: &Mast3r,
    rest: &[[usize; 2]],
    most: usize,
    features: &mut FeatureStore,
    matching: &MatchOptions,
    downloader: &Downloader,
) -> Result<Vec<Decoded>> {
    let extractor = model.extractor();
    let (on_cpu, patch) = (extractor.device().is_cpu(), extractor.patch());
    let mut ends: Vec<[Features; 2]> = Vec::new();
    let mut pixels = 0;
    for [first, second] in rest.iter().take((most / 2).max(1)) {
        let both = [
            features.get(*first, extractor)?,
            features.get(*second, extractor)?,
        ];
        pixels += both
            .iter()
            .map(|view| view.grid[0] * view.grid[1] * patch * patch)
            .sum::<usize>();
        let is_full = on_cpu || pixels > PIXELS_TOGETHER;
        if is_full && !ends.is_empty() {
            break;
        }
        ends.push(both);
    }
    let orders: Vec<[&Features; 2]> = ends.iter().flat_map(|[a, b]| [[a, b], [b, a]]).collect();
    let mut predictions = model.decode_all(&orders, most)?.into_iter();
    let orders = std::iter::from_fn(|| Some([predictions.next()?, predictions.next()?]));
    orders
        .map(|[forward, reverse]| Decoded::new(model, &forward, &reverse, matching, downloader))
        .collect()
}

/// What the network says of a pair in both orders, on its way to the host.
#[derive(Debug)]
pub(in crate::pipeline) struct Decoded {
    maps: Arriving,
    /// `None` if the host is to match.
    search: Option<DeviceSearch>,
}

impl Decoded {
    pub fn new(
        model: &Mast3r,
        forward: &PairPrediction,
        reverse: &PairPrediction,
        matching: &MatchOptions,
        downloader: &Downloader,
    ) -> Result<Self> {
        let search = DeviceSearch::begin(model, forward, Some(reverse), matching, downloader)?;
        let wanted = if search.is_some() {
            Wanted::Points
        } else {
            Wanted::Descriptors
        };
        let _span = tracing::debug_span!("fetch").entered();
        Ok(Self {
            maps: Arriving::begin(&[forward, reverse], wanted, downloader)?,
            search,
        })
    }

    /// The pair's evidence, when it has arrived; `lap` is told before the host begins to match.
    pub fn evidence(
        self,
        pair: Pair,
        matching: &MatchOptions,
        lap: impl FnOnce(),
    ) -> Result<PairEvidence> {
        let matches = self.search.map(DeviceSearch::wait).transpose()?;
        let arrived = tracing::debug_span!("fetch").in_scope(|| self.maps.wait())?;
        let [forward, reverse] = exactly(arrived)?;
        lap();
        match matches {
            Some(matches) => {
                let points = |maps: [ViewMaps; 2]| maps.map(|maps| maps.points);
                Ok(PairEvidence {
                    pair,
                    forward: points(forward),
                    reverse: points(reverse),
                    matches,
                })
            }
            None => {
                let _span = tracing::debug_span!("match").entered();
                PairEvidence::of_decodes(pair, forward, reverse, matching)
            }
        }
    }
}
