//! The temporary files and folders that are alive in this process, so that an interrupt leaves none
//! behind.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use tempfile::{Builder, TempDir, TempPath};

use crate::error::{Error, Result};

const PREFIX: &str = ".mast3r-";
const SUFFIX: &str = ".part";

/// The one list of the process.
///
/// It is a global because the handler of an interrupt is: it runs on a thread of its own, is handed
/// nothing, and the process then exits without running any destructor that would have removed the
/// files.
pub(super) static TEMPORARIES: Temporaries = Temporaries::new();

/// Removes every unfinished output of this process and lets no further one be started or finished.
///
/// For the handler of an interrupt, right before it ends the process. An output is either finished
/// before this returns, or gone.
pub fn remove_temporaries() {
    TEMPORARIES.remove_all();
}

/// As [`remove_temporaries`], but does nothing where the list is in use: for a thread that may hold
/// it, because it is ending the process from where anything may have been under way, such as a
/// refused allocation.
pub fn try_remove_temporaries() {
    match TEMPORARIES.state.try_lock() {
        Ok(state) => Temporaries::empty(state),
        Err(TryLockError::Poisoned(state)) => Temporaries::empty(state.into_inner()),
        Err(TryLockError::WouldBlock) => {}
    }
}

/// A folder in the system's place for temporary files; it and what is in it is gone when this is
/// dropped, and after an interrupt (see [`remove_temporaries`]).
#[derive(Debug)]
pub struct TemporaryFolder {
    // Before its registration, so that it is gone before it is taken off the list.
    folder: TempDir,
    _registration: Registration,
}

impl TemporaryFolder {
    /// Makes one.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses.
    pub fn new() -> Result<Self> {
        let place = std::env::temp_dir();
        let (folder, registration) = TEMPORARIES
            .folder_in(&place)
            .map_err(|source| Error::io(&place, source))?;
        Ok(Self {
            folder,
            _registration: registration,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// A list of temporary paths, each removed by whoever made it unless the process is interrupted
/// first.
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
        Self {
            state: Mutex::new(State {
                live: BTreeSet::new(),
                closed: false,
            }),
        }
    }

    /// A file in `folder`, open for writing, with the permissions of any new file.
    pub(super) fn file_in(
        &'static self,
        folder: &Path,
    ) -> io::Result<((File, TempPath), Registration)> {
        // Absolute, so that a change of the working directory does not hide it from an interrupt.
        let folder = std::path::absolute(folder)?;
        let open = |path: &Path| OpenOptions::new().write(true).create_new(true).open(path);
        let make = || match builder().make_in(&folder, open) {
            Ok(file) => Ok(file.into_parts()),
            Err(error) => Err(not_created_in(&folder, &error)),
        };
        self.create(make, |(_, path)| path)
    }

    /// A folder in `folder`, with the permissions of any new folder.
    pub(super) fn folder_in(&'static self, folder: &Path) -> io::Result<(TempDir, Registration)> {
        let folder = std::path::absolute(folder)?;
        let mut builder = builder();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            // Less the process' umask; a temporary folder is private otherwise.
            builder.permissions(fs::Permissions::from_mode(0o777));
        }
        let make = || {
            builder
                .tempdir_in(&folder)
                .map_err(|error| not_created_in(&folder, &error))
        };
        self.create(make, TempDir::path)
    }

    /// Makes a temporary and lists it in one step, so that no interrupt falls in between.
    fn create<T>(
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
        Self::empty(self.lock());
    }

    fn empty(mut state: MutexGuard<'_, State>) {
        state.closed = true;
        for path in std::mem::take(&mut state.live) {
            // A file inside a listed folder goes with the folder, and nobody is left to be told of
            // a failure.
            let _ = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
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

    /// Gives the temporary its final name by `rename`; an interrupt comes before that or after it
    /// is off the list.
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

/// Whether `path` is named as unfinished outputs are.
pub(crate) fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(PREFIX) && name.ends_with(SUFFIX)
}

fn builder() -> Builder<'static, 'static> {
    let mut builder = Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX);
    builder
}

/// Says which folder refused: the bare message would seem to be about the file.
fn not_created_in(folder: &Path, error: &io::Error) -> io::Error {
    // Without the temporary name, which is nothing to the user.
    let reason = error.kind();
    io::Error::new(
        reason,
        format!(
            "nothing can be created in folder {}: {reason}",
            folder.display()
        ),
    )
}
