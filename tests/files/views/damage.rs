//! Files that were cut short or damaged.

use super::*;

/// Small files of every format, and of the kinds of each that take another way through its decoder.
fn specimens() -> Vec<(&'static str, Vec<u8>)> {
    let image = drawing(40, 30);
    let grey = DynamicImage::from(image.to_luma8());
    let deep = DynamicImage::from(image.to_rgba16());
    vec![
        ("baseline JPEG", encoded(&image, ImageFormat::Jpeg)),
        ("JPEG with EXIF", committed("exif_6.jpg")),
        ("CMYK JPEG", committed("cmyk.jpg")),
        ("progressive JPEG", committed("grey_progressive.jpg")),
        ("PNG", encoded(&image, ImageFormat::Png)),
        ("grey PNG", encoded(&grey, ImageFormat::Png)),
        ("16-bit PNG", encoded(&deep, ImageFormat::Png)),
        ("palette PNG", committed("one_bit.png")),
        ("lossless WebP", committed("lossless_exif_7.webp")),
        ("TIFF", encoded(&grey, ImageFormat::Tiff)),
        ("deflated TIFF", committed("deflate.tif")),
        ("BMP", encoded(&image, ImageFormat::Bmp)),
    ]
}

/// A file that was cut short must not pass for an image: it is refused, or what is missing was not
/// part of it.
#[test]
fn cut_files_are_refused_or_complete() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, bytes) in specimens() {
        let whole = load(&write(folder.path(), "whole", &bytes))
            .unwrap_or_else(|error| panic!("{kind}: {error}"));
        for part in 1..60 {
            let length = bytes.len() * part / 60;
            if let Ok(view) = load(&write(folder.path(), "cut", &bytes[..length])) {
                assert_eq!(
                    view.rgb,
                    whole.rgb,
                    "{kind}: {length} of {} bytes passed",
                    bytes.len()
                );
            }
        }
    }
}

/// Whatever the bytes, there is an image or an error that names the file.
#[test]
fn damaged_files_never_bring_it_down() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits {
        max_width: 4096,
        max_height: 4096,
        max_pixels: 1 << 18,
        max_alloc: 16 << 20,
    };
    // A linear congruential generator (Knuth's MMIX constants): the same damage on every machine.
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for (kind, bytes) in specimens() {
        for _ in 0..250 {
            let mut bytes = bytes.clone();
            for _ in 0..=random(4) {
                // Headers are where decoders decide: half of the hits go there.
                let reach = if random(2) == 0 {
                    bytes.len().min(80)
                } else {
                    bytes.len()
                };
                let at = random(reach);
                match random(4) {
                    0 => bytes[at] = random(256) as u8,
                    1 => bytes[at] ^= 1 << random(8),
                    2 => bytes[at] = [0, 0xFF, 0x7F, 0x80][random(4)],
                    _ => drop(bytes.splice(at..(at + random(8)).min(bytes.len()), [0xFF; 3])),
                }
            }
            let path = write(folder.path(), "damaged", &bytes);
            match views::load_one(&path, &FRAMING, &limits) {
                Ok(view) => assert_eq!(view.rgb.dimensions(), (view.crop.width, view.crop.height)),
                Err(error) => assert!(error.to_string().contains("damaged: "), "{kind}: {error}"),
            }
        }
    }
}

#[test]
fn a_webp_file_cannot_claim_more_than_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let plain = encoded(&drawing(16, 8), ImageFormat::WebP);
    let extended = |canvas: [u8; 2], exif: &[u8]| {
        let canvas = [
            b"VP8X\x0a\0\0\0\x08\0\0\0",
            &[canvas[0], 0, 0, canvas[1], 0, 0][..],
        ]
        .concat();
        let content = [b"WEBP", &canvas[..], &plain[12..], exif].concat();
        [b"RIFF", &(content.len() as u32).to_le_bytes()[..], &content].concat()
    };
    let whole = write(
        folder.path(),
        "whole.webp",
        &extended([15, 7], b"EXIF\x04\0\0\0II*\0"),
    );
    load(&whole).unwrap();
    // A gigabyte of EXIF data, and a frame beyond its canvas: found by fuzzing, which took the
    // memory for both.
    let lying = write(
        folder.path(),
        "exif.webp",
        &extended([15, 7], b"EXIF\x18\0\x22\x3eII*\0"),
    );
    assert!(
        refusal(&lying).contains("it ends too early"),
        "{}",
        refusal(&lying)
    );
    let larger = write(folder.path(), "frame.webp", &extended([7, 3], b""));
    assert!(
        refusal(&larger).contains("a frame of 16x8 pixels in an image of 8x4"),
        "{}",
        refusal(&larger)
    );
}
