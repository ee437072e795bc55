//! A reader of COLMAP models that shares no code with the writer.

use std::fs;
use std::path::{Path, PathBuf};

use nalgebra::{Quaternion, UnitQuaternion, Vector3};

/// A COLMAP model as its format's page has it.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Model {
    pub(crate) cameras: Vec<ModelCamera>,
    pub(crate) images: Vec<ModelImage>,
    pub(crate) points: Vec<ModelPoint>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct ModelCamera {
    pub(crate) id: u64,
    pub(crate) kind: String,
    pub(crate) size: [u64; 2],
    /// In the order of its kind; of `PINHOLE` fx, fy, cx and cy.
    pub(crate) parameters: Vec<f64>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct ModelImage {
    pub(crate) id: u64,
    pub(crate) camera_from_world: [f64; 7],
    pub(crate) camera: u64,
    pub(crate) name: String,
    pub(crate) observations: Vec<([f64; 2], u64)>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct ModelPoint {
    pub(crate) id: u64,
    pub(crate) position: [f64; 3],
    pub(crate) rgb: [u8; 3],
    pub(crate) error: f64,
    pub(crate) track: Vec<[u64; 2]>,
}

/// Bytes from the front, little endian.
struct Bytes(std::vec::IntoIter<u8>);

impl Bytes {
    fn open(path: PathBuf) -> Self {
        Self(fs::read(path).unwrap().into_iter())
    }

    fn whole(&mut self, bytes: u32) -> u64 {
        (0..bytes)
            .map(|at| u64::from(self.0.next().unwrap()) << (8 * at))
            .sum()
    }

    fn floats<const COUNT: usize>(&mut self) -> [f64; COUNT] {
        std::array::from_fn(|_| f64::from_bits(self.whole(8)))
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = self.whole(8);
        (0..count).map(|_| item(self)).collect()
    }

    fn end(self) {
        assert_eq!(self.0.len(), 0, "bytes are left");
    }
}

pub(crate) fn read_binary(folder: &Path) -> Model {
    let mut file = Bytes::open(folder.join("cameras.bin"));
    let cameras = file.list(|file| {
        let id = file.whole(4);
        assert_eq!(file.whole(4), 1, "PINHOLE");
        ModelCamera {
            id,
            kind: "PINHOLE".into(),
            size: [file.whole(8), file.whole(8)],
            parameters: file.floats::<4>().into(),
        }
    });
    file.end();
    let mut file = Bytes::open(folder.join("images.bin"));
    let images = file.list(|file| ModelImage {
        id: file.whole(4),
        camera_from_world: file.floats(),
        camera: file.whole(4),
        name: String::from_utf8(file.0.by_ref().take_while(|byte| *byte != 0).collect()).unwrap(),
        observations: file.list(|file| (file.floats(), file.whole(8))),
    });
    file.end();
    let mut file = Bytes::open(folder.join("points3D.bin"));
    let points = file.list(|file| ModelPoint {
        id: file.whole(8),
        position: file.floats(),
        rgb: [0; 3].map(|_: u8| file.whole(1) as u8),
        error: file.floats::<1>()[0],
        track: file.list(|file| [file.whole(4), file.whole(4)]),
    });
    file.end();
    Model {
        cameras,
        images,
        points,
    }
}

pub(crate) fn read_text(folder: &Path) -> Model {
    let rows = |name: &str| -> Vec<Vec<String>> {
        let text = fs::read_to_string(folder.join(name)).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| line.split_whitespace().map(String::from).collect())
            .collect()
    };
    let floats =
        |words: &[String]| -> Vec<f64> { words.iter().map(|word| word.parse().unwrap()).collect() };
    let wholes =
        |words: &[String]| -> Vec<u64> { words.iter().map(|word| word.parse().unwrap()).collect() };
    let camera = |row: &Vec<String>| ModelCamera {
        id: wholes(&row[..1])[0],
        kind: row[1].clone(),
        size: wholes(&row[2..4]).try_into().unwrap(),
        parameters: floats(&row[4..]),
    };
    let image = |rows: &[Vec<String>]| ModelImage {
        id: wholes(&rows[0][..1])[0],
        camera_from_world: floats(&rows[0][1..8]).try_into().unwrap(),
        camera: wholes(&rows[0][8..9])[0],
        name: rows[0][9..].join(" "),
        observations: rows[1]
            .chunks(3)
            .map(|three| ([0, 1].map(|at| floats(three)[at]), wholes(&three[2..])[0]))
            .collect(),
    };
    let point = |row: &Vec<String>| ModelPoint {
        id: wholes(&row[..1])[0],
        position: floats(&row[1..4]).try_into().unwrap(),
        rgb: [4, 5, 6].map(|at| row[at].parse().unwrap()),
        error: floats(&row[7..8])[0],
        track: wholes(&row[8..])
            .chunks(2)
            .map(|two| [two[0], two[1]])
            .collect(),
    };
    Model {
        cameras: rows("cameras.txt").iter().map(camera).collect(),
        images: rows("images.txt").chunks(2).map(image).collect(),
        points: rows("points3D.txt").iter().map(point).collect(),
    }
}

impl Model {
    pub(crate) fn image(&self, name: &str) -> &ModelImage {
        let mut images = self.images.iter();
        images.find(|image| image.name == name).unwrap()
    }

    /// The camera of an image.
    pub(crate) fn camera(&self, image: &ModelImage) -> &ModelCamera {
        let mut cameras = self.cameras.iter();
        cameras.find(|camera| camera.id == image.camera).unwrap()
    }
}

impl ModelImage {
    /// Where a point of the world is seen, in COLMAP's pixels.
    pub(crate) fn project(&self, point: [f64; 3], model: &Model) -> [f64; 2] {
        let [w, x, y, z, tx, ty, tz] = self.camera_from_world;
        let rotation = Quaternion::new(w, x, y, z);
        assert!((rotation.norm() - 1.0).abs() < 1e-12 && w >= 0.0);
        let local = UnitQuaternion::new_normalize(rotation) * Vector3::from(point)
            + Vector3::new(tx, ty, tz);
        let [fx, fy, cx, cy] = model.camera(self).parameters[..].try_into().unwrap();
        [fx * local.x / local.z + cx, fy * local.y / local.z + cy]
    }
}

/// Checks that points and images name each other, and returns the largest reprojection error.
pub(crate) fn largest_error(model: &Model) -> f64 {
    let mut largest = 0.0_f64;
    for point in &model.points {
        assert!(point.track.len() >= 2);
        let mut seen: Vec<u64> = point.track.iter().map(|[image, _]| *image).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), point.track.len(), "one image twice");
        for [id, index] in &point.track {
            let image = model.images.iter().find(|image| image.id == *id).unwrap();
            let (place, number) = image.observations[*index as usize];
            assert_eq!(number, point.id);
            let seen = image.project(point.position, model);
            largest = largest.max((seen[0] - place[0]).hypot(seen[1] - place[1]));
        }
    }
    let observations: usize = model
        .images
        .iter()
        .map(|image| image.observations.len())
        .sum();
    assert_eq!(
        observations,
        model
            .points
            .iter()
            .map(|point| point.track.len())
            .sum::<usize>()
    );
    largest
}
