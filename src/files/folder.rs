//! Folders that appear under their name only when they are complete.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::destination::{check_no_dangling_link, check_parent, folder_of, refuse};
use super::output::OutputFile;
use super::temporaries::{Registration, TEMPORARIES, Temporaries};
use crate::error::{Error, Result};

/// Why a file of someone else's is not replaced.
pub(crate) const OCCUPIED: &str =
    "another file of that name is there; remove it or name another folder";

/// A folder of files being written; [`commit`](Self::commit) gives it its name, dropping it leaves
/// no trace.
///
/// A new folder appears complete. In a folder that exists already, every file appears when it is
/// complete.
#[derive(Debug)]
pub struct OutputFolder {
    path: PathBuf,
    kind: FolderKind,
}

#[derive(Debug)]
enum FolderKind {
    New {
        folder: TempDir,
        registration: Registration,
        destination: PathBuf,
    },
    // In a new folder, whose name it appears with.
    Inside {
        folder: PathBuf,
        list: &'static Temporaries,
    },
    Existing,
}

/// How a file of someone else's gets into an output folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placing {
    /// As a symbolic link to its absolute path; where there are none, as a hard link; where that
    /// fails too, as a copy.
    #[default]
    Link,
    /// As a copy.
    Copy,
}

impl OutputFolder {
    /// Opens the folder `path`, new or existing, for writing files.
    ///
    /// # Errors
    /// [`Error::Usage`] if its parent does not exist or `path` is not a folder; [`Error::Io`] if the
    /// system refuses.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        Self::create_listed(path.as_ref(), &TEMPORARIES)
    }

    fn create_listed(path: &Path, list: &'static Temporaries) -> Result<Self> {
        let io_error = |source| Error::io(path, source);
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                list.file_in(path).map_err(io_error)?;
                return Ok(Self {
                    path: path.to_path_buf(),
                    kind: FolderKind::Existing,
                });
            }
            Ok(_) => return Err(refuse(path, "it is a file; name a folder")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                check_no_dangling_link(path, path)?
            }
            Err(error) => return Err(io_error(error)),
        }
        if path.file_name().is_none() {
            return Err(refuse(path, "it names no folder"));
        }
        check_parent(path, path)?;
        let destination = std::path::absolute(path).map_err(io_error)?;
        let (folder, registration) = list.folder_in(folder_of(&destination)).map_err(io_error)?;
        Ok(Self {
            path: path.to_path_buf(),
            kind: FolderKind::New {
                folder,
                registration,
                destination,
            },
        })
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file `name` in this folder for writing; folders that are part of the name are
    /// made.
    ///
    /// # Errors
    /// As [`OutputFile::create`].
    pub fn file(&self, name: &str) -> Result<OutputFile> {
        let shown = self.path.join(name);
        let place = self.place_of(name)?;
        match &self.kind {
            FolderKind::Existing => OutputFile::create(&shown),
            FolderKind::New { registration, .. } => {
                OutputFile::create_listed(&place, &shown, registration.list())
            }
            FolderKind::Inside { list, .. } => OutputFile::create_listed(&place, &shown, list),
        }
    }

    /// Where the file `name` is written, in a folder that exists.
    fn place_of(&self, name: &str) -> Result<PathBuf> {
        let folder = match &self.kind {
            FolderKind::Existing => &self.path,
            FolderKind::New { folder, .. } => folder.path(),
            FolderKind::Inside { folder, .. } => folder,
        };
        let place = folder.join(name);
        if let Some(parent) = place.parent().filter(|parent| *parent != folder) {
            fs::create_dir_all(parent).map_err(|source| Error::io(self.path.join(name), source))?;
        }
        Ok(place)
    }

    /// Opens the folder `name` in this folder for writing, new or existing. It is committed before
    /// this one.
    ///
    /// # Errors
    /// As [`OutputFolder::create`].
    pub fn folder(&self, name: &str) -> Result<Self> {
        let shown = self.path.join(name);
        let (folder, list) = match &self.kind {
            FolderKind::Existing => return Self::create(shown),
            FolderKind::New {
                folder,
                registration,
                ..
            } => (folder.path().join(name), registration.list()),
            FolderKind::Inside { folder, list } => (folder.join(name), *list),
        };
        fs::create_dir(&folder).map_err(|source| Error::io(&shown, source))?;
        Ok(Self {
            path: shown,
            kind: FolderKind::Inside { folder, list },
        })
    }

    /// Puts the file `source` into this folder as `name`. Nothing is done where it is there
    /// already, itself or by a link.
    ///
    /// # Errors
    /// [`Error::Usage`] if another file of that name is there; [`Error::Io`] if the system refuses.
    pub fn place(&self, name: &str, source: &Path, placing: Placing) -> Result<()> {
        let source = fs::canonicalize(source).map_err(|error| Error::io(source, error))?;
        let shown = self.path.join(name);
        if self.holds_other_than(name, Some(&source))? {
            return Err(refuse(&shown, OCCUPIED));
        }
        let place = self.place_of(name)?;
        if place.exists() {
            return Ok(());
        }
        if placing == Placing::Link
            && (symbolic_link(&source, &place).or_else(|_| fs::hard_link(&source, &place))).is_ok()
        {
            return Ok(());
        }
        let mut file = fs::File::open(&source).map_err(|error| Error::io(&source, error))?;
        self.file(name)?
            .write_with(|out| io::copy(&mut file, out).map(drop))
    }

    /// Whether a file `name` stands here that is not `source` itself or a link to it; `source`
    /// without links.
    pub(crate) fn holds_other_than(&self, name: &str, source: Option<&Path>) -> Result<bool> {
        let FolderKind::Existing = &self.kind else {
            return Ok(false);
        };
        let path = self.path.join(name);
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            // A folder that is part of the name is a file here.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(true),
            Err(error) => Err(Error::io(&path, error)),
            Ok(_) => Ok(source.is_none() || fs::canonicalize(&path).ok().as_deref() != source),
        }
    }

    /// Gives the complete folder its name.
    ///
    /// # Errors
    /// [`Error::Io`] with the path; a new folder then does not appear.
    pub fn commit(self) -> Result<()> {
        let Self { path, kind } = self;
        let FolderKind::New {
            folder,
            registration,
            destination,
        } = kind
        else {
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

#[cfg(unix)]
fn symbolic_link(source: &Path, place: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(source, place)
}

#[cfg(windows)]
fn symbolic_link(source: &Path, place: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(source, place)
}

#[cfg(not(any(unix, windows)))]
fn symbolic_link(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::super::testing::{names_in, refusal};
    use super::*;

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

        let output = OutputFolder::create(folder.path().join("deep")).unwrap();
        output
            .file("left/new/0.txt")
            .unwrap()
            .write_with(|out| out.write_all(b"a"))
            .unwrap();
        output
            .place("right/0.txt", &path.join("a.txt"), Placing::Link)
            .unwrap();
        output.commit().unwrap();
        assert_eq!(names_in(&folder.path().join("deep")), ["left", "right"]);
        assert_eq!(
            fs::read(folder.path().join("deep/right/0.txt")).unwrap(),
            b"a"
        );
        fs::remove_dir_all(folder.path().join("deep")).unwrap();

        let given_up = OutputFolder::create(folder.path().join("other")).unwrap();
        given_up
            .file("a.txt")
            .unwrap()
            .write_with(|out| out.write_all(b"a"))
            .unwrap();
        drop(given_up);
        assert_eq!(names_in(folder.path()), ["maps"]);
    }

    #[test]
    fn a_folder_that_exists_is_filled_file_by_file() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.txt"), "old").unwrap();
        let output = OutputFolder::create(folder.path()).unwrap();
        output
            .file("a.txt")
            .unwrap()
            .write_with(|out| out.write_all(b"new"))
            .unwrap();
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
        for late in [
            unfinished.commit(),
            map.commit(),
            maps.commit(),
            create("late").map(drop),
        ] {
            assert!(
                late.unwrap_err()
                    .to_string()
                    .ends_with("the process is being ended")
            );
        }
        assert_eq!(names_in(folder.path()), ["finished"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_new_folder_has_the_permissions_of_any_other() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let [plain, new] = ["plain", "new"].map(|name| folder.path().join(name));
        fs::create_dir(&plain).unwrap();
        OutputFolder::create(&new).unwrap().commit().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&new), mode(&plain));
    }

    #[test]
    fn a_place_that_cannot_be_a_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let inside = |name: &str| folder.path().join(name);
        fs::write(inside("file"), "").unwrap();
        assert_eq!(
            refusal(OutputFolder::create(inside("missing/maps"))),
            format!(
                "cannot write {}: folder {} does not exist; create it first",
                inside("missing/maps").display(),
                inside("missing").display()
            )
        );
        assert!(
            refusal(OutputFolder::create(inside("file")))
                .ends_with(": it is a file; name a folder")
        );
        assert!(refusal(OutputFolder::create("")).ends_with(": it names no folder"));
        assert_eq!(names_in(folder.path()), ["file"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_may_not_be_written_is_an_error() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let closed = folder.path().join("closed");
        fs::create_dir(&closed).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
        if fs::write(closed.join("probe"), "").is_ok() {
            // Root may write anywhere.
            return;
        }
        let reason = format!(
            "nothing can be created in folder {}: permission denied",
            closed.display()
        );
        for path in [closed.join("cloud.ply"), closed.clone()] {
            let error = match path == closed {
                true => OutputFolder::create(&path).map(drop),
                false => OutputFile::create(&path).map(drop),
            };
            assert_eq!(
                error.unwrap_err().to_string(),
                format!("{}: {reason}", path.display())
            );
        }
    }
}
