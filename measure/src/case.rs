//! What a benchmark measures: a network at a size, its weights and its images.

use std::fmt;
use std::path::PathBuf;

use image::RgbImage;
use image::buffer::ConvertBuffer as _;

use crate::{Stage, generated_pair, suite};
use mast3r::model::checkpoint::Checkpoint;
use mast3r::model::config::{Config, Predicts};
use mast3r::model::registry::Network;
use mast3r::runtime::{Optimisation, Optimisations, Precision};
use mast3r::views::{self, Limits, Resolution};
use mast3r::{Error, Result};

/// What one figure is of.
#[derive(Clone, Debug)]
pub struct Case {
    /// The network.
    pub network: &'static Network,
    /// Width and height in pixels.
    pub size: [u32; 2],
    /// Of weights and products.
    pub precision: Precision,
    /// The part that is timed.
    pub stage: Stage,
    /// Images, or pairs, at a time.
    pub batch: usize,
    /// What the program does for speed.
    pub optimisations: Optimisations,
}

/// Where a benchmark's weights come from.
#[derive(Clone, Debug)]
pub enum WeightSource {
    /// Made by the recipe of [`Checkpoint::random`] from this seed.
    Random(String),
    /// Read, with the name for reports.
    Checkpoint(Checkpoint, String),
}

/// Where a benchmark's images come from.
#[derive(Clone, Debug)]
pub enum ImageSource {
    /// [`generated_pair`].
    Generated,
    /// One or two files.
    Files(Vec<PathBuf>),
}

/// What a loaded network serves.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    network: &'static str,
    pub(crate) config: Config,
    precision: Precision,
    optimisations: Optimisations,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            network,
            size: [width, height],
            precision,
            stage,
            batch,
            ..
        } = self;
        write!(f, "{} {width}x{height} {precision} {stage}", network.name)?;
        if *batch > 1 {
            write!(f, " batch {batch}")?;
        }
        if self.is_default() {
            Ok(())
        } else {
            write!(f, " {}", self.variant())
        }
    }
}

impl Case {
    /// `WIDTHxHEIGHT`.
    pub fn resolution(&self) -> String {
        suite::resolution(self.size)
    }

    /// Which optimisations are off, in words: `default`, `without fused-attention`, `without any
    /// optimisation`.
    pub fn variant(&self) -> String {
        let missing = Optimisations::all()
            .iter()
            .filter(|&optimisation| !self.optimisations.has(optimisation));
        let missing: Vec<&str> = missing.map(Optimisation::name).collect();
        match missing.len() {
            0 => "default".into(),
            count if count == Optimisation::ALL.len() => "without any optimisation".into(),
            _ => format!("without {}", missing.join(", ")),
        }
    }

    pub(crate) fn is_default(&self) -> bool {
        self.optimisations == Optimisations::all()
    }

    /// Whether the spans of a first run are counted; of pairs that threads share none are recorded.
    pub(crate) fn is_counted(&self) -> bool {
        self.is_default() && self.stage != Stage::Pairs
    }

    /// Whether its outputs are compared: those of whole networks on one image or pair.
    pub(crate) fn is_compared(&self) -> bool {
        self.stage == Stage::Full && self.batch == 1 && self.is_default()
    }
}

/// The size that `resolution` means for a network: of generated images, which are 4:3, or square
/// where the network takes squares; or of image files, which must agree in it.
///
/// # Errors
/// [`Error::Usage`] for sides that are no whole patches or files whose sizes differ;
/// [`Error::Input`] about a file.
pub fn size_for(
    network: &Network,
    resolution: Resolution,
    images: &ImageSource,
) -> Result<[u32; 2]> {
    let framing = network.framing(resolution);
    framing.check()?;
    match images {
        ImageSource::Generated => {
            let (width, height) = if network.square_allowed {
                (2048, 2048)
            } else {
                (2048, 1536)
            };
            let crop = framing.place(width, height).map_err(Error::Usage)?;
            Ok([crop.width, crop.height])
        }
        ImageSource::Files(paths) => {
            let mut sizes = Vec::new();
            for path in paths {
                let crop = views::framed_size(path, &framing, &Limits::default())?;
                sizes.push([crop.width, crop.height]);
            }
            match sizes[..] {
                [size] => Ok(size),
                [first, second] if first == second => Ok(first),
                [first, second] => Err(Error::Usage(format!(
                    "the images become {}x{} and {}x{}, and a benchmark wants one size; give WIDTHxHEIGHT",
                    first[0], first[1], second[0], second[1]
                ))),
                _ => Err(Error::Usage(format!(
                    "one or two images are wanted, got {}",
                    sizes.len()
                ))),
            }
        }
    }
}

impl WeightSource {
    /// For reports.
    pub fn describe(&self) -> String {
        match self {
            Self::Random(seed) => format!("random, seed {seed}"),
            Self::Checkpoint(_, name) => name.clone(),
        }
    }

    pub(crate) fn config(&self, case: &Case) -> Config {
        match self {
            Self::Random(_) => case.network.config_at(case.size[0].max(case.size[1])),
            Self::Checkpoint(checkpoint, _) => checkpoint.config().clone(),
        }
    }

    pub(crate) fn key(&self, case: &Case) -> Key {
        let mut config = self.config(case);
        if case.network.predicts() == Predicts::Features {
            config.two_view = None;
        }
        Key {
            network: case.network.name,
            config,
            precision: case.precision,
            optimisations: case.optimisations,
        }
    }

    /// The weights for a case.
    pub fn checkpoint(&self, case: &Case) -> Checkpoint {
        match self {
            Self::Random(seed) => Checkpoint::random(&self.config(case), seed),
            Self::Checkpoint(checkpoint, _) => checkpoint.clone(),
        }
    }
}

impl ImageSource {
    /// For reports.
    pub fn describe(&self) -> String {
        match self {
            Self::Generated => "generated".into(),
            Self::Files(paths) => {
                let name = |path: &PathBuf| {
                    path.file_name()
                        .unwrap_or_default()
                        .to_string_lossy()
                        .into_owned()
                };
                paths.iter().map(name).collect::<Vec<_>>().join(", ")
            }
        }
    }

    pub(crate) fn load(
        &self,
        network: &Network,
        [width, height]: [u32; 2],
    ) -> Result<Vec<RgbImage>> {
        match self {
            Self::Generated => Ok(generated_pair(width, height).into()),
            Self::Files(paths) => {
                let framing = network.framing(Resolution::Exact { width, height });
                let views = views::load(paths, &framing, &Limits::default())?;
                Ok(views.iter().map(|view| view.rgb.convert()).collect())
            }
        }
    }
}
