//! Weights: files of the published formats, or reproducible random numbers, behind one set of
//! names.
//!
//! A file is told by its content: PyTorch checkpoints (`.pth`) of MASt3R, DUNE and DuneMASt3R, the
//! hub's safetensors, those of Depth Anything 3 among them, and the safetensors of the MLX port,
//! permuted or not. Nothing in a file is executed, no number in it is trusted, and every name and
//! shape is checked before the first weight is read.

mod container;
mod convert;
mod family;
mod infer;
mod literal;
mod map;
mod names;
mod open;
mod pickle;
pub(crate) mod quantised;
mod random;
mod safetensors;
mod source;
mod torch;
mod zip;

#[cfg(test)]
mod forge;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
use sha2::{Digest as _, Sha256};

use self::convert::Flaws;
use self::map::Mapping;
use self::source::Stored;
use crate::checksum::hexadecimal;
use crate::error::{Error, Result};
use crate::model::config::Config;
use crate::model::registry::Network;

/// The weights of one network. Cloning is cheap and shares the files.
#[derive(Clone)]
pub struct Checkpoint {
    inner: Arc<Inner>,
}

struct Inner {
    paths: Vec<PathBuf>,
    config: Config,
    description: String,
    weights: Weights,
    /// The tensor that could last not be used, with the index of its file, until
    /// [`Checkpoint::explain`] takes it.
    damage: Mutex<Option<(usize, String)>>,
}

enum Weights {
    Files {
        maps: Vec<Mapping>,
        tensors: HashMap<String, (usize, Stored)>,
    },
    Random {
        seed: String,
        shapes: HashMap<String, Vec<usize>>,
    },
}

impl Checkpoint {
    /// Opens the weights in `paths`: one file, or a DuneMASt3R decoder and its DUNE encoder in
    /// either order. All names and shapes are checked; the weights themselves are read when they
    /// are asked for, so the files must not be shortened or rewritten while the checkpoint lives.
    ///
    /// # Errors
    /// [`Error::Usage`] unless there are one or two paths; [`Error::Io`] and [`Error::Weights`] for
    /// files that cannot be read, hold another network or are damaged.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        Self::open_with(paths, |_| {})
    }

    /// Like [`Checkpoint::open`]; `adjust` may correct what the files do not record, for example
    /// the head counts of safetensors without a `config.json` (64 channels per head are assumed).
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_with(paths: &[PathBuf], adjust: impl FnOnce(&mut Config)) -> Result<Self> {
        let opened = open::open(paths, adjust)?;
        let weights = Weights::Files {
            maps: opened.maps,
            tensors: opened.tensors,
        };
        let description = format!("{}, {}", title(&opened.config), opened.description);
        Ok(Self::new(
            paths.to_vec(),
            opened.config,
            description,
            weights,
        ))
    }

    /// Whether the file at `path` holds a DuneMASt3R decoder without the DUNE encoder that it
    /// needs: then the name that it gives that encoder, empty if it gives none. Reads names and
    /// settings only.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Weights`] for a file that cannot be read or is damaged.
    pub fn missing_encoder(path: &Path) -> Result<Option<String>> {
        open::missing_encoder(path)
    }

    /// The weights of the network `tiny`, which are part of this library.
    ///
    /// # Errors
    /// None, as long as the library was built from what its authors tested.
    #[cfg(bundled)]
    pub fn tiny() -> Result<Self> {
        /// Trained by scripts/train_tiny.
        static WEIGHTS: &[u8] = include_bytes!("../../../assets/tiny.safetensors");
        let name = PathBuf::from("tiny (bundled)");
        let opened = open::bundled(&name, WEIGHTS)?;
        let weights = Weights::Files {
            maps: opened.maps,
            tensors: opened.tensors,
        };
        let description = format!("{}, bundled, {}", title(&opened.config), opened.description);
        Ok(Self::new(vec![name], opened.config, description, weights))
    }

    /// Pseudo-random weights for a network of these dimensions, the same for the same `seed` on
    /// every machine. They are made tensor by tensor when asked for. Outputs mean nothing, but
    /// timings and comparisons do.
    pub fn random(config: &Config, seed: &str) -> Self {
        let shapes = config
            .tensors()
            .into_iter()
            .map(|spec| (spec.name, spec.shape))
            .collect();
        let weights = Weights::Random {
            seed: seed.to_string(),
            shapes,
        };
        let description = format!("{}, random weights of seed {seed}", title(config));
        Self::new(Vec::new(), config.clone(), description, weights)
    }

    fn new(paths: Vec<PathBuf>, config: Config, description: String, weights: Weights) -> Self {
        Self {
            inner: Arc::new(Inner {
                paths,
                config,
                description,
                weights,
                damage: Mutex::new(None),
            }),
        }
    }

    /// The network's dimensions, as the weights have them.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The files, none for random weights; for bundled ones not a path but what messages call them.
    pub fn paths(&self) -> &[PathBuf] {
        &self.inner.paths
    }

    /// Network, container and number format in a few words: `MASt3R (mast3r), PyTorch .pth, f32`.
    pub fn describe(&self) -> String {
        self.inner.description.clone()
    }

    /// The files' names, each with the first 16 hexadecimal digits of its SHA-256, or `random, seed
    /// SEED`: enough to tell whether two measurements were made with the same weights. Reads the
    /// files whole.
    pub fn fingerprint(&self) -> String {
        let (maps, paths) = match &self.inner.weights {
            Weights::Random { seed, .. } => return format!("random, seed {seed}"),
            Weights::Files { maps, .. } => (maps, &self.inner.paths),
        };
        let one = |(path, map): (&PathBuf, &Mapping)| {
            let digest = Sha256::digest(map.bytes());
            format!(
                "{}, sha256 {}",
                path.file_name()
                    .unwrap_or(path.as_os_str())
                    .to_string_lossy(),
                hexadecimal(&digest[..8])
            )
        };
        paths
            .iter()
            .zip(maps)
            .map(one)
            .collect::<Vec<_>>()
            .join("; ")
    }

    /// Hexadecimal digits that follow from the network's dimensions and from all of its weights,
    /// however the files are named: equal where two checkpoints are of the same content. Reads the
    /// files whole.
    pub fn digest(&self) -> String {
        let mut digest = Sha256::new();
        digest.update(format!("{:?}", self.config()));
        match &self.inner.weights {
            Weights::Random { seed, .. } => digest.update(format!("random, seed {seed}")),
            Weights::Files { maps, .. } => maps.iter().for_each(|map| digest.update(map.bytes())),
        }
        hexadecimal(&digest.finalize()[..16])
    }

    /// Checks that these are weights of `network`; MASt3R's serve its encoder too.
    ///
    /// # Errors
    /// [`Error::Weights`] that says what the files hold and which network fits.
    pub fn expect(&self, network: &Network) -> Result<()> {
        let config = self.config();
        if network.accepts(config) {
            return Ok(());
        }
        let way_out = match Network::of(config) {
            Some(fitting) => format!("they are of the network {}", fitting.name),
            None => "no known network has these dimensions".to_string(),
        };
        let reason = format!(
            "holds {}, not {}; {way_out}",
            dimensions(config),
            network.name
        );
        Err(Error::weights(self.inner.path(0), reason))
    }

    /// Every tensor of the network under its canonical name ([`Config::tensors`]), as `dtype` on
    /// `device`. The weights are read, checked and converted when a layer asks for them. If
    /// building the network fails, [`Self::explain`] turns the error into one that names the file.
    pub fn var_builder(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), dtype, device.clone())
    }

    /// The tensor with the canonical `name`, contiguous, as `dtype` on `device`. Of one that is
    /// stored as int8, `U8` are its bytes as they are, and `NAME.units` the unit of each row.
    ///
    /// # Errors
    /// [`Error::Weights`] if the network has no such tensor, or if values of it are NaN, infinite
    /// or beyond the range of `dtype`; [`Error::Tensor`] if the device has no room.
    pub fn tensor(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let inner = &*self.inner;
        let missing = || Error::weights(inner.path(0), format!("the network has no tensor {name}"));
        let (file, (tensor, flaws)) = match &inner.weights {
            Weights::Files { maps, tensors } => {
                let (file, stored) = find(tensors, name).ok_or_else(missing)?;
                let map = &maps[file];
                map.prefetch(stored.span());
                let read = if dtype == DType::U8 && quantised::units(&stored).is_some() {
                    let bytes = &map.bytes()[stored.span()];
                    convert::bytes(&stored.shape, device, bytes)
                        .map(|tensor| (tensor, Flaws::default()))
                } else {
                    let read = convert::reader(map.bytes(), &stored);
                    convert::tensor(&stored.shape, dtype, device, read)
                };
                map.release(stored.span());
                (file, read?)
            }
            Weights::Random { seed, shapes } => {
                let shape = shapes.get(name).ok_or_else(missing)?;
                (
                    0,
                    convert::tensor(shape, dtype, device, random::generator(seed, name, shape))?,
                )
            }
        };
        match complaint(name, &tensor, flaws, dtype) {
            None => Ok(tensor),
            Some(reason) => {
                *inner.damage() = Some((file, reason.clone()));
                Err(Error::weights(inner.path(file), reason))
            }
        }
    }

    /// The values of the tensor with the canonical `name`, row major, as they are once rounded to
    /// `dtype`.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn values(&self, name: &str, dtype: DType) -> Result<Vec<f32>> {
        let rounded = self.tensor(name, dtype, &Device::Cpu)?;
        Ok(rounded.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    }

    /// The library's error for one that came up while a network was built from
    /// [`Self::var_builder`]: if Candle reported it and a weight was the cause, about the file that
    /// the weight is in; else the error itself.
    pub fn explain(&self, error: impl Into<Error>) -> Error {
        let error = error.into();
        if !matches!(error, Error::Tensor(_)) {
            return error;
        }
        match self.inner.damage().take() {
            Some((file, reason)) => Error::weights(self.inner.path(file), reason),
            None => error,
        }
    }

    fn shape(&self, name: &str) -> Option<Cow<'_, [usize]>> {
        match &self.inner.weights {
            Weights::Files { tensors, .. } => find(tensors, name).map(|(_, stored)| match stored {
                Cow::Borrowed(stored) => Cow::Borrowed(&stored.shape[..]),
                Cow::Owned(units) => Cow::Owned(units.shape),
            }),
            Weights::Random { shapes, .. } => {
                shapes.get(name).map(|shape| Cow::Borrowed(&shape[..]))
            }
        }
    }
}

impl Inner {
    fn path(&self, file: usize) -> PathBuf {
        self.paths
            .get(file)
            .cloned()
            .unwrap_or_else(|| PathBuf::from("random weights"))
    }

    fn damage(&self) -> MutexGuard<'_, Option<(usize, String)>> {
        self.damage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Checkpoint")
            .field("paths", &self.inner.paths)
            .field("holds", &self.describe())
            .finish()
    }
}

impl SimpleBackend for Checkpoint {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        // Compared before the weight is read, so that a mistake in a layer costs nothing.
        match self.shape(name) {
            Some(stored) if *stored != *shape.dims() => {
                candle_core::bail!(
                    "the layer asks for {name} as {:?}, and it is {stored:?}",
                    shape.dims()
                )
            }
            _ => self.get_unchecked(name, dtype, device),
        }
    }

    fn get_unchecked(
        &self,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.tensor(name, dtype, device)
            .map_err(|error| match error {
                Error::Tensor(error) => error,
                other => candle_core::Error::Msg(other.to_string()),
            })
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }
}

/// A tensor of files, or the units of one, and the index of its file.
fn find<'a>(
    tensors: &'a HashMap<String, (usize, Stored)>,
    name: &str,
) -> Option<(usize, Cow<'a, Stored>)> {
    if let Some((file, stored)) = tensors.get(name) {
        return Some((*file, Cow::Borrowed(stored)));
    }
    let (file, stored) = tensors.get(name.strip_suffix(quantised::UNITS)?)?;
    Some((*file, Cow::Owned(quantised::units(stored)?)))
}

/// Why the tensor `name` cannot be used, if it cannot.
fn complaint(name: &str, tensor: &Tensor, flaws: Flaws, dtype: DType) -> Option<String> {
    let total = tensor.elem_count();
    match flaws {
        Flaws {
            not_finite: 0,
            out_of_range: 0,
        } => None,
        Flaws {
            not_finite: 0,
            out_of_range: count,
        } => Some(format!(
            "{count} of the {total} values of {name} are beyond the range of {}; choose another precision",
            dtype.as_str()
        )),
        Flaws {
            not_finite: count, ..
        } => Some(format!(
            "{count} of the {total} values of {name} are NaN or infinite; the file is damaged, so download it again"
        )),
    }
}

/// `MASt3R (mast3r)`.
fn title(config: &Config) -> String {
    let family = config.family();
    Network::of(config).map_or_else(
        || family.to_string(),
        |network| format!("{family} ({})", network.name),
    )
}

/// `DUNE with 12 encoder blocks 384 wide`.
fn dimensions(config: &Config) -> String {
    let encoder = &config.encoder.stack;
    let decoder = config.two_view.as_ref().map(|two_view| &two_view.decoder);
    let decoder =
        decoder.map(|stack| format!(" and {} decoder blocks {} wide", stack.depth, stack.dim));
    format!(
        "{} with {} encoder blocks {} wide{}",
        config.family(),
        encoder.depth,
        encoder.dim,
        decoder.unwrap_or_default()
    )
}
