//! Networks with their weights: chosen by name or file, and opened on a device.
//!
//! ```no_run
//! use mast3r::Model;
//! use mast3r::runtime::{DeviceChoice, Precision, Runtime};
//!
//! let runtime = Runtime::new(DeviceChoice::Auto, Precision::F32)?;
//! let model = Model::open("mast3r", &runtime)?;
//! let framing = model.framing();
//! # Ok::<(), mast3r::Error>(())
//! ```
//!
//! What a network predicts, and of how many views at a time, is its [`Predicts`]. Nothing else tells
//! the kinds apart: a network that predicts all views together ([`JointNetwork`]) reconstructs like
//! one that predicts pairs.

mod choice;

use std::borrow::Borrow;
use std::path::Path;
use std::sync::Arc;

pub use choice::{ChosenModel, ModelChoice, WeightChoice};

use crate::error::{Error, Result};
use crate::model::config::Predicts;
use crate::model::{FeatureExtractor, Features, JointNetwork, Mast3r, Predictions, Predictor};
use crate::runtime::Runtime;
use crate::views::{Framing, View};

/// A network on a device, with its weights. Cloning is cheap and shares the weights.
#[derive(Clone, Debug)]
pub struct Model {
    name: String,
    weights: String,
    framing: Framing,
    predictor: Predictor,
}

impl Model {
    /// Opens a network by its name in [`NETWORKS`](crate::model::registry::NETWORKS), with the
    /// weights that are part of the library or lie in the cache, or by a file of weights.
    ///
    /// Images are framed at the network's usual size; [`ModelChoice`] chooses another, and weights
    /// in two files.
    ///
    /// # Errors
    /// [`Error::Usage`] for an unknown name; [`Error::NoWeights`] for a network without weights
    /// here; [`Error::Weights`] and [`Error::Io`] for files that cannot be used; errors of the
    /// device.
    pub fn open(name_or_path: impl AsRef<Path>, runtime: &Runtime) -> Result<Self> {
        ModelChoice::of(name_or_path)?.choose()?.load(runtime)
    }

    /// A joint network of the caller's own, which wants its images in `framing`.
    pub fn joint(
        name: impl Into<String>,
        framing: Framing,
        network: Arc<dyn JointNetwork>,
    ) -> Self {
        let name = name.into();
        Self {
            weights: name.clone(),
            name,
            framing,
            predictor: Predictor::Joint(network),
        }
    }

    /// The network's name; its family and dimensions where it is none of the known ones.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Network, file and number format of the weights in a few words.
    pub fn weights(&self) -> &str {
        &self.weights
    }

    /// How it wants its images: for [`views::load`](crate::views::load) and
    /// [`View::from_rgb`].
    pub fn framing(&self) -> &Framing {
        &self.framing
    }

    /// What it predicts.
    pub fn predicts(&self) -> Predicts {
        self.predictor.predicts()
    }

    /// The network itself.
    pub fn predictor(&self) -> &Predictor {
        &self.predictor
    }

    /// The encoder.
    ///
    /// # Errors
    /// [`Error::Usage`] for a network that encodes no view alone.
    pub fn encoder(&self) -> Result<&FeatureExtractor> {
        self.predictor.encoder().ok_or_else(|| {
            Error::Usage(format!(
                "{} predicts no features of single views",
                self.name
            ))
        })
    }

    /// The network of pairs: for stages one by one.
    ///
    /// # Errors
    /// [`Error::Usage`] for a network that predicts no pairs.
    pub fn pairwise(&self) -> Result<&Mast3r> {
        match &self.predictor {
            Predictor::Pairwise(network) => Ok(network),
            _ => Err(Error::Usage(format!(
                "{} predicts no pairs of views",
                self.name
            ))),
        }
    }

    /// Patch features of each view, in order, on the device; views of equal size are encoded
    /// together.
    ///
    /// # Errors
    /// As [`Model::encoder`]; [`Error::Usage`] for sides that are not whole patches; errors of the
    /// device.
    pub fn features<V: Borrow<View>>(&self, views: &[V]) -> Result<Vec<Features>> {
        self.encoder()?.encode(views, true)
    }

    /// Everything that the network predicts of `views`, as tensors on the device; see
    /// [`Predictor::predict`]. `pipeline::fetch_pairs` brings pairs to the
    /// host.
    ///
    /// # Errors
    /// As [`Predictor::predict`].
    pub fn predict(&self, views: &[View]) -> Result<Predictions> {
        self.predictor.predict(views)
    }
}
