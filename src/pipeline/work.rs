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
//! | `lock` | held by the run that is using the folder |

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use candle_core::DeviceLocation;
use rayon::prelude::*;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::alignment::{Pair, PairEvidence};
use crate::checksum;
use crate::error::{Error, Result};
use crate::files::{OutputFile, is_temporary};
use crate::formats::predictions::{self, ImageEntry, SceneFile, check_layout};
use crate::matching::MatchOptions;
use crate::runtime::Runtime;
use crate::views::View;

/// What every digest begins with: files of other versions are not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Versions {
    /// Of the files: how they are named and what they hold.
    files: u32,
    /// Of the numbers: changes when the same pixels, weights and options give others, by another
    /// normalisation, other kernels or another search for matches. How an image is resized and
    /// cropped shows in its pixels.
    results: u32,
}

const VERSIONS: Versions = Versions {
    files: 2,
    results: 1,
};
const VIEWS: &str = "views";
const FEATURES: &str = "features";
const PAIRS: &str = "pairs";
const SCENE: &str = predictions::FILE;
const WORK: &str = "work.json";
const LOCK: &str = "lock";

/// A work folder, in the hands of this process alone.
#[derive(Debug)]
pub struct WorkFolder {
    path: PathBuf,
    _lock: File,
}

/// What a network's numbers follow from, besides the pixels that it sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NetworkKey {
    /// Of the dimensions and the weights.
    network: String,
    precision: String,
    /// Its kind, and for the CPU the instruction set: each rounds in its own way.
    device: String,
    optimisations: Vec<&'static str>,
}

impl NetworkKey {
    /// Of a network that runs in `runtime`; `digest` stands for its dimensions and its weights:
    /// [`Checkpoint::digest`](crate::model::checkpoint::Checkpoint::digest).
    pub fn new(digest: impl Into<String>, runtime: &Runtime) -> Self {
        Self {
            network: digest.into(),
            precision: runtime.precision().to_string(),
            device: match runtime.device().location() {
                DeviceLocation::Cpu => format!("cpu, {}", custom_ops::instruction_set()),
                DeviceLocation::Cuda { .. } => "cuda".into(),
                DeviceLocation::Metal { .. } => "metal".into(),
            },
            optimisations: runtime
                .optimisations()
                .iter()
                .map(|optimisation| optimisation.name())
                .collect(),
        }
    }
}

/// What a file of a work folder follows from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(super) struct Key(String);

/// What an image's features follow from; files of a run that keeps nothing have no network.
#[derive(Serialize)]
struct FeatureKey<'a> {
    pixels: &'a Key,
    network: Option<&'a NetworkKey>,
}

/// What a pair's evidence follows from.
#[derive(Serialize)]
struct PairKey<'a> {
    features: [&'a Key; 2],
    subsample: usize,
    rounds: usize,
    tolerance: Option<f64>,
    border: u32,
}

/// A pair and its file.
#[derive(Debug)]
pub(super) struct StoredPair {
    pub pair: Pair,
    pub key: Key,
    /// Whether the pair's second view is the file's first one.
    pub exchanged: bool,
}

impl Key {
    /// The digest of parts, which are told apart by their lengths.
    fn of(versions: Versions, parts: &[&[u8]]) -> Self {
        let mut digest = Sha256::new();
        let Versions { files, results } = versions;
        let versions = format!("mast3r work {files}.{results}");
        for part in [versions.as_bytes()].iter().chain(parts) {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        Self(
            digest.finalize()[..16]
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        )
    }

    /// Of an image's pixels.
    pub(super) fn of_view(view: &View) -> Self {
        let (width, height) = view.rgb.dimensions();
        Self::of(
            VERSIONS,
            &[
                b"pixels",
                &width.to_le_bytes(),
                &height.to_le_bytes(),
                view.rgb.as_raw(),
            ],
        )
    }

    /// Of the features of pixels.
    pub(super) fn of_features(pixels: &Self, network: Option<&NetworkKey>) -> Result<Self> {
        Self::of_parts("features", &FeatureKey { pixels, network })
    }

    /// Of the evidence of a pair, by the keys of its features.
    pub(super) fn of_pair(features: [&Self; 2], matching: &MatchOptions) -> Result<Self> {
        let MatchOptions {
            subsample,
            rounds,
            tolerance,
            border,
        } = *matching;
        Self::of_parts(
            "pair",
            &PairKey {
                features,
                subsample,
                rounds,
                tolerance,
                border,
            },
        )
    }

    fn of_parts(what: &str, parts: &impl Serialize) -> Result<Self> {
        let parts = serde_json::to_vec(parts).map_err(|error| Error::io(what, error.into()))?;
        Ok(Self::of(VERSIONS, &[what.as_bytes(), &parts]))
    }
}

impl WorkFolder {
    /// Opens a folder, which is made if there is none, and takes hold of it.
    ///
    /// # Errors
    /// [`Error::Usage`] for a folder that another run is using, that holds predictions of another
    /// origin or whose parent does not exist; [`Error::Io`].
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
        let lock = path.join(LOCK);
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock)
            .map_err(io_error(&lock))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let reason = "another run is using it; wait for its end, or name another folder";
                return Err(Error::Usage(format!(
                    "cannot work in {}: {reason}",
                    path.display()
                )));
            }
            Err(TryLockError::Error(source)) => return Err(io_error(&lock)(source)),
        }
        for folder in [VIEWS, FEATURES, PAIRS].map(|name| path.join(name)) {
            fs::create_dir_all(&folder).map_err(io_error(&folder))?;
            remove_leftovers(&folder)?;
        }
        remove_leftovers(path)?;
        let folder = Self {
            path: path.to_path_buf(),
            _lock: file,
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
        let mut images = Vec::with_capacity(views.len());
        for view in views {
            let file = format!("{VIEWS}/{}", file_name(&Key::of_view(view)));
            let path = self.path.join(&file);
            let (width, height) = view.rgb.dimensions();
            let shape = vec![height as usize, width as usize, 3];
            let content = serialised("0.rgb", Dtype::U8, shape, view.rgb.as_raw())?;
            match fs::read(&path) {
                Ok(kept) if kept == content => {}
                kept => {
                    if kept.is_ok() {
                        tracing::warn!("{}: is damaged; it is written anew", path.display());
                    }
                    write_file(&path, &content)?;
                }
            }
            images.push(ImageEntry {
                name: view.name.clone(),
                width,
                height,
                file: Some(file),
                crop: Some(view.crop),
            });
        }
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

/// The name of the file that `key` stands for.
pub(super) fn file_name(key: &Key) -> String {
    format!("{}.safetensors", key.0)
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

/// Removes what a killed run left unfinished; nobody else is at work here.
fn remove_leftovers(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|source| Error::io(folder, source))? {
        let path = entry.map_err(|source| Error::io(folder, source))?.path();
        if is_temporary(&path) && path.is_file() {
            fs::remove_file(&path).map_err(|source| Error::io(&path, source))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use image::RgbImage;

    use super::*;
    use crate::views::Crop;

    fn view(name: &str, level: u8) -> View {
        let (width, height) = (4, 2);
        let rgb = RgbImage::from_pixel(width, height, image::Rgb([level; 3]));
        View::new(name, rgb, Crop::whole(width, height))
    }

    #[test]
    fn keys_follow_from_pixels_and_not_from_names() {
        assert_eq!(Key::of_view(&view("a", 7)), Key::of_view(&view("b", 7)));
        assert_ne!(Key::of_view(&view("a", 7)), Key::of_view(&view("a", 8)));
        let turned = View {
            rgb: RgbImage::from_pixel(2, 4, image::Rgb([7; 3])),
            ..view("a", 7)
        };
        assert_ne!(Key::of_view(&view("a", 7)), Key::of_view(&turned));
    }

    #[test]
    fn keys_follow_from_every_part_and_their_order() {
        let [a, b] = [7, 8].map(|level| Key::of_view(&view("a", level)));
        let network = || NetworkKey {
            network: "0a".into(),
            precision: "f32".into(),
            device: "cpu".into(),
            optimisations: vec!["one", "two"],
        };
        let features = |network: &NetworkKey| Key::of_features(&a, Some(network)).unwrap();
        let matching = MatchOptions::default();
        let pair = |features: [&Key; 2], matching: MatchOptions| {
            Key::of_pair(features, &matching).unwrap()
        };
        let keys = [
            features(&network()),
            features(&NetworkKey {
                network: "0b".into(),
                ..network()
            }),
            features(&NetworkKey {
                precision: "f16".into(),
                ..network()
            }),
            features(&NetworkKey {
                device: "cuda".into(),
                ..network()
            }),
            features(&NetworkKey {
                optimisations: vec!["one"],
                ..network()
            }),
            Key::of_features(&a, None).unwrap(),
            Key::of_features(&b, None).unwrap(),
            pair([&a, &b], matching),
            pair([&b, &a], matching),
            pair(
                [&a, &b],
                MatchOptions {
                    subsample: 4,
                    ..matching
                },
            ),
            pair(
                [&a, &b],
                MatchOptions {
                    rounds: 4,
                    ..matching
                },
            ),
            pair(
                [&a, &b],
                MatchOptions {
                    border: 4,
                    ..matching
                },
            ),
            pair(
                [&a, &b],
                MatchOptions {
                    tolerance: Some(4.),
                    ..matching
                },
            ),
            Key::of(VERSIONS, &[b"ab", b"c"]),
            Key::of(VERSIONS, &[b"a", b"bc"]),
            Key::of(
                Versions {
                    files: VERSIONS.files + 1,
                    ..VERSIONS
                },
                &[b"a", b"bc"],
            ),
            Key::of(
                Versions {
                    results: VERSIONS.results + 1,
                    ..VERSIONS
                },
                &[b"a", b"bc"],
            ),
        ];
        for (at, key) in keys.iter().enumerate() {
            assert!(!keys[..at].contains(key), "{at}: {key:?}");
        }
        assert_eq!(file_name(&a).len(), 32 + ".safetensors".len());
    }

    #[test]
    fn a_folder_serves_one_run_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("work");
        let work = WorkFolder::open(&path).unwrap();
        let message = WorkFolder::open(&path).unwrap_err().to_string();
        assert!(
            message.ends_with("another run is using it; wait for its end, or name another folder"),
            "{message}"
        );
        drop(work);
        WorkFolder::open(&path).unwrap();
    }

    #[test]
    fn leftovers_of_a_killed_run_are_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        drop(WorkFolder::open(folder.path()).unwrap());
        let inside = |name: &str| folder.path().join(PAIRS).join(name);
        for name in [".mast3r-aBc.part", "x.safetensors", ".hidden"] {
            fs::write(inside(name), "").unwrap();
        }
        drop(WorkFolder::open(folder.path()).unwrap());
        assert!(!inside(".mast3r-aBc.part").exists());
        assert!(inside("x.safetensors").exists() && inside(".hidden").exists());
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
