//! Numbered pieces of work for several workers, whose results are taken in order.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};

use crate::{Error, Result};

/// Pieces of [`in_order`] that a worker may be ahead of whoever takes the results.
const AHEAD: usize = 3;

/// What a thread returned; a panic of its own goes on here.
pub(super) fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A thread of a scope.
///
/// # Errors
/// [`Error::NoThread`]. Threads of the scope that are there already may be waiting for this one.
pub(super) fn spawned<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>> {
    thread::Builder::new()
        .spawn_scoped(scope, work)
        .map_err(|cause| Error::NoThread { cause })
}

/// A queue of numbered pieces. Each worker takes the next one when it is free, so that work of
/// unequal cost is shared out evenly; results are handed over in the order of the numbers.
#[derive(Debug)]
pub(super) struct Sharing<T> {
    pieces: usize,
    most_open: usize,
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    begun: usize,
    taken: usize,
    done: BTreeMap<usize, T>,
    is_stopped: bool,
}

impl<T> Sharing<T> {
    /// So many pieces, of which `most_open`, one at least, may be begun and not taken yet.
    pub fn new(pieces: usize, most_open: usize) -> Self {
        Self {
            pieces,
            most_open: most_open.max(1),
            state: Mutex::new(State {
                begun: 0,
                taken: 0,
                done: BTreeMap::new(),
                is_stopped: false,
            }),
            changed: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State<T>>) -> MutexGuard<'a, State<T>> {
        let waited = self.changed.wait(state);
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    /// The next piece for a worker, once the results of earlier ones have been taken; `None` when
    /// all are begun or nobody takes them any more.
    pub fn begin(&self) -> Option<usize> {
        let mut state = self.state();
        loop {
            if state.is_stopped || state.begun == self.pieces {
                return None;
            }
            if state.begun < state.taken + self.most_open {
                state.begun += 1;
                return Some(state.begun - 1);
            }
            state = self.wait(state);
        }
    }

    /// Hands over a piece's result.
    pub fn finish(&self, piece: usize, result: T) {
        self.state().done.insert(piece, result);
        self.changed.notify_all();
    }

    /// The next result in the order of the pieces; `None` after the last, or once it is stopped.
    pub fn take(&self) -> Option<T> {
        let mut state = self.state();
        loop {
            if state.is_stopped || state.taken == self.pieces {
                return None;
            }
            let next = state.taken;
            if let Some(result) = state.done.remove(&next) {
                state.taken += 1;
                drop(state);
                self.changed.notify_all();
                return Some(result);
            }
            state = self.wait(state);
        }
    }

    /// Ends it: no piece is begun any more, no result taken.
    pub fn stop(&self) {
        self.state().is_stopped = true;
        self.changed.notify_all();
    }

    /// Stops it when dropped: by whoever takes the results, or by a worker that panics.
    pub fn stopper(&self, when: Stop) -> Stopper<'_, T> {
        Stopper {
            sharing: self,
            when,
        }
    }
}

/// When a [`Stopper`] stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    Always,
    /// Nobody would finish the piece, and whoever takes the results would wait for ever.
    OnPanic,
}

/// See [`Sharing::stopper`].
pub(super) struct Stopper<'a, T> {
    sharing: &'a Sharing<T>,
    when: Stop,
}

impl<T> Drop for Stopper<'_, T> {
    fn drop(&mut self) {
        if self.when == Stop::Always || thread::panicking() {
            self.sharing.stop();
        }
    }
}

/// Has `workers` do so many pieces of `work`, and gives `take` their results in order. It ends at
/// the first error, in the order of the pieces, or when `take` says that it wants no more: false.
/// One worker needs no thread.
pub(super) fn in_order<W: Send, T: Send>(
    workers: Vec<W>,
    pieces: usize,
    work: impl Fn(&mut W, usize) -> Result<T> + Sync,
    mut take: impl FnMut(T) -> Result<bool>,
) -> Result<()> {
    let mut workers = workers;
    if let [only] = &mut workers[..] {
        for piece in 0..pieces {
            if !take(work(only, piece)?)? {
                break;
            }
        }
        return Ok(());
    }
    let sharing = Sharing::new(pieces, AHEAD * workers.len());
    thread::scope(|scope| {
        let _stopper = sharing.stopper(Stop::Always);
        for mut worker in workers {
            let (sharing, work) = (&sharing, &work);
            spawned(scope, move || {
                let _stopper = sharing.stopper(Stop::OnPanic);
                while let Some(piece) = sharing.begin() {
                    sharing.finish(piece, work(&mut worker, piece));
                }
            })?;
        }
        for _ in 0..pieces {
            // The scope panics with the worker.
            let stopped = || Error::Internal("a worker ended early".into());
            if !take(sharing.take().ok_or_else(stopped)??)? {
                break;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    /// Later pieces take less time, so that they are done out of order.
    fn square(_: &mut usize, piece: usize) -> Result<usize> {
        thread::sleep(Duration::from_micros(50 * (piece as u64 * 7 % 5)));
        Ok(piece * piece)
    }

    #[test]
    fn results_come_in_order_for_any_number_of_workers() {
        let want: Vec<usize> = (0..40).map(|piece| piece * piece).collect();
        for workers in [1, 2, 3, 8] {
            let mut got = Vec::new();
            let take = |result| {
                got.push(result);
                Ok(true)
            };
            in_order((0..workers).collect(), 40, square, take).unwrap();
            assert_eq!(got, want, "{workers} workers");
        }
    }

    #[test]
    fn workers_wait_for_results_to_be_taken() {
        let begun = AtomicUsize::new(0);
        let work = |_: &mut usize, piece| {
            begun.fetch_add(1, Ordering::SeqCst);
            Ok(piece)
        };
        let mut taken = 0;
        let take = |_| {
            thread::sleep(Duration::from_millis(1));
            taken += 1;
            assert!(begun.load(Ordering::SeqCst) <= taken + 2 * AHEAD);
            Ok(true)
        };
        in_order(vec![0, 1], 30, work, take).unwrap();
        assert_eq!(begun.load(Ordering::SeqCst), 30);
    }

    #[test]
    fn the_first_error_in_order_ends_it() {
        let work = |_: &mut usize, piece: usize| {
            let wait = if piece == 5 { 5 } else { 0 };
            thread::sleep(Duration::from_millis(wait));
            match piece {
                5 | 7 => Err(Error::Usage(format!("piece {piece}"))),
                _ => Ok(piece),
            }
        };
        for workers in [1, 2, 4] {
            let mut got = Vec::new();
            let take = |piece| {
                got.push(piece);
                Ok(true)
            };
            let error = in_order((0..workers).collect(), 20, work, take).unwrap_err();
            assert_eq!(error.to_string(), "piece 5");
            assert_eq!(got, [0, 1, 2, 3, 4]);
        }
    }

    #[test]
    fn nobody_waits_for_a_consumer_that_stops() {
        for workers in [1, 3] {
            let mut left = 4;
            let take = |_| {
                left -= 1;
                Ok(left > 0)
            };
            in_order((0..workers).collect(), 1000, square, take).unwrap();
            assert_eq!(left, 0);
        }
    }

    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn nobody_waits_for_a_worker_that_panics() {
        let work = |_: &mut usize, piece: usize| {
            assert!(piece != 3, "on purpose");
            Ok(piece)
        };
        let _ = in_order(vec![0, 1], 10, work, |_| Ok(true));
    }
}
