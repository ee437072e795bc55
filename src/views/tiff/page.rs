//! One image of a file: what its directory says of it, as far as it can be decoded.

use std::io::{Read, Seek};

use image::metadata::Orientation;

use super::super::exif::{self, ExifCamera};
use super::super::header::{Failure, Header};
use super::directory::{Directory, File};
use super::{damaged, tag, unsupported};

/// What pixels are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Color {
    Grey { white_is_zero: bool },
    Rgb,
    Palette,
    Cmyk,
    YCbCr,
}

impl Color {
    pub(super) fn channels(self) -> usize {
        match self {
            Self::Grey { .. } | Self::Palette => 1,
            Self::Rgb | Self::YCbCr => 3,
            Self::Cmyk => 4,
        }
    }
}

/// How strips or tiles are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Lzw,
    Deflate,
    PackBits,
    /// Fax, group 4.
    Fax,
    Jpeg,
}

/// Alpha, if there is any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alpha {
    None,
    /// Colors are multiplied by it.
    Associated,
    Unassociated,
}

/// One image of a file.
pub(super) struct Page {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) bits: usize,
    pub(super) samples: usize,
    pub(super) color: Color,
    pub(super) alpha: Alpha,
    pub(super) compression: Compression,
    /// A strip's or a tile's size.
    pub(super) chunk_width: usize,
    pub(super) chunk_height: usize,
    pub(super) offsets: Vec<u64>,
    pub(super) lengths: Vec<u64>,
    /// Whether each sample has strips or tiles of its own.
    pub(super) planar: bool,
    pub(super) predicted: bool,
    pub(super) reversed_bits: bool,
    /// The largest level that the file states.
    pub(super) largest: Option<u64>,
    /// Red, green and blue levels of a palette, one after the other.
    pub(super) colors: Vec<u64>,
    pub(super) jpeg_tables: Option<Vec<u8>>,
    pub(super) subsampling: [usize; 2],
    pub(super) orientation: Orientation,
    pub(super) camera: ExifCamera,
}

impl Page {
    pub(super) fn header(&self) -> Header {
        // Samples as stored and as bytes, RGB, and RGB turned upright.
        let bytes_per_pixel = (self.samples * (self.bits.div_ceil(8) + 1) + 3 + 3) as u64;
        let (width, height) = (self.width as u32, self.height as u32);
        Header {
            width,
            height,
            orientation: self.orientation,
            camera: self.camera.clone(),
            position: None,
            bytes_per_pixel,
        }
    }

    pub(super) fn of<R: Read + Seek>(
        file: &mut File<R>,
        directory: &Directory,
    ) -> Result<Self, Failure> {
        let mut first = |tag: u16| file.first(directory, tag);
        let (width, height) = (
            first(tag::WIDTH)?.unwrap_or(0),
            first(tag::HEIGHT)?.unwrap_or(0),
        );
        let compression = match first(tag::COMPRESSION)?.unwrap_or(1) {
            1 => Compression::None,
            5 => Compression::Lzw,
            7 => Compression::Jpeg,
            8 | 32_946 => Compression::Deflate,
            32_773 => Compression::PackBits,
            4 => Compression::Fax,
            2 | 3 => return Err(unsupported("fax compression of group 3")),
            6 => return Err(unsupported("old-style JPEG compression")),
            34_712 | 33_003 | 33_005 => return Err(unsupported("JPEG 2000 compression")),
            34_925 => return Err(unsupported("LZMA compression")),
            50_000 => return Err(unsupported("Zstandard compression")),
            50_001 => return Err(unsupported("WebP compression")),
            50_002 => return Err(unsupported("JPEG XL compression")),
            other => return Err(unsupported(format!("compression {other}"))),
        };
        let samples = first(tag::SAMPLES)?.unwrap_or(1);
        let photometric = first(tag::PHOTOMETRIC)?.unwrap_or(if samples >= 3 { 2 } else { 1 });
        let color = match photometric {
            0 | 1 | 4 => Color::Grey {
                white_is_zero: photometric == 0,
            },
            2 => Color::Rgb,
            3 => Color::Palette,
            5 => Color::Cmyk,
            6 => Color::YCbCr,
            8..=10 => return Err(unsupported("Lab colors")),
            32_803 | 34_892 => return Err(unsupported("raw sensor data")),
            32_844 | 32_845 => return Err(unsupported("LogLuv colors")),
            other => return Err(unsupported(format!("photometric interpretation {other}"))),
        };
        let planar = first(tag::PLANES)?.unwrap_or(1) == 2 && samples > 1;
        let predictor = first(tag::PREDICTOR)?.unwrap_or(1);
        let reversed_bits = first(tag::FILL_ORDER)?.unwrap_or(1) == 2;
        let largest = first(tag::LARGEST_SAMPLE)?;
        let tiles = first(tag::TILE_WIDTH)?.zip(first(tag::TILE_HEIGHT)?);
        let rows = first(tag::ROWS_PER_STRIP)?.unwrap_or(height).min(height);
        let stated = first(tag::ORIENTATION)?;
        let bits = file.numbers(directory, tag::BITS)?;
        if bits.iter().any(|other| *other != bits[0]) {
            return Err(unsupported(format!("samples of {bits:?} bits")));
        }
        let bits = bits.first().copied().unwrap_or(1);
        let formats = file.numbers(directory, tag::SAMPLE_FORMAT)?;
        let kind = match formats.first().copied().unwrap_or(1) {
            3 => "floating-point",
            2 => "signed",
            5 | 6 => "complex",
            _ => "",
        };
        let known_bits = match color {
            Color::Grey { .. } | Color::Palette => matches!(bits, 1 | 2 | 4 | 8 | 16),
            _ => matches!(bits, 8 | 16),
        };
        if !kind.is_empty() || !known_bits {
            let space = if kind.is_empty() { "" } else { " " };
            return Err(unsupported(format!("{bits}-bit{space}{kind} samples")));
        }
        if predictor != 1 && (predictor != 2 || bits < 8) {
            return Err(unsupported(format!(
                "predictor {predictor} with {bits}-bit samples"
            )));
        }
        if samples < color.channels() as u64 || samples > 64 {
            return Err(unsupported(format!(
                "{samples} samples a pixel of photometric interpretation {photometric}"
            )));
        }
        if compression == Compression::Fax && (bits != 1 || samples != 1) {
            return Err(unsupported(format!(
                "fax compression of {samples} samples of {bits} bits"
            )));
        }
        if compression == Compression::Jpeg && (bits != 8 || planar) {
            let what = if planar {
                "JPEG compression in planes".into()
            } else {
                format!("{bits}-bit JPEG compression")
            };
            return Err(unsupported(what));
        }
        let subsampling = match file.numbers(directory, tag::CHROMA_SUBSAMPLING)?[..] {
            [h @ 1..=4, v @ 1..=4] => [h as usize, v as usize],
            _ => [2, 2],
        };
        let is_plain = bits == 8 && !planar && samples == 3 && predictor == 1;
        if color == Color::YCbCr && compression != Compression::Jpeg && !is_plain {
            return Err(unsupported("YCbCr colors of this layout"));
        }
        // Extra samples of 0 are of no known meaning.
        let extra = file.numbers(directory, tag::EXTRA_SAMPLES)?;
        let alpha = match extra.first() {
            Some(1) => Alpha::Associated,
            Some(2) => Alpha::Unassociated,
            // Some writers leave the tag out.
            None if color == Color::Rgb && samples == 4 => Alpha::Unassociated,
            _ => Alpha::None,
        };
        let (chunk_width, chunk_height, offsets, lengths) = match tiles {
            Some((width, height)) => (width, height, tag::TILE_OFFSETS, tag::TILE_LENGTHS),
            None => (width, rows, tag::STRIP_OFFSETS, tag::STRIP_LENGTHS),
        };
        let page = Self {
            width: usize::try_from(width).unwrap_or(usize::MAX),
            height: usize::try_from(height).unwrap_or(usize::MAX),
            bits: bits as usize,
            samples: samples as usize,
            color,
            alpha: if samples as usize > color.channels() {
                alpha
            } else {
                Alpha::None
            },
            compression,
            chunk_width: chunk_width as usize,
            chunk_height: chunk_height as usize,
            offsets: file.numbers(directory, offsets)?,
            lengths: file.numbers(directory, lengths)?,
            planar,
            predicted: predictor == 2,
            reversed_bits,
            largest,
            colors: if color == Color::Palette {
                file.numbers(directory, tag::COLORS)?
            } else {
                Vec::new()
            },
            jpeg_tables: file.block(directory, tag::JPEG_TABLES)?,
            subsampling,
            orientation: match stated {
                Some(stated) => u8::try_from(stated).ok().and_then(Orientation::from_exif),
                None => Some(exif::orientation(
                    None,
                    file.block(directory, tag::XMP)?.as_deref(),
                )),
            }
            .unwrap_or(Orientation::NoTransforms),
            camera: camera(file, directory),
        };
        if u32::try_from(page.width).is_err() || u32::try_from(page.height).is_err() {
            return Err(damaged("its size"));
        }
        if page.width == 0 || page.height == 0 {
            return Ok(page);
        }
        // A tile that is far larger than the image would take memory that the limits do not know
        // of.
        let is_sane = |chunk: usize, whole: usize| chunk > 0 && chunk <= whole.max(4096);
        if !is_sane(page.chunk_width, page.width) || !is_sane(page.chunk_height, page.height) {
            return Err(damaged("the size of its tiles or strips"));
        }
        if color == Color::Palette && page.colors.len() < 3 << page.bits {
            return Err(damaged("its palette is too short"));
        }
        Ok(page)
    }
}

/// What the file says of the camera, but for the focal length in millimetres; damage there is not
/// the image's.
fn camera<R: Read + Seek>(file: &mut File<R>, directory: &Directory) -> ExifCamera {
    let model = file.block(directory, tag::MODEL).ok().flatten();
    let inner = file.first(directory, tag::EXIF).ok().flatten();
    let inner = inner.and_then(|at| file.directory(at).ok());
    let focal_35mm = inner.and_then(|(inner, _)| file.first(&inner, tag::FOCAL_35MM).ok()?);
    ExifCamera {
        model: model.as_deref().and_then(exif::trimmed),
        focal_mm: None,
        focal_35mm: focal_35mm
            .and_then(|millimetres| u32::try_from(millimetres).ok())
            .and_then(exif::known_mm),
    }
}
