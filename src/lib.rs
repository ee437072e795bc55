//! Two or more photographs in, a 3D reconstruction out: MASt3R, DUNE and DuneMASt3R on Candle.
//!
//! ```text
//! image files ─ views::load ───────▶ View                                           host
//!                                     │ FeatureExtractor::encode  once per view  ┐
//!                                  Features                                      │ device: the
//!                                     │ Mast3r::decode            once per pair  │ only stretch
//!                               PairPrediction                                   ┘ with a Tensor
//!                                     │ pipeline: ViewMaps on the host
//!                                     │ matching::reciprocal_matches · alignment::align
//!                                   Scene ─ export ─▶ ply · glb · html · colmap · nerfstudio · tum · json · csv · npy · exr · png
//! ```
//!
//! [`alignment`] makes one [`Scene`] of the maps and matches of pairs, which [`pairs`] chooses.
//!
//! Each stage is public, so a caller may stop after [`Model::features`] or [`Model::predict`], or
//! bring its own predictions. [`Reconstructor`] runs them all for two views or more:
//!
//! ```no_run
//! use mast3r::runtime::{DeviceChoice, Precision, Runtime};
//! use mast3r::views::{self, Limits, View};
//! use mast3r::{Reconstructor, Model};
//!
//! let runtime = Runtime::new(DeviceChoice::Auto, Precision::F32)?;
//! let model = Model::open("mast3r", &runtime)?;
//! let views = views::load(&["a.jpg", "b.jpg"], model.framing(), &Limits::default())?;
//! let result = Reconstructor::new(&model).run(&views, None, &mast3r::pipeline::unwatched)?;
//! mast3r::export::write(&result.alignment.scene, "cloud.ply", &Default::default())?;
//! # Ok::<(), mast3r::Error>(())
//! ```
//!
//! Images in memory become views by [`View::from_rgb`](views::View::from_rgb). The crates of types
//! in signatures are re-exported: [`candle_core`], [`custom_ops`], [`image`], [`nalgebra`].
//!
//! Tensors live in [`nn`] and [`model`]; [`pipeline`] fetches each result once, and everything
//! after it is plain deterministic Rust on the host, but for the matches that a GPU finds
//! and the depths that [`pipeline::mark_contradicted`] samples. Activations on the CPU are float32
//! whatever the [`runtime::Precision`]; see [`nn`].
//!
//! On NVIDIA GPUs the networks were compared with the reference, and the search for matches with
//! the CPU's, on an H200. The code for Apple GPUs type-checks and was never run.

pub mod alignment;
pub mod buffer;
mod checksum;
pub mod error;
pub mod evaluation;
pub mod export;
pub mod files;
pub mod formats;
pub mod geometry;
pub mod georeference;
pub mod hub;
pub mod input;
pub mod matching;
pub mod model;
pub mod network;
pub mod nn;
pub mod pairs;
pub mod pipeline;
pub mod programs;
mod progress;
pub mod refine;
pub mod runtime;
pub mod scene;
pub mod views;

pub use {candle_core, custom_ops, image, nalgebra};

pub use error::{Error, ErrorKind, Result, Visible};
pub use network::Model;
pub use pipeline::{Reconstruction, Reconstructor};
pub use scene::{PointFilter, Scene, SceneView};

/// Compiles the README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(test)]
mod tests {
    /// What a program keeps, it may keep in another thread.
    #[test]
    fn values_may_be_shared_among_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<crate::Error>();
        shared::<crate::Model>();
        shared::<crate::Reconstruction>();
        shared::<crate::Reconstructor<'static>>();
        shared::<crate::Scene>();
        shared::<crate::model::Predictions>();
        shared::<crate::model::checkpoint::Checkpoint>();
        shared::<crate::network::ChosenModel>();
        shared::<crate::runtime::Runtime>();
        shared::<crate::views::View>();
    }
}
