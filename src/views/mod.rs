//! Picture files to the pixels that a network sees.
//!
//! Decode and turn upright, resize, crop: every step as the networks' reference does it, so that lossless files give
//! exactly the same bytes.

mod decode;
mod exif;
mod framing;
mod jpeg;
mod mask;
pub mod names;
mod orientation;
mod resample;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use image::RgbImage;
use rayon::prelude::*;

pub use decode::Limits;
pub use framing::{Crop, Framing, Resolution};
pub use mask::Mask;

use crate::error::{Error, Result};

/// A picture at a network's size.
#[derive(Clone, Debug)]
pub struct View {
    /// What it is called, unique among views loaded together: see [`names`].
    pub name: String,
    /// Its file, as it was given; the name where there is none.
    pub path: PathBuf,
    /// The pixels, upright, `crop.width` x `crop.height`.
    pub rgb: RgbImage,
    /// Where they lie in the file's picture.
    pub crop: Crop,
}

/// Loads pictures, in order. Each must be within `limits`.
///
/// They are named by [`names::unique_names`]: `a/1.jpg` and `b/1.jpg` have their folders in their names.
///
/// # Errors
///
/// As for [`load_one`], of the first file that has any.
pub fn load<P: AsRef<Path>>(paths: &[P], framing: &Framing, limits: &Limits) -> Result<Vec<View>> {
    let paths: Vec<&Path> = paths.iter().map(AsRef::as_ref).collect();
    let loaded: Vec<Result<View>> = paths.par_iter().map(|path| load_one(path, framing, limits)).collect();
    let mut views = loaded.into_iter().collect::<Result<Vec<View>>>()?;
    views.iter_mut().zip(names::unique_names(&paths)).for_each(|(view, name)| view.name = name);
    Ok(views)
}

/// Loads one picture: decodes it, applies its EXIF orientation, resizes it and cuts the network's box out.
///
/// # Errors
///
/// [`Error::Input`] for a file that is missing, not readable, no picture of a known format, damaged, incomplete,
/// above `limits` or of a shape that `framing` cannot serve; [`Error::Usage`] for a `framing` that serves no picture
/// at all; [`Error::Io`] when reading itself fails.
pub fn load_one(path: &Path, framing: &Framing, limits: &Limits) -> Result<View> {
    let (decoded, crop) = tracing::debug_span!("picture_decode").in_scope(|| {
        let picture = decode::Picture::open(path, limits)?;
        let crop = place(path, &picture, framing)?;
        Ok::<_, Error>((picture.decode()?, crop))
    })?;
    let rgb = tracing::debug_span!("picture_resize").in_scope(|| resample::resize(&decoded, &crop));
    let name = names::unique_names(&[path]).remove(0);
    Ok(View { name, path: path.to_owned(), rgb, crop })
}

/// Checks a picture without decoding it: it exists, is a readable file of a known format, and its header is within
/// `limits`. Meant for before something expensive.
///
/// # Errors
///
/// As for [`load_one`], as far as the header shows them.
pub fn probe(path: &Path, limits: &Limits) -> Result<()> {
    decode::Picture::open(path, limits).map(drop)
}

/// What a file is, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// An image of a format that is read, damaged or not.
    Image,
    /// A file of another kind that is recognised: an image that is not read, a video, a document. With its article.
    Foreign(&'static str),
    /// None of these.
    Unknown,
}

/// Looks at a file's first bytes.
///
/// # Errors
/// Those of opening and reading the file.
pub fn content(path: &Path) -> io::Result<Content> {
    let mut start = Vec::with_capacity(decode::START);
    File::open(path)?.take(decode::START as u64).read_to_end(&mut start)?;
    Ok(match decode::Kind::of(&start, path) {
        decode::Kind::Readable(_) => Content::Image,
        decode::Kind::Foreign(kind) => Content::Foreign(kind),
        decode::Kind::Unknown => Content::Unknown,
    })
}

/// What the header of a picture's file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// Width once upright.
    pub width: u32,
    /// Height once upright.
    pub height: u32,
    /// Whether it is stored upright, so that its pixels are right for a reader that knows nothing of EXIF.
    pub stored_upright: bool,
    /// Whether it is a JPEG file.
    pub is_jpeg: bool,
}

/// Reads a picture's header.
///
/// # Errors
///
/// As for [`load_one`], as far as the header shows them.
pub fn file_header(path: &Path, limits: &Limits) -> Result<FileHeader> {
    decode::Picture::open(path, limits).map(|picture| picture.file_header())
}

/// The focal length that a picture's EXIF states, pixels of the file: of a lens with the same angle along the diagonal on
/// 35 mm film, whose diagonal is 43.27 mm. Wrong of a picture that was cut since.
///
/// # Errors
///
/// As for [`load_one`], as far as the header shows them.
pub fn exif_focal(path: &Path, limits: &Limits) -> Result<Option<f64>> {
    decode::Picture::open(path, limits).map(|picture| picture.exif_focal())
}

/// Decodes a whole picture and turns it upright.
///
/// # Errors
///
/// As for [`load_one`], but for those of framing.
pub fn load_whole(path: &Path, limits: &Limits) -> Result<RgbImage> {
    decode::Picture::open(path, limits)?.decode()
}

/// How a picture would be framed, from its header alone.
///
/// # Errors
///
/// As for [`load_one`], as far as the header shows them.
pub fn framed_size(path: &Path, framing: &Framing, limits: &Limits) -> Result<Crop> {
    place(path, &decode::Picture::open(path, limits)?, framing)
}

fn place(path: &Path, picture: &decode::Picture, framing: &Framing) -> Result<Crop> {
    framing.check()?;
    let (width, height) = picture.upright_size();
    framing.place(width, height).map_err(|reason| Error::input(path, reason))
}
