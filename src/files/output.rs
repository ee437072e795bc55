//! Files that appear under their name only when they are complete.
//!
//! Everything is written under a temporary name in the folder of its destination and renamed at the
//! end, so a failure, a full disk or an interrupt (see
//! [`remove_temporaries`](super::remove_temporaries)) leaves the destination as it was.

use std::fs::{File, OpenOptions};
#[cfg(unix)]
use std::io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::TempPath;

use super::destination::{Destination, folder_of, keep_permissions, open_in_place};
use super::temporaries::{Registration, TEMPORARIES, Temporaries};
use crate::error::{Error, Result};

const BUFFER_BYTES: usize = 1 << 18;

/// A file being written; [`commit`](Self::commit) gives it its name, dropping it leaves no trace.
///
/// An existing file is treated as `cp` would: a file that may not be written is an error, a
/// symbolic link is followed, and the permissions stay (also the owner, where the process may set
/// it). Unlike `cp`, the content is exchanged by a rename: its folder must be writable, and other
/// hard links keep the old content. Pipes, devices and `/dev/stdout` are written directly.
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    // The temporary comes before its registration, so that it is gone before it is taken off the
    // list.
    Temporary {
        file: BufWriter<File>,
        temporary: TempPath,
        registration: Registration,
        destination: PathBuf,
    },
    InPlace(BufWriter<File>),
}

impl OutputFile {
    /// Opens `path` for writing. Nothing is visible under that name before
    /// [`commit`](Self::commit).
    ///
    /// # Errors
    /// [`Error::Usage`] if the folder does not exist or `path` is a folder; [`Error::Io`] if the
    /// system refuses.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::create_listed(path, path, &TEMPORARIES)
    }

    /// Opens `path`, which messages call `shown`.
    pub(super) fn create_listed(
        path: &Path,
        shown: &Path,
        list: &'static Temporaries,
    ) -> Result<Self> {
        let io_error = |source| Error::io(shown, source);
        let (destination, replaced) = match Destination::look(path, shown)? {
            Destination::InPlace => {
                let file = open_in_place(path).map_err(io_error)?;
                let sink = Sink::InPlace(BufWriter::with_capacity(BUFFER_BYTES, file));
                return Ok(Self {
                    path: shown.to_path_buf(),
                    sink,
                });
            }
            Destination::New(path) => (path, None),
            Destination::Existing(path, metadata) => {
                // A rename would replace even a file that may not be written.
                OpenOptions::new()
                    .write(true)
                    .open(&path)
                    .map_err(io_error)?;
                (path, Some(metadata))
            }
        };
        let ((file, temporary), registration) =
            list.file_in(folder_of(&destination)).map_err(io_error)?;
        if let Some(metadata) = replaced {
            keep_permissions(&file, &metadata).map_err(io_error)?;
        }
        let file = BufWriter::with_capacity(BUFFER_BYTES, file);
        Ok(Self {
            path: shown.to_path_buf(),
            sink: Sink::Temporary {
                file,
                temporary,
                registration,
                destination,
            },
        })
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is a pipe or a device, which cannot be read back.
    pub fn is_in_place(&self) -> bool {
        matches!(self.sink, Sink::InPlace(_))
    }

    /// An error of the system, with this file's path.
    pub fn error(&self, source: io::Error) -> Error {
        Error::io(&self.path, source)
    }

    /// Writes the whole content by `write` and commits.
    ///
    /// # Errors
    /// [`Error::Io`] with the path; the destination is then as it was.
    pub fn write_with(
        mut self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<()> {
        write(&mut self).map_err(|source| self.error(source))?;
        self.commit()
    }

    /// Gives the complete file its name, when it is on the disk: a power loss leaves the old
    /// content or the new.
    ///
    /// # Errors
    /// [`Error::Io`] with the path; the destination is then as it was, unless it is the folder that
    /// could not be written.
    pub fn commit(self) -> Result<()> {
        let Self { path, sink } = self;
        match sink {
            Sink::InPlace(mut file) => file.flush(),
            Sink::Temporary {
                mut file,
                temporary,
                registration,
                destination,
            } => file
                .flush()
                .and_then(|()| file.get_ref().sync_all())
                .and_then(|()| {
                    drop(file);
                    registration.finish(|| {
                        temporary
                            .persist(&destination)
                            .map_err(|failure| failure.error)
                    })
                })
                .and_then(|()| sync_folder(folder_of(&destination))),
        }
        .map_err(|source| Error::io(&path, source))
    }
}

/// Waits until the names in a folder are on the disk. Systems other than Unix open no folders.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // Some network and FUSE file systems cannot; a folder may be writable and not readable.
        Err(error) if matches!(error.kind(), InvalidInput | Unsupported | PermissionDenied) => {
            Ok(())
        }
        result => result,
    }
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.sink {
            Sink::Temporary { file, .. } => file.write(bytes),
            Sink::InPlace(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Temporary { file, .. } => file.flush(),
            Sink::InPlace(file) => file.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::testing::{names_in, refusal};
    use super::*;

    fn write_text(path: &Path, text: &str) -> Result<()> {
        OutputFile::create(path)?.write_with(|out| out.write_all(text.as_bytes()))
    }

    #[test]
    fn a_file_appears_when_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        let mut file = OutputFile::create(&path).unwrap();
        file.write_all(b"whole").unwrap();
        file.flush().unwrap();
        assert!(!path.exists());
        file.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(names_in(folder.path()), ["a.txt"]);
    }

    #[test]
    fn a_file_given_up_leaves_the_old_one_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        fs::write(&path, "old").unwrap();
        let mut file = OutputFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        let failure = OutputFile::create(&path).unwrap().write_with(|out| {
            out.write_all(b"half")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        });
        assert!(
            failure
                .unwrap_err()
                .to_string()
                .starts_with(&format!("{}: ", path.display()))
        );
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names_in(folder.path()), ["a.txt"]);
    }

    #[cfg(unix)]
    #[test]
    fn permissions_are_those_of_cp() {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let folder = tempfile::tempdir().unwrap();
        let [plain, new, kept] = ["plain", "new", "kept"].map(|name| folder.path().join(name));
        fs::write(&plain, "").unwrap();
        write_text(&new, "x").unwrap();
        assert_eq!(mode(&new), mode(&plain));

        fs::write(&kept, "").unwrap();
        fs::set_permissions(&kept, fs::Permissions::from_mode(0o640)).unwrap();
        write_text(&kept, "x").unwrap();
        assert_eq!(mode(&kept), 0o640);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_may_not_be_written_is_an_error() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
        if OpenOptions::new().write(true).open(&path).is_ok() {
            // Root may write anything, with cp as well.
            return write_text(&path, "new").unwrap();
        }
        assert!(matches!(write_text(&path, "new"), Err(Error::Io { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }

    #[cfg(unix)]
    #[test]
    fn a_symbolic_link_is_followed() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let [real, link, dangling] =
            ["real/a.txt", "link", "dangling"].map(|name| folder.path().join(name));
        fs::create_dir(folder.path().join("real")).unwrap();
        fs::write(&real, "old").unwrap();
        symlink("real/a.txt", &link).unwrap();
        write_text(&link, "new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&real).unwrap(), b"new");

        symlink("nowhere", &dangling).unwrap();
        let reason = "it is a symbolic link to nowhere, which does not exist; remove the link";
        let message = format!("cannot write {}: {reason}", dangling.display());
        assert_eq!(refusal(OutputFile::create(&dangling)), message);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let inside = |name: &str| folder.path().join(name);
        fs::write(inside("file"), "").unwrap();
        let missing = inside("missing");
        let reason = format!(
            "folder {} does not exist; create it first",
            missing.display()
        );
        let target = missing.join("cloud.ply");
        let message = format!("cannot write {}: {reason}", target.display());
        assert_eq!(refusal(OutputFile::create(&target)), message);
        assert_eq!(
            refusal(OutputFile::create(folder.path())),
            format!(
                "cannot write {}: it is a folder; name a file in it",
                folder.path().display()
            )
        );
        let target = inside("file").join("cloud.ply");
        let message = refusal(OutputFile::create(target));
        assert!(
            message.ends_with("file is a file, not a folder"),
            "{message}"
        );
        assert!(refusal(OutputFile::create("")).ends_with(": it names no file"));
        assert!(refusal(OutputFile::create(inside("new/"))).ends_with(": it names no file"));
        assert_eq!(names_in(folder.path()), ["file"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_device_is_written_in_place_and_its_full_disk_reported() {
        let file = OutputFile::create("/dev/full").unwrap();
        assert!(file.is_in_place());
        let error = file.write_with(|out| out.write_all(&[0; 100])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "/dev/full: No space left on device (os error 28)"
        );
        write_text(Path::new("/dev/null"), "gone").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_is_written_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        if !std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .is_ok_and(|status| status.success())
        {
            return;
        }
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        write_text(&pipe, "through").unwrap();
        assert_eq!(reader.join().unwrap(), b"through");
        assert_eq!(names_in(folder.path()), ["pipe"]);
    }
}
