//! Cameras as nerfstudio and instant-ngp have them, `transforms.json`.
//!
//! A matrix takes the camera to the world, with OpenGL's camera axes: y up, z backward. Principal
//! points count from the corner of the top left pixel. What all frames have in common may stand
//! beside them.

use std::path::Path;

use nalgebra::{Matrix3, Matrix4, Translation3, Vector3};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Inside, ListedCamera, ListedIntrinsics, PosedImage, TO_CORNER};
use crate::error::{Error, Result};
use crate::geometry::Camera;

/// Name of the file.
pub(crate) const FILE: &str = "transforms.json";
/// Name of the folder of images beside a file that is written.
pub(crate) const IMAGES: &str = "images";
/// Name of the cloud beside it.
pub(crate) const CLOUD: &str = "sparse_pc.ply";

/// Camera models that are a pinhole where their coefficients are 0.
const PINHOLES: [&str; 4] = ["OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE"];

#[derive(Debug, Deserialize)]
struct TransformsFile {
    frames: Vec<Frame>,
    #[serde(flatten)]
    lens: Lens,
}

#[derive(Debug, Deserialize)]
struct Frame {
    file_path: String,
    transform_matrix: Vec<Vec<f64>>,
    #[serde(flatten)]
    lens: Lens,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Lens {
    camera_model: Option<String>,
    is_fisheye: Option<bool>,
    camera_angle_x: Option<f64>,
    w: Option<f64>,
    h: Option<f64>,
    fl_x: Option<f64>,
    fl_y: Option<f64>,
    cx: Option<f64>,
    cy: Option<f64>,
    k1: Option<f64>,
    k2: Option<f64>,
    k3: Option<f64>,
    k4: Option<f64>,
    p1: Option<f64>,
    p2: Option<f64>,
}

/// The cameras of a file with this text.
pub(crate) fn read(text: &str, file: &Path) -> Result<Vec<ListedCamera>> {
    let TransformsFile {
        frames,
        lens: shared,
    } = serde_json::from_str(text).map_err(|error| {
        Error::input(
            file,
            format!("not a transforms.json as nerfstudio writes it: {error}"),
        )
    })?;
    let entry = |frame: Frame| {
        let rows = rows(&frame.transform_matrix).ok_or_else(|| {
            let (name, count) = (&frame.file_path, frame.transform_matrix.len());
            Error::input(
                file,
                format!("{name}: its transform_matrix has {count} rows; expected 3 or 4 rows of 4 numbers"),
            )
        })?;
        let inside = frame.lens.or(&shared).inside();
        Ok(ListedCamera {
            name: frame.file_path,
            inside,
            world_from_camera: Some(rows),
        })
    };
    frames.into_iter().map(entry).collect()
}

/// The matrix for OpenCV's camera axes.
fn rows(matrix: &[Vec<f64>]) -> Option<[[f64; 4]; 4]> {
    let mut rows = [[0.0, 0.0, 0.0, 1.0]; 4];
    if !matches!(matrix.len(), 3 | 4) {
        return None;
    }
    for (row, found) in rows.iter_mut().zip(matrix) {
        let [x, y, z, shift] = found[..] else {
            return None;
        };
        *row = [x, -y, -z, shift];
    }
    // The last row is that of every such matrix, whose zeros have no sign.
    if let Some([x, y, z, _]) = matrix.get(3).map(|_| rows[3])
        && [x, y, z] != [0.0; 3]
    {
        return None;
    }
    rows[3] = [0.0, 0.0, 0.0, rows[3][3]];
    Some(rows)
}

impl Lens {
    /// What this says, and of the rest what `other` says.
    fn or(self, other: &Self) -> Self {
        Self {
            camera_model: self.camera_model.or_else(|| other.camera_model.clone()),
            is_fisheye: self.is_fisheye.or(other.is_fisheye),
            camera_angle_x: self.camera_angle_x.or(other.camera_angle_x),
            w: self.w.or(other.w),
            h: self.h.or(other.h),
            fl_x: self.fl_x.or(other.fl_x),
            fl_y: self.fl_y.or(other.fl_y),
            cx: self.cx.or(other.cx),
            cy: self.cy.or(other.cy),
            k1: self.k1.or(other.k1),
            k2: self.k2.or(other.k2),
            k3: self.k3.or(other.k3),
            k4: self.k4.or(other.k4),
            p1: self.p1.or(other.p1),
            p2: self.p2.or(other.p2),
        }
    }

    fn inside(&self) -> Inside {
        let model = self.camera_model.as_deref().unwrap_or(PINHOLES[0]);
        let radial = [self.k1, self.k2].map(Option::unwrap_or_default);
        let has_size = self.w.is_some() && self.h.is_some();
        let others = [self.k3, self.k4, self.p1, self.p2].map(Option::unwrap_or_default);
        let is_bent = others != [0.0; 4] || (radial != [0.0; 2] && !has_size);
        if is_bent || self.is_fisheye == Some(true) || !PINHOLES.contains(&model) {
            return Inside::Unusable(format!(
                "its camera ({model}) has distortion that is not known here; undistort first and give the file of the \
                 undistorted images"
            ));
        }
        let focal = |width: f64| {
            self.fl_x
                .or_else(|| Some(width / 2.0 / (self.camera_angle_x? / 2.0).tan()))
        };
        match (self.w, self.h) {
            (Some(width), Some(height)) => match focal(width) {
                Some(fx) => Inside::Known(vec![ListedIntrinsics {
                    width,
                    height,
                    fx,
                    fy: self.fl_y.unwrap_or(fx),
                    cx: self.cx.unwrap_or(width / 2.0) - TO_CORNER,
                    cy: self.cy.unwrap_or(height / 2.0) - TO_CORNER,
                    radial,
                }]),
                None => Inside::Unknown,
            },
            // Without a size an angle says as much, and a focal length in pixels nothing.
            _ => self
                .camera_angle_x
                .map_or(Inside::Unknown, Inside::FieldOfView),
        }
    }
}

/// The content of `transforms.json`.
pub(crate) fn content(images: &[PosedImage<'_>], origin: Vector3<f64>) -> Value {
    let to_scene = Translation3::from(-origin).to_homogeneous();
    let turn = rows_of(&(nerf_from_world().to_homogeneous() * to_scene));
    json!({
        "camera_model": "OPENCV",
        "applied_transform": turn[..3],
        "ply_file_path": CLOUD,
        "frames": images.iter().map(frame).collect::<Vec<_>>(),
    })
}

fn frame(image: &PosedImage<'_>) -> Value {
    let (lens, [fx, fy], [cx, cy]) = (&image.lens, image.lens.focal, image.lens.principal);
    json!({
        "file_path": format!("{IMAGES}/{}", image.name),
        "transform_matrix": rows_of(&nerf_from_camera(image.camera)),
        "w": lens.width,
        "h": lens.height,
        "fl_x": fx,
        "fl_y": fy,
        "cx": cx + TO_CORNER,
        "cy": cy + TO_CORNER,
        "k1": lens.radial[0],
        "k2": lens.radial[1],
        "p1": 0.0,
        "p2": 0.0,
    })
}

/// From the OpenCV world to one with z up.
fn nerf_from_world() -> Matrix3<f64> {
    Matrix3::new(1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0)
}

/// From OpenGL's camera axes to the world with z up.
fn nerf_from_camera(camera: &Camera) -> Matrix4<f64> {
    let opencv_from_opengl = Matrix4::from_diagonal(&[1.0, -1.0, -1.0, 1.0].into());
    nerf_from_world().to_homogeneous()
        * camera.world_from_camera.to_homogeneous()
        * opencv_from_opengl
}

fn rows_of(matrix: &Matrix4<f64>) -> [[f64; 4]; 4] {
    // Adding zero keeps a zero positive.
    std::array::from_fn(|row| std::array::from_fn(|column| matrix[(row, column)] + 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(text: &str) -> Result<Vec<ListedCamera>> {
        read(text, Path::new("transforms.json"))
    }

    #[test]
    fn axes_are_turned_and_what_frames_share_is_theirs() {
        let text = r#"{"fl_x": 50, "w": 100, "h": 60, "cx": 51, "frames": [
            {"file_path": "images/a.png", "transform_matrix": [[1,0,0,1],[0,1,0,2],[0,0,1,3],[0,0,0,1]]},
            {"file_path": "./b", "fl_x": 40, "fl_y": 41, "cy": 31, "transform_matrix": [[1,0,0,0],[0,0,-1,0],[0,1,0,0]]}]}"#;
        let found = entries(text).unwrap();
        let camera = found[0].world_from_camera.unwrap();
        assert_eq!(
            camera,
            [
                [1.0, 0.0, 0.0, 1.0],
                [0.0, -1.0, 0.0, 2.0],
                [0.0, 0.0, -1.0, 3.0],
                [0.0, 0.0, 0.0, 1.0]
            ]
        );
        // y down and z forward: the camera looks along the world's y and has its z up.
        let camera = found[1].world_from_camera.unwrap();
        assert_eq!(
            camera[..3],
            [
                [1.0, 0.0, 0.0, 0.0],
                [0.0, 0.0, 1.0, 0.0],
                [0.0, -1.0, 0.0, 0.0]
            ]
        );
        let values = |entry: &ListedCamera| match &entry.inside {
            Inside::Known(sized) => {
                let ListedIntrinsics {
                    width,
                    height,
                    fx,
                    fy,
                    cx,
                    cy,
                    ..
                } = sized[0];
                [width, height, fx, fy, cx, cy]
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(values(&found[0]), [100.0, 60.0, 50.0, 50.0, 50.5, 29.5]);
        assert_eq!(values(&found[1]), [100.0, 60.0, 40.0, 41.0, 50.5, 30.5]);
    }

    #[test]
    fn angles_stand_for_focal_lengths_and_distortion_is_refused() {
        let inside = |lens: &str| {
            let text = format!(
                r#"{{{lens} "frames": [{{"file_path": "a", "transform_matrix": [[1,0,0,0],[0,1,0,0],[0,0,1,0]]}}]}}"#
            );
            entries(&text).unwrap().remove(0).inside
        };
        let bent = inside(r#""fl_x": 50, "w": 100, "h": 60, "k1": 0.1, "k2": 0.2,"#);
        assert!(matches!(bent, Inside::Known(sized) if sized[0].radial == [0.1, 0.2]));
        let right = std::f64::consts::FRAC_PI_2;
        assert!(
            matches!(inside(&format!(r#""camera_angle_x": {right},"#)), Inside::FieldOfView(angle) if angle == right)
        );
        let Inside::Known(sized) =
            inside(&format!(r#""camera_angle_x": {right}, "w": 100, "h": 60,"#))
        else {
            panic!()
        };
        assert!((sized[0].fx - 50.0).abs() < 1e-9);
        assert!(matches!(inside(r#""fl_x": 50,"#), Inside::Unknown));
        for lens in [
            r#""k1": 0.1,"#,
            r#""w": 100, "h": 60, "p1": 0.1,"#,
            r#""is_fisheye": true,"#,
            r#""camera_model": "OPENCV_FISHEYE","#,
        ] {
            assert!(
                matches!(inside(lens), Inside::Unusable(reason) if reason.contains("undistort first")),
                "{lens}"
            );
        }
        let refusal = |text: &str| entries(text).unwrap_err().to_string();
        assert!(
            refusal(r#"{"frames": [{"file_path": "a", "transform_matrix": [[1,0]]}]}"#)
                .contains("expected 3 or 4 rows")
        );
        assert!(refusal(r#"{"frames": 3}"#).contains("transforms.json: not a transforms.json"));
    }
}
