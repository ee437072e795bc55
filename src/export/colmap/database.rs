//! A COLMAP database: keypoints, matches and two-view geometries of the tracks of a model, for
//! COLMAP's and GLOMAP's mappers, triangulation and whatever else starts from matches.
//!
//! Numbers of cameras, images and keypoints are those of the model beside it. The matches of two
//! images are all pairs of keypoints of a track; the same are the inliers of their geometry, whose
//! matrices follow from the model's cameras without lens distortion. There are no descriptors.

use std::collections::BTreeMap;

use nalgebra::Matrix3;
use rusqlite::{Connection, MAIN_DB, params};

use crate::error::{Error, Result};
use crate::files::OutputFile;
use crate::formats::colmap::{Model, ModelImage};

/// The tables of COLMAP 3.9, which later versions add to when they open a database, and the rigs
/// and frames of 3.12 and later.
const TABLES: &str = "
CREATE TABLE cameras (camera_id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, model INTEGER NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, params BLOB, prior_focal_length INTEGER NOT NULL);
CREATE TABLE images (image_id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, name TEXT NOT NULL UNIQUE,
    camera_id INTEGER NOT NULL,
    CONSTRAINT image_id_check CHECK(image_id >= 0 and image_id < 2147483647),
    FOREIGN KEY(camera_id) REFERENCES cameras(camera_id));
CREATE UNIQUE INDEX index_name ON images(name);
CREATE TABLE rigs (rig_id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, ref_sensor_id INTEGER NOT NULL,
    ref_sensor_type INTEGER NOT NULL);
CREATE UNIQUE INDEX rig_ref_sensor_assignment ON rigs(ref_sensor_id, ref_sensor_type);
CREATE TABLE frames (frame_id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, rig_id INTEGER NOT NULL,
    FOREIGN KEY(rig_id) REFERENCES rigs(rig_id) ON DELETE CASCADE);
CREATE TABLE frame_data (frame_id INTEGER NOT NULL, data_id INTEGER NOT NULL, sensor_id INTEGER NOT NULL,
    sensor_type INTEGER NOT NULL, FOREIGN KEY(frame_id) REFERENCES frames(frame_id) ON DELETE CASCADE);
CREATE UNIQUE INDEX frame_sensor_assignment ON frame_data(data_id, sensor_type);
CREATE TABLE keypoints (image_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL, cols INTEGER NOT NULL,
    data BLOB, FOREIGN KEY(image_id) REFERENCES images(image_id) ON DELETE CASCADE);
CREATE TABLE descriptors (image_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL, cols INTEGER NOT NULL,
    data BLOB, FOREIGN KEY(image_id) REFERENCES images(image_id) ON DELETE CASCADE);
CREATE TABLE matches (pair_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL, cols INTEGER NOT NULL,
    data BLOB);
CREATE TABLE two_view_geometries (pair_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL,
    cols INTEGER NOT NULL, data BLOB, config INTEGER NOT NULL, F BLOB, E BLOB, H BLOB, qvec BLOB, tvec BLOB);
PRAGMA user_version = 3900;
";

/// The number of two images' pair is that of the first times this plus that of the second.
const MOST_IMAGES: i64 = 2_147_483_647;
/// A sensor that is a camera.
const CAMERA: i64 = 0;
/// A geometry of calibrated cameras.
const CALIBRATED: i64 = 2;

/// Writes the database of a model.
pub(super) fn write(model: &Model, file: OutputFile) -> Result<()> {
    let path = file.path().to_path_buf();
    let bytes = database(model).map_err(|error| Error::io(&path, std::io::Error::other(error)))?;
    file.write_with(|out| out.write_all(&bytes))
}

fn database(model: &Model) -> rusqlite::Result<Vec<u8>> {
    let mut connection = Connection::open_in_memory()?;
    connection.execute_batch(TABLES)?;
    let all = connection.transaction()?;
    for (number, (kind, [width, height], parameters)) in (1_i64..).zip(model.camera_rows()) {
        all.execute(
            // The focal length is known as well as it is going to be.
            "INSERT INTO cameras VALUES (?, ?, ?, ?, ?, 1)",
            params![number, kind, width, height, floats(parameters)],
        )?;
        all.execute(
            "INSERT INTO rigs VALUES (?, ?, ?)",
            params![number, number, CAMERA],
        )?;
    }
    let images: Vec<ModelImage<'_>> = model.image_rows().collect();
    for (number, image) in (1_i64..).zip(&images) {
        let camera = image.camera as i64 + 1;
        all.execute(
            "INSERT INTO images VALUES (?, ?, ?)",
            params![number, image.name, camera],
        )?;
        all.execute("INSERT INTO frames VALUES (?, ?)", params![number, camera])?;
        all.execute(
            "INSERT INTO frame_data VALUES (?, ?, ?, ?)",
            params![number, number, camera, CAMERA],
        )?;
        let places = image.keypoints.as_flattened().iter();
        let data: Vec<u8> = places.flat_map(|at| (*at as f32).to_le_bytes()).collect();
        all.execute(
            "INSERT INTO keypoints VALUES (?, ?, 2, ?)",
            params![number, image.keypoints.len() as i64, data],
        )?;
    }
    for ([first, second], pairs) in matches(model) {
        let number = (first as i64 + 1) * MOST_IMAGES + second as i64 + 1;
        let count = pairs.len() as i64;
        let data: Vec<u8> = pairs
            .as_flattened()
            .iter()
            .flat_map(|index| index.to_le_bytes())
            .collect();
        all.execute(
            "INSERT INTO matches VALUES (?, ?, 2, ?)",
            params![number, count, data],
        )?;
        let Geometry {
            fundamental,
            essential,
            rotation,
            translation,
        } = Geometry::of(&images[first], &images[second]);
        all.execute(
            "INSERT INTO two_view_geometries VALUES (?, ?, 2, ?, ?, ?, ?, ?, ?, ?)",
            params![
                number,
                count,
                data,
                CALIBRATED,
                rows(&fundamental),
                rows(&essential),
                // No homography.
                rows(&Matrix3::zeros()),
                floats(&rotation),
                floats(&translation),
            ],
        )?;
    }
    all.commit()?;
    Ok(connection.serialize(MAIN_DB)?.to_vec())
}

/// For each two images, the first before the second, the keypoints of both that show one point.
fn matches(model: &Model) -> BTreeMap<[usize; 2], Vec<[u32; 2]>> {
    let mut found: BTreeMap<[usize; 2], Vec<[u32; 2]>> = BTreeMap::new();
    for track in model.tracks() {
        for (at, two) in track.iter().enumerate() {
            for one in &track[..at] {
                let (first, second) = if one[0] < two[0] {
                    (one, two)
                } else {
                    (two, one)
                };
                let keypoints = [first[1] as u32, second[1] as u32];
                found
                    .entry([first[0], second[0]])
                    .or_default()
                    .push(keypoints);
            }
        }
    }
    found
}

/// What two cameras say of each other's images.
struct Geometry {
    fundamental: Matrix3<f64>,
    essential: Matrix3<f64>,
    /// w, x, y, z, from the first camera to the second.
    rotation: [f64; 4],
    translation: [f64; 3],
}

impl Geometry {
    /// With R and t from the first camera to the second: E = [t]x R with t of length 1, as COLMAP
    /// has it, and F = K2^-T E K1^-1.
    fn of(first: &ModelImage<'_>, second: &ModelImage<'_>) -> Self {
        let pose = second.camera_from_world * first.camera_from_world.inverse();
        let shift = pose.translation.vector;
        let shift = shift.try_normalize(0.0).unwrap_or(shift);
        let essential = shift.cross_matrix() * pose.rotation.to_rotation_matrix().matrix();
        let inverse = |image: &ModelImage<'_>| {
            let ([fx, fy], [cx, cy]) = (image.focal, image.principal);
            Matrix3::new(
                1.0 / fx,
                0.0,
                -cx / fx,
                0.0,
                1.0 / fy,
                -cy / fy,
                0.0,
                0.0,
                1.0,
            )
        };
        let turn = pose.rotation.quaternion();
        Self {
            fundamental: inverse(second).transpose() * essential * inverse(first),
            essential,
            rotation: [turn.w, turn.i, turn.j, turn.k],
            translation: shift.into(),
        }
    }
}

fn floats(values: &[f64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// By rows.
fn rows(matrix: &Matrix3<f64>) -> Vec<u8> {
    floats(matrix.transpose().as_slice())
}
