//! The encoder's features of many views: as many in memory as may be, the others on disk.

use std::borrow::Borrow;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;

use super::key::Key;
use super::sharing::in_order;
use super::work::{MADE_ANEW, file_name, serialised, tensor_of, write_file};
use crate::error::{Error, Result};
use crate::files::TemporaryFolder;
use crate::model::{FeatureExtractor, Features};
use crate::views::View;

/// The tensor of a file of features.
const TOKENS: &str = "tokens";

/// Features by view.
#[derive(Debug)]
pub(super) struct FeatureStore {
    /// On the device that made them; on the host where several devices read them.
    recent: Recent,
    on_host: bool,
    on_disk: Vec<OnDisk>,
    keys: Vec<Key>,
    place: Place,
}

/// Features in memory: those that were used last.
#[derive(Debug)]
struct Recent {
    /// Most bytes.
    memory: u64,
    held: u64,
    /// Counts up with every use.
    clock: u64,
    /// By view, with the time of their last use.
    entries: Vec<Option<(Features, u64)>>,
}

/// The features of views as one device reads them.
#[derive(Debug)]
pub(super) struct DeviceFeatures<'a> {
    store: &'a Mutex<FeatureStore>,
    /// The device's own, where several read the store.
    copies: Option<Recent>,
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

impl Recent {
    fn new(views: usize, memory: u64) -> Self {
        Self {
            memory,
            held: 0,
            clock: 0,
            entries: vec![None; views],
        }
    }

    fn get(&mut self, view: usize) -> Option<Features> {
        self.clock += 1;
        let (features, used) = self.entries[view].as_mut()?;
        *used = self.clock;
        Some(features.clone())
    }

    fn insert(&mut self, view: usize, features: Features) {
        self.clock += 1;
        self.held += bytes(&features);
        self.entries[view] = Some((features, self.clock));
    }

    /// Takes out what was not used for the longest time, while there is too much.
    fn excess(&mut self) -> Option<(usize, Features)> {
        if self.held <= self.memory {
            return None;
        }
        let last_use = |view: &usize| self.entries[*view].as_ref().map(|(_, used)| *used);
        let known = (0..self.entries.len()).filter(|view| self.entries[*view].is_some());
        let oldest = known.min_by_key(last_use)?;
        let (features, _) = self.entries[oldest].take()?;
        self.held -= bytes(&features);
        Some((oldest, features))
    }

    fn halve(&mut self) {
        self.memory = self.held.min(self.memory) / 2;
    }
}

impl FeatureStore {
    /// Features of views by their keys; those that `kept`, a folder, holds
    /// need not be encoded.
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
        Self {
            recent: Recent::new(keys.len(), memory),
            on_host: false,
            on_disk: keys.iter().map(on_disk).collect(),
            place: kept.map_or(Place::Temporary(None), Place::Kept),
            keys,
        }
    }

    pub fn key(&self, view: usize) -> &Key {
        &self.keys[view]
    }

    /// Whether the view has been encoded, now or by an earlier run. Says so if an earlier run's
    /// file is damaged.
    pub fn is_known(&mut self, view: usize) -> Result<bool> {
        if self.on_disk[view] == OnDisk::Found {
            let path = self.path(view)?;
            self.on_disk[view] = match read(&path) {
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
        Ok(self.on_disk[view] == OnDisk::Whole || self.recent.entries[view].is_some())
    }

    /// Encodes the views of these indices, which are not known, with the same network on one device
    /// or several; `load` brings each, `done` is told of each.
    pub fn encode<V: Borrow<View>>(
        &mut self,
        load: impl Fn(usize) -> Result<V> + Sync,
        indices: &[usize],
        extractors: &[&FeatureExtractor],
        mut done: impl FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        self.on_host = extractors.len() > 1;
        let on_host = self.on_host;
        let batches: Vec<&[usize]> = indices.chunks(FeatureExtractor::BATCH).collect();
        let encode = |extractor: &mut &FeatureExtractor, batch: usize| {
            let images = batches[batch].iter().map(|&view| load(view));
            let images: Vec<V> = images.collect::<Result<_>>()?;
            if !on_host {
                return Ok((batch, extractor.encode(&images, true)?));
            }
            let encoded = extractor.encode(&images, true);
            let features = encoded.and_then(|features| features.iter().map(to_host).collect());
            let features = features.map_err(|error| error.on_device(|| extractor.device_name()))?;
            Ok((batch, features))
        };
        in_order(
            extractors.to_vec(),
            batches.len(),
            encode,
            |(batch, features)| {
                for (&view, features) in batches[batch].iter().zip(features) {
                    self.insert(view, features)?;
                    done(view)?;
                }
                Ok(true)
            },
        )
    }

    /// The features of a view that is known, as `extractor` made them, where they are held.
    fn get(&mut self, view: usize, extractor: &FeatureExtractor) -> Result<Features> {
        if let Some(features) = self.recent.get(view) {
            return Ok(features);
        }
        let mut features = read(&self.path(view)?)?;
        if !self.on_host {
            features = on_device(&features, extractor)?;
        }
        self.recent.insert(view, features.clone());
        self.let_go()?;
        Ok(features)
    }

    /// The mean token of a view that is known. Computed on the host, so that it is the same
    /// wherever the features are.
    pub fn mean_token(&mut self, view: usize) -> Result<Vec<f32>> {
        let features = match &self.recent.entries[view] {
            Some((features, _)) => features.clone(),
            None => read(&self.path(view)?)?,
        };
        Ok(to_host(&features)?
            .tokens
            .to_dtype(DType::F32)?
            .mean(1)?
            .flatten_all()?
            .to_vec1()?)
    }

    fn insert(&mut self, view: usize, features: Features) -> Result<()> {
        if let Place::Kept(_) = self.place {
            self.save(view, &features)?;
        }
        self.recent.insert(view, features);
        self.let_go()
    }

    fn let_go(&mut self) -> Result<()> {
        while let Some((oldest, features)) = self.recent.excess() {
            if self.on_disk[oldest] == OnDisk::Absent {
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
        self.on_disk[view] = OnDisk::Whole;
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

impl<'a> DeviceFeatures<'a> {
    /// For one device of `devices` that read the store.
    pub fn new(store: &'a Mutex<FeatureStore>, devices: usize) -> Self {
        let copies = (devices > 1).then(|| {
            let mut store = held(store);
            store.on_host = true;
            Recent::new(store.keys.len(), store.recent.memory)
        });
        Self { store, copies }
    }

    /// The features of a view that is known, on the device where `extractor` made them or might
    /// have.
    pub fn get(&mut self, view: usize, extractor: &FeatureExtractor) -> Result<Features> {
        let Some(copies) = &mut self.copies else {
            return held(self.store).get(view, extractor);
        };
        if let Some(features) = copies.get(view) {
            return Ok(features);
        }
        let features = held(self.store).get(view, extractor)?;
        let features = on_device(&features, extractor)?;
        copies.insert(view, features.clone());
        while copies.excess().is_some() {}
        Ok(features)
    }

    /// Keeps half as much on the device from now on, which has too little memory.
    pub fn halve_memory(&mut self) -> Result<()> {
        match &mut self.copies {
            Some(copies) => {
                copies.halve();
                while copies.excess().is_some() {}
                Ok(())
            }
            None => {
                let mut store = held(self.store);
                store.recent.halve();
                store.let_go()
            }
        }
    }
}

/// What a mutex holds, whether or not its last holder panicked.
pub(super) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Features as a device reads them.
fn on_device(features: &Features, extractor: &FeatureExtractor) -> Result<Features> {
    let tokens = features.tokens.to_device(extractor.device())?;
    Ok(Features {
        tokens: tokens.to_dtype(extractor.token_dtype())?,
        grid: features.grid,
    })
}

fn to_host(features: &Features) -> Result<Features> {
    Ok(Features {
        tokens: features.tokens.to_device(&Device::Cpu)?,
        grid: features.grid,
    })
}

fn bytes(features: &Features) -> u64 {
    (features.tokens.elem_count() * features.tokens.dtype().size_in_bytes()) as u64
}

/// A file of `tokens` (rows, columns, channels) as float32, which holds every half-precision number
/// exactly.
fn content(features: &Features) -> Result<Vec<u8>> {
    // On the host: the device may be short of memory.
    let map = to_host(features)?.map()?;
    let values: Vec<f32> = map.flatten_all()?.to_vec1()?;
    let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
    serialised(TOKENS, Dtype::F32, map.dims().to_vec(), &bytes)
}

/// Reads tokens back, on the CPU.
fn read(path: &Path) -> Result<Features> {
    let bytes = fs::read(path).map_err(|source| Error::io(path, source))?;
    let (grid, channels, values) = tensor_of((path, &bytes), TOKENS, MADE_ANEW, |tokens| {
        let (&[rows, columns, channels], Dtype::F32) = (tokens.shape(), tokens.dtype()) else {
            let (dtype, shape) = (tokens.dtype(), tokens.shape());
            return Err(format!("its tokens are {dtype:?} {shape:?}"));
        };
        Ok(([rows, columns], channels, float32(tokens.data())))
    })?;
    let [rows, columns] = grid;
    let tokens = Tensor::from_vec(values, (1, rows * columns, channels), &Device::Cpu)?;
    Ok(Features { tokens, grid })
}

/// Numbers as they lie in a file.
pub(super) fn float32(bytes: &[u8]) -> Vec<f32> {
    let numbers = bytes.as_chunks::<4>().0;
    numbers
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}
