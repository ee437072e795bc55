//! Poses in `cameras.json`.

use serde_json::Value;

/// The rows of a camera's pose, world from camera.
pub type Pose = [[f64; 4]; 4];

/// The pose of a camera in the first camera's frame.
pub fn pose(image: &Value) -> Pose {
    serde_json::from_value(image["world_from_camera"].clone()).unwrap()
}

/// Where the camera is.
pub fn centre(pose: Pose) -> [f64; 3] {
    [0, 1, 2].map(|row| pose[row][3])
}

pub fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// The angle of the rotation between two poses, degrees.
pub fn rotation_between(a: Pose, b: Pose) -> f64 {
    let trace: f64 = (0..3)
        .flat_map(|i| (0..3).map(move |j| a[i][j] * b[i][j]))
        .sum();
    ((trace - 1.0) / 2.0).clamp(-1.0, 1.0).acos().to_degrees()
}
