//! A folder that keeps what was computed of pictures and pairs, so that no later run computes it again.
//!
//! Files are named by digests of what they follow from: a picture's pixels as the network sees them, the network, its
//! precision and the options. Names of files and folders play no part. Every file appears when it is complete, so a run
//! that is killed loses what it was at and nothing else.
//!
//! | file | content |
//! |---|---|
//! | `views/DIGEST.safetensors` | `0.rgb`: the pixels |
//! | `features/DIGEST.safetensors` | `tokens`: what the encoder makes of them |
//! | `pairs/DIGEST.safetensors` | see [`PairEvidence::to_safetensors`] |
//! | `scene.json` | the pictures and pairs of the run that ended last, for [`PredictionFolder`](crate::alignment::PredictionFolder) |
//! | `lock` | held by the run that is using the folder |

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::alignment::{LAYOUT_VERSION, Pair, PairEvidence, check_layout};
use crate::error::{Error, Result};
use crate::export::{OutputFile, is_temporary};
use crate::views::View;

/// Changes when files of views, features and pairs of another program version must not be used.
const VERSION: &str = "mast3r work 1";
const VIEWS: &str = "views";
const FEATURES: &str = "features";
const PAIRS: &str = "pairs";
const SCENE: &str = "scene.json";
const LOCK: &str = "lock";

/// A work folder, in the hands of this process alone.
#[derive(Debug)]
pub struct WorkFolder {
    path: PathBuf,
    _lock: File,
}

/// What a file of a work folder follows from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key(String);

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
    pub(super) fn of(parts: &[&[u8]]) -> Self {
        let mut digest = Sha256::new();
        for part in [VERSION.as_bytes()].iter().chain(parts) {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        Self(digest.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Of a picture's pixels.
    pub(super) fn of_view(view: &View) -> Self {
        let (width, height) = view.rgb.dimensions();
        Self::of(&[&width.to_le_bytes(), &height.to_le_bytes(), view.rgb.as_raw()])
    }

    /// Of something that follows from others.
    pub(super) fn derived(of: &[&Self], how: &str) -> Self {
        let mut parts: Vec<&[u8]> = of.iter().map(|key| key.0.as_bytes()).collect();
        parts.push(how.as_bytes());
        Self::of(&parts)
    }
}

impl WorkFolder {
    /// Opens a folder, which is made if there is none, and takes hold of it.
    ///
    /// # Errors
    /// [`Error::Usage`] for a folder that another run is using, that holds predictions of another origin or whose parent
    /// does not exist; [`Error::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let io_error = |path: &Path| {
            let path = path.to_path_buf();
            move |source| Error::io(path, source)
        };
        match fs::create_dir(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let reason = "its parent does not exist; create it first";
                return Err(Error::Usage(format!("cannot write {}: {reason}", path.display())));
            }
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(io_error(path)(error)),
            _ if !path.is_dir() => {
                return Err(Error::Usage(format!("cannot write {}: it is a file; name a folder", path.display())));
            }
            _ => {}
        }
        let scene = path.join(SCENE);
        if scene.exists() && !path.join(PAIRS).is_dir() {
            let reason = "it holds predictions that this program did not make; name another folder";
            return Err(Error::Usage(format!("cannot work in {}: {reason}", path.display())));
        }
        check_layout(&scene)?;
        let lock = path.join(LOCK);
        let file = File::options().write(true).create(true).truncate(false).open(&lock).map_err(io_error(&lock))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let reason = "another run is using it; wait for its end, or name another folder";
                return Err(Error::Usage(format!("cannot work in {}: {reason}", path.display())));
            }
            Err(TryLockError::Error(source)) => return Err(io_error(&lock)(source)),
        }
        for folder in [VIEWS, FEATURES, PAIRS].map(|name| path.join(name)) {
            fs::create_dir_all(&folder).map_err(io_error(&folder))?;
            remove_leftovers(&folder)?;
        }
        Ok(Self { path: path.to_path_buf(), _lock: file })
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

    pub(super) fn write_pair(&self, key: &Key, evidence: &PairEvidence) -> Result<()> {
        write_file(&self.pair_path(key), &evidence.to_safetensors()?)
    }

    /// Writes the pictures and pairs of a run, all of whose pairs are here.
    pub(super) fn write_scene(&self, views: &[View], pairs: &[StoredPair], graph: &str) -> Result<()> {
        let mut images = Vec::with_capacity(views.len());
        for view in views {
            let file = format!("{VIEWS}/{}", file_name(&Key::of_view(view)));
            let path = self.path.join(&file);
            let (width, height) = view.rgb.dimensions();
            if !path.is_file() {
                let shape = vec![height as usize, width as usize, 3];
                write_file(&path, &serialised("0.rgb", Dtype::U8, shape, view.rgb.as_raw())?)?;
            }
            let crop = &view.crop;
            images.push(json!({ "name": view.name, "width": width, "height": height, "file": file, "crop": crop }));
        }
        let indices: Vec<[usize; 2]> = pairs.iter().map(|stored| [stored.pair.first, stored.pair.second]).collect();
        let files: Vec<String> = pairs.iter().map(|stored| format!("{PAIRS}/{}", file_name(&stored.key))).collect();
        let exchanged: Vec<bool> = pairs.iter().map(|stored| stored.exchanged).collect();
        let scene: Value = json!({
            "version": LAYOUT_VERSION,
            "images": images,
            "pairs": indices,
            "pair_files": files,
            "exchanged": exchanged,
            "graph": graph,
        });
        let mut text =
            serde_json::to_vec_pretty(&scene).map_err(|error| Error::io(self.path.join(SCENE), error.into()))?;
        text.push(b'\n');
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
pub(super) fn serialised(name: &str, dtype: Dtype, shape: Vec<usize>, bytes: &[u8]) -> Result<Vec<u8>> {
    let refused = |error| Error::Internal(format!("{name} cannot be stored: {error}"));
    let tensor = TensorView::new(dtype, shape, bytes).map_err(refused)?;
    safetensors::serialize([(name, tensor)], None).map_err(refused)
}

/// Removes what a killed run left unfinished; nobody else is at work here.
fn remove_leftovers(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|source| Error::io(folder, source))? {
        let path = entry.map_err(|source| Error::io(folder, source))?.path();
        if is_temporary(&path) {
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
        let turned = View { rgb: RgbImage::from_pixel(2, 4, image::Rgb([7; 3])), ..view("a", 7) };
        assert_ne!(Key::of_view(&view("a", 7)), Key::of_view(&turned));
    }

    #[test]
    fn keys_follow_from_every_part_and_their_order() {
        let [a, b] = [7, 8].map(|level| Key::of_view(&view("a", level)));
        let keys = [
            Key::derived(&[&a, &b], "net"),
            Key::derived(&[&b, &a], "net"),
            Key::derived(&[&a, &b], "net 2"),
            Key::derived(&[&a], "net"),
            Key::of(&[b"ab", b"c"]),
            Key::of(&[b"a", b"bc"]),
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
        assert!(message.ends_with("another run is using it; wait for its end, or name another folder"), "{message}");
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
    fn a_place_that_is_no_work_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refusal = |name: &str| WorkFolder::open(folder.path().join(name)).unwrap_err().to_string();
        assert!(refusal("missing/work").ends_with("its parent does not exist; create it first"));
        fs::write(folder.path().join("file"), "").unwrap();
        assert!(refusal("file").ends_with("it is a file; name a folder"));
        fs::create_dir(folder.path().join("scene")).unwrap();
        fs::write(folder.path().join("scene/scene.json"), "{}").unwrap();
        assert!(refusal("scene").contains("predictions that this program did not make"));
    }
}
