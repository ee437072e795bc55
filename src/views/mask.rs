//! Masks: which pixels of an image count.

use std::path::Path;

use image::RgbImage;

use super::decode::ImageFile;
use super::{Crop, Framing, Limits, OPAQUE, View, resample};
use crate::error::{Error, Result};

/// The shapes of a mask and an image may differ by one in so many: sizes are whole numbers.
const SAME_SHAPE: u64 = 100;

/// Which pixels of a view count, row major at the size that the network sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    width: usize,
    kept: Vec<bool>,
}

impl Mask {
    /// Loads the mask of `view` from an image of the size of the view's file, upright, or of another
    /// size with the same shape. It is framed as the view was.
    ///
    /// What is white counts: from half of the mask's own highest level on, so that 0 and 1 mean the
    /// same as 0 and 255. Where the mask has alpha, what is transparent does not count; one that is
    /// black all over counts by its alpha alone.
    ///
    /// # Errors
    /// [`Error::Input`] if it is of another shape, and as [`super::load_one`].
    pub fn load(path: &Path, view: &View, framing: &Framing, limits: &Limits) -> Result<Self> {
        let image = ImageFile::open(path, limits)?;
        framing.check()?;
        let other = view.crop;
        let (width, height) = image.upright_size();
        let [across, down] = [
            u64::from(width) * u64::from(other.file_height),
            u64::from(height) * u64::from(other.file_width),
        ];
        if SAME_SHAPE * across.abs_diff(down) > across.max(down) {
            let reason = format!(
                "the mask has {width}x{height} pixels and {} has {}x{}, upright; make it of that size or shape",
                view.name, other.file_width, other.file_height
            );
            return Err(Error::input(path, reason));
        }
        let own = Crop {
            file_width: width,
            file_height: height,
            ..other
        };
        let pixels = image.decode_mask()?;
        let highest = pixels.rgb.pixels().map(level).max().unwrap_or(0);
        // Stretched, since few levels would not outlast resizing.
        let mut stretched = pixels.rgb;
        for value in stretched.iter_mut() {
            *value = (u32::from(*value) * 255 / u32::from(highest.max(1))).min(255) as u8;
        }
        let by_level = || Self::of_levels(&resample::resize(&stretched, &own), u8::MAX / 2);
        Ok(
            match pixels
                .alpha
                .map(|alpha| Self::of_levels(&resample::resize(&alpha, &own), OPAQUE))
            {
                Some(by_alpha) if highest == 0 => by_alpha,
                Some(by_alpha) => by_level().and(&by_alpha),
                None => by_level(),
            },
        )
    }

    /// The pixels of at least a level.
    pub(crate) fn of_levels(pixels: &RgbImage, least: u8) -> Self {
        let kept = pixels.pixels().map(|pixel| level(pixel) >= least).collect();
        Self {
            width: pixels.width() as usize,
            kept,
        }
    }

    /// The pixels that count in both of two masks of one size.
    pub fn and(mut self, other: &Self) -> Self {
        for (kept, other) in self.kept.iter_mut().zip(&other.kept) {
            *kept &= other;
        }
        self
    }

    /// Whether no pixel counts.
    pub fn hides_all(&self) -> bool {
        !self.kept.contains(&true)
    }

    /// Whether the pixel counts; those outside do not.
    pub fn keeps(&self, x: u32, y: u32) -> bool {
        let (x, y) = (x as usize, y as usize);
        x < self.width && self.kept.get(y * self.width + x).copied().unwrap_or(false)
    }

    /// Every pixel, row by row.
    pub fn kept(&self) -> &[bool] {
        &self.kept
    }
}

/// The mean of a pixel's levels.
fn level(pixel: &image::Rgb<u8>) -> u8 {
    (pixel.0.iter().map(|level| u32::from(*level)).sum::<u32>() / 3) as u8
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, Luma, RgbImage};

    use super::super::{Resize, Resolution, load_one};
    use super::*;

    fn framing() -> Framing {
        Framing {
            resolution: Resolution::LongSide(28),
            patch: 14,
            resize: Resize::Pillow,
            square_allowed: true,
            square_at_224: false,
        }
    }

    #[test]
    fn white_counts_where_the_network_sees_it() {
        let folder = tempfile::tempdir().unwrap();
        let [image, mask] = ["a.png", "mask.png"].map(|name| folder.path().join(name));
        RgbImage::new(56, 56).save(&image).unwrap();
        // The left half is white.
        GrayImage::from_fn(56, 56, |x, _| Luma([if x < 28 { 255 } else { 0 }]))
            .save(&mask)
            .unwrap();
        let view = load_one(&image, &framing(), &Limits::default()).unwrap();
        let mask = Mask::load(&mask, &view, &framing(), &Limits::default()).unwrap();
        assert_eq!(mask.kept().len(), 28 * 28);
        for (x, kept) in [(0, true), (12, true), (15, false), (27, false), (28, false)] {
            assert_eq!(mask.keeps(x, 5), kept, "column {x}");
        }
        assert!(!mask.keeps(0, 28));
    }

    #[test]
    fn a_mask_of_another_size_is_resized_if_it_has_the_shape() {
        let folder = tempfile::tempdir().unwrap();
        let [image, mask] = ["a.png", "mask.png"].map(|name| folder.path().join(name));
        RgbImage::new(56, 56).save(&image).unwrap();
        let view = load_one(&image, &framing(), &Limits::default()).unwrap();
        for side in [28, 112, 200] {
            GrayImage::from_fn(side, side, |x, _| {
                Luma([if x < side / 2 { 255 } else { 0 }])
            })
            .save(&mask)
            .unwrap();
            let mask = Mask::load(&mask, &view, &framing(), &Limits::default()).unwrap();
            for (x, kept) in [(0, true), (12, true), (15, false), (27, false)] {
                assert_eq!(mask.keeps(x, 5), kept, "column {x} of {side}");
            }
        }
    }

    #[test]
    fn a_mask_of_another_shape_is_refused_with_both_sizes() {
        let folder = tempfile::tempdir().unwrap();
        let [image, mask] = ["a.png", "mask.png"].map(|name| folder.path().join(name));
        RgbImage::new(56, 56).save(&image).unwrap();
        GrayImage::new(112, 56).save(&mask).unwrap();
        let view = load_one(&image, &framing(), &Limits::default()).unwrap();
        let error = Mask::load(&mask, &view, &framing(), &Limits::default())
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with(
                "the mask has 112x56 pixels and a.png has 56x56, upright; make it of that size or shape"
            ),
            "{error}"
        );
    }
}
