//! Turning a stored image upright, as its EXIF orientation says.

use image::RgbImage;
use image::metadata::Orientation;
use rayon::prelude::*;

const CHANNELS: usize = 3;

/// Output rows handled together: a quarter turn reads columns, and this many neighbours share each
/// cache line.
const BAND: usize = 16;

/// Width and height once upright.
pub(super) fn upright_size(width: u32, height: u32, orientation: Orientation) -> (u32, u32) {
    match orientation {
        Orientation::NoTransforms
        | Orientation::Rotate180
        | Orientation::FlipHorizontal
        | Orientation::FlipVertical => (width, height),
        Orientation::Rotate90
        | Orientation::Rotate270
        | Orientation::Rotate90FlipH
        | Orientation::Rotate270FlipH => (height, width),
    }
}

/// Mirrors and rotates a stored image.
pub(super) fn upright(stored: RgbImage, orientation: Orientation) -> RgbImage {
    if orientation == Orientation::NoTransforms || stored.is_empty() {
        return stored;
    }
    let stride = stored.width() as isize;
    let (last_x, last_y) = (stride - 1, (stored.height() as isize - 1) * stride);
    // Pixel (x, y) of the upright image is the stored one at `first + x * right + y * down`,
    // counted row by row.
    let (first, right, down) = match orientation {
        Orientation::NoTransforms => (0, 1, stride),
        Orientation::FlipHorizontal => (last_x, -1, stride),
        Orientation::Rotate180 => (last_y + last_x, -1, -stride),
        Orientation::FlipVertical => (last_y, 1, -stride),
        Orientation::Rotate90FlipH => (0, stride, 1),
        Orientation::Rotate90 => (last_y, -stride, 1),
        Orientation::Rotate270FlipH => (last_y + last_x, -stride, -1),
        Orientation::Rotate270 => (last_x, stride, -1),
    };
    let (width, height) = upright_size(stored.width(), stored.height(), orientation);
    let source = stored.as_chunks::<CHANNELS>().0;
    let row_length = width as usize * CHANNELS;
    let mut pixels = vec![0; height as usize * row_length];
    pixels
        .par_chunks_mut(BAND * row_length)
        .enumerate()
        .for_each(|(band, rows)| {
            let start = first + (band * BAND) as isize * down;
            for x in 0..width as usize {
                let mut at = start + x as isize * right;
                for pixel in rows[x * CHANNELS..].chunks_mut(row_length) {
                    pixel[..CHANNELS].copy_from_slice(&source[at as usize]);
                    at += down;
                }
            }
        });
    RgbImage::from_raw(width, height, pixels).expect("the buffer was sized for the image")
}

#[cfg(test)]
mod tests {
    use image::{DynamicImage, Rgb};

    use super::*;

    #[test]
    fn all_orientations_turn_like_the_image_crate_does() {
        let stored = RgbImage::from_fn(23, 37, |x, y| Rgb([x as u8, y as u8, (x * y) as u8]));
        for tag in 1..=8 {
            let orientation = Orientation::from_exif(tag).unwrap();
            let mut expected = DynamicImage::ImageRgb8(stored.clone());
            expected.apply_orientation(orientation);
            let turned = upright(stored.clone(), orientation);
            assert_eq!(turned.dimensions(), upright_size(23, 37, orientation));
            assert_eq!(turned, expected.into_rgb8(), "tag {tag}");
        }
    }
}
