//! What is to be computed, as a file that workers on any machine read.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::super::PairChoice;
use super::super::key::{Key, NetworkKey, VERSIONS, Versions};
use super::super::work::{WorkFolder, write_file};
use crate::alignment::Pair;
use crate::checksum::hexadecimal;
use crate::error::{Error, Result};
use crate::matching::MatchOptions;
use crate::model::registry::Network;
use crate::network::{ModelChoice, WeightChoice};
use crate::pairs::PairGraph;
use crate::views::{self, Framing, Limits, Source};

/// Name of the file.
pub const PLAN_FILE: &str = "plan.json";
/// Version of the layout.
const VERSION: u32 = 1;
const READ_BYTES: usize = 1 << 20;

/// Images, network, pairs and shards. The same arguments give the same plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobPlan {
    version: u32,
    work: Versions,
    /// The folder that paths start from.
    folder: PathBuf,
    /// So many parts, each for one worker at a time.
    shards: usize,
    network: PlannedNetwork,
    pairs: PlannedPairs,
    matching: MatchOptions,
    images: Vec<PlannedImage>,
}

/// The network, as a worker finds it and as its results are named.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct PlannedNetwork {
    model: Option<String>,
    weights: PlannedWeights,
    /// The size of images; the network's usual one if it is not given.
    resolution: Option<String>,
    /// Whether points are in metres.
    metric: bool,
    key: NetworkKey,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PlannedWeights {
    Published,
    Files(Vec<PathBuf>),
    Random(String),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PlannedPairs {
    /// The name of a rule.
    Graph(String),
    /// Indices of two images each.
    List(Vec<[usize; 2]>),
}

/// An image and its file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedImage {
    /// As it was given; seen from the plan's folder.
    pub path: PathBuf,
    /// The file's size, of a video its own.
    pub bytes: u64,
    /// The file's SHA-256, hexadecimal.
    pub sha256: String,
    /// Width and height that the network sees; `None` for an image that cannot be used.
    pub size: Option<[u32; 2]>,
    /// Why it cannot be used.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
}

/// What a plan is made of.
#[derive(Debug)]
pub struct PlanOptions<'a> {
    /// The network and how it is found; files of weights are those of every worker.
    pub choice: &'a ModelChoice,
    /// How it wants its images.
    pub framing: &'a Framing,
    /// Whether it predicts metres.
    pub metric: bool,
    /// What its results follow from.
    pub key: NetworkKey,
    /// Which pairs.
    pub pairs: &'a PairChoice,
    /// The search for matches.
    pub matching: MatchOptions,
    /// Parts; 1 or more.
    pub shards: usize,
}

impl JobPlan {
    /// Looks at the headers of the images and reads their files for checksums. An image that cannot
    /// be used stays in the plan, with the reason, and takes no part.
    ///
    /// # Errors
    /// [`Error::Usage`] without shards, for paths that are not Unicode, and if fewer than two
    /// images can be used.
    pub fn new(images: &[PathBuf], options: &PlanOptions<'_>) -> Result<Self> {
        if options.shards == 0 {
            return Err(Error::Usage("a plan has one shard or more".into()));
        }
        let folder = std::env::current_dir().map_err(|source| Error::io(".", source))?;
        if let Some(path) = images
            .iter()
            .chain([&folder])
            .find(|path| path.to_str().is_none())
        {
            let reason = "its path is not Unicode; rename it";
            return Err(Error::Usage(format!("{}: {reason}", path.display())));
        }
        let sums = Checksums::of(images);
        let image = |path: &PathBuf| {
            let size = views::framed_size(path, options.framing, &Limits::default())
                .map(|crop| [crop.width, crop.height]);
            let (bytes, sha256) = sums.get(path).cloned().unwrap_or_default();
            PlannedImage {
                path: path.clone(),
                bytes,
                sha256,
                reason: size.as_ref().err().map(Error::to_string),
                size: size.ok(),
            }
        };
        let images: Vec<PlannedImage> = images.par_iter().map(image).collect();
        if images.iter().filter(|image| image.size.is_some()).count() < 2 {
            let reasons = images
                .iter()
                .filter_map(|image| image.reason.clone())
                .take(3);
            let reasons: Vec<String> = reasons.collect();
            return Err(Error::Usage(format!(
                "fewer than two of {} images can be used: {}",
                images.len(),
                reasons.join("; ")
            )));
        }
        Ok(Self {
            version: VERSION,
            work: VERSIONS,
            folder,
            shards: options.shards,
            network: PlannedNetwork {
                model: options
                    .choice
                    .network
                    .map(|network| network.name.to_string()),
                weights: match &options.choice.weights {
                    WeightChoice::Published => PlannedWeights::Published,
                    WeightChoice::Files(paths) => PlannedWeights::Files(paths.clone()),
                    WeightChoice::Random(seed) => PlannedWeights::Random(seed.clone()),
                },
                resolution: options.choice.resolution.map(|size| size.to_string()),
                metric: options.metric,
                key: options.key.clone(),
            },
            pairs: match options.pairs {
                PairChoice::Graph(graph) => PlannedPairs::Graph(graph.to_string()),
                PairChoice::List(pairs) => {
                    PlannedPairs::List(pairs.iter().map(|pair| [pair.first, pair.second]).collect())
                }
            },
            matching: options.matching,
            images,
        })
    }

    /// Writes the plan into a work folder, in place of another one. Whether it replaced another.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, folder: &WorkFolder) -> Result<bool> {
        let path = folder.path().join(PLAN_FILE);
        let text = self.text()?;
        let replaced = match fs::read(&path) {
            Ok(kept) if kept == text => return Ok(false),
            kept => kept.is_ok(),
        };
        write_file(&path, &text)?;
        Ok(replaced)
    }

    /// The plan of a work folder; `None` if it has none.
    ///
    /// # Errors
    /// [`Error::Input`] for a plan of another version or content; [`Error::Io`].
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        #[derive(Deserialize)]
        struct Layout {
            version: u32,
        }
        let path = folder.join(PLAN_FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            // A file in the folder's place has none, and whoever wants the folder says so.
            Err(error)
                if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(Error::unreadable(&path, error)),
        };
        let refuse = |reason: String| {
            let way_out = "run `mast3r plan` again with this program";
            Error::input(&path, format!("{reason}; {way_out}"))
        };
        let damaged = |error: serde_json::Error| refuse(format!("is not a plan: {error}"));
        let Layout { version } = serde_json::from_slice(&text).map_err(damaged)?;
        if version != VERSION {
            return Err(refuse(format!(
                "is of layout {version}, and this program has {VERSION}"
            )));
        }
        let plan: Self = serde_json::from_slice(&text).map_err(damaged)?;
        if plan.work != VERSIONS {
            return Err(refuse("is of another version of work folders".into()));
        }
        if plan.shards == 0 {
            return Err(refuse("has no shards".into()));
        }
        Ok(Some(plan))
    }

    fn text(&self) -> Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::Internal(format!("a plan cannot be stored: {error}")))?;
        text.push(b'\n');
        Ok(text)
    }

    /// What tells it from other plans.
    pub(super) fn id(&self) -> Result<Key> {
        Ok(Key::of_plan(&self.text()?))
    }

    /// The images, in order.
    pub fn images(&self) -> &[PlannedImage] {
        &self.images
    }

    /// How many parts there are.
    pub fn shards(&self) -> usize {
        self.shards
    }

    /// Checks the number of a shard.
    ///
    /// # Errors
    /// [`Error::Usage`] for one that the plan does not have.
    pub fn check_shard(&self, shard: usize) -> Result<()> {
        if shard < self.shards {
            return Ok(());
        }
        Err(Error::Usage(format!(
            "there is no shard {shard}: the plan has {}, counted from 0",
            self.shards
        )))
    }

    /// What the network's results follow from.
    pub fn key(&self) -> &NetworkKey {
        &self.network.key
    }

    /// Whether points are in metres.
    pub fn is_metric(&self) -> bool {
        self.network.metric
    }

    /// The name of the rule for pairs; `list` for a list.
    pub fn pair_rule(&self) -> &str {
        match &self.pairs {
            PlannedPairs::Graph(graph) => graph,
            PlannedPairs::List(_) => "list",
        }
    }

    /// The network, for a worker to open.
    ///
    /// # Errors
    /// [`Error::Usage`] for a network or a size that this program does not know.
    pub fn choice(&self) -> Result<ModelChoice> {
        let PlannedNetwork {
            model,
            weights,
            resolution,
            ..
        } = &self.network;
        Ok(ModelChoice {
            network: model.as_deref().map(Network::find).transpose()?,
            weights: match weights {
                PlannedWeights::Published => WeightChoice::Published,
                PlannedWeights::Files(paths) => {
                    WeightChoice::Files(paths.iter().map(|path| self.folder.join(path)).collect())
                }
                PlannedWeights::Random(seed) => WeightChoice::Random(seed.clone()),
            },
            resolution: resolution.as_deref().map(str::parse).transpose()?,
        })
    }

    pub(super) fn matching(&self) -> MatchOptions {
        self.matching
    }

    /// The rule for pairs, or the pairs of a list whose images `position` knows.
    pub(super) fn pairs(&self, position: impl Fn(usize) -> Option<usize>) -> Result<PairChoice> {
        match &self.pairs {
            PlannedPairs::Graph(graph) => graph
                .parse::<PairGraph>()
                .map(PairChoice::Graph)
                .map_err(Error::Usage),
            PlannedPairs::List(pairs) => {
                let known = pairs.iter().filter_map(|&[first, second]| {
                    Some(Pair {
                        first: position(first)?,
                        second: position(second)?,
                    })
                });
                Ok(PairChoice::List(known.collect()))
            }
        }
    }

    /// Where an image's file is.
    pub(super) fn path(&self, image: &PlannedImage) -> PathBuf {
        self.folder.join(&image.path)
    }

    /// The images of a shard, by their indices.
    pub(super) fn images_of(&self, shard: usize) -> Range<usize> {
        part(self.images.len(), shard, self.shards)
    }
}

/// The part `shard` of `count` things in so many parts of nearly equal size.
pub(super) fn part(count: usize, shard: usize, shards: usize) -> Range<usize> {
    count * shard / shards..count * (shard + 1) / shards
}

/// Sizes and checksums of the files of images.
pub(super) struct Checksums(BTreeMap<PathBuf, (u64, String)>);

impl Checksums {
    /// Of those files that can be read; each once, whatever images are in it.
    pub fn of<P: AsRef<Path> + Sync>(images: &[P]) -> Self {
        let file = |path: &P| Source::of(path.as_ref()).file().to_path_buf();
        let mut files: Vec<PathBuf> = images.iter().map(file).collect();
        files.sort_unstable();
        files.dedup();
        let sum = |path: PathBuf| sha256(&path).ok().map(|sum| (path, sum));
        Self(files.into_par_iter().filter_map(sum).collect())
    }

    /// Of the image's file.
    pub fn get(&self, image: &Path) -> Option<&(u64, String)> {
        self.0.get(Source::of(image).file())
    }
}

fn sha256(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut bytes = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        bytes += count as u64;
        digest.update(&buffer[..count]);
    }
    Ok((bytes, hexadecimal(&digest.finalize())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_everything_once() {
        for (count, shards) in [(0, 1), (1, 4), (10, 3), (12, 4), (7, 7)] {
            let parts: Vec<usize> = (0..shards)
                .flat_map(|shard| part(count, shard, shards))
                .collect();
            assert_eq!(parts, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn checksums_are_those_of_sha256sum() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "abc").unwrap();
        let sums = Checksums::of(&[&path, &path, &folder.path().join("missing")]);
        assert_eq!(sums.0.len(), 1);
        let (bytes, digits) = sums.get(&path).unwrap();
        assert_eq!(*bytes, 3);
        assert_eq!(
            digits,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn refuses_a_plan_that_is_not_one() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(JobPlan::read(folder.path()).unwrap(), None);
        for (text, part) in [
            ("{", "is not a plan"),
            (r#"{"version": 99}"#, "is of layout 99"),
            (r#"{"version": 1}"#, "is not a plan"),
        ] {
            fs::write(folder.path().join(PLAN_FILE), text).unwrap();
            let message = JobPlan::read(folder.path()).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
