//! From two views or more to a scene: which pairs, what the network says of each, and the alignment of it
//! all.
//!
//! Every view is encoded once and every pair decoded in both orders. Each device is always a few
//! pairs ahead of the host, where a thread of its own takes a pair's maps and matches, or finds
//! these, and hands them to the alignment in order, which keeps no pair, so memory does not grow
//! with the pairs. Nothing waits for a GPU but what needs its results, so that it always has work.
//! What a [`WorkFolder`] holds is read instead of computed. Which view of a pair is decoded first
//! follows from the views' pixels, so that a pair gives the same in whichever order its views come.
//!
//! Several devices take views, then groups of pairs, from one queue each, and groups are the same
//! for any number of devices: so are results, bit for bit, of devices of one model. A view is
//! encoded once and its tokens are kept on the host; a device copies those that it needs. For
//! 512x384 in half precision that is 1.5 MB, a tenth of a millisecond where the encoder takes one.

mod decode;
mod evidence;
mod repeated;

use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub use self::decode::MOST_PAIRS_TOGETHER;
use self::decode::pixels_of;
pub(super) use self::decode::{Decoded, Decoding, groups};
pub(super) use self::evidence::decoded_order;
use self::evidence::{Clock, EvidenceSource, Finisher, Job, StoredEvidence};
pub use self::repeated::RepeatedPairs;
use super::features::{FeatureStore, held};
use super::joint;
use super::key::{Key, NetworkKey};
use super::sharing::{Stop, joined, spawned};
use super::work::{StoredPair, WorkFolder};
use crate::alignment::{
    AlignOptions, Alignment, Pair, PairReport, Verdict, align_from, align_watched,
};
use crate::matching::{MatchOptions, PairMatches};
use crate::model::config::Predicts;
use crate::model::registry;
use crate::model::{Mast3r, Predictor};
use crate::network::Model;
use crate::pairs::{PairGraph, Similarity};
use crate::progress::{Plan, Progress, Stage, Watch, tell};
use crate::views::View;
use crate::{Error, Result};

/// Which pairs of views are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PairChoice {
    /// Those of a rule.
    Graph(PairGraph),
    /// These.
    List(Vec<Pair>),
}

/// How views are reconstructed.
#[derive(Clone, Debug)]
pub struct ReconstructOptions {
    /// Which pairs. Of a joint network, whether views are in order if they need several groups: see
    /// [`PairGraph::is_sequence`].
    pub pairs: PairChoice,
    /// The search for matches.
    pub matching: MatchOptions,
    /// The solution for cameras.
    pub align: AlignOptions,
    /// Most bytes of features in memory; beyond that they go to disk. A joint network predicts as
    /// many views at a time as need no more.
    pub memory: u64,
    /// Keep the matches of every pair for [`Reconstruction::matches`], 20 bytes each.
    pub keep_matches: bool,
}

impl Default for ReconstructOptions {
    fn default() -> Self {
        Self {
            pairs: PairChoice::Graph(PairGraph::Auto),
            matching: MatchOptions::default(),
            align: AlignOptions::default(),
            memory: 2 << 30,
            keep_matches: false,
        }
    }
}

/// Where results are kept between runs.
#[derive(Clone, Copy, Debug)]
pub struct Keep<'a> {
    /// The folder.
    pub folder: &'a WorkFolder,
    /// What the network's numbers follow from.
    pub network: &'a NetworkKey,
}

/// Reconstructed views.
#[derive(Debug)]
pub struct Reconstruction {
    /// Cameras, points, and what became of each view and pair.
    pub alignment: Alignment,
    /// The matches of every pair, used or not, in the pairs' order; none unless
    /// [`ReconstructOptions::keep_matches`] asks.
    pub matches: Vec<PairMatches>,
    /// Views that were encoded now; the features of the others were there or not needed.
    pub encoded: usize,
    /// Pairs that were computed now; the others were there.
    pub computed: usize,
    /// Where the time went.
    pub times: Times,
}

/// Where the time went. Devices decode pairs while the host is at others, so their parts may
/// overlap; those of several devices are added up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// The network's weights.
    pub load: Duration,
    /// Images to tokens.
    pub encode: Duration,
    /// Everything about pairs: from the first to the last.
    pub pairs: Duration,
    /// Of it: the decoder, on a CPU; on a GPU, giving it its work.
    pub decode: Duration,
    /// Of it: waiting for what a GPU was given, and its results' way to the host.
    pub fetch: Duration,
    /// Of it: the search for matches by the host, where it is the host's part.
    pub matching: Duration,
    /// After the last pair: the solution.
    pub align: Duration,
}

/// Reconstructs views with a network.
pub struct Reconstructor<'a> {
    predicts: Predicts,
    network: Box<dyn Fn() -> Result<Vec<Model>> + Send + Sync + 'a>,
    /// Whether the network predicts metres: scenes then are [metric](crate::scene::Scene::metric), unless
    /// known poses determine their scale.
    pub metric: bool,
    /// How.
    pub options: ReconstructOptions,
}

impl<'a> Reconstructor<'a> {
    /// With default options.
    pub fn new(model: &'a Model) -> Self {
        Self {
            metric: registry::Network::is_metric(model.name()),
            ..Self::lazy(model.predicts(), || Ok(vec![model.clone()]))
        }
    }

    /// With default options, and one network on several devices of one model, which share the
    /// pairs: see [`ChosenModel::load_each`](crate::network::ChosenModel::load_each). Results are
    /// those of one device. A network that predicts all views together runs on the first.
    ///
    /// # Errors
    /// [`Error::Usage`] without a model.
    pub fn across(models: &'a [Model]) -> Result<Self> {
        let Some(first) = models.first() else {
            return Err(Error::Usage("no network is given".into()));
        };
        Ok(Self {
            metric: registry::Network::is_metric(first.name()),
            ..Self::lazy(first.predicts(), || Ok(models.to_vec()))
        })
    }

    /// With default options, and a network that is loaded when there is something for it to
    /// compute, once on each device that is to take part; `predicts` is what it predicts.
    pub fn lazy(
        predicts: Predicts,
        network: impl Fn() -> Result<Vec<Model>> + Send + Sync + 'a,
    ) -> Self {
        Self {
            predicts,
            network: Box::new(network),
            metric: false,
            options: ReconstructOptions::default(),
        }
    }

    /// Reconstructs views; `watch` is told what is being done, and may cancel it.
    ///
    /// Results are the same with and without `keep`, and whatever of them it holds already.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) for pairs that the views cannot have;
    /// [`Error::NotFinite`](crate::Error::NotFinite) if the network's output is not finite for any
    /// pair; [`Error::Input`](crate::Error::Input) and [`Error::Io`](crate::Error::Io) for the
    /// folder; [`Error::Cancelled`] if `watch` says so; errors of the device. That no view could be placed is no error here, see
    /// [`Alignment::cameras_error`].
    pub fn run(
        &self,
        views: &[View],
        keep: Option<Keep<'_>>,
        watch: Watch<'_>,
    ) -> Result<Reconstruction> {
        let mut reconstruction = match self.predicts {
            Predicts::Features => Err(Error::Usage(
                "the network is an encoder alone and predicts no points".into(),
            )),
            Predicts::Pairs => self.run_pairs(views, keep, watch),
            Predicts::Scene => self.run_joint(views, keep, watch),
        }?;
        reconstruction.alignment.scene.metric = self.is_metric();
        Ok(reconstruction)
    }

    /// Whether scenes are in metres.
    fn is_metric(&self) -> bool {
        self.metric && !self.options.align.has_known_scale()
    }

    /// By a network that predicts all views together, from which cameras and depths follow.
    fn run_joint(
        &self,
        views: &[View],
        keep: Option<Keep<'_>>,
        watch: Watch<'_>,
    ) -> Result<Reconstruction> {
        if keep.is_some() {
            return Err(Error::Usage(
                "a joint network takes no folder for predictions: it has none of pairs".into(),
            ));
        }
        let mut times = Times::default();
        tell(watch, Progress::Begin(Stage::Load, 1))?;
        let started = Instant::now();
        let models = (self.network)()?;
        times.load = started.elapsed();
        let Some(model) = models.first() else {
            return Err(no_network());
        };
        let Predictor::Joint(network) = model.predictor() else {
            return Err(Error::Internal(format!(
                "{} is not a joint network",
                model.name()
            )));
        };
        let is_sequence = match &self.options.pairs {
            PairChoice::Graph(graph) => graph.is_sequence(),
            PairChoice::List(_) => false,
        };
        let started = Instant::now();
        let mut alignment = joint::reconstruct(
            &**network,
            views,
            is_sequence,
            &self.options.align,
            self.options.memory,
            watch,
        )?;
        times.pairs = started.elapsed();
        alignment
            .scene
            .leave_out_masked(views.iter().map(|view| view.mask.as_ref()));
        Ok(Reconstruction {
            alignment,
            matches: Vec::new(),
            encoded: views.len(),
            computed: 0,
            times,
        })
    }

    /// By a network that predicts pairs, all of which are aligned.
    fn run_pairs(
        &self,
        views: &[View],
        keep: Option<Keep<'_>>,
        watch: Watch<'_>,
    ) -> Result<Reconstruction> {
        let mut times = Times::default();
        let network = keep.map(|keep| keep.network);
        let pixels: Vec<Key> = views.iter().map(Key::of_view).collect();
        let keys = pixels
            .iter()
            .map(|pixels| Key::of_features(pixels, network))
            .collect::<Result<_>>()?;
        let mut features = Mutex::new(FeatureStore::new(
            self.options.memory,
            keys,
            keep.map(|keep| keep.folder.features()),
        ));
        let mut network = Network {
            make: &*self.network,
            made: Vec::new(),
            encoded: 0,
            watch,
        };

        let (pairs, graph) = match &self.options.pairs {
            PairChoice::List(pairs) => (pairs.clone(), "list".to_string()),
            PairChoice::Graph(graph) => {
                let mut similarity = None;
                if graph.needs_similarity(views.len()) {
                    let all: Vec<usize> = (0..views.len()).collect();
                    network.encode(views, &all, alone(&mut features), &mut times)?;
                    let vectors = all
                        .iter()
                        .map(|&view| alone(&mut features).mean_token(view))
                        .collect::<Result<Vec<_>>>()?;
                    similarity = Some(Similarity::of(&vectors)?);
                }
                (
                    graph.pairs(views.len(), similarity.as_ref())?,
                    graph.resolved(views.len()).to_string(),
                )
            }
        };
        let folder = keep.map(|keep| keep.folder);
        let computed = AtomicUsize::new(0);
        // Once, and once more if what an earlier run left turns out to be damaged.
        let (mut alignment, matches, jobs) = loop {
            let jobs = self.jobs(&pairs, &pixels, alone(&mut features), folder)?;
            let missing: Vec<[usize; 2]> = jobs
                .iter()
                .filter(|job| !job.is_stored)
                .map(Job::decoded)
                .collect();
            let plan = Plan {
                views: views.len(),
                pairs: jobs.len(),
                new_pairs: missing.len(),
                disk_bytes: if folder.is_some() {
                    missing.iter().map(|pair| stored_bytes(views, *pair)).sum()
                } else {
                    0
                },
            };
            tell(watch, Progress::Plan(plan))?;
            let mut needed: Vec<usize> = missing.as_flattened().to_vec();
            needed.sort_unstable();
            needed.dedup();
            network.encode(views, &needed, alone(&mut features), &mut times)?;
            let models = if missing.is_empty() {
                &[]
            } else {
                network.models(&mut times)?
            };

            let started = Instant::now();
            let options = &self.options.align;
            // Many views are aligned from the files, after the last pair.
            let from_files = folder.filter(|_| options.solves_in_submaps(views.len()));
            let is_read =
                |job: &&Job| from_files.is_none() || self.options.keep_matches || !job.is_stored;
            let read: Vec<&Job> = jobs.iter().filter(is_read).collect();
            tell(watch, Progress::Begin(Stage::Pairs, read.len()))?;
            let matches = Mutex::new(Vec::new());
            let is_damaged = AtomicBool::new(false);
            let clock = &Mutex::new(Clock::default());
            let decoding = Decoding {
                models,
                groups: &groups(&missing, |view| pixels_of(&views[view]), models),
                features: &features,
                matching: &self.options.matching,
            };
            let sharing = decoding.sharing();
            let finisher = Finisher {
                jobs: jobs
                    .iter()
                    .filter(|job| !job.is_stored)
                    .map(|job| &job.stored)
                    .collect(),
                matching: &self.options.matching,
                folder,
                clock,
                computed: &computed,
            };
            let evidence = EvidenceSource {
                jobs: read.into_iter(),
                decoded: &sharing,
                rest: Vec::new().into_iter(),
                _stopper: sharing.stopper(Stop::Always),
                views,
                folder,
                watch,
                clock,
                is_damaged: &is_damaged,
                matches: self.options.keep_matches.then_some(&matches),
            };
            let jobs_of_files = &jobs;
            let result = thread::scope(|scope| {
                let align = move || match from_files {
                    Some(folder) => {
                        let stored = StoredEvidence::after(evidence, jobs_of_files, folder)?;
                        align_from(views, &stored, options, watch)
                    }
                    None => align_watched(views, evidence, options, watch),
                };
                let aligner = spawned(scope, align)?;
                let decoded = decoding.run(&sharing, &|number, decoded| {
                    finisher.finish(number, decoded)
                });
                let aligned = joined(aligner);
                times.decode += decoded?;
                aligned
            });
            let Clock {
                fetch,
                matching,
                exhausted,
            } = *held(clock);
            times.fetch += fetch;
            times.matching += matching;
            times.align = exhausted.map_or(Duration::ZERO, |exhausted| exhausted.elapsed());
            times.pairs += started.elapsed().saturating_sub(times.align);
            match (result, folder) {
                (Ok(alignment), _) => {
                    break (
                        alignment,
                        matches.into_inner().unwrap_or_else(PoisonError::into_inner),
                        jobs,
                    );
                }
                (Err(error), Some(folder)) if is_damaged.into_inner() => {
                    let stored: Vec<&StoredPair> = jobs
                        .iter()
                        .filter(|job| job.is_stored)
                        .map(|job| &job.stored)
                        .collect();
                    if folder.remove_damaged(stored)? == 0 {
                        return Err(error);
                    }
                }
                (Err(error), _) => return Err(error),
            }
        };
        if let Some(folder) = folder {
            // A pair that was not finite has no file; the next run computes it again.
            let is_stored = |report: &PairReport| report.verdict != Verdict::NotFinite;
            let stored = jobs
                .into_iter()
                .zip(&alignment.pairs)
                .filter(|(_, report)| is_stored(report));
            let stored: Vec<StoredPair> = stored.map(|(job, _)| job.stored).collect();
            folder.write_scene(views, &stored, &graph, self.metric)?;
        }
        alignment
            .scene
            .leave_out_masked(views.iter().map(|view| view.mask.as_ref()));
        Ok(Reconstruction {
            alignment,
            matches,
            encoded: network.encoded,
            computed: computed.into_inner(),
            times,
        })
    }

    /// What is to be done for each pair; `pixels` tell the views apart.
    fn jobs(
        &self,
        pairs: &[Pair],
        pixels: &[Key],
        features: &FeatureStore,
        folder: Option<&WorkFolder>,
    ) -> Result<Vec<Job>> {
        let job = |&pair: &Pair| {
            let exchanged = pixels[pair.first] > pixels[pair.second];
            let [first, second] = decoded_order(pair, exchanged);
            let key = Key::of_pair(
                [features.key(first), features.key(second)],
                &self.options.matching,
            )?;
            let is_stored = folder.is_some_and(|folder| folder.has_pair(&key));
            Ok(Job {
                stored: StoredPair {
                    pair,
                    key,
                    exchanged,
                },
                is_stored,
            })
        };
        pairs.iter().map(job).collect()
    }
}

/// About what a pair's evidence takes on disk for a pixel of either view, two packed maps and
/// matches: 6.2 bytes with `tiny` on photographs, more the rougher maps are.
pub(super) const STORED_BYTES: u64 = 7;

/// What a pair's evidence takes on disk.
fn stored_bytes(views: &[View], pair: [usize; 2]) -> u64 {
    let pixels =
        pair.map(|view| u64::from(views[view].rgb.width()) * u64::from(views[view].rgb.height()));
    STORED_BYTES * (pixels[0] + pixels[1])
}

/// A store that no other thread is using.
fn alone(features: &mut Mutex<FeatureStore>) -> &mut FeatureStore {
    features.get_mut().unwrap_or_else(PoisonError::into_inner)
}

fn no_network() -> Error {
    Error::Internal("a network was loaded on no device".into())
}

/// The network on each device, made when it is needed.
struct Network<'a> {
    make: &'a dyn Fn() -> Result<Vec<Model>>,
    made: Vec<Mast3r>,
    /// Views that it encoded.
    encoded: usize,
    watch: Watch<'a>,
}

impl Network<'_> {
    fn models(&mut self, times: &mut Times) -> Result<&[Mast3r]> {
        if self.made.is_empty() {
            tell(self.watch, Progress::Begin(Stage::Load, 1))?;
            let started = Instant::now();
            for model in (self.make)()? {
                self.made.push(model.pairwise()?.clone());
            }
            times.load = started.elapsed();
            if self.made.is_empty() {
                return Err(no_network());
            }
        }
        Ok(&self.made)
    }

    /// Encodes those of `wanted` whose features are not known.
    fn encode(
        &mut self,
        views: &[View],
        wanted: &[usize],
        features: &mut FeatureStore,
        times: &mut Times,
    ) -> Result<()> {
        let mut missing = Vec::new();
        for &view in wanted {
            if !features.is_known(view)? {
                missing.push(view);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let watch = self.watch;
        let models = self.models(times)?;
        let started = Instant::now();
        tell(watch, Progress::Begin(Stage::Encode, missing.len()))?;
        let extractors: Vec<_> = models.iter().map(Mast3r::extractor).collect();
        let load = |view: usize| Ok(&views[view]);
        features.encode(load, &missing, &extractors, |_| tell(watch, Progress::Step))?;
        self.encoded += missing.len();
        times.encode += started.elapsed();
        Ok(())
    }
}
