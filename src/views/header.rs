//! What image files say of themselves, what is made of them, and why it is not.

use std::io::ErrorKind;
use std::path::Path;

use image::metadata::Orientation;
use image::{ImageError, RgbImage};

use super::exif::ExifCamera;
use super::gps::GpsPosition;
use crate::error::Error;

/// The largest image file that is decoded. Each is checked against the file's header, before its
/// pixels are touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest width in pixels, as stored.
    pub max_width: u32,
    /// Largest height in pixels, as stored.
    pub max_height: u32,
    /// Largest product of the two.
    pub max_pixels: u64,
    /// Largest memory in bytes that decoding may take at a time, by a cautious estimate from the
    /// headers: of one image, and of all that are decoded side by side. A file itself may not be
    /// larger either.
    pub max_alloc: u64,
}

impl Default for Limits {
    /// 32768 pixels a side, 256 megapixels and 4 GiB.
    fn default() -> Self {
        Self {
            max_width: 32_768,
            max_height: 32_768,
            max_pixels: 256 << 20,
            max_alloc: 4 << 30,
        }
    }
}

/// The formats that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Jpeg,
    Png,
    WebP,
    Tiff,
    Bmp,
    Heic,
    Avif,
}

impl Format {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Tiff => "TIFF",
            Self::Bmp => "BMP",
            Self::Heic => "HEIC",
            Self::Avif => "AVIF",
        }
    }
}

/// What a header says.
#[derive(Clone, PartialEq)]
pub(super) struct Header {
    /// Width as stored.
    pub(super) width: u32,
    /// Height as stored.
    pub(super) height: u32,
    /// How to turn the stored image upright.
    pub(super) orientation: Orientation,
    pub(super) camera: ExifCamera,
    pub(super) position: Option<GpsPosition>,
    /// Memory for decoding, per pixel, at most.
    pub(super) bytes_per_pixel: u64,
}

/// What a decoder gives.
pub(super) struct Decoded {
    /// Three bytes a pixel.
    pub(super) rgb: Vec<u8>,
    /// How opaque each pixel is, unless all are wholly.
    pub(super) alpha: Option<Vec<u8>>,
    /// The highest level of 16 bits, where it was not known how many of them are used.
    pub(super) peak: Option<u16>,
}

/// Which of 16 bits become the 8 of a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Levels {
    /// The highest, or of those that the file says are used.
    AsStored,
    /// The highest that are not zero everywhere.
    Stretched,
}

/// The bits to leave out below those of a level, by the highest of 16 bits.
pub(super) fn shift_of(highest: u16) -> u32 {
    (u16::BITS - highest.leading_zeros()).saturating_sub(u8::BITS)
}

/// An image's pixels, upright.
pub(super) struct Pixels {
    pub(super) rgb: RgbImage,
    /// How opaque each pixel is, three times as for grey, unless all are wholly.
    pub(super) alpha: Option<RgbImage>,
    /// As in [`Decoded`].
    pub(super) peak: Option<u16>,
    /// The program that decoded it, if it was not this one.
    pub(super) decoded_by: Option<&'static str>,
}

/// Why a decoder gave up.
pub(super) enum Failure {
    /// The bytes contradict the format, or end too early.
    Damaged(String),
    /// A legal file of a kind that the decoder does not know.
    Unsupported(String),
    /// The bytes end before the image does.
    EndsEarly,
    /// The decoder's own allocations went over the limit.
    TooLarge,
    /// The decoder has a bug, which shows in this file.
    Panic(String),
}

pub(super) fn check_sides(width: u32, height: u32, limits: &Limits) -> Result<(), String> {
    let Limits {
        max_width,
        max_height,
        max_pixels,
        ..
    } = *limits;
    let pixels = u64::from(width) * u64::from(height);
    if width > max_width || height > max_height {
        Err(format!(
            "{width}x{height} pixels, the limit is {max_width}x{max_height}; save a smaller image"
        ))
    } else if pixels > max_pixels {
        Err(format!(
            "{width}x{height} is {pixels} pixels, the limit is {max_pixels}; save a smaller image"
        ))
    } else if pixels == 0 {
        Err(format!(
            "the image has no pixels ({width}x{height}); save it again"
        ))
    } else {
        Ok(())
    }
}

impl Header {
    /// Memory for decoding, in bytes, at most.
    pub(super) fn memory(&self) -> u64 {
        (u64::from(self.width) * u64::from(self.height)).saturating_mul(self.bytes_per_pixel)
    }
}

pub(super) fn check_memory(header: &Header, limits: &Limits) -> Result<(), String> {
    let Header { width, height, .. } = *header;
    if header.memory() <= limits.max_alloc {
        return Ok(());
    }
    let (needed, limit) = (mebibytes(header.memory()), mebibytes(limits.max_alloc));
    Err(format!(
        "decoding {width}x{height} pixels may take {needed}, the limit is {limit}; save a smaller image"
    ))
}

pub(super) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

impl Failure {
    /// A failure to read, from memory or from a file whose end was looked at.
    pub(super) fn reading(error: std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof => Self::EndsEarly,
            _ => Self::Damaged(error.to_string()),
        }
    }

    pub(super) fn describe(self, path: &Path, format: Format, limits: &Limits) -> Error {
        let name = format.name();
        Error::input(
            path,
            match self {
                Self::Damaged(what) => {
                    format!(
                        "damaged or incomplete {name} file ({what}); copy it again from its source"
                    )
                }
                Self::Unsupported(what) => {
                    format!(
                        "a kind of {name} that is not read ({what}); convert it to 8-bit RGB JPEG or PNG"
                    )
                }
                Self::EndsEarly => {
                    format!(
                        "damaged or incomplete {name} file (it ends too early); copy it again from its source"
                    )
                }
                Self::Panic(message) => {
                    return Error::Internal(format!(
                        "the {name} decoder fails on {} ({message})",
                        path.display()
                    ));
                }
                Self::TooLarge => {
                    let limit = mebibytes(limits.max_alloc);
                    format!(
                        "decoding takes more memory than the limit of {limit}; save a smaller image"
                    )
                }
            },
        )
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Limits(_) => Self::TooLarge,
            ImageError::Unsupported(unsupported) => Self::Unsupported(unsupported.to_string()),
            ImageError::IoError(source) if source.kind() == ErrorKind::UnexpectedEof => {
                Self::EndsEarly
            }
            other => Self::Damaged(other.to_string()),
        }
    }
}
