//! Cameras as frustums with their images.

use image::imageops::{self, FilterType};
use nalgebra::{Point2, Point3};

use super::canvas::{Canvas, linear_levels};
use super::{drawn_cameras, median_depth};
use crate::geometry::Camera;
use crate::scene::Scene;
use crate::views::Pixels;

/// A colour per view, over and over: colours that the colour-blind tell apart too (Okabe and Ito,
/// 2008).
const COLORS: [[u8; 3]; 6] = [
    [213, 94, 0],
    [0, 114, 178],
    [0, 158, 115],
    [204, 121, 167],
    [230, 159, 0],
    [86, 180, 233],
];
/// Depth of a frustum as a part of the median depth of the points: at most, and at least.
const DEEPEST: f64 = 0.16;
const SHALLOWEST: f64 = 0.05;
/// Depth of a frustum as a part of the distance of its camera to the next, so that frustums do not
/// cross.
const OF_BASELINE: f64 = 0.6;
/// Line width, as a part of the image's height.
const LINE_HEIGHTS: f64 = 1.0 / 420.0;
/// Lines are drawn this much nearer than they are, lest they sink into the plane that they frame.
const LINE_NEARER: f64 = 0.995;

/// Depth of the frustums' image planes, in world units.
pub(super) fn plane_depth(scene: &Scene) -> f64 {
    let depth = median_depth(scene);
    (OF_BASELINE * scene.camera_gap()).clamp(SHALLOWEST * depth, DEEPEST * depth)
}

/// The centre of a camera, then the corners of its image at `depth`: top left, top right, bottom
/// right, bottom left.
pub(super) fn corners(camera: &Camera, depth: f64) -> [Point3<f64>; 5] {
    let [a, b, c, d] = camera
        .intrinsics
        .corners()
        .map(|pixel| camera.unproject(pixel, depth));
    [
        camera.world_from_camera.translation.vector.into(),
        a,
        b,
        c,
        d,
    ]
}

/// Draws every camera; `samples` is the number of samples along a pixel's side.
pub(super) fn draw(scene: &Scene, camera: &Camera, samples: f64, canvas: &mut Canvas) {
    let depth = plane_depth(scene);
    let levels = linear_levels();
    let width = (canvas.height as f64 * LINE_HEIGHTS).max(1.2 * samples);
    for ((own, view), color) in drawn_cameras(scene)
        .into_iter()
        .zip(COLORS.into_iter().cycle())
    {
        let [centre, corners @ ..] = corners(&own, depth);
        let color = color.map(|level| levels[usize::from(level)]);
        draw_image(&own, &view.rgb, &corners, depth, camera, canvas);
        for (index, corner) in corners.iter().enumerate() {
            draw_line(
                [corner, &corners[(index + 1) % 4]],
                camera,
                width,
                color,
                canvas,
            );
            draw_line([&centre, corner], camera, width, color, canvas);
        }
    }
}

/// Draws a camera's image onto the plane of its frustum.
fn draw_image(
    own: &Camera,
    image: &Pixels,
    corners: &[Point3<f64>; 4],
    plane: f64,
    camera: &Camera,
    canvas: &mut Canvas,
) {
    // A plane that reaches behind the viewer is in its face.
    let Some(places) = corners
        .iter()
        .map(|corner| camera.project(corner))
        .collect::<Option<Vec<_>>>()
    else {
        return;
    };
    let bounds = |axis: usize, end: usize| {
        let low = places
            .iter()
            .map(|place| place[axis])
            .fold(f64::INFINITY, f64::min);
        let high = places
            .iter()
            .map(|place| place[axis])
            .fold(f64::NEG_INFINITY, f64::max);
        // The casts saturate.
        (low.ceil() as usize, ((high + 1.0) as usize).min(end))
    };
    let ((left, right), (top, bottom)) = (bounds(0, canvas.width), bounds(1, canvas.height));
    let Some(texture) = Texture::new(
        image,
        [right.saturating_sub(left), bottom.saturating_sub(top)],
    ) else {
        return;
    };

    let own_from_camera = own.world_from_camera.inverse() * camera.world_from_camera;
    let centre = own_from_camera.translation.vector;
    for row in top..bottom {
        for column in left..right {
            let ray = own_from_camera.rotation
                * camera
                    .intrinsics
                    .unproject([column as f64, row as f64], 1.0)
                    .coords;
            let depth = (plane - centre.z) / ray.z;
            if !(depth.is_finite() && depth > 0.0) {
                continue;
            }
            let Some([x, y]) = own.intrinsics.project(&(centre + ray * depth).into()) else {
                continue;
            };
            let part = [
                (x + 0.5) / f64::from(own.intrinsics.width),
                (y + 0.5) / f64::from(own.intrinsics.height),
            ];
            if part.iter().all(|part| (0.0..1.0).contains(part)) {
                canvas.blend(column, row, depth as f32, texture.at(part), 1.0);
            }
        }
    }
}

/// An image that was brought to the size at which it is drawn, linear light.
struct Texture {
    width: usize,
    height: usize,
    pixels: Vec<[f32; 3]>,
}

impl Texture {
    /// `None` where either has no pixels.
    fn new(image: &Pixels, [width, height]: [usize; 2]) -> Option<Self> {
        let width = width.min(image.width() as usize);
        let height = height.min(image.height() as usize);
        if width == 0 || height == 0 {
            return None;
        }
        let small = imageops::resize(image, width as u32, height as u32, FilterType::Triangle);
        let levels = linear_levels();
        let pixels = small
            .pixels()
            .map(|pixel| pixel.0.map(|level| levels[usize::from(level)]))
            .collect();
        Some(Self {
            width,
            height,
            pixels,
        })
    }

    /// The colour at a part of the width and the height, mixed from the nearest four pixels.
    fn at(&self, part: [f64; 2]) -> [f32; 3] {
        let axis = |part: f64, size: usize| {
            let place = (part * size as f64 - 0.5).clamp(0.0, (size - 1) as f64);
            let low = place as usize;
            (low, (low + 1).min(size - 1), (place - low as f64) as f32)
        };
        let ((left, right, x), (top, bottom, y)) =
            (axis(part[0], self.width), axis(part[1], self.height));
        let row = |row: usize| {
            let [a, b] = [left, right].map(|column| self.pixels[row * self.width + column]);
            [0, 1, 2].map(|channel| a[channel] + x * (b[channel] - a[channel]))
        };
        let (a, b) = (row(top), row(bottom));
        [0, 1, 2].map(|channel| a[channel] + y * (b[channel] - a[channel]))
    }
}

/// Draws a line `width` samples wide, its edges soft.
fn draw_line(
    ends: [&Point3<f64>; 2],
    camera: &Camera,
    width: f64,
    rgb: [f32; 3],
    canvas: &mut Canvas,
) {
    let camera_from_world = camera.world_from_camera.inverse();
    let Some(ends) = clip(ends.map(|end| camera_from_world * end)) else {
        return;
    };
    let places = ends.map(|end| {
        let inside = &camera.intrinsics;
        Point2::new(
            inside.fx * end.x / end.z + inside.cx,
            inside.fy * end.y / end.z + inside.cy,
        )
    });
    let along = places[1] - places[0];
    let reach = width / 2.0 + 0.5;
    let bounds = |axis: usize, end: usize| {
        let (low, high) = (
            places[0][axis].min(places[1][axis]),
            places[0][axis].max(places[1][axis]),
        );
        // The casts saturate.
        (
            (low - reach).ceil() as usize,
            ((high + reach + 1.0) as usize).min(end),
        )
    };
    let ((left, right), (top, bottom)) = (bounds(0, canvas.width), bounds(1, canvas.height));
    for row in top..bottom {
        for column in left..right {
            let offset = Point2::new(column as f64, row as f64) - places[0];
            let part =
                (offset.dot(&along) / along.norm_squared().max(f64::MIN_POSITIVE)).clamp(0.0, 1.0);
            let cover = (reach - (offset - along * part).norm()).min(1.0);
            if cover > 0.0 {
                // The inverse of depth is linear on the image.
                let depth = 1.0 / ((1.0 - part) / ends[0].z + part / ends[1].z);
                canvas.blend(column, row, (depth * LINE_NEARER) as f32, rgb, cover as f32);
            }
        }
    }
}

/// The part of a line that lies in front of the camera, in whose frame it is.
fn clip([a, b]: [Point3<f64>; 2]) -> Option<[Point3<f64>; 2]> {
    let near = 1e-3 * a.z.abs().max(b.z.abs());
    let cut = |inner: Point3<f64>, outer: Point3<f64>| {
        inner + (outer - inner) * ((near - inner.z) / (outer.z - inner.z))
    };
    match (a.z >= near && a.z > 0.0, b.z >= near && b.z > 0.0) {
        (true, true) => Some([a, b]),
        (true, false) => Some([a, cut(a, b)]),
        (false, true) => Some([cut(b, a), b]),
        (false, false) => None,
    }
}
