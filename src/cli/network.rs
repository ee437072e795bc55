//! Which network, with which weights, at which size.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use mast3r::hub::Cache;
use mast3r::model::VarBuilder;
use mast3r::model::checkpoint::Checkpoint;
use mast3r::model::config::Config;
use mast3r::model::registry::{NETWORKS, Network};
use mast3r::views::{Framing, Resolution};
use mast3r::{Error, Result};

/// Prefix of `--weights` that asks for generated ones.
const RANDOM: &str = "random:";

/// The network whose weights come with the program, in builds that have it.
const BUNDLED: &str = "tiny";

/// The network's part of a command's arguments.
#[derive(Debug, Args)]
#[command(next_help_heading = "Network")]
pub struct NetworkArgs {
    /// Which network; if not given, the one that the weights are of
    ///
    /// Of two pictures: mast3r, dunemast3r-small, dunemast3r-base, and tiny, whose weights are part
    /// of the program. Encoders alone: mast3r-encoder, dune-small, dune-base. With random weights
    /// it is mast3r or its encoder, if not given.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,

    /// Checkpoint, .safetensors or .pth; or random:SEED for random weights
    ///
    /// If not given, the cache's, where mast3r pull puts published ones. The kind of file is
    /// recognised by its content. Where decoder and encoder are in two files, give the option
    /// twice. random:SEED makes the same random weights every time, without any file: outputs then
    /// mean nothing, but the program can be tried and timed.
    #[arg(long, value_name = "FILE")]
    weights: Vec<PathBuf>,

    /// Size that pictures are brought to: the long side in pixels, or WIDTHxHEIGHT
    ///
    /// WIDTHxHEIGHT must be multiples of the patch: 16 pixels for mast3r, 14 for the DUNE networks.
    /// If not given, the long side is 512 for mast3r and 336 for the DUNE networks, tiny among
    /// them. For all but tiny a long side of 224 means a square of 224x224.
    #[arg(long, value_name = "SIZE")]
    res: Option<Resolution>,
}

/// A network with weights, not yet loaded.
#[derive(Debug)]
pub struct Chosen {
    /// The name for reports; the file's own description where no known network has its dimensions.
    pub name: String,
    /// Its weights.
    pub checkpoint: Checkpoint,
    /// How it wants its pictures.
    pub framing: Framing,
}

impl NetworkArgs {
    /// The framing that the arguments alone decide, before any weights are opened: for checking
    /// pictures early.
    pub fn early_framing(&self, default: &str) -> Result<Option<Framing>> {
        match &self.model {
            None if !self.weights.is_empty() && random_seed(&self.weights)?.is_none() => Ok(None),
            model => {
                let network = Network::find(model.as_deref().unwrap_or(default))?;
                let framing = self.framing(&network.config, Some(network));
                framing.check()?;
                Ok(Some(framing))
            }
        }
    }

    /// Opens the weights and checks names and shapes; `default` is the network without `--model`
    /// and file.
    pub fn choose(&self, default: &str) -> Result<Chosen> {
        let named = self.model.as_deref().map(Network::find).transpose()?;
        if let Some(seed) = random_seed(&self.weights)? {
            let network = match named {
                Some(network) => network,
                None => Network::find(default)?,
            };
            let framing = self.framing(&network.config, Some(network));
            let checkpoint =
                Checkpoint::random(&network.config_at(long_side(framing.resolution)), &seed);
            return Ok(Chosen {
                name: network.name.into(),
                checkpoint,
                framing,
            });
        }
        // Without a file they are of a certain network.
        let wanted = match self.weights.is_empty() {
            true => Some(named.map_or_else(|| Network::find(default), Ok)?),
            false => named,
        };
        let checkpoint = match wanted {
            Some(network) if self.weights.is_empty() && network.is_bundled() => bundled()?,
            Some(network) if self.weights.is_empty() => Checkpoint::open(&self.cached(network)?)?,
            _ => Checkpoint::open(&self.weights)?,
        };
        if let Some(network) = wanted {
            checkpoint.expect(network)?;
        }
        let network = wanted.or_else(|| Network::of(checkpoint.config()));
        let framing = self.framing(checkpoint.config(), network);
        framing.check()?;
        let name = network.map_or_else(|| checkpoint.describe(), |network| network.name.into());
        Ok(Chosen {
            name,
            checkpoint,
            framing,
        })
    }

    /// The weights of `network` in the cache.
    fn cached(&self, network: &Network) -> Result<Vec<PathBuf>> {
        let cache = Cache::from_env()?;
        let side = self.res.map(long_side);
        if let Some(paths) = cache.find(network, side)? {
            paths
                .iter()
                .for_each(|path| tracing::info!("weights in the cache: {}", path.display()));
            return Ok(paths);
        }
        let name = network.name;
        // Of another network that would do, if nobody asked for this one.
        let others = NETWORKS
            .iter()
            .filter(|other| self.model.is_none() && other.is_two_view() >= network.is_two_view());
        let mut here = others.filter(|other| {
            cache
                .find(other, side)
                .is_ok_and(|weights| weights.is_some())
        });
        let here = here
            .next()
            .map(|other| format!(", use those of {0} with --model {0}", other.name));
        let usual = network.weights_at(None);
        // Only if it makes a difference.
        let size = match (network.weights_at(side), side) {
            (file, Some(side)) if file != usual => format!(" --res {side}"),
            _ => String::new(),
        };
        let try_out = match is_bundled(Some(BUNDLED)) && network.is_two_view() {
            true => format!("--model {BUNDLED}, whose weights are part of the program"),
            false => format!("--weights {RANDOM}0, with which outputs mean nothing"),
        };
        let fetch = format!("fetch the published ones with `mast3r pull {name}{size}`");
        let here = here.unwrap_or_default();
        let reason = format!(
            "no weights in the cache; {fetch}{here}, give a file with --weights FILE, or try {try_out}"
        );
        Err(Error::weights(name, reason))
    }

    /// The same with random weights of seed 0 where there are no others: for measurements.
    pub fn or_random(&self) -> Self {
        let none = self.weights.is_empty() && !is_bundled(self.model.as_deref());
        let weights = if none {
            vec![format!("{RANDOM}0").into()]
        } else {
            self.weights.clone()
        };
        Self {
            model: self.model.clone(),
            weights,
            res: self.res,
        }
    }

    /// The files given as weights; `random:SEED` is none of them, and no file can be mistaken for
    /// it.
    pub fn files(&self) -> &[PathBuf] {
        &self.weights
    }

    fn framing(&self, config: &Config, network: Option<&Network>) -> Framing {
        let default_side = network.map_or(if config.is_dune() { 336 } else { 512 }, |known| {
            known.default_long_side
        });
        let resolution = self.res.unwrap_or(Resolution::LongSide(default_side));
        match network {
            Some(known) => known.framing(resolution),
            None => {
                let patch = config.encoder.patch as u32;
                Framing {
                    resolution,
                    patch,
                    square_allowed: config.is_dune(),
                    square_at_224: true,
                }
            }
        }
    }
}

/// The long side of pictures of this size, in pixels.
fn long_side(resolution: Resolution) -> u32 {
    match resolution {
        Resolution::LongSide(side) => side,
        Resolution::Exact { width, height } => width.max(height),
    }
}

/// Whether the network of this name comes with the program.
pub fn is_bundled(model: Option<&str>) -> bool {
    cfg!(feature = "tiny")
        && model.is_some_and(|name| Network::find(name).is_ok_and(Network::is_bundled))
}

/// The weights that are part of the program.
pub fn bundled() -> Result<Checkpoint> {
    #[cfg(feature = "tiny")]
    return Checkpoint::tiny();
    #[cfg(not(feature = "tiny"))]
    Err(Error::weights(
        "tiny",
        "this program was built without the feature `tiny`, which holds its weights; build it with that feature, or give \
         --weights FILE",
    ))
}

/// The seed, if `weights` asks for random ones.
pub fn random_seed(weights: &[PathBuf]) -> Result<Option<String>> {
    let seeds: Vec<_> = weights
        .iter()
        .filter_map(|path| path.to_str()?.strip_prefix(RANDOM).map(str::to_string))
        .collect();
    match (&seeds[..], weights.len()) {
        ([], _) => Ok(None),
        ([seed], 1) => Ok(Some(seed.clone())),
        _ => Err(Error::Usage("--weights random:SEED stands alone".into())),
    }
}

impl Chosen {
    /// Builds a network from the weights; errors about a weight name its file.
    pub fn build<T>(
        &self,
        runtime: &mast3r::runtime::Runtime,
        build: impl FnOnce(&Config, &VarBuilder) -> Result<T>,
    ) -> anyhow::Result<T> {
        self.try_build(runtime, build)
            .with_context(|| format!("cannot load {}", self.checkpoint.describe()))
    }

    /// As [`Chosen::build`], with the library's own error.
    pub fn try_build<T>(
        &self,
        runtime: &mast3r::runtime::Runtime,
        build: impl FnOnce(&Config, &VarBuilder) -> Result<T>,
    ) -> Result<T> {
        let size = self.framing.resolution;
        tracing::info!(
            "{}, {}, on {}, size {size}",
            self.checkpoint.describe(),
            runtime.precision(),
            runtime.device_name()
        );
        if runtime.device().is_cpu() {
            tracing::info!(
                "{} threads, {}",
                rayon::current_num_threads(),
                mast3r::runtime::instruction_set()
            );
        }
        let vb = self
            .checkpoint
            .var_builder(runtime.precision().dtype(), runtime.device());
        build(self.checkpoint.config(), &vb).map_err(|error| self.checkpoint.explain(error))
    }
}
