//! Surfels to elliptical splats on a canvas.

use nalgebra::{Matrix2, Rotation3, Vector2, Vector3};
use rayon::prelude::*;

use super::canvas::{Canvas, linear_levels};
use super::quantile;
use super::surfels::Surfel;
use crate::geometry::Camera;

/// Rows that one task draws.
const BAND_ROWS: usize = 32;
/// Radius of what a splat covers, in spacings of its points: the square between four points, and a
/// little more for points that do not lie evenly.
const COVER_RADIUS: f32 = 0.85;
/// Radius of what a splat gives colour to, in spacings: neighbours mix, so that colours go over
/// smoothly.
const COLOR_RADIUS: f32 = 1.2;
/// Squared radius that every splat has at least, in samples: that of the circle around a sample, so
/// that none is missed.
const LEAST_SQUARED_RADIUS: f32 = 0.5;
/// No splat is wider than the image over this.
const WIDEST_SPLAT: f32 = 16.0;
/// Points nearer than this part of the median depth are not drawn.
const NEAREST_DEPTHS: f32 = 0.02;

/// What makes splats of surfels, in samples.
#[derive(Clone, Copy, Debug)]
struct Lens {
    focal: Vector2<f32>,
    middle: Vector2<f32>,
    widest: f32,
}

/// A surfel on the image, an ellipse about `centre`.
#[derive(Clone, Copy, Debug)]
struct Splat {
    centre: Vector2<f32>,
    depth: f32,
    tolerance: f32,
    /// Change of depth per sample.
    slope: Vector2<f32>,
    /// The ellipse of what the splat covers is x' A x = 1.
    shape: Matrix2<f32>,
    /// Half the width and height of what the splat touches.
    extent: Vector2<f32>,
    rgb: [u8; 3],
}

/// Draws surfels as `camera` sees them, the nearest in front.
pub(super) fn draw(surfels: &[Surfel], camera: &Camera, canvas: &mut Canvas) {
    let camera_from_world = camera.world_from_camera.inverse();
    let rotation: Rotation3<f32> = camera_from_world.rotation.to_rotation_matrix().cast();
    let translation: Vector3<f32> = camera_from_world.translation.vector.cast();
    let depth_of = |surfel: &Surfel| (rotation * surfel.position).z + translation.z;
    let mut depths: Vec<f32> = surfels
        .par_iter()
        .map(depth_of)
        .filter(|depth| *depth > 0.0)
        .collect();
    let Some(median) = quantile(&mut depths, 0.5) else {
        return;
    };
    let nearest = NEAREST_DEPTHS * median;

    let inside = &camera.intrinsics;
    let lens = Lens {
        focal: Vector2::new(inside.fx as f32, inside.fy as f32),
        middle: Vector2::new(inside.cx as f32, inside.cy as f32),
        widest: canvas.width as f32 / WIDEST_SPLAT,
    };
    let splats: Vec<Splat> = surfels
        .par_iter()
        .filter_map(|surfel| {
            let place = (rotation * surfel.position).coords + translation;
            // Also false for what is not a number.
            let visible = place.z > nearest && place.z.is_finite();
            visible.then(|| {
                Splat::new(
                    surfel,
                    place,
                    surfel.axes.map(|axis| rotation * axis),
                    &lens,
                )
            })
        })
        .filter(|splat| splat.touches(canvas))
        .collect();

    let mut bands = vec![Vec::new(); canvas.height.div_ceil(BAND_ROWS)];
    for (index, splat) in splats.iter().enumerate() {
        let (top, bottom) = splat.rows(0, canvas.height);
        for band in &mut bands[top / BAND_ROWS..bottom.div_ceil(BAND_ROWS)] {
            band.push(index);
        }
    }
    let linear = linear_levels();
    let width = canvas.width;
    let rows = canvas
        .rgb
        .par_chunks_mut(BAND_ROWS * width)
        .zip(canvas.depth.par_chunks_mut(BAND_ROWS * width));
    rows.zip(bands)
        .enumerate()
        .for_each(|(band, ((rgb, depth), members))| {
            let members = members.into_iter().map(|index| &splats[index]);
            draw_band(members, band * BAND_ROWS, width, &linear, rgb, depth);
        });
}

/// Draws the rows from `first_row` on: what is in front, then its colours.
fn draw_band<'a>(
    splats: impl Iterator<Item = &'a Splat> + Clone,
    first_row: usize,
    width: usize,
    linear: &[f32; 256],
    rgb: &mut [[f32; 3]],
    depth: &mut [f32],
) {
    let end_row = first_row + depth.len() / width;
    for splat in splats.clone() {
        splat.visit(first_row, end_row, width, 1.0, |sample, _, sample_depth| {
            depth[sample] = depth[sample].min(sample_depth);
        });
    }
    let reach = (COLOR_RADIUS / COVER_RADIUS).powi(2);
    let mut sums = vec![[0.0_f32; 4]; depth.len()];
    for splat in splats {
        let color = splat.rgb.map(|level| linear[usize::from(level)]);
        splat.visit(
            first_row,
            end_row,
            width,
            reach,
            |sample, distance, sample_depth| {
                if sample_depth <= depth[sample] + splat.tolerance {
                    // Near enough a Gaussian, and zero where the splat ends.
                    let weight = (1.0 - distance / reach).powi(3);
                    let [r, g, b, total] = &mut sums[sample];
                    *r += weight * color[0];
                    *g += weight * color[1];
                    *b += weight * color[2];
                    *total += weight;
                }
            },
        );
    }
    for ((rgb, [r, g, b, total]), depth) in rgb.iter_mut().zip(sums).zip(depth) {
        if depth.is_finite() && total > 0.0 {
            *rgb = [r / total, g / total, b / total];
        }
    }
}

impl Splat {
    /// A surfel at `place` with `axes`, both in the camera's frame.
    fn new(surfel: &Surfel, place: Vector3<f32>, axes: [Vector3<f32>; 2], lens: &Lens) -> Self {
        let flat = place.xy() / place.z;
        // Perspective is linear over a splat.
        let [a, b] = axes.map(|axis| {
            let step =
                (axis.xy() - flat * axis.z).component_mul(&lens.focal) * (COVER_RADIUS / place.z);
            let shrink = (lens.widest / step.norm()).min(1.0);
            (step * shrink, axis.z * COVER_RADIUS * shrink)
        });
        let spread = a.0 * a.0.transpose()
            + b.0 * b.0.transpose()
            + Matrix2::from_diagonal_element(LEAST_SQUARED_RADIUS);
        // Its determinant is a quarter at least.
        let shape = spread.try_inverse().unwrap_or_else(Matrix2::identity);
        let reach = COLOR_RADIUS / COVER_RADIUS;
        Self {
            centre: flat.component_mul(&lens.focal) + lens.middle,
            depth: place.z,
            tolerance: surfel.tolerance,
            slope: shape * (a.0 * a.1 + b.0 * b.1),
            shape,
            extent: spread.diagonal().map(f32::sqrt) * reach,
            rgb: surfel.rgb,
        }
    }

    fn touches(&self, canvas: &Canvas) -> bool {
        let (low, high) = (self.centre - self.extent, self.centre + self.extent);
        high.x >= 0.0
            && high.y >= 0.0
            && low.x <= canvas.width as f32 - 1.0
            && low.y <= canvas.height as f32 - 1.0
    }

    /// The rows from `first` to before `end` that the splat touches.
    fn rows(&self, first: usize, end: usize) -> (usize, usize) {
        span(self.centre.y, self.extent.y, first, end)
    }

    /// Calls `draw` with each sample within the squared radius `reach`: its index from `first_row`
    /// on, its squared distance from the centre in radii, and the splat's depth there.
    fn visit(
        &self,
        first_row: usize,
        end_row: usize,
        width: usize,
        reach: f32,
        mut draw: impl FnMut(usize, f32, f32),
    ) {
        let (top, bottom) = self.rows(first_row, end_row);
        let [[xx, xy], [_, yy]] = self.shape.data.0;
        for row in top..bottom {
            let y = row as f32 - self.centre.y;
            // xx x x + 2 xy x y + yy y y <= reach, solved for x.
            let middle = -xy * y / xx;
            let half = (middle * middle - (yy * y * y - reach) / xx)
                .max(0.0)
                .sqrt();
            let (left, right) = span(self.centre.x + middle, half, 0, width);
            for column in left..right {
                let x = column as f32 - self.centre.x;
                let distance = xx * x * x + 2.0 * xy * x * y + yy * y * y;
                // Rounding may put a sample of the edge outside.
                if distance < reach {
                    let depth = self.depth + self.slope.x * x + self.slope.y * y;
                    draw((row - first_row) * width + column, distance, depth);
                }
            }
        }
    }
}

/// The whole numbers from `first` to before `end` within `extent` of `centre`.
fn span(centre: f32, extent: f32, first: usize, end: usize) -> (usize, usize) {
    // The casts saturate, at zero below.
    let low = ((centre - extent).ceil() as usize).max(first);
    let high = if centre + extent < 0.0 {
        0
    } else {
        ((centre + extent).floor() as usize).saturating_add(1)
    };
    (low.min(end), high.clamp(low.min(end), end))
}
