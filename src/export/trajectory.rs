//! Camera poses as a TUM trajectory, what evo and the SLAM benchmarks read.

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use super::ExportOptions;
use super::format::{FormatTraits, OpenExport, SceneExport, SceneReport, check_placed};
use super::pictures::Pictures;
use crate::error::Result;
use crate::files::OutputFile;
use crate::scene::Scene;
use crate::views::names::timestamp;

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

    fn open(&self, path: &Path, _: &Pictures) -> Result<Box<dyn OpenExport>> {
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
            poses = write_trajectory(scene, out)?;
            Ok(())
        })?;
        Ok(SceneReport {
            poses: Some(poses),
            ..SceneReport::default()
        })
    }
}

/// Writes a line `timestamp tx ty tz qx qy qz qw` for every view that has a camera: the camera's
/// centre, and the rotation of camera to world axes. The timestamp is the time that the image is
/// named after, in seconds, if all images of the scene are named after different times; otherwise
/// it is the index among all views, from 0. Comments say so.
///
/// # Errors
/// Only the writer's own.
fn write_trajectory(scene: &Scene, out: &mut dyn Write) -> io::Result<usize> {
    let times = times(scene);
    let what = if times.is_some() {
        "time in seconds that the image is named after"
    } else {
        "image's index, from 0"
    };
    writeln!(
        out,
        "# camera to world, x right, y down, z forward; the timestamp is the {what}"
    )?;
    writeln!(out, "# timestamp tx ty tz qx qy qz qw")?;
    let mut poses = 0;
    for (index, view) in scene.views.iter().enumerate() {
        let Some(camera) = &view.camera else { continue };
        let pose = scene.world_from_camera(camera);
        let (centre, turn) = (pose.translation.vector, pose.rotation.quaternion());
        let (x, y, z) = (centre.x, centre.y, centre.z);
        match &times {
            Some(times) => write!(
                out,
                "{}.{:09}",
                times[index].as_secs(),
                times[index].subsec_nanos()
            )?,
            None => write!(out, "{index}")?,
        }
        writeln!(
            out,
            " {x} {y} {z} {} {} {} {}",
            turn.i, turn.j, turn.k, turn.w
        )?;
        poses += 1;
    }
    Ok(poses)
}

/// The times that all images are named after; the two cameras of a rig have equal ones, which are
/// no use as timestamps.
fn times(scene: &Scene) -> Option<Vec<Duration>> {
    let times: Vec<Duration> = scene
        .views
        .iter()
        .map(|view| timestamp(&view.name))
        .collect::<Option<_>>()?;
    let distinct: HashSet<&Duration> = times.iter().collect();
    (distinct.len() == times.len()).then_some(times)
}
