//! The temporary files and folders that are alive in this process, so that an interrupt leaves none behind.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The one list of the process.
///
/// It is a global because the handler of an interrupt is: it runs on a thread of its own, is handed nothing, and the
/// process then exits without running any destructor that would have removed the files.
pub(super) static TEMPORARIES: Temporaries = Temporaries::new();

/// Removes every unfinished output of this process and lets no further one be started or finished.
///
/// For the handler of an interrupt, right before it ends the process. An output is either finished before this
/// returns, or gone.
pub fn remove_temporaries() {
    TEMPORARIES.remove_all();
}

/// A list of temporary paths, each removed by whoever made it unless the process is interrupted first.
#[derive(Debug)]
pub(super) struct Temporaries {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    live: BTreeSet<PathBuf>,
    closed: bool,
}

/// Keeps a path on the list for as long as it lives.
#[derive(Debug)]
pub(super) struct Registration {
    list: &'static Temporaries,
    path: PathBuf,
}

impl Temporaries {
    pub(super) const fn new() -> Self {
        Self { state: Mutex::new(State { live: BTreeSet::new(), closed: false }) }
    }

    /// Makes a temporary and lists it in one step, so that no interrupt falls in between.
    pub(super) fn create<T>(
        &'static self,
        make: impl FnOnce() -> io::Result<T>,
        path_of: impl FnOnce(&T) -> &Path,
    ) -> io::Result<(T, Registration)> {
        let mut state = self.open_state()?;
        let made = make()?;
        let path = path_of(&made).to_path_buf();
        state.live.insert(path.clone());
        Ok((made, Registration { list: self, path }))
    }

    /// Removes what is listed, files and folders, and refuses everything from here on.
    pub(super) fn remove_all(&self) {
        let mut state = self.lock();
        state.closed = true;
        for path in std::mem::take(&mut state.live) {
            // A file inside a listed folder goes with the folder, and nobody is left to be told of a failure.
            let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        }
    }

    fn open_state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.lock();
        if state.closed {
            return Err(io::Error::other("the process is being ended"));
        }
        Ok(state)
    }

    /// The state is valid between any two statements, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registration {
    /// The list it is on.
    pub(super) fn list(&self) -> &'static Temporaries {
        self.list
    }

    /// Gives the temporary its final name by `rename`; an interrupt comes before that or after it is off the list.
    pub(super) fn finish(self, rename: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.list.open_state()?;
        rename()?;
        state.live.remove(&self.path);
        // The destructor asks for the same lock.
        drop(state);
        Ok(())
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.list.lock().live.remove(&self.path);
    }
}
