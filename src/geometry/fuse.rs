//! Both views' points in the world, from everything that the decodes say about their depths.

use nalgebra::Point3;

use super::{Camera, PairMaps, PointMap, TwoView};

/// Depths further apart than this, as a ratio, are not averaged: one of the two is an outlier.
const LARGEST_RATIO: f64 = 1.15;

impl TwoView {
    /// Points of both views in the world, each on its own pixel's ray, and their depths along their
    /// own camera's z (NaN, like the point, where no map has a finite point in front of the
    /// camera).
    ///
    /// With `reverse` a view's depth is the confidence-weighted mean of its two maps' log depths,
    /// or that of the more confident map where they contradict one another. `forward` and `reverse`
    /// are those that the pose was found from.
    pub fn point_maps(
        &self,
        forward: PairMaps<'_>,
        reverse: Option<PairMaps<'_>>,
    ) -> [(PointMap, Vec<f32>); 2] {
        let [first, second] = &self.cameras;
        let scale = self.forward_per_reverse.unwrap_or(1.0);
        let to_world = second.world_from_camera;
        let in_world = |point: &[f32; 3]| Point3::from(point.map(f64::from));
        let from_reverse =
            |point: &[f32; 3]| to_world * Point3::from(point.map(|value| f64::from(value) * scale));
        let fuse = |camera: &Camera, forward: &PointMap, reverse: Option<&PointMap>| {
            let pixels = 0..forward.points.len();
            let fused = pixels.map(|index| {
                let estimate = |depth: f64, confidence: f32| (depth, f64::from(confidence));
                let one = estimate(
                    camera.depth(&in_world(&forward.points[index])),
                    forward.confidence[index],
                );
                let two = reverse.and_then(|map| {
                    let (point, confidence) = (map.points.get(index)?, map.confidence.get(index)?);
                    Some(estimate(camera.depth(&from_reverse(point)), *confidence))
                });
                (index, fuse_two(one, two))
            });
            let (width, height) = (forward.width, forward.height);
            let mut map = PointMap {
                width,
                height,
                points: Vec::new(),
                confidence: Vec::new(),
            };
            let mut depths = Vec::with_capacity(forward.points.len());
            for (index, (depth, confidence)) in fused {
                let point = camera.unproject(forward.pixel(index), depth);
                map.points
                    .push([point.x as f32, point.y as f32, point.z as f32]);
                map.confidence.push(confidence as f32);
                depths.push(depth as f32);
            }
            (map, depths)
        };
        [
            fuse(first, forward.first, reverse.map(|maps| maps.second)),
            fuse(second, forward.second, reverse.map(|maps| maps.first)),
        ]
    }
}

/// One depth and its confidence out of one or two.
fn fuse_two(one: (f64, f64), two: Option<(f64, f64)>) -> (f64, f64) {
    let usable = |(depth, confidence): &(f64, f64)| {
        *depth > 0.0 && depth.is_finite() && confidence.is_finite()
    };
    match (Some(one).filter(usable), two.filter(usable)) {
        (Some(a), Some(b)) => {
            if (a.0 / b.0).max(b.0 / a.0) > LARGEST_RATIO {
                return if b.1 > a.1 { b } else { a };
            }
            // A confidence of one means nothing is known.
            let weight = [a.1, b.1].map(|confidence| (confidence - 0.999).max(1e-3));
            let total = weight[0] + weight[1];
            let log_depth = (weight[0] * a.0.ln() + weight[1] * b.0.ln()) / total;
            (log_depth.exp(), (weight[0] * a.1 + weight[1] * b.1) / total)
        }
        (Some(only), None) | (None, Some(only)) => only,
        (None, None) => (f64::NAN, one.1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depths_that_agree_are_averaged_and_outliers_are_not() {
        let (depth, confidence) = fuse_two((2.0, 5.0), Some((2.1, 5.0)));
        assert!((depth - 4.2f64.sqrt()).abs() < 1e-12 && confidence == 5.0);
        assert_eq!(fuse_two((2.0, 5.0), Some((3.0, 2.0))), (2.0, 5.0));
        assert_eq!(fuse_two((2.0, 2.0), Some((3.0, 5.0))), (3.0, 5.0));
        assert_eq!(fuse_two((-2.0, 9.0), Some((3.0, 2.0))), (3.0, 2.0));
        assert!(fuse_two((f64::NAN, 2.0), None).0.is_nan());
    }
}
