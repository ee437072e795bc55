//! Camera poses as a TUM trajectory, what evo and the SLAM benchmarks read.

use std::io::{self, Write};

use crate::scene::Scene;

/// Writes a line `timestamp tx ty tz qx qy qz qw` for every view that has a camera: its index among all views, from 0,
/// in place of a time, the camera's centre, and the rotation of camera to world axes. Comments say so.
///
/// # Errors
/// Only the writer's own.
pub(super) fn write_trajectory(scene: &Scene, out: &mut dyn Write) -> io::Result<usize> {
    writeln!(out, "# camera to world, x right, y down, z forward; the timestamp is the picture's index, from 0")?;
    writeln!(out, "# timestamp tx ty tz qx qy qz qw")?;
    let mut poses = 0;
    for (index, view) in scene.views.iter().enumerate() {
        let Some(camera) = &view.camera else { continue };
        let pose = &camera.world_from_camera;
        let (centre, turn) = (pose.translation.vector, pose.rotation.quaternion());
        let (x, y, z) = (centre.x, centre.y, centre.z);
        writeln!(out, "{index} {x} {y} {z} {} {} {} {}", turn.i, turn.j, turn.k, turn.w)?;
        poses += 1;
    }
    Ok(poses)
}
