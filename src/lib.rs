//! Two or more photographs in, a measured 3D scene out: MASt3R, DUNE and DuneMASt3R on Candle.

pub mod error;
pub mod matching;

pub use error::{Error, Fault, Result};
