//! Picture files to upright 8-bit RGB, with limits that are checked before anything large is allocated.
//!
//! The format is recognised by content. Grey is replicated, alpha dropped (not blended), and of 16-bit samples the
//! high byte is kept: what the reference's decoder (Pillow) does for color. For 16-bit *grey* Pillow clips at 255,
//! which leaves a white picture; here grey is treated like color. Gamma, color profiles and all frames but the first
//! are ignored.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, ErrorKind, Read, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use image::codecs::{bmp::BmpDecoder, png::PngDecoder, tiff::TiffDecoder, webp::WebPDecoder};
use image::metadata::Orientation;
use image::{ColorType, ImageDecoder, ImageError, RgbImage};

use super::{FileHeader, exif, jpeg, orientation};
use crate::error::{Error, Result};

/// The largest picture file that is decoded. Each is checked against the file's header, before its pixels are touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest width in pixels, as stored.
    pub max_width: u32,
    /// Largest height in pixels, as stored.
    pub max_height: u32,
    /// Largest product of the two.
    pub max_pixels: u64,
    /// Largest memory in bytes that decoding one picture may take, by a cautious estimate from its header. The file
    /// itself may not be larger either.
    pub max_alloc: u64,
}

impl Default for Limits {
    /// 32768 pixels a side, 256 megapixels and 4 GiB.
    fn default() -> Self {
        Self { max_width: 32_768, max_height: 32_768, max_pixels: 256 << 20, max_alloc: 4 << 30 }
    }
}

/// How many of a file's first bytes are looked at to tell what it is.
pub(super) const START: usize = 512;
/// Memory in bytes for what a PNG carries besides its pixels: color profiles are compressed, and inflate at once.
const PNG_EXTRAS: u64 = 64 << 20;

/// A picture file whose header was read and found within the limits.
pub(super) struct Picture {
    path: PathBuf,
    file: BufReader<File>,
    limits: Limits,
    format: Format,
    header: Header,
}

/// What a header says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Width as stored.
    pub(super) width: u32,
    /// Height as stored.
    pub(super) height: u32,
    /// How to turn the stored picture upright.
    pub(super) orientation: Orientation,
    /// Focal length of the same view on 35 mm film, millimetres.
    pub(super) focal_35mm: Option<u16>,
    /// Memory for decoding, per pixel, at most.
    pub(super) bytes_per_pixel: u64,
}

/// Why a decoder gave up.
pub(super) enum Failure {
    /// The bytes contradict the format, or end too early.
    Damaged(String),
    /// A legal file of a kind that the decoder does not know.
    Unsupported(String),
    /// The decoder's own allocations went over the limit.
    TooLarge,
}

impl Picture {
    /// Opens a file and reads its header.
    pub(super) fn open(path: &Path, limits: &Limits) -> Result<Self> {
        let file = open_regular(path, limits)?;
        let mut file = BufReader::new(file);
        let mut start = Vec::with_capacity(START);
        let read = file.by_ref().take(START as u64).read_to_end(&mut start).and_then(|_| file.rewind());
        read.map_err(|source| Error::io(path, source))?;
        let format = Format::recognise(&start, path).map_err(|reason| Error::input(path, reason))?;

        // A PNG says its size in a fixed place, so the limits hold even where the rest of the header is a trap.
        if let (Format::Png, Some(&[b'I', b'H', b'D', b'R', a, b, c, d, e, f, g, h])) =
            (format, start.get(12..).and_then(<[u8]>::first_chunk))
        {
            check_sides(u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]), limits)
                .map_err(|reason| Error::input(path, reason))?;
        }
        let header = guarded(|| match format {
            Format::Jpeg => jpeg::header(&mut file),
            _ => header_of(&mut *format.decoder(&mut file, limits)?),
        });
        let header = header.map_err(|failure| failure.describe(path, format, limits))?;
        check_sides(header.width, header.height, limits)
            .and_then(|()| check_memory(&header, limits))
            .map_err(|reason| Error::input(path, reason))?;
        Ok(Self { path: path.to_owned(), file, limits: *limits, format, header })
    }

    /// Width and height once upright.
    pub(super) fn upright_size(&self) -> (u32, u32) {
        let Header { width, height, orientation, .. } = self.header;
        orientation::upright_size(width, height, orientation)
    }

    /// What the header says, for a caller outside.
    pub(super) fn file_header(&self) -> FileHeader {
        let (width, height) = self.upright_size();
        let stored_upright = self.header.orientation == Orientation::NoTransforms;
        FileHeader { width, height, stored_upright, is_jpeg: self.format == Format::Jpeg }
    }

    /// The focal length that EXIF states, pixels.
    pub(super) fn exif_focal(&self) -> Option<f64> {
        let Header { width, height, focal_35mm, .. } = self.header;
        focal_35mm.map(|millimetres| exif::focal_px(millimetres, width, height))
    }

    /// Decodes the pixels and turns them upright.
    pub(super) fn decode(self) -> Result<RgbImage> {
        let Self { path, mut file, limits, format, header } = self;
        let mut bytes = Vec::new();
        let read = file.rewind().and_then(|()| file.take(limits.max_alloc).read_to_end(&mut bytes));
        read.map_err(|source| Error::io(&path, source))?;

        let pixels = guarded(|| match format {
            Format::Jpeg => jpeg::decode(&bytes, &header),
            _ => {
                let mut decoder = format.decoder(Cursor::new(&bytes), &limits)?;
                if header_of(&mut *decoder)? != header {
                    return Err(Failure::Damaged("it changed while it was read".to_owned()));
                }
                let color = decoder.color_type();
                let mut samples = vec![0; decoder.total_bytes() as usize];
                decoder.read_image(&mut samples)?;
                to_rgb(samples, color)
            }
        });
        let pixels = pixels.map_err(|failure| failure.describe(&path, format, &limits))?;
        let Some(stored) = RgbImage::from_raw(header.width, header.height, pixels) else {
            return Err(Failure::Damaged("too few pixels".to_owned()).describe(&path, format, &limits));
        };
        Ok(orientation::upright(stored, header.orientation))
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
}

/// What a file is, by its first bytes.
pub(super) enum Kind {
    /// An image that is read.
    Readable(Format),
    /// Something else that is recognised, with its article.
    Foreign(&'static str),
    Unknown,
}

impl Kind {
    /// `path` matters for raw files alone.
    pub(super) fn of(start: &[u8], path: &Path) -> Self {
        let brand = |brands: &[&[u8; 4]]| start.get(8..12).is_some_and(|brand| brands.iter().any(|b| *b == brand));
        let foreign = match start {
            [0xFF, 0xD8, 0xFF, ..] => return Self::Readable(Format::Jpeg),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => return Self::Readable(Format::Png),
            [b'R', b'I', b'F', b'F', ..] if brand(&[b"WEBP"]) => return Self::Readable(Format::WebP),
            [b'B', b'M', _, _, _, _, 0, 0, 0, 0, ..] => return Self::Readable(Format::Bmp),
            // Raw files are TIFF by their bytes, but what a TIFF reader finds in them is a thumbnail.
            [b'I', b'I', ..] | [b'M', b'M', ..] if has_raw_extension(path) => "a raw camera file",
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => return Self::Readable(Format::Tiff),
            [_, _, _, _, b'f', b't', b'y', b'p', ..] => match () {
                () if brand(&[b"avif", b"avis"]) => "an AVIF picture",
                () if brand(&[b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"]) => {
                    "a HEIC picture"
                }
                () if brand(&[b"crx "]) => "a raw camera file",
                () => "a video",
            },
            [b'G', b'I', b'F', b'8', ..] => "a GIF picture",
            [0xFF, 0x0A, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => "a JPEG XL picture",
            [0, 0, 0, 12, b'j', b'P', b' ', b' ', ..] | [0xFF, 0x4F, 0xFF, 0x51, ..] => "a JPEG 2000 picture",
            [b'8', b'B', b'P', b'S', ..] => "a Photoshop document",
            [b'%', b'P', b'D', b'F', ..] => "a PDF document",
            [0x76, 0x2F, 0x31, 0x01, ..] => "an OpenEXR picture",
            _ => return Self::Unknown,
        };
        Self::Foreign(foreign)
    }
}

impl Format {
    /// Tells the format from a file's first bytes, or what the file is instead.
    fn recognise(start: &[u8], path: &Path) -> Result<Self, String> {
        match Kind::of(start, path) {
            Kind::Readable(format) => Ok(format),
            Kind::Foreign(kind) => Err(format!("{kind}, which is not read; convert it to JPEG or PNG")),
            Kind::Unknown => Err(unrecognised(start)),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Tiff => "TIFF",
            Self::Bmp => "BMP",
        }
    }

    /// The `image` crate's decoder. JPEG has a module of its own.
    fn decoder<'a, R>(self, reader: R, limits: &Limits) -> Result<Box<dyn ImageDecoder + 'a>, Failure>
    where
        R: BufRead + Seek + 'a,
    {
        let allow = |bytes: u64| {
            let mut inner = image::Limits::no_limits();
            inner.max_alloc = Some(bytes);
            inner
        };
        let mut decoder: Box<dyn ImageDecoder + 'a> = match self {
            Self::Png => Box::new(PngDecoder::with_limits(reader, allow(limits.max_alloc.min(PNG_EXTRAS)))?),
            Self::WebP => Box::new(WebPDecoder::new(reader)?),
            Self::Tiff => Box::new(TiffDecoder::new(reader)?),
            Self::Bmp => Box::new(BmpDecoder::new(reader)?),
            Self::Jpeg => return Err(Failure::Unsupported("wrong decoder".to_owned())),
        };
        decoder.set_limits(allow(limits.max_alloc))?;
        Ok(decoder)
    }
}

/// Opens a file that is a file, is not empty and may be read.
fn open_regular(path: &Path, limits: &Limits) -> Result<File> {
    let explain = |source: std::io::Error| Error::unreadable(path, source);
    // Looked at before it is opened: opening a pipe would wait for its writer.
    let kind = std::fs::metadata(path).map_err(explain)?;
    if kind.is_dir() {
        return Err(Error::input(path, "a folder, not a picture; name the pictures in it"));
    }
    if !kind.is_file() {
        return Err(Error::input(path, "not a regular file; save the picture to disk first"));
    }
    if kind.len() == 0 {
        return Err(Error::input(path, "the file is empty (0 bytes); copy it again from its source"));
    }
    if kind.len() > limits.max_alloc {
        let (size, limit) = (mebibytes(kind.len()), mebibytes(limits.max_alloc));
        return Err(Error::input(path, format!("the file has {size}, the limit is {limit}; save a smaller picture")));
    }
    File::open(path).map_err(explain)
}

fn check_sides(width: u32, height: u32, limits: &Limits) -> Result<(), String> {
    let Limits { max_width, max_height, max_pixels, .. } = *limits;
    let pixels = u64::from(width) * u64::from(height);
    if width > max_width || height > max_height {
        Err(format!("{width}x{height} pixels, the limit is {max_width}x{max_height}; save a smaller picture"))
    } else if pixels > max_pixels {
        Err(format!("{width}x{height} is {pixels} pixels, the limit is {max_pixels}; save a smaller picture"))
    } else if pixels == 0 {
        Err(format!("the picture has no pixels ({width}x{height}); save it again"))
    } else {
        Ok(())
    }
}

fn check_memory(header: &Header, limits: &Limits) -> Result<(), String> {
    let Header { width, height, bytes_per_pixel, .. } = *header;
    let needed = (u64::from(width) * u64::from(height)).saturating_mul(bytes_per_pixel);
    if needed <= limits.max_alloc {
        return Ok(());
    }
    let (needed, limit) = (mebibytes(needed), mebibytes(limits.max_alloc));
    Err(format!("decoding {width}x{height} pixels may take {needed}, the limit is {limit}; save a smaller picture"))
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Dimensions, orientation and memory of anything but a JPEG.
fn header_of(decoder: &mut dyn ImageDecoder) -> Result<Header, Failure> {
    let (width, height) = decoder.dimensions();
    let orientation = decoder.orientation()?;
    let focal_35mm = decoder.exif_metadata()?.as_deref().and_then(exif::focal_35mm);
    // The decoder's output, as much again inside it, the RGB copy, and the copy that is turned upright.
    let bytes_per_pixel = 2 * u64::from(decoder.color_type().bytes_per_pixel()) + 3 + 3;
    Ok(Header { width, height, orientation, focal_35mm, bytes_per_pixel })
}

/// Keeps the first three channels, or the only one three times, and the high byte of 16-bit samples.
fn to_rgb(samples: Vec<u8>, color: ColorType) -> Result<Vec<u8>, Failure> {
    /// Where the high byte of a 16-bit sample lies: decoders deliver the machine's own order.
    const HIGH: usize = if cfg!(target_endian = "little") { 1 } else { 0 };
    fn pick<const SIZE: usize>(samples: &[u8], from: [usize; 3]) -> Vec<u8> {
        samples.as_chunks::<SIZE>().0.iter().flat_map(|pixel| from.map(|at| pixel[at])).collect()
    }
    Ok(match color {
        ColorType::Rgb8 => samples,
        ColorType::L8 => pick::<1>(&samples, [0; 3]),
        ColorType::La8 => pick::<2>(&samples, [0; 3]),
        ColorType::Rgba8 => pick::<4>(&samples, [0, 1, 2]),
        ColorType::L16 => pick::<2>(&samples, [HIGH; 3]),
        ColorType::La16 => pick::<4>(&samples, [HIGH; 3]),
        ColorType::Rgb16 => pick::<6>(&samples, [HIGH, 2 + HIGH, 4 + HIGH]),
        ColorType::Rgba16 => pick::<8>(&samples, [HIGH, 2 + HIGH, 4 + HIGH]),
        _ => return Err(Failure::Unsupported(format!("{color:?} samples"))),
    })
}

/// Runs a decoder. The decoders are other people's code fed with other people's bytes: a panic in one is reported as
/// the damaged file that it takes, and does not end the program.
fn guarded<T>(decode: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(decode))
        .unwrap_or_else(|_| Err(Failure::Damaged("its decoder cannot make sense of it".to_owned())))
}

/// What to say about bytes that are no known picture.
fn unrecognised(start: &[u8]) -> String {
    let is_text = |text: &&str| !text.chars().any(|c| c.is_control() && !c.is_whitespace());
    // The cut after 512 bytes may fall into a character.
    // What git-lfs and git-annex leave in the place of a file whose content was not fetched.
    if let Some((tool, fetch)) = [
        (&b"version https://git-lfs"[..], ("Git LFS", "git lfs pull")),
        (b"/annex/objects/", ("git-annex", "git annex get")),
    ]
    .into_iter()
    .find_map(|(mark, tool)| start.starts_with(mark).then_some(tool))
    {
        return format!("a placeholder of {tool} and not the image itself; fetch it with `{fetch}`");
    }
    let text = start.utf8_chunks().next().map(|chunk| chunk.valid()).filter(|text| text.len() + 4 > start.len());
    match text.filter(is_text) {
        Some(text) => {
            let line: String = text.trim().chars().take_while(|&c| c != '\n' && c != '\r').take(40).collect();
            format!("a text file, not a picture (it begins `{line}`); copy or download the picture itself again")
        }
        None => "not a picture format that is read; convert it to JPEG, PNG, WebP, TIFF or BMP".to_owned(),
    }
}

fn has_raw_extension(path: &Path) -> bool {
    const RAW: [&str; 12] = ["3fr", "arw", "cr2", "dng", "erf", "iiq", "nef", "nrw", "orf", "pef", "rw2", "srw"];
    path.extension().and_then(|e| e.to_str()).is_some_and(|e| RAW.iter().any(|raw| raw.eq_ignore_ascii_case(e)))
}

impl Failure {
    fn describe(self, path: &Path, format: Format, limits: &Limits) -> Error {
        let name = format.name();
        Error::input(
            path,
            match self {
                Self::Damaged(what) => {
                    format!("damaged or incomplete {name} file ({what}); copy it again from its source")
                }
                Self::Unsupported(what) => {
                    format!("a kind of {name} that is not read ({what}); convert it to 8-bit RGB JPEG or PNG")
                }
                Self::TooLarge => {
                    let limit = mebibytes(limits.max_alloc);
                    format!("decoding takes more memory than the limit of {limit}; save a smaller picture")
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
            // The pixels are read from memory, so an I/O error is the end of the bytes.
            ImageError::IoError(source) if source.kind() == ErrorKind::UnexpectedEof => {
                Self::Damaged("it ends too early".to_owned())
            }
            other => Self::Damaged(other.to_string()),
        }
    }
}
