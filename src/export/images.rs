//! The images of a scene beside a model that other programs go on from, and the cameras at those
//! images' size.

use std::borrow::Cow;
use std::io::{self, Write};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageBuffer, ImageEncoder as _, Rgb};
use nalgebra::Vector3;

use super::depth::write_rgb_png;
use crate::error::{Error, Result};
use crate::files::refuse;
use crate::files::{OCCUPIED, OutputFolder, Placing};
use crate::formats::PosedImage;
use crate::formats::cameras::at_file;
use crate::geometry::{Camera, Intrinsics, Lens};
use crate::scene::{Scene, SceneView};
use crate::views::names::{distinct_names, distinct_stems, unique_names, with_extension};
use crate::views::{self, FileHeader, Limits, Pixels};

/// Quality of JPEG files that are written anew: the next to invisible loss is less than that of a
/// camera's own.
const QUALITY: u8 = 95;
/// Why an image that is written anew does not replace the file that it is made of.
const OWN_SOURCE: &str =
    "the image itself is there, and what is written of it would have its name; name another folder";

/// Where the images beside a model come from.
#[derive(Clone, Debug, Default)]
pub enum Images {
    /// From the scene, as PNG: cameras are those of the size that the network saw.
    #[default]
    OfScene,
    /// From the files that the scene was made of: cameras are those of the files' size.
    ///
    /// A file that is stored on its side or mirrored, with an EXIF orientation that says so, is
    /// written upright instead, JPEG as JPEG and all others as PNG: some programs heed the
    /// orientation and some do not, so only an image that has none is the same to all. A frame of a
    /// video is written as PNG.
    Files {
        /// Their names beside the model, paths with `/` between their parts: those of the scene's
        /// views, in order.
        names: Vec<String>,
        /// The files, one for each name.
        paths: Vec<PathBuf>,
        /// How a file that is stored upright gets there.
        placing: Placing,
    },
}

impl Images {
    /// The files that a scene was loaded from, see [`views::load`].
    pub fn files(paths: Vec<PathBuf>, placing: Placing) -> Self {
        Self::Files {
            names: unique_names(&paths),
            paths,
            placing,
        }
    }
}

/// How many images stand beside a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageCounts {
    /// All: those of the views that have a camera.
    pub total: usize,
    /// Written upright, because their files are not.
    pub turned: usize,
    /// Written without the lens distortion that was found, see
    /// [`SceneOutput::undistorted`](super::SceneOutput::undistorted).
    pub undistorted: usize,
}

/// What names of images may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// What files' names may.
    Any,
    /// No white space, which becomes `_`.
    NoSpaces,
}

/// Where one image comes from.
#[derive(Clone, Debug)]
enum Source {
    Scene,
    File {
        path: PathBuf,
        is_jpeg: bool,
        stored_upright: bool,
    },
}

/// The folder of a model's images, open.
#[derive(Debug)]
pub(super) struct ImageFolder {
    folder: OutputFolder,
    naming: Naming,
    /// How files that are not written anew get there.
    placing: Placing,
    /// Names and sources of all views' images where they are files.
    files: Option<Vec<PlannedFile>>,
    /// Whether images are written without distortion where their lens has some.
    undistorts: bool,
}

#[derive(Debug)]
struct PlannedFile {
    /// That of the file, as far as the folder may have it.
    name: String,
    size: (u32, u32),
    source: Source,
}

/// A view that has a camera, and its image beside the model.
pub(super) struct PlacedImage<'a> {
    /// Index among all views.
    pub index: usize,
    pub view: &'a SceneView,
    pub camera: &'a Camera,
    /// In the folder of images.
    pub name: String,
    /// The camera at the image's size.
    pub lens: Lens,
    source: Source,
    /// The lens of the source, where the image is written without its distortion.
    distorted: Option<Lens>,
}

impl ImageFolder {
    /// Opens `folder` and looks at all files and at what stands where they shall go.
    pub fn new(folder: OutputFolder, images: &Images, naming: Naming) -> Result<Self> {
        let (files, placing) = match images {
            Images::OfScene => (None, Placing::default()),
            Images::Files {
                names,
                paths,
                placing,
            } => (Some(planned_files(names, paths, naming)?), *placing),
        };
        let opened = Self {
            folder,
            naming,
            placing,
            files,
            undistorts: false,
        };
        opened.check_room(|file| file.source.is_rewritten())?;
        Ok(opened)
    }

    /// Lets images be written without lens distortion, where some is found: none of them may be
    /// there already.
    pub fn undistort(&mut self) -> Result<()> {
        self.undistorts = true;
        self.check_room(|_| true)
    }

    /// Checks that nothing else stands where files shall go, of which some are `rewritten`.
    fn check_room(&self, rewritten: impl Fn(&PlannedFile) -> bool) -> Result<()> {
        let Some(files) = &self.files else {
            return Ok(());
        };
        let rewritten: Vec<bool> = files.iter().map(rewritten).collect();
        for ((file, name), rewritten) in files
            .iter()
            .zip(final_names(files, &rewritten))
            .zip(rewritten)
        {
            let source = match file.source.path() {
                Some(path) => {
                    let source = views::Source::of(path);
                    let file = source.file().canonicalize();
                    Some(file.map_err(|error| Error::io(path, error))?)
                }
                None => None,
            };
            if self.folder.holds_other_than(&name, source.as_deref())? {
                return Err(refuse(&self.folder.path().join(&name), OCCUPIED));
            }
            if rewritten && self.folder.holds_other_than(&name, None)? {
                return Err(refuse(&self.folder.path().join(&name), OWN_SOURCE));
            }
        }
        Ok(())
    }

    /// The views that have a camera, and their images.
    pub fn placed<'a>(&self, scene: &'a Scene) -> Result<Vec<PlacedImage<'a>>> {
        let stems: Vec<String> = scene
            .views
            .iter()
            .map(|view| self.naming.apply(&view.name))
            .collect();
        let stems = distinct_stems(stems.iter().map(String::as_str));
        let is_distorted =
            |view: usize| self.undistorts && scene.lens(view).is_some_and(Lens::is_distorted);
        let names = match &self.files {
            None => stems.iter().map(|stem| format!("{stem}.png")).collect(),
            Some(files) if files.len() != scene.views.len() => {
                return Err(Error::Usage(format!(
                    "{} image files for {} views",
                    files.len(),
                    scene.views.len()
                )));
            }
            Some(files) => {
                let rewritten = files
                    .iter()
                    .enumerate()
                    .map(|(view, file)| file.source.is_rewritten() || is_distorted(view));
                final_names(files, &rewritten.collect::<Vec<_>>())
            }
        };
        let mut placed = Vec::new();
        for (index, (view, name)) in scene.views.iter().zip(names).enumerate() {
            let Some(camera) = &view.camera else { continue };
            let (source, intrinsics) = match self.files.as_ref().map(|files| &files[index]) {
                None => (Source::Scene, camera.intrinsics),
                Some(file) => {
                    let crop = &view.crop;
                    if file.size != (crop.file_width, crop.file_height) {
                        return Err(Error::Usage(format!(
                            "{}: the image has {}x{} pixels, and the scene was made of one with {}x{}",
                            file.source
                                .path()
                                .unwrap_or(Path::new(&view.name))
                                .display(),
                            file.size.0,
                            file.size.1,
                            crop.file_width,
                            crop.file_height
                        )));
                    }
                    (file.source.clone(), at_file(&camera.intrinsics, crop))
                }
            };
            let Intrinsics {
                width,
                height,
                fx,
                fy,
                cx,
                cy,
            } = intrinsics;
            let lens = match scene.lens(index) {
                // Exactly the one that was found, so that images of one camera have one.
                Some(lens) if [lens.width, lens.height] == [width, height] => *lens,
                found => {
                    let radial = found.map_or([0.0; 2], |lens| lens.radial);
                    Lens {
                        width,
                        height,
                        focal: [fx, fy],
                        principal: [cx, cy],
                        radial,
                    }
                }
            };
            let (lens, distorted) = if is_distorted(index) {
                (lens.undistorted(), Some(lens))
            } else {
                (lens, None)
            };
            placed.push(PlacedImage {
                index,
                view,
                camera,
                name,
                lens,
                source,
                distorted,
            });
        }
        Ok(placed)
    }

    /// Puts the images into the folder and commits it.
    pub fn fill(self, images: &[PlacedImage<'_>]) -> Result<ImageCounts> {
        // All of them before the first is written.
        for image in images.iter().filter(|image| image.is_written()) {
            if self.folder.holds_other_than(&image.name, None)? {
                return Err(refuse(&self.folder.path().join(&image.name), OCCUPIED));
            }
        }
        let mut counts = ImageCounts {
            total: images.len(),
            ..ImageCounts::default()
        };
        for image in images {
            counts.turned += usize::from(image.source.is_rewritten());
            counts.undistorted += usize::from(image.distorted.is_some());
            match &image.source {
                Source::File { path, .. } if !image.is_written() => {
                    self.folder.place(&image.name, path, self.placing)?;
                }
                source => {
                    let pixels = image.pixels()?;
                    self.folder
                        .file(&image.name)?
                        .write_with(|out| match source {
                            Source::File { is_jpeg: true, .. } => write_jpeg(&pixels, QUALITY, out),
                            _ => write_rgb_png(&pixels, out),
                        })?;
                }
            }
        }
        self.folder.commit()?;
        Ok(counts)
    }
}

impl Naming {
    fn apply(self, name: &str) -> String {
        match self {
            Self::Any => name.into(),
            Self::NoSpaces => name
                .chars()
                .map(|char| if char.is_whitespace() { '_' } else { char })
                .collect(),
        }
    }
}

impl Source {
    fn path(&self) -> Option<&Path> {
        match self {
            Self::Scene => None,
            Self::File { path, .. } => Some(path),
        }
    }

    /// Whether it is a file that is written anew whatever its lens is.
    fn is_rewritten(&self) -> bool {
        matches!(
            self,
            Self::File {
                stored_upright: false,
                ..
            }
        )
    }
}

impl PlacedImage<'_> {
    /// What writers of models take.
    pub fn posed(&self) -> PosedImage<'_> {
        PosedImage {
            index: self.index,
            name: &self.name,
            camera: self.camera,
            lens: self.lens,
        }
    }

    /// Where the image shows what a pixel of the upright file shows, if it does; integers are
    /// pixel centres in both.
    pub fn file_pixel(&self, pixel: [f64; 2]) -> Option<[f64; 2]> {
        self.shown(match self.source {
            Source::Scene => self.view.crop.to_framed(pixel),
            Source::File { .. } => pixel,
        })
    }

    /// Where the image shows what a pixel of the network's size shows, if it does; integers are
    /// pixel centres in both.
    pub fn pixel(&self, pixel: [f64; 2]) -> Option<[f64; 2]> {
        self.shown(match self.source {
            Source::Scene => pixel,
            Source::File { .. } => self.view.crop.to_file(pixel),
        })
    }

    /// Where the image shows what a pixel of its source shows.
    fn shown(&self, pixel: [f64; 2]) -> Option<[f64; 2]> {
        let Some(distorted) = &self.distorted else {
            return Some(pixel);
        };
        let [x, y] = distorted.unproject(pixel);
        let size = [self.lens.width, self.lens.height].map(f64::from);
        let is_inside = |seen: &[f64; 2]| {
            (0..2).all(|axis| seen[axis] >= -0.5 && seen[axis] <= size[axis] - 0.5)
        };
        self.lens
            .project(&Vector3::new(x, y, 1.0))
            .filter(is_inside)
    }

    /// Whether the image is not a file that can be placed as it is.
    fn is_written(&self) -> bool {
        self.distorted.is_some()
            || self.source.is_rewritten()
            || matches!(self.source, Source::Scene)
    }

    /// The pixels that are written.
    fn pixels(&self) -> Result<Cow<'_, Pixels>> {
        let source = match self.source.path() {
            None => Cow::Borrowed(&self.view.rgb),
            Some(path) => Cow::Owned(views::pixels(views::load_whole(path, &Limits::default())?)),
        };
        let Some(distorted) = &self.distorted else {
            return Ok(source);
        };
        let source_of = |pixel| {
            let [x, y] = self.lens.unproject(pixel);
            distorted.project(&Vector3::new(x, y, 1.0)).unwrap_or(pixel)
        };
        Ok(Cow::Owned(views::pixels(views::warp(&source, source_of))))
    }
}

fn planned_files(names: &[String], paths: &[PathBuf], naming: Naming) -> Result<Vec<PlannedFile>> {
    let planned = |(name, path): (&String, &PathBuf)| {
        let FileHeader {
            width,
            height,
            stored_upright,
            is_jpeg,
        } = views::file_header(path, &Limits::default())?;
        let source = Source::File {
            path: path.clone(),
            is_jpeg,
            stored_upright,
        };
        Ok(PlannedFile {
            name: naming.apply(name),
            size: (width, height),
            source,
        })
    };
    names.iter().zip(paths).map(planned).collect()
}

/// Distinct names of images, of which those that are `rewritten` have the extension of PNG unless
/// they are JPEG.
fn final_names(files: &[PlannedFile], rewritten: &[bool]) -> Vec<String> {
    let name = |(file, rewritten): (&PlannedFile, &bool)| match (&file.source, rewritten) {
        (Source::File { is_jpeg: false, .. }, true) => with_extension(&file.name, "png"),
        _ => file.name.clone(),
    };
    let names: Vec<String> = files.iter().zip(rewritten).map(name).collect();
    distinct_names(names.iter().map(String::as_str))
}

/// Writes a colour image as JPEG.
///
/// # Errors
/// Only the writer's own and those of an image of more than 65535 pixels a side.
pub(super) fn write_jpeg<C: Deref<Target = [u8]>>(
    image: &ImageBuffer<Rgb<u8>, C>,
    quality: u8,
    out: &mut dyn Write,
) -> io::Result<()> {
    // In memory first: the encoder wraps the writer's errors beyond recognition.
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, quality)
        .write_image(
            image.as_raw(),
            image.width(),
            image.height(),
            ExtendedColorType::Rgb8,
        )
        .map_err(io::Error::other)?;
    out.write_all(&jpeg)
}
