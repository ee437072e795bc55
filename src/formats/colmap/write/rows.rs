//! A model as the rows of tables.

use nalgebra::{Isometry3, Quaternion, Translation3, UnitQuaternion};

use super::{CameraKind, Model};

/// An image of a model.
pub(crate) struct ModelImage<'a> {
    pub name: &'a str,
    /// Index of its camera.
    pub camera: usize,
    pub camera_from_world: Isometry3<f64>,
    pub focal: [f64; 2],
    /// Counted from the corner of the top left pixel.
    pub principal: [f64; 2],
    /// In the order of its observations, counted from the same corner.
    pub keypoints: Vec<[f64; 2]>,
}

impl Model {
    /// Number of the camera model, size and parameters of each camera.
    pub fn camera_rows(&self) -> impl Iterator<Item = (i64, [u32; 2], &[f64])> {
        self.cameras
            .iter()
            .map(|camera| (camera.kind as i64, camera.size, &camera.parameters[..]))
    }

    /// The images in the order of their numbers.
    pub fn image_rows(&self) -> impl Iterator<Item = ModelImage<'_>> {
        self.images
            .iter()
            .zip(&self.camera_of)
            .map(|(image, &index)| {
                let camera = &self.cameras[index];
                let values = &camera.parameters;
                let (focal, principal) = match camera.kind {
                    CameraKind::Pinhole | CameraKind::OpenCv => {
                        ([values[0], values[1]], [values[2], values[3]])
                    }
                    CameraKind::SimpleRadial | CameraKind::Radial => {
                        ([values[0]; 2], [values[1], values[2]])
                    }
                };
                let [w, x, y, z] = image.rotation;
                ModelImage {
                    name: &image.name,
                    camera: index,
                    camera_from_world: Isometry3::from_parts(
                        Translation3::from(image.translation),
                        UnitQuaternion::new_normalize(Quaternion::new(w, x, y, z)),
                    ),
                    focal,
                    principal,
                    keypoints: image.observations.iter().map(|seen| seen.place).collect(),
                }
            })
    }

    /// Of each point the indices of images and of keypoints that show it.
    pub fn tracks(&self) -> impl Iterator<Item = &[[usize; 2]]> {
        self.points.iter().map(|point| &point.track[..])
    }
}
