//! The encoder's features of many views: as many in memory as may be, the others on disk.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, SafeTensors};

use super::work::{Key, file_name, serialised, write_file};
use crate::checksum::{self, Integrity};
use crate::error::{Error, Result};
use crate::files::TemporaryFolder;
use crate::model::{FeatureExtractor, Features};
use crate::views::View;

/// The tensor of a file of features.
const TOKENS: &str = "tokens";

/// Features by view.
#[derive(Debug)]
pub(super) struct FeatureStore {
    /// Most bytes in memory.
    memory: u64,
    held: u64,
    /// Counts up with every use.
    clock: u64,
    entries: Vec<Entry>,
    keys: Vec<Key>,
    place: Place,
}

#[derive(Debug, Default)]
struct Entry {
    /// With the time of their last use.
    in_memory: Option<(Features, u64)>,
    on_disk: OnDisk,
}

/// Whether a file has the features of a view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum OnDisk {
    #[default]
    Absent,
    /// An earlier run left a file, which nobody has read yet.
    Found,
    Whole,
}

/// Where features on disk are.
#[derive(Debug)]
enum Place {
    /// Kept for later runs.
    Kept(PathBuf),
    /// Made when it is needed and gone afterwards.
    Temporary(Option<TemporaryFolder>),
}

impl FeatureStore {
    /// Features of views by their keys; those that `kept`, a folder, holds need not be encoded.
    pub fn new(memory: u64, keys: Vec<Key>, kept: Option<PathBuf>) -> Self {
        let is_found = |key: &Key| {
            kept.as_ref()
                .is_some_and(|folder| folder.join(file_name(key)).is_file())
        };
        let on_disk = |key: &Key| {
            if is_found(key) {
                OnDisk::Found
            } else {
                OnDisk::Absent
            }
        };
        let entries = keys
            .iter()
            .map(|key| Entry {
                in_memory: None,
                on_disk: on_disk(key),
            })
            .collect();
        let place = kept.map_or(Place::Temporary(None), Place::Kept);
        Self {
            memory,
            held: 0,
            clock: 0,
            entries,
            keys,
            place,
        }
    }

    pub fn key(&self, view: usize) -> &Key {
        &self.keys[view]
    }

    /// Whether the view has been encoded, now or by an earlier run. Says so if an earlier run's
    /// file is damaged.
    pub fn is_known(&mut self, view: usize) -> Result<bool> {
        if self.entries[view].on_disk == OnDisk::Found {
            let path = self.path(view)?;
            self.entries[view].on_disk = match read(&path) {
                Ok(_) => OnDisk::Whole,
                Err(error) => {
                    tracing::warn!(
                        "{}: cannot be used, so the image is encoded anew ({error})",
                        path.display()
                    );
                    OnDisk::Absent
                }
            };
        }
        Ok(self.entries[view].on_disk == OnDisk::Whole || self.entries[view].in_memory.is_some())
    }

    /// Encodes `views` at these indices, which are not known; `done` is told of each.
    pub fn encode(
        &mut self,
        views: &[View],
        indices: &[usize],
        extractor: &FeatureExtractor,
        mut done: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        for batch in indices.chunks(FeatureExtractor::BATCH) {
            let images: Vec<&View> = batch.iter().map(|&view| &views[view]).collect();
            for (&view, features) in batch.iter().zip(extractor.encode(&images, true)?) {
                self.insert(view, features)?;
                done()?;
            }
        }
        Ok(())
    }

    /// The features of a view that is known, as `extractor` made them.
    pub fn get(&mut self, view: usize, extractor: &FeatureExtractor) -> Result<Features> {
        self.clock += 1;
        if let Some((features, used)) = &mut self.entries[view].in_memory {
            *used = self.clock;
            return Ok(features.clone());
        }
        let Features { tokens, grid } = read(&self.path(view)?)?;
        let tokens = tokens
            .to_device(extractor.device())?
            .to_dtype(extractor.token_dtype())?;
        let features = Features { tokens, grid };
        self.hold(view, features.clone())?;
        Ok(features)
    }

    /// The mean token of a view that is known.
    pub fn mean_token(&mut self, view: usize) -> Result<Vec<f32>> {
        let features = match &self.entries[view].in_memory {
            Some((features, _)) => features.clone(),
            None => read(&self.path(view)?)?,
        };
        Ok(features
            .tokens
            .to_dtype(DType::F32)?
            .mean(1)?
            .flatten_all()?
            .to_vec1()?)
    }

    /// Keeps half as much in memory from now on, for a device that has too little of it.
    pub fn halve_memory(&mut self) -> Result<()> {
        self.memory = self.held.min(self.memory) / 2;
        self.let_go()
    }

    fn insert(&mut self, view: usize, features: Features) -> Result<()> {
        if let Place::Kept(_) = self.place {
            self.save(view, &features)?;
        }
        self.hold(view, features)
    }

    /// Keeps features in memory, and lets go of those that were not used for the longest time.
    fn hold(&mut self, view: usize, features: Features) -> Result<()> {
        self.clock += 1;
        self.held += bytes(&features);
        self.entries[view].in_memory = Some((features, self.clock));
        self.let_go()
    }

    fn let_go(&mut self) -> Result<()> {
        while self.held > self.memory {
            let last_use = |entry: &Entry| entry.in_memory.as_ref().map(|(_, used)| *used);
            let oldest = (0..self.entries.len())
                .filter_map(|view| Some((last_use(&self.entries[view])?, view)))
                .min();
            let Some((_, oldest)) = oldest else { break };
            let Some((features, _)) = self.entries[oldest].in_memory.take() else {
                break;
            };
            self.held -= bytes(&features);
            if self.entries[oldest].on_disk == OnDisk::Absent {
                self.save(oldest, &features)?;
            }
        }
        Ok(())
    }

    fn save(&mut self, view: usize, features: &Features) -> Result<()> {
        let path = self.path(view)?;
        let content = content(features)?;
        match self.place {
            Place::Kept(_) => write_file(&path, &content)?,
            // Nobody reads it after a crash.
            Place::Temporary(_) => {
                fs::write(&path, content).map_err(|source| Error::io(&path, source))?
            }
        }
        self.entries[view].on_disk = OnDisk::Whole;
        Ok(())
    }

    fn path(&mut self, view: usize) -> Result<PathBuf> {
        let folder = match &mut self.place {
            Place::Kept(folder) => folder.as_path(),
            Place::Temporary(Some(folder)) => folder.path(),
            Place::Temporary(none) => none.insert(TemporaryFolder::new()?).path(),
        };
        Ok(folder.join(file_name(&self.keys[view])))
    }
}

fn bytes(features: &Features) -> u64 {
    (features.tokens.elem_count() * features.tokens.dtype().size_in_bytes()) as u64
}

/// A file of `tokens` (rows, columns, channels) as float32, which holds every half-precision number
/// exactly.
fn content(features: &Features) -> Result<Vec<u8>> {
    // On the host: the device may be short of memory.
    let features = Features {
        tokens: features.tokens.to_device(&Device::Cpu)?,
        grid: features.grid,
    };
    let map = features.map()?;
    let values: Vec<f32> = map.flatten_all()?.to_vec1()?;
    let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
    serialised(TOKENS, Dtype::F32, map.dims().to_vec(), &bytes)
}

/// Reads tokens back, on the CPU.
fn read(path: &Path) -> Result<Features> {
    let refuse = |reason: String| {
        Error::input(
            path,
            format!("{reason}; delete it, so that it is made anew"),
        )
    };
    let bytes = fs::read(path).map_err(|source| Error::io(path, source))?;
    let file =
        SafeTensors::deserialize(&bytes).map_err(|error| refuse(format!("is damaged: {error}")))?;
    if checksum::integrity(&bytes) != Integrity::Intact {
        return Err(refuse(
            "is damaged: its content does not match its checksum".into(),
        ));
    }
    let tokens = file
        .tensor(TOKENS)
        .map_err(|error| refuse(error.to_string()))?;
    let (&[rows, columns, channels], Dtype::F32) = (tokens.shape(), tokens.dtype()) else {
        return Err(refuse(format!(
            "its tokens are {:?} {:?}",
            tokens.dtype(),
            tokens.shape()
        )));
    };
    let values: Vec<f32> = tokens
        .data()
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    let tokens = Tensor::from_vec(values, (1, rows * columns, channels), &Device::Cpu)?;
    Ok(Features {
        tokens,
        grid: [rows, columns],
    })
}
