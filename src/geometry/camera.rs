//! The pinhole camera.

use nalgebra::{Isometry3, Point3};

/// Focal lengths and principal point of an image of `width` x `height` pixels; no skew, no
/// distortion.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Intrinsics {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Horizontal focal length, pixels.
    pub fx: f64,
    /// Vertical focal length, pixels.
    pub fy: f64,
    /// Column of the principal point; the centre of the top left pixel is (0, 0).
    pub cx: f64,
    /// Row of the principal point.
    pub cy: f64,
}

impl Intrinsics {
    /// One focal length and the principal point in the middle, ((width - 1) / 2, (height - 1) / 2).
    pub fn centred(width: u32, height: u32, focal: f64) -> Self {
        let middle = |size: u32| (f64::from(size) - 1.0) / 2.0;
        Self {
            width,
            height,
            fx: focal,
            fy: focal,
            cx: middle(width),
            cy: middle(height),
        }
    }

    /// The same camera for the upright file, whose image was shrunk by `kx`, `ky` (file over
    /// resized size) and then cut at column `left`, row `top` of the resized image. Scaling
    /// happens about the image's corner, half a pixel off the centre of its first pixel.
    pub fn at_file(
        &self,
        kx: f64,
        ky: f64,
        left: u32,
        top: u32,
        file_width: u32,
        file_height: u32,
    ) -> Self {
        Self {
            width: file_width,
            height: file_height,
            fx: self.fx * kx,
            fy: self.fy * ky,
            cx: (self.cx + 0.5 + f64::from(left)) * kx - 0.5,
            cy: (self.cy + 0.5 + f64::from(top)) * ky - 0.5,
        }
    }

    /// The image's outer corners, half a pixel beyond its outermost pixels' centres: clockwise
    /// from the top left.
    pub fn corners(&self) -> [[f64; 2]; 4] {
        let (right, bottom) = (f64::from(self.width) - 0.5, f64::from(self.height) - 0.5);
        [[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]]
    }

    /// The pixel that shows a point of the camera's frame; `None` unless the point is in front of
    /// the camera.
    pub fn project(&self, point: &Point3<f64>) -> Option<[f64; 2]> {
        (point.z > 0.0).then(|| {
            [
                self.fx * point.x / point.z + self.cx,
                self.fy * point.y / point.z + self.cy,
            ]
        })
    }

    /// The point of the camera's frame that `pixel` shows at `depth` along z.
    pub fn unproject(&self, pixel: [f64; 2], depth: f64) -> Point3<f64> {
        Point3::new(
            (pixel[0] - self.cx) / self.fx * depth,
            (pixel[1] - self.cy) / self.fy * depth,
            depth,
        )
    }
}

/// A camera with its place in the world.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Camera {
    /// Focal lengths and principal point.
    pub intrinsics: Intrinsics,
    /// Takes points of the camera's frame to the world; its translation is the camera's centre.
    pub world_from_camera: Isometry3<f64>,
}

impl Camera {
    /// The pixel that shows a point of the world; `None` unless the point is in front of the
    /// camera.
    pub fn project(&self, world: &Point3<f64>) -> Option<[f64; 2]> {
        self.intrinsics
            .project(&self.world_from_camera.inverse_transform_point(world))
    }

    /// The point of the world that `pixel` shows at `depth` along the camera's z.
    pub fn unproject(&self, pixel: [f64; 2], depth: f64) -> Point3<f64> {
        self.world_from_camera * self.intrinsics.unproject(pixel, depth)
    }

    /// Depth of a point of the world along the camera's z; negative behind it.
    pub fn depth(&self, world: &Point3<f64>) -> f64 {
        self.world_from_camera.inverse_transform_point(world).z
    }
}

#[cfg(test)]
mod tests {
    use nalgebra::{Translation3, UnitQuaternion, Vector3};

    use super::*;

    #[test]
    fn projecting_an_unprojected_pixel_gives_it_back() {
        let rotation = UnitQuaternion::from_scaled_axis(Vector3::new(0.3, -0.2, 0.9));
        let world_from_camera = Isometry3::from_parts(Translation3::new(1.0, 2.0, -0.5), rotation);
        let camera = Camera {
            intrinsics: Intrinsics::centred(64, 48, 70.0),
            world_from_camera,
        };
        let world = camera.unproject([12.25, 40.5], 3.5);
        let pixel = camera.project(&world).unwrap();
        assert!(
            (pixel[0] - 12.25).abs() < 1e-12 && (pixel[1] - 40.5).abs() < 1e-12,
            "{pixel:?}"
        );
        assert!((camera.depth(&world) - 3.5).abs() < 1e-12);
        assert_eq!(camera.project(&camera.unproject([0.0, 0.0], -1.0)), None);
    }

    #[test]
    fn the_middle_of_an_uncropped_image_is_the_middle_of_its_file() {
        let inside = Intrinsics::centred(512, 384, 400.0);
        let file = inside.at_file(4032.0 / 512.0, 3024.0 / 384.0, 0, 0, 4032, 3024);
        assert_eq!(file, Intrinsics::centred(4032, 3024, 3150.0));
    }

    #[test]
    fn a_crop_shifts_the_principal_point_before_scaling() {
        let file = Intrinsics::centred(10, 10, 20.0).at_file(2.0, 3.0, 4, 1, 40, 40);
        assert_eq!(
            (file.fx, file.fy, file.cx, file.cy),
            (40.0, 60.0, 17.5, 17.5)
        );
    }
}
