//! Matches of the network, refined between two images of which one is a known warp of the other.

use image::RgbImage;
use nalgebra::{Matrix2, Vector2};

use super::super::epipolar::LEAST_MATCHES;
use super::super::patches::{PatchMatch, Patches, refined_matches, shrunk};
use super::super::plane::Plane;
use super::demo;
use crate::matching::random::Random;
use crate::matching::{Match, Pixel};
use crate::scene::{SceneView, fixtures};
use crate::views::{Crop, View};

/// How many pixels of the file a pixel of the network's image is.
const SHRUNK: u32 = 4;

/// The place in the first image of what is at a place of the second.
struct Warp {
    stretch: Matrix2<f64>,
    shift: Vector2<f64>,
}

impl Warp {
    fn first_of(&self, second: [f64; 2]) -> Vector2<f64> {
        self.stretch * Vector2::from(second) + self.shift
    }

    fn second_of(&self, first: [f64; 2]) -> Vector2<f64> {
        self.stretch.try_inverse().unwrap() * (Vector2::from(first) - self.shift)
    }
}

fn first_image() -> Plane {
    let demo = demo();
    Plane::of_rgb(&demo).resized(640, 480).blurred(1.5)
}

/// The second image, with another gain and bias.
fn second_image(first: &Plane, warp: &Warp) -> Plane {
    let mut second = first.clone();
    for y in 0..first.height {
        for x in 0..first.width {
            let place = warp.first_of([x as f64, y as f64]);
            let value = if first.holds(place, 0.0) {
                first.between(place.x, place.y)
            } else {
                0.3
            };
            second.values[y * first.width + x] = 0.7 * value + 0.1;
        }
    }
    second
}

fn views() -> (View, SceneView) {
    let (width, height) = (640 / SHRUNK, 480 / SHRUNK);
    let crop = Crop {
        file_width: 640,
        file_height: 480,
        ..Crop::whole(width, height)
    };
    let points = vec![[0.0, 0.0, 1.0]; (width * height) as usize];
    let scene = SceneView {
        crop,
        ..fixtures::view("a", [width, height], None, points)
    };
    let rgb = RgbImage::new(width, height);
    (View::new("a", rgb, crop), scene)
}

/// Refined matches with the distances from where they belong, pixels.
fn refined(warp: &Warp, first: &Plane, second: &Plane) -> Vec<(PatchMatch, f64)> {
    let (view, scene) = views();
    let patches = [first, second].map(|image| Patches::new(shrunk(image, 2).into_owned(), &view));
    let mut random = Random::new(1);
    let mut matches = Vec::new();
    for y in (2..480 / SHRUNK - 2).step_by(3) {
        for x in (2..640 / SHRUNK - 2).step_by(3) {
            let place = warp.second_of(view.crop.to_file([x, y].map(f64::from)));
            let [u, v] = view
                .crop
                .to_framed(place.into())
                .map(|at| (at + 0.7 * random.normal()).round());
            if u >= 2.0 && v >= 2.0 && u < 158.0 && v < 118.0 {
                matches.push(Match {
                    first: Pixel { x, y },
                    second: Pixel {
                        x: u as u32,
                        y: v as u32,
                    },
                    confidence: 1.0,
                });
            }
        }
    }
    let found = refined_matches([&patches[0], &patches[1]], [&scene, &scene], &matches, 2.0);
    let corners: Vec<[f64; 2]> = patches[0].corners().collect();
    let with_error = |found: PatchMatch| {
        let error = (warp.second_of(corners[found.corner]) - Vector2::from(found.pixel)).norm();
        (found, error)
    };
    found.into_iter().map(with_error).collect()
}

#[test]
fn patches_find_a_known_warp_to_a_tenth_of_a_pixel() {
    let first = first_image();
    let turns = [
        (1.0, 0.0, [3.3, -2.6]),
        (1.12, 0.1, [-30.4, 20.7]),
        (0.88, -0.12, [25.2, 40.1]),
    ];
    for (scale, angle, shift) in turns {
        let (sin, cos) = f64::sin_cos(angle);
        let stretch = Matrix2::new(scale * cos, -sin, 1.1 * sin, cos);
        let warp = Warp {
            stretch,
            shift: shift.into(),
        };
        let found = refined(&warp, &first, &second_image(&first, &warp));
        let mut errors: Vec<f64> = found.iter().map(|(_, error)| *error).collect();
        errors.sort_by(f64::total_cmp);
        let at = |share: f64| errors[(share * (errors.len() - 1) as f64) as usize];
        println!(
            "{scale} {angle}: {} of them, {:.3} and {:.3} px",
            errors.len(),
            at(0.5),
            at(0.95)
        );
        assert!(errors.len() > 60, "{}", errors.len());
        assert!(at(0.5) < 0.1 && at(0.95) < 0.5, "{} {}", at(0.5), at(0.95));
    }
}

#[test]
fn what_does_not_match_is_left_out() {
    let first = first_image();
    let warp = Warp {
        stretch: Matrix2::identity(),
        shift: Vector2::zeros(),
    };
    let mut random = Random::new(7);
    let mut noise = first.clone();
    noise
        .values
        .iter_mut()
        .for_each(|value| *value = random.uniform() as f32);
    assert!(refined(&warp, &first, &noise.blurred(2.0)).len() < LEAST_MATCHES);
    noise.values.fill(0.5);
    assert!(refined(&warp, &first, &noise).is_empty() && refined(&warp, &noise, &first).is_empty());
    // The negative of an image has its edges, and is another thing.
    let mut negative = first.clone();
    negative
        .values
        .iter_mut()
        .for_each(|value| *value = 1.0 - *value);
    assert!(refined(&warp, &first, &negative).is_empty());
}
