//! A weight file as bytes: a read-only mapping, which is the only `unsafe` code of the library, or
//! part of the program.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// The bytes of a weight file.
pub(super) enum Mapping {
    /// A file mapped into memory. It must not be shortened or rewritten while it is mapped.
    File(Mmap),
    /// A file that was compiled in.
    #[cfg_attr(not(bundled), allow(dead_code))]
    Bundled(&'static [u8]),
}

impl Mapping {
    /// Maps the file at `path`.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let at = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::NotFound => {
                Error::weights(path, "no such file; give the path of a checkpoint")
            }
            std::io::ErrorKind::PermissionDenied => {
                Error::weights(path, "no permission to read it; change its access rights")
            }
            _ => Error::io(path, source),
        };
        // Asked before opening, because opening a pipe would wait for a writer.
        let metadata = std::fs::metadata(path).map_err(at)?;
        if metadata.is_dir() {
            return Err(Error::weights(
                path,
                "is a folder; give the weight file inside it",
            ));
        }
        if !metadata.is_file() {
            return Err(Error::weights(
                path,
                "is not a regular file, and weights are read in place; copy them to a file",
            ));
        }
        if metadata.len() == 0 {
            return Err(Error::weights(path, "the file is empty; download it again"));
        }
        let file = File::open(path).map_err(at)?;
        // SAFETY: the mapping is read-only and lives as long as its owner. The bytes are only ever
        // copied out as plain numbers after bounds checks, so another process that rewrites the
        // file can spoil the numbers (and one that shortens it can end this process), which
        // `Checkpoint::open` asks its caller not to do.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(&file) }.map_err(at)?;
        Ok(Self::File(map))
    }

    /// The whole file.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::File(map) => map,
            Self::Bundled(bytes) => bytes,
        }
    }

    /// Announces that `range` is read next.
    pub(super) fn prefetch(&self, range: Range<usize>) {
        // Advice: where the system does not take it, reading is slower and nothing else changes.
        #[cfg(unix)]
        if let Self::File(map) = self {
            let _ = map.advise_range(memmap2::Advice::WillNeed, range.start, range.len());
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Gives the memory behind `range` back, so that the file's copy and the tensor's do not add
    /// up. The bytes stay readable: a later access fetches them from the file again.
    pub(super) fn release(&self, range: Range<usize>) {
        #[cfg(any(target_os = "linux", target_os = "macos"))]
        if let Self::File(map) = self {
            // SAFETY: the mapping is a shared, read-only one of a file, for which DontNeed drops
            // page table entries and later accesses read the same bytes from the file; no reference
            // sees a change.
            #[allow(unsafe_code)]
            let _ = unsafe {
                map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    range.start,
                    range.len(),
                )
            };
        }
        #[cfg(not(any(target_os = "linux", target_os = "macos")))]
        let _ = range;
    }
}
