//! Point clouds as binary little-endian PLY.

use std::io::{self, Write};

use crate::scene::PointSelection;

/// Bytes of one vertex: three floats, three bytes, one float.
const VERTEX_BYTES: usize = 19;
/// Vertices that are put together before they are handed to the writer.
const CHUNK: usize = 4096;

/// Writes the points with `x y z` (float, world units, OpenCV axes), `red green blue` (uchar, sRGB) and `confidence`
/// (float) each.
///
/// # Errors
/// Only the writer's own.
pub fn write_ply(points: &PointSelection<'_>, out: &mut dyn Write) -> io::Result<()> {
    write!(
        out,
        "ply\n\
         format binary_little_endian 1.0\n\
         comment written by mast3r {}\n\
         comment frame: the first camera, x right, y down, z forward\n\
         comment units: as the network predicts them, metres for metric weights\n\
         element vertex {}\n\
         property float x\nproperty float y\nproperty float z\n\
         property uchar red\nproperty uchar green\nproperty uchar blue\n\
         property float confidence\n\
         end_header\n",
        env!("CARGO_PKG_VERSION"),
        points.counts().kept
    )?;
    let mut chunk = Vec::with_capacity(CHUNK * VERTEX_BYTES);
    for point in points.iter() {
        let mut vertex = [0; VERTEX_BYTES];
        for (bytes, value) in vertex.chunks_exact_mut(4).zip(point.position) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
        vertex[12..15].copy_from_slice(&point.rgb);
        vertex[15..].copy_from_slice(&point.confidence.to_le_bytes());
        chunk.extend_from_slice(&vertex);
        if chunk.len() == chunk.capacity() {
            out.write_all(&chunk)?;
            chunk.clear();
        }
    }
    out.write_all(&chunk)
}
