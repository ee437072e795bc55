//! Image files to the pixels that a network sees.
//!
//! Decode and turn upright, resize, crop: every step as the networks' reference does it, so that
//! lossless files give exactly the same bytes.

mod content;
mod converter;
mod decode;
mod exif;
mod framing;
mod gps;
mod header;
mod heif;
mod jpeg;
mod mask;
pub mod names;
mod opencv;
mod orientation;
mod png;
mod raw;
mod remark;
mod resample;
mod source;
mod tiff;
pub mod video;
mod warp;
mod webp;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use image::{ImageBuffer, Rgb, RgbImage};

pub use exif::ExifCamera;
pub use framing::{Crop, Framing, Resize, Resolution};
pub use gps::GpsPosition;
pub use header::Limits;
pub use mask::Mask;
pub(crate) use opencv::cubic_kernel;
pub use remark::{Remark, remarks};
pub use source::Source;
use video::Video;
pub(crate) use warp::warp;

use crate::buffer::Buffer;
use crate::error::{Error, Result};
use content::{Kind, START};

/// The colours of an image, sRGB, which may be in a temporary file. [`pixels`] makes them of an image
/// in memory, and [`ConvertBuffer`](image::buffer::ConvertBuffer) an image in memory of them.
pub type Pixels = ImageBuffer<Rgb<u8>, Buffer<u8>>;

/// An image in memory as [`Pixels`].
pub fn pixels(rgb: RgbImage) -> Pixels {
    let (width, height) = rgb.dimensions();
    within(width, height, rgb.into_raw().into())
}

/// Pixels of three bytes each.
pub(crate) fn within(width: u32, height: u32, bytes: Buffer<u8>) -> Pixels {
    Pixels::from_raw(width, height, bytes).expect("there are three bytes a pixel")
}

/// An image at a network's size.
#[derive(Clone, Debug)]
pub struct View {
    /// What it is called, unique among views loaded together: see [`names`].
    pub name: String,
    /// Its file, as it was given; the name where there is none.
    pub path: PathBuf,
    /// The pixels, upright, `crop.width` x `crop.height`.
    pub rgb: Pixels,
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
        Self::of_pixels(name.into(), pixels(rgb), crop)
    }

    /// The same of pixels that may be in a temporary file.
    pub(crate) fn of_pixels(name: String, rgb: Pixels, crop: Crop) -> Self {
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
        Ok(Self::new(name, framed(rgb, &crop, framing), crop))
    }

    /// Whether a pixel counts.
    pub fn counts(&self, x: u32, y: u32) -> bool {
        self.mask.as_ref().is_none_or(|mask| mask.keeps(x, y))
    }

    /// Lets transparent pixels count, where transparency alone masks the view.
    pub fn ignore_alpha(&mut self) {
        if self.remarks.contains(&Remark::Transparent) {
            self.remarks.retain(|remark| *remark != Remark::Transparent);
            self.mask = None;
        }
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
    let mut views = side_by_side(
        &paths,
        limits,
        |path| load_within(path, framing, limits, Some(&budget)),
        |path, frame| {
            let crop = place(path, [frame.width(), frame.height()], framing)?;
            Ok(view_of(path, &frame, crop, framing))
        },
    )?;
    views
        .iter_mut()
        .zip(names::unique_names(&paths))
        .for_each(|(view, name)| view.name = name);
    Ok(views)
}

/// Decodes whole images and turns them upright, in order, side by side. Alpha is left out. The
/// frames of one video are decoded together.
///
/// # Errors
///
/// As for [`load`], but for those of framing.
pub fn load_whole_all<P: AsRef<Path>>(paths: &[P], limits: &Limits) -> Result<Vec<RgbImage>> {
    let paths: Vec<&Path> = paths.iter().map(AsRef::as_ref).collect();
    let budget = Budget::new(limits.max_alloc);
    let file = |path: &Path| {
        let image = open(path, limits)?;
        let pixels = budget.within(image.memory(), || image.decode())?;
        Ok(pixels.rgb)
    };
    side_by_side(&paths, limits, file, |_, frame| Ok(frame))
}

/// What is decoded by itself.
enum Job {
    /// An image file, by its index.
    File(usize),
    /// Frames of a video, by their indices.
    Frames(PathBuf, Vec<usize>, Vec<Duration>),
}

/// What `file` makes of image files and `frame` of frames of videos, in the order of `paths`.
fn side_by_side<T: Send>(
    paths: &[&Path],
    limits: &Limits,
    file: impl Fn(&Path) -> Result<T> + Sync,
    frame: impl Fn(&Path, RgbImage) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let mut jobs = Vec::new();
    let mut job_of = HashMap::new();
    for (at, path) in paths.iter().enumerate() {
        match Source::of(path) {
            Source::Frame { video, time } => {
                let job = *job_of.entry(video.clone()).or_insert(jobs.len());
                if job == jobs.len() {
                    jobs.push(Job::Frames(video, Vec::new(), Vec::new()));
                }
                if let Job::Frames(_, indices, times) = &mut jobs[job] {
                    indices.push(at);
                    times.push(time);
                }
            }
            _ => jobs.push(Job::File(at)),
        }
    }
    let next = AtomicUsize::new(0);
    let loaded = Mutex::new((0..paths.len()).map(|_| None).collect::<Vec<_>>());
    let keep = |at: usize, result: Result<T>| {
        loaded.lock().unwrap_or_else(PoisonError::into_inner)[at] = Some(result);
    };
    // Threads of their own, which may wait: a thread of rayon's that waited could hold up the one
    // that it waits for.
    let take = || {
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            match job {
                Job::File(at) => keep(*at, file(paths[*at])),
                Job::Frames(video, indices, times) => {
                    let mut give = |at: usize, pixels| {
                        let at = indices[at];
                        keep(at, Ok(frame(paths[at], pixels)?));
                        Ok(())
                    };
                    let decoded = Video::known(video, limits)
                        .and_then(|video| video.frames(times, &mut give));
                    // One error for all frames of the video.
                    if let Err(error) = decoded {
                        keep(indices[0], Err(error));
                    }
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..rayon::current_num_threads().min(jobs.len()) {
            scope.spawn(take);
        }
    });
    let loaded = loaded.into_inner().unwrap_or_else(PoisonError::into_inner);
    Error::all(loaded.into_iter().flatten())
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
    match Source::of(path) {
        Source::File(_) | Source::Preview(_) => load_within(path, framing, limits, None),
        Source::Frame { .. } => load(&[path], framing, limits).map(|mut views| views.remove(0)),
    }
}

fn load_within(
    path: &Path,
    framing: &Framing,
    limits: &Limits,
    budget: Option<&Budget>,
) -> Result<View> {
    let (pixels, crop) = tracing::debug_span!("image_decode").in_scope(|| {
        let image = open(path, limits)?;
        let crop = place(path, image.upright_size().into(), framing)?;
        let memory = image.memory();
        let pixels = match budget {
            Some(budget) => budget.within(memory, || image.decode()),
            None => image.decode(),
        };
        Ok::<_, Error>((pixels?, crop))
    })?;
    let _span = tracing::debug_span!("image_resize").entered();
    let mut view = view_of(path, &pixels.rgb, crop, framing);
    view.remarks.extend(
        pixels
            .peak
            .filter(|peak| (1..=remark::DARK).contains(peak))
            .map(Remark::Dark),
    );
    view.remarks
        .extend(pixels.decoded_by.map(Remark::DecodedBy));
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

/// Opens an image file, or the preview in a raw file.
fn open(path: &Path, limits: &Limits) -> Result<decode::ImageFile> {
    match Source::of(path) {
        Source::Preview(raw) => decode::ImageFile::open_preview(&raw, limits),
        _ => decode::ImageFile::open(path, limits),
    }
}

/// A view of the upright pixels of an image.
fn view_of(path: &Path, rgb: &RgbImage, crop: Crop, framing: &Framing) -> View {
    let name = names::unique_names(&[path]).remove(0);
    let mut view = View::new(name, framed(rgb, &crop, framing), crop);
    view.path = path.to_owned();
    view
}

/// The pixels of the box of `crop`, which `framing` placed, resized as its network's reference does.
fn framed(rgb: &RgbImage, crop: &Crop, framing: &Framing) -> RgbImage {
    match framing.resize {
        Resize::Pillow => resample::resize(rgb, crop),
        Resize::OpenCv => opencv::resize(rgb, crop, framing),
    }
}

/// Checks an image without decoding it: it exists, is a readable file of a known format, and its
/// header is within `limits`. Meant for before something expensive.
///
/// # Errors
///
/// As for [`load_one`], as far as the header shows them.
pub fn probe(path: &Path, limits: &Limits) -> Result<()> {
    file_header(path, limits).map(drop)
}

/// What a file is, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// An image of a format that is read, damaged or not.
    Image,
    /// A video, or audio in a container of videos: [`video::Video`] reads it.
    Video,
    /// A raw camera file, of which only the preview is read, see [`Source::Preview`].
    Raw,
    /// A file of another kind that is recognised: an image that is not read, a document.
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
    let mut start = Vec::with_capacity(START);
    File::open(path)?
        .take(START as u64)
        .read_to_end(&mut start)?;
    Ok(match Kind::of(&start, path) {
        Kind::Readable(_) => Content::Image,
        Kind::Video(_) => Content::Video,
        Kind::Raw => Content::Raw,
        Kind::Foreign(kind) => Content::Foreign(kind),
        Kind::Unknown => Content::Unknown,
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
    /// Whether it is a file of its own that is stored upright, so that its pixels are right for a
    /// reader that knows nothing of EXIF.
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
    match Source::of(path) {
        Source::Frame { video, .. } => {
            let [width, height] = Video::known(&video, limits)?.size();
            Ok(FileHeader {
                width,
                height,
                stored_upright: false,
                is_jpeg: false,
            })
        }
        _ => open(path, limits).map(|image| image.file_header()),
    }
}

/// What an image's EXIF data say of the camera that took it. The frames of a video are of one
/// camera, which is named after the video, and whose focal length is not known.
///
/// # Errors
///
/// As for [`load_one`], as far as the header shows them.
pub fn exif_camera(path: &Path, limits: &Limits) -> Result<ExifCamera> {
    match Source::of(path) {
        Source::Frame { video, .. } => Ok(ExifCamera {
            model: Some(format!("video {}", video.display())),
            ..ExifCamera::default()
        }),
        _ => open(path, limits).map(|image| image.exif_camera().clone()),
    }
}

/// Where an image was taken, if its EXIF data say so; those of TIFF files are not looked at.
///
/// # Errors
///
/// As for [`load_one`], as far as the header shows them.
pub fn gps_position(path: &Path, limits: &Limits) -> Result<Option<GpsPosition>> {
    match Source::of(path) {
        Source::Frame { .. } => Ok(None),
        _ => open(path, limits).map(|image| image.gps_position()),
    }
}

/// Decodes a whole image and turns it upright. Alpha is left out.
///
/// # Errors
///
/// As for [`load_one`], but for those of framing.
pub fn load_whole(path: &Path, limits: &Limits) -> Result<RgbImage> {
    load_whole_all(&[path], limits).map(|mut images| images.remove(0))
}

/// How an image would be framed, from its header alone.
///
/// # Errors
///
/// As for [`load_one`], as far as the header shows them.
pub fn framed_size(path: &Path, framing: &Framing, limits: &Limits) -> Result<Crop> {
    let FileHeader { width, height, .. } = file_header(path, limits)?;
    place(path, [width, height], framing)
}

fn place(path: &Path, [width, height]: [u32; 2], framing: &Framing) -> Result<Crop> {
    framing.check()?;
    framing
        .place(width, height)
        .map_err(|reason| Error::input(path, reason))
}
