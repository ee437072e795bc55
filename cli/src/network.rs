//! Which network, with which weights, at which size.

use std::path::PathBuf;

use clap::Args;
use mast3r::hub::Cache;
use mast3r::model::registry::{NETWORKS, Network};
use mast3r::network::{ChosenModel, ModelChoice, WeightChoice};
use mast3r::views::{Framing, Resolution};
use mast3r::{Error, Result};

/// Prefix of `--weights` that asks for generated ones.
const RANDOM: &str = "random:";

/// The network's part of a command's arguments.
#[derive(Debug, Args)]
#[command(next_help_heading = "Network")]
pub struct NetworkArgs {
    /// Network [default: the one of the weights]
    ///
    /// Two-view networks: mast3r, dunemast3r-small, dunemast3r-base, and tiny, whose weights are
    /// part of the program. Networks of any number of views: da3-small, da3-base. Encoders:
    /// mast3r-encoder, dune-small, dune-base. With random weights the default is mast3r, or its
    /// encoder.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,

    /// Checkpoint, .safetensors or .pth; or random:SEED for random weights
    ///
    /// By default those in the cache, where `mast3r pull` puts published weights. The kind of file
    /// is recognised by its content. Give the option twice if decoder and encoder are in two files.
    /// random:SEED makes reproducible random weights without any file, for tests and timings.
    #[arg(long, value_name = "FILE")]
    weights: Vec<PathBuf>,

    /// Image size for the network: the long side in pixels, or WIDTHxHEIGHT
    ///
    /// WIDTHxHEIGHT must be multiples of the patch size: 16 pixels for mast3r, 14 for all others. By
    /// default the long side is 512 for mast3r, 504 for da3-small and da3-base and 336 for the
    /// others. For mast3r and the DUNE networks a long side of 224 means a square of 224x224.
    #[arg(long, value_name = "SIZE")]
    res: Option<Resolution>,
}

impl NetworkArgs {
    /// The framing that the arguments alone decide, before any weights are opened: for checking
    /// images early.
    pub fn early_framing(&self, default: &str) -> Result<Option<Framing>> {
        self.choice(default)?.early_framing()
    }

    /// Opens the weights and checks names and shapes; `default` is the network without `--model`
    /// and file.
    pub fn choose(&self, default: &str) -> Result<ChosenModel> {
        let choice = self.choice(default)?;
        choice
            .choose()
            .map_err(|error| match (&error, choice.network) {
                (Error::NoWeights { .. }, Some(network)) => self.no_weights(network),
                _ => error,
            })
    }

    /// Whether a network of this name, or of weights that are yet to be opened, may take one image.
    pub fn may_take_one_view(&self, default: &str) -> Result<bool> {
        let network = self.choice(default)?.network;
        Ok(network.is_none_or(|network| network.predicts().least_views() == 1))
    }

    /// What the arguments ask for; `default` as in [`NetworkArgs::choose`].
    pub fn choice(&self, default: &str) -> Result<ModelChoice> {
        let weights = weight_choice(&self.weights)?;
        let named = self.model.as_deref().map(Network::find).transpose()?;
        let network = match (named, &weights) {
            (None, WeightChoice::Published | WeightChoice::Random(_)) => {
                Some(Network::find(default)?)
            }
            _ => named,
        };
        Ok(ModelChoice {
            network,
            weights,
            resolution: self.res,
        })
    }

    /// Why there are no weights of `network`, and what there is instead.
    fn no_weights(&self, network: &Network) -> Error {
        let side = self.res.map(Resolution::long_side);
        let name = network.name;
        // Of another network that would do, if nobody asked for this one.
        let is_here = |other: &&Network| {
            Cache::from_env()
                .and_then(|cache| cache.find(other, side))
                .is_ok_and(|weights| weights.is_some())
        };
        let would_do = |other: &&Network| {
            self.model.is_none()
                && other.predicts().reconstructs() >= network.predicts().reconstructs()
        };
        let here = NETWORKS
            .iter()
            .filter(would_do)
            .find(is_here)
            .map(|other| format!(", use those of {0} with --model {0}", other.name));
        let usual = network.weights_at(None);
        // Only if it makes a difference.
        let size = match (network.weights_at(side), side) {
            (file, Some(side)) if file != usual => format!(" --res {side}"),
            _ => String::new(),
        };
        let bundled = NETWORKS
            .iter()
            .find(|other| other.has_bundled_weights() && other.predicts() == network.predicts());
        let try_out = match bundled {
            Some(bundled) => format!(
                "--model {}, whose weights are part of the program",
                bundled.name
            ),
            None => format!("--weights {RANDOM}0, with which outputs mean nothing"),
        };
        let fetch = format!("fetch the published ones with `mast3r pull {name}{size}`");
        let here = here.unwrap_or_default();
        let reason = format!(
            "no weights in the cache; {fetch}{here}, give a file with --weights FILE, or try {try_out}"
        );
        Error::weights(name, reason)
    }

    /// The same with random weights of seed 0 where there are no others: for measurements.
    pub fn or_random(&self) -> Self {
        let is_bundled =
            |name: &String| Network::find(name).is_ok_and(Network::has_bundled_weights);
        let none = self.weights.is_empty() && !self.model.as_ref().is_some_and(is_bundled);
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
}

/// The weights that `--weights` asks for.
pub fn weight_choice(weights: &[PathBuf]) -> Result<WeightChoice> {
    let seeds: Vec<_> = weights
        .iter()
        .filter_map(|path| path.to_str()?.strip_prefix(RANDOM).map(str::to_string))
        .collect();
    match (&seeds[..], weights.len()) {
        ([], 0) => Ok(WeightChoice::Published),
        ([], _) => Ok(WeightChoice::Files(weights.to_vec())),
        ([seed], 1) => Ok(WeightChoice::Random(seed.clone())),
        _ => Err(Error::Usage("--weights random:SEED stands alone".into())),
    }
}
