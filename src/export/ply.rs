//! Point clouds as binary little-endian PLY.

use std::io::{self, Write};

use crate::formats::clouds::METRES;
use crate::scene::PointSelection;

/// Bytes of one vertex at most: three doubles, three bytes, one float.
const MOST_VERTEX_BYTES: usize = 31;
/// Vertices that are put together before they are handed to the writer.
const CHUNK: usize = 4096;

/// Writes the points with `x y z` (float, world units, OpenCV axes), `red green blue` (uchar, sRGB)
/// and `confidence` (float) each. `x y z` are double in a scene far from the world's origin, see
/// [`Scene::origin`](crate::scene::Scene::origin).
///
/// # Errors
/// Only the writer's own.
pub fn write_ply(points: &PointSelection<'_>, out: &mut dyn Write) -> io::Result<()> {
    let (scene, is_far) = (points.scene(), points.scene().is_far());
    let kind = if is_far { "double" } else { "float" };
    let units = match scene.metric {
        true => METRES,
        false => "units: as the network predicts them, or those of given poses",
    };
    write!(
        out,
        "ply\n\
         format binary_little_endian 1.0\n\
         comment written by mast3r {}\n\
         comment frame: the first camera, x right, y down, z forward, or that of given poses\n\
         comment {units}\n\
         element vertex {}\n\
         property {kind} x\nproperty {kind} y\nproperty {kind} z\n\
         property uchar red\nproperty uchar green\nproperty uchar blue\n\
         property float confidence\n\
         end_header\n",
        env!("CARGO_PKG_VERSION"),
        points.counts().kept
    )?;
    let mut chunk = Vec::with_capacity((CHUNK + 1) * MOST_VERTEX_BYTES);
    for point in points.iter() {
        match is_far {
            true => scene
                .in_world(point.position)
                .iter()
                .for_each(|value| chunk.extend_from_slice(&value.to_le_bytes())),
            false => point
                .position
                .iter()
                .for_each(|value| chunk.extend_from_slice(&value.to_le_bytes())),
        }
        chunk.extend_from_slice(&point.rgb);
        chunk.extend_from_slice(&point.confidence.to_le_bytes());
        if chunk.len() >= CHUNK * MOST_VERTEX_BYTES {
            out.write_all(&chunk)?;
            chunk.clear();
        }
    }
    out.write_all(&chunk)
}
