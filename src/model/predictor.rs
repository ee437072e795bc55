//! Every kind of network behind one type.

use std::sync::Arc;

use candle_nn::VarBuilder;

use super::any_view::DepthAnything;
use super::config::{Config, Predicts};
use super::features::{FeatureExtractor, Features};
use super::joint::{JointNetwork, ViewPrediction};
use super::network::{Mast3r, PairPrediction};
use crate::runtime::Runtime;
use crate::views::View;
use crate::{Error, Result};

/// A network on a device, by what it predicts. Cloning is cheap and shares the weights.
#[derive(Clone, Debug)]
pub enum Predictor {
    /// Features of each view.
    Encoder(Box<FeatureExtractor>),
    /// Points, confidences and descriptors of pairs of views.
    Pairwise(Box<Mast3r>),
    /// Cameras and depths of all views together.
    Joint(Arc<dyn JointNetwork>),
}

/// What a network predicts of a set of views.
#[derive(Clone, Debug)]
pub enum Predictions {
    /// Features of each view, in order.
    Features(Vec<Features>),
    /// Of every ordered pair of views, by their indices: `[0, 1]`, `[1, 0]`, `[0, 2]` and so on.
    Pairs(Vec<([usize; 2], PairPrediction)>),
    /// Camera and depth of each view, in order.
    Views(Vec<ViewPrediction>),
}

impl Predictor {
    /// The network that `config` describes, from `vb`.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a tensor is missing or misshapen.
    pub fn new(config: &Config, vb: &VarBuilder, runtime: &Runtime) -> Result<Self> {
        match config.predicts() {
            Predicts::Features => FeatureExtractor::new(config, vb, runtime).map(Self::from),
            Predicts::Pairs => Mast3r::new(config, vb, runtime).map(Self::from),
            Predicts::Scene => {
                let network = DepthAnything::new(config, vb, runtime)?;
                Ok(Self::Joint(Arc::new(network)))
            }
        }
    }

    /// What it predicts.
    pub fn predicts(&self) -> Predicts {
        match self {
            Self::Encoder(_) => Predicts::Features,
            Self::Pairwise(_) => Predicts::Pairs,
            Self::Joint(_) => Predicts::Scene,
        }
    }

    /// The encoder, of networks that have one for each view alone.
    pub fn encoder(&self) -> Option<&FeatureExtractor> {
        match self {
            Self::Encoder(encoder) => Some(encoder),
            Self::Pairwise(network) => Some(network.extractor()),
            Self::Joint(_) => None,
        }
    }

    /// Everything that the network predicts of `views`, on its device. A pairwise network predicts
    /// every pair in both orders: memory grows with the square of the views.
    ///
    /// # Errors
    /// [`Error::Usage`] for fewer views than one prediction takes or sides that are not whole
    /// patches; errors of the device.
    pub fn predict(&self, views: &[View]) -> Result<Predictions> {
        let least = self.predicts().least_views();
        if views.len() < least {
            return Err(Error::Usage(format!(
                "the network predicts {least} views or more at a time, got {}",
                views.len()
            )));
        }
        match self {
            Self::Encoder(encoder) => encoder.encode(views, true).map(Predictions::Features),
            Self::Joint(network) => network.predict(views).map(Predictions::Views),
            Self::Pairwise(network) => {
                let features = network.extractor().encode(views, true)?;
                let seconds = |second| (0..second).map(move |first| (first, second));
                let pairs: Vec<[usize; 2]> = (0..views.len())
                    .flat_map(seconds)
                    .flat_map(|(first, second)| [[first, second], [second, first]])
                    .collect();
                let orders: Vec<[&Features; 2]> = pairs
                    .iter()
                    .map(|pair| pair.map(|view| &features[view]))
                    .collect();
                let predicted = network.decode_all(&orders, usize::MAX)?;
                Ok(Predictions::Pairs(
                    pairs.into_iter().zip(predicted).collect(),
                ))
            }
        }
    }
}

impl From<Mast3r> for Predictor {
    fn from(network: Mast3r) -> Self {
        Self::Pairwise(Box::new(network))
    }
}

impl From<FeatureExtractor> for Predictor {
    fn from(encoder: FeatureExtractor) -> Self {
        Self::Encoder(Box::new(encoder))
    }
}
