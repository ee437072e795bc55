//! A folder that keeps what was computed of images and pairs, so that no later run computes it
//! again.
//!
//! Files are named by digests of what they follow from: an image's pixels as the network sees them,
//! the network, where and how it runs, and the options. Names of files and folders play no part.
//! Every file is on the disk, whole, before it has its name, so a run that is killed loses what it
//! was at and nothing else. Disks do not always keep that promise in a power loss: every file has a
//! checksum, and one that is damaged is computed anew.
//!
//! | file | content |
//! |---|---|
//! | `views/DIGEST.safetensors` | `0.rgb`: the pixels |
//! | `features/DIGEST.safetensors` | `tokens`: what the encoder makes of them |
//! | `pairs/DIGEST.safetensors` | see [`PairEvidence::to_safetensors`] |
//! | `scene.json` | the images and pairs of the run that ended last, for [`PredictionFolder`](crate::alignment::PredictionFolder) |
//! | `work.json` | the [`Versions`] of what is kept |
//! | `plan.json`, `shards/` | what workers are to do and have done: `pipeline::jobs` |
//!
//! Several runs, on several machines too, may use a folder at a time: two that compute the same
//! write the same file, and each file appears whole. Nothing is locked.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use image::RgbImage;
use rayon::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::key::{Key, VERSIONS, Versions};
use crate::alignment::{Pair, PairEvidence};
use crate::checksum::{self, Integrity};
use crate::error::{Error, Result};
use crate::files::{OutputFile, is_temporary};
use crate::formats::predictions::{self, ImageEntry, SceneFile, check_layout};
use crate::views::{Crop, View};

const VIEWS: &str = "views";
/// The tensor of a file of pixels.
const PIXELS: &str = "0.rgb";
const FEATURES: &str = "features";
const PAIRS: &str = "pairs";
const SCENE: &str = predictions::FILE;
const WORK: &str = "work.json";
/// An unfinished file that nobody has written to for so long is what a killed run left; machines'
/// clocks may differ by less.
const ABANDONED: Duration = Duration::from_secs(3600);

/// A work folder.
#[derive(Debug)]
pub struct WorkFolder {
    path: PathBuf,
}

/// A pair and its file.
#[derive(Debug)]
pub(super) struct StoredPair {
    pub pair: Pair,
    pub key: Key,
    /// Whether the pair's second view is the file's first one.
    pub exchanged: bool,
}

impl WorkFolder {
    /// Opens a folder, which is made if there is none.
    ///
    /// # Errors
    /// [`Error::Usage`] for a folder that holds predictions of another origin or whose parent does
    /// not exist; [`Error::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let io_error = |path: &Path| {
            let path = path.to_path_buf();
            move |source| Error::io(path, source)
        };
        match fs::create_dir(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let reason = "its parent does not exist; create it first";
                return Err(Error::Usage(format!(
                    "cannot write {}: {reason}",
                    path.display()
                )));
            }
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(io_error(path)(error));
            }
            _ if !path.is_dir() => {
                return Err(Error::Usage(format!(
                    "cannot write {}: it is a file; name a folder",
                    path.display()
                )));
            }
            _ => {}
        }
        let scene = path.join(SCENE);
        if scene.exists() && !path.join(PAIRS).is_dir() {
            let reason = "it holds predictions that this program did not make; name another folder";
            return Err(Error::Usage(format!(
                "cannot work in {}: {reason}",
                path.display()
            )));
        }
        check_layout(&scene)?;
        for folder in [VIEWS, FEATURES, PAIRS].map(|name| path.join(name)) {
            fs::create_dir_all(&folder).map_err(io_error(&folder))?;
            remove_leftovers(&folder)?;
        }
        remove_leftovers(path)?;
        let folder = Self {
            path: path.to_path_buf(),
        };
        folder.state_versions()?;
        Ok(folder)
    }

    /// Writes down of which versions the folder is, with a word if it was of others.
    fn state_versions(&self) -> Result<()> {
        let path = self.path.join(WORK);
        match fs::read(&path) {
            Ok(text) => match serde_json::from_slice::<Versions>(&text) {
                Ok(versions) if versions == VERSIONS => return Ok(()),
                Ok(Versions { files, results }) => {
                    self.warn_of_version(&format!("{files}.{results}"))
                }
                Err(_) => tracing::warn!("{}: is damaged; it is written anew", path.display()),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // Version 1 did not state itself.
                let pairs = self.path.join(PAIRS);
                if fs::read_dir(&pairs)
                    .map_err(|source| Error::io(&pairs, source))?
                    .next()
                    .is_some()
                {
                    self.warn_of_version("1");
                }
            }
            Err(source) => return Err(Error::io(&path, source)),
        }
        let mut text =
            serde_json::to_vec(&VERSIONS).map_err(|error| Error::io(&path, error.into()))?;
        text.push(b'\n');
        write_file(&path, &text)
    }

    fn warn_of_version(&self, found: &str) {
        let Versions { files, results } = VERSIONS;
        tracing::warn!(
            "{}: was kept by another version of this program (work version {found}, this program has {files}.{results}), so \
             everything is computed anew; delete the folder before a run to free the space of the old files",
            self.path.display()
        );
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn features(&self) -> PathBuf {
        self.path.join(FEATURES)
    }

    pub(super) fn has_pair(&self, key: &Key) -> bool {
        self.pair_path(key).is_file()
    }

    pub(super) fn read_pair(&self, stored: &StoredPair) -> Result<PairEvidence> {
        PairEvidence::read(stored.pair, &self.pair_path(&stored.key), stored.exchanged)
    }

    /// Removes the files of those pairs that cannot be read, with a word on each.
    pub(super) fn remove_damaged<'a>(
        &self,
        pairs: impl IntoParallelIterator<Item = &'a StoredPair>,
    ) -> Result<usize> {
        let remove = |stored: &StoredPair| match self.read_pair(stored) {
            Ok(_) => Ok(0),
            Err(error) => {
                let path = self.pair_path(&stored.key);
                tracing::warn!(
                    "{}: cannot be used, so the pair is computed anew ({error})",
                    path.display()
                );
                match fs::remove_file(&path) {
                    Err(source) if source.kind() != ErrorKind::NotFound => {
                        Err(Error::io(&path, source))
                    }
                    _ => Ok(1),
                }
            }
        };
        pairs.into_par_iter().map(remove).sum()
    }

    /// Writes what is known of a pair; it will be read [rounded](PairEvidence::rounded).
    pub(super) fn write_pair(&self, key: &Key, evidence: &PairEvidence) -> Result<()> {
        write_file(&self.pair_path(key), &evidence.to_safetensors()?)
    }

    /// Writes the images and pairs of a run, all of whose pairs are here, and whether they are in
    /// metres.
    pub(super) fn write_scene(
        &self,
        views: &[View],
        pairs: &[StoredPair],
        graph: &str,
        metric: bool,
    ) -> Result<()> {
        let image = |view: &View| {
            let key = Key::of_view(view);
            self.write_view(&key, view)?;
            Ok(image_entry(view.name.clone(), &key, view.crop))
        };
        let images = views.iter().map(image).collect::<Result<_>>()?;
        self.write_list(images, pairs, graph, metric)
    }

    /// Writes the pixels of an image, unless they are here.
    pub(super) fn write_view(&self, key: &Key, view: &View) -> Result<()> {
        let path = self.view_path(key);
        let (width, height) = view.rgb.dimensions();
        let shape = vec![height as usize, width as usize, 3];
        let content = serialised(PIXELS, Dtype::U8, shape, view.rgb.as_raw())?;
        match fs::read(&path) {
            Ok(kept) if kept == content => Ok(()),
            kept => {
                if kept.is_ok() {
                    tracing::warn!("{}: is damaged; it is written anew", path.display());
                }
                write_file(&path, &content)
            }
        }
    }

    /// Reads an image that [`WorkFolder::write_view`] wrote.
    pub(super) fn read_view(&self, key: &Key, name: &str, crop: Crop) -> Result<View> {
        let path = self.view_path(key);
        let bytes = fs::read(&path).map_err(|error| Error::unreadable(&path, error))?;
        tensor_of((&path, &bytes), PIXELS, MADE_ANEW, |pixels| {
            RgbImage::from_raw(crop.width, crop.height, pixels.data().to_vec())
                .map(|rgb| View::new(name, rgb, crop))
                .ok_or_else(|| format!("it has {:?} pixels", pixels.shape()))
        })
    }

    pub(super) fn view_path(&self, key: &Key) -> PathBuf {
        self.path.join(VIEWS).join(file_name(key))
    }

    /// Writes the list of images and pairs, whose files are here.
    pub(super) fn write_list(
        &self,
        images: Vec<ImageEntry>,
        pairs: &[StoredPair],
        graph: &str,
        metric: bool,
    ) -> Result<()> {
        let indices: Vec<[usize; 2]> = pairs
            .iter()
            .map(|stored| [stored.pair.first, stored.pair.second])
            .collect();
        let files: Vec<String> = pairs
            .iter()
            .map(|stored| format!("{PAIRS}/{}", file_name(&stored.key)))
            .collect();
        let exchanged: Vec<bool> = pairs.iter().map(|stored| stored.exchanged).collect();
        let text = SceneFile::new(images, indices, files, exchanged, graph, metric)
            .to_json()
            .map_err(|error| Error::io(self.path.join(SCENE), error.into()))?;
        write_file(&self.path.join(SCENE), &text)
    }

    fn pair_path(&self, key: &Key) -> PathBuf {
        self.path.join(PAIRS).join(file_name(key))
    }
}

/// An image of the list, whose pixels are in the file of their key.
pub(super) fn image_entry(name: String, pixels: &Key, crop: Crop) -> ImageEntry {
    ImageEntry {
        name,
        width: crop.width,
        height: crop.height,
        file: Some(format!("{VIEWS}/{}", file_name(pixels))),
        crop: Some(crop),
    }
}

/// The name of the file that `key` stands for.
pub(super) fn file_name(key: &Key) -> String {
    format!("{}.safetensors", key.as_str())
}

/// A file that appears when it is complete.
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    OutputFile::create(path)?.write_with(|out| out.write_all(bytes))
}

/// A safetensors file of one tensor.
pub(super) fn serialised(
    name: &str,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: &[u8],
) -> Result<Vec<u8>> {
    checksum::serialised([(name, dtype, shape, bytes)])
        .map_err(|error| Error::Internal(format!("{name} cannot be stored: {error}")))
}

/// What to do with a damaged file that any later run makes again.
pub(super) const MADE_ANEW: &str = "delete it, so that it is made anew";

/// What `read` makes of the tensor in the `bytes` of a file that [`serialised`] made, or why that is
/// none; a refusal ends with the `way_out`.
pub(super) fn tensor_of<T>(
    (path, bytes): (&Path, &[u8]),
    name: &str,
    way_out: &str,
    read: impl FnOnce(&TensorView<'_>) -> Result<T, String>,
) -> Result<T> {
    let refuse = |reason: String| Error::input(path, format!("is damaged: {reason}; {way_out}"));
    let file = SafeTensors::deserialize(bytes).map_err(|error| refuse(error.to_string()))?;
    if checksum::integrity(bytes) != Integrity::Intact {
        return Err(refuse("its content does not match its checksum".into()));
    }
    let tensor = file
        .tensor(name)
        .map_err(|error| refuse(error.to_string()))?;
    read(&tensor).map_err(refuse)
}

/// Removes what killed runs left unfinished. Others may be at work here: what they are writing is
/// younger, and what they remove at the same time is gone.
fn remove_leftovers(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|source| Error::io(folder, source))? {
        let path = entry.map_err(|source| Error::io(folder, source))?.path();
        if !is_temporary(&path) {
            continue;
        }
        let written = fs::metadata(&path).and_then(|metadata| metadata.modified());
        let age = written.map(|written| SystemTime::now().duration_since(written));
        if let Ok(Ok(age)) = age
            && age > ABANDONED
            && let Err(source) = fs::remove_file(&path)
            && source.kind() != ErrorKind::NotFound
        {
            return Err(Error::io(&path, source));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::pipeline::key::tests::view;

    #[test]
    fn leftovers_of_killed_runs_are_removed_and_what_others_are_writing_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let work = WorkFolder::open(folder.path()).unwrap();
        let inside = |name: &str| folder.path().join(PAIRS).join(name);
        let long_ago = SystemTime::now() - 2 * ABANDONED;
        for (name, is_old) in [
            (".mast3r-old.part", true),
            (".mast3r-new.part", false),
            ("x.safetensors", true),
            (".hidden", true),
        ] {
            let file = File::create(inside(name)).unwrap();
            if is_old {
                file.set_modified(long_ago).unwrap();
            }
        }
        // While another run uses it.
        WorkFolder::open(folder.path()).unwrap();
        assert!(!inside(".mast3r-old.part").exists());
        for name in [".mast3r-new.part", "x.safetensors", ".hidden"] {
            assert!(inside(name).exists(), "{name}");
        }
        drop(work);
    }

    #[test]
    fn views_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let work = WorkFolder::open(folder.path()).unwrap();
        let view = view("a", 7);
        let key = Key::of_view(&view);
        work.write_view(&key, &view).unwrap();
        let back = work.read_view(&key, "b", view.crop).unwrap();
        assert_eq!((back.rgb, &back.name[..]), (view.rgb, "b"));
        fs::write(work.view_path(&key), b"x").unwrap();
        assert!(work.read_view(&key, "b", view.crop).is_err());
    }

    #[test]
    fn a_folder_states_its_versions_whatever_it_held() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(WORK);
        for before in [
            None,
            Some(&b""[..]),
            Some(&[0; 30]),
            Some(br#"{"files": 1, "results": 7}"#),
        ] {
            before
                .into_iter()
                .for_each(|text| fs::write(&path, text).unwrap());
            drop(WorkFolder::open(folder.path()).unwrap());
            assert_eq!(
                serde_json::from_slice::<Versions>(&fs::read(&path).unwrap()).unwrap(),
                VERSIONS
            );
        }
    }

    #[test]
    fn a_damaged_list_of_pairs_is_no_hindrance() {
        let folder = tempfile::tempdir().unwrap();
        drop(WorkFolder::open(folder.path()).unwrap());
        for text in [&b""[..], b"{", &[0; 100]] {
            fs::write(folder.path().join(SCENE), text).unwrap();
            WorkFolder::open(folder.path()).unwrap();
        }
        fs::write(folder.path().join(SCENE), r#"{"version": 99}"#).unwrap();
        assert!(
            WorkFolder::open(folder.path())
                .unwrap_err()
                .to_string()
                .contains("layout 99")
        );
    }

    #[test]
    fn a_damaged_image_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let work = WorkFolder::open(folder.path()).unwrap();
        let views = [view("a", 7), view("b", 8)];
        work.write_scene(&views, &[], "list", false).unwrap();
        let path = folder
            .path()
            .join(VIEWS)
            .join(file_name(&Key::of_view(&views[0])));
        let whole = fs::read(&path).unwrap();
        for damaged in [
            vec![],
            whole[..whole.len() - 1].to_vec(),
            vec![0; whole.len()],
        ] {
            fs::write(&path, damaged).unwrap();
            work.write_scene(&views, &[], "list", false).unwrap();
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
    }

    #[test]
    fn a_place_that_is_no_work_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refusal = |name: &str| {
            WorkFolder::open(folder.path().join(name))
                .unwrap_err()
                .to_string()
        };
        assert!(refusal("missing/work").ends_with("its parent does not exist; create it first"));
        fs::write(folder.path().join("file"), "").unwrap();
        assert!(refusal("file").ends_with("it is a file; name a folder"));
        fs::create_dir(folder.path().join("scene")).unwrap();
        fs::write(folder.path().join("scene/scene.json"), "{}").unwrap();
        assert!(refusal("scene").contains("predictions that this program did not make"));
    }
}
