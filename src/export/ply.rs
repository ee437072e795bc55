//! Point clouds as binary little-endian PLY.

use std::io::{self, Write};

use super::axes;
use super::normals::normals;
use crate::formats::clouds::METRES;
use crate::scene::PointSelection;

/// Bytes of one vertex at most: three doubles, three floats, three bytes, one float.
const MOST_VERTEX_BYTES: usize = 43;
/// Vertices that are put together before they are handed to the writer.
const CHUNK: usize = 4096;

/// Writes the points with `x y z` (float, world units, OpenCV axes), `red green blue` (uchar, sRGB)
/// and `confidence` (float) each; with normals `nx ny nz` (float) follow the coordinates. `x y z`
/// are double in a scene far from the world's origin, see
/// [`Scene::origin`](crate::scene::Scene::origin).
///
/// # Errors
/// Only the writer's own.
pub fn write_ply(
    points: &PointSelection<'_>,
    has_normals: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    let (scene, is_far) = (points.scene(), points.scene().is_far());
    let kind = if is_far { "double" } else { "float" };
    let frame = match scene.georeference {
        Some(origin) => axes::describe(origin),
        None => "the first camera, x right, y down, z forward, or that of given poses".into(),
    };
    let units = match scene.metric {
        true => METRES,
        false => "units: as the network predicts them, or those of given poses",
    };
    let normal = match has_normals {
        true => "property float nx\nproperty float ny\nproperty float nz\n",
        false => "",
    };
    write!(
        out,
        "ply\n\
         format binary_little_endian 1.0\n\
         comment written by mast3r {}\n\
         comment frame: {frame}\n\
         comment {units}\n\
         element vertex {}\n\
         property {kind} x\nproperty {kind} y\nproperty {kind} z\n{normal}\
         property uchar red\nproperty uchar green\nproperty uchar blue\n\
         property float confidence\n\
         end_header\n",
        env!("CARGO_PKG_VERSION"),
        points.counts().kept
    )?;
    let mut chunk = Vec::with_capacity((CHUNK + 1) * MOST_VERTEX_BYTES);
    let mut of_view = (usize::MAX, Vec::new());
    for (view, pixel, point) in points.located() {
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
        if has_normals {
            if of_view.0 != view {
                of_view = (view, normals(&scene.views[view]));
            }
            let normal = of_view.1[pixel];
            normal
                .iter()
                .for_each(|value| chunk.extend_from_slice(&value.to_le_bytes()));
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
