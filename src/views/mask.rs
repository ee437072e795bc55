//! Masks: which pixels of a picture count.

use std::path::Path;

use super::{Framing, Limits, View, load_one};
use crate::error::{Error, Result};

/// From this level on, of 255, a pixel of a mask is white.
const WHITE: u32 = 128;

/// Which pixels of a view count, row major at the size that the network sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    width: usize,
    kept: Vec<bool>,
}

impl Mask {
    /// Loads the mask of `view` from a picture of the size of the view's file, upright: what is white counts. It is
    /// framed as the view was.
    ///
    /// # Errors
    /// [`Error::Input`] if it is of another size, and as [`load_one`].
    pub fn load(path: &Path, view: &View, framing: &Framing, limits: &Limits) -> Result<Self> {
        let mask = load_one(path, framing, limits)?;
        if mask.crop != view.crop {
            let (own, other) = (mask.crop, view.crop);
            let reason = format!(
                "the mask has {}x{} pixels and {} has {}x{}, upright; make it of that size",
                own.file_width, own.file_height, view.name, other.file_width, other.file_height
            );
            return Err(Error::input(path, reason));
        }
        let is_white = |pixel: &image::Rgb<u8>| pixel.0.iter().map(|&level| u32::from(level)).sum::<u32>() >= 3 * WHITE;
        Ok(Self { width: mask.rgb.width() as usize, kept: mask.rgb.pixels().map(is_white).collect() })
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

#[cfg(test)]
mod tests {
    use image::{GrayImage, Luma, RgbImage};

    use super::super::Resolution;
    use super::*;

    fn framing() -> Framing {
        Framing { resolution: Resolution::LongSide(28), patch: 14, square_allowed: true, square_at_224: false }
    }

    #[test]
    fn white_counts_where_the_network_sees_it() {
        let folder = tempfile::tempdir().unwrap();
        let [picture, mask] = ["a.png", "mask.png"].map(|name| folder.path().join(name));
        RgbImage::new(56, 56).save(&picture).unwrap();
        // The left half is white.
        GrayImage::from_fn(56, 56, |x, _| Luma([if x < 28 { 255 } else { 0 }])).save(&mask).unwrap();
        let view = load_one(&picture, &framing(), &Limits::default()).unwrap();
        let mask = Mask::load(&mask, &view, &framing(), &Limits::default()).unwrap();
        assert_eq!(mask.kept().len(), 28 * 28);
        for (x, kept) in [(0, true), (12, true), (15, false), (27, false), (28, false)] {
            assert_eq!(mask.keeps(x, 5), kept, "column {x}");
        }
        assert!(!mask.keeps(0, 28));
    }

    #[test]
    fn a_mask_of_another_size_is_refused_with_both_sizes() {
        let folder = tempfile::tempdir().unwrap();
        let [picture, mask] = ["a.png", "mask.png"].map(|name| folder.path().join(name));
        RgbImage::new(56, 56).save(&picture).unwrap();
        GrayImage::new(112, 112).save(&mask).unwrap();
        let view = load_one(&picture, &framing(), &Limits::default()).unwrap();
        let error = Mask::load(&mask, &view, &framing(), &Limits::default()).unwrap_err().to_string();
        assert!(
            error.ends_with("the mask has 112x112 pixels and a.png has 56x56, upright; make it of that size"),
            "{error}"
        );
    }
}
