//! Reconstructions by many workers, on one machine or many.
//!
//! ```text
//! plan ─▶ plan.json ─▶ encode, each shard ─▶ pairs, each shard ─▶ list ─▶ scene.json ─▶ alignment
//! ```
//!
//! Workers share a [`WorkFolder`] and nothing else. A shard may be run twice, by two workers at a
//! time, and be killed at any time: every file is whole or not there, and whoever comes later uses
//! what is there. Results are those of one [`Reconstructor`](super::Reconstructor) that keeps them
//! in the folder; on a CPU to the bit.
//!
//! | file | content |
//! |---|---|
//! | `plan.json` | the [`JobPlan`] |
//! | `shards/PLAN/encode-I.json` | of each image of shard I the digest of its pixels and its crop, or why it cannot be used |
//! | `shards/PLAN/encode-I.safetensors` | `means`: the images' mean tokens, by which pairs are chosen |
//! | `shards/PLAN/pairs.json` | all pairs, by indices among the images that can be used |
//! | `shards/PLAN/pairs-I.json` | the pairs of shard I that could not be computed, and why |
//!
//! PLAN is a digest of the plan. A shard is done when its `.json` file is there. An image that
//! cannot be used is named there and takes no part: everything else is as if it had not been given.

mod encode;
mod pairs;
mod plan;

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::key::Key;
use super::work::{StoredPair, WorkFolder, image_entry, write_file};
use crate::alignment::Pair;
use crate::error::{Error, Result};
use crate::network::Model;
use crate::views::names::unique_names;
use crate::views::{Crop, Framing};
pub use plan::{JobPlan, PLAN_FILE, PlanOptions, PlannedImage};

const SHARDS: &str = "shards";
/// Shards that a message names before it counts the rest.
const MOST_NAMED: usize = 8;

/// A stage of the work on a shard. Pairs need the encodings of all shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JobStage {
    /// Images to features.
    Encode,
    /// Features to points and matches.
    Pairs,
}

impl JobStage {
    /// Its name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Encode => "encode",
            Self::Pairs => "pairs",
        }
    }
}

/// What became of an image or a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// It was computed now.
    Computed,
    /// It was there.
    Kept,
    /// It cannot be used; everything else goes on without it.
    Failed,
}

/// A finished item, or a finished stage of a shard.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum JobEvent {
    /// An image was encoded.
    Image {
        /// The shard.
        shard: usize,
        /// Its path, as it was given.
        image: String,
        /// What became of it.
        state: JobState,
        /// Why it cannot be used.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A pair was decoded and matched.
    Pair {
        /// The shard.
        shard: usize,
        /// Both images' names in results.
        images: [String; 2],
        /// What became of it.
        state: JobState,
        /// How many matches there are; not known of a pair that was kept.
        #[serde(skip_serializing_if = "Option::is_none")]
        matches: Option<usize>,
        /// Why it cannot be used.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A stage of a shard is done.
    Stage(StageSummary),
}

/// What a stage of a shard came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageSummary {
    /// The shard.
    pub shard: usize,
    /// The stage.
    pub stage: JobStage,
    /// Images or pairs that were computed now.
    pub computed: usize,
    /// Those that were there.
    pub kept: usize,
    /// Those that cannot be used.
    pub failed: usize,
    /// How long it took.
    pub seconds: f64,
}

/// Is told of every event, from several threads.
pub type JobWatch<'a> = &'a (dyn Fn(&JobEvent) + Sync);

/// A work folder with a plan.
pub struct Jobs<'a> {
    folder: WorkFolder,
    plan: JobPlan,
    records: PathBuf,
    framing: Framing,
    network: &'a (dyn Fn() -> Result<Vec<Model>> + Sync),
    /// Most bytes of features in memory.
    pub memory: u64,
}

/// What became of an image.
#[derive(Debug, Serialize, Deserialize)]
struct ImageRecord {
    /// `None` for an image that cannot be used.
    pixels: Option<(Key, Crop)>,
    reason: Option<String>,
}

/// All pairs, by indices among the images that can be used.
#[derive(Debug, Serialize, Deserialize)]
struct PairList {
    graph: String,
    pairs: Vec<[usize; 2]>,
}

/// The pairs of a shard that could not be computed.
#[derive(Debug, Serialize, Deserialize)]
struct PairRecord {
    pairs: usize,
    failed: Vec<FailedPair>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct FailedPair {
    images: [usize; 2],
    reason: String,
}

/// An image that can be used.
#[derive(Clone, Debug)]
struct UsableImage {
    /// In the plan.
    index: usize,
    name: String,
    pixels: Key,
    crop: Crop,
    features: Key,
}

/// The path of an image that cannot be used, as it was given, and why.
pub type Unusable = (PathBuf, String);

/// What [`list`] could not list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Images by their paths, with the reasons.
    pub images: Vec<Unusable>,
    /// Pairs by their images' names, with the reasons.
    pub pairs: Vec<([String; 2], String)>,
}

/// Where the shards of a plan state what they did.
#[derive(Debug)]
struct Records<'a> {
    plan: &'a JobPlan,
    folder: PathBuf,
}

impl<'a> Jobs<'a> {
    /// The plan of `folder`; `framing` is that of its network, and `network` loads it on each
    /// device that takes part, when there is something for it to compute.
    ///
    /// # Errors
    /// [`Error::Usage`] for a folder without a plan; as [`JobPlan::read`]; [`Error::Io`].
    pub fn open(
        folder: WorkFolder,
        plan: JobPlan,
        framing: Framing,
        network: &'a (dyn Fn() -> Result<Vec<Model>> + Sync),
    ) -> Result<Self> {
        let records = Records::of(folder.path(), &plan)?.folder;
        fs::create_dir_all(&records).map_err(|source| Error::io(&records, source))?;
        Ok(Self {
            folder,
            plan,
            records,
            framing,
            network,
            memory: 2 << 30,
        })
    }

    /// Runs a stage of a shard; `watch` is told of every item.
    ///
    /// # Errors
    /// [`Error::Usage`] for a shard that the plan does not have; [`Error::Unfinished`] for pairs
    /// before all images are encoded; [`Error::Io`]; errors of the device.
    pub fn run(&self, stage: JobStage, shard: usize, watch: JobWatch<'_>) -> Result<StageSummary> {
        self.plan.check_shard(shard)?;
        match stage {
            JobStage::Encode => self.encode(shard, watch),
            JobStage::Pairs => self.compute_pairs(shard, watch),
        }
    }

    /// The plan.
    pub fn plan(&self) -> &JobPlan {
        &self.plan
    }

    fn records(&self) -> Records<'_> {
        Records {
            plan: &self.plan,
            folder: self.records.clone(),
        }
    }
}

/// Writes the list of images and pairs of a plan whose shards are all done, for the alignment.
/// What is not in it.
///
/// # Errors
/// [`Error::Unfinished`] with the shards that are missing; [`Error::Input`] for damaged records;
/// [`Error::Io`].
pub fn list(folder: &WorkFolder, plan: &JobPlan) -> Result<LeftOut> {
    let records = Records::of(folder.path(), plan)?;
    let (images, failed_images) = records.images()?;
    let all: PairList = records.read(&records.pair_list())?.ok_or_else(|| {
        let shards: Vec<usize> = (0..plan.shards()).collect();
        unfinished(JobStage::Pairs, &shards, plan)
    })?;
    let shards: Vec<Option<PairRecord>> = (0..plan.shards())
        .map(|shard| records.read(&records.of_shard(JobStage::Pairs, shard)))
        .collect::<Result<_>>()?;
    check_finished(JobStage::Pairs, &shards, plan)?;
    let failed: Vec<FailedPair> = shards
        .into_iter()
        .flatten()
        .flat_map(|record| record.failed)
        .collect();
    let is_missing: BTreeSet<[usize; 2]> = failed.iter().map(|failed| failed.images).collect();
    let stored = all
        .pairs
        .iter()
        .filter(|pair| !is_missing.contains(*pair))
        .map(|pair| stored_pair(*pair, &images, plan))
        .collect::<Result<Vec<_>>>()?;
    let entries = images
        .iter()
        .map(|image| image_entry(image.name.clone(), &image.pixels, image.crop))
        .collect();
    folder.write_list(entries, &stored, &all.graph, plan.is_metric())?;
    let pair = |failed: FailedPair| {
        let names = failed.images.map(|image| images[image].name.clone());
        (names, failed.reason)
    };
    Ok(LeftOut {
        images: failed_images,
        pairs: failed.into_iter().map(pair).collect(),
    })
}

/// A pair of images that can be used, and its file.
fn stored_pair(
    [first, second]: [usize; 2],
    images: &[UsableImage],
    plan: &JobPlan,
) -> Result<StoredPair> {
    let exchanged = images[first].pixels > images[second].pixels;
    let pair = Pair { first, second };
    let [one, other] = super::reconstruct::decoded_order(pair, exchanged);
    let features = [&images[one].features, &images[other].features];
    Ok(StoredPair {
        pair,
        key: Key::of_pair(features, &plan.matching())?,
        exchanged,
    })
}

impl<'a> Records<'a> {
    fn of(folder: &Path, plan: &'a JobPlan) -> Result<Self> {
        let folder = folder.join(SHARDS).join(plan.id()?.as_str());
        Ok(Self { plan, folder })
    }

    fn of_shard(&self, stage: JobStage, shard: usize) -> PathBuf {
        self.folder.join(format!("{}-{shard}.json", stage.name()))
    }

    fn means(&self, shard: usize) -> PathBuf {
        self.folder.join(format!("encode-{shard}.safetensors"))
    }

    fn pair_list(&self) -> PathBuf {
        self.folder.join("pairs.json")
    }

    fn read<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>> {
        match fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| {
                let way_out = "delete it, and run its shard again";
                Error::input(path, format!("is damaged: {error}; {way_out}"))
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(path, error)),
        }
    }

    fn write(&self, path: &Path, record: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_vec(record)
            .map_err(|error| Error::Internal(format!("a record cannot be stored: {error}")))?;
        text.push(b'\n');
        write_file(path, &text)
    }

    /// The images that can be used, in order, and the others with the reasons.
    fn images(&self) -> Result<(Vec<UsableImage>, Vec<Unusable>)> {
        let plan = self.plan;
        let shards: Vec<Option<Vec<ImageRecord>>> = (0..plan.shards())
            .map(|shard| self.read(&self.of_shard(JobStage::Encode, shard)))
            .collect::<Result<_>>()?;
        check_finished(JobStage::Encode, &shards, plan)?;
        let records: Vec<ImageRecord> = shards.into_iter().flatten().flatten().collect();
        if records.len() != plan.images().len() {
            let reason = "the shards' records are not those of the plan; delete them";
            return Err(Error::input(&self.folder, reason));
        }
        let (mut usable, mut failed) = (Vec::new(), Vec::new());
        for (index, record) in records.into_iter().enumerate() {
            match record.pixels {
                Some((pixels, crop)) => usable.push(UsableImage {
                    index,
                    name: String::new(),
                    features: Key::of_features(&pixels, Some(plan.key()))?,
                    pixels,
                    crop,
                }),
                None => failed.push((
                    plan.images()[index].path.clone(),
                    record.reason.unwrap_or_default(),
                )),
            }
        }
        let paths: Vec<&PathBuf> = usable
            .iter()
            .map(|image| &plan.images()[image.index].path)
            .collect();
        let names = unique_names(&paths);
        for (image, name) in usable.iter_mut().zip(names) {
            image.name = name;
        }
        Ok((usable, failed))
    }
}

/// Refuses to go on while shards are missing.
fn check_finished<T>(stage: JobStage, shards: &[Option<T>], plan: &JobPlan) -> Result<()> {
    let missing = |(shard, record): (usize, &Option<T>)| record.is_none().then_some(shard);
    let missing: Vec<usize> = shards.iter().enumerate().filter_map(missing).collect();
    match missing[..] {
        [] => Ok(()),
        _ => Err(unfinished(stage, &missing, plan)),
    }
}

fn unfinished(stage: JobStage, missing: &[usize], plan: &JobPlan) -> Error {
    let named: Vec<String> = missing
        .iter()
        .take(MOST_NAMED)
        .map(usize::to_string)
        .collect();
    let rest = match missing.len().saturating_sub(MOST_NAMED) {
        0 => String::new(),
        rest => format!(" and {rest} more"),
    };
    Error::Unfinished {
        stage: stage.name(),
        missing: missing.len(),
        shards: plan.shards(),
        names: named.join(", ") + &rest,
    }
}
