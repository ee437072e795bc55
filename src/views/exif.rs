//! What an image's metadata say: its orientation, as Pillow's `ImageOps.exif_transpose` finds it,
//! its camera and focal length.

use image::metadata::Orientation;

const ORIENTATION: u16 = 0x0112;

/// The camera's name.
const MODEL: u16 = 0x0110;

/// The directory of what the camera did, and in it the focal length, and that of the same view on
/// 35 mm film.
const EXIF_DIRECTORY: u16 = 0x8769;
const FOCAL_LENGTH: u16 = 0x920A;
const FOCAL_LENGTH_IN_35_MM_FILM: u16 = 0xA405;

/// Diagonal of an image on 35 mm film, 36 mm x 24 mm.
const FILM_DIAGONAL_MM: f64 = 43.27;

/// The camera that took an image, and its focal length.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExifCamera {
    /// EXIF's Model.
    pub model: Option<String>,
    /// EXIF's FocalLength, millimetres.
    pub focal_mm: Option<f64>,
    /// EXIF's FocalLengthIn35mmFilm: the focal length with the same angle along the diagonal on
    /// 35 mm film, millimetres.
    pub focal_35mm: Option<u16>,
}

impl ExifCamera {
    /// What EXIF data say, from their TIFF header on; damaged entries count as missing.
    pub(super) fn of(exif: &[u8]) -> Self {
        let Some(bytes) = Bytes::of(exif) else {
            return Self::default();
        };
        let main = bytes.u32(4);
        let directory = main.and_then(|main| bytes.value(main, EXIF_DIRECTORY));
        let focal_mm = directory
            .and_then(|directory| bytes.rational(directory, FOCAL_LENGTH))
            .filter(|millimetres| *millimetres > 0.0);
        Self {
            model: main.and_then(|main| bytes.text(main, MODEL)),
            focal_mm,
            focal_35mm: directory
                .and_then(|directory| bytes.value(directory, FOCAL_LENGTH_IN_35_MM_FILM))
                .and_then(known_mm),
        }
    }

    /// The focal length in pixels of an image of this size with square pixels, from the one on 35
    /// mm film. Wrong of an image that was cut since.
    pub fn focal_px(&self, width: u32, height: u32) -> Option<f64> {
        let diagonal = f64::from(width).hypot(f64::from(height));
        self.focal_35mm
            .map(|millimetres| f64::from(millimetres) / FILM_DIAGONAL_MM * diagonal)
    }
}

/// Whole millimetres; 0 means that they are unknown.
pub(super) fn known_mm(stated: u32) -> Option<u16> {
    u16::try_from(stated)
        .ok()
        .filter(|millimetres| *millimetres > 0)
}

/// A text without the zeros and spaces around it; `None` if nothing is left.
pub(super) fn trimmed(text: &[u8]) -> Option<String> {
    let end = text.iter().position(|byte| *byte == 0);
    let text = String::from_utf8_lossy(&text[..end.unwrap_or(text.len())]);
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// How to turn an image upright: by the EXIF data if they have the tag, whatever its type, and else
/// by the XMP packet.
pub(super) fn orientation(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Orientation {
    stated_orientation(exif, xmp).unwrap_or(Orientation::NoTransforms)
}

/// The same, if they state one.
pub(super) fn stated_orientation(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Option<Orientation> {
    let stated = exif
        .and_then(Bytes::of)
        .and_then(|bytes| bytes.value(bytes.u32(4)?, ORIENTATION))
        .or_else(|| xmp.and_then(xmp_orientation));
    stated.and_then(|value| Orientation::from_exif(value.try_into().ok()?))
}

/// Whether a file that begins as TIFF is a raw camera file: DNG, which says so, CR2, or one whose
/// first image is a thumbnail of another one, with a camera's name.
pub(super) fn is_raw(start: &[u8]) -> bool {
    const NEW_SUBFILE_TYPE: u16 = 0x00FE;
    const REDUCED: u32 = 1;
    const SUB_DIRECTORIES: u16 = 0x014A;
    const DNG_VERSION: u16 = 0xC612;
    let Some(bytes) = Bytes::of(start) else {
        return false;
    };
    let Some(main) = bytes.u32(4) else {
        return false;
    };
    let has = |tag: u16| bytes.entry(main, tag).is_some();
    start.get(8..10) == Some(b"CR")
        || has(DNG_VERSION)
        || (bytes.value(main, NEW_SUBFILE_TYPE) == Some(REDUCED)
            && has(SUB_DIRECTORIES)
            && has(MODEL))
}

/// The digit of `tiff:Orientation="6"` or `<tiff:Orientation>6</tiff:Orientation>`.
fn xmp_orientation(xmp: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"tiff:Orientation";
    let mut ends = xmp
        .windows(NAME.len())
        .enumerate()
        .filter(|(_, name)| *name == NAME)
        .map(|(at, _)| at + NAME.len());
    ends.find_map(|end| match xmp.get(end..)? {
        [b'=', b'"', digit @ b'0'..=b'9', ..] | [b'>', digit @ b'0'..=b'9', ..] => {
            Some(u32::from(digit - b'0'))
        }
        _ => None,
    })
}

pub(super) struct Bytes<'a> {
    exif: &'a [u8],
    big_endian: bool,
}

impl<'a> Bytes<'a> {
    /// EXIF data from their TIFF header on. Some writers put before it what belongs only into a
    /// JPEG file's segment.
    pub(super) fn of(exif: &'a [u8]) -> Option<Self> {
        const PREFIX: &[u8] = b"Exif\0\0";
        let exif = exif.strip_prefix(PREFIX).unwrap_or(exif);
        let exif = exif.strip_prefix(PREFIX).unwrap_or(exif);
        let big_endian = match exif.get(..2)? {
            b"MM" => true,
            b"II" => false,
            _ => return None,
        };
        Some(Bytes { exif, big_endian })
    }

    fn u16(&self, at: usize) -> Option<u16> {
        let bytes = *self.exif.get(at..)?.first_chunk()?;
        Some(if self.big_endian {
            u16::from_be_bytes(bytes)
        } else {
            u16::from_le_bytes(bytes)
        })
    }

    pub(super) fn u32(&self, at: usize) -> Option<u32> {
        let bytes = *self.exif.get(at..)?.first_chunk()?;
        Some(if self.big_endian {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        })
    }

    /// The place of the entry that the directory at `directory` has for a tag: a tag, a type, a
    /// count and a value.
    fn entry(&self, directory: u32, tag: u16) -> Option<usize> {
        const ENTRY: usize = 12;
        let directory = usize::try_from(directory).ok()?;
        let count = usize::from(self.u16(directory)?);
        let mut entries = (0..count).map(|index| directory.saturating_add(2 + ENTRY * index));
        entries.find(|entry| self.u16(*entry) == Some(tag))
    }

    /// The one whole number that the directory at `directory` has for a tag.
    pub(super) fn value(&self, directory: u32, tag: u16) -> Option<u32> {
        let entry = self.entry(directory, tag)?;
        if self.u32(entry + 4)? != 1 {
            return None;
        }
        // The TIFF standard's types of 16 and 32 bits, unsigned and signed. Pillow takes bytes for
        // no number.
        match self.u16(entry + 2)? {
            3 | 8 => self.u16(entry + 8).map(u32::from),
            4 | 9 | 13 => self.u32(entry + 8),
            _ => None,
        }
    }

    /// The one byte that the directory at `directory` has for a tag.
    pub(super) fn byte(&self, directory: u32, tag: u16) -> Option<u8> {
        let entry = self.entry(directory, tag)?;
        let is_byte = (self.u16(entry + 2)?, self.u32(entry + 4)?) == (1, 1);
        self.exif.get(entry + 8).copied().filter(|_| is_byte)
    }

    /// The one fraction that the directory at `directory` has for a tag.
    fn rational(&self, directory: u32, tag: u16) -> Option<f64> {
        self.rationals(directory, tag).map(|[value]| value)
    }

    /// The fractions that the directory at `directory` has for a tag.
    pub(super) fn rationals<const COUNT: usize>(
        &self,
        directory: u32,
        tag: u16,
    ) -> Option<[f64; COUNT]> {
        let entry = self.entry(directory, tag)?;
        if self.u16(entry + 2)? != 5 || usize::try_from(self.u32(entry + 4)?).ok()? != COUNT {
            return None;
        }
        let at = usize::try_from(self.u32(entry + 8)?).ok()?;
        let mut values = [0.0; COUNT];
        for (index, value) in values.iter_mut().enumerate() {
            let at = at.checked_add(8 * index)?;
            let (above, below) = (self.u32(at)?, self.u32(at.checked_add(4)?)?);
            *value = (below > 0).then(|| f64::from(above) / f64::from(below))?;
        }
        Some(values)
    }

    /// The text that the directory at `directory` has for a tag.
    pub(super) fn text(&self, directory: u32, tag: u16) -> Option<String> {
        let entry = self.entry(directory, tag)?;
        if self.u16(entry + 2)? != 2 {
            return None;
        }
        let length = usize::try_from(self.u32(entry + 4)?).ok()?;
        // Up to four characters stand in the entry itself.
        let at = match length {
            0..=4 => entry + 8,
            _ => usize::try_from(self.u32(entry + 8)?).ok()?,
        };
        trimmed(self.exif.get(at..)?.get(..length)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EXIF data of either byte order whose second directory has the tag.
    fn exif(big_endian: bool, millimetres: u16) -> Vec<u8> {
        let short = |value: u16| {
            if big_endian {
                value.to_be_bytes()
            } else {
                value.to_le_bytes()
            }
            .to_vec()
        };
        let long = |value: u32| {
            if big_endian {
                value.to_be_bytes()
            } else {
                value.to_le_bytes()
            }
            .to_vec()
        };
        let entry = |tag, kind, value: Vec<u8>| [short(tag), short(kind), long(1), value].concat();
        let first = [short(1), entry(EXIF_DIRECTORY, 4, long(26)), long(0)].concat();
        let value = [short(millimetres), short(0)].concat();
        let second = [
            short(1),
            entry(FOCAL_LENGTH_IN_35_MM_FILM, 3, value),
            long(0),
        ]
        .concat();
        let order = if big_endian { b"MM" } else { b"II" };
        [order.to_vec(), short(42), long(8), first, second].concat()
    }

    #[test]
    fn the_focal_length_is_read_in_either_byte_order_and_zero_is_unknown() {
        for big_endian in [false, true] {
            let focal_35mm = |stated| ExifCamera::of(&exif(big_endian, stated)).focal_35mm;
            assert_eq!(focal_35mm(26), Some(26));
            assert_eq!(focal_35mm(0), None);
        }
    }

    /// EXIF data of either byte order with a camera's name and a focal length of 28/5 mm.
    fn camera(big_endian: bool, name: &[u8]) -> Vec<u8> {
        let number = |value: u32, bytes: usize| {
            if big_endian {
                value.to_be_bytes()[4 - bytes..].to_vec()
            } else {
                value.to_le_bytes()[..bytes].to_vec()
            }
        };
        let entry = |tag: u16, kind: u32, count: usize, value: Vec<u8>| {
            let mut value = value;
            value.resize(4, 0);
            [
                number(tag.into(), 2),
                number(kind, 2),
                number(count as u32, 4),
                value,
            ]
            .concat()
        };
        let stands_apart = name.len() > 4;
        // Header, main directory of two entries, EXIF directory of one, fraction, name.
        let (second, fraction, text) = (8 + 30, 8 + 30 + 18, 8 + 30 + 18 + 8);
        let place = if stands_apart {
            number(text, 4)
        } else {
            name.to_vec()
        };
        let order: &[u8] = if big_endian { b"MM" } else { b"II" };
        [
            order.to_vec(),
            number(42, 2),
            number(8, 4),
            number(2, 2),
            entry(MODEL, 2, name.len(), place),
            entry(EXIF_DIRECTORY, 4, 1, number(second, 4)),
            number(0, 4),
            number(1, 2),
            entry(FOCAL_LENGTH, 5, 1, number(fraction, 4)),
            number(0, 4),
            number(28, 4),
            number(5, 4),
            name.to_vec(),
        ]
        .concat()
    }

    #[test]
    fn the_cameras_name_and_focal_length_are_read_in_either_byte_order() {
        for big_endian in [false, true] {
            for (stated, expected) in [
                (&b"Pixel 7\0"[..], Some("Pixel 7")),
                (b"X2 \0", Some("X2")),
                (b"   \0\0", None),
            ] {
                let found = ExifCamera::of(&camera(big_endian, stated));
                assert_eq!(found.model.as_deref(), expected);
                assert_eq!(found.focal_mm, Some(5.6));
            }
        }
        let whole = camera(false, b"Pixel 7\0");
        for length in 0..whole.len() {
            assert_eq!(ExifCamera::of(&whole[..length]).model, None, "{length}");
        }
    }

    /// EXIF data with an orientation of the given type and value bytes.
    fn turned(kind: u16, value: [u8; 4]) -> Vec<u8> {
        let entry = [
            &ORIENTATION.to_be_bytes()[..],
            &kind.to_be_bytes(),
            &1u32.to_be_bytes(),
            &value,
        ]
        .concat();
        [b"MM\0*\0\0\0\x08\0\x01", &entry[..], &[0; 4]].concat()
    }

    #[test]
    fn orientation_is_read_from_every_integer_type_with_or_without_prefix() {
        let [byte, short, long] = [[6, 0, 0, 0], [0, 6, 0, 0], [0, 0, 0, 6]];
        assert_eq!(
            orientation(Some(&turned(1, byte)), None),
            Orientation::NoTransforms
        );
        for exif in [
            turned(3, short),
            turned(4, long),
            turned(8, short),
            turned(9, long),
        ] {
            for prefix in ["", "Exif\0\0", "Exif\0\0Exif\0\0"] {
                let exif = [prefix.as_bytes(), &exif].concat();
                assert_eq!(
                    orientation(Some(&exif), None),
                    Orientation::Rotate90,
                    "{exif:?}"
                );
            }
        }
        assert_eq!(
            orientation(Some(&turned(3, [0, 9, 0, 0])), None),
            Orientation::NoTransforms
        );
        assert_eq!(
            orientation(Some(&turned(4, [1, 0, 0, 6])), None),
            Orientation::NoTransforms
        );
    }

    #[test]
    fn orientation_of_xmp_counts_only_without_one_of_exif() {
        for xmp in [
            &br#"<a tiff:Orientation="8"/>"#[..],
            b"tiff:Orientation='1'<tiff:Orientation>8</tiff:Orientation>",
        ] {
            assert_eq!(orientation(None, Some(xmp)), Orientation::Rotate270);
            assert_eq!(
                orientation(Some(&exif(true, 26)), Some(xmp)),
                Orientation::Rotate270
            );
            assert_eq!(
                orientation(Some(&turned(3, [0, 6, 0, 0])), Some(xmp)),
                Orientation::Rotate90
            );
        }
        for xmp in [
            &b"tiff:Orientation"[..],
            b"tiff:Orientation=\"",
            b"tiff:Orientation=\"x\"",
            b"exif:Orientation=\"8\"",
        ] {
            assert_eq!(orientation(None, Some(xmp)), Orientation::NoTransforms);
        }
    }

    #[test]
    fn damaged_data_have_no_focal_length() {
        let focal_35mm = |exif: &[u8]| ExifCamera::of(exif).focal_35mm;
        let whole = exif(false, 26);
        // Up to the value itself, which ends 38 bytes from the start.
        assert!((0..38).all(|length| focal_35mm(&whole[..length]).is_none()));
        for at in 4..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] = 0xFF;
            assert_ne!(focal_35mm(&damaged), Some(0));
        }
        assert_eq!(focal_35mm(b"IM"), None);
    }

    #[test]
    fn an_image_of_films_proportions_has_the_focal_length_over_its_width() {
        let camera = ExifCamera {
            focal_35mm: Some(36),
            ..ExifCamera::default()
        };
        let px = camera.focal_px(3600, 2400).unwrap();
        assert!((px - 3600.0).abs() < 1.0, "{px}");
        assert_eq!(camera.focal_px(2400, 3600), Some(px));
    }
}
