//! Images resampled at places that are no grid, as for removing lens distortion: Keys' cubic
//! convolution (1981).

use std::ops::Deref;

use image::{ImageBuffer, Rgb, RgbImage};
use rayon::prelude::*;

const CHANNELS: usize = 3;

/// The image of the same size whose pixels are those of `source` at the places that `source_of`
/// gives for theirs; integers are pixel centres. Beyond its edges the image goes on as its edges
/// are.
pub(crate) fn warp<C: Deref<Target = [u8]> + Sync>(
    source: &ImageBuffer<Rgb<u8>, C>,
    source_of: impl Fn([f64; 2]) -> [f64; 2] + Sync,
) -> RgbImage {
    let mut warped = RgbImage::new(source.width(), source.height());
    let stride = (source.width() as usize * CHANNELS).max(1);
    warped
        .par_chunks_exact_mut(stride)
        .enumerate()
        .for_each(|(y, row)| {
            for (x, pixel) in row.as_chunks_mut::<CHANNELS>().0.iter_mut().enumerate() {
                *pixel = sample(source, source_of([x as f64, y as f64]));
            }
        });
    warped
}

fn sample<C: Deref<Target = [u8]>>(
    source: &ImageBuffer<Rgb<u8>, C>,
    place: [f64; 2],
) -> [u8; CHANNELS] {
    let stride = source.width() as usize * CHANNELS;
    let (columns, across) = taps(place[0], source.width());
    let (rows, down) = taps(place[1], source.height());
    let mut sums = [0.0; CHANNELS];
    for (row, down) in rows.into_iter().zip(down) {
        let row = &source.as_raw()[row * stride..][..stride];
        for (column, across) in columns.into_iter().zip(across) {
            let pixel = &row[column * CHANNELS..][..CHANNELS];
            sums.iter_mut()
                .zip(pixel)
                .for_each(|(sum, &value)| *sum += down * across * f32::from(value));
        }
    }
    // The conversion takes what is above 255 or below 0 to these.
    sums.map(|sum| (sum + 0.5) as u8)
}

/// The samples of an axis of this length around a place, and their weights.
fn taps(place: f64, length: u32) -> ([usize; 4], [f32; 4]) {
    let last = length as usize - 1;
    let place = place.clamp(0.0, last as f64);
    let first = place.floor();
    let t = (place - first) as f32;
    let first = first as usize;
    let samples = [
        first.saturating_sub(1),
        first,
        (first + 1).min(last),
        (first + 2).min(last),
    ];
    let weights = [
        t * (t * (1.0 - 0.5 * t) - 0.5),
        1.0 + t * t * (1.5 * t - 2.5),
        t * (0.5 + t * (2.0 - 1.5 * t)),
        t * t * (0.5 * t - 0.5),
    ];
    (samples, weights)
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn keeps_an_image_that_does_not_move() {
        let image = RgbImage::from_fn(13, 7, |x, y| {
            Rgb([(x * 37) as u8, (y * 91) as u8, (x * y * 5) as u8])
        });
        assert_eq!(warp(&image, |place| place), image);
        for size in [(1, 1), (1, 9), (9, 1)] {
            let image = RgbImage::from_pixel(size.0, size.1, Rgb([9, 120, 255]));
            assert_eq!(
                warp(&image, |[x, y]| [1.1 * x - 0.7, 0.9 * y + 0.3]),
                image,
                "{size:?}"
            );
        }
    }

    #[test]
    fn is_exact_for_levels_that_change_evenly() {
        let image = RgbImage::from_fn(40, 30, |x, y| {
            Rgb([(4 * x + y) as u8, (200 - 2 * x) as u8, (5 * y) as u8])
        });
        let warped = warp(&image, |[x, y]| [0.8 * x + 3.25, 0.75 * y + 2.6]);
        for (x, y, pixel) in warped.enumerate_pixels() {
            let [u, v] = [0.8 * f64::from(x) + 3.25, 0.75 * f64::from(y) + 2.6];
            for (found, exact) in pixel
                .0
                .into_iter()
                .zip([4.0 * u + v, 200.0 - 2.0 * u, 5.0 * v])
            {
                assert!(
                    (f64::from(found) - exact).abs() <= 0.51,
                    "({x}, {y}): {found}, {exact}"
                );
            }
        }
    }

    #[test]
    fn an_edge_does_not_wrap_around() {
        let image = RgbImage::from_fn(8, 8, |x, _| Rgb([if x < 4 { 0 } else { 255 }; 3]));
        let warped = warp(&image, |[x, y]| [x + 0.5, y]);
        let row: Vec<u8> = warped
            .rows()
            .next()
            .unwrap()
            .map(|pixel| pixel.0[0])
            .collect();
        assert_eq!(row, [0, 0, 0, 128, 255, 255, 255, 255]);
    }
}
