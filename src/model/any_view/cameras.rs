//! Cameras as an any-view network has them: made of tokens, and made into tokens.

use candle_core::{DType, Device, Result as TensorResult, Tensor};
use nalgebra::{Isometry3, Quaternion, Translation3, UnitQuaternion, Vector3};

use crate::geometry::procrustes::{Correspondence, robust_similarity, similarity};
use crate::geometry::{Camera, Intrinsics};
use crate::model::config::{CAMERA_NUMBERS, Stack};
use crate::nn::passes::{cast, relu};
use crate::nn::{Builder, EncoderBlock, LayerNorm, Linear, Mlp, Observer};
use crate::{Error, Result};

/// PyTorch's default, of all norms of the camera encoder.
const NORM_EPS: f32 = 1e-5;
/// The reference's smallest tangent of half a field of view; one that small is no estimate.
const LEAST_TANGENT: f64 = 1e-6;
/// Given cameras are scaled by their median distance from the first, or by this where that is less.
const LEAST_DISTANCE: f64 = 0.1;
/// From so many cameras on outliers do not count when two sets of them are compared.
const ROBUST_FROM: usize = 10;
const ROBUST_ROUNDS: usize = 10;

/// A camera as the network predicts and takes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PoseEncoding {
    /// Of the camera's centre in the world.
    pub translation: [f64; 3],
    /// World from camera: x, y, z and the scalar last; of any length above 0.
    pub quaternion: [f64; 4],
    /// Full angles in radians: vertical, then horizontal. A predicted 0 is no estimate.
    pub field_of_view: [f64; 2],
}

impl PoseEncoding {
    /// From the network's nine numbers.
    pub fn from_numbers(numbers: [f32; CAMERA_NUMBERS]) -> Self {
        let [a, b, c, x, y, z, w, vertical, horizontal] = numbers.map(f64::from);
        Self {
            translation: [a, b, c],
            quaternion: [x, y, z, w],
            field_of_view: [vertical, horizontal],
        }
    }

    /// The network's nine numbers.
    pub fn numbers(&self) -> [f32; CAMERA_NUMBERS] {
        let [a, b, c] = self.translation;
        let [x, y, z, w] = self.quaternion;
        let [vertical, horizontal] = self.field_of_view;
        [a, b, c, x, y, z, w, vertical, horizontal].map(|number| number as f32)
    }

    /// The encoding of a camera.
    pub fn of(camera: &Camera) -> Self {
        let Intrinsics {
            width,
            height,
            fx,
            fy,
            ..
        } = camera.intrinsics;
        let angle = |side: u32, focal: f64| 2.0 * (f64::from(side) / 2.0 / focal).atan();
        let pose = &camera.world_from_camera;
        Self {
            translation: pose.translation.vector.into(),
            quaternion: quaternion(&pose.rotation),
            field_of_view: [angle(height, fy), angle(width, fx)],
        }
    }

    /// The pose; `None` unless its numbers are finite and the quaternion is not 0.
    pub fn world_from_camera(&self) -> Option<Isometry3<f64>> {
        let [x, y, z, w] = self.quaternion;
        let rotation = UnitQuaternion::try_new(Quaternion::new(w, x, y, z), 0.0)?;
        let pose = Isometry3::from_parts(Translation3::from(self.translation), rotation);
        let finite = |values: &[f64]| values.iter().all(|value| value.is_finite());
        (finite(&self.translation) && finite(&self.quaternion)).then_some(pose)
    }

    /// Horizontal and vertical focal length of an image of `width` by `height` pixels, each `None`
    /// for an angle that is no estimate: 0, or half a turn and more.
    pub fn focals(&self, width: u32, height: u32) -> [Option<f64>; 2] {
        let [vertical, horizontal] = self.field_of_view;
        let focal = |side: u32, angle: f64| {
            let tangent = (angle / 2.0).tan();
            (tangent > LEAST_TANGENT).then(|| f64::from(side) / 2.0 / tangent)
        };
        [focal(width, horizontal), focal(height, vertical)]
    }
}

/// x, y, z and w of a rotation; of the two of a sign that whose w is not negative or, if w is 0,
/// whose largest is not.
fn quaternion(rotation: &UnitQuaternion<f64>) -> [f64; 4] {
    let numbers: [f64; 4] = rotation.coords.into();
    let sign = match rotation.w {
        0.0 => numbers[rotation.coords.iamax()],
        w => w,
    };
    numbers.map(|number| number * sign.signum())
}

/// Cameras of the network's numbers `(views, 9)`.
pub(super) fn encodings_of(numbers: &Tensor) -> TensorResult<Vec<PoseEncoding>> {
    let rows: Vec<Vec<f32>> = numbers.to_vec2()?;
    let encoding = |row: Vec<f32>| match <[f32; CAMERA_NUMBERS]>::try_from(row) {
        Ok(numbers) => Ok(PoseEncoding::from_numbers(numbers)),
        Err(row) => candle_core::bail!("{} numbers of a camera", row.len()),
    };
    rows.into_iter().map(encoding).collect()
}

/// The cameras that the network predicts of images of `width` by `height` pixels.
///
/// Principal points are at half the width and height, as in the reference, which counts from the
/// first pixel's centre. A focal length without an estimate is that of the other axis, or else the
/// median of the other views'.
///
/// # Errors
/// [`Error::NotFinite`] for poses that are no poses; [`Error::NoCameras`] if no view has a focal
/// length.
pub(super) fn decoded(poses: &[PoseEncoding], width: u32, height: u32) -> Result<Vec<Camera>> {
    let focals: Vec<_> = poses
        .iter()
        .map(|pose| pose.focals(width, height))
        .collect();
    let mut known: Vec<f64> = focals.iter().flatten().flatten().copied().collect();
    known.sort_by(f64::total_cmp);
    let median = known.get(known.len().saturating_sub(1) / 2).copied();
    let camera = |(pose, [fx, fy]): (&PoseEncoding, &[Option<f64>; 2])| {
        let world_from_camera = pose.world_from_camera().ok_or_else(|| Error::NotFinite {
            what: "camera pose".into(),
            count: 1,
            total: poses.len(),
            hint: "the weights may be damaged or the precision too low; try --precision f32".into(),
        })?;
        let (Some(fx), Some(fy)) = (fx.or(*fy).or(median), fy.or(*fx).or(median)) else {
            return Err(Error::NoCameras {
                what: "a reconstruction".into(),
                reason: "the network predicts a field of view of 0 for every image".into(),
            });
        };
        Ok(Camera {
            intrinsics: Intrinsics {
                width,
                height,
                fx,
                fy,
                cx: f64::from(width) / 2.0,
                cy: f64::from(height) / 2.0,
            },
            world_from_camera,
        })
    };
    poses.iter().zip(&focals).map(camera).collect()
}

/// Given cameras as the network takes them: in the first one's frame, at the scale that it was
/// trained with.
pub(super) fn encodings(cameras: &[Camera]) -> Vec<PoseEncoding> {
    let Some(first) = cameras.first() else {
        return Vec::new();
    };
    let first_from_world = first.world_from_camera.inverse();
    let poses: Vec<Isometry3<f64>> = cameras
        .iter()
        .map(|camera| first_from_world * camera.world_from_camera)
        .collect();
    let mut distances: Vec<f64> = poses
        .iter()
        .map(|pose| pose.translation.vector.norm())
        .collect();
    distances.sort_by(f64::total_cmp);
    let scale = distances[(distances.len() - 1) / 2].max(LEAST_DISTANCE);
    cameras
        .iter()
        .zip(poses)
        .map(|(camera, mut pose)| {
            pose.translation.vector /= scale;
            PoseEncoding::of(&Camera {
                world_from_camera: pose,
                ..*camera
            })
        })
        .collect()
}

/// By how much the `predicted` cameras' distances are larger than those of the `given`; 1 where
/// nothing tells, as with one camera.
pub(super) fn scale_of(given: &[Camera], predicted: &[Camera]) -> f64 {
    let centre = |camera: &Camera| camera.world_from_camera.translation.vector;
    let pairs: Vec<Correspondence> = given
        .iter()
        .zip(predicted)
        .map(|(given, predicted)| Correspondence {
            from: centre(given).into(),
            to: centre(predicted).into(),
            weight: 1.0,
        })
        .collect();
    let fit = if pairs.len() < ROBUST_FROM {
        similarity(&pairs)
    } else {
        robust_similarity(&pairs, ROBUST_ROUNDS)
    };
    if let Some(fit) = fit {
        return fit.scaling();
    }
    // Two cameras, or cameras on a line: their spread about the middle still tells.
    let spread = |cameras: &[Camera]| {
        let count = cameras.len().max(1) as f64;
        let mean = cameras.iter().map(centre).sum::<Vector3<f64>>() / count;
        let squares = cameras
            .iter()
            .map(|camera| (centre(camera) - mean).norm_squared());
        squares.sum::<f64>().sqrt()
    };
    let ratio = spread(predicted) / spread(given);
    if ratio.is_finite() && ratio > 0.0 {
        ratio
    } else {
        1.0
    }
}

/// Camera features to the nine numbers of each view.
#[derive(Clone, Debug)]
pub(super) struct CameraDecoder {
    hidden: [Linear; 2],
    translation: Linear,
    quaternion: Linear,
    field_of_view: Linear,
}

impl CameraDecoder {
    /// Reads `backbone.*` and `fc_*`; a builder [in exact float32](Builder::in_exact_float32).
    pub(super) fn new(dim: usize, vb: &Builder<'_>) -> TensorResult<Self> {
        let linear = |name: &str, outputs: usize| Linear::new(dim, outputs, vb.pp(name));
        Ok(Self {
            hidden: [linear("backbone.0", dim)?, linear("backbone.2", dim)?],
            translation: linear("fc_t", 3)?,
            quaternion: linear("fc_qvec", 4)?,
            field_of_view: linear("fc_fov.0", 2)?,
        })
    }

    /// `features` `(views, dim)` to the numbers of cameras `(views, 9)`, float32.
    pub(super) fn forward(
        &self,
        features: &Tensor,
        observe: &mut Observer<'_>,
    ) -> TensorResult<Tensor> {
        let _span = tracing::debug_span!("camera_decoder").entered();
        let mut h = cast(features, DType::F32)?;
        for layer in &self.hidden {
            h = relu(&layer.forward(&h)?)?;
        }
        observe.see("cam.hidden", &h)?;
        let parts = [
            self.translation.forward_wide(&h)?,
            self.quaternion.forward_wide(&h)?,
            relu(&self.field_of_view.forward_wide(&h)?)?,
        ];
        let numbers = Tensor::cat(&parts, 1)?;
        observe.see("cam.pose_enc", &numbers)?;
        Ok(numbers)
    }
}

/// Given cameras to the first token of each view.
#[derive(Clone, Debug)]
pub(super) struct CameraEncoder {
    branch: Mlp,
    token_norm: LayerNorm,
    trunk: Vec<EncoderBlock>,
    trunk_norm: LayerNorm,
    device: Device,
}

impl CameraEncoder {
    /// Reads `pose_branch.*`, `token_norm.*`, `trunk.*` and `trunk_norm.*`; a builder [in exact
    /// float32](Builder::in_exact_float32).
    pub(super) fn new(stack: &Stack, vb: &Builder<'_>) -> TensorResult<Self> {
        let Stack {
            depth,
            dim,
            heads,
            mlp_dim,
        } = *stack;
        let norm = |name: &str| LayerNorm::new(dim, NORM_EPS, vb.pp(name));
        let block = |i: usize| {
            EncoderBlock::with_eps(NORM_EPS, dim, heads, mlp_dim, true, vb.pp("trunk").pp(i))
        };
        Ok(Self {
            branch: Mlp::new(CAMERA_NUMBERS, dim / 2, dim, None, vb.pp("pose_branch"))?,
            token_norm: norm("token_norm")?,
            trunk: (0..depth).map(block).collect::<TensorResult<_>>()?,
            trunk_norm: norm("trunk_norm")?,
            device: vb.device().clone(),
        })
    }

    /// `(views, dim)`.
    pub(super) fn forward(
        &self,
        cameras: &[PoseEncoding],
        observe: &mut Observer<'_>,
    ) -> TensorResult<Tensor> {
        let _span = tracing::debug_span!("camera_encoder").entered();
        let numbers: Vec<f32> = cameras.iter().flat_map(PoseEncoding::numbers).collect();
        let size = (1, cameras.len(), CAMERA_NUMBERS);
        let numbers = Tensor::from_vec(numbers, size, &self.device)?;
        let x = self.branch.forward(&numbers)?;
        observe.see("camenc.branch", &x)?;
        let mut x = self.token_norm.forward(&x)?;
        for block in &self.trunk {
            x = block.forward(&x, None)?;
        }
        let x = self.trunk_norm.forward(&x)?;
        observe.see("camenc.tokens", &x)?;
        x.squeeze(0)
    }
}
