//! Where an image shows the keypoints of another one, as the aligned cameras and depths have it.

use nalgebra::Vector3;

use super::depth_at;
use super::matching::{Expected, Features};
use super::tracks::Rig;
use crate::scene::SceneView;

/// A point that lies so much farther away than what the image shows there is hidden.
const HIDDEN: f64 = 1.5;

/// Of each keypoint of the first view, where the second view shows it; `None` where that is not
/// known, outside of what its camera can see, or hidden by something nearer.
pub(super) fn expected(
    rig: &Rig,
    [one, two]: [usize; 2],
    views: &[SceneView],
    features: &Features,
) -> Vec<Option<Expected>> {
    let (from, to) = (rig.lens(one), rig.lens(two));
    let place = rig.camera_from_world[one].map(|camera_from_world| camera_from_world.inverse());
    let of_pixel = |&pixel: &[f64; 2]| {
        let depth = depth_at(&views[one], pixel)?;
        let [x, y] = from.unproject(pixel);
        let point = place?.transform_point(&(depth * Vector3::new(x, y, 1.0)).into());
        let local = rig.local(two, &point.coords)?;
        let pixel = to.project(&local)?;
        let is_hidden = depth_at(&views[two], pixel).is_some_and(|seen| local.z > HIDDEN * seen);
        let magnification = (to.focal[0] / local.z) / (from.focal[0] / depth);
        (!is_hidden).then_some(Expected {
            pixel,
            magnification: magnification as f32,
        })
    };
    features.pixels.iter().map(of_pixel).collect()
}
