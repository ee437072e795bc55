//! Camera poses as a TUM trajectory, what evo and the SLAM benchmarks read.

use std::collections::HashSet;
use std::io::{self, Write};
use std::time::Duration;

use crate::scene::Scene;
use crate::views::names::timestamp;

/// Writes a line `timestamp tx ty tz qx qy qz qw` for every view that has a camera: the camera's
/// centre, and the rotation of camera to world axes. The timestamp is the time that the image is
/// named after, in seconds, if all images of the scene are named after different times; otherwise
/// it is the index among all views, from 0. Comments say so.
///
/// # Errors
/// Only the writer's own.
pub(super) fn write_trajectory(scene: &Scene, out: &mut dyn Write) -> io::Result<usize> {
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
