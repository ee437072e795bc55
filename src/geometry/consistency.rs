//! Whether another view sees through a point: two-view consistency of depth.
//!
//! Both views know the depth of what they show. A point X of one view, `own`, is compared with what
//! the other one, `reference`, shows at X's place, in the world frame and the units of the scene:
//!
//! ```text
//! q = reference(X)                      the pixel of the reference that shows X
//! d = depth of the reference around q   along its z
//! Y = the point at depth d on the ray of q
//! e = |own(X) - own(Y)|               pixels of `own`, the forward-backward reprojection error
//! ```
//!
//! This error is that of the geometric consistency check of MVSNet (Yao et al., ECCV 2018,
//! post-processing), with the point's projection in place of the pixel that it was predicted for:
//! how far the point lies off its own pixel is no concern of the other view. X and Y lie on one ray
//! of the reference, so the error is the parallax of a wrong depth. It does not depend on the scene's
//! units, and cameras in one place can never disagree.
//!
//! X is **contradicted** if all of this holds:
//!
//! - the reference has an opinion: q lies between the centres of its outer pixels, and all pixels
//!   that blend into the sample have a depth above zero and a finite confidence;
//! - the reference sees through X: X lies in front of the surface, nearer than d. A point behind the
//!   surface is hidden from the reference, which then knows nothing about it;
//! - e exceeds the limit, or Y lies behind the point's own camera, where no pixel shows it;
//! - X is not more confident than the reference is at q.
//!
//! Everything else stays: what is hidden, outside the reference's image or behind it, what meets a
//! hole, and what lies behind its own camera, where there is no pixel to measure from.
//!
//! The last condition is that of the cleaning step of DUSt3R and MASt3R, which compares confidences
//! at a relative depth of 0.999 instead of at a number of pixels: of two views that contradict one
//! another one is wrong, and a gross error of the reference that lies too deep must not take the good
//! points in front of it away. There a tie keeps the point; here it goes, because the reference's
//! free space is evidence and a network that gives one confidence everywhere would otherwise never
//! be filtered. A point that lies too deep is not found by either: to the other view it is hidden.
//!
//! **Edges.** Blending depths across an edge invents a surface that nobody saw, before which points
//! of the nearer side would seem to float. So every pixel of the reference takes the depth of the
//! nearest surface among itself and its eight neighbours first, and a point must lie in front of
//! both sides of an edge. What is blended is inverse depth, which is linear in the pixels of a
//! plane. The price is in favour of the point: one pixel's slope in depth on slanted surfaces, and
//! points that hide behind a near outlier of the reference beside q.
//!
//! **Which views.** Every view is a reference of every other one: what floats is often seen through
//! best from where no pair was matched. Only what a reference cannot see is passed over, by
//! [`Region`]s of points whose bounding sphere lies outside its image; that changes no answer,
//! and views that look elsewhere cost next to nothing.

use nalgebra::{Point3, Vector3};

use super::{Camera, PointMap};

/// Channels of a [`ReferenceView::surface`]: inverse depth of the nearest surface, 1 where the depth is
/// known, confidence; all are 0 where it is not.
pub const SURFACE_CHANNELS: usize = 3;

/// Least share of a sample that pixels of known depth must make up; less than 1 by what a place in
/// float32 is off.
const LEAST_KNOWN: f32 = 0.999;

/// Confidences this close, as a ratio, are a tie: blending equal ones rounds.
const TIE: f32 = 1.000_01;

/// Side of the squares of pixels whose points are passed over together.
const REGION: usize = 16;
/// Pixels beyond the image's edge where a point still counts as seen: places are rounded to
/// float32.
const SEEN_MARGIN: f64 = 1.0;

/// Points of neighbouring pixels, and a sphere that holds them.
#[derive(Clone, Debug)]
pub struct Region {
    /// Indices of the pixels whose points are finite.
    pub pixels: Vec<usize>,
    centre: Point3<f64>,
    radius: f64,
}

impl Region {
    /// The regions of a map; points that are not finite are in none.
    pub fn all(points: &PointMap) -> Vec<Self> {
        let [across, down] = [points.width, points.height].map(|size| size.div_ceil(REGION));
        let region = |index: usize| {
            let range = |at: usize, size: usize| at * REGION..((at + 1) * REGION).min(size);
            let (columns, rows) = (
                range(index % across, points.width),
                range(index / across, points.height),
            );
            let pixels = rows.flat_map(|row| {
                columns
                    .clone()
                    .map(move |column| row * points.width + column)
            });
            let is_finite =
                |pixel: &usize| points.points[*pixel].iter().all(|value| value.is_finite());
            let pixels: Vec<usize> = pixels.filter(is_finite).collect();
            let point = |pixel: &usize| Point3::from(points.points[*pixel].map(f64::from));
            let sum = pixels
                .iter()
                .fold(Vector3::zeros(), |sum, pixel| sum + point(pixel).coords);
            let centre = Point3::from(sum / pixels.len().max(1) as f64);
            let radius = pixels
                .iter()
                .map(|pixel| (point(pixel) - centre).norm())
                .fold(0.0, f64::max);
            Self {
                pixels,
                centre,
                radius,
            }
        };
        (0..across * down)
            .map(region)
            .filter(|region| !region.pixels.is_empty())
            .collect()
    }
}

/// A view by which points of another one are judged.
#[derive(Clone, Copy, Debug)]
pub struct ReferenceView<'a> {
    /// Where it is.
    pub camera: &'a Camera,
    /// Its size and its confidences, one per pixel.
    pub points: &'a PointMap,
    /// Depth along the camera's z, one per pixel; NaN or not above zero where unknown.
    pub depth: &'a [f32],
}

impl ReferenceView<'_> {
    /// What the view shows, to be sampled bilinearly: `(height, width, channels)`,
    /// [`SURFACE_CHANNELS`] of them.
    pub fn surface(&self) -> Vec<f32> {
        let known = |(&depth, &confidence): (&f32, &f32)| {
            (depth > 0.0 && depth.recip().is_normal() && confidence.is_finite())
                .then(|| [depth.recip(), confidence])
        };
        let pixels: Vec<Option<[f32; 2]>> = self
            .depth
            .iter()
            .zip(&self.points.confidence)
            .map(known)
            .collect();
        let inverse_depth: Vec<f32> = pixels
            .iter()
            .map(|pixel| pixel.map_or(0.0, |[inverse, _]| inverse))
            .collect();
        let nearest = largest_around(&inverse_depth, self.points.width);
        let channels = pixels
            .iter()
            .zip(nearest)
            .flat_map(|(pixel, nearest)| match pixel {
                Some([_, confidence]) => [nearest, 1.0, *confidence],
                None => [0.0; SURFACE_CHANNELS],
            });
        channels.collect()
    }

    /// Where the view shows `points` of the world: `(x, y)` each, -1 to 1 between the outer edges
    /// of its image. NaN for what it does not see because it lies behind it.
    pub fn places(&self, points: &[[f32; 3]]) -> Vec<f32> {
        let [width, height] = [self.points.width, self.points.height].map(|size| size as f64);
        let place =
            |point: &[f32; 3]| match self.camera.project(&Point3::from(point.map(f64::from))) {
                Some([x, y]) => [
                    (2.0 * x + 1.0) / width - 1.0,
                    (2.0 * y + 1.0) / height - 1.0,
                ]
                .map(|place| place as f32),
                None => [f32::NAN; 2],
            };
        points.iter().flat_map(place).collect()
    }

    /// Whether the view may show a point of the region; if not, it has no opinion about any.
    pub fn may_show(&self, region: &Region) -> bool {
        let inside = &self.camera.intrinsics;
        let centre = self
            .camera
            .world_from_camera
            .inverse_transform_point(&region.centre);
        let most =
            [self.points.width, self.points.height].map(|size| size as f64 - 1.0 + SEEN_MARGIN);
        // Planes through the camera's centre and an edge of the image, with the image on their
        // positive side.
        let planes = [
            Vector3::new(inside.fx, 0.0, inside.cx + SEEN_MARGIN),
            Vector3::new(-inside.fx, 0.0, most[0] - inside.cx),
            Vector3::new(0.0, inside.fy, inside.cy + SEEN_MARGIN),
            Vector3::new(0.0, -inside.fy, most[1] - inside.cy),
            Vector3::z(),
        ];
        // The sphere is as large as its farthest point, but for rounding.
        let radius = region.radius * (1.0 + 1e-9);
        planes
            .iter()
            .all(|plane| plane.dot(&centre.coords) >= -radius * plane.norm())
    }

    /// Which of `points`, of a view with the camera `own`, this view contradicts by more than `px`
    /// pixels of `own`.
    ///
    /// `samples` are those of [`ReferenceView::surface`] at [`ReferenceView::places`], zeros outside the
    /// image. The answer is as long as the shortest of the lists given.
    pub fn contradicted(
        &self,
        own: &Camera,
        points: &PointMap,
        samples: &[f32],
        px: f64,
    ) -> Vec<bool> {
        let points = points.points.iter().zip(&points.confidence);
        let judged = points.zip(samples.as_chunks::<SURFACE_CHANNELS>().0).map(
            |((point, &confidence), &[inverse_depth, known, seen])| {
                let surface = f64::from(known) / f64::from(inverse_depth);
                known >= LEAST_KNOWN
                    && confidence <= seen / known * TIE
                    && self.sees_through(own, &Point3::from(point.map(f64::from)), surface, px)
            },
        );
        judged.collect()
    }

    /// Whether `point` lies in front of the surface at depth `surface`, and that by more than `px`
    /// pixels of `own`.
    fn sees_through(&self, own: &Camera, point: &Point3<f64>, surface: f64, px: f64) -> bool {
        let (Some(pixel), Some(from)) = (self.camera.project(point), own.project(point)) else {
            return false;
        };
        if self.camera.depth(point) >= surface {
            return false;
        }
        own.project(&self.camera.unproject(pixel, surface))
            .is_none_or(|seen| (seen[0] - from[0]).hypot(seen[1] - from[1]) > px)
    }
}

/// The largest value among each pixel and its up to eight neighbours.
fn largest_around(values: &[f32], width: usize) -> Vec<f32> {
    let largest = |values: &[f32]| values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let in_row = |row: &[f32]| -> Vec<f32> {
        (0..row.len())
            .map(|x| largest(&row[x.saturating_sub(1)..(x + 2).min(row.len())]))
            .collect()
    };
    let rows: Vec<Vec<f32>> = values.chunks(width.max(1)).map(in_row).collect();
    let around = (0..rows.len()).flat_map(|y| {
        let rows = &rows[y.saturating_sub(1)..(y + 2).min(rows.len())];
        (0..rows[0].len()).map(|x| {
            rows.iter()
                .map(|row| row[x])
                .fold(f32::NEG_INFINITY, f32::max)
        })
    });
    around.collect()
}

#[cfg(test)]
mod tests {
    use nalgebra::{Isometry3, UnitQuaternion, Vector3};

    use super::*;
    use crate::geometry::Intrinsics;

    fn camera(x: f64) -> Camera {
        let world_from_camera = Isometry3::translation(x, 0.0, 0.0);
        Camera {
            intrinsics: Intrinsics::centred(8, 6, 10.0),
            world_from_camera,
        }
    }

    /// An image of 8 x 6 pixels at one depth.
    fn wall(depth: f32) -> (PointMap, Vec<f32>) {
        (
            PointMap {
                width: 8,
                height: 6,
                points: vec![[0.0; 3]; 48].into(),
                confidence: vec![2.0; 48].into(),
            },
            vec![depth; 48],
        )
    }

    #[test]
    fn the_largest_value_around_reaches_one_pixel_and_stops_at_the_edges() {
        let values = [0., 1., 0., 0., 0., 0., 0., 0., 0., 0., 5., 0.];
        assert_eq!(
            largest_around(&values, 4),
            [1., 1., 1., 0., 1., 5., 5., 5., 0., 5., 5., 5.]
        );
        assert_eq!(largest_around(&[3., 1., 2.], 1), [3., 3., 2.]);
        assert_eq!(largest_around(&[3., 1., 2.], 3), [3., 3., 2.]);
    }

    #[test]
    fn a_surface_spreads_its_nearest_side_and_keeps_its_holes() {
        let (mut points, mut depth) = wall(4.0);
        depth[0] = 2.0;
        depth[9] = f32::NAN;
        depth[10] = -1.0;
        depth[11] = f32::INFINITY;
        points.confidence[12] = f32::NAN;
        let reference = ReferenceView {
            camera: &camera(0.0),
            points: &points,
            depth: &depth,
        };
        let surface = reference.surface();
        let at =
            |x: usize, y: usize| &surface[(y * 8 + x) * SURFACE_CHANNELS..][..SURFACE_CHANNELS];
        assert_eq!(at(0, 0), [0.5, 1.0, 2.0]);
        assert_eq!(at(1, 0), [0.5, 1.0, 2.0]);
        assert_eq!(at(2, 0), [0.25, 1.0, 2.0]);
        for x in 1..5 {
            assert_eq!(at(x, 1), [0.0; 3], "{x}");
        }
    }

    #[test]
    fn places_run_from_edge_to_edge_and_are_none_behind_the_camera() {
        let (points, depth) = wall(4.0);
        let witness_camera = camera(1.0);
        let reference = ReferenceView {
            camera: &witness_camera,
            points: &points,
            depth: &depth,
        };
        let corners = [[-0.5, -0.5], [7.5, 5.5], [3.5, 2.5]].map(|pixel| {
            let point = witness_camera.unproject(pixel, 2.0);
            [point.x as f32, point.y as f32, point.z as f32]
        });
        let places = reference.places(&corners);
        // Six ulps of 1: coordinates of up to 2 rounded to float32, and the place itself.
        for (place, expected) in places.iter().zip([-1.0, -1.0, 1.0, 1.0, 0.0, 0.0]) {
            assert!(
                (place - expected).abs() < 6.0 * f32::EPSILON,
                "{place} is not {expected}"
            );
        }
        assert!(
            reference
                .places(&[[1.0, 0.0, -1.0]])
                .iter()
                .all(|place| place.is_nan())
        );
    }

    #[test]
    fn a_region_that_may_not_be_shown_has_no_point_in_the_image() {
        let (points, depth) = wall(4.0);
        let mut shown = [0, 0];
        for step in 0..400 {
            let t = f64::from(step);
            let turn = UnitQuaternion::from_scaled_axis(Vector3::new(
                t.sin(),
                (2.3 * t).sin() * 3.0,
                (1.7 * t).cos(),
            ));
            let camera = Camera {
                world_from_camera: Isometry3::from_parts([t.cos(), 0.0, 1.0].into(), turn),
                ..camera(0.0)
            };
            let reference = ReferenceView {
                camera: &camera,
                points: &points,
                depth: &depth,
            };
            let (width, height) = (20, 18);
            let point = |index: usize| {
                [
                    (index % width) as f32 * 0.1,
                    (index / width) as f32 * 0.1,
                    3.0 + (0.1 * t) as f32,
                ]
            };
            let mut map = PointMap {
                width,
                height,
                points: (0..360).map(point).collect(),
                confidence: vec![1.0; 360].into(),
            };
            map.points[7] = [f32::NAN; 3];
            let regions = Region::all(&map);
            assert_eq!(
                regions
                    .iter()
                    .map(|region| region.pixels.len())
                    .sum::<usize>(),
                359
            );
            for region in &regions {
                let is_inside = |pixel: &usize| {
                    let place = reference.places(&[map.points[*pixel]]);
                    place.iter().all(|place| place.abs() <= 1.0)
                };
                let may_show = reference.may_show(region);
                shown[usize::from(may_show)] += 1;
                assert!(
                    may_show || !region.pixels.iter().any(is_inside),
                    "step {step}"
                );
            }
        }
        assert!(shown.iter().all(|count| *count > 40), "{shown:?}");
    }

    #[test]
    fn the_error_of_a_point_in_front_is_its_parallax_and_behind_there_is_none() {
        let (points, depth) = wall(4.0);
        let (own, witness_camera) = (camera(0.0), camera(0.5));
        let reference = ReferenceView {
            camera: &witness_camera,
            points: &points,
            depth: &depth,
        };
        // focal * baseline * (1 / 2 - 1 / 4) = 1.25 pixels.
        let point = Point3::new(0.1, 0.2, 2.0);
        assert!(reference.sees_through(&own, &point, 4.0, 1.2499));
        assert!(!reference.sees_through(&own, &point, 4.0, 1.2501));
        assert!(!reference.sees_through(&own, &point, 1.0, 0.1), "hidden");
        assert!(
            !reference.sees_through(&own, &Point3::new(0.1, 0.2, -2.0), 4.0, 0.1),
            "behind both"
        );
    }

    #[test]
    fn a_surface_behind_the_own_camera_contradicts_whatever_the_limit() {
        let (points, depth) = wall(10.0);
        // The two cameras face one another, four units apart.
        let turn = UnitQuaternion::from_axis_angle(&Vector3::y_axis(), std::f64::consts::PI);
        let facing = Camera {
            world_from_camera: Isometry3::from_parts([0.0, 0.0, 4.0].into(), turn),
            ..camera(0.0)
        };
        let reference = ReferenceView {
            camera: &facing,
            points: &points,
            depth: &depth,
        };
        assert!(reference.sees_through(&camera(0.0), &Point3::new(0.0, 0.1, 2.0), 10.0, 1e6));
    }

    #[test]
    fn a_point_more_confident_than_the_surface_stays_and_a_tie_goes() {
        let (surface, depth) = wall(4.0);
        let witness_camera = camera(0.5);
        let reference = ReferenceView {
            camera: &witness_camera,
            points: &surface,
            depth: &depth,
        };
        let point = [0.1, 0.2, 2.0];
        let points = |confidence: f32| PointMap {
            width: 1,
            height: 1,
            points: vec![point].into(),
            confidence: vec![confidence].into(),
        };
        let judged = |confidence: f32, sample: [f32; 3]| {
            reference.contradicted(&camera(0.0), &points(confidence), &sample, 1.0)
        };
        assert_eq!(judged(2.0, [0.25, 1.0, 2.0]), [true]);
        assert_eq!(judged(2.0f32.next_up(), [0.25, 1.0, 2.0]), [true]);
        assert_eq!(judged(2.001, [0.25, 1.0, 2.0]), [false]);
        assert_eq!(judged(f32::NAN, [0.25, 1.0, 2.0]), [false]);
        assert_eq!(judged(2.0, [0.25 * 0.9995, 0.9995, 2.0 * 0.9995]), [true]);
        assert_eq!(judged(2.0, [0.25 * 0.99, 0.99, 2.0]), [false]);
        assert_eq!(judged(2.0, [0.0; 3]), [false]);
    }
}
