//! What the network says about one view: a 3D point and a confidence per pixel.

use crate::buffer::Buffer;

/// One view's points, row major, in some camera's frame.
#[derive(Clone, Debug, PartialEq)]
pub struct PointMap {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// A point per pixel, OpenCV axes.
    pub points: Buffer<[f32; 3]>,
    /// A confidence per pixel, 1 at least from a sound network.
    pub confidence: Buffer<f32>,
}

impl PointMap {
    /// Principal point of an image of this size, its middle.
    pub(crate) fn middle(&self) -> [f64; 2] {
        [
            (self.width as f64 - 1.0) / 2.0,
            (self.height as f64 - 1.0) / 2.0,
        ]
    }

    /// Whether there is one point and one confidence per pixel, and a pixel at all.
    pub(crate) fn is_consistent(&self) -> bool {
        let pixels = self.width.checked_mul(self.height);
        pixels.is_some_and(|pixels| {
            pixels > 0 && self.points.len() == pixels && self.confidence.len() == pixels
        })
    }

    /// Column and row of the pixel with this index.
    pub(crate) fn pixel(&self, index: usize) -> [f64; 2] {
        [(index % self.width) as f64, (index / self.width) as f64]
    }

    /// Index of the pixel nearest to `pixel`, if inside.
    pub(crate) fn index(&self, pixel: [f64; 2]) -> Option<usize> {
        let (x, y) = (pixel[0].round(), pixel[1].round());
        let inside = x >= 0.0 && y >= 0.0 && x < self.width as f64 && y < self.height as f64;
        inside.then(|| y as usize * self.width + x as usize)
    }
}
