//! The reference's resize: Pillow's 8-bit Lanczos and bicubic filters, bit for bit.
//!
//! Two passes, horizontal first, with integer weights of 22 fractional bits; each pass rounds to 8
//! bits. Only the rows and columns that the box needs are computed: no pixel depends on any other
//! output pixel.

use std::f64::consts::PI;

use image::RgbImage;
use rayon::prelude::*;

use super::framing::Crop;

const CHANNELS: usize = 3;

/// Fractional bits of a weight: 32 less 8 for the pixel less 2 for the sign and the negative lobes'
/// overshoot.
const WEIGHT_BITS: u32 = 22;

/// Resizes an upright image as `crop` says and cuts its box out.
///
/// `image` must have the size that `crop` was placed for.
pub(super) fn resize(image: &RgbImage, crop: &Crop) -> RgbImage {
    let filter = if crop.shrinks() {
        Filter::Lanczos
    } else {
        Filter::Bicubic
    };
    let columns = filter.taps(crop.file_width, crop.resized_width, crop.left, crop.width);
    let rows = filter.taps(crop.file_height, crop.resized_height, crop.top, crop.height);

    let source = image.as_raw();
    let stride = crop.file_width as usize * CHANNELS;
    let narrow_stride = crop.width as usize * CHANNELS;
    let (first_row, end_row) = rows.reach();
    let mut narrow = vec![0u8; (end_row - first_row) * narrow_stride];
    narrow
        .par_chunks_exact_mut(narrow_stride)
        .enumerate()
        .for_each(|(y, out)| {
            let row = &source[(first_row + y) * stride..][..stride];
            filter_row(row, &columns, out);
        });

    let mut framed = vec![0u8; crop.height as usize * narrow_stride];
    framed
        .par_chunks_exact_mut(narrow_stride)
        .zip(&rows.outputs)
        .for_each_init(
            || vec![0i32; narrow_stride],
            |sums, (out, tap)| mix_rows(&narrow, first_row, tap, rows.weights_of(tap), sums, out),
        );
    RgbImage::from_raw(crop.width, crop.height, framed).expect("the buffer was sized for the box")
}

/// One row of the horizontal pass.
fn filter_row(row: &[u8], columns: &Taps, out: &mut [u8]) {
    for (pixel, tap) in out
        .as_chunks_mut::<CHANNELS>()
        .0
        .iter_mut()
        .zip(&columns.outputs)
    {
        let (samples, _) =
            row[tap.first * CHANNELS..(tap.first + tap.count) * CHANNELS].as_chunks::<CHANNELS>();
        let mut sums = [1i32 << (WEIGHT_BITS - 1); CHANNELS];
        for (sample, &weight) in samples.iter().zip(columns.weights_of(tap)) {
            for (sum, &value) in sums.iter_mut().zip(sample) {
                *sum += weight * i32::from(value);
            }
        }
        *pixel = sums.map(to_byte);
    }
}

/// One row of the vertical pass; `sums` is scratch.
fn mix_rows(
    narrow: &[u8],
    first_row: usize,
    tap: &Tap,
    weights: &[i32],
    sums: &mut [i32],
    out: &mut [u8],
) {
    let stride = out.len();
    sums.fill(1 << (WEIGHT_BITS - 1));
    let rows = narrow[(tap.first - first_row) * stride..].chunks_exact(stride);
    for (row, &weight) in rows.zip(weights) {
        for (sum, &value) in sums.iter_mut().zip(row) {
            *sum += weight * i32::from(value);
        }
    }
    for (byte, &sum) in out.iter_mut().zip(&*sums) {
        *byte = to_byte(sum);
    }
}

fn to_byte(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    /// Windowed sinc over three lobes: for shrinking.
    Lanczos,
    /// Keys' cubic with a = -0.5: for enlarging.
    Bicubic,
}

impl Filter {
    /// Reach to either side of the centre, in samples of the coarser grid.
    fn support(self) -> f64 {
        match self {
            Self::Lanczos => 3.0,
            Self::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        match self {
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
            Self::Bicubic => {
                const A: f64 = -0.5;
                let x = x.abs();
                if x < 1.0 {
                    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
                } else if x < 2.0 {
                    (((x - 5.0) * x + 8.0) * x - 4.0) * A
                } else {
                    0.0
                }
            }
        }
    }

    /// Samples and weights for the outputs `first .. first + count` of an axis resized from `from`
    /// to `to`.
    fn taps(self, from: u32, to: u32, first: u32, count: u32) -> Taps {
        let outputs = first..first + count;
        if from == to {
            let unit = vec![1 << WEIGHT_BITS];
            return Taps {
                outputs: outputs
                    .map(|at| Tap {
                        first: at as usize,
                        count: 1,
                        weights: 0,
                    })
                    .collect(),
                weights: unit,
            };
        }
        let scale = f64::from(from) / f64::from(to);
        let stretch = scale.max(1.0);
        let support = self.support() * stretch;
        let mut taps = Taps {
            outputs: Vec::with_capacity(count as usize),
            weights: Vec::new(),
        };
        let mut shape = Vec::new();
        for output in outputs {
            let center = (f64::from(output) + 0.5) * scale;
            // Negative values become 0 in the conversion, as they should.
            let low = (center - support + 0.5) as u32;
            let high = ((center + support + 0.5) as u32).min(from);
            shape.clear();
            shape.extend(
                (low..high).map(|i| self.weight((f64::from(i) - center + 0.5) * (1.0 / stretch))),
            );
            let total: f64 = shape.iter().sum();
            taps.outputs.push(Tap {
                first: low as usize,
                count: shape.len(),
                weights: taps.weights.len(),
            });
            taps.weights.extend(shape.iter().map(|weight| {
                let fixed = weight / total * f64::from(1 << WEIGHT_BITS);
                // Half away from zero, by truncation.
                (fixed + 0.5f64.copysign(fixed)) as i32
            }));
        }
        taps
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        1.0
    } else {
        (x * PI).sin() / (x * PI)
    }
}

/// The weighted samples behind every output of one axis.
struct Taps {
    outputs: Vec<Tap>,
    weights: Vec<i32>,
}

/// `count` samples from `first`, with their weights from `weights` on.
struct Tap {
    first: usize,
    count: usize,
    weights: usize,
}

impl Taps {
    fn weights_of(&self, tap: &Tap) -> &[i32] {
        &self.weights[tap.weights..][..tap.count]
    }

    /// The samples that any output needs, as first and end.
    fn reach(&self) -> (usize, usize) {
        let first = self.outputs.iter().map(|tap| tap.first).min().unwrap_or(0);
        let end = self
            .outputs
            .iter()
            .map(|tap| tap.first + tap.count)
            .max()
            .unwrap_or(0);
        (first, end)
    }
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::*;

    fn whole(file: (u32, u32), resized: (u32, u32)) -> Crop {
        Crop {
            file_width: file.0,
            file_height: file.1,
            resized_width: resized.0,
            resized_height: resized.1,
            left: 0,
            top: 0,
            width: resized.0,
            height: resized.1,
        }
    }

    fn checkered(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            Rgb([
                (x * 37 + y * 11) as u8,
                (x * y * 5) as u8,
                if (x / 3 + y / 2) % 2 == 0 { 250 } else { 9 },
            ])
        })
    }

    #[test]
    fn same_size_is_a_copy() {
        let image = checkered(31, 17);
        assert_eq!(resize(&image, &whole((31, 17), (31, 17))), image);
    }

    #[test]
    fn flat_images_stay_flat() {
        for (file, resized) in [
            ((50, 40), (7, 5)),
            ((7, 5), (50, 40)),
            ((1, 1), (9, 9)),
            ((300, 2), (64, 1)),
        ] {
            let image = RgbImage::from_pixel(file.0, file.1, Rgb([0, 127, 255]));
            let out = resize(&image, &whole(file, resized));
            assert!(
                out.pixels().all(|pixel| *pixel == Rgb([0, 127, 255])),
                "{file:?} to {resized:?}"
            );
        }
    }

    #[test]
    fn a_box_equals_the_same_box_of_the_whole() {
        for resized in [(40, 29), (160, 131)] {
            let image = checkered(90, 70);
            let all = resize(&image, &whole((90, 70), resized));
            let part = Crop {
                left: 7,
                top: 3,
                width: 16,
                height: 20,
                ..whole((90, 70), resized)
            };
            let cut = image::imageops::crop_imm(&all, 7, 3, 16, 20).to_image();
            assert_eq!(resize(&image, &part), cut);
        }
    }

    /// `Image.fromarray(ramp).resize((n, 1), filter)` of Pillow 13.0.0 on a row of grey levels.
    #[test]
    fn a_row_equals_pillows() {
        let row = [0u8, 255, 13, 200, 77, 90, 255, 255, 0, 31];
        let image = RgbImage::from_fn(10, 1, |x, _| Rgb([row[x as usize]; 3]));
        let grey = |resized| {
            resize(&image, &whole((10, 1), resized))
                .pixels()
                .map(|p| p.0[0])
                .collect::<Vec<_>>()
        };
        assert_eq!(grey((4, 1)), LANCZOS_4);
        assert_eq!(grey((13, 1)), BICUBIC_13);
    }

    const LANCZOS_4: [u8; 4] = [115, 108, 191, 81];
    const BICUBIC_13: [u8; 13] = [0, 186, 165, 27, 198, 109, 66, 128, 255, 255, 101, 0, 33];
}
