//! HEIC and AVIF files: their description is read here, their pixels by a program that is
//! installed.
//!
//! What is read is the box `meta` of ISO/IEC 23008-12 (HEIF): the primary item, its size and how it
//! is cropped and turned, and its EXIF data. A decoder applies crop and turn; the EXIF orientation
//! has no effect beside them, by the same standard.

use std::io::{self, Read, Seek, SeekFrom};

use image::metadata::Orientation;

use super::exif::ExifCamera;
use super::gps::GpsPosition;
use super::header::{Failure, Header};

/// The largest description and the largest EXIF data that are read, in bytes.
const LARGEST_META: u64 = 16 << 20;
const LARGEST_EXIF: u64 = 1 << 20;
/// Memory for decoding, per pixel: what the decoder gives, as much again inside its reader, RGB and
/// alpha.
const BYTES_PER_PIXEL: u64 = 2 * 8 + 3 + 3 + 7;

/// How the primary image is stored, as far as it matters to decoders that cannot do everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// Whether it is put together from tiles.
    pub is_tiled: bool,
    /// Whether it is cropped, turned or mirrored after decoding.
    pub is_transformed: bool,
}

/// The header of a file. Its image is stated as it is once decoded: upright.
pub(super) fn header(file: &mut (impl Read + Seek)) -> Result<(Header, Layout), Failure> {
    let damaged = |what: &str| Failure::Damaged(what.to_owned());
    let meta = meta_box(file).map_err(Failure::reading)?;
    let meta = meta.ok_or_else(|| damaged("it has no image"))?;
    let meta = Meta::of(&meta).ok_or_else(|| damaged("its description is cut off"))?;
    let (mut size, mut layout) = (None, Layout::default());
    layout.is_tiled = meta.kind(meta.primary) == Some(b"grid");
    for property in meta.properties_of(meta.primary) {
        let number = |at: usize| u32_at(property.content, at);
        match property.kind {
            b"ispe" => size = number(4).zip(number(8)),
            b"clap" => {
                let side = |at: usize| Some(number(at)? / number(at + 4)?.max(1));
                size = side(0).zip(side(8)).or(size);
                layout.is_transformed = true;
            }
            b"irot" => {
                let quarters = property.content.first().map_or(0, |turns| turns & 3);
                layout.is_transformed |= quarters != 0;
                if quarters % 2 == 1 {
                    size = size.map(|(width, height)| (height, width));
                }
            }
            b"imir" => layout.is_transformed = true,
            _ => {}
        }
    }
    let (width, height) = size.ok_or_else(|| damaged("the size of its image is missing"))?;
    let exif = meta.exif(file);
    let header = Header {
        width,
        height,
        orientation: Orientation::NoTransforms,
        camera: exif.as_deref().map(ExifCamera::of).unwrap_or_default(),
        position: exif.as_deref().and_then(GpsPosition::of),
        bytes_per_pixel: BYTES_PER_PIXEL,
    };
    Ok((header, layout))
}

/// The content of the file's box `meta`.
fn meta_box(file: &mut (impl Read + Seek)) -> io::Result<Option<Vec<u8>>> {
    let end = file.seek(SeekFrom::End(0))?;
    let mut at = 0;
    while at + 8 <= end {
        file.seek(SeekFrom::Start(at))?;
        let mut head = [0; 8];
        file.read_exact(&mut head)?;
        let [a, b, c, d, kind @ ..] = head;
        let (mut start, mut length) = (at + 8, u64::from(u32::from_be_bytes([a, b, c, d])));
        match length {
            0 => length = end - at,
            1 => {
                let mut long = [0; 8];
                file.read_exact(&mut long)?;
                (start, length) = (at + 16, u64::from_be_bytes(long));
            }
            _ => {}
        }
        let next = at.saturating_add(length);
        if next < start {
            return Ok(None);
        }
        if &kind == b"meta" {
            let mut content = Vec::new();
            file.seek(SeekFrom::Start(start))?;
            file.take((next - start).min(LARGEST_META))
                .read_to_end(&mut content)?;
            return Ok(Some(content));
        }
        at = next;
    }
    Ok(None)
}

/// A box inside another one.
#[derive(Clone, Copy)]
struct Part<'a> {
    kind: &'a [u8],
    content: &'a [u8],
}

/// The boxes in the content of one.
fn parts(mut content: &[u8]) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    while let (Some(length), Some(kind)) = (u32_at(content, 0), content.get(4..8)) {
        let end = if length == 0 {
            content.len()
        } else {
            length as usize
        };
        let Some(inside) = content.get(8..end) else {
            break;
        };
        parts.push(Part {
            kind,
            content: inside,
        });
        content = &content[end..];
    }
    parts
}

/// What the box `meta` says.
struct Meta<'a> {
    parts: Vec<Part<'a>>,
    primary: u32,
    /// The items with their kinds.
    items: Vec<(u32, &'a [u8])>,
}

impl<'a> Meta<'a> {
    fn of(content: &'a [u8]) -> Option<Self> {
        let parts = parts(content.get(4..)?);
        let find = |kind: &[u8]| parts.iter().find(|part| part.kind == kind);
        let mut primary = Bytes(find(b"pitm")?.content);
        let version = primary.version()?;
        let primary = primary.id(version >= 1)?;
        let mut items = Vec::new();
        if let Some(info) = find(b"iinf") {
            let mut info = Bytes(info.content);
            let version = info.version()?;
            info.take(if version == 0 { 2 } else { 4 })?;
            for entry in self::parts(info.0) {
                let mut entry = Bytes(entry.content);
                let version = entry.version()?;
                let id = entry.id(version >= 3)?;
                entry.take(2)?;
                items.push((id, entry.take(4)?));
            }
        }
        Some(Self {
            parts,
            primary,
            items,
        })
    }

    fn find(&self, kind: &[u8]) -> Option<Part<'a>> {
        self.parts.iter().find(|part| part.kind == kind).copied()
    }

    fn kind(&self, item: u32) -> Option<&'a [u8]> {
        let found = self.items.iter().find(|(id, _)| *id == item);
        found.map(|(_, kind)| *kind)
    }

    /// The properties of an item in the order in which they are applied.
    fn properties_of(&self, item: u32) -> Vec<Part<'a>> {
        self.read_properties_of(item).unwrap_or_default()
    }

    fn read_properties_of(&self, item: u32) -> Option<Vec<Part<'a>>> {
        let inside = parts(self.find(b"iprp")?.content);
        let find = |kind: &[u8]| inside.iter().find(|part| part.kind == kind);
        let known = parts(find(b"ipco")?.content);
        let mut found = Vec::new();
        for list in inside.iter().filter(|part| part.kind == b"ipma") {
            let mut list = Bytes(list.content);
            let is_wide = list.0.get(3)? & 1 == 1;
            let version = list.version()?;
            for _ in 0..list.number(4)? {
                let id = list.id(version >= 1)?;
                for _ in 0..list.number(1)? {
                    let index = if is_wide {
                        list.number(2)? & 0x7FFF
                    } else {
                        list.number(1)? & 0x7F
                    };
                    if id == item && index > 0 {
                        found.extend(known.get(index as usize - 1).copied());
                    }
                }
            }
        }
        Some(found)
    }

    /// EXIF data from their TIFF header on. Those of the first item that has any: cameras write
    /// one.
    fn exif(&self, file: &mut (impl Read + Seek)) -> Option<Vec<u8>> {
        let (item, _) = self.items.iter().find(|(_, kind)| *kind == b"Exif")?;
        let (is_inside, extents) = self.extents(*item)?;
        let mut bytes = Vec::new();
        for (offset, length) in extents {
            let room = LARGEST_EXIF - bytes.len() as u64;
            if is_inside {
                let data = self.find(b"idat")?.content.get(offset as usize..)?;
                bytes.extend(data.iter().take(length.min(room) as usize));
            } else {
                file.seek(SeekFrom::Start(offset)).ok()?;
                file.by_ref()
                    .take(length.min(room))
                    .read_to_end(&mut bytes)
                    .ok()?;
            }
        }
        let skipped = u32_at(&bytes, 0)? as usize;
        bytes.get(4..)?.get(skipped..).map(<[u8]>::to_vec)
    }

    /// Where the data of an item are: in the file, or in the box `idat`.
    fn extents(&self, item: u32) -> Option<(bool, Vec<(u64, u64)>)> {
        let mut list = Bytes(self.find(b"iloc")?.content);
        let version = list.version()?;
        let (sizes, more_sizes) = (list.number(1)?, list.number(1)?);
        let [offset_size, length_size] = [sizes >> 4, sizes & 15].map(|size| size as usize);
        let base_size = (more_sizes >> 4) as usize;
        let index_size = if version == 0 { 0 } else { more_sizes & 15 } as usize;
        let count = list.number(if version < 2 { 2 } else { 4 })?;
        for _ in 0..count {
            let id = list.id(version >= 2)?;
            let method = if version == 0 {
                0
            } else {
                list.number(2)? & 15
            };
            list.take(2)?;
            let base = list.number(base_size)?;
            let mut extents = Vec::new();
            for _ in 0..list.number(2)? {
                list.take(index_size)?;
                let offset = list.number(offset_size)?;
                extents.push((base.checked_add(offset)?, list.number(length_size)?));
            }
            if id == item {
                return (method < 2).then_some((method == 1, extents));
            }
        }
        None
    }
}

/// What is still to be read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number of up to 8 bytes.
    fn number(&mut self, bytes: usize) -> Option<u64> {
        let bytes = self.take(bytes).filter(|bytes| bytes.len() <= 8)?;
        Some(
            bytes
                .iter()
                .fold(0, |number, byte| number << 8 | u64::from(*byte)),
        )
    }

    /// The version at the beginning of a box that has one, past its flags.
    fn version(&mut self) -> Option<u64> {
        self.number(4).map(|word| word >> 24)
    }

    /// The number of an item.
    fn id(&mut self, is_long: bool) -> Option<u32> {
        let id = self.number(if is_long { 4 } else { 2 })?;
        u32::try_from(id).ok()
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Cursor;

    use super::*;

    fn part(kind: &[u8; 4], content: &[&[u8]]) -> Vec<u8> {
        let content = content.concat();
        let length = (content.len() as u32 + 8).to_be_bytes();
        [&length[..], kind, &content].concat()
    }

    /// A file with an image of 4032x3024 that is turned by quarters, and EXIF data that state an
    /// orientation and a focal length.
    fn file(quarters: u8, exif: &[u8]) -> Vec<u8> {
        let size = |side: u32| side.to_be_bytes();
        let item =
            |id: u8, kind: &[u8; 4]| part(b"infe", &[&[2, 0, 0, 0, 0, id, 0, 0], kind, b"\0"]);
        let properties = part(
            b"iprp",
            &[
                &part(
                    b"ipco",
                    &[
                        &part(b"ispe", &[&[0; 4], &size(4032), &size(3024)]),
                        &part(b"irot", &[&[quarters]]),
                    ],
                ),
                &part(b"ipma", &[&[0; 4], &size(1), &[0, 1, 2, 0x81, 0x82]]),
            ],
        );
        let data = [&[0, 0, 0, 6][..], b"Exif\0\0", exif].concat();
        let location = |offset: u32| {
            let length = data.len() as u32;
            let entry = [&[0, 7, 0, 0, 0, 1][..], &size(offset), &size(length)].concat();
            part(b"iloc", &[&[0; 4], &[0x44, 0, 0, 1], &entry])
        };
        let meta = |offset: u32| {
            part(
                b"meta",
                &[
                    &[0; 4],
                    &part(b"hdlr", &[&[0; 8], b"pict"]),
                    &part(b"pitm", &[&[0; 4], &[0, 1]]),
                    &part(
                        b"iinf",
                        &[&[0; 4], &[0, 2], &item(1, b"grid"), &item(7, b"Exif")],
                    ),
                    &properties,
                    &location(offset),
                ],
            )
        };
        let brand = part(b"ftyp", &[b"heic\0\0\0\0mif1"]);
        let offset = (brand.len() + meta(0).len() + 8) as u32;
        [brand, meta(offset), part(b"mdat", &[&data])].concat()
    }

    /// EXIF data: orientation 6, FocalLengthIn35mmFilm 26.
    const EXIF: &[u8] = b"MM\0\x2a\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\
        \x87\x69\0\x04\0\0\0\x01\0\0\0\x26\0\0\0\0\0\x01\xa4\x05\0\x03\0\0\0\x01\0\x1a\0\0\0\0\0\0";

    #[test]
    fn sizes_are_those_after_the_files_own_turn_and_exif_turns_nothing() {
        for (quarters, size) in [(0, (4032, 3024)), (1, (3024, 4032)), (2, (4032, 3024))] {
            let Ok((header, layout)) = header(&mut Cursor::new(file(quarters, EXIF))) else {
                panic!("{quarters}: it is refused")
            };
            assert_eq!((header.width, header.height), size);
            assert_eq!(header.orientation, Orientation::NoTransforms);
            assert_eq!(header.camera.focal_35mm, Some(26));
            let is_transformed = quarters != 0;
            assert_eq!(
                layout,
                Layout {
                    is_tiled: true,
                    is_transformed
                }
            );
        }
    }

    #[test]
    fn cut_files_are_refused_and_never_a_panic() {
        let whole = file(3, EXIF);
        for length in 0..whole.len() {
            let _ = header(&mut Cursor::new(&whole[..length]));
        }
        for at in 0..whole.len() {
            let mut odd = whole.clone();
            odd[at] = 0xFF;
            let _ = header(&mut Cursor::new(&odd));
        }
        let Err(Failure::Damaged(reason)) = header(&mut Cursor::new(&whole[..20])) else {
            panic!("it is taken")
        };
        assert_eq!(reason, "it has no image");
    }
}
