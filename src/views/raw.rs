//! The JPEG previews in raw camera files.
//!
//! Each maker keeps them in a place of its own, so they are found by their first bytes, and counted
//! if what follows is a sound JPEG header of 8 bits. What raw files compress without loss as JPEG is
//! no preview.

use image::metadata::Orientation;

use super::exif::{self, ExifCamera};
use super::gps::GpsPosition;
use super::header::{Failure, Header};
use super::jpeg;

/// Bytes of a preview among which its header is.
const LONGEST_HEADER: usize = 1 << 18;
/// Bytes of a file among which the description of a CR3 file is.
const LONGEST_DESCRIPTION: usize = 1 << 16;
/// The box of a CR3 file with its main EXIF directory.
const CR3_EXIF: &[u8] = b"CMT1";

/// The largest preview: where it begins, and its header. What it does not state of its
/// orientation, its camera and its position is as the raw file states it.
pub(super) fn largest_preview(file: &[u8]) -> Result<(usize, Header), Failure> {
    let pixels = |header: &Header| u64::from(header.width) * u64::from(header.height);
    let mut best: Option<(usize, Header, Option<Orientation>)> = None;
    let mut at = 0;
    while let Some(next) = file[at..].iter().position(|byte| *byte == 0xFF) {
        at += next;
        let end = file.len().min(at + LONGEST_HEADER);
        if file[at..].starts_with(&[0xFF, 0xD8, 0xFF])
            && let Some((header, stated)) = jpeg::preview_header(&file[at..end])
            // The last of the largest: bytes before a preview may look like its beginning too.
            && (best.as_ref()).is_none_or(|(_, most, _)| pixels(&header) >= pixels(most))
        {
            best = Some((at, header, stated));
        }
        at += 1;
    }
    let Some((start, mut header, stated)) = best else {
        return Err(Failure::Unsupported("it has no JPEG preview".to_owned()));
    };
    let main = main_exif(file);
    header.orientation = stated.unwrap_or_else(|| exif::orientation(main, None));
    if header.camera == ExifCamera::default() {
        header.camera = main.map(ExifCamera::of).unwrap_or_default();
    }
    header.position = header.position.or_else(|| main.and_then(GpsPosition::of));
    Ok((start, header))
}

/// The EXIF data of the file itself: most raw files are TIFF files or nearly.
fn main_exif(file: &[u8]) -> Option<&[u8]> {
    if file.starts_with(b"II") || file.starts_with(b"MM") {
        return Some(file);
    }
    let description = &file[..file.len().min(LONGEST_DESCRIPTION)];
    let at = description
        .windows(CR3_EXIF.len())
        .position(|name| name == CR3_EXIF)?;
    file.get(at + CR3_EXIF.len()..)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// JPEG files without EXIF data.
    fn jpeg(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let image =
            image::RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 9]));
        image::codecs::jpeg::JpegEncoder::new(&mut bytes)
            .encode_image(&image)
            .unwrap();
        bytes
    }

    /// The beginning of a raw file that is TIFF: orientation 8, Model "Z".
    const MAIN: &[u8] = b"II\x2a\0\x08\0\0\0\x02\0\x10\x01\x02\0\x02\0\0\0Z\0\0\0\
        \x12\x01\x03\0\x01\0\0\0\x08\0\0\0\0\0\0\0";

    #[test]
    fn the_largest_preview_is_found_with_the_orientation_of_the_file() {
        let (small, large) = (jpeg(16, 8), jpeg(64, 48));
        let noise = [0xFF, 0xD8, 0xFF, 0xE0, 0, 4, 1, 2, 0xFF, 0xFF, 0xD8];
        let file = [MAIN, &small, &noise, &large, &noise, &small].concat();
        let Ok((start, header)) = largest_preview(&file) else {
            panic!("there is one")
        };
        assert!(file[start..].starts_with(&large));
        assert_eq!((header.width, header.height), (64, 48));
        assert_eq!(header.orientation, Orientation::Rotate270);
        assert_eq!(header.camera.model.as_deref(), Some("Z"));
        // Where it was taken, too.
        let placed = [
            super::super::gps::tests::exif(false, "N", "E", None),
            large.clone(),
        ];
        let Ok((_, header)) = largest_preview(&placed.concat()) else {
            panic!("there is one")
        };
        assert_eq!(header.position, GpsPosition::of(&placed[0]));
        assert!(header.position.is_some());
        // A CR3 file keeps the same in a box.
        let cr3 = [b"\0\0\0\x18ftypcrx \0\0\0\0....CMT1", MAIN, &large].concat();
        let Ok((_, header)) = largest_preview(&cr3) else {
            panic!("there is one")
        };
        assert_eq!(header.orientation, Orientation::Rotate270);
    }

    #[test]
    fn a_file_without_a_preview_is_refused() {
        let Err(Failure::Unsupported(reason)) = largest_preview(MAIN) else {
            panic!("there is none")
        };
        assert_eq!(reason, "it has no JPEG preview");
    }
}
