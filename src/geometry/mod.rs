//! Cameras, point maps, and the pose of two views from what the network predicts for them.
//!
//! Pixels are (column, row) with the centre of the top left pixel at (0, 0). Camera axes are
//! OpenCV's: x right, y down, z forward. Everything here is computed in f64 on the host and is
//! deterministic.

mod camera;
pub mod consistency;
mod focal;
mod geodesy;
mod lens;
mod median;
pub mod pnp;
mod point_map;
pub mod procrustes;
pub(crate) mod ransac;
pub(crate) mod sparse;
mod upright;

pub use camera::{Camera, Intrinsics};
pub use focal::estimate_focal;
pub(crate) use focal::{ONE_CAMERA, weiszfeld};
pub use geodesy::{Geodetic, LocalFrame, Utm};
pub(crate) use lens::LENS_PARAMETERS;
pub use lens::Lens;
pub(crate) use median::median;
pub use point_map::PointMap;
pub use upright::{UpDirection, up_direction};
