//! What stands where an output shall go, and what is kept of it.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Names of the standard output.
const STDOUT: [&str; 3] = ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];
/// Names of the standard error.
const STDERR: [&str; 3] = ["/dev/stderr", "/dev/fd/2", "/proc/self/fd/2"];

/// What stands at the destination of a file.
pub(super) enum Destination {
    /// Nothing, at this absolute path.
    New(PathBuf),
    /// A file, at this path behind all symbolic links.
    Existing(PathBuf, Metadata),
    /// A pipe, a device or a file that the process holds open.
    InPlace,
}

impl Destination {
    /// Looks at what stands at `path`, which messages call `shown`, and follows a symbolic link to
    /// a file.
    pub(super) fn look(path: &Path, shown: &Path) -> Result<Self> {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                Err(refuse(shown, "it is a folder; name a file in it"))
            }
            Ok(metadata) if !metadata.is_file() || is_open_file(path) => Ok(Self::InPlace),
            Ok(metadata) => {
                let real = fs::canonicalize(path).map_err(|source| Error::io(shown, source))?;
                Ok(Self::Existing(real, metadata))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                check_no_dangling_link(path, shown)?;
                let names_a_folder = path.to_string_lossy().ends_with(std::path::is_separator);
                if path.file_name().is_none() || names_a_folder {
                    return Err(refuse(shown, "it names no file"));
                }
                check_parent(path, shown)?;
                std::path::absolute(path)
                    .map(Self::New)
                    .map_err(|source| Error::io(shown, source))
            }
            // A file used as a folder, `cloud.ply/cloud.ply`, is what the parent's check has words
            // for.
            Err(error) => {
                check_parent(path, shown)?;
                Err(Error::io(shown, error))
            }
        }
    }
}

/// Whether `path` names a file that this process holds open already: its content belongs where the
/// descriptor points.
fn is_open_file(path: &Path) -> bool {
    STDOUT
        .iter()
        .chain(&STDERR)
        .any(|name| path == Path::new(name))
        || ["/dev/fd", "/proc/self/fd"]
            .iter()
            .any(|folder| path.starts_with(folder))
}

/// Opens a [`Destination::InPlace`] for writing.
pub(super) fn open_in_place(path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    {
        use std::os::fd::AsFd as _;
        // Opened by name, a redirected file would be written from its start, over what else the
        // process writes there.
        let names = |names: &[&str]| names.iter().any(|name| path == Path::new(name));
        if names(&STDOUT) {
            return io::stdout().as_fd().try_clone_to_owned().map(File::from);
        }
        if names(&STDERR) {
            return io::stderr().as_fd().try_clone_to_owned().map(File::from);
        }
    }
    OpenOptions::new().write(true).truncate(true).open(path)
}

/// The folder that `path` is in.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Refuses a path whose folder does not exist.
pub(super) fn check_parent(path: &Path, shown: &Path) -> Result<()> {
    let folder = folder_of(path);
    match fs::metadata(folder) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(refuse(
            shown,
            &format!("{} is a file, not a folder", folder.display()),
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(refuse(
            shown,
            &format!(
                "folder {} does not exist; create it first",
                folder.display()
            ),
        )),
        Err(error) => Err(Error::io(shown, error)),
    }
}

/// Refuses a link to nowhere, as `cp` does.
pub(super) fn check_no_dangling_link(path: &Path, shown: &Path) -> Result<()> {
    match fs::read_link(path) {
        Ok(target) => {
            let target = target.display();
            Err(refuse(
                shown,
                &format!(
                    "it is a symbolic link to {target}, which does not exist; remove the link"
                ),
            ))
        }
        Err(_) => Ok(()),
    }
}

/// An output that cannot be written, and why.
pub(crate) fn refuse(path: &Path, reason: &str) -> Error {
    Error::Usage(format!("cannot write {}: {reason}", path.display()))
}

/// Gives the new content of a file the permissions of the old, and its owner where the process may.
#[cfg(unix)]
pub(super) fn keep_permissions(file: &File, replaced: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (replaced.uid(), replaced.gid()) {
        // Only root may give a file away; for others the new file is their own, as a fresh copy
        // would be.
        let _ = fchown(file, Some(replaced.uid()), Some(replaced.gid()));
    }
    // Without set-user-id and set-group-id, which writing to a file clears too.
    file.set_permissions(fs::Permissions::from_mode(
        replaced.permissions().mode() & 0o777,
    ))
}

/// Gives the new content of a file the permissions of the old.
#[cfg(not(unix))]
pub(super) fn keep_permissions(file: &File, replaced: &Metadata) -> io::Result<()> {
    file.set_permissions(replaced.permissions())
}
