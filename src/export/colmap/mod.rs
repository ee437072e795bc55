//! COLMAP folders: the images and a model, `images/` and `sparse/0/`.

#[cfg(feature = "database")]
mod database;
mod tracks;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use self::tracks::{LEAST_ANGLE, tracks};
use super::images::{ImageFolder, Images, Naming, PlacedImage};
use super::scene_export::{FormatTraits, OpenExport, SceneExport, SceneReport, check_placed};
use super::{ExportOptions, axes};
use crate::error::{Error, Result};
use crate::files::OutputFolder;
use crate::files::refuse;
use crate::formats::PosedImage;
use crate::formats::colmap::{Encoding, Model};
use crate::scene::{Observation, PointSelection, Scene, Track};

/// The folder of a scene's models, and the one model in it.
const MODELS: &str = "sparse";
const MODEL: &str = "0";

/// Where a georeferenced scene's origin lies, beside the model, whose format has no place for it.
const GEOREFERENCE: &str = "georeference.json";
/// The database beside the model.
#[cfg(feature = "database")]
const DATABASE_FILE: &str = "database.db";

/// A COLMAP folder, with a database or not.
pub(super) struct Colmap {
    encoding: Encoding,
    has_database: bool,
}

pub(super) static BINARY: Colmap = Colmap {
    encoding: Encoding::Binary,
    has_database: false,
};
pub(super) static TEXT: Colmap = Colmap {
    encoding: Encoding::Text,
    has_database: false,
};
#[cfg(feature = "database")]
pub(super) static DATABASE: Colmap = Colmap {
    encoding: Encoding::Binary,
    has_database: true,
};

#[derive(Debug)]
struct OpenColmap {
    encoding: Encoding,
    #[cfg_attr(not(feature = "database"), allow(dead_code))]
    has_database: bool,
    folder: OutputFolder,
    images: ImageFolder,
    models: OutputFolder,
}

impl SceneExport for Colmap {
    fn name(&self) -> &'static str {
        match (self.encoding, self.has_database) {
            (Encoding::Binary, false) => "colmap",
            (Encoding::Text, _) => "colmap-text",
            (Encoding::Binary, true) => "colmap-database",
        }
    }

    fn kind(&self) -> &'static str {
        "colmap"
    }

    fn traits(&self) -> FormatTraits {
        FormatTraits {
            points: true,
            images: true,
        }
    }

    fn open(&self, path: &Path, images: &Images) -> Result<Box<dyn OpenExport>> {
        let model = path.join(MODELS).join(MODEL);
        if model.exists() {
            return Err(refuse(
                &model,
                "a model is there already; remove it or name another folder",
            ));
        }
        let folder = OutputFolder::create(path)?;
        // A space ends a name in a text.
        let naming = match self.encoding {
            Encoding::Text => Naming::NoSpaces,
            Encoding::Binary => Naming::Any,
        };
        let images = ImageFolder::new(folder.folder("images")?, images, naming)?;
        let models = folder.folder(MODELS)?;
        Ok(Box::new(OpenColmap {
            encoding: self.encoding,
            has_database: self.has_database,
            folder,
            images,
            models,
        }))
    }
}

impl OpenExport for OpenColmap {
    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn undistort(&mut self) -> Result<()> {
        self.images.undistort()
    }

    fn write(self: Box<Self>, scene: &Scene, options: &ExportOptions) -> Result<SceneReport> {
        check_placed(scene, "a COLMAP model")?;
        let selection = scene.select(&options.filter)?;
        let placed = self.images.placed(scene)?;
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
        let images: Vec<PosedImage<'_>> = placed.iter().map(PlacedImage::posed).collect();
        let model = Model::new(&images, &tracks, scene.origin);
        let images = self.images.fill(&placed)?;
        let inside = self.models.folder(MODEL)?;
        model.write(&inside, self.encoding)?;
        inside.commit()?;
        #[cfg(feature = "database")]
        if self.has_database {
            database::write(&model, self.folder.file(DATABASE_FILE)?)?;
        }
        if let Some(origin) = scene.georeference {
            let content = axes::georeference(origin, "x east, y north, z up");
            self.folder.file(GEOREFERENCE)?.write_with(|out| {
                serde_json::to_writer_pretty(&mut *out, &content)?;
                out.write_all(b"\n")
            })?;
        }
        self.models.commit()?;
        self.folder.commit()?;
        Ok(SceneReport {
            images: Some(images),
            cameras: Some(model.cameras()),
            points: Some(tracks.len()),
            observations: Some(model.observations()),
            mean_error_px: Some(model.mean_error()),
            ..SceneReport::default()
        })
    }
}

/// The tracks of refined cameras where there are some, else those of the scene's matches, as far as
/// two images show them.
fn model_tracks(
    scene: &Scene,
    selection: &PointSelection<'_>,
    placed: &[PlacedImage<'_>],
) -> Vec<Track> {
    let images: HashMap<usize, &PlacedImage<'_>> =
        placed.iter().map(|image| (image.index, image)).collect();
    let found = match &scene.refined {
        Some(refined) => Cow::Borrowed(&refined.tracks),
        None => Cow::Owned(tracks(selection)),
    };
    // Where an image of the folder shows what its view does.
    let moved = |seen: &Observation| {
        let image = images[&seen.view];
        let pixel = match &scene.refined {
            Some(_) => image.file_pixel(seen.pixel),
            None => image.pixel(seen.pixel),
        };
        pixel.map(|pixel| Observation { pixel, ..*seen })
    };
    let track = |track: &Track| Track {
        observations: track.observations.iter().filter_map(moved).collect(),
        ..*track
    };
    found
        .iter()
        .map(track)
        .filter(|track| track.observations.len() >= 2)
        .collect()
}
