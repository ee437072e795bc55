//! From many views to a scene: which pairs, what the network says of each, and the alignment of it
//! all.
//!
//! Every view is encoded once and every pair decoded in both orders. The device is always a few
//! pairs ahead of the host, which takes a pair's maps and matches, or seeks these, hands it all to
//! the alignment and lets go of it, so memory does not grow with the pairs. Nobody waits for a GPU
//! but who needs what it says, so that it always has work. What a [`WorkFolder`] holds is read
//! instead of computed. Which view of a pair is decoded first follows from the views' pixels, so
//! that a pair gives the same in whichever order its views come.

mod decode;
mod evidence;

use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use self::decode::decode_all;
use self::evidence::{Clock, EvidenceSource, Job, held, in_order};
use super::features::FeatureStore;
use super::work::{Key, NetworkKey, StoredPair, WorkFolder};
use crate::Result;
use crate::alignment::{AlignOptions, Alignment, Pair, PairReport, Verdict, align};
use crate::matching::{MatchOptions, PairMatches};
use crate::model::Mast3r;
use crate::pairs::{PairGraph, Similarity};
use crate::views::View;

/// Pairs that are decoded and not yet matched, at most.
const AHEAD: usize = 1;
/// Which pairs of views are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PairChoice {
    /// Those of a rule.
    Graph(PairGraph),
    /// These.
    List(Vec<Pair>),
}

/// How many views are reconstructed.
#[derive(Clone, Debug)]
pub struct ManyOptions {
    /// Which pairs.
    pub pairs: PairChoice,
    /// The search for matches.
    pub matching: MatchOptions,
    /// The solution for cameras.
    pub align: AlignOptions,
    /// Most bytes of features in memory; beyond that they go to disk.
    pub memory: u64,
    /// Keep the matches of every pair for [`ManyReconstruction::matches`], 20 bytes each.
    pub keep_matches: bool,
}

impl Default for ManyOptions {
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

/// What is being done with many views, for a progress display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManyStage {
    /// The network's weights, if anything is left to be computed.
    Load,
    /// Pictures to tokens; counts pictures.
    Encode,
    /// Tokens to points, descriptors and matches; counts pairs.
    Pairs,
    /// All pairs to cameras and depths.
    Align,
}

impl ManyStage {
    /// A verb for a display.
    pub fn name(self) -> &'static str {
        match self {
            Self::Load => "load weights",
            Self::Encode => "encode",
            Self::Pairs => "pairs",
            Self::Align => "align",
        }
    }
}

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Images.
    pub views: usize,
    /// Pairs of them.
    pub pairs: usize,
    /// Those that have to be computed.
    pub new_pairs: usize,
    /// What these take in the folder that they are kept in, in bytes, about; 0 without one.
    pub disk_bytes: u64,
}

/// What a progress display is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// What there is to do, once it is known and before anything is computed but what it takes to
    /// choose pairs.
    Plan(Plan),
    /// A stage begins, of so many steps; one step if it has no parts.
    Begin(ManyStage, usize),
    /// A step of it is done.
    Step,
}

/// Many views, reconstructed.
#[derive(Debug)]
pub struct ManyReconstruction {
    /// Cameras, points, and what became of each view and pair.
    pub alignment: Alignment,
    /// The matches of every pair, used or not, in the pairs' order; none unless
    /// [`ManyOptions::keep_matches`] asks.
    pub matches: Vec<PairMatches>,
    /// Views that were encoded now; the features of the others were there or not needed.
    pub encoded: usize,
    /// Pairs that were computed now; the others were there.
    pub computed: usize,
    /// Where the time went.
    pub times: Times,
}

/// Where the time went. The device decodes pairs while the host is at others, so their parts may
/// overlap.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// The network's weights.
    pub load: Duration,
    /// Pictures to tokens.
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

/// Reconstructs many views with a network.
pub struct ManyReconstructor<'a> {
    network: Box<dyn Fn() -> Result<Mast3r> + 'a>,
    /// How.
    pub options: ManyOptions,
}

impl<'a> ManyReconstructor<'a> {
    /// With default options.
    pub fn new(model: &'a Mast3r) -> Self {
        Self::with_network(|| Ok(model.clone()))
    }

    /// With default options, and a network that is made when there is something for it to compute.
    pub fn with_network(network: impl Fn() -> Result<Mast3r> + 'a) -> Self {
        Self {
            network: Box::new(network),
            options: ManyOptions::default(),
        }
    }

    /// Reconstructs views; `progress` is told what is being done, from several threads.
    ///
    /// Results are the same with and without `keep`, and whatever of them it holds already.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) for pairs that the views cannot have;
    /// [`Error::NotFinite`](crate::Error::NotFinite) if the network's output is not finite for any
    /// pair; [`Error::Input`](crate::Error::Input) and [`Error::Io`](crate::Error::Io) for the
    /// folder; errors of the device. That no view could be placed is no error here, see
    /// [`Alignment::cameras_error`].
    pub fn run(
        &self,
        views: &[View],
        keep: Option<Keep<'_>>,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<ManyReconstruction> {
        let mut times = Times::default();
        let network = keep.map(|keep| keep.network);
        let pixels: Vec<Key> = views.iter().map(Key::of_view).collect();
        let keys = pixels
            .iter()
            .map(|pixels| Key::of_features(pixels, network))
            .collect::<Result<_>>()?;
        let mut features = FeatureStore::new(
            self.options.memory,
            keys,
            keep.map(|keep| keep.folder.features()),
        );
        let mut network = Network {
            make: &*self.network,
            made: None,
            encoded: 0,
            progress,
        };

        let (pairs, graph) = match &self.options.pairs {
            PairChoice::List(pairs) => (pairs.clone(), "list".to_string()),
            PairChoice::Graph(graph) => {
                let mut similarity = None;
                if graph.needs_similarity(views.len()) {
                    let all: Vec<usize> = (0..views.len()).collect();
                    network.encode(views, &all, &mut features, &mut times)?;
                    let vectors = all
                        .iter()
                        .map(|&view| features.mean_token(view))
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
            let jobs = self.jobs(&pairs, &pixels, &features, folder)?;
            let missing: Vec<[usize; 2]> = jobs
                .iter()
                .filter(|job| !job.is_stored)
                .map(Job::decoded)
                .collect();
            progress(Progress::Plan(Plan {
                views: views.len(),
                pairs: jobs.len(),
                new_pairs: missing.len(),
                disk_bytes: if folder.is_some() {
                    missing.iter().map(|pair| stored_bytes(views, *pair)).sum()
                } else {
                    0
                },
            }));
            let mut needed: Vec<usize> = missing.as_flattened().to_vec();
            needed.sort_unstable();
            needed.dedup();
            network.encode(views, &needed, &mut features, &mut times)?;
            let model = if missing.is_empty() {
                None
            } else {
                Some(network.model(&mut times)?)
            };

            let started = Instant::now();
            progress(Progress::Begin(ManyStage::Pairs, jobs.len()));
            let (sender, receiver) = sync_channel(AHEAD);
            let matches = Mutex::new(Vec::new());
            let is_damaged = AtomicBool::new(false);
            let evidence = EvidenceSource {
                jobs: &jobs,
                receiver,
                matching: &self.options.matching,
                views,
                folder,
                progress,
                clock: &Mutex::new(Clock::default()),
                is_damaged: &is_damaged,
                computed: &computed,
                matches: self.options.keep_matches.then_some(&matches),
            };
            let clock = evidence.clock;
            let options = &self.options.align;
            let result = thread::scope(|scope| {
                let aligner = scope.spawn(move || align(views, evidence, options));
                // The device is used by this thread alone.
                if let Some(model) = model {
                    times.decode += decode_all(
                        &model,
                        &missing,
                        &mut features,
                        &self.options.matching,
                        sender,
                    );
                }
                aligner
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
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
            folder.write_scene(views, &stored, &graph)?;
        }
        alignment
            .scene
            .leave_out_masked(views.iter().map(|view| view.mask.as_ref()));
        Ok(ManyReconstruction {
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
            let [first, second] = in_order(pair, exchanged);
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

/// What a pair's evidence takes on disk: two maps of each view, of four float32 numbers a pixel.
fn stored_bytes(views: &[View], pair: [usize; 2]) -> u64 {
    let pixels =
        pair.map(|view| u64::from(views[view].rgb.width()) * u64::from(views[view].rgb.height()));
    2 * 16 * (pixels[0] + pixels[1])
}

/// The network, made when it is needed.
struct Network<'a> {
    make: &'a dyn Fn() -> Result<Mast3r>,
    made: Option<Mast3r>,
    /// Views that it encoded.
    encoded: usize,
    progress: &'a (dyn Fn(Progress) + Sync),
}

impl Network<'_> {
    fn model(&mut self, times: &mut Times) -> Result<Mast3r> {
        if let Some(made) = &self.made {
            return Ok(made.clone());
        }
        (self.progress)(Progress::Begin(ManyStage::Load, 1));
        let started = Instant::now();
        let made = (self.make)()?;
        times.load = started.elapsed();
        Ok(self.made.insert(made).clone())
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
        let model = self.model(times)?;
        let started = Instant::now();
        (self.progress)(Progress::Begin(ManyStage::Encode, missing.len()));
        features.encode(views, &missing, model.extractor(), || {
            (self.progress)(Progress::Step)
        })?;
        self.encoded += missing.len();
        times.encode += started.elapsed();
        Ok(())
    }
}
