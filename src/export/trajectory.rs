//! Camera poses as a TUM trajectory, what evo and the SLAM benchmarks read.

use std::path::Path;

use super::ExportOptions;
use super::images::Images;
use super::scene_export::{FormatTraits, OpenExport, SceneExport, SceneReport, check_placed};
use crate::error::Result;
use crate::files::OutputFile;
use crate::formats::trajectory;
use crate::scene::Scene;

/// The format.
pub(super) struct Trajectory;

#[derive(Debug)]
struct OpenTrajectory(OutputFile);

impl SceneExport for Trajectory {
    fn name(&self) -> &'static str {
        "tum"
    }

    fn kind(&self) -> &'static str {
        "trajectory"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["txt", "tum"]
    }

    fn traits(&self) -> FormatTraits {
        FormatTraits::default()
    }

    fn open(&self, path: &Path, _: &Images) -> Result<Box<dyn OpenExport>> {
        Ok(Box::new(OpenTrajectory(OutputFile::create(path)?)))
    }
}

impl OpenExport for OpenTrajectory {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(self: Box<Self>, scene: &Scene, _: &ExportOptions) -> Result<SceneReport> {
        scene.check()?;
        check_placed(scene, "a trajectory")?;
        let mut poses = 0;
        self.0.write_with(|out| {
            poses = trajectory::write(scene, out)?;
            Ok(())
        })?;
        Ok(SceneReport {
            poses: Some(poses),
            ..SceneReport::default()
        })
    }
}
