//! Where the predictions of pairs are read from, once for each group, and where the depths of views
//! that are solved are kept.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::record;
use crate::alignment::evidence::sort_out;
use crate::alignment::pair_fit::PairFit;
use crate::alignment::{AlignOptions, Pair, PairEvidence, ViewShape};
use crate::error::{Error, Result};

/// Pairs that are fitted at a time at most; their maps are held in memory.
const MOST_PAIRS_AT_ONCE: usize = 8;

/// Predictions of pairs that can be read in any order, more than once, by several threads.
pub trait EvidenceStore: Sync {
    /// The pairs that there are.
    fn pairs(&self) -> &[Pair];

    /// What the network says of one of them, by its index.
    ///
    /// # Errors
    /// [`Error::PairNotFinite`] for one that is to be left out; any other ends the alignment.
    fn read(&self, index: usize) -> Result<PairEvidence>;
}

/// What pairs say alone, in any order.
pub trait FitSource: Sync {
    fn pairs(&self) -> &[Pair];

    fn fit(&self, index: usize, options: &AlignOptions) -> Result<PairFit>;
}

/// Pairs of a store, fitted when they are asked for.
pub struct Fitted<'a> {
    pub shapes: &'a [ViewShape],
    pub store: &'a dyn EvidenceStore,
}

impl FitSource for Fitted<'_> {
    fn pairs(&self) -> &[Pair] {
        self.store.pairs()
    }

    fn fit(&self, index: usize, options: &AlignOptions) -> Result<PairFit> {
        Ok(match sort_out(self.store.read(index), self.shapes)? {
            Ok(evidence) => PairFit::new(&evidence, options),
            Err(not_finite) => PairFit::not_finite(not_finite.pair),
        })
    }
}

/// A file without a name, which is gone when nobody uses it any more.
struct Scratch {
    file: Mutex<(File, u64)>,
    folder: PathBuf,
}

impl Scratch {
    fn new() -> Result<Self> {
        let folder = std::env::temp_dir();
        let file = tempfile::tempfile().map_err(|error| Error::io(&folder, error))?;
        Ok(Self {
            file: Mutex::new((file, 0)),
            folder,
        })
    }

    /// Writes at the end, and returns where that was.
    fn add(&self, bytes: &[u8]) -> Result<u64> {
        let mut held = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, end) = &mut *held;
        let start = *end;
        file.seek(SeekFrom::Start(start))
            .and_then(|_| file.write_all(bytes))
            .map_err(|error| Error::io(&self.folder, error))?;
        *end += bytes.len() as u64;
        Ok(start)
    }

    fn read(&self, start: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let mut held = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let file = &mut held.0;
        file.seek(SeekFrom::Start(start))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|error| Error::io(&self.folder, error))?;
        Ok(bytes)
    }
}

/// What pairs say alone, in a temporary file, see [`record`].
pub struct Spool {
    pairs: Vec<Pair>,
    /// Where each begins, and its length.
    places: Vec<(u64, usize)>,
    scratch: Scratch,
    has_finite: bool,
}

impl Spool {
    /// Takes in pairs, item by item: `fit` fits one, in parallel with others.
    pub fn of<T: Send>(
        shapes: &[ViewShape],
        mut items: impl Iterator<Item = Result<T>>,
        fit: impl Fn(T) -> Result<PairFit> + Sync,
    ) -> Result<Self> {
        let mut spool = Self {
            pairs: Vec::new(),
            places: Vec::new(),
            scratch: Scratch::new()?,
            has_finite: false,
        };
        loop {
            let batch = items
                .by_ref()
                .take(rayon::current_num_threads().min(MOST_PAIRS_AT_ONCE))
                .collect::<Result<Vec<T>>>()?;
            if batch.is_empty() {
                return Ok(spool);
            }
            let encode = |item: T| {
                let fit = fit(item)?;
                fit.pair.check(shapes.len())?;
                Ok((fit.pair, fit.is_finite, record::encode(&fit)))
            };
            let encoded = batch
                .into_par_iter()
                .map(encode)
                .collect::<Result<Vec<_>>>()?;
            for (pair, is_finite, bytes) in encoded {
                spool.has_finite |= is_finite;
                spool.pairs.push(pair);
                spool.places.push((spool.scratch.add(&bytes)?, bytes.len()));
            }
        }
    }

    pub fn none_is_finite(&self) -> bool {
        !self.has_finite
    }
}

impl FitSource for Spool {
    fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    fn fit(&self, index: usize, _: &AlignOptions) -> Result<PairFit> {
        let (start, length) = self.places[index];
        let damaged = || Error::Internal("a temporary file does not hold what was written".into());
        record::decode(&self.scratch.read(start, length)?).ok_or_else(damaged)
    }
}

/// Depths of views in their canonical units, with confidences, in a temporary file.
pub struct DepthFile(Scratch);

impl DepthFile {
    pub fn new() -> Result<Self> {
        Scratch::new().map(Self)
    }

    /// Keeps logarithms of depths and confidences, and returns where.
    pub fn add(&self, log_depths: &[f32], confidence: &[f32]) -> Result<u64> {
        let values = log_depths.iter().chain(confidence);
        let bytes: Vec<u8> = values.flat_map(|value| value.to_le_bytes()).collect();
        self.0.add(&bytes)
    }

    /// What was kept of a view of so many pixels.
    pub fn read(&self, start: u64, pixels: usize) -> Result<[Vec<f32>; 2]> {
        let bytes = self.0.read(start, 8 * pixels)?;
        let (values, _) = bytes.as_chunks::<4>();
        let mut values: Vec<f32> = values.iter().copied().map(f32::from_le_bytes).collect();
        let confidence = values.split_off(pixels);
        Ok([values, confidence])
    }
}
