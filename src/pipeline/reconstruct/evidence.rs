//! Every pair's evidence for the alignment: the host's part.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::decode::Decoded;
use crate::alignment::{Pair, PairEvidence};
use crate::matching::{MatchOptions, PairMatches};
use crate::pipeline::progress::{Progress, Stage, Watch, tell};
use crate::pipeline::work::{StoredPair, WorkFolder};
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
        in_order(self.stored.pair, self.stored.exchanged)
    }
}

pub(super) fn in_order(Pair { first, second }: Pair, exchanged: bool) -> [usize; 2] {
    if exchanged {
        [second, first]
    } else {
        [first, second]
    }
}

/// Times that are taken where the pairs are consumed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    pub fetch: Duration,
    pub matching: Duration,
    /// When the last pair was asked for.
    pub exhausted: Option<Instant>,
}

/// Every pair's evidence in turn, from the folder or from what was decoded.
pub(super) struct EvidenceSource<'a> {
    pub jobs: &'a [Job],
    pub receiver: Receiver<Result<Decoded>>,
    pub matching: &'a MatchOptions,
    pub views: &'a [View],
    pub folder: Option<&'a WorkFolder>,
    pub watch: Watch<'a>,
    pub clock: &'a Mutex<Clock>,
    /// Set when a stored pair could not be read.
    pub is_damaged: &'a AtomicBool,
    /// Counts the pairs that were computed.
    pub computed: &'a AtomicUsize,
    /// Where matches are kept, if they are.
    pub matches: Option<&'a Mutex<Vec<PairMatches>>>,
}

impl Iterator for EvidenceSource<'_> {
    type Item = Result<PairEvidence>;

    fn next(&mut self) -> Option<Self::Item> {
        let Some((job, rest)) = self.jobs.split_first() else {
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
        self.jobs = rest;
        let Pair { first, second } = job.stored.pair;
        // What is not finite spoils one pair, not the run.
        let mut evidence = self
            .evidence(job)
            .map_err(|error| error.of_pair([first, second]));
        if let Ok(evidence) = &mut evidence {
            self.leave_out_masked(evidence);
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

impl EvidenceSource<'_> {
    /// Drops the matches of pixels that do not count. What is kept on disk has them all, whatever
    /// the masks.
    fn leave_out_masked(&self, evidence: &mut PairEvidence) {
        let [first, second] =
            [evidence.pair.first, evidence.pair.second].map(|view| &self.views[view]);
        evidence.matches.retain(|m| {
            first.counts(m.first.x, m.first.y) && second.counts(m.second.x, m.second.y)
        });
    }

    fn evidence(&self, job: &Job) -> Result<PairEvidence> {
        let StoredPair {
            pair,
            key,
            exchanged,
        } = &job.stored;
        if let Some(folder) = self.folder.filter(|_| job.is_stored) {
            return folder
                .read_pair(&job.stored)
                .inspect_err(|_| self.is_damaged.store(true, Ordering::Relaxed));
        }
        let decoded = self.receiver.recv().unwrap_or_else(|_| {
            Err(Error::Internal(format!(
                "the views {} and {} were not decoded",
                pair.first, pair.second
            )))
        })?;
        self.computed.fetch_add(1, Ordering::Relaxed);
        let started = Instant::now();
        let mut fetched = Duration::ZERO;
        let evidence = decoded.evidence(*pair, self.matching, || fetched = started.elapsed())?;
        let mut clock = held(self.clock);
        clock.fetch += fetched;
        clock.matching += started.elapsed() - fetched;
        drop(clock);
        if let Some(folder) = self.folder {
            folder.write_pair(key, &evidence)?;
        }
        Ok(if *exchanged {
            evidence.exchanged(*pair)
        } else {
            evidence
        })
    }
}

/// What a mutex holds, whether or not its last holder panicked.
pub(super) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
