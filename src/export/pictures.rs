//! The pictures of a scene beside a model that other programs go on from, and the cameras at those pictures' size.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder as _, RgbImage};

use super::cameras::at_file;
use super::depth::write_rgb_png;
use super::destination::refuse;
use super::folder::{OCCUPIED, OutputFolder, Placing};
use crate::error::{Error, Result};
use crate::geometry::{Camera, Intrinsics, Lens};
use crate::scene::{Scene, SceneView};
use crate::views::names::{distinct_names, distinct_stems, unique_names};
use crate::views::{self, Limits};

/// Quality of JPEG files that are turned upright: the next to invisible loss is less than that of a camera's own.
const UPRIGHT_QUALITY: u8 = 95;

/// Where the pictures beside a model come from.
#[derive(Clone, Debug, Default)]
pub enum Pictures {
    /// From the scene, as PNG: cameras are those of the size that the network saw.
    #[default]
    OfScene,
    /// From the files that the scene was made of: cameras are those of the files' size.
    ///
    /// A file that is stored on its side or mirrored, with an EXIF orientation that says so, is written upright
    /// instead, JPEG as JPEG and all others as PNG: some programs heed the orientation and some do not, so only a
    /// picture that has none is the same to all.
    Files {
        /// Their names beside the model, paths with `/` between their parts: those of the scene's views, in order.
        names: Vec<String>,
        /// The files, one for each name.
        paths: Vec<PathBuf>,
        /// How a file that is stored upright gets there.
        placing: Placing,
    },
}

impl Pictures {
    /// The files that a scene was loaded from, see [`views::load`].
    pub fn files(paths: Vec<PathBuf>, placing: Placing) -> Self {
        Self::Files { names: unique_names(&paths), paths, placing }
    }
}

/// How many pictures stand beside a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PictureCounts {
    /// All: those of the views that have a camera.
    pub total: usize,
    /// Written upright, because their files are not.
    pub turned: usize,
}

/// What names of pictures may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// What files' names may.
    Any,
    /// No white space, which becomes `_`.
    NoSpaces,
}

/// Where one picture comes from.
#[derive(Clone, Debug)]
enum Source {
    Scene,
    File { path: PathBuf, placing: Placing },
    Turned { path: PathBuf, as_jpeg: bool },
}

/// The folder of a model's pictures, open.
#[derive(Debug)]
pub(super) struct PictureFolder {
    folder: OutputFolder,
    naming: Naming,
    /// Names and sources of all views' pictures where they are files.
    files: Option<Vec<PlannedFile>>,
}

#[derive(Debug)]
struct PlannedFile {
    name: String,
    size: (u32, u32),
    source: Source,
}

/// A view that has a camera, and its picture beside the model.
pub(super) struct PlacedPicture<'a> {
    /// Index among all views.
    pub index: usize,
    pub view: &'a SceneView,
    pub camera: &'a Camera,
    /// In the folder of pictures.
    pub name: String,
    /// The camera at the picture's size.
    pub lens: Lens,
    source: Source,
}

impl PictureFolder {
    /// Opens `folder` and looks at all files and at what stands where they shall go.
    pub fn new(folder: OutputFolder, pictures: &Pictures, naming: Naming) -> Result<Self> {
        let files = match pictures {
            Pictures::OfScene => None,
            Pictures::Files { names, paths, placing } => Some(planned_files(names, paths, *placing, naming)?),
        };
        for file in files.iter().flatten() {
            let source = match &file.source {
                Source::File { path, .. } => Some(path.canonicalize().map_err(|error| Error::io(path, error))?),
                _ => None,
            };
            if folder.holds_other_than(&file.name, source.as_deref())? {
                return Err(refuse(&folder.path().join(&file.name), OCCUPIED));
            }
        }
        Ok(Self { folder, naming, files })
    }

    /// The views that have a camera, and their pictures.
    pub fn placed<'a>(&self, scene: &'a Scene) -> Result<Vec<PlacedPicture<'a>>> {
        let stems: Vec<String> = scene.views.iter().map(|view| self.naming.apply(&view.name)).collect();
        let stems = distinct_stems(stems.iter().map(String::as_str));
        if let Some(files) = &self.files
            && files.len() != scene.views.len()
        {
            return Err(Error::Usage(format!("{} picture files for {} views", files.len(), scene.views.len())));
        }
        let mut placed = Vec::new();
        for (index, (view, stem)) in scene.views.iter().zip(stems).enumerate() {
            let Some(camera) = &view.camera else { continue };
            let (name, source, intrinsics) = match self.files.as_ref().map(|files| &files[index]) {
                None => (format!("{stem}.png"), Source::Scene, camera.intrinsics),
                Some(file) => {
                    let crop = &view.crop;
                    if file.size != (crop.file_width, crop.file_height) {
                        return Err(Error::Usage(format!(
                            "{}: the picture has {}x{} pixels, and the scene was made of one with {}x{}",
                            file.source.path().unwrap_or(Path::new(&view.name)).display(),
                            file.size.0,
                            file.size.1,
                            crop.file_width,
                            crop.file_height
                        )));
                    }
                    (file.name.clone(), file.source.clone(), at_file(&camera.intrinsics, crop))
                }
            };
            let Intrinsics { width, height, fx, fy, cx, cy } = intrinsics;
            let lens = match scene.lens(index) {
                // Exactly the one that was found, so that images of one camera have one.
                Some(lens) if [lens.width, lens.height] == [width, height] => *lens,
                found => {
                    let radial = found.map_or([0.0; 2], |lens| lens.radial);
                    Lens { width, height, focal: [fx, fy], principal: [cx, cy], radial }
                }
            };
            placed.push(PlacedPicture { index, view, camera, name, lens, source });
        }
        Ok(placed)
    }

    /// Puts the pictures into the folder and commits it.
    pub fn fill(self, pictures: &[PlacedPicture<'_>]) -> Result<PictureCounts> {
        let mut counts = PictureCounts::default();
        for picture in pictures {
            counts.total += 1;
            match &picture.source {
                Source::Scene => {
                    self.write(&picture.name, |out| write_rgb_png(&picture.view.rgb, out))?;
                }
                Source::File { path, placing } => self.folder.place(&picture.name, path, *placing)?,
                Source::Turned { path, as_jpeg } => {
                    counts.turned += 1;
                    let upright = views::load_whole(path, &Limits::default())?;
                    self.write(&picture.name, |out| match as_jpeg {
                        true => write_jpeg(&upright, UPRIGHT_QUALITY, out),
                        false => write_rgb_png(&upright, out),
                    })?;
                }
            }
        }
        self.folder.commit()?;
        Ok(counts)
    }

    fn write(&self, name: &str, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        if self.folder.holds_other_than(name, None)? {
            return Err(refuse(&self.folder.path().join(name), OCCUPIED));
        }
        self.folder.file(name)?.write_with(write)
    }
}

impl Naming {
    fn apply(self, name: &str) -> String {
        match self {
            Self::Any => name.into(),
            Self::NoSpaces => name.chars().map(|char| if char.is_whitespace() { '_' } else { char }).collect(),
        }
    }
}

impl Source {
    fn path(&self) -> Option<&Path> {
        match self {
            Self::Scene => None,
            Self::File { path, .. } | Self::Turned { path, .. } => Some(path),
        }
    }
}

impl PlacedPicture<'_> {
    /// Where a pixel of the upright file lies in the picture; integers are pixel centres in both.
    pub fn file_pixel(&self, pixel: [f64; 2]) -> [f64; 2] {
        match self.source {
            Source::Scene => self.view.crop.to_framed(pixel),
            _ => pixel,
        }
    }

    /// Where a pixel of the network's size lies in the picture; integers are pixel centres in both.
    pub fn pixel(&self, [x, y]: [u32; 2]) -> [f64; 2] {
        let pixel = [f64::from(x), f64::from(y)];
        match self.source {
            Source::Scene => pixel,
            _ => self.view.crop.to_file(pixel),
        }
    }
}

fn planned_files(names: &[String], paths: &[PathBuf], placing: Placing, naming: Naming) -> Result<Vec<PlannedFile>> {
    let mut files = Vec::with_capacity(paths.len());
    for (name, path) in names.iter().zip(paths) {
        let header = views::file_header(path, &Limits::default())?;
        let name = naming.apply(name);
        let (name, source) = match (header.stored_upright, header.is_jpeg) {
            (true, _) => (name, Source::File { path: path.clone(), placing }),
            (false, true) => (name, Source::Turned { path: path.clone(), as_jpeg: true }),
            (false, false) => {
                let name = Path::new(&name).with_extension("png").to_string_lossy().into_owned();
                (name, Source::Turned { path: path.clone(), as_jpeg: false })
            }
        };
        files.push(PlannedFile { name, size: (header.width, header.height), source });
    }
    let names = distinct_names(files.iter().map(|file| file.name.as_str()));
    for (file, name) in files.iter_mut().zip(names) {
        file.name = name;
    }
    Ok(files)
}

/// Writes a colour picture as JPEG.
///
/// # Errors
/// Only the writer's own and those of a picture of more than 65535 pixels a side.
pub(super) fn write_jpeg(image: &RgbImage, quality: u8, out: &mut dyn Write) -> io::Result<()> {
    // In memory first: the encoder wraps the writer's errors beyond recognition.
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, quality)
        .write_image(image.as_raw(), image.width(), image.height(), ExtendedColorType::Rgb8)
        .map_err(io::Error::other)?;
    out.write_all(&jpeg)
}
