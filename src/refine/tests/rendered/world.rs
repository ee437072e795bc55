//! The world that images are rendered of, and the images.

use std::sync::OnceLock;

use nalgebra::{Isometry3, Translation3, UnitQuaternion, Vector3};
use rayon::prelude::*;

use crate::geometry::Lens;
use crate::matching::random::Random;

pub const VIEWS: usize = 6;
pub const LENS: Lens = Lens {
    width: 400,
    height: 300,
    focal: [371.0; 2],
    principal: [199.5, 149.5],
    radial: [-0.08, 0.0],
};
/// How much smaller the network's images are.
pub const SHRUNK: u32 = 4;

/// A rectangle: a corner and two sides.
#[derive(Clone, Copy)]
pub struct Rectangle {
    corner: Vector3<f64>,
    sides: [Vector3<f64>; 2],
    /// Where in the texture it begins, which tells surfaces apart.
    shift: f64,
    /// Brightness by metres along both sides.
    texture: fn(f64, f64) -> f64,
}

/// A value of 0 to 1 for whole numbers.
fn noise_at(x: i64, y: i64) -> f64 {
    Random::new(
        (x as u64)
            .wrapping_mul(0x1_0001_0001)
            .wrapping_add(y as u64),
    )
    .uniform()
}

/// Value noise of five octaves.
pub fn rough(u: f64, v: f64) -> f64 {
    let octave = |level: i32| {
        let (x, y) = (u * 2f64.powi(level), v * 2f64.powi(level));
        let (left, top) = (x.floor(), y.floor());
        let ease = |t: f64| t * t * (3.0 - 2.0 * t);
        let (s, t) = (ease(x - left), ease(y - top));
        let at = |across: f64, down: f64| {
            noise_at(
                (left + across) as i64 * 7 + i64::from(level),
                (top + down) as i64,
            )
        };
        let row = |down: f64| at(0.0, down) * (1.0 - s) + at(1.0, down) * s;
        row(0.0) * (1.0 - t) + row(1.0) * t - 0.5
    };
    0.5 + (0..5)
        .map(|level| octave(level) * 0.75f64.powi(level))
        .sum::<f64>()
        * 0.6
}

/// A checkerboard, squares of 0.7 m.
pub fn tiled(u: f64, v: f64) -> f64 {
    let is_dark = ((u / 0.7).floor() + (v / 0.7).floor()) as i64 % 2 == 0;
    if is_dark { 0.2 } else { 0.8 }
}

pub fn scene(wall: fn(f64, f64) -> f64) -> Vec<Rectangle> {
    let rectangle = |corner: [f64; 3], one: [f64; 3], two: [f64; 3], shift| Rectangle {
        corner: corner.into(),
        sides: [one.into(), two.into()],
        shift,
        texture: rough,
    };
    let mut all = vec![
        rectangle([-9.0, -5.0, 9.0], [18.0, 0.0, 0.0], [0.0, 7.0, 0.0], 0.0),
        rectangle([-9.0, 1.6, 0.5], [18.0, 0.0, 0.0], [0.0, 0.0, 8.5], 40.0),
    ];
    all[0].texture = wall;
    for (index, [x, z]) in [[-2.6, 6.5], [0.4, 5.0], [2.8, 7.0]]
        .into_iter()
        .enumerate()
    {
        let shift = 90.0 + 50.0 * index as f64;
        all.push(rectangle(
            [x, 0.2, z],
            [1.1, 0.0, 0.0],
            [0.0, 1.4, 0.0],
            shift,
        ));
        all.push(rectangle(
            [x, 0.2, z],
            [0.0, 0.0, 1.1],
            [0.0, 1.4, 0.0],
            shift + 13.0,
        ));
        all.push(rectangle(
            [x + 1.1, 0.2, z],
            [0.0, 0.0, 1.1],
            [0.0, 1.4, 0.0],
            shift + 29.0,
        ));
    }
    all
}

/// Distance along `ray` and brightness of what it meets first.
pub fn seen(scene: &[Rectangle], from: &Vector3<f64>, ray: &Vector3<f64>) -> Option<(f64, f64)> {
    let meet = |surface: &Rectangle| {
        let [one, two] = surface.sides;
        let normal = one.cross(&two);
        let distance = normal.dot(&(surface.corner - from)) / normal.dot(ray);
        let on = from + ray * distance - surface.corner;
        let [s, t] = [one, two].map(|side| on.dot(&side) / side.norm_squared());
        let is_hit = distance > 1e-6 && (0.0..=1.0).contains(&s) && (0.0..=1.0).contains(&t);
        is_hit.then(|| {
            (
                distance,
                (surface.texture)(surface.shift + s * one.norm(), t * two.norm()),
            )
        })
    };
    scene
        .iter()
        .filter_map(meet)
        .min_by(|one, two| one.0.total_cmp(&two.0))
}

pub fn cameras() -> Vec<Isometry3<f64>> {
    let pose = |view: usize| {
        let along = view as f64 - 2.5;
        let place = Vector3::new(0.75 * along, 0.15 * (view % 2) as f64, 0.1 * along.abs());
        let turn = UnitQuaternion::from_euler_angles(
            0.03 * (view % 3) as f64,
            -0.09 * along,
            0.02 * along,
        );
        Isometry3::from_parts(Translation3::from(place), turn)
    };
    (0..VIEWS).map(pose).collect()
}

pub fn images(scene: &[Rectangle], lens: impl Fn(usize) -> Lens) -> Vec<Vec<f64>> {
    cameras()
        .iter()
        .enumerate()
        .map(|(view, camera)| rendered(scene, camera, &lens(view)))
        .collect()
}

/// Images of the plain scene, which most tests take.
pub fn plain_images() -> Vec<Vec<f64>> {
    static IMAGES: OnceLock<Vec<Vec<f64>>> = OnceLock::new();
    IMAGES
        .get_or_init(|| images(&scene(rough), |_| LENS))
        .clone()
}

/// Brightness 0 to 1, row by row, the mean of four rays a pixel.
fn rendered(scene: &[Rectangle], world_from_camera: &Isometry3<f64>, lens: &Lens) -> Vec<f64> {
    let value = |index: usize| {
        let (x, y) = (
            (index % LENS.width as usize) as f64,
            (index / LENS.width as usize) as f64,
        );
        let sample = |[right, down]: [f64; 2]| {
            let [u, v] = lens.unproject([x + right, y + down]);
            let ray = world_from_camera.rotation * Vector3::new(u, v, 1.0);
            seen(scene, &world_from_camera.translation.vector, &ray).map_or(1.0, |(_, value)| value)
        };
        [[-0.25, -0.25], [0.25, -0.25], [-0.25, 0.25], [0.25, 0.25]]
            .map(sample)
            .iter()
            .sum::<f64>()
            / 4.0
    };
    (0..(LENS.width * LENS.height) as usize)
        .into_par_iter()
        .map(value)
        .collect()
}

pub fn blurred(values: &[f64], sigma: f64) -> Vec<f64> {
    let (width, height) = (LENS.width as i64, LENS.height as i64);
    let reach = (3.0 * sigma).ceil() as i64;
    let weights: Vec<f64> = (-reach..=reach)
        .map(|at| (-0.5 * (at as f64 / sigma).powi(2)).exp())
        .collect();
    let total: f64 = weights.iter().sum();
    let pass = |values: &[f64], [across, down]: [i64; 2]| -> Vec<f64> {
        let of = |index: i64| {
            let (x, y) = (index % width, index / width);
            let at = |step: i64| {
                let (x, y) = (
                    (x + across * step).clamp(0, width - 1),
                    (y + down * step).clamp(0, height - 1),
                );
                values[(y * width + x) as usize]
            };
            (-reach..=reach)
                .zip(&weights)
                .map(|(step, weight)| at(step) * weight)
                .sum::<f64>()
                / total
        };
        (0..width * height).map(of).collect()
    };
    pass(&pass(values, [1, 0]), [0, 1])
}
