//! Writes COLMAP models.

#[cfg(feature = "database")]
mod rows;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Write};

use nalgebra::{Point3, Translation3, Vector3};

use super::super::{PosedImage, TO_CORNER};
use super::Encoding;
use crate::error::Result;
use crate::files::OutputFolder;
use crate::scene::{Observation, Track};

#[cfg(feature = "database")]
pub(crate) use rows::ModelImage;

/// A whole model.
pub(crate) struct Model {
    /// One for images that have one size and equal intrinsics.
    cameras: Vec<ModelCamera>,
    /// Index of each image's camera.
    camera_of: Vec<usize>,
    images: Vec<Image>,
    points: Vec<ModelPoint>,
}

#[derive(PartialEq)]
struct ModelCamera {
    kind: CameraKind,
    size: [u32; 2],
    parameters: Vec<f64>,
}

/// COLMAP's camera models, by their numbers.
#[derive(Clone, Copy, PartialEq)]
enum CameraKind {
    /// fx, fy, cx, cy.
    Pinhole = 1,
    /// f, cx, cy, k1.
    SimpleRadial = 2,
    /// f, cx, cy, k1, k2.
    Radial = 3,
    /// fx, fy, cx, cy, k1, k2, p1, p2.
    OpenCv = 4,
}

struct Image {
    name: String,
    /// w, x, y, z of the rotation from the world to the camera.
    rotation: [f64; 4],
    translation: [f64; 3],
    observations: Vec<ImageObservation>,
}

struct ImageObservation {
    place: [f64; 2],
    point: usize,
}

struct ModelPoint {
    position: [f64; 3],
    rgb: [u8; 3],
    /// Mean reprojection error, pixels of the images.
    error: f64,
    /// Indices of images and of observations in their lists.
    track: Vec<[usize; 2]>,
}

impl Model {
    /// The model of `posed`, which are those of all views that `tracks`, in pixels of the images,
    /// are seen by, in the world in which the frame of both has its origin at `origin`.
    pub fn new(posed: &[PosedImage<'_>], tracks: &[Track], origin: Vector3<f64>) -> Self {
        let mut posed: Vec<&PosedImage<'_>> = posed.iter().collect();
        posed.sort_by(|one, two| one.name.cmp(two.name));
        let image_of: HashMap<usize, usize> =
            posed.iter().map(|image| image.index).zip(0..).collect();
        let mut images: Vec<Image> = posed
            .iter()
            .map(|image| Image::new(image, origin))
            .collect();
        let point = |(point, track): (usize, &Track)| {
            let mut errors = 0.0;
            let mut seen = Vec::with_capacity(track.observations.len());
            for &Observation { view, pixel } in &track.observations {
                let index = image_of[&view];
                let (view, image) = (posed[index], &mut images[index]);
                errors += reprojection_error(view, &track.position, pixel);
                seen.push([index, image.observations.len()]);
                image.observations.push(ImageObservation {
                    place: pixel.map(|at| at + TO_CORNER),
                    point,
                });
            }
            let position = (track.position + origin).into();
            ModelPoint {
                position,
                rgb: track.rgb,
                error: errors / seen.len() as f64,
                track: seen,
            }
        };
        let points = tracks.iter().enumerate().map(point).collect();
        let mut cameras: Vec<ModelCamera> = Vec::new();
        let camera_of = posed.iter().map(|image| {
            let camera = ModelCamera::new(image);
            cameras
                .iter()
                .position(|known| *known == camera)
                .unwrap_or_else(|| {
                    cameras.push(camera);
                    cameras.len() - 1
                })
        });
        let camera_of = camera_of.collect();
        Self {
            cameras,
            camera_of,
            images,
            points,
        }
    }

    /// How many cameras there are.
    pub fn cameras(&self) -> usize {
        self.cameras.len()
    }

    /// Mean reprojection error of the points, pixels of the images.
    pub fn mean_error(&self) -> f64 {
        self.points.iter().map(|point| point.error).sum::<f64>() / self.points.len() as f64
    }

    /// Observations of all points.
    pub fn observations(&self) -> usize {
        self.points.iter().map(|point| point.track.len()).sum()
    }

    /// Writes the three files.
    pub fn write(&self, folder: &OutputFolder, encoding: Encoding) -> Result<()> {
        match encoding {
            Encoding::Binary => {
                folder
                    .file("cameras.bin")?
                    .write_with(|out| self.write_cameras(out))?;
                folder
                    .file("images.bin")?
                    .write_with(|out| self.write_images(out))?;
                folder
                    .file("points3D.bin")?
                    .write_with(|out| self.write_points(out))
            }
            Encoding::Text => {
                folder
                    .file("cameras.txt")?
                    .write_with(|out| self.write_cameras_text(out))?;
                folder
                    .file("images.txt")?
                    .write_with(|out| self.write_images_text(out))?;
                folder
                    .file("points3D.txt")?
                    .write_with(|out| self.write_points_text(out))
            }
        }
    }

    fn write_cameras(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&count(self.cameras.len()))?;
        for (index, camera) in self.cameras.iter().enumerate() {
            out.write_all(&number(index)?)?;
            out.write_all(&(camera.kind as i32).to_le_bytes())?;
            write_all(out, camera.size.map(|side| u64::from(side).to_le_bytes()))?;
            write_all(
                out,
                camera.parameters.iter().map(|value| value.to_le_bytes()),
            )?;
        }
        Ok(())
    }

    fn write_images(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&count(self.images.len()))?;
        for (index, image) in self.images.iter().enumerate() {
            out.write_all(&number(index)?)?;
            write_all(out, image.rotation.map(f64::to_le_bytes))?;
            write_all(out, image.translation.map(f64::to_le_bytes))?;
            out.write_all(&number(self.camera_of[index])?)?;
            out.write_all(image.name.as_bytes())?;
            out.write_all(&[0])?;
            out.write_all(&count(image.observations.len()))?;
            for observation in &image.observations {
                write_all(out, observation.place.map(f64::to_le_bytes))?;
                out.write_all(&count(observation.point + 1))?;
            }
        }
        Ok(())
    }

    fn write_points(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&count(self.points.len()))?;
        for (index, point) in self.points.iter().enumerate() {
            out.write_all(&count(index + 1))?;
            write_all(out, point.position.map(f64::to_le_bytes))?;
            out.write_all(&point.rgb)?;
            out.write_all(&point.error.to_le_bytes())?;
            out.write_all(&count(point.track.len()))?;
            for &[image, observation] in &point.track {
                out.write_all(&number(image)?)?;
                // The list's own positions begin at 0.
                out.write_all(&index_of(observation)?.to_le_bytes())?;
            }
        }
        Ok(())
    }

    fn write_cameras_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "# CAMERA_ID MODEL WIDTH HEIGHT PARAMETERS; those of PINHOLE are fx fy cx cy"
        )?;
        for (index, camera) in self.cameras.iter().enumerate() {
            let [width, height] = camera.size;
            write!(out, "{} {} {width} {height}", index + 1, camera.kind.name())?;
            camera
                .parameters
                .iter()
                .try_for_each(|value| write!(out, " {value}"))?;
            writeln!(out)?;
        }
        Ok(())
    }

    fn write_images_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME")?;
        writeln!(out, "# X Y POINT3D_ID, for each observation")?;
        for (index, image) in self.images.iter().enumerate() {
            let ([qw, qx, qy, qz], [tx, ty, tz]) = (image.rotation, image.translation);
            let (id, camera) = (index + 1, self.camera_of[index] + 1);
            writeln!(
                out,
                "{id} {qw} {qx} {qy} {qz} {tx} {ty} {tz} {camera} {}",
                image.name
            )?;
            let mut line = String::new();
            for ImageObservation {
                place: [x, y],
                point,
            } in &image.observations
            {
                let gap = if line.is_empty() { "" } else { " " };
                write!(line, "{gap}{x} {y} {}", point + 1).map_err(io::Error::other)?;
            }
            writeln!(out, "{line}")?;
        }
        Ok(())
    }

    fn write_points_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "# POINT3D_ID X Y Z R G B ERROR, then IMAGE_ID POINT2D_IDX for each observation"
        )?;
        for (index, point) in self.points.iter().enumerate() {
            let ([x, y, z], [r, g, b]) = (point.position, point.rgb);
            write!(out, "{} {x} {y} {z} {r} {g} {b} {}", index + 1, point.error)?;
            for [image, observation] in &point.track {
                write!(out, " {} {observation}", image + 1)?;
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

impl ModelCamera {
    fn new(image: &PosedImage<'_>) -> Self {
        let lens = &image.lens;
        let ([fx, fy], [cx, cy], [k1, k2]) = (
            lens.focal,
            lens.principal.map(|at| at + TO_CORNER),
            lens.radial,
        );
        let (kind, parameters) = match (fx == fy, k1 == 0.0, k2 == 0.0) {
            (_, true, true) => (CameraKind::Pinhole, vec![fx, fy, cx, cy]),
            (true, _, true) => (CameraKind::SimpleRadial, vec![fx, cx, cy, k1]),
            (true, _, false) => (CameraKind::Radial, vec![fx, cx, cy, k1, k2]),
            (false, _, _) => (CameraKind::OpenCv, vec![fx, fy, cx, cy, k1, k2, 0.0, 0.0]),
        };
        Self {
            kind,
            size: [lens.width, lens.height],
            parameters,
        }
    }
}

impl CameraKind {
    fn name(self) -> &'static str {
        match self {
            Self::Pinhole => "PINHOLE",
            Self::SimpleRadial => "SIMPLE_RADIAL",
            Self::Radial => "RADIAL",
            Self::OpenCv => "OPENCV",
        }
    }
}

impl Image {
    fn new(image: &PosedImage<'_>, origin: Vector3<f64>) -> Self {
        let world_from_camera = Translation3::from(origin) * image.camera.world_from_camera;
        let camera_from_world = world_from_camera.inverse();
        let turn = camera_from_world.rotation.quaternion();
        // Of the two quaternions of a rotation the one with w above 0, as COLMAP writes them; zeros
        // stay positive.
        let sign = if turn.w < 0.0 { -1.0 } else { 1.0 };
        Self {
            name: image.name.to_string(),
            rotation: [turn.w, turn.i, turn.j, turn.k].map(|part| sign * part + 0.0),
            translation: camera_from_world.translation.vector.into(),
            observations: Vec::new(),
        }
    }
}

fn reprojection_error(image: &PosedImage<'_>, point: &Point3<f64>, place: [f64; 2]) -> f64 {
    let local = image
        .camera
        .world_from_camera
        .inverse_transform_point(point);
    image
        .lens
        .project(&local.coords)
        .map_or(f64::INFINITY, |seen| {
            (seen[0] - place[0]).hypot(seen[1] - place[1])
        })
}

fn write_all<const BYTES: usize>(
    out: &mut dyn Write,
    values: impl IntoIterator<Item = [u8; BYTES]>,
) -> io::Result<()> {
    values
        .into_iter()
        .try_for_each(|bytes| out.write_all(&bytes))
}

fn count(value: usize) -> [u8; 8] {
    (value as u64).to_le_bytes()
}

/// The number of the camera or image with this index, as it is stored.
fn number(index: usize) -> io::Result<[u8; 4]> {
    Ok(index_of(index + 1)?.to_le_bytes())
}

fn index_of(value: usize) -> io::Result<u32> {
    u32::try_from(value)
        .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, "more than 32 bits count"))
}
