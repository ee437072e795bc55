//! Sources of pair evidence with random access, and temporary storage of depth maps.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

use super::record;
use crate::alignment::evidence::{NotFinite, sort_out};
use crate::alignment::pair_fit::PairFit;
use crate::alignment::{AlignOptions, Pair, PairEvidence, ViewShape};
use crate::error::{Error, Result};
use crate::matching::PairMatches;

/// Pairs that are fitted at a time at most; their maps are held in memory.
const MOST_PAIRS_AT_ONCE: usize = 8;

/// Pair evidence with random access from several threads.
pub trait EvidenceStore: Sync {
    /// All pairs.
    fn pairs(&self) -> &[Pair];

    /// Reads the evidence of a pair by its index. Pairs in two submaps are read twice.
    ///
    /// # Errors
    /// [`Error::PairNotFinite`](crate::Error::PairNotFinite) leaves the pair out; any other error ends the alignment.
    fn read(&self, index: usize) -> Result<PairEvidence>;
}

/// Fitted pairs with random access.
pub trait FitSource: Sync {
    fn pairs(&self) -> &[Pair];

    fn fit(&self, index: usize, options: &AlignOptions) -> Result<PairFit>;

    /// The matches of a pair that was fitted before.
    fn matches(&self, index: usize) -> Result<PairMatches> {
        Ok(self.fit(index, &AlignOptions::default())?.pair_matches())
    }
}

/// Pairs of a store, fitted on demand.
pub struct Fitted<'a> {
    shapes: &'a [ViewShape],
    store: &'a dyn EvidenceStore,
    has_finite: AtomicBool,
    first_not_finite: Mutex<Option<Error>>,
    /// Of the pairs that were fitted, for a scene.
    matches: Option<Mutex<HashMap<usize, PairMatches>>>,
}

impl<'a> Fitted<'a> {
    pub fn new(shapes: &'a [ViewShape], store: &'a dyn EvidenceStore) -> Self {
        Self {
            shapes,
            store,
            has_finite: AtomicBool::new(false),
            first_not_finite: Mutex::new(None),
            matches: None,
        }
    }

    /// Keeps the matches of the pairs that are fitted, so that a scene needs no further reading.
    #[must_use]
    pub fn keeping_matches(self) -> Self {
        Self {
            matches: Some(Mutex::default()),
            ..self
        }
    }

    /// Why no pair can be used, if those that were fitted are all not finite.
    ///
    /// # Errors
    /// That of the first of them.
    pub fn check_finite(&self) -> Result<()> {
        match held(&self.first_not_finite).take() {
            Some(error) if !self.has_finite.load(Ordering::Relaxed) => Err(error),
            _ => Ok(()),
        }
    }
}

impl FitSource for Fitted<'_> {
    fn pairs(&self) -> &[Pair] {
        self.store.pairs()
    }

    fn fit(&self, index: usize, options: &AlignOptions) -> Result<PairFit> {
        Ok(match sort_out(self.store.read(index), self.shapes)? {
            Ok(evidence) => {
                self.has_finite.store(true, Ordering::Relaxed);
                let fit = PairFit::new(&evidence, options);
                if let Some(matches) = &self.matches {
                    held(matches).insert(index, fit.pair_matches());
                }
                fit
            }
            Err(NotFinite { pair, error }) => {
                held(&self.first_not_finite).get_or_insert(error);
                PairFit::not_finite(pair)
            }
        })
    }

    fn matches(&self, index: usize) -> Result<PairMatches> {
        let kept = self.matches.as_ref();
        match kept.and_then(|kept| held(kept).remove(&index)) {
            Some(matches) => Ok(matches),
            None => Ok(self.fit(index, &AlignOptions::default())?.pair_matches()),
        }
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An anonymous temporary file.
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

    /// Appends, and returns the offset.
    fn add(&self, bytes: &[u8]) -> Result<u64> {
        let mut held = held(&self.file);
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
        let mut held = held(&self.file);
        let file = &mut held.0;
        file.seek(SeekFrom::Start(start))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|error| Error::io(&self.folder, error))?;
        Ok(bytes)
    }
}

/// Fitted pairs in a temporary file, see [`record`].
pub struct Spool {
    pairs: Vec<Pair>,
    /// Offset and length of each record.
    places: Vec<(u64, usize)>,
    scratch: Scratch,
    has_finite: bool,
}

impl Spool {
    /// Fits and stores pairs from a stream.
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

/// Log depths in canonical units and confidences of views, in a temporary file.
pub struct DepthFile(Scratch);

impl DepthFile {
    pub fn new() -> Result<Self> {
        Scratch::new().map(Self)
    }

    /// Stores log depths and confidences, and returns the offset.
    pub fn add(&self, log_depths: &[f32], confidence: &[f32]) -> Result<u64> {
        let values = log_depths.iter().chain(confidence);
        let bytes: Vec<u8> = values.flat_map(|value| value.to_le_bytes()).collect();
        self.0.add(&bytes)
    }

    /// Reads log depths and confidences of a view with `pixels` pixels.
    pub fn read(&self, start: u64, pixels: usize) -> Result<[Vec<f32>; 2]> {
        let bytes = self.0.read(start, 8 * pixels)?;
        let (values, _) = bytes.as_chunks::<4>();
        let mut values: Vec<f32> = values.iter().copied().map(f32::from_le_bytes).collect();
        let confidence = values.split_off(pixels);
        Ok([values, confidence])
    }
}
