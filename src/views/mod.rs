//! Image files to the pixels that a network sees.
//!
//! Decode and turn upright, resize, crop: every step as the networks' reference does it, so that
//! lossless files give exactly the same bytes.

mod decode;
mod exif;
mod framing;
mod gps;
mod jpeg;
mod mask;
pub mod names;
mod orientation;
mod png;
mod remark;
mod resample;
mod tiff;
mod warp;
mod webp;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use image::RgbImage;

pub use decode::Limits;
pub use exif::ExifCamera;
pub use framing::{Crop, Framing, Resolution};
pub use gps::GpsPosition;
pub use mask::Mask;
pub use remark::{Remark, remarks};
pub(crate) use warp::warp;

use crate::error::{Error, Result};

/// An image at a network's size.
#[derive(Clone, Debug)]
pub struct View {
    /// What it is called, unique among views loaded together: see [`names`].
    pub name: String,
    /// Its file, as it was given; the name where there is none.
    pub path: PathBuf,
    /// The pixels, upright, `crop.width` x `crop.height`.
    pub rgb: RgbImage,
    /// Where they lie in the file's image.
    pub crop: Crop,
    /// The pixels that count, if not all do: those that are not transparent, or what else the
    /// caller wants.
    pub mask: Option<Mask>,
    /// What the file's reader should know of it.
    pub remarks: Vec<Remark>,
}

impl View {
    /// A view without a file, all of whose pixels count.
    pub fn new(name: impl Into<String>, rgb: RgbImage, crop: Crop) -> Self {
        let name = name.into();
        Self {
            path: PathBuf::from(&name),
            name,
            rgb,
            crop,
            mask: None,
            remarks: Vec::new(),
        }
    }

    /// A view of upright pixels in memory, such as a frame of a video: resized and cut as
    /// [`load`] does it with a file, so a lossless file of the same pixels gives the same view.
    /// `name` must be unique among the views of a reconstruction.
    ///
    /// # Errors
    ///
    /// [`Error::Input`] for pixels of a shape that `framing` cannot serve; [`Error::Usage`] for a
    /// `framing` that serves no image at all.
    pub fn from_rgb(name: impl Into<String>, rgb: &RgbImage, framing: &Framing) -> Result<Self> {
        let name = name.into();
        framing.check()?;
        let crop = framing
            .place(rgb.width(), rgb.height())
            .map_err(|reason| Error::input(&name, reason))?;
        Ok(Self::new(name, resample::resize(rgb, &crop), crop))
    }

    /// Whether a pixel counts.
    pub fn counts(&self, x: u32, y: u32) -> bool {
        self.mask.as_ref().is_none_or(|mask| mask.keeps(x, y))
    }

    /// Leaves out what another mask leaves out as well.
    pub fn restrict(&mut self, mask: Mask) {
        self.mask = Some(match self.mask.take() {
            Some(own) => own.and(&mask),
            None => mask,
        });
    }
}

/// Loads images, in order, side by side. Each must be within `limits`, and so must those that are
/// decoded at a time.
///
/// They are named by [`names::unique_names`]: `a/1.jpg` and `b/1.jpg` have their folders in their
/// names.
///
/// # Errors
///
/// As for [`load_one`]; of several files that have one, all of them: [`Error::Several`].
pub fn load<P: AsRef<Path>>(paths: &[P], framing: &Framing, limits: &Limits) -> Result<Vec<View>> {
    let paths: Vec<&Path> = paths.iter().map(AsRef::as_ref).collect();
    let budget = Budget::new(limits.max_alloc);
    let next = AtomicUsize::new(0);
    let loaded = Mutex::new((0..paths.len()).map(|_| None).collect::<Vec<_>>());
    // Threads of their own, which may wait: a thread of rayon's that waited could hold up the one
    // that it waits for.
    let take = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(path) = paths.get(at) else { break };
            let view = load_within(path, framing, limits, Some(&budget));
            loaded.lock().unwrap_or_else(PoisonError::into_inner)[at] = Some(view);
        }
    };
    thread::scope(|scope| {
        for _ in 0..rayon::current_num_threads().min(paths.len()) {
            scope.spawn(take);
        }
    });
    let loaded = loaded.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut views = Error::all(loaded.into_iter().flatten())?;
    views
        .iter_mut()
        .zip(names::unique_names(&paths))
        .for_each(|(view, name)| view.name = name);
    Ok(views)
}

/// Bytes that threads share. One that needs more than all of them waits until it is alone.
struct Budget {
    all: u64,
    free: Mutex<u64>,
    freed: Condvar,
}

impl Budget {
    fn new(all: u64) -> Self {
        Self {
            all,
            free: Mutex::new(all),
            freed: Condvar::new(),
        }
    }

    /// Waits until there are so many bytes, and holds them while `work` runs.
    fn within<T>(&self, bytes: u64, work: impl FnOnce() -> T) -> T {
        let bytes = bytes.min(self.all);
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self
            .freed
            .wait_while(free, |free| *free < bytes)
            .unwrap_or_else(PoisonError::into_inner);
        *free -= bytes;
        drop(free);
        let _share = Share {
            budget: self,
            bytes,
        };
        work()
    }
}

/// What a thread holds of a budget, until it is dropped.
struct Share<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        *self
            .budget
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner) += self.bytes;
        self.budget.freed.notify_all();
    }
}

/// From this level of alpha on, of 255, a pixel counts.
const OPAQUE: u8 = 128;

/// Loads one image: decodes it, applies its EXIF orientation, resizes it and cuts the network's
/// box out.
///
/// # Errors
///
/// [`Error::Input`] for a file that is missing, not readable, no image of a known format,
/// damaged, incomplete, above `limits` or of a shape that `framing` cannot serve; [`Error::Usage`]
/// for a `framing` that serves no image at all; [`Error::Io`] when reading itself fails.
pub fn load_one(path: &Path, framing: &Framing, limits: &Limits) -> Result<View> {
    load_within(path, framing, limits, None)
}

fn load_within(
    path: &Path,
    framing: &Framing,
    limits: &Limits,
    budget: Option<&Budget>,
) -> Result<View> {
    let (pixels, crop) = tracing::debug_span!("image_decode").in_scope(|| {
        let image = decode::ImageFile::open(path, limits)?;
        let crop = place(path, &image, framing)?;
        let memory = image.memory();
        let pixels = match budget {
            Some(budget) => budget.within(memory, || image.decode()),
            None => image.decode(),
        };
        Ok::<_, Error>((pixels?, crop))
    })?;
    let _span = tracing::debug_span!("image_resize").entered();
    let name = names::unique_names(&[path]).remove(0);
    let mut view = View::new(name, resample::resize(&pixels.rgb, &crop), crop);
    view.path = path.to_owned();
    view.remarks.extend(
        pixels
            .peak
            .filter(|peak| (1..=remark::DARK).contains(peak))
            .map(Remark::Dark),
    );
    if let Some(alpha) = pixels.alpha {
        if alpha.as_raw().iter().all(|alpha| *alpha == 0) {
            view.remarks.push(Remark::AllTransparent);
        } else {
            let mask = Mask::of_levels(&resample::resize(&alpha, &crop), OPAQUE);
            if mask.kept().contains(&false) {
                view.remarks.push(Remark::Transparent);
                view.mask = Some(mask);
            }
        }
    }
    Ok(view)
}

/// Checks an image without decoding it: it exists, is a readable file of a known format, and its
/// header is within `limits`. Meant for before something expensive.
///
/// # Errors
///
/// As for [`load_one`], as far as the header shows them.
pub fn probe(path: &Path, limits: &Limits) -> Result<()> {
    decode::ImageFile::open(path, limits).map(drop)
}

/// What a file is, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// An image of a format that is read, damaged or not.
    Image,
    /// A file of another kind that is recognised: an image that is not read, a video, a document.
    /// With its article.
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
    File::open(path)?
        .take(decode::START as u64)
        .read_to_end(&mut start)?;
    Ok(match decode::Kind::of(&start, path) {
        decode::Kind::Readable(_) => Content::Image,
        decode::Kind::Foreign(kind) => Content::Foreign(kind),
        decode::Kind::Unknown => Content::Unknown,
    })
}

/// Checks images as [`probe`] does, and how they would be framed where `framing` is given.
///
/// # Errors
///
/// As for [`load_one`], as far as the headers show them; of several files that have one, all of
/// them: [`Error::Several`].
pub fn probe_all<P: AsRef<Path>>(
    paths: &[P],
    framing: Option<&Framing>,
    limits: &Limits,
) -> Result<()> {
    Error::all(paths.iter().map(|path| match framing {
        Some(framing) => framed_size(path.as_ref(), framing, limits).map(drop),
        None => probe(path.as_ref(), limits),
    }))
    .map(drop)
}

/// What the header of an image's file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// Width once upright.
    pub width: u32,
    /// Height once upright.
    pub height: u32,
    /// Whether it is stored upright, so that its pixels are right for a reader that knows nothing
    /// of EXIF.
    pub stored_upright: bool,
    /// Whether it is a JPEG file.
    pub is_jpeg: bool,
}

/// Reads an image's header.
///
/// # Errors
///
/// As for [`load_one`], as far as the header shows them.
pub fn file_header(path: &Path, limits: &Limits) -> Result<FileHeader> {
    decode::ImageFile::open(path, limits).map(|image| image.file_header())
}

/// What an image's EXIF data say of the camera that took it.
///
/// # Errors
///
/// As for [`load_one`], as far as the header shows them.
pub fn exif_camera(path: &Path, limits: &Limits) -> Result<ExifCamera> {
    decode::ImageFile::open(path, limits).map(|image| image.exif_camera().clone())
}

/// Where an image was taken, if its EXIF data say so; those of TIFF files are not looked at.
///
/// # Errors
///
/// As for [`load_one`], as far as the header shows them.
pub fn gps_position(path: &Path, limits: &Limits) -> Result<Option<GpsPosition>> {
    decode::ImageFile::open(path, limits).map(|image| image.gps_position())
}

/// Decodes a whole image and turns it upright. Alpha is left out.
///
/// # Errors
///
/// As for [`load_one`], but for those of framing.
pub fn load_whole(path: &Path, limits: &Limits) -> Result<RgbImage> {
    decode::ImageFile::open(path, limits)?
        .decode()
        .map(|pixels| pixels.rgb)
}

/// How an image would be framed, from its header alone.
///
/// # Errors
///
/// As for [`load_one`], as far as the header shows them.
pub fn framed_size(path: &Path, framing: &Framing, limits: &Limits) -> Result<Crop> {
    place(path, &decode::ImageFile::open(path, limits)?, framing)
}

fn place(path: &Path, image: &decode::ImageFile, framing: &Framing) -> Result<Crop> {
    framing.check()?;
    let (width, height) = image.upright_size();
    framing
        .place(width, height)
        .map_err(|reason| Error::input(path, reason))
}
