//! OpenCV's 8-bit resizing by area and by cubic interpolation, as Depth Anything 3's reference uses
//! it: first to the long side, then to whole patches.
//!
//! Area resizing gives OpenCV's bytes. Its cubic one differs between machines; here it is what the
//! usual x86-64 builds give, the sum in real numbers rounded once, but for one value in ten
//! thousand.

use image::{RgbImage, imageops};
use rayon::prelude::*;

use super::framing::{Crop, Framing, Resolution, first_size};

const CHANNELS: usize = 3;
/// What a source pixel must cover of an output pixel, beyond whole ones, to count.
const LEAST_COVER: f64 = 1e-3;
/// The cubic kernel's parameter.
const A: f64 = -0.75;

/// Resizes an upright image as `framing` placed it in `crop`, and cuts its box out.
pub(super) fn resize(image: &RgbImage, crop: &Crop, framing: &Framing) -> RgbImage {
    let mut resized = None;
    if let Resolution::LongSide(side) = framing.resolution {
        let (width, height) = image.dimensions();
        if let Some([width, height]) = first_size(side, width, height) {
            resized = once(image, width, height);
        }
    }
    let last = once(
        resized.as_ref().unwrap_or(image),
        crop.resized_width,
        crop.resized_height,
    );
    let resized = last.or(resized);
    let resized = resized.as_ref().unwrap_or(image);
    imageops::crop_imm(resized, crop.left, crop.top, crop.width, crop.height).to_image()
}

/// One resize; `None` if nothing changes.
fn once(image: &RgbImage, width: u32, height: u32) -> Option<RgbImage> {
    let (from_width, from_height) = image.dimensions();
    if (from_width, from_height) == (width, height) {
        return None;
    }
    let grows = width > from_width || height > from_height;
    let [columns, rows] = [
        Axis {
            from: from_width as usize,
            to: width as usize,
        },
        Axis {
            from: from_height as usize,
            to: height as usize,
        },
    ];
    let whole = |axis: &Axis| axis.from.is_multiple_of(axis.to);
    let bytes = if grows {
        cubic(image.as_raw(), &columns, &rows)
    } else if whole(&columns) && whole(&rows) {
        blocks(image.as_raw(), &columns, &rows)
    } else {
        area(image.as_raw(), &columns, &rows)
    };
    RgbImage::from_raw(width, height, bytes)
}

/// Samples before and after.
struct Axis {
    from: usize,
    to: usize,
}

/// The samples behind one output and their weights.
type Taps<W> = Vec<(usize, W)>;

impl Axis {
    /// Of an axis that shrinks.
    fn area(&self) -> Vec<Taps<f32>> {
        let step = self.from as f64 / self.to as f64;
        let taps = |output: usize| {
            let start = output as f64 * step;
            let end = start + step;
            let cell = step.min(self.from as f64 - start);
            let last = (end.floor() as usize).min(self.from - 1);
            let first = (start.ceil() as usize).min(last);
            let mut taps = Vec::with_capacity(last + 2 - first);
            if first as f64 - start > LEAST_COVER {
                taps.push((first - 1, ((first as f64 - start) / cell) as f32));
            }
            taps.extend((first..last).map(|at| (at, (1.0 / cell) as f32)));
            if end - last as f64 > LEAST_COVER {
                let cover = (end - last as f64).min(1.0).min(cell);
                taps.push((last, (cover / cell) as f32));
            }
            taps
        };
        (0..self.to).map(taps).collect()
    }

    fn cubic(&self) -> Vec<Taps<f64>> {
        let taps = |output: usize| {
            let place = (output as f64 + 0.5) * self.from as f64 / self.to as f64 - 0.5;
            let before = place.floor();
            let t = place - before;
            let last = self.from as i64 - 1;
            [1.0 + t, t, 1.0 - t, 2.0 - t]
                .into_iter()
                .zip(-1i64..)
                .map(|(distance, offset)| {
                    (
                        (before as i64 + offset).clamp(0, last) as usize,
                        cubic_kernel(distance),
                    )
                })
                .collect()
        };
        (0..self.to).map(taps).collect()
    }
}

/// The cubic convolution kernel of Keys with A = -0.75, for distances up to 2.
pub(crate) fn cubic_kernel(distance: f64) -> f64 {
    let d = distance;
    if d <= 1.0 {
        ((A + 2.0) * d - (A + 3.0)) * d * d + 1.0
    } else {
        ((A * d - 5.0 * A) * d + 8.0 * A) * d - 4.0 * A
    }
}

/// Sums of rows of `stride` bytes by `columns`, then of those sums by `rows`; each in order, one
/// product and one sum at a time.
macro_rules! separable {
    ($name:ident, $number:ty) => {
        fn $name(
            source: &[u8],
            stride: usize,
            columns: &[Taps<$number>],
            rows: &[Taps<$number>],
        ) -> Vec<u8> {
            let narrow_stride = columns.len() * CHANNELS;
            let mut narrow = vec![0.0 as $number; source.len() / stride * narrow_stride];
            narrow
                .par_chunks_exact_mut(narrow_stride)
                .zip(source.par_chunks_exact(stride))
                .for_each(|(out, row)| {
                    for (pixel, taps) in out.as_chunks_mut::<CHANNELS>().0.iter_mut().zip(columns) {
                        for &(at, weight) in taps {
                            for (sum, &value) in pixel.iter_mut().zip(&row[at * CHANNELS..]) {
                                *sum += <$number>::from(value) * weight;
                            }
                        }
                    }
                });
            let mut bytes = vec![0; rows.len() * narrow_stride];
            bytes
                .par_chunks_exact_mut(narrow_stride)
                .zip(rows)
                .for_each_init(
                    || vec![0.0 as $number; narrow_stride],
                    |sums, (out, taps)| {
                        sums.fill(0.0);
                        for &(row, weight) in taps {
                            let row = &narrow[row * narrow_stride..][..narrow_stride];
                            for (sum, value) in sums.iter_mut().zip(row) {
                                *sum += value * weight;
                            }
                        }
                        for (byte, sum) in out.iter_mut().zip(&*sums) {
                            *byte = sum.round_ties_even().clamp(0.0, 255.0) as u8;
                        }
                    },
                );
            bytes
        }
    };
}

separable!(separable_f32, f32);
separable!(separable_f64, f64);

fn area(source: &[u8], columns: &Axis, rows: &Axis) -> Vec<u8> {
    separable_f32(
        source,
        columns.from * CHANNELS,
        &columns.area(),
        &rows.area(),
    )
}

fn cubic(source: &[u8], columns: &Axis, rows: &Axis) -> Vec<u8> {
    separable_f64(
        source,
        columns.from * CHANNELS,
        &columns.cubic(),
        &rows.cubic(),
    )
}

/// Means of whole blocks of pixels.
fn blocks(source: &[u8], columns: &Axis, rows: &Axis) -> Vec<u8> {
    let (across, down) = (columns.from / columns.to, rows.from / rows.to);
    let stride = columns.from * CHANNELS;
    let share = 1.0 / (across * down) as f32;
    let mut bytes = vec![0; rows.to * columns.to * CHANNELS];
    bytes
        .par_chunks_exact_mut(columns.to * CHANNELS)
        .enumerate()
        .for_each(|(y, out)| {
            for (at, byte) in out.iter_mut().enumerate() {
                let (x, channel) = (at / CHANNELS, at % CHANNELS);
                let row = |dy: usize| &source[(y * down + dy) * stride..][..stride];
                let sum: u32 = (0..down)
                    .flat_map(|dy| {
                        let row = row(dy);
                        (0..across)
                            .map(move |dx| u32::from(row[(x * across + dx) * CHANNELS + channel]))
                    })
                    .sum();
                *byte = if (across, down) == (2, 2) {
                    ((sum + 2) >> 2) as u8
                } else {
                    (sum as f32 * share).round_ties_even() as u8
                };
            }
        });
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::Resize;

    fn framing(side: u32) -> Framing {
        Framing {
            resolution: Resolution::LongSide(side),
            patch: 14,
            resize: Resize::OpenCv,
            square_allowed: true,
            square_at_224: false,
        }
    }

    #[test]
    fn both_sides_go_to_the_nearest_whole_patches() {
        let placed = |width, height| {
            let crop = framing(504).place(width, height).unwrap();
            assert_eq!((crop.left, crop.top), (0, 0));
            assert_eq!(
                (crop.width, crop.height),
                (crop.resized_width, crop.resized_height)
            );
            [crop.width, crop.height]
        };
        assert_eq!(placed(1334, 1000), [504, 378]);
        assert_eq!(placed(641, 427), [504, 336]);
        assert_eq!(placed(75, 52), [504, 350]);
        assert_eq!(placed(504, 7), [504, 14]);
        assert!(framing(504).place(5000, 50).is_err());
    }

    #[test]
    fn a_flat_image_stays_flat_and_its_mean_stays() {
        for (width, height) in [
            (1334, 1000),
            (75, 52),
            (1008, 1008),
            (1512, 1008),
            (504, 504),
        ] {
            let image = RgbImage::from_pixel(width, height, image::Rgb([7, 130, 255]));
            let framing = framing(504);
            let crop = framing.place(width, height).unwrap();
            let out = resize(&image, &crop, &framing);
            assert_eq!(out.dimensions(), (crop.width, crop.height));
            assert!(out.pixels().all(|pixel| pixel.0 == [7, 130, 255]));
        }
    }
}
