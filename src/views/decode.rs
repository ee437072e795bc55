//! Image files to upright 8-bit RGB, with limits that are checked before anything large is
//! allocated.
//!
//! The format is recognised by content. Grey is replicated, alpha kept apart (not blended), and of
//! 16-bit samples the high byte is kept: what the reference's decoder (Pillow) does for color. For
//! 16-bit *grey* Pillow clips at 255, which leaves a white image; here grey is treated like color.
//! Where a file states that fewer bits of its 16 are used, those are scaled. Gamma, color profiles
//! and all frames but the first are ignored. HEIC and AVIF are decoded by another program.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read, Seek};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Once;

use image::codecs::{bmp::BmpDecoder, png::PngDecoder, webp::WebPDecoder};
use image::metadata::Orientation;
use image::{ColorType, ImageDecoder, RgbImage};

use super::content::{AUDIO, Kind, opened};
use super::converter;
use super::exif::ExifCamera;
use super::gps::GpsPosition;
use super::header::{
    Decoded, Failure, Format, Header, Levels, Limits, Pixels, check_memory, check_sides, shift_of,
};
use super::heif::{self, Layout};
use super::{FileHeader, exif, jpeg, orientation, png, raw, tiff, webp};
use crate::error::{Error, Result};

/// Memory in bytes for what a PNG carries besides its pixels: color profiles are compressed, and
/// inflate at once.
const PNG_EXTRAS: u64 = 64 << 20;

/// An image file whose header was read and found within the limits.
pub(super) struct ImageFile {
    path: PathBuf,
    file: BufReader<File>,
    limits: Limits,
    format: Format,
    header: Header,
    /// Of HEIC and AVIF.
    layout: Layout,
    /// The preview of a raw file, which takes the place of the file.
    preview: Option<Vec<u8>>,
}

impl ImageFile {
    /// Opens a file and reads its header.
    pub(super) fn open(path: &Path, limits: &Limits) -> Result<Self> {
        let (file, start) = opened(path, limits.max_alloc)?;
        let mut file = BufReader::new(file);
        let format = recognised(&start, path).map_err(|reason| Error::input(path, reason))?;

        // A PNG says its size in a fixed place, so the limits hold even where the rest of the
        // header is a trap.
        if let (Format::Png, Some(&[b'I', b'H', b'D', b'R', a, b, c, d, e, f, g, h])) =
            (format, start.get(12..).and_then(<[u8]>::first_chunk))
        {
            check_sides(
                u32::from_be_bytes([a, b, c, d]),
                u32::from_be_bytes([e, f, g, h]),
                limits,
            )
            .map_err(|reason| Error::input(path, reason))?;
        }
        let mut layout = Layout::default();
        let header = guarded(|| match format {
            Format::Jpeg => jpeg_header(&mut file),
            Format::Tiff => tiff::header(&mut file),
            Format::Heic | Format::Avif => {
                let header;
                (header, layout) = heif::header(&mut file)?;
                Ok(header)
            }
            _ => header_of(&mut file, format, limits),
        });
        let header = header.map_err(|failure| failure.describe(path, format, limits))?;
        check_sides(header.width, header.height, limits)
            .and_then(|()| check_memory(&header, limits))
            .map_err(|reason| Error::input(path, reason))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            limits: *limits,
            format,
            header,
            layout,
            preview: None,
        })
    }

    /// Opens the largest preview in a raw file.
    pub(super) fn open_preview(path: &Path, limits: &Limits) -> Result<Self> {
        let (mut file, start) = opened(path, limits.max_alloc)?;
        if Kind::of(&start, path) != Kind::Raw {
            return Err(Error::input(
                path,
                "not a raw camera file, so there is no preview to take; name the file itself",
            ));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(|source| Error::io(path, source))?;
        let preview = guarded(|| raw::largest_preview(&bytes));
        let (start, header) = preview.map_err(|failure| match failure {
            Failure::Unsupported(_) => Error::input(
                path,
                "a raw camera file without a JPEG preview; develop it to TIFF or JPEG",
            ),
            failure => failure.describe(path, Format::Jpeg, limits),
        })?;
        check_sides(header.width, header.height, limits)
            .and_then(|()| check_memory(&header, limits))
            .map_err(|reason| Error::input(path, reason))?;
        bytes.drain(..start);
        Ok(Self {
            path: path.to_owned(),
            file: BufReader::new(file),
            limits: *limits,
            format: Format::Jpeg,
            header,
            layout: Layout::default(),
            preview: Some(bytes),
        })
    }

    /// The pixels that another program has written, which are to have this size.
    fn converted(path: &Path, size: (u32, u32), limits: &Limits) -> Result<Pixels> {
        let image = Self::open(path, limits)?;
        let stored = image.stored_size();
        match image.of_size(size) {
            Some(image) => image.decode(),
            None => Err(Error::input(
                path,
                format!(
                    "it has {}x{} pixels instead of {}x{}",
                    stored.0, stored.1, size.0, size.1
                ),
            )),
        }
    }

    /// Width and height as stored.
    pub(super) fn stored_size(&self) -> (u32, u32) {
        (self.header.width, self.header.height)
    }

    /// The same image if it can have this size once upright; one that is stored so is not turned,
    /// whatever its orientation is.
    pub(super) fn of_size(mut self, size: (u32, u32)) -> Option<Self> {
        if self.stored_size() == size {
            self.header.orientation = Orientation::NoTransforms;
        }
        (self.upright_size() == size).then_some(self)
    }

    /// Width and height once upright.
    pub(super) fn upright_size(&self) -> (u32, u32) {
        let Header {
            width,
            height,
            orientation,
            ..
        } = self.header;
        orientation::upright_size(width, height, orientation)
    }

    /// What the header says, for a caller outside.
    pub(super) fn file_header(&self) -> FileHeader {
        let (width, height) = self.upright_size();
        // What other programs may not read is not theirs to open.
        let is_common = !matches!(self.format, Format::Heic | Format::Avif);
        let is_file = is_common && self.preview.is_none();
        let stored_upright = is_file && self.header.orientation == Orientation::NoTransforms;
        FileHeader {
            width,
            height,
            stored_upright,
            is_jpeg: is_file && self.format == Format::Jpeg,
        }
    }

    /// What EXIF says of the camera.
    pub(super) fn exif_camera(&self) -> &ExifCamera {
        &self.header.camera
    }

    /// What EXIF says of where it was taken.
    pub(super) fn gps_position(&self) -> Option<GpsPosition> {
        self.header.position
    }

    /// Memory in bytes that decoding may take.
    pub(super) fn memory(&self) -> u64 {
        let length = self.file.get_ref().metadata().map_or(0, |kind| kind.len());
        length.saturating_add(self.header.memory())
    }

    /// Decodes the pixels and turns them upright.
    pub(super) fn decode(self) -> Result<Pixels> {
        self.decode_as(Levels::AsStored)
    }

    /// Decodes a mask, whose levels count in relation to one another: of 16 bits those are taken
    /// that are in use.
    pub(super) fn decode_mask(self) -> Result<Pixels> {
        self.decode_as(Levels::Stretched)
    }

    fn decode_as(self, levels: Levels) -> Result<Pixels> {
        let Self {
            path,
            mut file,
            limits,
            format,
            header,
            layout,
            preview,
        } = self;
        if let Format::Heic | Format::Avif = format {
            let size = (header.width, header.height);
            return converter::decode(&converter::Request {
                path: &path,
                format,
                layout,
                read: &|output| Self::converted(output, size, &limits),
            });
        }
        let is_preview = preview.is_some();
        let bytes = match preview {
            Some(bytes) => bytes,
            None => {
                let mut bytes = Vec::new();
                let read = file
                    .rewind()
                    .and_then(|()| file.take(limits.max_alloc).read_to_end(&mut bytes));
                read.map_err(|source| Error::io(&path, source))?;
                bytes
            }
        };

        let decoded = guarded(|| match format {
            Format::Jpeg => {
                // Of a preview, some of it is the raw file's.
                let own = is_preview.then(|| jpeg::header(&bytes)).transpose()?;
                jpeg::decode(&bytes, own.as_ref().unwrap_or(&header)).map(|rgb| Decoded {
                    rgb,
                    alpha: None,
                    peak: None,
                })
            }
            Format::Tiff => tiff::decode(Cursor::new(&bytes), &header, levels),
            _ => {
                let mut file = Cursor::new(&bytes);
                let read = Header {
                    orientation: header.orientation,
                    ..header_of(&mut file, format, &limits)?
                };
                if read != header {
                    return Err(Failure::Damaged("it changed while it was read".to_owned()));
                }
                file.set_position(0);
                let used_bits = if format == Format::Png {
                    png::used_bits(&bytes)
                } else {
                    None
                };
                let decoder = decoder(format, &mut file, &limits)?;
                let color = decoder.color_type();
                let mut samples = vec![0; decoder.total_bytes() as usize];
                decoder.read_image(&mut samples)?;
                to_rgb(samples, color, used_bits, levels)
            }
        });
        let decoded = decoded.map_err(|failure| failure.describe(&path, format, &limits))?;
        drop(bytes);
        let upright =
            |pixels: Vec<u8>| match RgbImage::from_raw(header.width, header.height, pixels) {
                Some(stored) => Ok(orientation::upright(stored, header.orientation)),
                None => {
                    Err(Failure::Damaged("too few pixels".to_owned())
                        .describe(&path, format, &limits))
                }
            };
        let alpha = decoded
            .alpha
            .filter(|alpha| alpha.iter().any(|alpha| *alpha < u8::MAX));
        let alpha = alpha
            .map(|alpha| upright(alpha.iter().flat_map(|alpha| [*alpha; 3]).collect()))
            .transpose()?;
        Ok(Pixels {
            rgb: upright(decoded.rgb)?,
            alpha,
            peak: decoded.peak,
            decoded_by: None,
        })
    }
}

/// Tells the format from a file's first bytes, or what the file is instead.
fn recognised(start: &[u8], path: &Path) -> Result<Format, String> {
    match Kind::of(start, path) {
        Kind::Readable(format) => Ok(format),
        Kind::Foreign(AUDIO) => Err(format!(
            "{AUDIO}, without images; name image files or a video"
        )),
        Kind::Foreign(kind) => Err(format!(
            "{kind}, which is not read; convert it to JPEG or PNG"
        )),
        Kind::Raw => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            Err(format!(
                "a raw camera file, which is not developed here; develop it to TIFF or JPEG, or use the preview in \
                 it: {name}@preview"
            ))
        }
        Kind::Video(_) => Err(
            "a video, not an image; name it to reconstruct or encode, which take its frames".into(),
        ),
        Kind::Unknown => Err(unrecognised(start)),
    }
}

/// The `image` crate's decoder. JPEG and TIFF have modules of their own.
fn decoder<'a, R>(
    format: Format,
    reader: R,
    limits: &Limits,
) -> Result<Box<dyn ImageDecoder + 'a>, Failure>
where
    R: BufRead + Seek + 'a,
{
    let allow = |bytes: u64| {
        let mut inner = image::Limits::no_limits();
        inner.max_alloc = Some(bytes);
        inner
    };
    let mut decoder: Box<dyn ImageDecoder + 'a> = match format {
        Format::Png => Box::new(PngDecoder::with_limits(
            reader,
            allow(limits.max_alloc.min(PNG_EXTRAS)),
        )?),
        Format::WebP => Box::new(WebPDecoder::new(reader)?),
        Format::Bmp => Box::new(BmpDecoder::new(reader)?),
        Format::Jpeg | Format::Tiff | Format::Heic | Format::Avif => {
            return Err(Failure::Unsupported("wrong decoder".to_owned()));
        }
    };
    decoder.set_limits(allow(limits.max_alloc))?;
    Ok(decoder)
}

/// What to say about bytes that are no known image.
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
        return format!(
            "a placeholder of {tool} and not the image itself; fetch it with `{fetch}`"
        );
    }
    let text = start
        .utf8_chunks()
        .next()
        .map(|chunk| chunk.valid())
        .filter(|text| text.len() + 4 > start.len());
    match text.filter(is_text) {
        Some(text) => {
            let line: String = text
                .trim()
                .chars()
                .take_while(|&c| c != '\n' && c != '\r')
                .take(40)
                .collect();
            format!(
                "a text file, not an image (it begins `{line}`); copy or download the image itself again"
            )
        }
        None => "not an image format that is read; convert it to JPEG, PNG, WebP, TIFF or BMP"
            .to_owned(),
    }
}

/// The header of a JPEG file, from as much of the file as it takes.
fn jpeg_header(file: &mut BufReader<File>) -> Result<Header, Failure> {
    let mut start = Vec::new();
    let mut more = 1 << 16;
    loop {
        let read = file
            .by_ref()
            .take(more)
            .read_to_end(&mut start)
            .map_err(Failure::reading)?;
        match jpeg::header(&start) {
            Err(Failure::EndsEarly) if read > 0 => more *= 2,
            header => return header,
        }
    }
}

/// The header of a file of a format that the `image` crate reads.
fn header_of(
    file: &mut (impl BufRead + Seek),
    format: Format,
    limits: &Limits,
) -> Result<Header, Failure> {
    // Before the decoder, which would take the place of the reader. Damage in metadata is not the
    // pixels'.
    let metadata = if format == Format::Png {
        png::metadata(file)
    } else {
        png::Metadata::default()
    };
    if format == Format::WebP {
        webp::check(file)?;
    }
    file.rewind().map_err(Failure::reading)?;
    let mut decoder = decoder(format, file, limits)?;
    let (width, height) = decoder.dimensions();
    let exif = metadata.exif.or(decoder.exif_metadata()?);
    let xmp = metadata.xmp.or(decoder.xmp_metadata()?);
    // The decoder's output, as much again inside it, the RGB copy, and the copy that is turned
    // upright; and alpha.
    let color = decoder.color_type();
    let alpha = if color.has_alpha() { 1 + 3 + 3 } else { 0 };
    Ok(Header {
        width,
        height,
        orientation: exif::orientation(exif.as_deref(), xmp.as_deref()),
        camera: exif.as_deref().map(ExifCamera::of).unwrap_or_default(),
        position: exif.as_deref().and_then(GpsPosition::of),
        bytes_per_pixel: 2 * u64::from(color.bytes_per_pixel()) + 3 + 3 + alpha,
    })
}

/// Keeps the first three channels, or the only one three times, and the high byte of 16-bit
/// samples, or that of `used_bits` of them; alpha apart.
fn to_rgb(
    samples: Vec<u8>,
    color: ColorType,
    used_bits: Option<u8>,
    stretch: Levels,
) -> Result<Decoded, Failure> {
    let channels = usize::from(color.channel_count());
    let mut peak = None;
    let levels = match color {
        ColorType::L8 | ColorType::La8 | ColorType::Rgb8 | ColorType::Rgba8 => samples,
        ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16 => {
            // Decoders deliver the machine's own order.
            let levels = samples
                .as_chunks::<2>()
                .0
                .iter()
                .map(|bytes| u16::from_ne_bytes(*bytes));
            let colors = levels
                .clone()
                .enumerate()
                .filter(|(at, _)| !color.has_alpha() || (at + 1) % channels != 0);
            let highest = colors.map(|(_, level)| level).max().unwrap_or(0);
            // PNG wants levels of fewer bits to be scaled already, and some writers do not.
            let used = used_bits.filter(|bits| (9..16).contains(bits) && highest >> bits == 0);
            peak = used.is_none().then_some(highest);
            let shift = match stretch {
                Levels::AsStored => used.map_or(8, |bits| u32::from(bits) - 8),
                Levels::Stretched => shift_of(highest),
            };
            levels
                .map(|level| (level >> shift).min(255) as u8)
                .collect()
        }
        _ => return Err(Failure::Unsupported(format!("{color:?} samples"))),
    };
    let alpha = color.has_alpha().then(|| {
        levels
            .chunks_exact(channels)
            .map(|pixel| pixel[channels - 1])
            .collect()
    });
    let rgb = match channels {
        3 => levels,
        4 => levels
            .as_chunks::<4>()
            .0
            .iter()
            .flat_map(|&[red, green, blue, _]| [red, green, blue])
            .collect(),
        _ => levels
            .chunks_exact(channels)
            .flat_map(|pixel| [pixel[0]; 3])
            .collect(),
    };
    Ok(Decoded { rgb, alpha, peak })
}

/// Runs a decoder. Some are other people's code fed with other people's bytes: a panic in one is a
/// bug, but neither printed nor the end of the program.
fn guarded<T>(decode: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    thread_local! {
        static QUIET: Cell<bool> = const { Cell::new(false) };
    }
    static HOOK: Once = Once::new();
    // The hook is the whole program's; it stays what it was for every other thread and moment.
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                usual(info);
            }
        }));
    });
    let before = QUIET.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(decode));
    QUIET.set(before);
    result.unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or(panic.downcast_ref::<&str>().copied());
        Err(Failure::Panic(message.unwrap_or("no message").to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_decoder_that_panics_is_a_bug_and_not_damage() {
        let Err(failure) = guarded(|| -> Result<(), Failure> { panic!("index {} of 3", 7) }) else {
            panic!("it was not noticed")
        };
        let error = failure.describe(Path::new("a.webp"), Format::WebP, &Limits::default());
        assert_eq!(error.kind(), ErrorKind::Internal);
        let message = error.to_string();
        assert!(
            message.contains("the WebP decoder fails on a.webp (index 7 of 3)"),
            "{message}"
        );
        assert!(!message.contains("damaged"), "{message}");
    }
}
