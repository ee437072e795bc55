//! Known cameras: COLMAP models, `cameras.json`, `transforms.json` and trajectories.

use std::path::Path;

use mast3r::alignment::{CameraList, KnownCamera};
use mast3r::views::View;

use super::images::{named_views, timed_views};
use crate::scratch;

/// `cameras.bin` and `images.bin` of a model.
pub fn colmap_binary(data: &[u8]) {
    scratch::write_sections(["binary/cameras.bin", "binary/images.bin"], data);
    read(&scratch::folder().join("binary"));
}

/// `cameras.txt` and `images.txt` of a model.
pub fn colmap_text(data: &[u8]) {
    scratch::write_sections(["text/cameras.txt", "text/images.txt"], data);
    read(&scratch::folder().join("text"));
}

/// A `cameras.json`, a `transforms.json` or a trajectory; which one shows by its content.
pub fn file(data: &[u8]) {
    read(&scratch::write("cameras", data));
}

/// Reads a list of cameras and takes what it knows of the images.
fn read(path: &Path) {
    let Ok(list) = CameraList::open(path) else {
        return;
    };
    take(&list, named_views());
    take(&list, timed_views());
}

fn take(list: &CameraList, views: &[View]) {
    let unknown = list.unknown_names(views);
    let mut known = vec![KnownCamera::default(); views.len()];
    if let Ok(count) = list.set_intrinsics(views, &mut known) {
        assert_eq!(
            count,
            known
                .iter()
                .filter(|known| known.intrinsics.is_some())
                .count()
        );
    }
    if let Ok(count) = list.set_poses(views, &mut known) {
        assert!(
            unknown.is_ok(),
            "names that could be several images' are refused"
        );
        assert_eq!(
            count,
            known
                .iter()
                .filter(|known| known.world_from_camera.is_some())
                .count()
        );
    }
    for (known, view) in known.iter().zip(views) {
        if let Some(camera) = known.intrinsics {
            assert_eq!((camera.width, camera.height), view.rgb.dimensions());
            assert!(
                [camera.fx, camera.fy]
                    .iter()
                    .all(|focal| focal.is_finite() && *focal > 0.0),
                "{camera:?}"
            );
            assert!(camera.cx.is_finite() && camera.cy.is_finite(), "{camera:?}");
        }
        if let Some(pose) = known.world_from_camera {
            let norm = pose.rotation.into_inner().norm();
            assert!(
                pose.translation
                    .vector
                    .iter()
                    .all(|value| value.is_finite()),
                "{pose:?}"
            );
            assert!((norm - 1.0).abs() < 1e-6, "a rotation of norm {norm}");
        }
    }
}
