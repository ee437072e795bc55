//! TIFF and BigTIFF: the largest main image of a file.
//!
//! Strips and tiles, samples side by side or in planes, 1 to 16 bits, grey, RGB, palette, CMYK and
//! YCbCr, with LZW, Deflate, PackBits or JPEG inside. Other kinds are refused by name.

mod chunk;
mod directory;
mod page;
mod pixels;
mod tag;

use std::collections::HashSet;
use std::io::{Read, Seek};

use super::header::{Decoded, Failure, Header, Levels, shift_of};
use directory::{Directory, File};
use page::Page;

/// Most images of a file that are looked at.
const MOST_PAGES: usize = 10_000;

fn damaged(what: &str) -> Failure {
    Failure::Damaged(what.to_owned())
}

fn unsupported(what: impl Into<String>) -> Failure {
    Failure::Unsupported(what.into())
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
