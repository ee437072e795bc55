//! Image files, what EXIF says in each container, and masks.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use mast3r::views::{self, Content, Framing, Limits, Mask, Resize, Resolution, Source, View};

use crate::scratch;

/// Small, so that an input is decoded within milliseconds.
const LIMITS: Limits = Limits {
    max_width: 4096,
    max_height: 4096,
    max_pixels: 1 << 18,
    max_alloc: 32 << 20,
};
/// What is promised of decoding, and as much again for what the files themselves and the framed
/// image take.
pub const MEMORY: usize = 2 * LIMITS.max_alloc as usize;

const FRAMING: Framing = Framing {
    resolution: Resolution::LongSide(48),
    patch: 16,
    resize: Resize::Pillow,
    square_allowed: true,
    square_at_224: false,
};

/// Whether the pixels of a file are decoded by an outside program: only its description is read
/// here. All such files begin with a box that states a brand.
fn is_for_others(data: &[u8]) -> bool {
    data.get(4..8) == Some(b"ftyp")
}

/// A file of any format, or the preview in a raw file.
pub fn image(data: &[u8]) {
    let path = scratch::write("image", data);
    let is_raw = matches!(views::content(&path), Ok(Content::Raw));
    let path = if is_raw {
        Source::Preview(path).path()
    } else {
        path
    };
    let header = views::file_header(&path, &LIMITS);
    assert_eq!(views::probe(&path, &LIMITS).is_ok(), header.is_ok());
    if is_for_others(data) && !is_raw {
        let _ = views::exif_camera(&path, &LIMITS);
        return;
    }
    let pixels = views::load_whole(&path, &LIMITS);
    if let Err(error) = &pixels {
        // A panic becomes an error; those of outside decoders, with overflow checks that they do
        // not expect, are theirs.
        let message = error.to_string();
        let own = ["JPEG", "TIFF"]
            .iter()
            .any(|name| message.contains(&format!("the {name} decoder fails")));
        assert!(!own, "{message}");
    }
    let framed = views::load_one(&path, &FRAMING, &LIMITS);
    let Ok(header) = header else {
        assert!(
            pixels.is_err() && framed.is_err(),
            "an image whose header is refused was decoded"
        );
        return;
    };
    if let Ok(camera) = views::exif_camera(&path, &LIMITS) {
        let focals = [
            camera.focal_px(header.width, header.height),
            camera.focal_mm,
        ];
        assert!(
            focals
                .iter()
                .flatten()
                .all(|focal| focal.is_finite() && *focal > 0.0),
            "focal lengths {focals:?}"
        );
    }
    if let Ok(pixels) = &pixels {
        assert_eq!(pixels.dimensions(), (header.width, header.height));
    }
    if let Ok(view) = framed {
        let whole = pixels.expect("an image that is framed is decoded first");
        assert_eq!(view.rgb.dimensions(), (view.crop.width, view.crop.height));
        assert_eq!(
            whole.dimensions(),
            (view.crop.file_width, view.crop.file_height)
        );
        assert_eq!(
            views::framed_size(&path, &FRAMING, &LIMITS).expect("it was framed"),
            view.crop
        );
    }
}

/// The same EXIF data in a JPEG, a PNG and a WebP file; the three must be turned and measured
/// alike.
pub fn exif(data: &[u8]) {
    // A JPEG segment says its length in 16 bits.
    let exif = &data[..data.len().min(60_000)];
    let read = |name: &str, bytes: Vec<u8>| {
        let path = scratch::write(name, &bytes);
        let header =
            views::file_header(&path, &LIMITS).expect("EXIF data do not make an image unreadable");
        let camera = views::exif_camera(&path, &LIMITS).expect("the header was read");
        (header.width, header.height, header.stored_upright, camera)
    };
    let jpeg = read("exif.jpg", in_jpeg(exif));
    let png = read("exif.png", in_png(exif));
    let webp = read("exif.webp", in_webp(exif));
    assert_eq!(jpeg, png, "JPEG and PNG");
    assert_eq!(png, webp, "PNG and WebP");
}

/// The mask of an image of 48 x 32 pixels.
pub fn mask(data: &[u8]) {
    static VIEW: OnceLock<View> = OnceLock::new();
    let view = VIEW.get_or_init(|| {
        let path = scratch::write("view.bmp", &bmp(48, 32));
        views::load_one(&path, &FRAMING, &LIMITS).expect("a plain image")
    });
    if is_for_others(data) {
        return;
    }
    let path = scratch::write("mask", data);
    if let Ok(mask) = Mask::load(&path, view, &FRAMING, &LIMITS) {
        let (width, height) = view.rgb.dimensions();
        assert_eq!(mask.kept().len(), (width * height) as usize);
        for (index, &kept) in (0..).zip(mask.kept()) {
            assert_eq!(mask.keeps(index % width, index / width), kept);
        }
        assert!(!mask.keeps(width, 0) && !mask.keeps(0, height));
    }
}

/// Views of the images `a.jpg`, `left/0.png` and `right/0.png`, for what knows images by their
/// names.
pub fn named_views() -> &'static [View] {
    static VIEWS: OnceLock<Vec<View>> = OnceLock::new();
    VIEWS.get_or_init(|| load(&["views/a.jpg", "views/left/0.png", "views/right/0.png"]))
}

/// Views of images that are named after the times at which they were taken.
pub fn timed_views() -> &'static [View] {
    static VIEWS: OnceLock<Vec<View>> = OnceLock::new();
    VIEWS.get_or_init(|| {
        load(&[
            "times/1403636579.763555584.png",
            "times/1403636579.813555456.png",
        ])
    })
}

/// The paths of images that a list may name, two of them with one file name and one with a space.
pub fn named_paths() -> Vec<PathBuf> {
    ["a.jpg", "left/0.png", "right/0.png", "with space.png"]
        .map(|name| Path::new("views").join(name))
        .to_vec()
}

fn load(names: &[&str]) -> Vec<View> {
    let paths: Vec<PathBuf> = names
        .iter()
        .map(|name| scratch::write(name, &bmp(96, 64)))
        .collect();
    views::load(&paths, &FRAMING, &LIMITS).expect("plain images")
}

/// A grey BMP; images are recognised by content, so it serves under any name.
fn bmp(width: u32, height: u32) -> Vec<u8> {
    let row = (width * 3).next_multiple_of(4);
    let size = 54 + row * height;
    let header = [
        &b"BM"[..],
        &size.to_le_bytes(),
        &[0; 4],
        &54u32.to_le_bytes(),
    ]
    .concat();
    let info = [
        40u32,
        width,
        height,
        1 | 24 << 16,
        0,
        row * height,
        2835,
        2835,
        0,
        0,
    ]
    .map(u32::to_le_bytes)
    .concat();
    [header, info, vec![128; (row * height) as usize]].concat()
}

/// The JPEG of the seeds with `exif` in its first segment.
fn in_jpeg(exif: &[u8]) -> Vec<u8> {
    const PLAIN: &[u8] = include_bytes!("../../seeds/images/plain.jpg");
    let length = (2 + 6 + exif.len()) as u16;
    [
        &PLAIN[..2],
        b"\xff\xe1",
        &length.to_be_bytes(),
        b"Exif\0\0",
        exif,
        &PLAIN[2..],
    ]
    .concat()
}

/// The PNG of the seeds with `exif` before its pixels.
fn in_png(exif: &[u8]) -> Vec<u8> {
    const PLAIN: &[u8] = include_bytes!("../../seeds/images/plain.png");
    // Behind the signature and IHDR.
    let (start, rest) = PLAIN.split_at(8 + 25);
    let chunk = [b"eXIf", exif].concat();
    let length = (exif.len() as u32).to_be_bytes();
    [
        start,
        &length,
        &chunk,
        &crc32fast::hash(&chunk).to_be_bytes(),
        rest,
    ]
    .concat()
}

/// The lossless WebP of the seeds in an extended container with `exif` behind its pixels.
fn in_webp(exif: &[u8]) -> Vec<u8> {
    const PLAIN: &[u8] = include_bytes!("../../seeds/images/plain.webp");
    const HAS_EXIF: u8 = 8;
    let pixels = &PLAIN[12..];
    // The size of the canvas less one, 24 bits each.
    let extended = [HAS_EXIF, 0, 0, 0, 15, 0, 0, 7, 0, 0];
    let chunk = |name: &[u8], content: &[u8]| {
        let padding = &[0][..content.len() % 2];
        [
            name,
            &(content.len() as u32).to_le_bytes(),
            content,
            padding,
        ]
        .concat()
    };
    let content = [
        b"WEBP",
        &chunk(b"VP8X", &extended)[..],
        pixels,
        &chunk(b"EXIF", exif),
    ]
    .concat();
    [b"RIFF", &(content.len() as u32).to_le_bytes()[..], &content].concat()
}
