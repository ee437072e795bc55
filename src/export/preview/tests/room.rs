//! A room of 6 by 3 by 8 units with a ball and a box, x right, y down, z forward; its floor is at y
//! = 1.

use super::*;

const LOW: [f64; 3] = [-3.0, -2.0, -2.0];
const HIGH: [f64; 3] = [3.0, 1.0, 6.0];
const BOX: [[f64; 3]; 2] = [[0.7, 0.2, 3.3], [1.9, 1.0, 4.3]];
const BALL: ([f64; 3], f64) = ([-0.7, 0.4, 3.4], 0.6);

/// What a ray from `start` meets: where, and the colour.
pub fn meet(start: Point3<f64>, ray: Vector3<f64>) -> (Point3<f64>, [u8; 3]) {
    let mut nearest = (f64::INFINITY, [0.0; 3], 0.0);
    let mut offer = |distance: f64, color: [f64; 3], light: f64| {
        if distance > 1e-6 && distance < nearest.0 {
            nearest = (distance, color, light);
        }
    };
    let wave = |v: f64| 0.5 + 0.5 * (v * 6.0).sin();
    for axis in 0..3 {
        let wall = if ray[axis] > 0.0 {
            HIGH[axis]
        } else {
            LOW[axis]
        };
        let distance = (wall - start[axis]) / ray[axis];
        let place = start + ray * distance;
        let (a, b) = (place[(axis + 1) % 3], place[(axis + 2) % 3]);
        let color = match (axis, ray[axis] > 0.0) {
            (1, true) => {
                let tile = ((a * 1.5).floor() + (b * 1.5).floor()).rem_euclid(2.0);
                [0.62 + 0.18 * tile, 0.52 + 0.18 * tile, 0.42 + 0.16 * tile]
            }
            (2, true) => [0.35 + 0.2 * wave(a), 0.5 + 0.15 * wave(b * 0.7), 0.62],
            _ => [0.8, 0.72 + 0.08 * wave(a), 0.6 + 0.1 * wave(b)],
        };
        offer(distance, color, [0.85, 1.0, 0.95][axis]);
    }
    let (centre, radius) = (Point3::from(BALL.0), BALL.1);
    let (half, offset) = (
        ray.dot(&(start - centre)) / ray.norm_squared(),
        (start - centre).norm_squared(),
    );
    let root = half * half - (offset - radius * radius) / ray.norm_squared();
    if root > 0.0 {
        let distance = -half - root.sqrt();
        let normal = (start + ray * distance - centre) / radius;
        let band = wave(normal.y * 2.5);
        offer(
            distance,
            [0.85, 0.3 + 0.3 * band, 0.2 + 0.1 * band],
            0.7 - 0.3 * normal.y,
        );
    }
    let (mut enter, mut leave, mut side) = (f64::NEG_INFINITY, f64::INFINITY, 0);
    for axis in 0..3 {
        let [a, b] = BOX.map(|corner| (corner[axis] - start[axis]) / ray[axis]);
        if a.min(b) > enter {
            (enter, side) = (a.min(b), axis);
        }
        leave = leave.min(a.max(b));
    }
    if enter < leave {
        let place = start + ray * enter;
        let stripe = wave(place.x * 1.3 + place.y * 1.3 + place.z * 1.3);
        offer(
            enter,
            [0.25 + 0.2 * stripe, 0.45 + 0.2 * stripe, 0.3],
            [0.75, 1.0, 0.9][side],
        );
    }
    let (distance, color, light) = nearest;
    (
        start + ray * distance,
        color.map(|value| (255.0 * value * light).clamp(0.0, 255.0) as u8),
    )
}

pub fn view(name: &str, camera: Camera) -> SceneView {
    let (width, height) = (camera.intrinsics.width, camera.intrinsics.height);
    let centre = camera.unproject([0.0, 0.0], 0.0);
    let seen: Vec<_> = (0..width * height)
        .map(|index| {
            let pixel = [f64::from(index % width), f64::from(index / width)];
            meet(centre, camera.unproject(pixel, 1.0) - centre)
        })
        .collect();
    scene_view(
        name,
        Some(camera),
        [width, height],
        seen.iter()
            .map(|(place, _)| (place.cast::<f32>()).into())
            .collect(),
        |x, y| seen[(y * width + x) as usize].1,
    )
}

pub fn scene(width: u32, height: u32) -> Scene {
    let intrinsics = Intrinsics::centred(width, height, 0.9 * f64::from(width));
    let place = |x: f64, turn: f64| {
        let turn = UnitQuaternion::from_scaled_axis(Vector3::new(0.0, turn, 0.0));
        Camera {
            intrinsics,
            world_from_camera: Isometry3::from_parts(Translation3::new(x, 0.0, 0.1 * x), turn),
        }
    };
    scene_of(vec![
        view("left.png", place(0.0, 0.1)),
        view("right.png", place(0.9, -0.15)),
    ])
}
