//! Two or more photographs in, a measured 3D scene out: MASt3R, DUNE and DuneMASt3R on Candle.
//!
//! ```text
//! image files ─ views::load ───────▶ View                                           host
//!                                     │ FeatureExtractor::encode  once per view  ┐
//!                                  Features                                      │ device: the
//!                                     │ Mast3r::decode            once per pair  │ only stretch
//!                               PairPrediction                                   ┘ with a Tensor
//!                                     │ pipeline: ViewMaps on the host
//!                                     │ matching::reciprocal_matches · geometry::two_view
//!                                   Scene ─ export ─▶ ply · glb · colmap · nerfstudio · tum · json · csv · npy · exr · png
//! ```
//!
//! [`alignment`] does for many views what `geometry::two_view` does for two: from the maps and
//! matches of their pairs, which [`pairs`] chooses, to one [`Scene`].
//!
//! Each stage is public, so a caller may stop after [`model::FeatureExtractor::encode`] or bring
//! its own predictions. [`Reconstructor`] runs them all for two views, [`ManyReconstructor`] for
//! any number:
//!
//! ```no_run
//! use mast3r::Reconstructor;
//! use mast3r::model::{Mast3r, checkpoint::Checkpoint, registry::Network};
//! use mast3r::runtime::{DeviceChoice, Precision, Runtime};
//! use mast3r::views::{self, Limits, Resolution};
//!
//! let runtime = Runtime::new(DeviceChoice::Auto, Precision::F32)?;
//! let checkpoint = Checkpoint::open(&["mast3r.safetensors".into()])?;
//! let vb = checkpoint.var_builder(runtime.precision().dtype(), runtime.device());
//! let model = Mast3r::new(checkpoint.config(), &vb, &runtime)?;
//! let framing = Network::find("mast3r")?.framing(Resolution::LongSide(512));
//! let views = views::load(&["a.jpg", "b.jpg"], &framing, &Limits::default())?;
//! let result = Reconstructor::new(&model).run([&views[0], &views[1]], |_| {})?;
//! mast3r::export::write(&result.alignment.scene, "cloud.ply", &Default::default())?;
//! # Ok::<(), mast3r::Error>(())
//! ```
//!
//! Tensors live in [`nn`] and [`model`]; [`pipeline`] fetches each result once, and everything
//! after it is plain deterministic Rust on the host, but for the matches that an NVIDIA GPU seeks
//! and the depths that [`pipeline::mark_contradicted`] samples. Activations on the CPU are float32
//! whatever the [`runtime::Precision`]; see [`nn`].
//!
//! On NVIDIA GPUs the networks were compared with the reference, and the search for matches with
//! the CPU's, on an H200. The code for Apple GPUs type-checks and was never run.

pub mod alignment;
mod checksum;
pub mod error;
pub mod export;
pub mod geometry;
#[cfg(feature = "hub")]
pub mod hub;
pub mod input;
pub mod matching;
#[cfg(feature = "measure")]
pub mod measure;
pub mod model;
pub mod nn;
pub mod pairs;
pub mod pipeline;
pub mod refine;
pub mod runtime;
pub mod scene;
pub mod views;

pub use error::{Error, Fault, Result, Visible};
pub use pipeline::{ManyReconstruction, ManyReconstructor, Reconstruction, Reconstructor};
pub use scene::{PointFilter, Scene, SceneView};

/// Compiles the README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
