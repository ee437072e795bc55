//! Poses in `cameras.json`.

use std::collections::HashMap;

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

/// The images of a `cameras.json`, with their poses.
pub fn named_poses(cameras: &Value) -> Vec<(String, Pose)> {
    let images = cameras["images"].as_array().unwrap().iter();
    images
        .map(|image| (image["name"].as_str().unwrap().to_owned(), pose(image)))
        .collect()
}

pub fn poses_by_name(cameras: &Value) -> HashMap<String, Pose> {
    named_poses(cameras).into_iter().collect()
}

/// The largest difference of two poses' numbers.
pub fn gap(a: &Pose, b: &Pose) -> f64 {
    let pairs = a.as_flattened().iter().zip(b.as_flattened());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

pub fn assert_equal_poses(
    first: &HashMap<String, Pose>,
    second: &HashMap<String, Pose>,
    most: f64,
) {
    for (name, pose) in first {
        let other = &second[name];
        assert!(gap(pose, other) < most, "{name}: {pose:?} and {other:?}");
    }
}
