//! Focal length of a view from its points in its own frame.

use super::PointMap;

/// Rounds of reweighting.
const ROUNDS: usize = 10;
/// Maps of images of one camera speak for focal lengths no further apart than this, as a difference
/// of logarithms.
pub(crate) const ONE_CAMERA: f64 = 0.25;
/// Smallest pixel error that a weight divides by.
const SMALLEST_ERROR: f64 = 1e-8;

/// The focal length, in pixels, for which the map's points project nearest to their own pixels: the
/// least sum of
/// |pixel - middle - f (x, y) / z| over all pixels, by Weiszfeld's reweighting.
///
/// `map` is in its own camera's frame and the principal point is its middle, ((width - 1) / 2,
/// (height - 1) / 2). Points whose direction (x, y) / z is not finite do not count. `None` if the
/// focal length is undefined or not positive: no finite point, or all of them on the axis.
pub fn estimate_focal(map: &PointMap) -> Option<f64> {
    if !map.is_consistent() {
        return None;
    }
    weiszfeld(map, 0..map.points.len(), |_| 1.0)
}

/// As [`estimate_focal`] on some pixels of a consistent map, with a weight for each, all by index.
pub(crate) fn weiszfeld(
    map: &PointMap,
    pixels: impl Iterator<Item = usize>,
    weight: impl Fn(usize) -> f64,
) -> Option<f64> {
    let middle = map.middle();
    let mut rays = Vec::with_capacity(pixels.size_hint().0);
    for index in pixels {
        let [x, y, z] = map.points[index].map(f64::from);
        let ray = [x / z, y / z];
        let weight = weight(index);
        if ray[0].is_finite() && ray[1].is_finite() && weight > 0.0 {
            let pixel = map.pixel(index);
            rays.push(([pixel[0] - middle[0], pixel[1] - middle[1]], ray, weight));
        }
    }
    let solve = |error_weight: &dyn Fn([f64; 2], [f64; 2]) -> f64| {
        let (mut above, mut below) = (0.0, 0.0);
        for &(offset, ray, weight) in &rays {
            let weight = weight * error_weight(offset, ray);
            above += weight * (offset[0] * ray[0] + offset[1] * ray[1]);
            below += weight * (ray[0] * ray[0] + ray[1] * ray[1]);
        }
        above / below
    };
    let mut focal = solve(&|_, _| 1.0);
    for _ in 0..ROUNDS {
        focal = solve(&|offset, ray| {
            let error = [0, 1].map(|axis| offset[axis] - focal * ray[axis]);
            1.0 / (error[0] * error[0] + error[1] * error[1])
                .sqrt()
                .max(SMALLEST_ERROR)
        });
    }
    (focal.is_finite() && focal > 0.0).then_some(focal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(point: impl Fn(f64, f64, usize) -> [f64; 3]) -> PointMap {
        let (width, height) = (24, 16);
        let points = (0..width * height)
            .map(|index| {
                let (u, v) = ((index % width) as f64 - 11.5, (index / width) as f64 - 7.5);
                point(u, v, index).map(|value| value as f32)
            })
            .collect();
        PointMap {
            width,
            height,
            points,
            confidence: vec![2.0; width * height].into(),
        }
    }

    fn true_point(u: f64, v: f64, index: usize) -> [f64; 3] {
        let depth = 2.0 + (index % 7) as f64;
        [u / 30.0 * depth, v / 30.0 * depth, depth]
    }

    #[test]
    fn the_focal_of_exact_points_is_exact() {
        assert!((estimate_focal(&map(true_point)).unwrap() - 30.0).abs() < 1e-4);
    }

    #[test]
    fn a_quarter_of_wild_or_missing_points_does_not_move_the_focal() {
        let focal = estimate_focal(&map(|u, v, index| match index % 8 {
            0 => [0.3, -0.2, 0.7],
            1 => [f64::NAN, 1.0, 0.0],
            _ => true_point(u, v, index),
        }));
        assert!((focal.unwrap() - 30.0).abs() < 0.1, "{focal:?}");
    }

    #[test]
    fn points_without_any_direction_have_no_focal() {
        assert_eq!(estimate_focal(&map(|_, _, _| [0.0, 0.0, 1.0])), None);
        assert_eq!(estimate_focal(&map(|_, _, _| [f64::NAN; 3])), None);
        assert_eq!(estimate_focal(&map(|u, v, _| [-u, -v, 1.0])), None);
        assert_eq!(
            estimate_focal(&PointMap {
                width: 2,
                height: 2,
                points: vec![].into(),
                confidence: vec![].into()
            }),
            None
        );
    }
}
