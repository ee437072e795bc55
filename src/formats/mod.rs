//! Files in which cameras, predictions and point clouds are exchanged: the reader and the writer of
//! a format are in one module, except those of point clouds, whose writers are in `export`.
//!
//! | module | file | read by | written by |
//! |---|---|---|---|
//! | [`cameras`] | `cameras.json` | `alignment::CameraList` | [`CamerasFile`](cameras::CamerasFile) |
//! | `colmap` | COLMAP models, binary and text | `CameraList` | `export::SceneFormat::COLMAP` |
//! | `trajectory` | TUM trajectories | `CameraList` | `export::SceneFormat::TUM` |
//! | `transforms` | `transforms.json` of nerfstudio | `CameraList` | `export::SceneFormat::NERFSTUDIO` |
//! | [`clouds`] | point clouds, PLY and GLB | [`clouds::read`] | `export::SceneFormat::PLY`, `GLB` |
//! | `predictions` | `scene.json` of a folder of predictions | `alignment::PredictionFolder` | `pipeline::WorkFolder` |
//! | `packed_map` | a point map inside another file | `alignment::PairEvidence` | the same |

pub mod cameras;
pub mod clouds;
pub(crate) mod colmap;
pub(crate) mod packed_map;
pub(crate) mod predictions;
pub(crate) mod trajectory;
pub(crate) mod transforms;

use crate::geometry::{Camera, Lens};

/// From coordinates whose integers are pixel centres to those that count from the corner of the top
/// left pixel.
const TO_CORNER: f64 = 0.5;

/// A camera as a file lists it.
#[derive(Debug)]
pub(crate) struct ListedCamera {
    /// Of the image.
    pub name: String,
    pub inside: Inside,
    /// Rows of the matrix that takes the camera to the world, OpenCV axes.
    pub world_from_camera: Option<[[f64; 4]; 4]>,
}

/// What a file says of a camera's intrinsics.
#[derive(Clone, Debug)]
pub(crate) enum Inside {
    Unknown,
    /// At one size or more.
    Known(Vec<ListedIntrinsics>),
    /// The horizontal angle of view, radians, of an image without distortion and with the principal
    /// point in its middle.
    FieldOfView(f64),
    /// Why not.
    Unusable(String),
}

/// Intrinsics at a size of the image, upright or a part of it; the centre of the top left pixel is
/// (0, 0).
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListedIntrinsics {
    pub width: f64,
    pub height: f64,
    pub fx: f64,
    pub fy: f64,
    pub cx: f64,
    pub cy: f64,
    pub radial: [f64; 2],
}

/// An image beside a model and its camera.
#[derive(Clone, Debug)]
pub(crate) struct PosedImage<'a> {
    /// Index of its view.
    pub index: usize,
    /// Its file's name.
    pub name: &'a str,
    pub camera: &'a Camera,
    /// The camera at the file's size.
    pub lens: Lens,
}
