//! Files and folders that appear under their name only when they are complete.
//!
//! Everything is written under a temporary name in the folder of its destination and renamed at the end, so a failure,
//! a full disk or an interrupt (see [`remove_temporaries`](super::remove_temporaries)) leaves the destination as it was.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::{Builder, TempDir, TempPath};

use super::temporaries::{Registration, TEMPORARIES, Temporaries};
use crate::error::{Error, Result};

const PREFIX: &str = ".mast3r-";
const SUFFIX: &str = ".part";
const BUFFER_BYTES: usize = 1 << 18;

/// A file being written; [`commit`](Self::commit) gives it its name, dropping it leaves no trace.
///
/// An existing file is treated as `cp` would: a file that may not be written is an error, a symbolic link is followed,
/// and the permissions stay (also the owner, where the process may set it). Unlike `cp`, the content is exchanged by a
/// rename: its folder must be writable, and other hard links keep the old content. Pipes, devices and `/dev/stdout` are written directly.
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    // The temporary comes before its registration, so that it is gone before it is taken off the list.
    Temporary { file: BufWriter<File>, temporary: TempPath, registration: Registration, destination: PathBuf },
    InPlace(BufWriter<File>),
}

/// A folder of files being written; [`commit`](Self::commit) gives it its name, dropping it leaves no trace.
///
/// A new folder appears complete. In a folder that exists already, every file appears when it is complete.
#[derive(Debug)]
pub struct OutputFolder {
    path: PathBuf,
    kind: FolderKind,
}

#[derive(Debug)]
enum FolderKind {
    New { folder: TempDir, registration: Registration, destination: PathBuf },
    Existing,
}

/// What stands at the destination of a file.
enum Destination {
    New(PathBuf),
    Existing(PathBuf, Metadata),
    InPlace,
}

impl OutputFile {
    /// Opens `path` for writing. Nothing is visible under that name before [`commit`](Self::commit).
    ///
    /// # Errors
    /// [`Error::Usage`] if the folder does not exist or `path` is a folder; [`Error::Io`] if the system refuses.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::create_listed(path, path, &TEMPORARIES)
    }

    /// Opens `path`, which messages call `shown`.
    fn create_listed(path: &Path, shown: &Path, list: &'static Temporaries) -> Result<Self> {
        let io_error = |source| Error::io(shown, source);
        let (destination, replaced) = match destination(path)? {
            Destination::InPlace => {
                let file = OpenOptions::new().write(true).truncate(true).open(path).map_err(io_error)?;
                let sink = Sink::InPlace(BufWriter::with_capacity(BUFFER_BYTES, file));
                return Ok(Self { path: shown.to_path_buf(), sink });
            }
            Destination::New(path) => (path, None),
            Destination::Existing(path, metadata) => {
                // A rename would replace even a file that may not be written.
                OpenOptions::new().write(true).open(&path).map_err(io_error)?;
                (path, Some(metadata))
            }
        };
        let ((file, temporary), registration) = temporary_in(folder_of(&destination), list).map_err(io_error)?;
        if let Some(metadata) = replaced {
            keep_permissions(&file, &metadata).map_err(io_error)?;
        }
        let file = BufWriter::with_capacity(BUFFER_BYTES, file);
        Ok(Self { path: shown.to_path_buf(), sink: Sink::Temporary { file, temporary, registration, destination } })
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
    pub fn write_with(mut self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        write(&mut self).map_err(|source| self.error(source))?;
        self.commit()
    }

    /// Gives the complete file its name.
    ///
    /// # Errors
    /// [`Error::Io`] with the path; the destination is then as it was.
    pub fn commit(self) -> Result<()> {
        let Self { path, sink } = self;
        match sink {
            Sink::InPlace(mut file) => file.flush(),
            Sink::Temporary { mut file, temporary, registration, destination } => file.flush().and_then(|()| {
                drop(file);
                registration.finish(|| temporary.persist(&destination).map_err(|failure| failure.error))
            }),
        }
        .map_err(|source| Error::io(&path, source))
    }
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

impl OutputFolder {
    /// Opens the folder `path`, new or existing, for writing files.
    ///
    /// # Errors
    /// [`Error::Usage`] if its parent does not exist or `path` is no folder; [`Error::Io`] if the system refuses.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        Self::create_listed(path.as_ref(), &TEMPORARIES)
    }

    fn create_listed(path: &Path, list: &'static Temporaries) -> Result<Self> {
        let io_error = |source| Error::io(path, source);
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                temporary_in(path, list).map_err(io_error)?;
                return Ok(Self { path: path.to_path_buf(), kind: FolderKind::Existing });
            }
            Ok(_) => return Err(refuse(path, "it is a file; name a folder")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => check_no_dangling_link(path)?,
            Err(error) => return Err(io_error(error)),
        }
        if path.file_name().is_none() {
            return Err(refuse(path, "it names no folder"));
        }
        check_parent(path, folder_of(path))?;
        let destination = std::path::absolute(path).map_err(io_error)?;
        let parent = folder_of(&destination);
        let (folder, registration) = temporary_folder_in(parent, list).map_err(io_error)?;
        Ok(Self { path: path.to_path_buf(), kind: FolderKind::New { folder, registration, destination } })
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file `name` in this folder for writing.
    ///
    /// # Errors
    /// As [`OutputFile::create`].
    pub fn file(&self, name: &str) -> Result<OutputFile> {
        let shown = self.path.join(name);
        match &self.kind {
            FolderKind::Existing => OutputFile::create(&shown),
            FolderKind::New { folder, registration, .. } => {
                OutputFile::create_listed(&folder.path().join(name), &shown, registration.list())
            }
        }
    }

    /// Gives the complete folder its name.
    ///
    /// # Errors
    /// [`Error::Io`] with the path; a new folder then does not appear.
    pub fn commit(self) -> Result<()> {
        let Self { path, kind } = self;
        let FolderKind::New { folder, registration, destination } = kind else {
            return Ok(());
        };
        let renamed = registration.finish(|| {
            fs::rename(folder.path(), &destination)?;
            // Nothing is left under the temporary name.
            let _renamed = folder.keep();
            Ok(())
        });
        renamed.map_err(|source| Error::io(&path, source))
    }
}

/// Looks at what stands at `path` and follows a symbolic link to a file.
fn destination(path: &Path) -> Result<Destination> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Err(refuse(path, "it is a folder; name a file in it")),
        Ok(metadata) if !metadata.is_file() || is_open_file(path) => Ok(Destination::InPlace),
        Ok(metadata) => {
            let real = fs::canonicalize(path).map_err(|source| Error::io(path, source))?;
            Ok(Destination::Existing(real, metadata))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            check_no_dangling_link(path)?;
            let names_a_folder = path.to_string_lossy().ends_with(std::path::is_separator);
            if path.file_name().is_none() || names_a_folder {
                return Err(refuse(path, "it names no file"));
            }
            check_parent(path, folder_of(path))?;
            std::path::absolute(path).map(Destination::New).map_err(|source| Error::io(path, source))
        }
        // A file used as a folder, `cloud.ply/cloud.ply`, is what the parent's check has words for.
        Err(error) => {
            check_parent(path, folder_of(path))?;
            Err(Error::io(path, error))
        }
    }
}

/// Whether `path` names a file that this process holds open already: its content belongs where the descriptor points.
fn is_open_file(path: &Path) -> bool {
    ["/dev/stdout", "/dev/stderr"].iter().any(|name| path == Path::new(name))
        || ["/dev/fd", "/proc/self/fd"].iter().any(|folder| path.starts_with(folder))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn check_parent(path: &Path, folder: &Path) -> Result<()> {
    match fs::metadata(folder) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(refuse(path, &format!("{} is a file, not a folder", folder.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(refuse(path, &format!("folder {} does not exist; create it first", folder.display())))
        }
        Err(error) => Err(Error::io(path, error)),
    }
}

fn check_no_dangling_link(path: &Path) -> Result<()> {
    match fs::read_link(path) {
        Ok(target) => {
            let target = target.display();
            Err(refuse(path, &format!("it is a symbolic link to {target}, which does not exist; remove the link")))
        }
        Err(_) => Ok(()),
    }
}

fn refuse(path: &Path, reason: &str) -> Error {
    Error::Usage(format!("cannot write {}: {reason}", path.display()))
}

/// A file open for writing, with the permissions of any new file.
fn temporary_in(folder: &Path, list: &'static Temporaries) -> io::Result<((File, TempPath), Registration)> {
    // Absolute, so that a change of the working directory does not hide it from an interrupt.
    let folder = std::path::absolute(folder)?;
    let open = |path: &Path| OpenOptions::new().write(true).create_new(true).open(path);
    let make = || match builder().make_in(&folder, open) {
        Ok(file) => Ok(file.into_parts()),
        Err(error) => Err(not_created_in(&folder, error)),
    };
    list.create(make, |(_, path)| path)
}

/// A folder with the permissions of any new folder.
fn temporary_folder_in(folder: &Path, list: &'static Temporaries) -> io::Result<(TempDir, Registration)> {
    let mut builder = builder();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        // Less the process' umask; a temporary folder is private otherwise.
        builder.permissions(fs::Permissions::from_mode(0o777));
    }
    list.create(|| builder.tempdir_in(folder).map_err(|error| not_created_in(folder, error)), TempDir::path)
}

fn builder() -> Builder<'static, 'static> {
    let mut builder = Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX);
    builder
}

/// Says which folder refused: the bare message would seem to be about the file.
fn not_created_in(folder: &Path, error: io::Error) -> io::Error {
    // Without the temporary name, which is nothing to the user.
    let reason = error.kind();
    io::Error::new(reason, format!("nothing can be created in folder {}: {reason}", folder.display()))
}

#[cfg(unix)]
fn keep_permissions(file: &File, replaced: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (replaced.uid(), replaced.gid()) {
        // Only root may give a file away; for others the new file is their own, as a fresh copy would be.
        let _ = fchown(file, Some(replaced.uid()), Some(replaced.gid()));
    }
    // Without set-user-id and set-group-id, which writing to a file clears too.
    file.set_permissions(fs::Permissions::from_mode(replaced.permissions().mode() & 0o777))
}

#[cfg(not(unix))]
fn keep_permissions(file: &File, replaced: &Metadata) -> io::Result<()> {
    file.set_permissions(replaced.permissions())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names in a folder, hidden ones too.
    fn names_in(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn refusal<T: std::fmt::Debug>(result: Result<T>) -> String {
        match result.unwrap_err() {
            Error::Usage(message) => message,
            other => panic!("{other:?} is not about usage"),
        }
    }

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
        assert!(failure.unwrap_err().to_string().starts_with(&format!("{}: ", path.display())));
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

        fs::create_dir(folder.path().join("plain_folder")).unwrap();
        OutputFolder::create(folder.path().join("new_folder")).unwrap().commit().unwrap();
        assert_eq!(mode(&folder.path().join("new_folder")), mode(&folder.path().join("plain_folder")));
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
        let [real, link, dangling] = ["real/a.txt", "link", "dangling"].map(|name| folder.path().join(name));
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
        assert_eq!(refusal(OutputFolder::create(&dangling)), message);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let inside = |name: &str| folder.path().join(name);
        fs::write(inside("file"), "").unwrap();
        let missing = inside("missing");
        let reason = format!("folder {} does not exist; create it first", missing.display());
        let target = missing.join("cloud.ply");
        let message = format!("cannot write {}: {reason}", target.display());
        assert_eq!(refusal(OutputFile::create(&target)), message);
        assert_eq!(refusal(OutputFolder::create(&target)), message);
        assert_eq!(
            refusal(OutputFile::create(folder.path())),
            format!("cannot write {}: it is a folder; name a file in it", folder.path().display())
        );
        let target = inside("file").join("cloud.ply");
        let message = refusal(OutputFile::create(target));
        assert!(message.ends_with("file is a file, not a folder"), "{message}");
        assert!(refusal(OutputFile::create("")).ends_with(": it names no file"));
        assert!(refusal(OutputFile::create(inside("new/"))).ends_with(": it names no file"));
        assert!(refusal(OutputFolder::create(inside("file"))).ends_with(": it is a file; name a folder"));
        assert!(refusal(OutputFolder::create("")).ends_with(": it names no folder"));
        assert_eq!(names_in(folder.path()), ["file"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_device_is_written_in_place_and_its_full_disk_reported() {
        let file = OutputFile::create("/dev/full").unwrap();
        assert!(file.is_in_place());
        let error = file.write_with(|out| out.write_all(&[0; 100])).unwrap_err();
        assert_eq!(error.to_string(), "/dev/full: No space left on device (os error 28)");
        write_text(Path::new("/dev/null"), "gone").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_is_written_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        if !std::process::Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success()) {
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

    #[test]
    fn a_new_folder_appears_when_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("maps/");
        let output = OutputFolder::create(&path).unwrap();
        let file = output.file("a.txt").unwrap();
        assert_eq!(file.path(), path.join("a.txt"));
        file.write_with(|out| out.write_all(b"a")).unwrap();
        assert!(!path.exists());
        output.commit().unwrap();
        assert_eq!(names_in(folder.path()), ["maps"]);
        assert_eq!(names_in(&path), ["a.txt"]);

        let given_up = OutputFolder::create(folder.path().join("other")).unwrap();
        given_up.file("a.txt").unwrap().write_with(|out| out.write_all(b"a")).unwrap();
        drop(given_up);
        assert_eq!(names_in(folder.path()), ["maps"]);
    }

    #[test]
    fn a_folder_that_exists_is_filled_file_by_file() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.txt"), "old").unwrap();
        let output = OutputFolder::create(folder.path()).unwrap();
        output.file("a.txt").unwrap().write_with(|out| out.write_all(b"new")).unwrap();
        drop(output.file("b.txt").unwrap());
        output.commit().unwrap();
        assert_eq!(names_in(folder.path()), ["a.txt"]);
        assert_eq!(fs::read(folder.path().join("a.txt")).unwrap(), b"new");
    }

    #[test]
    fn an_interrupt_removes_what_is_unfinished_and_nothing_else() {
        let list: &'static Temporaries = Box::leak(Box::new(Temporaries::new()));
        let folder = tempfile::tempdir().unwrap();
        let create = |name: &str| {
            let path = folder.path().join(name);
            OutputFile::create_listed(&path, &path, list)
        };
        create("finished").unwrap().commit().unwrap();
        drop(create("given up").unwrap());
        let mut unfinished = create("unfinished").unwrap();
        unfinished.write_all(b"half").unwrap();
        unfinished.flush().unwrap();
        let maps = OutputFolder::create_listed(&folder.path().join("maps"), list).unwrap();
        let map = maps.file("map").unwrap();
        assert_eq!(names_in(folder.path()).len(), 3);

        list.remove_all();
        assert_eq!(names_in(folder.path()), ["finished"]);
        for late in [unfinished.commit(), map.commit(), maps.commit(), create("late").map(drop)] {
            assert!(late.unwrap_err().to_string().ends_with("the process is being ended"));
        }
        assert_eq!(names_in(folder.path()), ["finished"]);
    }
}
