//! A scene as a file or a folder of any format: opened early, written at the end.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::colmap::{ColmapEncoding, Model, ModelTrack};
use super::destination::refuse;
use super::folder::OutputFolder;
use super::nerfstudio;
use super::output::OutputFile;
use super::pictures::{Naming, PictureCounts, PictureFolder, Pictures, PlacedPicture};
use super::tracks::{LEAST_ANGLE, Sighting, Track, tracks};
use super::trajectory::write_trajectory;
use super::{ExportOptions, Format, write_file};
use crate::error::{Error, Result};
use crate::scene::{PointCounts, PointSelection, RefinedTrack, Scene, TrackSighting};

/// What a scene is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SceneFormat {
    /// A file of points.
    Cloud(Format),
    /// A folder with the pictures and a COLMAP model, `images/` and `sparse/0/`.
    ///
    /// Its cameras are PINHOLE, or SIMPLE_RADIAL or RADIAL where lens distortion was found and
    /// stays; pictures of one size with equal intrinsics share one. Its points are the tracks of
    /// refined cameras, or else those of the scene's matches: places that two pictures or more see
    /// alike, from different directions, each near to where all of them have it.
    Colmap(ColmapEncoding),
    /// A folder with the pictures, `transforms.json` and `sparse_pc.ply`, as nerfstudio has them.
    Nerfstudio,
    /// A file of camera poses, as the TUM benchmark has them: with the times that images are named
    /// after, or else their indices.
    Trajectory,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SceneReport {
    /// A cloud.
    Cloud(PointCounts),
    /// A COLMAP model.
    Colmap(ColmapReport),
    /// A folder for nerfstudio.
    Nerfstudio {
        /// The pictures, and so the cameras.
        pictures: PictureCounts,
        /// Points of the cloud.
        points: usize,
    },
    /// A trajectory.
    Trajectory {
        /// Poses in it.
        poses: usize,
    },
}

/// What a COLMAP model holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ColmapReport {
    /// The pictures, and so the cameras.
    pub pictures: PictureCounts,
    /// Cameras: one for all pictures of one size with equal intrinsics.
    pub cameras: usize,
    /// Points.
    pub points: usize,
    /// How often they are seen.
    pub sightings: usize,
    /// Mean over the points of how far their sightings are from where they project, in pixels of
    /// the pictures beside the model: what COLMAP calls the mean reprojection error.
    pub mean_error_px: f64,
}

/// An output of a scene, open.
#[derive(Debug)]
pub struct SceneOutput {
    target: Target,
}

#[derive(Debug)]
enum Target {
    Cloud(Format, OutputFile),
    Colmap {
        encoding: ColmapEncoding,
        folder: OutputFolder,
        pictures: PictureFolder,
        models: OutputFolder,
    },
    Nerfstudio {
        folder: OutputFolder,
        pictures: PictureFolder,
    },
    Trajectory(OutputFile),
}

/// The folder of a COLMAP scene's models, and the one model in it.
const MODELS: &str = "sparse";
const MODEL: &str = "0";

impl SceneFormat {
    /// Every format.
    pub const ALL: [Self; 6] = [
        Self::Cloud(Format::Ply),
        Self::Cloud(Format::Glb),
        Self::Colmap(ColmapEncoding::Binary),
        Self::Colmap(ColmapEncoding::Text),
        Self::Nerfstudio,
        Self::Trajectory,
    ];

    /// The name that [`from_str`](Self::from_str) takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cloud(format) => format.extension(),
            Self::Colmap(ColmapEncoding::Binary) => "colmap",
            Self::Colmap(ColmapEncoding::Text) => "colmap-text",
            Self::Nerfstudio => "nerfstudio",
            Self::Trajectory => "tum",
        }
    }

    /// The format of the output `path`: by its extension, `.ply`, `.glb`, `.txt` or `.tum`, and
    /// else as `named`.
    ///
    /// # Errors
    /// [`Error::Usage`] if neither tells.
    pub fn of_output(path: impl AsRef<Path>, named: Option<Self>) -> Result<Self> {
        let path = path.as_ref();
        let extension = path
            .extension()
            .map(|extension| extension.to_string_lossy().to_lowercase());
        let by_extension = match extension.as_deref() {
            Some("txt" | "tum") => Some(Self::Trajectory),
            Some(extension) => extension.parse().ok().map(Self::Cloud),
            None => None,
        };
        by_extension.or(named).ok_or_else(|| {
            let what = extension.map_or("no extension".into(), |extension| {
                format!("unknown extension .{extension}")
            });
            let formats = known_formats();
            Error::Usage(format!(
                "{}: {what}; name it .ply, .glb or .txt, or name a format: {formats}",
                path.display()
            ))
        })
    }
}

impl fmt::Display for SceneFormat {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for SceneFormat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL
            .into_iter()
            .find(|format| format.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| {
            Error::Usage(format!(
                "unknown format {name}; known are {}",
                known_formats()
            ))
        })
    }
}

fn known_formats() -> String {
    SceneFormat::ALL.map(SceneFormat::name).join(", ")
}

impl SceneOutput {
    /// Opens `path` for a scene in `format`; `pictures` are looked at, their headers alone.
    ///
    /// A folder may exist already. Pictures that are there stay as they are, and no other program's
    /// model is replaced.
    ///
    /// # Errors
    /// [`Error::Usage`] if `path` cannot be used, or a COLMAP model or another file of a picture's
    /// name is in it already; [`Error::Input`] for a picture that cannot be read; [`Error::Io`]
    /// with the path.
    pub fn create(
        path: impl AsRef<Path>,
        format: SceneFormat,
        pictures: &Pictures,
    ) -> Result<Self> {
        let path = path.as_ref();
        let target = match format {
            SceneFormat::Cloud(format) => Target::Cloud(format, OutputFile::create(path)?),
            SceneFormat::Trajectory => Target::Trajectory(OutputFile::create(path)?),
            SceneFormat::Colmap(encoding) => {
                let model = path.join(MODELS).join(MODEL);
                if model.exists() {
                    return Err(refuse(
                        &model,
                        "a model is there already; remove it or name another folder",
                    ));
                }
                let folder = OutputFolder::create(path)?;
                // A space ends a name in a text.
                let naming = if encoding == ColmapEncoding::Text {
                    Naming::NoSpaces
                } else {
                    Naming::Any
                };
                let pictures = PictureFolder::new(folder.folder("images")?, pictures, naming)?;
                let models = folder.folder(MODELS)?;
                Target::Colmap {
                    encoding,
                    folder,
                    pictures,
                    models,
                }
            }
            SceneFormat::Nerfstudio => {
                let folder = OutputFolder::create(path)?;
                let pictures = PictureFolder::new(
                    folder.folder(nerfstudio::PICTURES)?,
                    pictures,
                    Naming::Any,
                )?;
                Target::Nerfstudio { folder, pictures }
            }
        };
        Ok(Self { target })
    }

    /// The same, with pictures without lens distortion: where some was found, a picture is written
    /// as the pinhole camera [`Lens::undistorted`](crate::geometry::Lens::undistorted) sees it,
    /// JPEG as JPEG of quality 95 and others as PNG. Its camera is that pinhole; sightings are
    /// moved to where it shows them, and those that it does not show are left out.
    ///
    /// Outputs without pictures, and pictures whose cameras have no distortion, stay as they are.
    ///
    /// # Errors
    /// [`Error::Usage`] if an image itself is where its picture would be written, or another file
    /// of its name is.
    pub fn undistorted(mut self) -> Result<Self> {
        if let Target::Colmap { pictures, .. } | Target::Nerfstudio { pictures, .. } =
            &mut self.target
        {
            pictures.undistort()?;
        }
        Ok(self)
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        match &self.target {
            Target::Cloud(_, file) | Target::Trajectory(file) => file.path(),
            Target::Colmap { folder, .. } | Target::Nerfstudio { folder, .. } => folder.path(),
        }
    }

    /// Writes the scene, and gives the complete file or folder its name. Views without a camera are
    /// left out of all but clouds.
    ///
    /// # Errors
    /// [`Error::Usage`] for a scene that is inconsistent, a filter that keeps nothing, no camera,
    /// or no track where the format wants one; those of pictures; [`Error::Io`] with the path. A
    /// new folder then does not appear.
    pub fn write(self, scene: &Scene, options: &ExportOptions) -> Result<SceneReport> {
        let _span = tracing::debug_span!("export").entered();
        match self.target {
            Target::Cloud(format, file) => {
                write_file(scene, format, options, file).map(SceneReport::Cloud)
            }
            Target::Colmap {
                encoding,
                folder,
                pictures,
                models,
            } => {
                let report = write_colmap(scene, options, encoding, pictures, models)?;
                folder.commit()?;
                Ok(SceneReport::Colmap(report))
            }
            Target::Nerfstudio { folder, pictures } => {
                write_nerfstudio(scene, options, folder, pictures)
            }
            Target::Trajectory(file) => {
                scene.check()?;
                check_placed(scene, "a trajectory")?;
                let mut poses = 0;
                file.write_with(|out| {
                    poses = write_trajectory(scene, out)?;
                    Ok(())
                })?;
                Ok(SceneReport::Trajectory { poses })
            }
        }
    }
}

fn check_placed(scene: &Scene, what: &str) -> Result<()> {
    match scene.views.iter().any(|view| view.camera.is_some()) {
        true => Ok(()),
        false => Err(Error::NoCameras {
            what: what.into(),
            reason: "no image has one".into(),
        }),
    }
}

fn write_colmap(
    scene: &Scene,
    options: &ExportOptions,
    encoding: ColmapEncoding,
    folder: PictureFolder,
    models: OutputFolder,
) -> Result<ColmapReport> {
    check_placed(scene, "a COLMAP model")?;
    let selection = scene.select(&options.filter)?;
    let placed = folder.placed(scene)?;
    let tracks = model_tracks(scene, &selection, &placed);
    if tracks.is_empty() {
        let reason = format!(
            "no two images see one that is kept, by matches that agree with the cameras, from directions that are \
             {LEAST_ANGLE} degrees apart"
        );
        return Err(Error::NoPoints {
            what: "a COLMAP model".into(),
            reason,
        });
    }
    let model = Model::new(&placed, &tracks, scene.origin);
    let pictures = folder.fill(&placed)?;
    let inside = models.folder(MODEL)?;
    model.write(&inside, encoding)?;
    inside.commit()?;
    models.commit()?;
    Ok(ColmapReport {
        pictures,
        cameras: model.cameras(),
        points: tracks.len(),
        sightings: model.sightings(),
        mean_error_px: model.mean_error(),
    })
}

/// The tracks of refined cameras where there are some, else those of the scene's matches, as far as
/// two pictures show them.
fn model_tracks(
    scene: &Scene,
    selection: &PointSelection<'_>,
    placed: &[PlacedPicture<'_>],
) -> Vec<ModelTrack> {
    let pictures: HashMap<usize, &PlacedPicture<'_>> = placed
        .iter()
        .map(|picture| (picture.index, picture))
        .collect();
    let found: Vec<ModelTrack> = match &scene.refined {
        Some(refined) => {
            let place = |seen: &TrackSighting| {
                Some((seen.view, pictures[&seen.view].file_pixel(seen.pixel)?))
            };
            let track = |track: &RefinedTrack| ModelTrack {
                position: track.position,
                rgb: track.rgb,
                sightings: track.sightings.iter().filter_map(place).collect(),
            };
            refined.tracks.iter().map(track).collect()
        }
        None => {
            let place =
                |seen: &Sighting| Some((seen.view, pictures[&seen.view].pixel(seen.pixel)?));
            let track = |track: Track| ModelTrack {
                position: track.position,
                rgb: track.rgb,
                sightings: track.sightings.iter().filter_map(place).collect(),
            };
            tracks(selection).into_iter().map(track).collect()
        }
    };
    found
        .into_iter()
        .filter(|track| track.sightings.len() >= 2)
        .collect()
}

fn write_nerfstudio(
    scene: &Scene,
    options: &ExportOptions,
    folder: OutputFolder,
    pictures: PictureFolder,
) -> Result<SceneReport> {
    check_placed(scene, "a nerfstudio folder")?;
    let selection = scene.select(&options.filter)?;
    let placed = pictures.placed(scene)?;
    let transforms = nerfstudio::transforms(&placed, scene.origin);
    let pictures = pictures.fill(&placed)?;
    folder
        .file(nerfstudio::CLOUD)?
        .write_with(|out| nerfstudio::write_cloud(&selection, out))?;
    // Last, because it names all others.
    folder.file(nerfstudio::TRANSFORMS)?.write_with(|out| {
        serde_json::to_writer_pretty(&mut *out, &transforms)?;
        out.write_all(b"\n")
    })?;
    folder.commit()?;
    Ok(SceneReport::Nerfstudio {
        pictures,
        points: nerfstudio::cloud_size(&selection),
    })
}
