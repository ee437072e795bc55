//! Reads COLMAP models, as far as cameras go: images with their poses and intrinsics.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use nalgebra::{Isometry3, Quaternion, Translation3, UnitQuaternion};

use super::super::{Inside, ListedCamera, ListedIntrinsics, TO_CORNER};
use crate::error::{Error, Result, Visible};
use crate::input::read_text;

/// COLMAP's camera models by their numbers, with the count of their parameters and of those that
/// are focal lengths. The principal point follows these, distortion follows it.
const MODELS: [(&str, usize, usize); 18] = [
    ("SIMPLE_PINHOLE", 3, 1),
    ("PINHOLE", 4, 2),
    ("SIMPLE_RADIAL", 4, 1),
    ("RADIAL", 5, 1),
    ("OPENCV", 8, 2),
    ("OPENCV_FISHEYE", 8, 2),
    ("FULL_OPENCV", 12, 2),
    ("FOV", 5, 2),
    ("SIMPLE_RADIAL_FISHEYE", 4, 1),
    ("RADIAL_FISHEYE", 5, 1),
    ("THIN_PRISM_FISHEYE", 12, 2),
    ("RAD_TAN_THIN_PRISM_FISHEYE", 16, 2),
    ("SIMPLE_DIVISION", 4, 1),
    ("DIVISION", 5, 2),
    ("SIMPLE_FISHEYE", 3, 1),
    ("FISHEYE", 4, 2),
    ("EUCM", 6, 2),
    ("EQUIRECTANGULAR", 2, 0),
];

/// Models that are a pinhole where all of their further parameters are 0; others bend even then.
const PINHOLES: [&str; 8] = [
    "SIMPLE_PINHOLE",
    "PINHOLE",
    "SIMPLE_RADIAL",
    "RADIAL",
    "OPENCV",
    "FULL_OPENCV",
    "SIMPLE_DIVISION",
    "DIVISION",
];

/// Those among them whose first coefficients are k1 and k2 of [`Lens`](crate::geometry::Lens).
const RADIALS: [&str; 4] = ["SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV"];

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

/// The intrinsics of a camera, or why they cannot be used.
fn inside(model: &str, size: [f64; 2], parameters: &[f64]) -> Inside {
    let Some((name, count, focals)) = MODELS.into_iter().find(|(name, ..)| *name == model) else {
        return Inside::Unusable(unsupported(&format!("{}", Visible(model))));
    };
    if parameters.len() != count {
        let found = parameters.len();
        return Inside::Unusable(format!(
            "its camera has {found} parameters, and those of {name} have {count}"
        ));
    }
    let is_pinhole = PINHOLES.contains(&name);
    let mut distortion = parameters[(focals + 2).min(count)..].iter().copied();
    let mut radial = [0.0; 2];
    if RADIALS.contains(&name) {
        radial
            .iter_mut()
            .zip(distortion.by_ref())
            .for_each(|(term, value)| *term = value);
    }
    if !is_pinhole || distortion.any(|value| value != 0.0) {
        return Inside::Unusable(format!(
            "its camera ({name}) has distortion that is not known here; undistort first, for example with \
             `colmap image_undistorter`, and give the model that this makes"
        ));
    }
    let [width, height] = size;
    let (fx, fy) = (parameters[0], parameters[focals - 1]);
    let (cx, cy) = (
        parameters[focals] - TO_CORNER,
        parameters[focals + 1] - TO_CORNER,
    );
    Inside::Known(vec![ListedIntrinsics {
        width,
        height,
        fx,
        fy,
        cx,
        cy,
        radial,
    }])
}

fn unsupported(model: &str) -> String {
    format!(
        "its camera model {model} is not supported; supported are, without distortion other than k1 and k2, {}; \
         undistort first, for example with `colmap image_undistorter`",
        PINHOLES.join(", ")
    )
}

/// What is left of a binary file.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const COUNT: usize>(&mut self) -> Option<[u8; COUNT]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn f64(&mut self) -> Option<f64> {
        self.take().map(f64::from_le_bytes)
    }

    fn floats<const COUNT: usize>(&mut self) -> Option<[f64; COUNT]> {
        let mut floats = [0.0; COUNT];
        for float in &mut floats {
            *float = self.f64()?;
        }
        Some(floats)
    }

    /// Up to a zero, which is passed over.
    fn name(&mut self) -> Option<String> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let name = String::from_utf8_lossy(&self.0[..end]).into_owned();
        self.0 = &self.0[end + 1..];
        Some(name)
    }

    fn skip(&mut self, bytes: u64) -> Option<()> {
        self.0 = self.0.get(usize::try_from(bytes).ok()?..)?;
        Some(())
    }
}

/// Adds the cameras to `cameras`; `None` if the file ends too early or has a model of which it is
/// not known how long it is.
fn binary_cameras(bytes: &mut Bytes<'_>, cameras: &mut Cameras) -> Option<()> {
    for _ in 0..bytes.u64()? {
        let (id, model) = (bytes.u32()?, bytes.u32()?);
        let Some((name, count, _)) = MODELS.get(model as usize) else {
            cameras.others = Some(unsupported(&format!("number {model}")));
            return None;
        };
        let size = [bytes.u64()? as f64, bytes.u64()? as f64];
        let parameters = (0..*count)
            .map(|_| bytes.f64())
            .collect::<Option<Vec<f64>>>()?;
        cameras.known.insert(id, inside(name, size, &parameters));
    }
    Some(())
}

fn binary_images(bytes: &mut Bytes<'_>) -> Option<Vec<Image>> {
    /// A place of two coordinates and the number of its point.
    const OBSERVATION: u64 = 24;
    let count = bytes.u64()?;
    let image = |_| {
        bytes.u32()?;
        let (rotation, translation, camera) = (bytes.floats()?, bytes.floats()?, bytes.u32()?);
        let name = bytes.name()?;
        let observations = bytes.u64()?;
        bytes.skip(observations.checked_mul(OBSERVATION)?)?;
        Some(Image {
            name,
            rotation,
            translation,
            camera,
        })
    };
    (0..count).map(image).collect()
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

fn text_cameras(text: &str) -> Result<Cameras, String> {
    let camera = |line: &str| -> Option<(u32, Inside)> {
        let mut words = line.split_whitespace();
        let (id, model) = (words.next()?.parse().ok()?, words.next()?);
        let numbers = words
            .map(|word| word.parse().ok())
            .collect::<Option<Vec<f64>>>()?;
        let [width, height, parameters @ ..] = &numbers[..] else {
            return None;
        };
        Some((id, inside(model, [*width, *height], parameters)))
    };
    let mut cameras = Cameras::default();
    for (number, line) in (1..)
        .zip(text.lines())
        .filter(|(_, line)| !is_comment(line) && !line.trim().is_empty())
    {
        let (id, inside) = camera(line).ok_or_else(|| {
            let found = excerpt(line);
            format!("line {number}: expected CAMERA_ID MODEL WIDTH HEIGHT PARAMETERS..., found \"{found}\"")
        })?;
        cameras.known.insert(id, inside);
    }
    Ok(cameras)
}

/// The images of a text model. After the line of an image comes one with its keypoints, which may
/// be empty; programs that have none often leave it out.
fn text_images(text: &str) -> Result<Vec<Image>, String> {
    let mut lines = (1..)
        .zip(text.lines())
        .filter(|(_, line)| !is_comment(line))
        .peekable();
    let mut images = Vec::new();
    while let Some((number, line)) = lines.next() {
        if line.trim().is_empty() {
            continue;
        }
        images.push(text_image(line).ok_or_else(|| {
            let found = excerpt(line);
            format!("line {number}: expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, found \"{found}\"")
        })?);
        lines.next_if(|(_, line)| are_keypoints(line));
    }
    Ok(images)
}

/// An image's number, seven of its pose, its camera's, and its name, which may have spaces.
fn text_image(line: &str) -> Option<Image> {
    let mut rest = line;
    let mut word = || {
        let (word, after) = rest.trim_start().split_once(char::is_whitespace)?;
        rest = after;
        Some(word)
    };
    word()?.parse::<u32>().ok()?;
    let mut pose = [0.0; 7];
    for value in &mut pose {
        *value = word()?.parse().ok()?;
    }
    let camera = word()?.parse().ok()?;
    let name = rest.trim().to_owned();
    let [qw, qx, qy, qz, translation @ ..] = pose;
    (!name.is_empty()).then_some(Image {
        name,
        rotation: [qw, qx, qy, qz],
        translation,
        camera,
    })
}

/// Whether a line is one of keypoints, X Y POINT3D_ID each: an image's has ten words, or a name
/// that is not a number.
fn are_keypoints(line: &str) -> bool {
    let mut count = 0;
    let numbers = line
        .split_whitespace()
        .inspect(|_| count += 1)
        .all(|word| word.parse::<f64>().is_ok());
    numbers && count % 3 == 0
}

/// The beginning of a line, for a message.
fn excerpt(line: &str) -> String {
    const MOST: usize = 60;
    let end = line
        .char_indices()
        .nth(MOST)
        .map_or(line.len(), |(at, _)| at);
    format!(
        "{}{}",
        Visible(&line[..end]),
        if end < line.len() { "..." } else { "" }
    )
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn distortion_that_is_not_radial_makes_intrinsics_unusable_and_zeros_do_not() {
        let of = |model: &str, parameters: &[f64]| inside(model, [64.0, 48.0], parameters);
        let refusal = |model: &str, parameters: &[f64]| match of(model, parameters) {
            Inside::Unusable(reason) => reason,
            other => panic!("{other:?}"),
        };
        assert!(matches!(
            of("SIMPLE_RADIAL", &[50.0, 32.0, 24.0, 0.0]),
            Inside::Known(_)
        ));
        assert!(matches!(
            of("DIVISION", &[50.0, 51.0, 32.0, 24.0, 0.0]),
            Inside::Known(_)
        ));
        let radial = |model: &str, parameters: &[f64]| match of(model, parameters) {
            Inside::Known(sized) => sized[0].radial,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            radial("SIMPLE_RADIAL", &[50.0, 32.0, 24.0, 0.1]),
            [0.1, 0.0]
        );
        assert_eq!(radial("RADIAL", &[50.0, 32.0, 24.0, 0.1, 0.2]), [0.1, 0.2]);
        assert_eq!(
            radial("OPENCV", &[50.0, 51.0, 32.0, 24.0, 0.1, 0.2, 0.0, 0.0]),
            [0.1, 0.2]
        );
        assert!(
            refusal("OPENCV", &[50.0, 51.0, 32.0, 24.0, 0.0, 0.0, 0.1, 0.0])
                .contains("(OPENCV) has distortion")
        );
        assert!(
            refusal("DIVISION", &[50.0, 51.0, 32.0, 24.0, 0.1])
                .contains("(DIVISION) has distortion")
        );
        for (model, count, _) in MODELS
            .into_iter()
            .filter(|(model, ..)| !PINHOLES.contains(model))
        {
            let message = refusal(model, &vec![0.0; count]);
            assert!(
                message.contains(&format!("({model})")) && message.contains("undistort first"),
                "{message}"
            );
        }
        assert!(
            refusal("PINHOLE", &[50.0, 32.0, 24.0])
                .contains("has 3 parameters, and those of PINHOLE have 4")
        );
        let message = refusal("PERIODIC", &[50.0]);
        assert!(
            message.contains(
                "PERIODIC is not supported; supported are, without distortion other than k1 and k2, SIMPLE_PINHOLE, "
            ),
            "{message}"
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
    fn lines_of_keypoints_may_be_missing() {
        let image = |id: u32, name: &str| format!("{id} 1 0 0 0 0 0 {id} 1 {name}\n");
        let [a, b, c] = ["a.jpg", "left/b c.jpg", "d e f.jpg"]
            .into_iter()
            .zip(1..)
            .map(|(name, id)| image(id, name))
            .collect::<Vec<_>>()
            .try_into()
            .unwrap();
        let keypoints = "1.5 2.5 -1 3 4 17 5 6 7 8 9 10\n";
        for text in [
            format!("{a}\n{b}\n{c}\n"),
            format!("{a}{b}{c}"),
            format!("# x\n{a}{keypoints}{b}{c}{keypoints}"),
            format!("{a}{keypoints}\n{b}\n\n{c}"),
            format!("{a}# between\n\n{b}{keypoints}{c}")
                .replace(' ', "\t")
                .replace("b\tc", "b c")
                .replace("d\te\tf", "d e f"),
        ] {
            let images = text_images(&text).unwrap();
            let names: Vec<&str> = images.iter().map(|image| &*image.name).collect();
            assert_eq!(names, ["a.jpg", "left/b c.jpg", "d e f.jpg"], "{text}");
            assert_eq!(images[2].translation, [0.0, 0.0, 3.0]);
        }
        let message = text_images(&format!("{a}{b}one two\n")).err().unwrap();
        assert_eq!(
            message,
            "line 3: expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, found \"one two\""
        );
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

    #[test]
    fn cut_files_are_refused() {
        let whole = [
            &1u64.to_le_bytes()[..],
            &1u32.to_le_bytes(),
            &[0; 56],
            &1u32.to_le_bytes(),
            b"a\0",
            &[0; 8],
        ]
        .concat();
        assert!(binary_images(&mut Bytes(&whole)).is_some());
        assert!(
            (0..whole.len()).all(|length| binary_images(&mut Bytes(&whole[..length])).is_none())
        );
        let huge = [&u64::MAX.to_le_bytes()[..], &[0; 64]].concat();
        assert!(binary_images(&mut Bytes(&huge)).is_none());
        assert!(binary_cameras(&mut Bytes(&huge), &mut Cameras::default()).is_none());
    }
}
