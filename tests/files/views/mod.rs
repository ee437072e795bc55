//! Loading images through the public interface: what is refused and how, and that no bytes bring
//! it down.

mod damage;
mod decoding;
mod pixels;
mod refusals;

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::codecs::webp::WebPEncoder;
use image::{
    DynamicImage, GrayImage, ImageBuffer, ImageEncoder, ImageFormat, Luma, Rgb, RgbImage, Rgba,
    RgbaImage,
};
use mast3r::views::{self, Framing, Limits, Mask, Resize, Resolution, View};
use mast3r::{Error, ErrorKind};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

const FRAMING: Framing = Framing {
    resolution: Resolution::LongSide(48),
    patch: 16,
    resize: Resize::Pillow,
    square_allowed: true,
    square_at_224: true,
};

fn load(path: &Path) -> Result<View, Error> {
    views::load_one(path, &FRAMING, &Limits::default())
}

/// The message of a file's refusal, without its path, after checking that the cheap check refuses
/// it alike.
fn refusal(path: &Path) -> String {
    let error = load(path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input, "{error}");
    let message = error.to_string();
    assert_eq!(
        views::probe(path, &Limits::default())
            .unwrap_err()
            .to_string(),
        message
    );
    message
        .strip_prefix(&format!("{}: ", path.display()))
        .expect("the path comes first")
        .to_owned()
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    // Never written over: some file systems flush to disk a file that is cut to nothing and filled
    // again.
    drop(fs::remove_file(&path));
    fs::write(&path, bytes).unwrap();
    path
}

fn committed(name: &str) -> Vec<u8> {
    fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/images")
            .join(name),
    )
    .unwrap()
}

fn drawing(width: u32, height: u32) -> DynamicImage {
    RgbImage::from_fn(width, height, |x, y| {
        Rgb([(x * 7) as u8, (y * 9) as u8, (x * y) as u8])
    })
    .into()
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// The start of an EXIF block: little-endian, one entry, the orientation.
fn exif(orientation: u8) -> Vec<u8> {
    [
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0",
        &[orientation, 0, 0, 0][..],
        &[0; 4],
    ]
    .concat()
}
