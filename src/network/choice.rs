//! Which network, with which weights, at which size.

use std::path::{Path, PathBuf};
use std::thread;

use super::Model;
use crate::error::{Error, Result};
use crate::hub::Cache;
use crate::model::checkpoint::Checkpoint;
use crate::model::config::Predicts;
use crate::model::registry::Network;
use crate::model::{FeatureExtractor, Predictor, VarBuilder};
use crate::runtime::Runtime;
use crate::views::{Framing, Resolution};

/// Which network is wanted.
#[derive(Clone, Debug, Default)]
pub struct ModelChoice {
    /// The network; if not given, the one that the weights are of.
    pub network: Option<&'static Network>,
    /// Its weights.
    pub weights: WeightChoice,
    /// The size that images are brought to; if not given, the network's usual one.
    pub resolution: Option<Resolution>,
}

/// Where weights come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum WeightChoice {
    /// They are part of the library or lie in the cache.
    #[default]
    Published,
    /// One file, or a DuneMASt3R decoder and its encoder.
    Files(Vec<PathBuf>),
    /// Random numbers, the same for the same seed. Outputs mean nothing.
    Random(String),
}

/// A network whose weights are open and checked, not yet loaded.
#[derive(Debug)]
pub struct ChosenModel {
    /// The name for reports; the file's own description where no known network has its dimensions.
    pub name: String,
    /// Its weights.
    pub checkpoint: Checkpoint,
    /// How it wants its images.
    pub framing: Framing,
}

impl ModelChoice {
    /// The network of this name, or else the weights in the file of this name.
    ///
    /// # Errors
    /// [`Error::Usage`] for a text that is no known name and no path of a file.
    pub fn of(name_or_path: impl AsRef<Path>) -> Result<Self> {
        let path = name_or_path.as_ref();
        let named = path.to_str().map(Network::find);
        match named {
            Some(Ok(network)) => Ok(Self {
                network: Some(network),
                ..Self::default()
            }),
            // A name without an extension was meant as a network's, unless there is such a file.
            Some(Err(unknown))
                if path.extension().is_none()
                    && path.components().count() == 1
                    && !path.exists() =>
            {
                Err(unknown)
            }
            _ => Ok(Self {
                weights: WeightChoice::Files(vec![path.to_path_buf()]),
                ..Self::default()
            }),
        }
    }

    /// The framing, if it is known before any weights are opened: for checking images early.
    ///
    /// # Errors
    /// [`Error::Usage`] for a size that no image can be brought to.
    pub fn early_framing(&self) -> Result<Option<Framing>> {
        let framing = self.network.map(|network| self.framing_of(network));
        framing
            .map(|framing| framing.check().map(|()| framing))
            .transpose()
    }

    /// Opens the weights and checks names and shapes.
    ///
    /// # Errors
    /// [`Error::NoWeights`] if there are none of the network here; [`Error::Weights`] and
    /// [`Error::Io`] for files that cannot be read, are damaged or hold another network;
    /// [`Error::Usage`] if neither network nor weights are given, or for a size that no image can
    /// be brought to.
    pub fn choose(&self) -> Result<ChosenModel> {
        let checkpoint = match (&self.weights, self.network) {
            (WeightChoice::Files(paths), _) => Checkpoint::open(paths)?,
            (_, None) => {
                return Err(Error::Usage(
                    "neither a network nor weights are given".into(),
                ));
            }
            (WeightChoice::Random(seed), Some(network)) => {
                let side = self.framing_of(network).resolution.long_side();
                Checkpoint::random(&network.config_at(side), seed)
            }
            (WeightChoice::Published, Some(network)) if network.bundled => bundled(network)?,
            (WeightChoice::Published, Some(network)) => self.cached(network)?,
        };
        if let Some(network) = self.network {
            checkpoint.expect(network)?;
        }
        let network = self.network.or_else(|| Network::of(checkpoint.config()));
        let framing = match network {
            Some(network) => self.framing_of(network),
            None => checkpoint.config().framing(self.resolution),
        };
        framing.check()?;
        let name = network.map_or_else(|| checkpoint.describe(), |network| network.name.into());
        Ok(ChosenModel {
            name,
            checkpoint,
            framing,
        })
    }

    fn framing_of(&self, network: &Network) -> Framing {
        let usual = Resolution::LongSide(network.default_long_side);
        network.framing(self.resolution.unwrap_or(usual))
    }

    fn cached(&self, network: &Network) -> Result<Checkpoint> {
        let side = self.resolution.map(Resolution::long_side);
        let paths = Cache::from_env()?.find(network, side)?;
        let paths = paths.ok_or_else(|| Error::NoWeights {
            network: network.name.into(),
        })?;
        paths
            .iter()
            .for_each(|path| tracing::info!("weights in the cache: {}", path.display()));
        Checkpoint::open(&paths)
    }
}

/// The weights that are part of the library.
fn bundled(network: &Network) -> Result<Checkpoint> {
    #[cfg(bundled)]
    let weights = {
        let _ = network;
        Checkpoint::tiny()
    };
    #[cfg(not(bundled))]
    let weights = Err(Error::weights(
        network.name,
        "this build does not hold its weights: build from the repository with the feature `tiny`, or give a file of weights",
    ));
    weights
}

impl ChosenModel {
    /// What the network predicts.
    pub fn predicts(&self) -> Predicts {
        self.checkpoint.config().predicts()
    }

    /// Loads the network.
    ///
    /// # Errors
    /// [`Error::Weights`] for a tensor that cannot be used; errors of the device.
    pub fn load(&self, runtime: &Runtime) -> Result<Model> {
        let config = self.checkpoint.config();
        Ok(Model {
            name: self.name.clone(),
            weights: self.checkpoint.describe(),
            framing: self.framing,
            predictor: self.build(runtime, |vb| Predictor::new(config, vb, runtime))?,
        })
    }

    /// Loads the network on each of several devices, at the same time.
    ///
    /// # Errors
    /// As [`ChosenModel::load`], of the first device that has one.
    pub fn load_each(&self, runtimes: &[Runtime]) -> Result<Vec<Model>> {
        each(runtimes, |runtime| self.load(runtime))
    }

    /// Loads the encoder alone on each of several devices, at the same time.
    ///
    /// # Errors
    /// As [`ChosenModel::load_each`].
    pub fn load_encoders(&self, runtimes: &[Runtime]) -> Result<Vec<FeatureExtractor>> {
        each(runtimes, |runtime| self.load_encoder(runtime))
    }

    /// Loads the encoder alone.
    ///
    /// # Errors
    /// As [`ChosenModel::load`].
    pub fn load_encoder(&self, runtime: &Runtime) -> Result<FeatureExtractor> {
        let config = self.checkpoint.config();
        self.build(runtime, |vb| FeatureExtractor::new(config, vb, runtime))
    }

    /// Builds a network from the weights; an error about a weight names its file.
    fn build<T>(
        &self,
        runtime: &Runtime,
        build: impl FnOnce(&VarBuilder) -> Result<T>,
    ) -> Result<T> {
        tracing::info!(
            "{}, {}, on {}, size {}",
            self.checkpoint.describe(),
            runtime.precision(),
            runtime.device_name(),
            self.framing.resolution
        );
        if runtime.device().is_cpu() {
            tracing::info!(
                "{} threads, {}",
                rayon::current_num_threads(),
                crate::runtime::instruction_set()
            );
        }
        let vb = self
            .checkpoint
            .var_builder(runtime.precision().dtype(), runtime.device());
        build(&vb).map_err(|error| self.checkpoint.explain(error))
    }
}

/// What `load` makes on each device, in a thread for each where there are several.
fn each<T: Send>(
    runtimes: &[Runtime],
    load: impl Fn(&Runtime) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    if let [only] = runtimes {
        return Ok(vec![load(only)?]);
    }
    let load = |runtime| load(runtime).map_err(|error| error.on_device(|| runtime.device_name()));
    thread::scope(|scope| {
        let load = &load;
        let loading: Vec<_> = runtimes
            .iter()
            .map(|runtime| scope.spawn(move || load(runtime)))
            .collect();
        let loaded = loading.into_iter().map(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        loaded.collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_network_and_a_path_a_file() {
        let named = ModelChoice::of("tiny").unwrap();
        assert_eq!(named.network.unwrap().name, "tiny");
        assert_eq!(named.weights, WeightChoice::Published);
        for path in ["mast3r.safetensors", "weights/mast3r", "Cargo.toml"] {
            let file = ModelChoice::of(path).unwrap();
            assert!(file.network.is_none());
            assert_eq!(file.weights, WeightChoice::Files(vec![path.into()]));
        }
        let error = ModelChoice::of("mastr").unwrap_err();
        assert!(matches!(&error, Error::Usage(_)), "{error}");
    }

    #[test]
    fn random_weights_need_no_file_and_a_network() {
        let network = Network::find("dune-small").unwrap();
        let choice = ModelChoice {
            network: Some(network),
            weights: WeightChoice::Random("7".into()),
            resolution: Some(Resolution::LongSide(448)),
        };
        let chosen = choice.choose().unwrap();
        assert_eq!(chosen.predicts(), Predicts::Features);
        assert_eq!(chosen.checkpoint.config(), &network.config_at(448));
        assert_eq!(chosen.framing, choice.early_framing().unwrap().unwrap());
        let nothing = ModelChoice {
            network: None,
            ..choice
        };
        assert!(matches!(nothing.choose(), Err(Error::Usage(_))));
    }
}
