//! The images of the cameras, small enough that all of them fit.

use std::io;

use image::imageops::{FilterType, resize};
use rayon::prelude::*;

use crate::export::images::write_jpeg;
use crate::views::Pixels;

/// Bytes of all images together, about: many images are smaller ones.
const BUDGET: f64 = 12e6;
/// Bytes of a pixel of JPEG, about.
const BYTES_OF_PIXEL: f64 = 0.25;
/// Longest side in pixels: at least, however many images there are, and at most.
const SIDES: [f64; 2] = [96.0, 640.0];
const QUALITY: u8 = 80;

/// JPEG files of the images, in order.
pub(super) fn encode<'a>(images: impl Iterator<Item = &'a Pixels>) -> io::Result<Vec<Vec<u8>>> {
    let images: Vec<&Pixels> = images.collect();
    let [least, most] = SIDES;
    let pixels = BUDGET / BYTES_OF_PIXEL / images.len().max(1) as f64;
    let longest = pixels.sqrt().clamp(least, most) as u32;
    images
        .into_par_iter()
        .map(|image| {
            let (width, height) = image.dimensions();
            let longer = width.max(height);
            let mut jpeg = Vec::new();
            if longer <= longest {
                write_jpeg(image, QUALITY, &mut jpeg)?;
            } else {
                let side = |side: u32| (side * longest / longer).max(1);
                let small = resize(image, side(width), side(height), FilterType::Triangle);
                write_jpeg(&small, QUALITY, &mut jpeg)?;
            }
            Ok(jpeg)
        })
        .collect()
}
