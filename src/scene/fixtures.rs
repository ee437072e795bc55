//! Views for tests.

use image::RgbImage;

use super::SceneView;
use crate::geometry::{Camera, PointMap};
use crate::views::{Crop, pixels};

/// A view of a whole black image with these points, row by row, of confidence 1 and depth 1.
pub(crate) fn view(
    name: &str,
    [width, height]: [u32; 2],
    camera: Option<Camera>,
    points: impl IntoIterator<Item = [f32; 3]>,
) -> SceneView {
    let points: Vec<[f32; 3]> = points.into_iter().collect();
    let count = points.len();
    SceneView {
        name: name.into(),
        crop: Crop::whole(width, height),
        camera,
        points: PointMap {
            width: width as usize,
            height: height as usize,
            points: points.into(),
            confidence: vec![1.0; count].into(),
        },
        depth: vec![1.0; count].into(),
        rgb: pixels(RgbImage::new(width, height)),
        contradicted: None,
        masked: 0,
    }
}
