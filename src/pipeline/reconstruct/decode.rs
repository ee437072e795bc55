//! Decoding pairs: the devices' part.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use custom_ops::Downloader;

use crate::alignment::{Pair, PairEvidence};
use crate::matching::{MatchOptions, ViewMaps};
use crate::model::{Features, Mast3r, PairPrediction};
use crate::pipeline::device_match::DeviceSearch;
use crate::pipeline::features::{DeviceFeatures, FeatureStore, held};
use crate::pipeline::fetch::{Arriving, Wanted, exactly};
use crate::pipeline::sharing::{Sharing, Stop, joined, spawned};
use crate::runtime::Together;
use crate::views::View;
use crate::{Error, Result};

/// Pixels that a GPU decodes together, about: both orders of two pairs of 512x384. A CPU decodes
/// one order at a time: together they would fall out of its caches.
const PIXELS_TOGETHER: u64 = 4 * 512 * 384;
/// Pairs that a GPU decodes together, at most.
pub const MOST_PAIRS_TOGETHER: usize = 8;
/// Groups of pairs that a device has decoded and the host not yet begun with, at most.
const AHEAD: usize = 1;
/// Threads of the host that finish the groups of a GPU, at most: it decodes faster than one of them
/// packs and writes.
const MOST_FINISHING: usize = 8;
/// And of a CPU, which has nothing to spare but while a file is written.
const MOST_FINISHING_ON_CPU: usize = 2;

/// Pairs that are decoded together, in order, of views with so many `pixels`. They do not depend on how many devices there are: in
/// half precision a product may be rounded otherwise for a batch of another size.
pub(in crate::pipeline) fn groups(
    pairs: &[[usize; 2]],
    pixels: impl Fn(usize) -> u64,
    models: &[Mast3r],
) -> Vec<Vec<[usize; 2]>> {
    let on_cpu = models.iter().all(|model| model.runtime().device().is_cpu());
    let mut groups: Vec<Vec<[usize; 2]>> = Vec::new();
    let mut together = 0;
    for &pair in pairs {
        together += pixels(pair[0]) + pixels(pair[1]);
        match groups.last_mut() {
            Some(group)
                if !on_cpu && together <= PIXELS_TOGETHER && group.len() < MOST_PAIRS_TOGETHER =>
            {
                group.push(pair);
            }
            _ => {
                together = pixels(pair[0]) + pixels(pair[1]);
                groups.push(vec![pair]);
            }
        }
    }
    groups
}

/// The number of a view's pixels.
pub(super) fn pixels_of(view: &View) -> u64 {
    let (width, height) = view.rgb.dimensions();
    u64::from(width) * u64::from(height)
}

/// The pairs of a group: of each what the host made of it.
pub(in crate::pipeline) type Finished<T> = Vec<Result<T>>;

/// What decodes groups of pairs.
pub(in crate::pipeline) struct Decoding<'a> {
    /// The same network on each device.
    pub models: &'a [Mast3r],
    pub groups: &'a [Vec<[usize; 2]>],
    pub features: &'a Mutex<FeatureStore>,
    pub matching: &'a MatchOptions,
}

impl Decoding<'_> {
    /// A queue for the groups, from which the pairs are taken in order.
    pub fn sharing<T>(&self) -> Sharing<Finished<T>> {
        // Of each device one is decoded, one waits, and the others are finished.
        let open = 1 + AHEAD + self.finishing_threads();
        Sharing::new(self.groups.len(), open * self.models.len())
    }

    /// Threads that finish the groups of a device.
    fn finishing_threads(&self) -> usize {
        let is_cpu = |model: &Mast3r| model.runtime().device().is_cpu();
        let most = match self.models.iter().all(is_cpu) {
            true => MOST_FINISHING_ON_CPU,
            false => MOST_FINISHING,
        };
        (rayon::current_num_threads() / self.models.len().max(1)).clamp(1, most)
    }

    /// Decodes all groups until nobody takes them from `sharing` any more. Each device takes the
    /// next group when it is free and is always a group ahead of the host, which `finish`es pairs
    /// by their number in several threads for each device. How long the devices' threads were busy,
    /// together.
    ///
    /// # Errors
    /// [`Error::NoThread`]; `sharing` is stopped then. Others are among the results.
    pub fn run<T: Send>(
        &self,
        sharing: &Sharing<Finished<T>>,
        finish: &(dyn Fn(usize, Decoded) -> Result<T> + Sync),
    ) -> Result<Duration> {
        let first_pairs: Vec<usize> = self
            .groups
            .iter()
            .scan(0, |next, group| {
                let first = *next;
                *next += group.len();
                Some(first)
            })
            .collect();
        thread::scope(|scope| {
            let start = |model| {
                let (sender, receiver) = sync_channel(AHEAD);
                // The last thread that finishes closes the channel.
                let receiver = Arc::new(Mutex::new(receiver));
                let first_pairs = &first_pairs;
                for _ in 0..self.finishing_threads() {
                    let receiver = receiver.clone();
                    spawned(scope, move || {
                        let _stopper = sharing.stopper(Stop::OnPanic);
                        let next = || held(&receiver).recv().ok();
                        while let Some((group, decoded)) = next() {
                            let finished = match decoded {
                                Ok(decoded) => {
                                    self.finished(model, first_pairs[group], decoded, finish)
                                }
                                Err(error) => vec![Err(error)],
                            };
                            sharing.finish(group, finished);
                        }
                    })?;
                }
                spawned(scope, move || {
                    let _stopper = sharing.stopper(Stop::OnPanic);
                    self.decode(model, sharing, &sender)
                })
            };
            let devices: Result<Vec<_>> = self.models.iter().map(start).collect();
            // Nobody would finish the groups of a device without its threads.
            let devices = devices.inspect_err(|_| sharing.stop())?;
            Ok(devices.into_iter().map(joined).sum())
        })
    }

    /// One device's part. No group is begun after one that failed: whoever takes the results ends
    /// there.
    fn decode<T>(
        &self,
        model: &Mast3r,
        sharing: &Sharing<Finished<T>>,
        sender: &SyncSender<(usize, Result<Vec<Decoded>>)>,
    ) -> Duration {
        let mut device = DeviceDecoder {
            model,
            features: DeviceFeatures::new(self.features, self.models.len()),
            matching: self.matching,
            downloader: Downloader::default(),
            together: Together::at_most(2 * MOST_PAIRS_TOGETHER),
        };
        let mut busy = Duration::ZERO;
        while let Some(group) = sharing.begin() {
            let started = Instant::now();
            let decoded = device.decode(&self.groups[group]);
            busy += started.elapsed();
            let failed = decoded.is_err();
            let decoded = decoded.map_err(|error| self.named(error, model));
            if sender.send((group, decoded)).is_err() || failed {
                break;
            }
        }
        busy
    }

    fn finished<T>(
        &self,
        model: &Mast3r,
        first: usize,
        decoded: Vec<Decoded>,
        finish: &(dyn Fn(usize, Decoded) -> Result<T> + Sync),
    ) -> Finished<T> {
        let finished = (first..)
            .zip(decoded)
            .map(|(pair, decoded)| finish(pair, decoded).map_err(|error| self.named(error, model)));
        finished.collect()
    }

    fn named(&self, error: Error, model: &Mast3r) -> Error {
        if self.models.len() > 1 {
            error.on_device(|| model.runtime().device_name())
        } else {
            error
        }
    }
}

/// What one device decodes with.
struct DeviceDecoder<'a> {
    model: &'a Mast3r,
    features: DeviceFeatures<'a>,
    matching: &'a MatchOptions,
    downloader: Downloader,
    /// Both orders of each pair.
    together: Together,
}

impl DeviceDecoder<'_> {
    /// Decodes the pairs of a group in both orders; fewer at a time where the device's memory does
    /// not suffice. A GPU is given the work, and its results are on their way.
    fn decode(&mut self, group: &[[usize; 2]]) -> Result<Vec<Decoded>> {
        let mut decoded = Vec::with_capacity(group.len());
        while let Some(&[first, second]) = group.get(decoded.len()) {
            let rest = &group[decoded.len()..];
            let mut is_first = true;
            let (model, matching, downloader) = (self.model, self.matching, &self.downloader);
            let features = &mut self.features;
            let attempt = |most: usize| {
                if !std::mem::take(&mut is_first) {
                    features.halve_memory()?;
                }
                let some = &rest[..rest.len().min((most / 2).max(1))];
                decode_some(model, some, most, features, matching, downloader)
            };
            let out_of_memory = || {
                let work = format!("decoding the images {first} and {second}, counted from 0");
                Error::out_of_memory(model.runtime().device_name(), work)
            };
            decoded.extend(self.together.run("decodes", attempt, out_of_memory)?);
        }
        Ok(decoded)
    }
}

/// Decodes both orders of each pair, at most `most` orders together.
fn decode_some(
    model: &Mast3r,
    pairs: &[[usize; 2]],
    most: usize,
    features: &mut DeviceFeatures<'_>,
    matching: &MatchOptions,
    downloader: &Downloader,
) -> Result<Vec<Decoded>> {
    let extractor = model.extractor();
    let mut ends: Vec<[Features; 2]> = Vec::with_capacity(pairs.len());
    for &[first, second] in pairs {
        ends.push([
            features.get(first, extractor)?,
            features.get(second, extractor)?,
        ]);
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
