//! An image in linear light with its depth buffer.

use image::RgbImage;
use rayon::prelude::*;

use crate::export::colors::{linear_from_srgb, srgb_from_linear};

/// Darkness of the eye-dome lighting per unit of the logarithm of depth.
const DOME_DARKNESS: f32 = 12.0;
/// A neighbour that is nearer by more than this, in the logarithm of depth, darkens no more: an
/// edge has a soft shadow.
const DEEPEST_STEP: f32 = 0.06;
/// Distances of the neighbours, in pixels.
const DOME_RADII: [isize; 3] = [1, 3, 7];
/// Directions of the neighbours.
const DOME: [(isize, isize); 8] = [
    (-1, -1),
    (-1, 0),
    (-1, 1),
    (0, -1),
    (0, 1),
    (1, -1),
    (1, 0),
    (1, 1),
];

/// The steps of linear light between black and white.
const BRIGHTEST: f32 = u16::MAX as f32;

/// Samples, row major.
#[derive(Clone, Debug)]
pub(super) struct Canvas {
    pub width: usize,
    pub height: usize,
    /// Linear light, 0 to 1.
    pub rgb: Vec<[f32; 3]>,
    /// Depth along z, infinite where nothing is drawn.
    pub depth: Vec<f32>,
}

impl Canvas {
    /// One colour everywhere.
    pub(super) fn new(width: usize, height: usize, background: [u8; 3]) -> Self {
        let levels = linear_levels();
        let rgb = background.map(|level| levels[usize::from(level)]);
        Self {
            width,
            height,
            rgb: vec![rgb; width * height],
            depth: vec![f32::INFINITY; width * height],
        }
    }

    /// Eye-dome lighting: a sample is darker the farther it lies behind those around it.
    pub(super) fn shade(&mut self, strength: f32, samples: usize) {
        if strength == 0.0 {
            return;
        }
        let (width, height) = (self.width, self.height);
        let logarithms: Vec<f32> = self.depth.par_iter().map(|depth| depth.ln()).collect();
        self.rgb
            .par_chunks_mut(width.max(1))
            .enumerate()
            .for_each(|(row, line)| {
                for (column, sample) in line.iter_mut().enumerate() {
                    let own = logarithms[row * width + column];
                    if !own.is_finite() {
                        continue;
                    }
                    let mut steps = 0.0;
                    for radius in DOME_RADII.map(|radius| radius * samples as isize) {
                        for (down, right) in DOME {
                            let (y, x) = (
                                row.wrapping_add_signed(down * radius),
                                column.wrapping_add_signed(right * radius),
                            );
                            if y < height && x < width {
                                steps += (own - logarithms[y * width + x]).clamp(0.0, DEEPEST_STEP);
                            }
                        }
                    }
                    let light = (-DOME_DARKNESS * strength * steps / DOME.len() as f32).exp();
                    *sample = sample.map(|value| value * light);
                }
            });
    }

    /// Mixes `rgb`, linear, into a sample that is not hidden by what is there, and puts it there if
    /// it covers half.
    pub(super) fn blend(
        &mut self,
        column: usize,
        row: usize,
        depth: f32,
        rgb: [f32; 3],
        cover: f32,
    ) {
        let index = row * self.width + column;
        if depth >= self.depth[index] {
            return;
        }
        for (old, new) in self.rgb[index].iter_mut().zip(rgb) {
            *old += cover * (new - *old);
        }
        if cover >= 0.5 {
            self.depth[index] = depth;
        }
    }

    /// The mean of each square of `samples` x `samples`.
    pub(super) fn shrink(&self, samples: usize) -> RgbImage {
        let (width, height) = (self.width / samples, self.height / samples);
        let share = BRIGHTEST / (samples * samples) as f32;
        let levels: Vec<u8> = (0..=u16::MAX)
            .map(|light| srgb_from_linear(f64::from(light) / f64::from(u16::MAX)))
            .collect();
        let mut image = RgbImage::new(width as u32, height as u32);
        image
            .par_chunks_mut((3 * width).max(1))
            .enumerate()
            .for_each(|(row, pixels)| {
                for (column, pixel) in pixels.chunks_exact_mut(3).enumerate() {
                    let mut sum = [0.0; 3];
                    for y in row * samples..(row + 1) * samples {
                        for sample in &self.rgb[y * self.width + column * samples..][..samples] {
                            sum.iter_mut()
                                .zip(sample)
                                .for_each(|(sum, value)| *sum += value * share);
                        }
                    }
                    for (level, light) in pixel.iter_mut().zip(sum) {
                        // The cast saturates.
                        *level = levels[usize::from(light.round() as u16)];
                    }
                }
            });
        image
    }
}

/// Linear light, 0 to 1, of every sRGB level.
pub(super) fn linear_levels() -> [f32; 256] {
    linear_from_srgb().map(|light| f32::from(light) / BRIGHTEST)
}
