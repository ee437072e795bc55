//! Images to measure with when none are given: two views of a small scene, drawn on the spot.
//!
//! Noise would do for the time, but not for outputs that are compared, nor for a network whose
//! matches depend on what it sees; and a reader should not have to wonder.

use image::{Rgb, RgbImage};

type Vector = [f64; 3];

/// A room of 8 by 4 by 10 units with three balls, x right, y down, z forward.
const ROOM: [f64; 3] = [4.0, 2.0, 9.0];
/// The wall behind the camera.
const BEHIND: f64 = -1.0;
/// Centre, radius and colour.
const BALLS: [(Vector, f64, Vector); 3] = [
    ([-1.3, 1.1, 5.0], 0.9, [0.85, 0.35, 0.25]),
    ([1.2, 1.3, 4.2], 0.7, [0.25, 0.55, 0.8]),
    ([0.4, 0.6, 6.8], 1.4, [0.9, 0.8, 0.4]),
];
const LIGHT: Vector = [1.5, -1.6, 2.5];
/// Focal length in units of the image's longer side: a wide lens.
const FOCAL: f64 = 0.9;

/// Two views of one scene, the second camera 0.9 units to the right of the first and turned 11
/// degrees to the left, so that they look at the same place. The same pixels on every machine up to
/// rounding, for a given size.
pub fn generated_pair(width: u32, height: u32) -> [RgbImage; 2] {
    [
        view(width, height, [0.0; 3], 0.0),
        view(width, height, [0.9, -0.1, 0.2], -0.19),
    ]
}

fn view(width: u32, height: u32, eye: Vector, turn: f64) -> RgbImage {
    let focal = FOCAL * f64::from(width.max(height));
    let (sin, cos) = turn.sin_cos();
    RgbImage::from_fn(width, height, |column, row| {
        let x = (f64::from(column) + 0.5 - f64::from(width) / 2.0) / focal;
        let y = (f64::from(row) + 0.5 - f64::from(height) / 2.0) / focal;
        let direction = unit([cos * x + sin, y, cos - sin * x]);
        Rgb(colour(eye, direction)
            .map(|value| (255.0 * value.clamp(0.0, 1.0).powf(1.0 / 2.2)).round() as u8))
    })
}

/// The colour that is seen from `eye` along the unit vector `direction`, linear, in [0, 1].
fn colour(eye: Vector, direction: Vector) -> Vector {
    let (wall_distance, wall_normal) = wall(eye, direction);
    let mut nearest = (wall_distance, wall_normal, None);
    for (index, ball) in BALLS.iter().enumerate() {
        if let Some(distance) = hit(eye, direction, ball)
            && distance < nearest.0
        {
            let point = along(eye, direction, distance);
            nearest = (distance, unit(sub(point, ball.0)), Some(index));
        }
    }
    let (distance, normal, ball) = nearest;
    let point = along(eye, direction, distance);
    let paint = match ball {
        Some(index) => scaled(
            BALLS[index].2,
            0.55 + 0.45 * noise(scaled(point, 7.0), index as u64),
        ),
        None => wall_paint(point, normal),
    };
    let to_light = sub(LIGHT, point);
    let length = dot(to_light, to_light).sqrt();
    let to_light = scaled(to_light, 1.0 / length);
    let start = along(point, normal, 1e-6);
    let lit = !BALLS
        .iter()
        .any(|ball| hit(start, to_light, ball).is_some_and(|distance| distance < length));
    let direct = if lit {
        dot(normal, to_light).max(0.0) * (1.0 - 0.05 * length)
    } else {
        0.0
    };
    scaled(paint, 0.25 + 0.75 * direct)
}

/// Distance to the room's nearest wall and the normal into the room.
fn wall(eye: Vector, direction: Vector) -> (f64, Vector) {
    let mut nearest = (f64::INFINITY, [0.0; 3]);
    for axis in 0..3 {
        let far = if axis == 2 {
            [BEHIND, ROOM[2]]
        } else {
            [-ROOM[axis], ROOM[axis]]
        };
        let side = usize::from(direction[axis] > 0.0);
        let distance = (far[side] - eye[axis]) / direction[axis];
        if distance < nearest.0 {
            let mut normal = [0.0; 3];
            normal[axis] = if side == 1 { -1.0 } else { 1.0 };
            nearest = (distance, normal);
        }
    }
    nearest
}

/// Tiles on the floor, plaster with a frieze on the walls.
fn wall_paint(point: Vector, normal: Vector) -> Vector {
    if normal[1] < 0.0 {
        let tile = (point[0].floor() as i64 + point[2].floor() as i64).rem_euclid(2) as f64;
        let stone = noise(scaled(point, 5.0), 11);
        return scaled([0.8, 0.72, 0.6], (0.35 + 0.55 * tile) * (0.7 + 0.3 * stone));
    }
    let stains = noise(scaled(point, 1.7), 12) * 0.5 + noise(scaled(point, 9.0), 13) * 0.5;
    let frieze =
        (point[1] + 0.6).abs() < 0.25 && (3.0 * (point[0] + point[2])).rem_euclid(1.0) < 0.5;
    scaled(
        if frieze {
            [0.3, 0.45, 0.4]
        } else {
            [0.75, 0.75, 0.7]
        },
        0.45 + 0.55 * stains,
    )
}

/// Distance to a ball in front, if there is one.
fn hit(eye: Vector, direction: Vector, (centre, radius, _): &(Vector, f64, Vector)) -> Option<f64> {
    let to_centre = sub(*centre, eye);
    let middle = dot(to_centre, direction);
    let inside = middle * middle - dot(to_centre, to_centre) + radius * radius;
    let distance = middle - inside.sqrt();
    (inside > 0.0 && distance > 0.0).then_some(distance)
}

/// Smooth noise in [0, 1] with features of the size of one unit: random values at whole
/// coordinates, between them mixed.
fn noise(point: Vector, seed: u64) -> f64 {
    let cell = point.map(f64::floor);
    let place = [0, 1, 2].map(|axis| {
        let t = point[axis] - cell[axis];
        t * t * (3.0 - 2.0 * t)
    });
    (0..8_u64)
        .map(|corner| {
            let mut weight = 1.0;
            let mut word = seed;
            for axis in 0..3 {
                let far = corner >> axis & 1;
                weight *= if far == 1 {
                    place[axis]
                } else {
                    1.0 - place[axis]
                };
                word = mixed(word ^ (cell[axis] as i64 as u64).wrapping_add(far));
            }
            weight * (word >> 40) as f64 / (1_u64 << 24) as f64
        })
        .sum()
}

/// The splitmix64 finaliser.
fn mixed(word: u64) -> u64 {
    let word = word.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

fn sub(a: Vector, b: Vector) -> Vector {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

fn dot(a: Vector, b: Vector) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn scaled(a: Vector, factor: f64) -> Vector {
    a.map(|value| value * factor)
}

fn along(start: Vector, direction: Vector, distance: f64) -> Vector {
    [0, 1, 2].map(|axis| start[axis] + distance * direction[axis])
}

fn unit(a: Vector) -> Vector {
    scaled(a, 1.0 / dot(a, a).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean absolute difference of neighbouring pixels of a row, in grey levels.
    fn roughness(image: &RgbImage) -> f64 {
        let rows = image.as_raw().chunks_exact(3 * image.width() as usize);
        let steps: Vec<f64> = rows
            .flat_map(|row| {
                row.windows(4)
                    .map(|w| (f64::from(w[0]) - f64::from(w[3])).abs())
            })
            .collect();
        steps.iter().sum::<f64>() / steps.len() as f64
    }

    #[test]
    fn images_have_content_and_are_no_noise() {
        let [first, second] = generated_pair(160, 112);
        assert_eq!(first.dimensions(), (160, 112));
        let mean = first
            .as_raw()
            .iter()
            .map(|&value| f64::from(value))
            .sum::<f64>()
            / first.as_raw().len() as f64;
        assert!((60.0..200.0).contains(&mean), "mean {mean}");
        // Uniform noise has a roughness of 85.
        for image in [&first, &second] {
            assert!(
                (1.0..20.0).contains(&roughness(image)),
                "roughness {}",
                roughness(image)
            );
        }
        let changed = first
            .as_raw()
            .iter()
            .zip(second.as_raw())
            .filter(|(a, b)| a.abs_diff(**b) > 8)
            .count();
        assert!(
            changed > first.as_raw().len() / 4,
            "the views hardly differ"
        );
    }
}
