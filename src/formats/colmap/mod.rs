//! COLMAP models: cameras, poses and tracks, for COLMAP itself, for splatting programs and whatever
//! else reads them.
//!
//! ```text
//! FOLDER/images/    the images
//! FOLDER/sparse/0/  cameras, images and points3D, each .bin or .txt
//! ```
//!
//! Pixels are COLMAP's: the centre of the top left one is (0.5, 0.5). Poses take the world to the
//! camera, quaternions have w first. Numbers of cameras, images and points begin at 1 and follow
//! the images' names, as COLMAP numbers what it finds in a folder: so its own features of the
//! images go with the model. Images of one size whose intrinsics are equal, as shared or given
//! ones are, have one camera together. Cameras are PINHOLE, or SIMPLE_RADIAL or RADIAL where lens
//! distortion was found.

mod read;
mod write;

pub(crate) use read::{is_model, read};
pub(crate) use write::Model;
#[cfg(feature = "database")]
pub(crate) use write::ModelImage;

/// How a model is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// `cameras.bin` and so on: smaller, exact, read first by most programs.
    Binary,
    /// `cameras.txt` and so on, for people. White space in images' names becomes `_`: there it ends
    /// a name.
    Text,
}
