//! Cameras as JSON: poses, and intrinsics at the size that the network saw and at the file's.

use std::io::{self, Write};
use std::path::Path;

use nalgebra::Isometry3;
use serde::{Deserialize, Serialize};

use super::{Inside, ListedCamera, ListedIntrinsics};
use crate::error::{Error, Result};
use crate::geometry::{Camera, Geodetic, Intrinsics, Lens};
use crate::scene::Scene;
use crate::views::Crop;
use crate::views::names::distinct_names;

/// The content of a `cameras.json`.
#[derive(Clone, Debug, Serialize)]
pub struct CamerasFile {
    /// Always `mast3r-cameras`.
    pub format: &'static str,
    /// Version of the layout.
    pub version: u32,
    /// Where the world's origin lies on the Earth, of a georeferenced scene: x is east, y north and z
    /// up then, in metres.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub georeference: Option<Geodetic>,
    /// One entry per image, in the scene's order.
    pub images: Vec<CameraEntry>,
    /// The folder of depth maps, relative to this file, where [`CameraEntry::depth_file`] are: see
    /// `export::write_depth`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth_folder: Option<String>,
    /// Where depth maps lie, relative to this file: see
    /// `export::write_depth_tensors`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depths: Option<String>,
}

/// One image of a [`CamerasFile`]. Pixel coordinates have the centre of the top left pixel at (0,
/// 0).
#[derive(Clone, Debug, Serialize)]
pub struct CameraEntry {
    /// The image's name, see [`views::names`](crate::views::names): unique in this file.
    pub name: String,
    /// At the size that the network saw.
    #[serde(flatten)]
    pub network: SizedIntrinsics,
    /// Rows of the 4x4 matrix that takes camera to world coordinates, OpenCV axes; `None` if not
    /// placed.
    pub world_from_camera: Option<[[f64; 4]; 4]>,
    /// The same camera at the size of the upright file.
    pub file: SizedIntrinsics,
    /// k1 and k2 of the lens distortion, see [`Lens`], where cameras were refined: of both sizes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub radial: Option<[f64; 2]>,
    /// Its depth map in [`CamerasFile::depth_folder`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth_file: Option<String>,
}

/// Intrinsics at one size of an image; only the size is known of an image that has not been
/// placed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SizedIntrinsics {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Horizontal focal length, pixels.
    pub fx: Option<f64>,
    /// Vertical focal length, pixels.
    pub fy: Option<f64>,
    /// Column of the principal point.
    pub cx: Option<f64>,
    /// Row of the principal point.
    pub cy: Option<f64>,
}

impl CamerasFile {
    /// The cameras of `scene`.
    ///
    /// # Errors
    /// [`Error::Usage`] if a view is inconsistent, see [`Scene::check`].
    pub fn new(scene: &Scene) -> Result<Self> {
        scene.check()?;
        let names = distinct_names(scene.views.iter().map(|view| view.name.as_str()));
        let images = (0..scene.views.len())
            .zip(names)
            .map(|(view, name)| CameraEntry::new(scene, view, name))
            .collect();
        Ok(Self {
            georeference: scene.georeference,
            ..Self::of_images(images)
        })
    }

    /// Cameras of undistorted images at their own size, by the images' names, in one world.
    pub fn of_cameras(cameras: impl IntoIterator<Item = (String, Camera)>) -> Self {
        let entry = |(name, camera): (String, Camera)| {
            let sized = SizedIntrinsics::known(&camera.intrinsics);
            CameraEntry {
                name,
                network: sized,
                world_from_camera: Some(rows(&camera.world_from_camera)),
                file: sized,
                radial: None,
                depth_file: None,
            }
        };
        Self::of_images(cameras.into_iter().map(entry).collect())
    }

    fn of_images(images: Vec<CameraEntry>) -> Self {
        Self {
            format: "mast3r-cameras",
            version: 1,
            georeference: None,
            images,
            depth_folder: None,
            depths: None,
        }
    }

    /// Names the depth maps that `export::write_depth` made of the same scene in
    /// `folder`: its `export::depth_files`.
    pub fn set_depth_folder(&mut self, folder: String, files: Vec<String>) {
        self.depth_folder = Some(folder);
        for (image, file) in self.images.iter_mut().zip(files) {
            image.depth_file = Some(file);
        }
    }

    /// Writes the JSON, indented, with a line break at the end.
    ///
    /// # Errors
    /// Only the writer's own.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, self)?;
        out.write_all(b"\n")
    }
}

impl CameraEntry {
    fn new(scene: &Scene, index: usize, name: String) -> Self {
        let view = &scene.views[index];
        let lens = scene.lens(index);
        let crop = &view.crop;
        let (network, file) = match &view.camera {
            Some(camera) => (
                SizedIntrinsics::known(&camera.intrinsics),
                SizedIntrinsics::known(
                    &lens.map_or_else(|| at_file(&camera.intrinsics, crop), Lens::pinhole),
                ),
            ),
            None => (
                SizedIntrinsics::unknown(view.rgb.width(), view.rgb.height()),
                SizedIntrinsics::unknown(crop.file_width, crop.file_height),
            ),
        };
        let world_from_camera = view
            .camera
            .as_ref()
            .map(|camera| rows(&scene.world_from_camera(camera)));
        Self {
            name,
            network,
            world_from_camera,
            file,
            radial: lens.map(|lens| lens.radial),
            depth_file: None,
        }
    }
}

impl SizedIntrinsics {
    fn known(inside: &Intrinsics) -> Self {
        let Intrinsics {
            width,
            height,
            fx,
            fy,
            cx,
            cy,
            ..
        } = *inside;
        Self {
            width,
            height,
            fx: Some(fx),
            fy: Some(fy),
            cx: Some(cx),
            cy: Some(cy),
        }
    }

    fn unknown(width: u32, height: u32) -> Self {
        Self {
            width,
            height,
            fx: None,
            fy: None,
            cx: None,
            cy: None,
        }
    }
}

/// The same camera at the upright file's size: with k file pixels per pixel of the network and the
/// crop at l, `c_file + 0.5 = (c + 0.5 + l) k` and `f_file = f k` in either direction.
pub(crate) fn at_file(inside: &Intrinsics, crop: &Crop) -> Intrinsics {
    let [kx, ky] = crop.scale_to_file();
    let [cx, cy] = crop.to_file([inside.cx, inside.cy]);
    Intrinsics {
        width: crop.file_width,
        height: crop.file_height,
        fx: inside.fx * kx,
        fy: inside.fy * ky,
        cx,
        cy,
    }
}

fn rows(world_from_camera: &Isometry3<f64>) -> [[f64; 4]; 4] {
    let matrix = world_from_camera.to_homogeneous();
    std::array::from_fn(|row| std::array::from_fn(|column| matrix[(row, column)]))
}

/// The content of a `cameras.json`, as far as it is read: sizes may be any numbers.
#[derive(Debug, Deserialize)]
struct ReadFile {
    images: Vec<ReadEntry>,
}

#[derive(Debug, Deserialize)]
struct ReadEntry {
    name: String,
    #[serde(flatten)]
    network: ReadIntrinsics,
    file: Option<ReadIntrinsics>,
    radial: Option<[f64; 2]>,
    world_from_camera: Option<[[f64; 4]; 4]>,
}

#[derive(Debug, Deserialize)]
struct ReadIntrinsics {
    width: f64,
    height: f64,
    fx: Option<f64>,
    fy: Option<f64>,
    cx: Option<f64>,
    cy: Option<f64>,
}

impl ReadIntrinsics {
    fn known(&self, radial: [f64; 2]) -> Option<ListedIntrinsics> {
        let Self { width, height, .. } = *self;
        Some(ListedIntrinsics {
            width,
            height,
            fx: self.fx?,
            fy: self.fy?,
            cx: self.cx?,
            cy: self.cy?,
            radial,
        })
    }
}

/// The cameras of a file with this text.
pub(crate) fn read(text: &str, path: &Path) -> Result<Vec<ListedCamera>> {
    let file: ReadFile = serde_json::from_str(text)
        .map_err(|error| Error::input(path, format!("is not a list of cameras: {error}")))?;
    let entry = |entry: ReadEntry| {
        let sizes = [Some(&entry.network), entry.file.as_ref()];
        let radial = entry.radial.unwrap_or_default();
        let sizes: Vec<ListedIntrinsics> = sizes
            .into_iter()
            .flatten()
            .filter_map(|sized| sized.known(radial))
            .collect();
        ListedCamera {
            name: entry.name,
            inside: if sizes.is_empty() {
                Inside::Unknown
            } else {
                Inside::Known(sizes)
            },
            world_from_camera: entry.world_from_camera,
        }
    };
    Ok(file.images.into_iter().map(entry).collect())
}
