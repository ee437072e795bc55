//! The networks: MASt3R, DUNE, DuneMASt3R and Depth Anything 3, from checkpoint to prediction.

pub mod checkpoint;
pub mod config;
pub mod encoder;
pub mod input;
pub mod published;
pub mod registry;

mod any_view;
mod decoder;
mod features;
mod head;
mod joint;
mod network;
mod predictor;

pub use any_view::{AnyViewMaps, DepthAnything, PoseEncoding, Rays};
/// The weights that networks are built from, by name: Candle's own type.
pub use candle_nn::VarBuilder;
pub use decoder::{Decoder, GridTokens, Hooked};
pub use features::{FeatureExtractor, Features};
pub use head::{Head, Prediction, descriptors, pixels_from_tokens, points};
pub use joint::{JointNetwork, ViewPrediction};
pub use network::{DecoderTokens, Mast3r, PairPrediction};
pub use predictor::{Predictions, Predictor};
