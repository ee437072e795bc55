//! Depth Anything 3's any-view networks: all views of a scene at once to depths and cameras.
//!
//! Images are of one size; views of several sizes are cut centrally to what they share. Cameras are
//! float32 in every precision, and so is the head, but for its products [on NVIDIA
//! GPUs](Builder::in_float32).

mod cameras;
mod head;
mod ray_cameras;

use std::slice;
use std::sync::Arc;

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use image::{RgbImage, imageops};

pub use self::cameras::PoseEncoding;
use self::cameras::{CameraDecoder, CameraEncoder, decoded, encodings, encodings_of, scale_of};
use self::head::Head;
use super::config::{AnyViewConfig, Config};
use super::encoder::{AnyViewEncoder, AnyViewTokens, ReferenceChoice, Start};
use super::input::{self, Normalisation};
use super::joint::{JointNetwork, ViewPrediction};
use crate::geometry::{Camera, Intrinsics};
use crate::nn::passes::cast;
use crate::nn::{Builder, Captured, Observer, unobserved};
use crate::runtime::Runtime;
use crate::views::{Pixels, View};
use crate::{Error, Result};

/// Views whose maps a GPU makes together; a CPU makes one at a time, which stays in its caches.
const TOGETHER: usize = 8;
/// Most views of a captured pass: one of more is long beside its launches, and large.
const MOST_CAPTURED: usize = 32;

/// An any-view network of Depth Anything 3.
#[derive(Clone, Debug)]
pub struct DepthAnything {
    encoder: AnyViewEncoder,
    head: Head,
    camera_decoder: CameraDecoder,
    camera_encoder: CameraEncoder,
    patch: usize,
    /// Channels of a token, and of the fusion.
    channels: [usize; 2],
    runtime: Runtime,
    captured: Arc<Captured>,
    /// Which view is the reference.
    pub reference: ReferenceChoice,
}

/// What the network makes of the views of a scene.
#[derive(Clone, Debug)]
pub struct AnyViewMaps {
    /// `(views, height, width)`, float32: depth along z, above 0, in one unit for all views.
    pub depth: Tensor,
    /// `(views, height, width)`, float32: at least 1.
    pub confidence: Tensor,
    /// The camera of each view.
    pub poses: Vec<PoseEncoding>,
    /// If the network was built with them.
    pub rays: Option<Rays>,
}

/// The ray of every pixel of maps that have eight rows and columns for each patch.
#[derive(Clone, Debug)]
pub struct Rays {
    /// `(views, rows, columns, 6)`, float32: direction, of any length, and origin; in the world.
    pub rays: Tensor,
    /// `(views, rows, columns)`, float32: at least 1.
    pub confidence: Tensor,
}

impl DepthAnything {
    /// The network that `config` describes, from `vb`, without its ray branch.
    ///
    /// # Errors
    /// [`Error::Usage`] if `config` is another network's, [`Error::Tensor`] if a tensor is missing or
    /// misshapen.
    pub fn new(config: &Config, vb: &VarBuilder, runtime: &Runtime) -> Result<Self> {
        Self::build(config, vb, runtime, false)
    }

    /// As [`DepthAnything::new`], with the branch that predicts [`Rays`], a third of the head's work
    /// more.
    ///
    /// # Errors
    /// As [`DepthAnything::new`].
    pub fn with_rays(config: &Config, vb: &VarBuilder, runtime: &Runtime) -> Result<Self> {
        Self::build(config, vb, runtime, true)
    }

    fn build(config: &Config, vb: &VarBuilder, runtime: &Runtime, with_rays: bool) -> Result<Self> {
        let Some(any_view) = config.any_view() else {
            return Err(Error::Usage(format!(
                "{} does not predict all views together",
                config.family()
            )));
        };
        let AnyViewConfig {
            features,
            camera_encoder,
            ..
        } = any_view;
        let (dim, patch) = (config.encoder.stack.dim, config.encoder.patch);
        let vb =
            Builder::new(vb.clone(), runtime.optimisations()).in_precision(runtime.precision());
        let (wide, exact) = (vb.in_float32(), vb.in_exact_float32());
        Ok(Self {
            encoder: AnyViewEncoder::new(&config.encoder, any_view, vb.pp("backbone.pretrained"))?,
            head: Head::new(any_view, 2 * dim, patch, with_rays, wide.pp("head"))?,
            camera_decoder: CameraDecoder::new(2 * dim, &exact.pp("cam_dec"))?,
            camera_encoder: CameraEncoder::new(camera_encoder, &exact.pp("cam_enc"))?,
            patch,
            channels: [dim, *features],
            runtime: runtime.clone(),
            captured: Arc::default(),
            reference: ReferenceChoice::default(),
        })
    }

    /// Maps and cameras of ImageNet-normalised `images` `(views, 3, height, width)`, float32, whose
    /// sides are whole patches; `given` are cameras to go by, one for each view.
    ///
    /// # Errors
    /// [`Error::Usage`] for cameras of another number; errors of the device.
    pub fn forward(
        &self,
        images: &Tensor,
        given: Option<&[PoseEncoding]>,
        observe: &mut Observer<'_>,
    ) -> Result<AnyViewMaps> {
        let views = images.dim(0)?;
        if let Some(given) = given
            && given.len() != views
        {
            return Err(Error::Usage(format!(
                "{} cameras are given for {views} views",
                given.len()
            )));
        }
        let cameras = given
            .map(|given| self.camera_encoder.forward(given, observe))
            .transpose()?;
        let started = self.pass("first blocks", &[images], observe, |inputs, observe| {
            Ok(vec![
                self.encoder.started(&self.stored(&inputs[0])?, observe)?,
            ])
        })?;
        let started = &started[0];
        // The reference is chosen on the host.
        let order = match cameras {
            None => self.encoder.order(started, self.reference, observe)?,
            Some(_) => None,
        };
        let inputs = match (&cameras, &order) {
            (Some(cameras), _) => vec![started, cameras],
            (None, Some(order)) => vec![started, &order.views, &order.places],
            (None, None) => vec![started],
        };
        let grid = self.encoder.grid(images)?;
        let outputs = self.pass(
            "blocks of all views",
            &inputs,
            observe,
            |inputs, observe| {
                let start = match &inputs[1..] {
                    [cameras] => Start::Given(cameras),
                    [views, places] => Start::Chosen { views, places },
                    _ => Start::First,
                };
                let tokens = self.encoder.finished(&inputs[0], grid, start, observe)?;
                self.outputs(&tokens, observe)
            },
        )?;
        let mut outputs = outputs.into_iter();
        let (Some(numbers), Some(depth), Some(confidence)) =
            (outputs.next(), outputs.next(), outputs.next())
        else {
            return Err(Error::Internal("a pass of cameras and two maps".into()));
        };
        let rays = outputs.next().zip(outputs.next());
        Ok(AnyViewMaps {
            depth,
            confidence,
            poses: encodings_of(&numbers)?,
            rays: rays.map(|(rays, confidence)| Rays { rays, confidence }),
        })
    }

    /// A part of a pass: captured once on a GPU, for a moderate number of views that nobody watches.
    fn pass(
        &self,
        name: &'static str,
        inputs: &[&Tensor],
        observe: &mut Observer<'_>,
        part: impl Fn(&[Tensor], &mut Observer<'_>) -> candle_core::Result<Vec<Tensor>> + Sync,
    ) -> Result<Vec<Tensor>> {
        let views = inputs[0].dim(0)?;
        if observe.looks() || views > MOST_CAPTURED {
            let inputs: Vec<Tensor> = inputs.iter().map(|&input| input.clone()).collect();
            return Ok(part(&inputs, observe)?);
        }
        let unwatched = |inputs: &[Tensor]| part(inputs, &mut unobserved());
        Ok(self
            .captured
            .run(name, &self.runtime, inputs, &[], unwatched)?)
    }

    /// The numbers of cameras, depths, confidences and, if the head makes them, rays and their
    /// confidences.
    fn outputs(
        &self,
        tokens: &AnyViewTokens,
        observe: &mut Observer<'_>,
    ) -> candle_core::Result<Vec<Tensor>> {
        let numbers = self.camera_decoder.forward(&tokens.cameras, observe)?;
        let views = tokens.cameras.dim(0)?;
        let together = if self.runtime.device().is_cpu() && !observe.looks() {
            1
        } else {
            TOGETHER
        };
        let parts = (0..views)
            .step_by(together)
            .map(|first| self.maps(tokens, first, together.min(views - first), observe))
            .collect::<candle_core::Result<Vec<_>>>()?;
        let mut outputs = vec![numbers];
        for kind in 0..parts.first().map_or(0, Vec::len) {
            let kind: Vec<&Tensor> = parts.iter().map(|maps| &maps[kind]).collect();
            outputs.push(Tensor::cat(&kind, 0)?);
        }
        Ok(outputs)
    }

    /// The maps of `count` views, in the order of [`DepthAnything::outputs`].
    fn maps(
        &self,
        tokens: &AnyViewTokens,
        first: usize,
        count: usize,
        observe: &mut Observer<'_>,
    ) -> candle_core::Result<Vec<Tensor>> {
        let [a, b, c, d] = &tokens.levels;
        let of = |level: &Tensor| level.narrow(0, first, count);
        let levels = [&of(a)?, &of(b)?, &of(c)?, &of(d)?];
        let logits = self.head.forward(levels, tokens.grid, observe)?;
        let channel =
            |map: &Tensor, at: usize| map.narrow(3, at, 1)?.squeeze(3)?.contiguous()?.exp();
        let mut maps = vec![
            channel(&logits.depth, 0)?,
            (channel(&logits.depth, 1)? + 1.0)?,
        ];
        if let Some(rays) = &logits.rays {
            maps.push(rays.narrow(3, 0, 6)?.contiguous()?);
            maps.push((channel(rays, 6)? + 1.0)?);
        }
        Ok(maps)
    }

    /// Images of one size as [`DepthAnything::forward`] takes them.
    fn images(&self, images: &[RgbImage]) -> Result<Tensor> {
        let images: Vec<&RgbImage> = images.iter().collect();
        input::images(&images, Normalisation::ImageNet, self.runtime.device())
    }

    /// Images in the numbers that the encoder takes: on the CPU float32.
    fn stored(&self, images: &Tensor) -> candle_core::Result<Tensor> {
        if self.runtime.device().is_cpu() {
            Ok(images.clone())
        } else {
            cast(images, self.runtime.precision().dtype())
        }
    }

    fn predicted(&self, views: &[View], given: Option<&[Camera]>) -> Result<Vec<ViewPrediction>> {
        let Some(shared) = Shared::of(views, self.patch)? else {
            return Ok(Vec::new());
        };
        let boxes: Vec<RgbImage> = views.iter().map(|view| shared.cut(&view.rgb)).collect();
        let images = self.images(&boxes)?;
        let given: Option<Vec<Camera>> = given.map(|cameras| {
            let inside = |camera: &Camera| Camera {
                intrinsics: shared.intrinsics_inside(&camera.intrinsics),
                ..*camera
            };
            cameras.iter().map(inside).collect()
        });
        let encoded = given.as_deref().map(encodings);
        let maps = self.forward(&images, encoded.as_deref(), &mut unobserved())?;
        let mut cameras = decoded(&maps.poses, shared.width, shared.height)?;
        let mut depth = maps.depth;
        if let Some(given) = given {
            depth = (depth / scale_of(&given, &cameras))?;
            cameras = given;
        }
        let prediction = |(index, view): (usize, &View)| {
            let (width, height) = view.rgb.dimensions();
            Ok(ViewPrediction {
                depth: shared.padded(&depth.get(index)?, width, height)?,
                confidence: (shared.padded(
                    &(maps.confidence.get(index)? - 1.0)?,
                    width,
                    height,
                )? + 1.0)?,
                camera: Camera {
                    intrinsics: shared.intrinsics_outside(
                        &cameras[index].intrinsics,
                        width,
                        height,
                    ),
                    ..cameras[index]
                },
            })
        };
        views.iter().enumerate().map(prediction).collect()
    }
}

impl JointNetwork for DepthAnything {
    fn predict(&self, views: &[View]) -> Result<Vec<ViewPrediction>> {
        self.predicted(views, None)
    }

    fn predict_posed(&self, views: &[View], cameras: &[Camera]) -> Result<Vec<ViewPrediction>> {
        self.predicted(views, Some(cameras))
    }

    fn most_views(&self, [width, height]: [u32; 2], bytes: u64) -> usize {
        let [dim, features] = self.channels.map(|channels| channels as u64);
        let pixels = u64::from(width) * u64::from(height);
        let tokens = pixels / (self.patch * self.patch) as u64 + 1;
        let width = if self.runtime.device().is_cpu() {
            4
        } else {
            self.runtime.precision().dtype().size_in_bytes() as u64
        };
        // Four levels of two halves; within a block tokens, their norm, q, k and v before and after
        // their norms and rotation, and the hidden layer of the MLP; image and maps.
        let view = tokens * dim * width * (4 * 2 + 14) + pixels * 4 * 5;
        // The head, of one view on a CPU and of several on a GPU: two maps of the fusion at the
        // finest level and two at the image's size.
        let at_once = if self.runtime.device().is_cpu() {
            1
        } else {
            TOGETHER as u64
        };
        let head = at_once * 4 * (pixels * 64 / 196 * features * 3 + pixels * features * 2);
        usize::try_from(bytes.saturating_sub(head) / view).unwrap_or(usize::MAX)
    }

    /// The mean of the view's patch tokens, of the view alone.
    fn descriptor(&self, view: &View) -> Result<Option<Vec<f32>>> {
        let Some(shared) = Shared::of(slice::from_ref(view), self.patch)? else {
            return Ok(None);
        };
        let images = self.images(&[shared.cut(&view.rgb)])?;
        let tokens = self
            .encoder
            .features(&self.stored(&images)?, &mut unobserved())?;
        let mean = tokens.to_dtype(DType::F32)?.mean(1)?;
        Ok(Some(mean.flatten_all()?.to_vec1()?))
    }
}

/// The part of a set of views that all have: the smallest width and height, from the middle of each.
#[derive(Clone, Copy, Debug)]
struct Shared {
    width: u32,
    height: u32,
}

impl Shared {
    fn of(views: &[View], patch: usize) -> Result<Option<Self>> {
        let widths = views.iter().map(|view| view.rgb.width());
        let heights = views.iter().map(|view| view.rgb.height());
        let (Some(width), Some(height)) = (widths.min(), heights.min()) else {
            return Ok(None);
        };
        let patch = patch as u32;
        if width % patch != 0 || height % patch != 0 || width == 0 || height == 0 {
            return Err(Error::Usage(format!(
                "{width}x{height} pixels, which all images have, are not whole patches of {patch}x{patch}; choose a \
                 size whose sides are multiples of {patch}"
            )));
        }
        Ok(Some(Self { width, height }))
    }

    /// Left and top edge within an image.
    fn corner(self, width: u32, height: u32) -> [u32; 2] {
        [(width - self.width) / 2, (height - self.height) / 2]
    }

    fn cut(self, image: &Pixels) -> RgbImage {
        let [left, top] = self.corner(image.width(), image.height());
        imageops::crop_imm(image, left, top, self.width, self.height).to_image()
    }

    fn intrinsics_inside(self, of: &Intrinsics) -> Intrinsics {
        let [left, top] = self.corner(of.width, of.height);
        Intrinsics {
            width: self.width,
            height: self.height,
            cx: of.cx - f64::from(left),
            cy: of.cy - f64::from(top),
            ..*of
        }
    }

    fn intrinsics_outside(self, of: &Intrinsics, width: u32, height: u32) -> Intrinsics {
        let [left, top] = self.corner(width, height);
        Intrinsics {
            width,
            height,
            cx: of.cx + f64::from(left),
            cy: of.cy + f64::from(top),
            ..*of
        }
    }

    /// A map `(height, width)` of the box at the size of its image, 0 around it.
    fn padded(self, map: &Tensor, width: u32, height: u32) -> candle_core::Result<Tensor> {
        if (width, height) == (self.width, self.height) {
            return Ok(map.clone());
        }
        let [left, top] = self.corner(width, height);
        let (right, bottom) = (width - self.width - left, height - self.height - top);
        map.to_dtype(DType::F32)?
            .pad_with_zeros(0, top as usize, bottom as usize)?
            .pad_with_zeros(1, left as usize, right as usize)
    }
}
