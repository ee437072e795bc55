//! Every pair's evidence for the alignment: the host's part.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::vec;

use super::decode::{Decoded, Finished};
use crate::alignment::{EvidenceStore, Pair, PairEvidence};
use crate::matching::{MatchOptions, PairMatches};
use crate::pipeline::features::held;
use crate::pipeline::sharing::{Sharing, Stopper};
use crate::pipeline::work::{StoredPair, WorkFolder};
use crate::progress::{Progress, Stage, Watch, tell};
use crate::views::View;
use crate::{Error, Result};

/// A pair and where its evidence comes from.
#[derive(Debug)]
pub(super) struct Job {
    pub stored: StoredPair,
    /// Whether it is there, so that nothing has to be computed.
    pub is_stored: bool,
}

impl Job {
    /// The view that is decoded first, and the other.
    pub fn decoded(&self) -> [usize; 2] {
        decoded_order(self.stored.pair, self.stored.exchanged)
    }
}

pub(in crate::pipeline) fn decoded_order(
    Pair { first, second }: Pair,
    exchanged: bool,
) -> [usize; 2] {
    if exchanged {
        [second, first]
    } else {
        [first, second]
    }
}

/// Times of the host's part; of several devices together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    pub fetch: Duration,
    pub matching: Duration,
    /// When the last pair was asked for.
    pub exhausted: Option<Instant>,
}

/// The host's part of pairs that are decoded: matching, and keeping them. For several threads.
pub(super) struct Finisher<'a> {
    /// Those of the jobs that are computed, in order.
    pub jobs: Vec<&'a StoredPair>,
    pub matching: &'a MatchOptions,
    pub folder: Option<&'a WorkFolder>,
    pub clock: &'a Mutex<Clock>,
    /// Counts the pairs that were computed.
    pub computed: &'a AtomicUsize,
}

impl Finisher<'_> {
    /// The evidence of the pair with this number.
    pub fn finish(&self, number: usize, decoded: Decoded) -> Result<PairEvidence> {
        let StoredPair {
            pair,
            key,
            exchanged,
        } = self.jobs[number];
        self.computed.fetch_add(1, Ordering::Relaxed);
        let started = Instant::now();
        let mut fetched = Duration::ZERO;
        let mut evidence =
            decoded.evidence(*pair, self.matching, || fetched = started.elapsed())?;
        let mut clock = held(self.clock);
        clock.fetch += fetched;
        clock.matching += started.elapsed() - fetched;
        drop(clock);
        if let Some(folder) = self.folder {
            folder.write_pair(key, &evidence)?;
            // As a later run reads it.
            evidence = evidence.rounded();
        }
        Ok(if *exchanged {
            evidence.exchanged(*pair)
        } else {
            evidence
        })
    }
}

/// Every pair's evidence in turn, from the folder or from what was decoded.
pub(super) struct EvidenceSource<'a> {
    pub jobs: vec::IntoIter<&'a Job>,
    pub decoded: &'a Sharing<Finished<PairEvidence>>,
    /// Of the group that was taken last.
    pub rest: vec::IntoIter<Result<PairEvidence>>,
    /// Ends the decoding when nobody asks any more.
    pub _stopper: Stopper<'a, Finished<PairEvidence>>,
    pub views: &'a [View],
    pub folder: Option<&'a WorkFolder>,
    pub watch: Watch<'a>,
    pub clock: &'a Mutex<Clock>,
    /// Set when a stored pair could not be read.
    pub is_damaged: &'a AtomicBool,
    /// Where matches are kept, if they are.
    pub matches: Option<&'a Mutex<Vec<PairMatches>>>,
}

impl Iterator for EvidenceSource<'_> {
    type Item = Result<PairEvidence>;

    fn next(&mut self) -> Option<Self::Item> {
        let Some(job) = self.jobs.next() else {
            let mut clock = held(self.clock);
            if clock.exhausted.is_some() {
                return None;
            }
            clock.exhausted = Some(Instant::now());
            drop(clock);
            return tell(self.watch, Progress::Begin(Stage::Align, 1))
                .err()
                .map(Err);
        };
        let Pair { first, second } = job.stored.pair;
        // What is not finite spoils one pair, not the run.
        let mut evidence = self
            .evidence(job)
            .map_err(|error| error.of_pair([first, second]));
        if let Ok(evidence) = &mut evidence {
            leave_out_masked(evidence, self.views);
            if let Some(kept) = self.matches {
                held(kept).push(PairMatches {
                    views: [first, second],
                    matches: evidence.matches.clone(),
                });
            }
        }
        match tell(self.watch, Progress::Step) {
            Ok(()) => Some(evidence),
            Err(cancelled) => Some(Err(cancelled)),
        }
    }
}

/// Drops the matches of pixels that do not count. What is kept on disk has them all, whatever the
/// masks.
fn leave_out_masked(evidence: &mut PairEvidence, views: &[View]) {
    let [first, second] = [evidence.pair.first, evidence.pair.second].map(|view| &views[view]);
    evidence
        .matches
        .retain(|m| first.counts(m.first.x, m.first.y) && second.counts(m.second.x, m.second.y));
}

/// Every pair's evidence from the folder, in any order, so that an alignment of many views needs no
/// copy of it.
pub(super) struct StoredEvidence<'a> {
    pub jobs: &'a [Job],
    pub pairs: Vec<Pair>,
    /// Pairs without a file, and what is wrong with them alone.
    pub not_finite: HashMap<Pair, Error>,
    pub views: &'a [View],
    pub folder: &'a WorkFolder,
    /// Set when a pair could not be read.
    pub is_damaged: &'a AtomicBool,
}

impl<'a> StoredEvidence<'a> {
    /// After everything that `computed` gives, which is in the folder then.
    pub fn after(
        computed: EvidenceSource<'a>,
        jobs: &'a [Job],
        folder: &'a WorkFolder,
    ) -> Result<Self> {
        let mut stored = Self {
            jobs,
            pairs: jobs.iter().map(|job| job.stored.pair).collect(),
            not_finite: HashMap::new(),
            views: computed.views,
            folder,
            is_damaged: computed.is_damaged,
        };
        for evidence in computed {
            match evidence {
                Err(Error::PairNotFinite { pair, source }) => {
                    let [first, second] = pair;
                    stored.not_finite.insert(Pair { first, second }, *source);
                }
                other => drop(other?),
            }
        }
        Ok(stored)
    }
}

impl EvidenceStore for StoredEvidence<'_> {
    fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    fn read(&self, index: usize) -> Result<PairEvidence> {
        let stored = &self.jobs[index].stored;
        let Pair { first, second } = stored.pair;
        if let Some(Error::NotFinite {
            what,
            count,
            total,
            hint,
        }) = self.not_finite.get(&stored.pair)
        {
            let again = Error::NotFinite {
                what: what.clone(),
                count: *count,
                total: *total,
                hint: hint.clone(),
            };
            return Err(again.of_pair([first, second]));
        }
        let mut evidence = self
            .folder
            .read_pair(stored)
            .inspect_err(|_| self.is_damaged.store(true, Ordering::Relaxed))?;
        leave_out_masked(&mut evidence, self.views);
        Ok(evidence)
    }
}

impl EvidenceSource<'_> {
    fn evidence(&mut self, job: &Job) -> Result<PairEvidence> {
        if let Some(folder) = self.folder.filter(|_| job.is_stored) {
            return folder
                .read_pair(&job.stored)
                .inspect_err(|_| self.is_damaged.store(true, Ordering::Relaxed));
        }
        if self.rest.as_slice().is_empty() {
            self.rest = self.decoded.take().unwrap_or_default().into_iter();
        }
        let Pair { first, second } = job.stored.pair;
        self.rest.next().unwrap_or_else(|| {
            Err(Error::Internal(format!(
                "the views {first} and {second} were not decoded"
            )))
        })
    }
}
