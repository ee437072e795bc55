//! What a file is, by its first bytes.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use super::exif;
use super::header::{Format, mebibytes};
use crate::error::{Error, Result};

/// How many of a file's first bytes are looked at to tell what it is.
pub(super) const START: usize = 4096;

/// Length of a packet of an MPEG transport stream, in bytes; some have four more before each.
const PACKET: usize = 188;

/// What audio files are called.
pub(super) const AUDIO: &str = "an audio file";

/// A container of videos, by ffmpeg's name of its demuxer.
///
/// It is told by the file's first bytes and stated to ffmpeg, which would otherwise guess, and could
/// take a file for a playlist that makes it open others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Container(pub(super) &'static str);

impl Container {
    /// Whether it has an index by which a decoder starts exactly at an image that depends on no
    /// earlier one.
    pub(super) fn has_index(self) -> bool {
        ["mov", "matroska"].contains(&self.0)
    }
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An image that is read.
    Readable(Format),
    /// A video, which needs ffmpeg.
    Video(Container),
    /// A raw camera file, of which only the preview is read.
    Raw,
    /// Something else that is recognised, with its article.
    Foreign(&'static str),
    Unknown,
}

impl Kind {
    /// `path` matters only for raw files that look like TIFF.
    pub(super) fn of(start: &[u8], path: &Path) -> Self {
        let brand = |brands: &[&[u8; 4]]| {
            start
                .get(8..12)
                .is_some_and(|brand| brands.iter().any(|b| *b == brand))
        };
        if let Some(container) = container(start) {
            return Self::Video(container);
        }
        Self::Foreign(match start {
            [0xFF, 0xD8, 0xFF, ..] => return Self::Readable(Format::Jpeg),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => {
                return Self::Readable(Format::Png);
            }
            [b'R', b'I', b'F', b'F', ..] if brand(&[b"WEBP"]) => {
                return Self::Readable(Format::WebP);
            }
            [b'B', b'M', _, _, _, _, 0, 0, 0, 0, ..] => return Self::Readable(Format::Bmp),
            // Most raw files are TIFF by their bytes, but what a TIFF reader finds in them is a
            // thumbnail.
            [b'I', b'I', b'R', b'O' | b'S', ..] | [b'M', b'M', b'O', b'R', ..] => return Self::Raw,
            [b'I', b'I', b'U', 0, ..] => return Self::Raw,
            [
                b'F',
                b'U',
                b'J',
                b'I',
                b'F',
                b'I',
                b'L',
                b'M',
                b'C',
                b'C',
                b'D',
                ..,
            ] => {
                return Self::Raw;
            }
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => {
                let is_raw = has_raw_extension(path) || exif::is_raw(start);
                return if is_raw {
                    Self::Raw
                } else {
                    Self::Readable(Format::Tiff)
                };
            }
            [_, _, _, _, b'f', b't', b'y', b'p', ..] => {
                return if brand(&AVIF) {
                    Self::Readable(Format::Avif)
                } else if brand(&HEIC) {
                    Self::Readable(Format::Heic)
                } else {
                    Self::Raw
                };
            }
            [b'G', b'I', b'F', b'8', ..] => "a GIF image",
            [0xFF, 0x0A, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => "a JPEG XL image",
            [0, 0, 0, 12, b'j', b'P', b' ', b' ', ..] | [0xFF, 0x4F, 0xFF, 0x51, ..] => {
                "a JPEG 2000 image"
            }
            [b'8', b'B', b'P', b'S', ..] => "a Photoshop document",
            [b'%', b'P', b'D', b'F', ..] => "a PDF document",
            [0x76, 0x2F, 0x31, 0x01, ..] => "an OpenEXR image",
            [b'I', b'D', b'3', ..] | [b'f', b'L', b'a', b'C', ..] => AUDIO,
            [b'R', b'I', b'F', b'F', ..] if brand(&[b"WAVE"]) => AUDIO,
            _ => return Self::Unknown,
        })
    }
}

const HEIC: [&[u8; 4]; 8] = [
    b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1",
];

const AVIF: [&[u8; 4]; 2] = [b"avif", b"avis"];

/// The container of a file that is a video, or audio in a container that videos have.
fn container(start: &[u8]) -> Option<Container> {
    let word = |at: usize| start.get(at..at + 4);
    let brand = word(8).unwrap_or_default();
    let is_image = brand == b"crx " || HEIC.iter().chain(&AVIF).any(|known| *known == brand);
    let packets = |first: usize, length: usize| {
        // A byte at the beginning of each; few files have it at three such places by chance.
        let marks = (0..3).map(|packet| start.get(first + packet * length));
        marks.into_iter().all(|mark| mark == Some(&0x47))
    };
    Some(Container(match start {
        [_, _, _, _, b'f', b't', b'y', b'p', ..] if !is_image => "mov",
        // QuickTime before it had brands.
        [0 | 1, _, _, _, kind @ ..]
            if [&b"moov"[..], b"mdat", b"wide", b"free", b"skip", b"pnot"]
                .iter()
                .any(|known| kind.starts_with(known)) =>
        {
            "mov"
        }
        [0x1A, 0x45, 0xDF, 0xA3, ..] => "matroska",
        [b'R', b'I', b'F', b'F', ..] if brand == b"AVI " => "avi",
        [b'F', b'L', b'V', 1, ..] => "flv",
        [b'O', b'g', b'g', b'S', ..] => "ogg",
        [0x30, 0x26, 0xB2, 0x75, 0x8E, 0x66, 0xCF, 0x11, ..] => "asf",
        [0, 0, 1, 0xBA, ..] => "mpeg",
        _ if packets(0, PACKET) || packets(4, PACKET + 4) => "mpegts",
        _ => return None,
    }))
}

fn has_raw_extension(path: &Path) -> bool {
    const RAW: [&str; 12] = [
        "3fr", "arw", "cr2", "dng", "erf", "iiq", "nef", "nrw", "orf", "pef", "rw2", "srw",
    ];
    path.extension()
        .and_then(|e| e.to_str())
        .is_some_and(|e| RAW.iter().any(|raw| raw.eq_ignore_ascii_case(e)))
}

/// The first bytes of a file that is a file, is not empty, has `largest` bytes at most and may be
/// read.
pub(super) fn start_of(path: &Path, largest: u64) -> Result<Vec<u8>> {
    opened(path, largest).map(|(_, start)| start)
}

/// Such a file and its first bytes; it will be read from its beginning.
pub(super) fn opened(path: &Path, largest: u64) -> Result<(File, Vec<u8>)> {
    let explain = |source: std::io::Error| Error::unreadable(path, source);
    // Looked at before it is opened: opening a pipe would wait for its writer.
    let kind = std::fs::metadata(path).map_err(explain)?;
    if kind.is_dir() {
        return Err(Error::input(
            path,
            "a folder, not an image; name the images in it",
        ));
    }
    if !kind.is_file() {
        return Err(Error::input(
            path,
            "not a regular file; save the image to disk first",
        ));
    }
    if kind.len() == 0 {
        return Err(Error::input(
            path,
            "the file is empty (0 bytes); copy it again from its source",
        ));
    }
    if kind.len() > largest {
        let (size, limit) = (mebibytes(kind.len()), mebibytes(largest));
        return Err(Error::input(
            path,
            format!("the file has {size}, the limit is {limit}; save a smaller image"),
        ));
    }
    let mut file = File::open(path).map_err(explain)?;
    let mut start = Vec::with_capacity(START);
    (&mut file)
        .take(START as u64)
        .read_to_end(&mut start)
        .and_then(|_| file.rewind())
        .map_err(|source| Error::io(path, source))?;
    Ok((file, start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn videos_are_told_by_content() {
        let kind = |start: &[u8]| Kind::of(start, Path::new("a.jpg"));
        let mut packets = vec![0; 600];
        [0, 188, 376]
            .into_iter()
            .for_each(|at: usize| packets[at] = 0x47);
        let mut camcorder = vec![0; 600];
        [4, 196, 388]
            .into_iter()
            .for_each(|at: usize| camcorder[at] = 0x47);
        for (start, name) in [
            (&b"\0\0\0\x18ftypisom\0\0\0\0"[..], "mov"),
            (b"\0\0\0\x18ftypqt  \0\0\0\0", "mov"),
            (b"\0\0\0\x08wide\0\0\0\0mdat", "mov"),
            (b"\x1a\x45\xdf\xa3\x01\0\0\0", "matroska"),
            (b"RIFF\0\0\0\0AVI LIST", "avi"),
            (b"\0\0\x01\xba\x44", "mpeg"),
            (&packets, "mpegts"),
            (&camcorder, "mpegts"),
        ] {
            assert_eq!(kind(start), Kind::Video(Container(name)), "{name}");
        }
        assert_eq!(kind(b"\0\0\0\x18ftypheic"), Kind::Readable(Format::Heic));
        assert_eq!(kind(b"\0\0\0\x18ftypavif"), Kind::Readable(Format::Avif));
        assert_eq!(kind(b"\0\0\0\x18ftypcrx "), Kind::Raw);
        assert_eq!(kind(b"\0\0\0\0"), Kind::Unknown);
        assert_eq!(kind(b"RIFF\0\0\0\0WEBP"), Kind::Readable(Format::WebP));
    }
}
