//! Frames of a walk as images, with their true cameras.

use std::fs;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};
use mast3r::formats::cameras::CamerasFile;
use mast3r::geometry::{Camera, Intrinsics};
use rayon::prelude::*;

use crate::paint::{Colour, colour};
use crate::world::{Noise, World};

/// Columns and rows.
const SIZE: [u32; 2] = [336, 252];
/// Focal length in widths of the image.
const FOCAL: f64 = 0.9;
/// Rays across a pixel.
const FINER: u32 = 2;
/// Of a camera's noise, of 255.
const GRAIN: f64 = 1.5;
const QUALITY: u8 = 92;

/// Writes `00000.jpg`, `00001.jpg` and so on, and `cameras.json`, to a folder.
pub fn render(frames: usize, folder: &Path) {
    let world = World::with_streets(frames);
    let [width, height] = SIZE;
    let intrinsics = Intrinsics::centred(width, height, FOCAL * f64::from(width));
    let cameras = world.walk(frames, intrinsics);
    fs::create_dir_all(folder).unwrap();
    let name = |index: usize| format!("{index:05}.jpg");
    cameras.par_iter().enumerate().for_each(|(index, camera)| {
        let mut file = Vec::new();
        let seen = frame(&world, camera, index as u64);
        let encoder = JpegEncoder::new_with_quality(&mut file, QUALITY);
        seen.write_with_encoder(encoder).unwrap();
        fs::write(folder.join(name(index)), file).unwrap();
    });
    let named = cameras.into_iter().enumerate();
    let listed = CamerasFile::of_cameras(named.map(|(index, camera)| (name(index), camera)));
    let mut file = fs::File::create(folder.join("cameras.json")).unwrap();
    listed.write(&mut file).unwrap();
}

fn frame(world: &World, camera: &Camera, number: u64) -> RgbImage {
    let Intrinsics { width, height, .. } = camera.intrinsics;
    let from = camera.world_from_camera.translation.vector;
    let mut noise = Noise::new(0xf4a3_0000 + number);
    let finer = f64::from(FINER);
    let within = |step: u32| (f64::from(step) + 0.5) / finer - 0.5;
    RgbImage::from_fn(width, height, |x, y| {
        let mut sum = Colour::zeros();
        for step in 0..FINER * FINER {
            let pixel = [
                f64::from(x) + within(step % FINER),
                f64::from(y) + within(step / FINER),
            ];
            let ray = camera.unproject(pixel, 1.0).coords - from;
            sum += colour(world, &world.cast(&from, &ray), &from, &ray);
        }
        let mean = sum / (finer * finer);
        Rgb(std::array::from_fn(|channel| {
            (255.0 * mean[channel] + GRAIN * noise.normal())
                .round()
                .clamp(0.0, 255.0) as u8
        }))
    })
}
