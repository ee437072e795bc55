//! Point clouds: PLY and GLB.

use std::path::Path;

use mast3r::formats::clouds;
use mast3r::scene::PointFilter;

use crate::scratch;

/// Positions, colours and confidences are larger than text and bytes; images are decoded.
pub const MEMORY: usize = 512 << 20;

/// A PLY file.
pub fn ply(data: &[u8]) {
    read(&scratch::write("cloud.ply", data));
}

/// A GLB file.
pub fn glb(data: &[u8]) {
    read(&scratch::write("cloud.glb", data));
}

fn read(path: &Path) {
    let Ok(scene) = clouds::read(path) else {
        return;
    };
    scene.check().expect("what is read is consistent");
    if let Ok(points) = scene.select(&PointFilter::default()) {
        for point in points.iter() {
            assert!(point.position.iter().all(|value| value.is_finite()));
        }
    }
}
