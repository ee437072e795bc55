//! Two or more photographs in, a measured 3D scene out: MASt3R, DUNE and DuneMASt3R on Candle.

pub mod error;
pub mod export;
pub mod geometry;
pub mod matching;
pub mod model;
pub mod nn;
pub mod pipeline;
pub mod runtime;
pub mod scene;
pub mod views;

pub use error::{Error, Fault, Result};
pub use pipeline::{Reconstruction, Reconstructor};
pub use scene::{PointFilter, Scene, SceneView};
