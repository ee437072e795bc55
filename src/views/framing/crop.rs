//! Which part of a file's image the network sees.

use serde::{Deserialize, Serialize};

use super::LONGEST_SIDE;

/// Longest side of a file that a crop may be of; more than any camera has.
const LARGEST_FILE_SIDE: u32 = 1 << 20;

/// Where a framed image came from: the upright file was resized, then a box was cut out. All in
/// pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Crop {
    /// Width of the file's image, upright, that is after its EXIF orientation is applied.
    pub file_width: u32,
    /// Height of the file's image, upright.
    pub file_height: u32,
    /// Width of the whole image once resized.
    pub resized_width: u32,
    /// Height of the whole image once resized.
    pub resized_height: u32,
    /// Left edge of the box in the resized image.
    pub left: u32,
    /// Top edge of the box in the resized image.
    pub top: u32,
    /// Width of the box: what the network sees.
    pub width: u32,
    /// Height of the box: what the network sees.
    pub height: u32,
}

impl Crop {
    /// An image of `width` x `height` pixels that is neither resized nor cut.
    pub fn whole(width: u32, height: u32) -> Self {
        Self {
            file_width: width,
            file_height: height,
            resized_width: width,
            resized_height: height,
            left: 0,
            top: 0,
            width,
            height,
        }
    }

    /// Checks numbers from outside: sides above 0 and within reason, and a box that lies in the
    /// resized image.
    ///
    /// # Errors
    /// A sentence with the numbers.
    pub fn check(&self) -> Result<(), String> {
        let Self {
            file_width,
            file_height,
            resized_width,
            resized_height,
            left,
            top,
            width,
            height,
        } = *self;
        for (what, [across, down], most) in [
            ("file", [file_width, file_height], LARGEST_FILE_SIDE),
            (
                "resized",
                [resized_width, resized_height],
                LARGEST_FILE_SIDE,
            ),
            ("framed", [width, height], LONGEST_SIDE),
        ] {
            if [across, down].iter().any(|side| !(1..=most).contains(side)) {
                return Err(format!(
                    "its {what} size is {across}x{down}; expected 1 to {most} pixels a side"
                ));
            }
        }
        let fits = |start: u32, side: u32, whole: u32| {
            start.checked_add(side).is_some_and(|end| end <= whole)
        };
        if !fits(left, width, resized_width) || !fits(top, height, resized_height) {
            let outer = format!("{resized_width}x{resized_height}");
            return Err(format!(
                "its box of {width}x{height} at {left},{top} is not inside its resized size {outer}"
            ));
        }
        Ok(())
    }

    /// File pixels per framed pixel, along x and y. They differ slightly, since the resized sides
    /// are whole pixels.
    pub fn scale_to_file(&self) -> [f64; 2] {
        [
            f64::from(self.file_width) / f64::from(self.resized_width),
            f64::from(self.file_height) / f64::from(self.resized_height),
        ]
    }

    /// The place `(x, y)` of the framed image in the upright file. Integers are pixel centres in
    /// both.
    pub fn to_file(&self, pixel: [f64; 2]) -> [f64; 2] {
        let [kx, ky] = self.scale_to_file();
        // Scaling keeps the outer corner in place, half a pixel from the first centre.
        [
            (pixel[0] + 0.5 + f64::from(self.left)) * kx - 0.5,
            (pixel[1] + 0.5 + f64::from(self.top)) * ky - 0.5,
        ]
    }

    /// The place `(x, y)` of the upright file in the framed image, which may lie outside of it.
    pub fn to_framed(&self, pixel: [f64; 2]) -> [f64; 2] {
        let [kx, ky] = self.scale_to_file();
        [
            (pixel[0] + 0.5) / kx - 0.5 - f64::from(self.left),
            (pixel[1] + 0.5) / ky - 0.5 - f64::from(self.top),
        ]
    }

    /// Whether the image gets smaller, which decides the resampling filter.
    pub(in super::super) fn shrinks(&self) -> bool {
        self.file_width.max(self.file_height) > self.resized_width.max(self.resized_height)
    }
}
