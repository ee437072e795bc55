//! Where weights lie on this machine: the Hugging Face hub's own cache, and a folder of ours in it
//! for the rest.
//!
//! ```text
//! HF_HOME/                                    ~/.cache/huggingface, if not set
//!   hub/                                      HF_HUB_CACHE, if set
//!     .locks/models--OWNER--NAME/ETAG.lock
//!     models--OWNER--NAME/
//!       blobs/ETAG                            the file; for large ones the name is its SHA-256
//!       refs/main                             the commit of that revision
//!       snapshots/COMMIT/model.safetensors    a link to the blob
//!   mast3r/                                   files of the authors' server
//!     dune_vitsmall14_336.pth
//!     dune_vitsmall14_336.pth.json            from where, how large, its SHA-256
//! ```

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::environment::{folder_variable, hugging_face_home};
use crate::error::{Error, Result};
use crate::model::checkpoint::Checkpoint;
use crate::model::published::{Source, WeightFile, dune_file};
use crate::model::registry::Network;

/// The branch that is meant where no revision is named.
pub(super) const MAIN: &str = "main";

/// The folders that weights are kept in. Looking into them never asks the network for anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// The cache that every program of the Hugging Face hub shares.
    pub hub: PathBuf,
    /// Files of other servers.
    pub own: PathBuf,
}

impl Cache {
    /// The cache that the environment names: `HF_HOME` or else `huggingface` in `XDG_CACHE_HOME` or
    /// `~/.cache`; the hub's part of it is `HF_HUB_CACHE`, if set.
    ///
    /// # Errors
    /// [`Error::Usage`] if neither a variable nor a home folder says where.
    pub fn from_env() -> Result<Self> {
        let home = hugging_face_home()?;
        let hub =
            folder_variable("HF_HUB_CACHE").or_else(|| folder_variable("HUGGINGFACE_HUB_CACHE"));
        Ok(Self {
            hub: hub.unwrap_or_else(|| home.join("hub")),
            own: home.join("mast3r"),
        })
    }

    /// Weights of `network` that are here and complete: one file, or a DuneMASt3R decoder and its
    /// encoder. Those for images of `long_side` come before others.
    ///
    /// # Errors
    /// [`Error::Weights`] and [`Error::Io`] if what is here cannot be read.
    pub fn find(&self, network: &Network, long_side: Option<u32>) -> Result<Option<Vec<PathBuf>>> {
        let usual = network.weights_at(long_side);
        for file in usual.into_iter().chain(
            network
                .weights
                .iter()
                .copied()
                .filter(|&file| Some(file) != usual),
        ) {
            if let Some(paths) = self.find_file(network, file, None)? {
                return Ok(Some(paths));
            }
        }
        Ok(None)
    }

    /// As [`Self::find`], for one published file and what completes it.
    pub(super) fn find_file(
        &self,
        network: &Network,
        file: &WeightFile,
        revision: Option<&str>,
    ) -> Result<Option<Vec<PathBuf>>> {
        let Some(path) = self.path_of(file, revision) else {
            return Ok(None);
        };
        match self.encoder_of(network, file, &path)? {
            None => Ok(Some(vec![path])),
            Some(encoder) => Ok(self
                .path_of(encoder, None)
                .map(|encoder| vec![path, encoder])),
        }
    }

    /// The file that completes the weights at `path`, which `file` publishes, if they are not
    /// complete.
    pub(super) fn encoder_of(
        &self,
        network: &Network,
        file: &WeightFile,
        path: &Path,
    ) -> Result<Option<&'static WeightFile>> {
        if !network.may_lack_encoder() {
            return Ok(None);
        }
        let Some(name) = Checkpoint::missing_encoder(path)? else {
            return Ok(None);
        };
        let known = if name.is_empty() {
            file.encoder
        } else {
            dune_file(&name)
        };
        known.map(Some).ok_or_else(|| {
            let way_out = "give its file too";
            Error::weights(
                path,
                format!("needs the encoder {name}, which is none of the published ones; {way_out}"),
            )
        })
    }

    /// Where `file` is, if it is here.
    pub(super) fn path_of(&self, file: &WeightFile, revision: Option<&str>) -> Option<PathBuf> {
        match file.source {
            Source::Naver => Some(self.own.join(file.name)).filter(|path| path.is_file()),
            Source::HuggingFace(repository) => {
                self.repository(repository).find(file.name, revision)
            }
        }
    }

    pub(super) fn repository(&self, repository: &str) -> Repository {
        let name = format!("models--{}", repository.replace('/', "--"));
        Repository {
            locks: self.hub.join(".locks").join(&name),
            folder: self.hub.join(name),
        }
    }
}

/// What the cache has of one repository of the hub.
#[derive(Debug)]
pub(super) struct Repository {
    folder: PathBuf,
    locks: PathBuf,
}

impl Repository {
    /// Where `file` of `revision` is; without one, in the main branch's snapshot, or else in the
    /// latest of any other.
    fn find(&self, file: &str, revision: Option<&str>) -> Option<PathBuf> {
        let named = revision.unwrap_or(MAIN);
        let commit = fs::read_to_string(self.reference(named)).ok();
        let path = self
            .snapshot(commit.as_deref().map_or(named, str::trim))
            .join(file);
        if path.is_file() {
            return Some(path);
        }
        if revision.is_some() {
            return None;
        }
        let snapshots = fs::read_dir(self.folder.join("snapshots")).ok()?.flatten();
        let files = snapshots
            .map(|snapshot| snapshot.path().join(file))
            .filter(|path| path.is_file());
        files.max_by_key(|path| {
            path.symlink_metadata()
                .and_then(|link| link.modified())
                .ok()
        })
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    pub(super) fn reference(&self, revision: &str) -> PathBuf {
        self.folder.join("refs").join(revision)
    }

    pub(super) fn lock(&self, etag: &str) -> PathBuf {
        self.locks.join(format!("{etag}.lock"))
    }

    /// Lets `file` of `commit` be the file `blob` among the blobs. Returns its path.
    pub(super) fn link(&self, commit: &str, file: &str, blob: &OsStr) -> Result<PathBuf> {
        let snapshot = self.snapshot(commit);
        create_folder(&snapshot)?;
        let path = snapshot.join(file);
        // Under a name of its own first, because a link cannot replace another.
        let new = snapshot.join(format!(".{file}.{}", std::process::id()));
        let linked = link(
            &self.folder.join("blobs").join(blob),
            &Path::new("../../blobs").join(blob),
            &new,
        );
        linked
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|source| not_written(&path, source))?;
        Ok(path)
    }
}

#[cfg(unix)]
fn link(_blob: &Path, relative: &Path, new: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(relative, new)
}

/// Not every account may make symbolic links elsewhere; a second name of the same file does as
/// well.
#[cfg(not(unix))]
fn link(blob: &Path, _relative: &Path, new: &Path) -> std::io::Result<()> {
    fs::hard_link(blob, new)
}

/// Makes a folder of the cache and those above it.
pub(super) fn create_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|source| not_written(folder, source))
}

/// An [`Error::Io`] with the way out for a cache that cannot be written.
pub(super) fn not_written(path: &Path, source: std::io::Error) -> Error {
    use std::io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let way_out = match source.kind() {
        StorageFull | QuotaExceeded => {
            "make room, or set HF_HOME to a folder on a larger disk; what was received is kept"
        }
        PermissionDenied | ReadOnlyFilesystem => {
            "the cache cannot be written; set HF_HOME to a folder that can be"
        }
        _ => return Error::io(path, source),
    };
    Error::io(
        path,
        std::io::Error::new(source.kind(), format!("{source}; {way_out}")),
    )
}
