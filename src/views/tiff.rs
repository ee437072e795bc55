//! TIFF and BigTIFF: the largest main image of a file.
//!
//! Strips and tiles, samples side by side or in planes, 1 to 16 bits, grey, RGB, palette, CMYK and
//! YCbCr, with LZW, Deflate, PackBits or JPEG inside. Other kinds are refused by name.

use std::collections::HashSet;
use std::convert::Infallible;
use std::io::{Read, Seek, SeekFrom};

use fax::decoder::{DecodeStatus, Group4Decoder, pels};
use flate2::read::ZlibDecoder;
use image::metadata::Orientation;
use weezl::{BitOrder, decode::Decoder};

use super::exif::ExifCamera;
use super::header::{Decoded, Failure, Header, Levels, shift_of};
use super::{exif, jpeg};

/// Most images of a file that are looked at.
const MOST_PAGES: usize = 10_000;

mod tag {
    pub(super) const NEW_SUBFILE_TYPE: u16 = 254;
    pub(super) const SUBFILE_TYPE: u16 = 255;
    pub(super) const WIDTH: u16 = 256;
    pub(super) const HEIGHT: u16 = 257;
    pub(super) const BITS: u16 = 258;
    pub(super) const MODEL: u16 = 272;
    pub(super) const COMPRESSION: u16 = 259;
    pub(super) const PHOTOMETRIC: u16 = 262;
    pub(super) const FILL_ORDER: u16 = 266;
    pub(super) const STRIP_OFFSETS: u16 = 273;
    pub(super) const ORIENTATION: u16 = 274;
    pub(super) const SAMPLES: u16 = 277;
    pub(super) const ROWS_PER_STRIP: u16 = 278;
    pub(super) const STRIP_LENGTHS: u16 = 279;
    pub(super) const LARGEST_SAMPLE: u16 = 281;
    pub(super) const PLANES: u16 = 284;
    pub(super) const PREDICTOR: u16 = 317;
    pub(super) const COLORS: u16 = 320;
    pub(super) const TILE_WIDTH: u16 = 322;
    pub(super) const TILE_HEIGHT: u16 = 323;
    pub(super) const TILE_OFFSETS: u16 = 324;
    pub(super) const TILE_LENGTHS: u16 = 325;
    pub(super) const EXTRA_SAMPLES: u16 = 338;
    pub(super) const SAMPLE_FORMAT: u16 = 339;
    pub(super) const JPEG_TABLES: u16 = 347;
    pub(super) const CHROMA_SUBSAMPLING: u16 = 530;
    pub(super) const XMP: u16 = 700;
    pub(super) const EXIF: u16 = 34_665;
    pub(super) const FOCAL_35MM: u16 = 41_989;
    pub(super) const DNG_VERSION: u16 = 50_706;
}

fn damaged(what: &str) -> Failure {
    Failure::Damaged(what.to_owned())
}

fn unsupported(what: impl Into<String>) -> Failure {
    Failure::Unsupported(what.into())
}

/// A file whose directories can be read.
struct File<R> {
    reader: R,
    length: u64,
    big_endian: bool,
    /// Offsets of 64 bits.
    big: bool,
}

/// One entry of a directory, with its values not read yet.
struct Entry {
    tag: u16,
    kind: u16,
    count: u64,
    /// Where the values are.
    at: u64,
}

type Directory = Vec<Entry>;

impl<R: Read + Seek> File<R> {
    /// Reads the file's start; gives the place of the first directory as well.
    fn open(mut reader: R) -> Result<(Self, u64), Failure> {
        let length = reader.seek(SeekFrom::End(0)).map_err(Failure::reading)?;
        let mut file = Self {
            reader,
            length,
            big_endian: false,
            big: false,
        };
        file.big_endian = file.bytes(0, 2)? == b"MM";
        file.big = file.number(2, 2)? == 43;
        let first = if file.big {
            file.number(8, 8)?
        } else {
            file.number(4, 4)?
        };
        Ok((file, first))
    }

    fn bytes(&mut self, at: u64, count: u64) -> Result<Vec<u8>, Failure> {
        if at.checked_add(count).is_none_or(|end| end > self.length) {
            return Err(Failure::EndsEarly);
        }
        let mut bytes = vec![0; count as usize];
        self.reader
            .seek(SeekFrom::Start(at))
            .map_err(Failure::reading)?;
        self.reader
            .read_exact(&mut bytes)
            .map_err(Failure::reading)?;
        Ok(bytes)
    }

    fn number(&mut self, at: u64, size: u64) -> Result<u64, Failure> {
        let bytes = self.bytes(at, size)?;
        Ok(self.value(&bytes))
    }

    fn value(&self, bytes: &[u8]) -> u64 {
        let add = |value, byte: &u8| value << 8 | u64::from(*byte);
        if self.big_endian {
            bytes.iter().fold(0, add)
        } else {
            bytes.iter().rev().fold(0, add)
        }
    }

    /// The directory at a place, and the place of the next one, 0 if there is none.
    fn directory(&mut self, at: u64) -> Result<(Directory, u64), Failure> {
        let (count_size, entry_size, offset_size) = if self.big { (8, 20, 8) } else { (2, 12, 4) };
        let count = self.number(at, count_size)?;
        let start = at + count_size;
        let bytes = self.bytes(start, count.saturating_mul(entry_size))?;
        let entry = |(index, entry): (usize, &[u8])| {
            let (tag, kind) = (
                self.value(&entry[..2]) as u16,
                self.value(&entry[2..4]) as u16,
            );
            let count = self.value(&entry[4..4 + offset_size]);
            let room = &entry[4 + offset_size..];
            let fits = size_of(kind).saturating_mul(count) <= room.len() as u64;
            let inside = start + entry_size * index as u64 + 4 + offset_size as u64;
            Entry {
                tag,
                kind,
                count,
                at: if fits { inside } else { self.value(room) },
            }
        };
        let entries = bytes
            .chunks_exact(entry_size as usize)
            .enumerate()
            .map(entry)
            .collect();
        // Some writers leave the last one out.
        let next = self
            .number(start + bytes.len() as u64, offset_size as u64)
            .unwrap_or(0);
        Ok((entries, next))
    }

    /// The whole numbers of an entry, none if it is missing.
    fn numbers(&mut self, directory: &Directory, tag: u16) -> Result<Vec<u64>, Failure> {
        let Some(entry) = directory.iter().find(|entry| entry.tag == tag) else {
            return Ok(Vec::new());
        };
        if !matches!(entry.kind, 1 | 3 | 4 | 6 | 8 | 9 | 13 | 16 | 18) {
            return Ok(Vec::new());
        }
        let size = size_of(entry.kind);
        let bytes = self.bytes(entry.at, entry.count.saturating_mul(size))?;
        Ok(bytes
            .chunks_exact(size as usize)
            .map(|bytes| self.value(bytes))
            .collect())
    }

    fn first(&mut self, directory: &Directory, tag: u16) -> Result<Option<u64>, Failure> {
        Ok(self.numbers(directory, tag)?.first().copied())
    }

    fn block(&mut self, directory: &Directory, tag: u16) -> Result<Option<Vec<u8>>, Failure> {
        let Some(entry) = directory.iter().find(|entry| entry.tag == tag) else {
            return Ok(None);
        };
        self.bytes(entry.at, entry.count.saturating_mul(size_of(entry.kind)))
            .map(Some)
    }
}

/// Bytes of a value of a type.
fn size_of(kind: u16) -> u64 {
    match kind {
        3 | 8 => 2,
        4 | 9 | 11 | 13 => 4,
        5 | 10 | 12 | 16..=18 => 8,
        _ => 1,
    }
}

/// What pixels are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Color {
    Grey { white_is_zero: bool },
    Rgb,
    Palette,
    Cmyk,
    YCbCr,
}

impl Color {
    fn channels(self) -> usize {
        match self {
            Self::Grey { .. } | Self::Palette => 1,
            Self::Rgb | Self::YCbCr => 3,
            Self::Cmyk => 4,
        }
    }
}

/// How strips or tiles are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
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
enum Alpha {
    None,
    /// Colors are multiplied by it.
    Associated,
    Unassociated,
}

/// One image of a file.
struct Page {
    width: usize,
    height: usize,
    bits: usize,
    samples: usize,
    color: Color,
    alpha: Alpha,
    compression: Compression,
    /// A strip's or a tile's size.
    chunk_width: usize,
    chunk_height: usize,
    offsets: Vec<u64>,
    lengths: Vec<u64>,
    /// Whether each sample has strips or tiles of its own.
    planar: bool,
    predicted: bool,
    reversed_bits: bool,
    /// The largest level that the file states.
    largest: Option<u64>,
    /// Red, green and blue levels of a palette, one after the other.
    colors: Vec<u64>,
    jpeg_tables: Option<Vec<u8>>,
    subsampling: [usize; 2],
    orientation: Orientation,
    camera: ExifCamera,
}

impl Page {
    fn header(&self) -> Header {
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

    fn of<R: Read + Seek>(file: &mut File<R>, directory: &Directory) -> Result<Self, Failure> {
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

/// The largest of the images that are neither thumbnails nor masks, the first of several.
fn main_page<R: Read + Seek>(reader: R) -> Result<(File<R>, Page), Failure> {
    let (mut file, mut at) = File::open(reader)?;
    let mut seen = HashSet::new();
    // Main images before others, larger ones before smaller ones.
    let mut best: Option<((bool, u64), Directory)> = None;
    while at != 0 && seen.insert(at) && seen.len() <= MOST_PAGES {
        let (directory, next) = match file.directory(at) {
            // What is behind a whole image does not matter.
            Err(Failure::EndsEarly) if best.is_some() => break,
            directory => directory?,
        };
        if directory.iter().any(|entry| entry.tag == tag::DNG_VERSION) {
            return Err(unsupported("a raw camera file"));
        }
        let mut first = |tag: u16| Ok::<_, Failure>(file.first(&directory, tag)?.unwrap_or(0));
        let is_main = first(tag::NEW_SUBFILE_TYPE)? & 0b101 == 0 && first(tag::SUBFILE_TYPE)? != 2;
        let rank = (
            is_main,
            first(tag::WIDTH)?.saturating_mul(first(tag::HEIGHT)?),
        );
        if best.as_ref().is_none_or(|(other, _)| rank > *other) {
            best = Some((rank, directory));
        }
        at = next;
    }
    let (_, directory) = best.ok_or_else(|| damaged("no image in it"))?;
    let page = Page::of(&mut file, &directory)?;
    Ok((file, page))
}

/// Reads the header.
pub(super) fn header(reader: impl Read + Seek) -> Result<Header, Failure> {
    main_page(reader).map(|(_, page)| page.header())
}

/// Decodes the image. `header` is what [`header`] found.
pub(super) fn decode(
    reader: impl Read + Seek,
    header: &Header,
    levels: Levels,
) -> Result<Decoded, Failure> {
    let (mut file, page) = main_page(reader)?;
    if page.header() != *header {
        return Err(damaged("it changed while it was read"));
    }
    // A level of 16 bits keeps its highest byte, or that of the bits that the file says are used.
    let used = page
        .largest
        .filter(|largest| (0x100..0x8000).contains(largest))
        .map(|largest| shift_of(largest as u16));
    let decoded = page.decode(&mut file, used)?;
    match (levels, decoded.peak) {
        (Levels::Stretched, Some(peak)) if shift_of(peak) < 8 => {
            page.decode(&mut file, Some(shift_of(peak)))
        }
        _ => Ok(decoded),
    }
}

impl Page {
    /// Decodes; a level of 16 bits loses `shift` of them, 8 unless given.
    fn decode<R: Read + Seek>(
        &self,
        file: &mut File<R>,
        shift: Option<u32>,
    ) -> Result<Decoded, Failure> {
        let Self {
            width,
            height,
            samples,
            ..
        } = *self;
        if self.compression == Compression::Jpeg {
            return self.decode_jpeg(file);
        }
        if self.color == Color::YCbCr {
            return self.decode_chroma(file);
        }
        let (across, down) = (
            width.div_ceil(self.chunk_width),
            height.div_ceil(self.chunk_height),
        );
        let planes = if self.planar { samples } else { 1 };
        let in_chunk = samples / planes;
        let scale = if self.color == Color::Palette || self.bits > 8 {
            1
        } else {
            255 / ((1u32 << self.bits) - 1)
        };
        let mut levels = vec![0; width * height * samples];
        let mut peak = 0;
        for index in 0..planes * across * down {
            let (plane, x0, y0) = (
                index / (across * down),
                index % across * self.chunk_width,
                index / across % down * self.chunk_height,
            );
            // The last strip may be shorter, a tile is always whole.
            let is_strip = self.chunk_width == width && across == 1;
            let rows = if is_strip {
                self.chunk_height.min(height - y0)
            } else {
                self.chunk_height
            };
            let row_bytes = (self.chunk_width * in_chunk * self.bits).div_ceil(8);
            let mut chunk = self.chunk(file, index, row_bytes * rows)?;
            for (y, row) in chunk
                .chunks_exact_mut(row_bytes)
                .take(height - y0)
                .enumerate()
            {
                if self.predicted {
                    self.undo_prediction(row, in_chunk, file.big_endian);
                }
                for x in 0..self.chunk_width.min(width - x0) {
                    for sample in 0..in_chunk {
                        let at = x * in_chunk + sample;
                        let level = match self.bits {
                            8 => row[at],
                            16 => {
                                let bytes = [row[2 * at], row[2 * at + 1]];
                                let level = if file.big_endian {
                                    u16::from_be_bytes(bytes)
                                } else {
                                    u16::from_le_bytes(bytes)
                                };
                                peak = peak.max(level);
                                if self.color == Color::Palette {
                                    level as u8
                                } else {
                                    (level >> shift.unwrap_or(8)).min(255) as u8
                                }
                            }
                            bits => {
                                let bit = at * bits;
                                let level =
                                    row[bit / 8] >> (8 - bits - bit % 8) & ((1 << bits) - 1);
                                (u32::from(level) * scale) as u8
                            }
                        };
                        levels[((y0 + y) * width + x0 + x) * samples + plane * in_chunk + sample] =
                            level;
                    }
                }
            }
        }
        let unscaled = self.bits == 16 && self.color != Color::Palette && shift.is_none();
        self.colored(&levels, samples, unscaled.then_some(peak))
    }

    /// Levels of pixels, `samples` each, to RGB.
    fn colored(
        &self,
        levels: &[u8],
        samples: usize,
        peak: Option<u16>,
    ) -> Result<Decoded, Failure> {
        let channels = self.color.channels();
        let mut rgb = Vec::with_capacity(self.width * self.height * 3);
        for pixel in levels.chunks_exact(samples) {
            let color = match self.color {
                Color::Grey { white_is_zero } => {
                    [if white_is_zero {
                        255 - pixel[0]
                    } else {
                        pixel[0]
                    }; 3]
                }
                Color::Palette => {
                    let (at, count) = (usize::from(pixel[0]), self.colors.len() / 3);
                    [at, count + at, 2 * count + at]
                        .map(|at| self.colors.get(at).map_or(0, |level| (level >> 8) as u8))
                }
                Color::Cmyk => jpeg::from_inks(
                    [255 - pixel[0], 255 - pixel[1], 255 - pixel[2]],
                    255 - pixel[3],
                ),
                Color::Rgb | Color::YCbCr => [pixel[0], pixel[1], pixel[2]],
            };
            rgb.extend_from_slice(&match (self.alpha, self.color) {
                (Alpha::Associated, Color::Rgb) => {
                    color.map(|level| divided(level, pixel[channels]))
                }
                _ => color,
            });
        }
        let alpha = (self.alpha != Alpha::None)
            .then(|| levels.chunks_exact(samples).map(|p| p[channels]).collect());
        Ok(Decoded { rgb, alpha, peak })
    }

    /// The bytes of a strip or tile, decompressed.
    fn chunk<R: Read + Seek>(
        &self,
        file: &mut File<R>,
        index: usize,
        size: usize,
    ) -> Result<Vec<u8>, Failure> {
        let stored = self.stored(file, index, Some(size))?;
        let mut chunk = Vec::with_capacity(size);
        match self.compression {
            Compression::None | Compression::Jpeg => chunk = stored,
            Compression::Lzw => {
                // Files of the first years have their bits the other way round.
                let is_old = matches!(stored[..], [0, second, ..] if second & 1 == 1);
                let mut decoder = match is_old {
                    true => Decoder::new(BitOrder::Lsb, 8),
                    false => Decoder::with_tiff_size_switch(BitOrder::Msb, 8),
                };
                chunk.resize(size, 0);
                let mut done = 0;
                let mut rest = &stored[..];
                while done < size {
                    let result = decoder.decode_bytes(rest, &mut chunk[done..]);
                    rest = &rest[result.consumed_in..];
                    done += result.consumed_out;
                    match result.status {
                        Ok(weezl::LzwStatus::Ok)
                            if result.consumed_in + result.consumed_out > 0 => {}
                        Ok(_) => break,
                        Err(error) => return Err(damaged(&format!("LZW: {error}"))),
                    }
                }
                chunk.truncate(done);
            }
            Compression::Deflate => {
                let inflated = ZlibDecoder::new(&stored[..])
                    .take(size as u64)
                    .read_to_end(&mut chunk);
                inflated.map_err(|error| damaged(&format!("Deflate: {error}")))?;
            }
            Compression::Fax => {
                let width = u16::try_from(self.chunk_width)
                    .map_err(|_| unsupported("fax compression this wide"))?;
                let row_bytes = self.chunk_width.div_ceil(8);
                let mut decoder =
                    Group4Decoder::new(stored.iter().map(|byte| Ok::<_, Infallible>(*byte)), width)
                        .map_err(|_| damaged("fax compression"))?;
                while chunk.len() < size
                    && matches!(decoder.advance(), Ok(DecodeStatus::Incomplete))
                {
                    let start = chunk.len();
                    chunk.resize(start + row_bytes, 0);
                    for (x, color) in pels(decoder.transition(), width)
                        .take(self.chunk_width)
                        .enumerate()
                    {
                        chunk[start + x / 8] |= u8::from(color == fax::Color::Black) << (7 - x % 8);
                    }
                }
            }
            Compression::PackBits => {
                let mut rest = &stored[..];
                while let (true, Some((&count, after))) = (chunk.len() < size, rest.split_first()) {
                    rest = after;
                    match count {
                        0..=127 => {
                            let end = (usize::from(count) + 1).min(rest.len());
                            chunk.extend_from_slice(&rest[..end]);
                            rest = &rest[end..];
                        }
                        128 => {}
                        129.. => {
                            let Some((&byte, after)) = rest.split_first() else {
                                break;
                            };
                            chunk.resize(chunk.len() + 257 - usize::from(count), byte);
                            rest = after;
                        }
                    }
                }
            }
        }
        if chunk.len() < size {
            return Err(Failure::EndsEarly);
        }
        chunk.truncate(size);
        Ok(chunk)
    }

    /// The bytes of a strip or tile as stored; `size` is what they take at least if they are not
    /// compressed.
    fn stored<R: Read + Seek>(
        &self,
        file: &mut File<R>,
        index: usize,
        size: Option<usize>,
    ) -> Result<Vec<u8>, Failure> {
        let &at = self
            .offsets
            .get(index)
            .ok_or_else(|| damaged("a strip or tile is missing"))?;
        let left = file.length.saturating_sub(at);
        let size = size
            .filter(|_| self.compression == Compression::None)
            .map(|size| size as u64);
        // Lengths are left out, or wrong, in some files that are not compressed.
        let length = size.or(self.lengths.get(index).copied()).unwrap_or(left);
        let mut bytes = file.bytes(at, length)?;
        if self.reversed_bits {
            bytes
                .iter_mut()
                .for_each(|byte| *byte = byte.reverse_bits());
        }
        Ok(bytes)
    }

    fn undo_prediction(&self, row: &mut [u8], samples: usize, big_endian: bool) {
        if self.bits == 8 {
            for at in samples..row.len() {
                row[at] = row[at].wrapping_add(row[at - samples]);
            }
            return;
        }
        let (values, _) = row.as_chunks_mut::<2>();
        let read = |bytes| {
            if big_endian {
                u16::from_be_bytes(bytes)
            } else {
                u16::from_le_bytes(bytes)
            }
        };
        for at in samples..values.len() {
            let value = read(values[at]).wrapping_add(read(values[at - samples]));
            values[at] = if big_endian {
                value.to_be_bytes()
            } else {
                value.to_le_bytes()
            };
        }
    }

    /// JPEG streams, one a strip or tile, whose tables may be the file's.
    fn decode_jpeg<R: Read + Seek>(&self, file: &mut File<R>) -> Result<Decoded, Failure> {
        let Self { width, height, .. } = *self;
        let across = width.div_ceil(self.chunk_width);
        let mut rgb = vec![0; width * height * 3];
        for index in 0..across * height.div_ceil(self.chunk_height) {
            let stored = self.stored(file, index, None)?;
            // One stream: the tables without their end, the image without its start.
            let stream = match &self.jpeg_tables {
                Some(tables) => {
                    let tables = tables.strip_suffix(&[0xFF, 0xD9]).unwrap_or(tables);
                    [tables, stored.get(2..).unwrap_or_default()].concat()
                }
                None => stored,
            };
            let space = match self.color {
                Color::Grey { .. } | Color::Palette => jpeg::Space::Grey,
                Color::Rgb => jpeg::Space::Rgb,
                Color::YCbCr => jpeg::Space::YCbCr,
                Color::Cmyk => jpeg::Space::PlainCmyk,
            };
            let (chunk_width, chunk_height, chunk) =
                jpeg::decode_as(&stream, space, [self.chunk_width, self.chunk_height])?;
            let (x0, y0) = (
                index % across * self.chunk_width,
                index / across * self.chunk_height,
            );
            let (columns, rows) = (
                self.chunk_width.min(width - x0),
                self.chunk_height.min(height - y0),
            );
            if chunk_width < columns || chunk_height < rows {
                return Err(damaged("a strip or tile is too small"));
            }
            for y in 0..rows {
                let from = &chunk[y * chunk_width * 3..][..columns * 3];
                rgb[((y0 + y) * width + x0) * 3..][..columns * 3].copy_from_slice(from);
            }
        }
        match self.color {
            Color::Grey {
                white_is_zero: true,
            } => rgb.iter_mut().for_each(|level| *level = 255 - *level),
            Color::Palette => return Err(unsupported("JPEG compression of a palette")),
            _ => {}
        }
        Ok(Decoded {
            rgb,
            alpha: None,
            peak: None,
        })
    }

    /// Luma and chroma that are not compressed as JPEG: units of some samples of luma and one of
    /// each chroma.
    fn decode_chroma<R: Read + Seek>(&self, file: &mut File<R>) -> Result<Decoded, Failure> {
        let Self {
            width,
            height,
            subsampling: [h, v],
            ..
        } = *self;
        let across = width.div_ceil(self.chunk_width);
        let unit = h * v + 2;
        let mut rgb = vec![0; width * height * 3];
        for index in 0..across * height.div_ceil(self.chunk_height) {
            let (x0, y0) = (
                index % across * self.chunk_width,
                index / across * self.chunk_height,
            );
            let rows = if across == 1 {
                self.chunk_height.min(height - y0)
            } else {
                self.chunk_height
            };
            let units = [self.chunk_width.div_ceil(h), rows.div_ceil(v)];
            let chunk = self.chunk(file, index, units[0] * units[1] * unit)?;
            for y in 0..rows.min(height - y0) {
                for x in 0..self.chunk_width.min(width - x0) {
                    let of = &chunk[(y / v * units[0] + x / h) * unit..][..unit];
                    let color = jpeg::from_luma(of[y % v * h + x % h], of[h * v], of[h * v + 1]);
                    rgb[((y0 + y) * width + x0 + x) * 3..][..3].copy_from_slice(&color);
                }
            }
        }
        Ok(Decoded {
            rgb,
            alpha: None,
            peak: None,
        })
    }
}

/// A level without the alpha that it was multiplied by, as Pillow has it.
fn divided(level: u8, alpha: u8) -> u8 {
    match alpha {
        0 | 255 => level,
        _ => (255 * u32::from(level) / u32::from(alpha)).min(255) as u8,
    }
}
