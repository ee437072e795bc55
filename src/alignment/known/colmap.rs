//! COLMAP models, as far as cameras go: pictures with their poses and intrinsics.
//!
//! A COLMAP pose takes the world to the camera, w of its quaternion is first, and the centre of the top left pixel is
//! (0.5, 0.5). Sizes are those of the picture's file.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use nalgebra::{Isometry3, Quaternion, Translation3, UnitQuaternion};

use super::{Entry, Inside, Sized};
use crate::error::{Error, Result};

/// From coordinates whose integers are pixel centres to COLMAP's.
const TO_CORNER: f64 = 0.5;

/// COLMAP's camera models by their numbers, with the count of their parameters and of those that are focal lengths. The
/// principal point follows these, distortion follows it.
const MODELS: [(&str, usize, usize); 12] = [
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
];

struct Image {
    name: String,
    /// w, x, y, z, world to camera.
    rotation: [f64; 4],
    translation: [f64; 3],
    camera: u32,
}

/// The pictures of the model in `folder`, or in `sparse/0` of it.
pub(super) fn read(folder: &Path) -> Result<Vec<Entry>> {
    let find = |stem: &str| {
        let places = [folder.to_path_buf(), folder.join("sparse/0")];
        let files = places.iter().flat_map(|place| ["bin", "txt"].map(|kind| place.join(format!("{stem}.{kind}"))));
        files.into_iter().find(|file| file.is_file())
    };
    let (Some(cameras), Some(images)) = (find("cameras"), find("images")) else {
        let reason = "no COLMAP model: it needs cameras and images, .bin or .txt, in it or in its folder sparse/0";
        return Err(Error::input(folder, reason));
    };
    let cameras = read_file(&cameras, binary_cameras, text_cameras)?;
    let images = read_file(&images, binary_images, text_images)?;
    let entry = |image: Image| Entry {
        inside: cameras.get(&image.camera).cloned().unwrap_or(Inside::Unknown),
        world_from_camera: Some(rows(&image)),
        name: image.name,
    };
    Ok(images.into_iter().map(entry).collect())
}

/// Reads a file of either kind; `None` of a reader is a file that contradicts its format.
fn read_file<T>(
    path: &PathBuf,
    binary: impl Fn(&mut Bytes<'_>) -> Option<T>,
    text: impl Fn(&str) -> Option<T>,
) -> Result<T> {
    let bytes = fs::read(path).map_err(|error| Error::io(path, error))?;
    let found = match path.extension().is_some_and(|extension| extension == "bin") {
        true => binary(&mut Bytes(&bytes)),
        false => str::from_utf8(&bytes).ok().and_then(text),
    };
    found.ok_or_else(|| Error::input(path, "damaged, incomplete or no part of a COLMAP model"))
}

/// The matrix from the camera to the world; not finite where the quaternion is none.
fn rows(image: &Image) -> [[f64; 4]; 4] {
    let [w, x, y, z] = image.rotation;
    let rotation = UnitQuaternion::new_normalize(Quaternion::new(w, x, y, z));
    let matrix = Isometry3::from_parts(Translation3::from(image.translation), rotation).inverse().to_homogeneous();
    std::array::from_fn(|row| std::array::from_fn(|column| matrix[(row, column)]))
}

fn inside(model: &str, size: [f64; 2], parameters: &[f64]) -> Option<Inside> {
    let (name, count, focals) = MODELS.into_iter().find(|(name, ..)| *name == model)?;
    if parameters.len() != count {
        return None;
    }
    let distortion = &parameters[focals + 2..];
    // Fisheye models bend even where all of their numbers are 0.
    if distortion.iter().any(|value| *value != 0.0) || name.contains("FISHEYE") || name == "FOV" {
        return Some(Inside::Unusable(format!(
            "its camera ({name}) has distortion, and pictures are taken to have none; give a model of undistorted ones"
        )));
    }
    let [width, height] = size;
    let (fx, fy) = (parameters[0], parameters[focals - 1]);
    let (cx, cy) = (parameters[focals] - TO_CORNER, parameters[focals + 1] - TO_CORNER);
    Some(Inside::Known(vec![Sized { width, height, fx, fy, cx, cy }]))
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

fn binary_cameras(bytes: &mut Bytes<'_>) -> Option<HashMap<u32, Inside>> {
    let count = bytes.u64()?;
    let camera = |_| {
        let id = bytes.u32()?;
        let (model, parameters, _) = *MODELS.get(bytes.u32()? as usize)?;
        let size = [bytes.u64()? as f64, bytes.u64()? as f64];
        let parameters = (0..parameters).map(|_| bytes.f64()).collect::<Option<Vec<f64>>>()?;
        Some((id, inside(model, size, &parameters)?))
    };
    (0..count).map(camera).collect()
}

fn binary_images(bytes: &mut Bytes<'_>) -> Option<Vec<Image>> {
    /// A place of two coordinates and the number of its point.
    const SIGHTING: u64 = 24;
    let count = bytes.u64()?;
    let image = |_| {
        bytes.u32()?;
        let (rotation, translation, camera) = (bytes.floats()?, bytes.floats()?, bytes.u32()?);
        let name = bytes.name()?;
        let sightings = bytes.u64()?;
        bytes.skip(sightings.checked_mul(SIGHTING)?)?;
        Some(Image { name, rotation, translation, camera })
    };
    (0..count).map(image).collect()
}

fn is_comment(line: &str) -> bool {
    line.trim().is_empty() || line.trim_start().starts_with('#')
}

fn text_cameras(text: &str) -> Option<HashMap<u32, Inside>> {
    let camera = |line: &str| {
        let mut words = line.split_whitespace();
        let (id, model) = (words.next()?.parse().ok()?, words.next()?);
        let numbers = words.map(|word| word.parse().ok()).collect::<Option<Vec<f64>>>()?;
        let [width, height, parameters @ ..] = &numbers[..] else { return None };
        Some((id, inside(model, [*width, *height], parameters)?))
    };
    text.lines().filter(|line| !is_comment(line)).map(camera).collect()
}

fn text_images(text: &str) -> Option<Vec<Image>> {
    let mut lines = text.lines();
    let mut images = Vec::new();
    while let Some(line) = lines.find(|line| !is_comment(line)) {
        // An image's number, seven of its pose, its camera's, and its name, which may have spaces.
        let mut words = line.trim().splitn(10, ' ');
        words.next()?.parse::<u32>().ok()?;
        let pose = words.by_ref().take(7).map(|word| word.parse().ok()).collect::<Option<Vec<f64>>>()?;
        let [qw, qx, qy, qz, x, y, z] = pose[..] else { return None };
        let (camera, name) = (words.next()?.parse().ok()?, words.next()?.to_owned());
        images.push(Image { name, rotation: [qw, qx, qy, qz], translation: [x, y, z], camera });
        // Its sightings, a line that may be empty.
        lines.next();
    }
    Some(images)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_near(found: &[f64], wanted: &[f64]) {
        assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?} and not {wanted:?}");
    }

    #[test]
    fn a_pose_and_its_intrinsics_are_as_computed_by_hand() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cameras.txt"), "# comment\n7 SIMPLE_PINHOLE 640 480 500 320 241\n").unwrap();
        // A quarter turn about z takes the world's x to the camera's y; the camera sees the world's origin at (1, 2, 3).
        let half = std::f64::consts::FRAC_1_SQRT_2;
        let images = format!("# comment\n1 {half} 0 0 {half} 1 2 3 7 a b.jpg\n\n2 2 0 0 0 0 0 -4 7 c.jpg\n1 2 3\n");
        fs::write(folder.path().join("images.txt"), images).unwrap();
        let entries = read(folder.path()).unwrap();
        assert_eq!(entries.iter().map(|entry| &*entry.name).collect::<Vec<_>>(), ["a b.jpg", "c.jpg"]);
        // The centre is what the camera takes to its origin: -transpose(R) t with R = [0 -1 0; 1 0 0; 0 0 1].
        let expected = [[0.0, 1.0, 0.0, -2.0], [-1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, -3.0], [0.0, 0.0, 0.0, 1.0]];
        assert_near(&entries[0].world_from_camera.unwrap().concat(), &expected.concat());
        assert_near(&entries[1].world_from_camera.unwrap().concat()[8..12], &[0.0, 0.0, 1.0, 4.0]);
        let Inside::Known(sized) = &entries[0].inside else { panic!("{:?}", entries[0]) };
        let Sized { width, height, fx, fy, cx, cy } = sized[0];
        assert_eq!([width, height, fx, fy, cx, cy], [640.0, 480.0, 500.0, 500.0, 319.5, 240.5]);
    }

    #[test]
    fn distortion_makes_intrinsics_unusable_and_zeros_do_not() {
        let of = |model: &str, parameters: &[f64]| inside(model, [64.0, 48.0], parameters).unwrap();
        assert!(matches!(of("SIMPLE_RADIAL", &[50.0, 32.0, 24.0, 0.0]), Inside::Known(_)));
        assert!(matches!(of("SIMPLE_RADIAL", &[50.0, 32.0, 24.0, 0.1]), Inside::Unusable(_)));
        let fisheye = of("OPENCV_FISHEYE", &[50.0, 51.0, 32.0, 24.0, 0.0, 0.0, 0.0, 0.0]);
        assert!(matches!(fisheye, Inside::Unusable(reason) if reason.contains("OPENCV_FISHEYE")));
        assert!(inside("PINHOLE", [64.0, 48.0], &[50.0, 32.0, 24.0]).is_none());
        assert!(inside("PERIODIC", [64.0, 48.0], &[50.0]).is_none());
    }

    #[test]
    fn cut_files_are_refused() {
        let whole =
            [&1u64.to_le_bytes()[..], &1u32.to_le_bytes(), &[0; 56], &1u32.to_le_bytes(), b"a\0", &[0; 8]].concat();
        assert!(binary_images(&mut Bytes(&whole)).is_some());
        assert!((0..whole.len()).all(|length| binary_images(&mut Bytes(&whole[..length])).is_none()));
        let huge = [&u64::MAX.to_le_bytes()[..], &[0; 64]].concat();
        assert!(binary_images(&mut Bytes(&huge)).is_none() && binary_cameras(&mut Bytes(&huge)).is_none());
    }
}
