//! Reads COLMAP models, as far as cameras go: images with their poses and intrinsics.

mod binary;
mod models;
mod text;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use nalgebra::{Isometry3, Quaternion, Translation3, UnitQuaternion};

use super::super::{Inside, ListedCamera};
use crate::error::{Error, Result};
use crate::input::read_text;
use binary::{Bytes, binary_cameras, binary_images};
use text::{text_cameras, text_images};

/// Where models lie in the folders that COLMAP and programs that follow it make.
const PLACES: [&str; 6] = [
    "",
    "0",
    "sparse/0",
    "sparse",
    "dense/sparse",
    "dense/0/sparse",
];

struct Image {
    name: String,
    /// w, x, y, z, world to camera.
    rotation: [f64; 4],
    translation: [f64; 3],
    camera: u32,
}

/// The cameras of a model by their numbers, and why there are no others, if there should be.
#[derive(Default)]
struct Cameras {
    known: HashMap<u32, Inside>,
    others: Option<String>,
}

/// Whether the folder has a model, in it or at one of the usual places below it.
pub(crate) fn is_model(folder: &Path) -> bool {
    find(folder).is_some()
}

/// The file of images.
fn find(folder: &Path) -> Option<PathBuf> {
    let places = PLACES.iter().map(|place| folder.join(place));
    places
        .flat_map(|place| ["images.bin", "images.txt"].map(|file| place.join(file)))
        .find(|file| file.is_file())
}

/// The images of the model in `folder`.
///
/// Only poses must be readable: what is wrong with the cameras is an error of those who ask for
/// intrinsics.
pub(crate) fn read(folder: &Path) -> Result<Vec<ListedCamera>> {
    let Some(file) = find(folder) else {
        let reason = "not a COLMAP model: neither images.bin nor images.txt is in it or below it";
        return Err(Error::input(
            folder,
            format!("{reason} in {}", PLACES[1..].join(", ")),
        ));
    };
    let is_binary = file.extension().is_some_and(|extension| extension == "bin");
    let images = if is_binary {
        let bytes = read_bytes(&file)?;
        let damaged = || {
            Error::input(
                &file,
                "damaged or incomplete: it ends within an image; copy it again",
            )
        };
        binary_images(&mut Bytes(&bytes)).ok_or_else(damaged)?
    } else {
        text_images(&read_text(&file)?).map_err(|reason| Error::input(&file, reason))?
    };
    let cameras = [is_binary, !is_binary]
        .map(|binary| file.with_file_name(if binary { "cameras.bin" } else { "cameras.txt" }));
    let cameras = match cameras.into_iter().find(|file| file.is_file()) {
        None => Cameras {
            others: Some("the model has no file of cameras".into()),
            ..Cameras::default()
        },
        Some(file) => read_cameras(&file).unwrap_or_else(|error| Cameras {
            others: Some(error.to_string()),
            ..Cameras::default()
        }),
    };
    let inside = |camera: u32| match (cameras.known.get(&camera), &cameras.others) {
        (Some(known), _) => known.clone(),
        (None, Some(reason)) => Inside::Unusable(reason.clone()),
        (None, None) => Inside::Unusable(format!(
            "its camera {camera} is not in the model's list of cameras"
        )),
    };
    let entry = |image: Image| ListedCamera {
        inside: inside(image.camera),
        world_from_camera: Some(rows(&image)),
        name: image.name,
    };
    Ok(images.into_iter().map(entry).collect())
}

fn read_bytes(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).map_err(|source| Error::unreadable(file, source))
}

fn read_cameras(file: &Path) -> Result<Cameras> {
    if file.extension().is_some_and(|extension| extension == "bin") {
        let bytes = read_bytes(file)?;
        let mut cameras = Cameras::default();
        if binary_cameras(&mut Bytes(&bytes), &mut cameras).is_none() && cameras.others.is_none() {
            let file = file.display();
            cameras.others = Some(format!(
                "{file} is damaged or incomplete: it ends within a camera; copy it again"
            ));
        }
        Ok(cameras)
    } else {
        text_cameras(&read_text(file)?).map_err(|reason| Error::input(file, reason))
    }
}

/// The matrix from the camera to the world; not finite where the quaternion is none.
fn rows(image: &Image) -> [[f64; 4]; 4] {
    let [w, x, y, z] = image.rotation;
    let rotation = UnitQuaternion::new_normalize(Quaternion::new(w, x, y, z));
    let matrix = Isometry3::from_parts(Translation3::from(image.translation), rotation)
        .inverse()
        .to_homogeneous();
    std::array::from_fn(|row| std::array::from_fn(|column| matrix[(row, column)]))
}

#[cfg(test)]
mod tests {
    use super::super::super::ListedIntrinsics;
    use super::*;

    fn assert_near(found: &[f64], wanted: &[f64]) {
        assert!(
            found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-12),
            "{found:?} and not {wanted:?}"
        );
    }

    #[test]
    fn a_pose_and_its_intrinsics_are_as_computed_by_hand() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join("cameras.txt"),
            "# comment\n7 SIMPLE_PINHOLE 640 480 500 320 241\n",
        )
        .unwrap();
        // A quarter turn about z takes the world's x to the camera's y; the camera sees the world's
        // origin at (1, 2, 3).
        let half = std::f64::consts::FRAC_1_SQRT_2;
        let images = format!(
            "# comment\n1 {half} 0 0 {half} 1 2 3 7 a b.jpg\n\n2 2 0 0 0 0 0 -4 7 c.jpg\n1 2 3\n"
        );
        fs::write(folder.path().join("images.txt"), images).unwrap();
        let entries = read(folder.path()).unwrap();
        assert_eq!(
            entries.iter().map(|entry| &*entry.name).collect::<Vec<_>>(),
            ["a b.jpg", "c.jpg"]
        );
        // The centre is what the camera takes to its origin: -transpose(R) t with R = [0 -1 0; 1 0
        // 0; 0 0 1].
        let expected = [
            [0.0, 1.0, 0.0, -2.0],
            [-1.0, 0.0, 0.0, 1.0],
            [0.0, 0.0, 1.0, -3.0],
            [0.0, 0.0, 0.0, 1.0],
        ];
        assert_near(
            &entries[0].world_from_camera.unwrap().concat(),
            &expected.concat(),
        );
        assert_near(
            &entries[1].world_from_camera.unwrap().concat()[8..12],
            &[0.0, 0.0, 1.0, 4.0],
        );
        let Inside::Known(sized) = &entries[0].inside else {
            panic!("{:?}", entries[0])
        };
        let ListedIntrinsics {
            width,
            height,
            fx,
            fy,
            cx,
            cy,
            ..
        } = sized[0];
        assert_eq!(
            [width, height, fx, fy, cx, cy],
            [640.0, 480.0, 500.0, 500.0, 319.5, 240.5]
        );
    }

    /// A file of `count` cameras, each of the model with this number and with so many parameters.
    fn cameras(count: u32, model: u32, parameters: usize) -> Vec<u8> {
        let camera = |id: u32| {
            let head = [id.to_le_bytes(), model.to_le_bytes()].concat();
            let sizes = [64_u64, 48].map(u64::to_le_bytes).concat();
            [head, sizes, vec![0; 8 * parameters]].concat()
        };
        [
            u64::from(count).to_le_bytes().to_vec(),
            (1..=count).flat_map(camera).collect(),
        ]
        .concat()
    }

    #[test]
    fn poses_are_read_whatever_is_wrong_with_cameras() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cameras.bin");
        let image = [
            &1u64.to_le_bytes()[..],
            &1u32.to_le_bytes(),
            &1f64.to_le_bytes(),
            &[0; 48],
            &2u32.to_le_bytes(),
            b"a\0",
            &[0; 8],
        ]
        .concat();
        fs::write(folder.path().join("images.bin"), image).unwrap();
        let reason = || {
            let entries = read(folder.path()).unwrap();
            assert!(entries[0].world_from_camera.is_some());
            match &entries[0].inside {
                Inside::Unusable(reason) => reason.clone(),
                other => panic!("{other:?}"),
            }
        };
        assert!(reason().contains("has no file of cameras"));
        for (bytes, part) in [
            (cameras(2, 12, 4), "not in the model's list"),
            (
                cameras(2, 99, 7),
                "camera model number 99 is not supported; supported are",
            ),
            (cameras(2, 1, 3), "damaged or incomplete"),
            (cameras(1, 1, 4), "its camera 2 is not in the model's list"),
            (cameras(2, 17, 2), "(EQUIRECTANGULAR) has distortion"),
        ] {
            fs::write(&path, bytes).unwrap();
            if part == "not in the model's list" {
                assert!(matches!(
                    &read(folder.path()).unwrap()[0].inside,
                    Inside::Known(_)
                ));
                continue;
            }
            let reason = reason();
            assert!(reason.contains(part), "{reason}");
        }
    }

    #[test]
    fn models_are_found_where_programs_put_them() {
        for place in PLACES {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir_all(folder.path().join(place)).unwrap();
            fs::write(
                folder.path().join(place).join("images.txt"),
                "1 1 0 0 0 0 0 0 1 a.jpg\n",
            )
            .unwrap();
            assert_eq!(read(folder.path()).unwrap().len(), 1, "{place}");
        }
        let nothing = tempfile::tempdir().unwrap();
        assert!(!is_model(nothing.path()));
        assert!(
            read(nothing.path())
                .unwrap_err()
                .to_string()
                .contains("not a COLMAP model: neither images.bin nor")
        );
    }
}
