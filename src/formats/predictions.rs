//! `scene.json`: the images and pairs of a folder of predictions.

use std::path::Path;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::input::read_text;
use crate::views::Crop;

/// Name of the file.
pub(crate) const FILE: &str = "scene.json";
/// Version of the layout that this program writes; it reads older ones, and those that state none.
const VERSION: u64 = 2;

/// The list of images and pairs.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct SceneFile {
    version: Option<u64>,
    pub images: Vec<ImageEntry>,
    /// Indices of two images each.
    pub pairs: Vec<[usize; 2]>,
    /// A file for each pair, where they are apart.
    pub pair_files: Option<Vec<String>>,
    /// Whether a pair's second image is its file's first one.
    pub exchanged: Option<Vec<bool>>,
    /// Whether points are in metres; otherwise that is not known.
    #[serde(default)]
    pub metric: bool,
    /// The rule that the pairs were chosen by; not read.
    #[serde(skip_deserializing)]
    pub graph: String,
}

/// An image of the list.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ImageEntry {
    pub name: String,
    pub width: u32,
    pub height: u32,
    /// Its pixels, where every image has a file of its own.
    pub file: Option<String>,
    /// Where it lies in its image's file.
    pub crop: Option<Crop>,
}

impl SceneFile {
    /// A list of images and of pairs, each with a file of its own.
    pub fn new(
        images: Vec<ImageEntry>,
        pairs: Vec<[usize; 2]>,
        pair_files: Vec<String>,
        exchanged: Vec<bool>,
        graph: &str,
        metric: bool,
    ) -> Self {
        Self {
            version: Some(VERSION),
            images,
            pairs,
            pair_files: Some(pair_files),
            exchanged: Some(exchanged),
            graph: graph.into(),
            metric,
        }
    }

    /// The text of the file.
    pub fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        // By way of a value, whose entries are in the order of their names.
        let mut text = serde_json::to_vec_pretty(&serde_json::to_value(self)?)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`Error::Input`] for a file of another content or of a newer layout; [`Error::Io`].
    pub fn read(path: &Path) -> Result<Self> {
        let text = read_text(path)?;
        check_version(path, text.as_bytes())?;
        serde_json::from_str(&text).map_err(|error| not_a_list(path, &error))
    }
}

/// Refuses a list of a newer layout, so that none is replaced; a damaged one may be.
pub(crate) fn check_layout(path: &Path) -> Result<()> {
    match std::fs::read(path) {
        Ok(text) if serde_json::from_slice::<IgnoredAny>(&text).is_err() => {
            tracing::warn!(
                "{}: is damaged; it is written anew at the end of this run",
                path.display()
            );
            Ok(())
        }
        Ok(text) => check_version(path, &text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(path, error)),
    }
}

/// The same for a list that has been read and must be one.
fn check_version(path: &Path, text: &[u8]) -> Result<()> {
    #[derive(Deserialize)]
    struct Layout {
        version: Option<u64>,
    }
    let Layout { version } =
        serde_json::from_slice(text).map_err(|error| not_a_list(path, &error))?;
    match version.filter(|version| *version > VERSION) {
        None => Ok(()),
        Some(version) => {
            let known = format!("this program knows layouts up to {VERSION}");
            let way_out = "use the program that made it, or another folder";
            Err(Error::input(
                path,
                format!("is of layout {version}, and {known}; {way_out}"),
            ))
        }
    }
}

fn not_a_list(path: &Path, error: &serde_json::Error) -> Error {
    Error::input(path, format!("is not a list of images and pairs: {error}"))
}
