//! Point clouds as files: what [`Format`] writes, as formats of scenes.

use std::path::Path;

use super::images::Images;
use super::scene_export::{FormatTraits, OpenExport, SceneExport, SceneReport};
use super::{ExportOptions, Format, write_file};
use crate::error::Result;
use crate::files::OutputFile;
use crate::scene::Scene;

/// A file of points.
pub(super) struct Cloud(Format);

pub(super) static PLY: Cloud = Cloud(Format::Ply);
pub(super) static GLB: Cloud = Cloud(Format::Glb);

#[derive(Debug)]
struct OpenCloud(Format, OutputFile);

impl SceneExport for Cloud {
    fn name(&self) -> &'static str {
        self.0.extension()
    }

    fn kind(&self) -> &'static str {
        "cloud"
    }

    fn extensions(&self) -> &'static [&'static str] {
        match self.0 {
            Format::Ply => &["ply"],
            Format::Glb => &["glb"],
        }
    }

    fn traits(&self) -> FormatTraits {
        FormatTraits {
            points: true,
            ..FormatTraits::default()
        }
    }

    fn open(&self, path: &Path, _: &Images) -> Result<Box<dyn OpenExport>> {
        Ok(Box::new(OpenCloud(self.0, OutputFile::create(path)?)))
    }
}

impl OpenExport for OpenCloud {
    fn path(&self) -> &Path {
        self.1.path()
    }

    fn write(self: Box<Self>, scene: &Scene, options: &ExportOptions) -> Result<SceneReport> {
        let Self(format, file) = *self;
        Ok(SceneReport {
            cloud: Some(write_file(scene, format, options, file)?),
            ..SceneReport::default()
        })
    }
}
