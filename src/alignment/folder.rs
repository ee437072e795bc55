//! Predictions of pairs stored in a folder: what alignment works from, so that it runs without a
//! network.
//!
//! | file | content |
//! |---|---|
//! | `scene.json` | `images`: name (a relative path that stays in its folder), width, height of each; `pairs`: `[i, j]` of two images, i < j; the rest is not read |
//! | `views.safetensors` | `{i}.rgb` u8 (height, width, 3); `{i}.descriptors` i8 (height, width, channels), to be normalised |
//! | `pairs.safetensors` | for both orders of each pair `{a}-{b}.first.*` of view a and `{a}-{b}.second.*` of view b, points in a's frame |
//!
//! The tensors of a view in an order are `points` f16 or f32 (height, width, 3), `confidence` and
//! `descriptor_confidence` (height, width), and `descriptors` where they replace the view's own.
//!
//! A folder that grows has a file for each view and each pair instead of the two large ones:
//! `scene.json` then names for each image its `file`, with the tensor `0.rgb`, and in `pair_files`
//! one for each pair, see [`PairEvidence::to_safetensors`]. These hold matches, and no descriptors.
//! `exchanged` says of each pair whether its second image is the file's first one, `crop` where in
//! its image's file an image lies, and `metric` whether points are in metres. `version` is that of
//! this layout.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use half::f16;
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::{EvidenceStore, Pair, PairEvidence};
use crate::buffer::Buffers;
use crate::checksum::{self, Integrity};
use crate::error::{Error, Result, Visible};
use crate::formats::predictions::{self, ImageEntry, SceneFile};
use crate::geometry::PointMap;
use crate::matching::{MatchOptions, ViewMaps};
use crate::views::names::refuse_name;
use crate::views::{self, Crop, View};

/// Longest header of a file of tensors; the format's own bound.
const LONGEST_HEADER: u64 = 100_000_000;

/// A folder of stored predictions, checked and open.
#[derive(Debug)]
pub struct PredictionFolder {
    images: Vec<ImageEntry>,
    pairs: Vec<Pair>,
    tensors: Tensors,
    scene_path: PathBuf,
    metric: bool,
}

/// Where the tensors lie.
#[derive(Debug)]
enum Tensors {
    /// Of the views and of the pairs.
    Together(Box<[TensorFile; 2]>),
    /// By the folder's images and pairs.
    Apart {
        views: Vec<PathBuf>,
        pairs: Vec<StoredPair>,
    },
}

#[derive(Debug)]
struct StoredPair {
    file: PathBuf,
    /// Whether the pair's second view is the file's first one.
    exchanged: bool,
}

/// Random access to a folder's evidence.
struct FolderStore<'a> {
    folder: &'a PredictionFolder,
    options: &'a MatchOptions,
}

impl EvidenceStore for FolderStore<'_> {
    fn pairs(&self) -> &[Pair] {
        &self.folder.pairs
    }

    fn read(&self, index: usize) -> Result<PairEvidence> {
        let Pair { first, second } = self.folder.pairs[index];
        self.folder
            .read_listed(index, self.options)
            .map_err(|error| error.of_pair([first, second]))
    }
}

impl PredictionFolder {
    /// Opens the folder's files and checks the list of images and pairs; tensors are read when they
    /// are needed.
    ///
    /// # Errors
    /// [`Error::Input`] for a file that is missing, damaged or contradicts itself; [`Error::Io`].
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let scene_path = folder.join(predictions::FILE);
        if !folder.is_dir() {
            let reason = if folder.exists() {
                "it is a file; name a folder"
            } else {
                "no such folder; check the spelling"
            };
            return Err(Error::input(folder, reason));
        }
        if !scene_path.exists() {
            let way_out = "name a folder with scene.json, or the work folder of a run that ended";
            return Err(Error::input(
                folder,
                format!("it holds no predictions; {way_out}"),
            ));
        }
        let scene = SceneFile::read(&scene_path)?;
        let refuse = |reason: String| Err(Error::input(&scene_path, reason));
        if scene.images.is_empty() || scene.pairs.is_empty() {
            let what = if scene.images.is_empty() {
                "images"
            } else {
                "pairs"
            };
            return refuse(format!("it lists no {what}"));
        }
        for ImageEntry {
            name,
            width,
            height,
            crop,
            ..
        } in &scene.images
        {
            if let Some(reason) = refuse_name(name) {
                let name = Visible(name);
                return refuse(format!(
                    "\"{name}\" is not a name for an image: {reason}; expected a path such as left/0.jpg"
                ));
            }
            let whole = crop.unwrap_or_else(|| Crop::whole(*width, *height));
            if let Err(reason) = whole.check() {
                return refuse(format!("{name}: {reason}"));
            }
            if let Some(crop) = crop.filter(|crop| (crop.width, crop.height) != (*width, *height)) {
                return refuse(format!(
                    "{name} has {width}x{height} pixels, its crop {}x{}",
                    crop.width, crop.height
                ));
            }
        }
        let mut pairs = Vec::with_capacity(scene.pairs.len());
        for &[first, second] in &scene.pairs {
            if first >= second || second >= scene.images.len() {
                let count = scene.images.len();
                return refuse(format!(
                    "the pair [{first}, {second}] is not [i, j] with i < j < {count}"
                ));
            }
            pairs.push(Pair { first, second });
        }
        let mut sorted = pairs.clone();
        sorted.sort_unstable();
        if let Some(twice) = sorted.windows(2).find(|two| two[0] == two[1]) {
            return refuse(format!(
                "the pair [{}, {}] is listed twice",
                twice[0].first, twice[0].second
            ));
        }
        let files = scene
            .images
            .iter()
            .filter_map(|image| image.file.as_ref())
            .chain(scene.pair_files.iter().flatten());
        for file in files {
            if let Some(reason) = refuse_name(file) {
                return refuse(format!(
                    "the file \"{}\" cannot be used: {reason}",
                    Visible(file)
                ));
            }
        }
        let tensors = match scene.pair_files {
            None => {
                let file = |name: &str| TensorFile::open(folder.join(name));
                Tensors::Together(Box::new([
                    file("views.safetensors")?,
                    file("pairs.safetensors")?,
                ]))
            }
            Some(files) if files.len() == pairs.len() => {
                let view = |image: &ImageEntry| image.file.as_ref().map(|file| folder.join(file));
                let Some(views) = scene.images.iter().map(view).collect() else {
                    return refuse("it names files of pairs, but not of every image".into());
                };
                let exchanged = scene.exchanged.unwrap_or_else(|| vec![false; files.len()]);
                if exchanged.len() != files.len() {
                    return refuse(format!(
                        "it says of {} pairs of {} which view is first",
                        exchanged.len(),
                        files.len()
                    ));
                }
                let pair = |(file, exchanged)| StoredPair {
                    file: folder.join::<&String>(file),
                    exchanged,
                };
                Tensors::Apart {
                    views,
                    pairs: files.iter().zip(exchanged).map(pair).collect(),
                }
            }
            Some(files) => {
                return refuse(format!(
                    "it names {} files for {} pairs",
                    files.len(),
                    pairs.len()
                ));
            }
        };
        Ok(Self {
            images: scene.images,
            pairs,
            tensors,
            scene_path,
            metric: scene.metric,
        })
    }

    /// The files that the folder consists of.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.scene_path.clone()];
        match &self.tensors {
            Tensors::Together(both) => files.extend(both.each_ref().map(|file| file.path.clone())),
            Tensors::Apart { views, pairs } => {
                files.extend(
                    views
                        .iter()
                        .chain(pairs.iter().map(|pair| &pair.file))
                        .cloned(),
                );
            }
        }
        files
    }

    /// Whether points are in metres; otherwise that is not known.
    pub fn is_metric(&self) -> bool {
        self.metric
    }

    /// The pairs, in the file's order.
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// The images, in the file's order; one without a crop counts as a whole file.
    ///
    /// # Errors
    /// [`Error::Input`] for an image that is missing or of another size; [`Error::Io`].
    pub fn views(&self) -> Result<Vec<View>> {
        let pixels = |image: &ImageEntry| u64::from(image.width) * u64::from(image.height);
        let mut buffers = Buffers::for_bytes(3 * self.images.iter().map(pixels).sum::<u64>())?;
        let view = |(index, image): (usize, &ImageEntry)| {
            let (width, height) = (image.width, image.height);
            let shape = [height as usize, width as usize, 3];
            let bytes = match &self.tensors {
                Tensors::Together(both) => {
                    both[0].bytes(&format!("{index}.rgb"), Dtype::U8, &shape)?
                }
                Tensors::Apart { views, .. } => TensorFile::open_checked(views[index].clone())
                    .and_then(|file| file.bytes("0.rgb", Dtype::U8, &shape))
                    .map_err(made_anew)?,
            };
            let crop = image.crop.unwrap_or_else(|| Crop::whole(width, height));
            let rgb = views::within(width, height, buffers.put(bytes.into())?);
            Ok(View::of_pixels(image.name.clone(), rgb, crop))
        };
        self.images.iter().enumerate().map(view).collect()
    }

    /// Every pair's evidence in turn, read as it is asked for; matched by `options` unless the
    /// matches are stored too. A pair that cannot be matched because its predictions are not finite
    /// is an [`Error::PairNotFinite`].
    pub fn evidence<'a>(
        &'a self,
        options: &'a MatchOptions,
    ) -> impl Iterator<Item = Result<PairEvidence>> + 'a {
        let store = self.store(options);
        (0..self.pairs.len()).map(move |index| store.read(index))
    }

    /// Random access to the evidence, for [`align_stored`](crate::alignment::align_stored).
    pub fn store<'a>(&'a self, options: &'a MatchOptions) -> impl EvidenceStore + 'a {
        FolderStore {
            folder: self,
            options,
        }
    }

    /// Reads both orders of a pair of the folder, and its matches or what they are sought in.
    ///
    /// # Errors
    /// [`Error::Input`] for a pair without all of its tensors or with some of another size;
    /// [`Error::Io`]; those of [`ViewMaps::matches`].
    pub fn read_pair(&self, pair: Pair, options: &MatchOptions) -> Result<PairEvidence> {
        match &self.tensors {
            Tensors::Together(both) => self.match_pair(both, pair, options),
            Tensors::Apart { .. } => {
                let Some(index) = self.pairs.iter().position(|listed| *listed == pair) else {
                    let reason =
                        format!("does not list the pair [{}, {}]", pair.first, pair.second);
                    return Err(Error::input(&self.scene_path, reason));
                };
                self.read_listed(index, options)
            }
        }
    }

    /// The same, of a pair by its place in the list.
    fn read_listed(&self, index: usize, options: &MatchOptions) -> Result<PairEvidence> {
        let pair = self.pairs[index];
        match &self.tensors {
            Tensors::Together(both) => self.match_pair(both, pair, options),
            Tensors::Apart { pairs, .. } => {
                let StoredPair { file, exchanged } = &pairs[index];
                PairEvidence::read(pair, file, *exchanged)
            }
        }
    }

    /// Reads both orders of a pair and seeks its matches.
    fn match_pair(
        &self,
        files: &[TensorFile; 2],
        pair: Pair,
        options: &MatchOptions,
    ) -> Result<PairEvidence> {
        let order = |a: usize, b: usize| -> Result<[ViewMaps; 2]> {
            let maps = |name: &str, view: usize| self.maps(files, &format!("{a}-{b}.{name}"), view);
            Ok([maps("first", a)?, maps("second", b)?])
        };
        let forward = order(pair.first, pair.second)?;
        let reverse = order(pair.second, pair.first)?;
        PairEvidence::of_decodes(pair, forward, reverse, options)
    }

    fn maps(
        &self,
        [views, pairs]: &[TensorFile; 2],
        prefix: &str,
        view: usize,
    ) -> Result<ViewMaps> {
        let (width, height) = (
            self.images[view].width as usize,
            self.images[view].height as usize,
        );
        let floats = |name: &str, shape: &[usize]| pairs.floats(&format!("{prefix}.{name}"), shape);
        let own = format!("{prefix}.descriptors");
        let (file, name) = if pairs.has(&own) {
            (pairs, own)
        } else {
            (views, format!("{view}.descriptors"))
        };
        let channels = file.channels(&name, [height, width])?;
        let mut descriptors = file.floats(&name, &[height, width, channels])?;
        for descriptor in descriptors.chunks_exact_mut(channels.max(1)) {
            let length = descriptor
                .iter()
                .map(|value| value * value)
                .sum::<f32>()
                .sqrt();
            descriptor.iter_mut().for_each(|value| *value /= length);
        }
        Ok(ViewMaps {
            points: PointMap {
                width,
                height,
                points: floats("points", &[height, width, 3])?
                    .as_chunks::<3>()
                    .0
                    .to_vec()
                    .into(),
                confidence: floats("confidence", &[height, width])?.into(),
            },
            descriptors,
            channels,
            descriptor_confidence: floats("descriptor_confidence", &[height, width])?,
        })
    }
}

/// A safetensors file whose tensors are read one by one: a collection's predictions may exceed the
/// memory.
#[derive(Debug)]
struct TensorFile {
    path: PathBuf,
    header: Metadata,
    data_start: u64,
    size: u64,
}

impl TensorFile {
    fn open(path: PathBuf) -> Result<Self> {
        let mut file = File::open(&path).map_err(|error| Error::unreadable(&path, error))?;
        let size = file
            .metadata()
            .map_err(|error| Error::io(&path, error))?
            .len();
        let mut length = [0; 8];
        let truncated =
            || Error::input(&path, "is not a safetensors file or ends inside its header");
        file.read_exact(&mut length).map_err(|_| truncated())?;
        let length = u64::from_le_bytes(length);
        if length > LONGEST_HEADER.min(size - 8) {
            return Err(truncated());
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header)
            .map_err(|error| Error::io(&path, error))?;
        let header = serde_json::from_slice(&header)
            .map_err(|error| Error::input(&path, format!("its header is damaged: {error}")))?;
        Ok(Self {
            path,
            header,
            data_start: 8 + length,
            size,
        })
    }

    /// Opens a file that fits in memory, whose checksum, if it has one, must be that of its
    /// content.
    fn open_checked(path: PathBuf) -> Result<Self> {
        let bytes = fs::read(&path).map_err(|error| Error::unreadable(&path, error))?;
        if checksum::integrity(&bytes) == Integrity::Damaged {
            return Err(Error::input(
                &path,
                "is damaged: its content does not match its checksum",
            ));
        }
        Self::open(path)
    }

    fn has(&self, name: &str) -> bool {
        self.header.info(name).is_some()
    }

    /// The last extent of the tensor `name`, whose first two must be `size`.
    fn channels(&self, name: &str, size: [usize; 2]) -> Result<usize> {
        match self.header.info(name).map(|info| &info.shape[..]) {
            Some(&[height, width, channels]) if [height, width] == size => Ok(channels),
            Some(shape) => Err(self.refusal(
                name,
                format!("is {shape:?} and should be {size:?} with channels"),
            )),
            None => Err(self.refusal(name, "is missing")),
        }
    }

    fn bytes(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<Vec<u8>> {
        let (found, bytes) = self.read(name, shape)?;
        if found != dtype {
            return Err(self.refusal(
                name,
                format!("is stored as {found:?} and should be {dtype:?}"),
            ));
        }
        Ok(bytes)
    }

    fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (dtype, bytes) = self.read(name, shape)?;
        match dtype {
            Dtype::F32 => Ok(bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect()),
            Dtype::F16 => Ok(bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|bytes| f16::from_le_bytes(*bytes).to_f32())
                .collect()),
            Dtype::I8 => Ok(bytes.iter().map(|&byte| f32::from(byte as i8)).collect()),
            other => Err(self.refusal(
                name,
                format!("is stored as {other:?}; F32, F16 and I8 are read"),
            )),
        }
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<(Dtype, Vec<u8>)> {
        let Some(info) = self.header.info(name) else {
            return Err(self.refusal(name, "is missing"));
        };
        if info.shape != shape {
            return Err(self.refusal(name, format!("is {:?} and should be {shape:?}", info.shape)));
        }
        let (begin, end) = info.data_offsets;
        let wanted = shape.iter().product::<usize>() as u64 * (info.dtype.bitsize() as u64 / 8);
        if end as u64 > self.size - self.data_start
            || (end as u64).checked_sub(begin as u64) != Some(wanted)
        {
            return Err(self.refusal(
                name,
                "does not lie within the file; it is incomplete or damaged",
            ));
        }
        let mut bytes = vec![0; end - begin];
        let mut file = File::open(&self.path).map_err(|error| Error::io(&self.path, error))?;
        file.seek(SeekFrom::Start(self.data_start + begin as u64))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|error| Error::io(&self.path, error))?;
        Ok((info.dtype, bytes))
    }

    fn refusal(&self, name: &str, reason: impl std::fmt::Display) -> Error {
        Error::input(&self.path, format!("the tensor {name} {reason}"))
    }
}

/// What to do about a file that a run made.
fn made_anew(error: Error) -> Error {
    match error {
        Error::Input { path, reason } => Error::Input {
            path,
            reason: format!("{reason}; delete it, and a run with this work folder makes it anew"),
        },
        other => other,
    }
}
