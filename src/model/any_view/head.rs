//! The head: four levels of a view's tokens to depth and confidence, and to rays if they are asked
//! for. A head [in float32](Builder::in_float32), whatever the precision of the rest.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result, Tensor};

use crate::model::config::any_view::{RAY_CHANNELS, RAY_LEVEL};
use crate::model::config::{ANY_VIEW_LAST, AnyViewConfig};
use crate::nn::passes::{cast, relu, sum};
use crate::nn::{
    Builder, Conv3x3, LayerNorm, Linear, Observer, PixelShuffleConv, Refine, StridedConv3x3,
    Upsample, keep_captured,
};

/// Factor of the sinusoids that tell the maps where they are.
const SINUSOID_FACTOR: f64 = 0.1;
/// Base of their frequencies.
const SINUSOID_BASE: f64 = 100.0;
/// PyTorch's default.
const NORM_EPS: f32 = 1e-5;
/// Sinusoids kept: those of one size of images, for as many views as are made together and for the
/// rest of them.
const KEPT: usize = 12;

/// The head of an any-view network.
#[derive(Clone, Debug)]
pub(super) struct Head {
    /// Of activations.
    dtype: DType,
    norm: LayerNorm,
    /// Channels of the four levels.
    dims: [usize; 4],
    projects: [Linear; 4],
    open4: PixelShuffleConv,
    open2: PixelShuffleConv,
    shrink: StridedConv3x3,
    levels: [Conv3x3; 4],
    depth: Fusion,
    neck: Conv3x3,
    last: Conv3x3,
    output: Linear,
    rays: Option<RayBranch>,
    upsample: Upsample,
    sinusoids: Arc<Mutex<Vec<Sinusoid>>>,
    patch: usize,
}

/// The fusion from coarse to fine: refinenet4 to refinenet1.
#[derive(Clone, Debug)]
struct Fusion {
    steps: [Refine; 4],
    /// What observers call its results.
    name: &'static str,
}

#[derive(Clone, Debug)]
struct RayBranch {
    fusion: Fusion,
    neck: [Conv3x3; 5],
    last: Conv3x3,
    norm: LayerNorm,
    output: Linear,
}

/// A sinusoid of a size that was met.
#[derive(Clone, Debug)]
struct Sinusoid {
    /// Views, which all have the same, rows, columns and channels.
    shape: [usize; 4],
    /// Sides of the image.
    image: [usize; 2],
    values: Tensor,
}

/// What the head makes of views: maps before their last function.
pub(super) struct Logits {
    /// `(views, height, width, 2)`: logarithms of depth and of confidence less 1.
    pub(super) depth: Tensor,
    /// `(views, height * 8 / patch, width * 8 / patch, 7)`: rays, and the logarithm of their
    /// confidence less 1.
    pub(super) rays: Option<Tensor>,
}

impl Fusion {
    fn new(features: usize, suffix: &str, name: &'static str, vb: &Builder<'_>) -> Result<Self> {
        let step = |k: usize| Refine::new(features, k == 4, vb.pp(format!("refinenet{k}{suffix}")));
        Ok(Self {
            steps: [step(4)?, step(3)?, step(2)?, step(1)?],
            name,
        })
    }

    /// `levels` from fine to coarse; the result has eight rows and columns for each patch.
    fn forward(
        &self,
        levels: &[Tensor; 4],
        [rows, columns]: [usize; 2],
        observe: &mut Observer<'_>,
    ) -> Result<Tensor> {
        let mut fused: Option<Tensor> = None;
        for (i, step) in self.steps.iter().enumerate() {
            let (k, factor) = (3 - i, 1 << i);
            let size = [factor * rows, factor * columns];
            let x = step.forward(fused.as_ref(), &levels[k], size)?;
            observe.see(format_args!("head.{}.{}", self.name, k + 1), &x)?;
            fused = Some(x);
        }
        fused.ok_or_else(|| candle_core::Error::Msg("a fusion has four steps".into()))
    }
}

impl RayBranch {
    fn new(features: usize, vb: &Builder<'_>) -> Result<Self> {
        let neck = |step: usize| {
            let (input, output) = match step % 2 {
                0 => (features, features / 2),
                _ => (features / 2, features),
            };
            Conv3x3::new(
                input,
                output,
                vb.pp("output_conv1_aux").pp(RAY_LEVEL).pp(step),
            )
        };
        let last = vb.pp("output_conv2_aux");
        Ok(Self {
            fusion: Fusion::new(features, "_aux", "fuse_aux", vb)?,
            neck: [neck(0)?, neck(1)?, neck(2)?, neck(3)?, neck(4)?],
            last: Conv3x3::new(features / 2, ANY_VIEW_LAST, last.pp(RAY_LEVEL).pp(0))?,
            norm: LayerNorm::new(ANY_VIEW_LAST, NORM_EPS, last.pp(0).pp(2))?,
            output: Linear::conv1x1(ANY_VIEW_LAST, RAY_CHANNELS, last.pp(RAY_LEVEL).pp(5))?,
        })
    }
}

impl Head {
    /// Reads `norm.*`, `projects.*`, `resize_layers.*` and `scratch.*` of an encoder whose tokens
    /// have `input` channels; a builder [in float32](Builder::in_float32).
    pub(super) fn new(
        config: &AnyViewConfig,
        input: usize,
        patch: usize,
        with_rays: bool,
        vb: Builder<'_>,
    ) -> Result<Self> {
        let (dims, features) = (config.layer_dims, config.features);
        let (resize, scratch) = (vb.pp("resize_layers"), vb.pp("scratch"));
        let project = |k: usize| Linear::conv1x1(input, dims[k], vb.pp("projects").pp(k));
        let level = |k: usize| {
            Conv3x3::without_bias(dims[k], features, scratch.pp(format!("layer{}_rn", k + 1)))
        };
        let last = scratch.pp("output_conv2");
        Ok(Self {
            dtype: vb.activations(),
            norm: LayerNorm::new(input, NORM_EPS, vb.pp("norm"))?,
            dims,
            projects: [project(0)?, project(1)?, project(2)?, project(3)?],
            open4: PixelShuffleConv::new(dims[0], dims[0], 4, resize.pp(0))?,
            open2: PixelShuffleConv::new(dims[1], dims[1], 2, resize.pp(1))?,
            shrink: StridedConv3x3::new(dims[3], dims[3], resize.pp(3))?,
            levels: [level(0)?, level(1)?, level(2)?, level(3)?],
            depth: Fusion::new(features, "", "fuse", &scratch)?,
            neck: Conv3x3::new(features, features / 2, scratch.pp("output_conv1"))?,
            last: Conv3x3::new(features / 2, ANY_VIEW_LAST, last.pp(0))?,
            output: Linear::conv1x1(ANY_VIEW_LAST, 2, last.pp(2))?,
            rays: with_rays
                .then(|| RayBranch::new(features, &scratch))
                .transpose()?,
            upsample: Upsample::new(&vb),
            sinusoids: Arc::default(),
            patch,
        })
    }

    /// `levels` are four lists of tokens `(views, rows * columns, channels)` over a `grid`.
    pub(super) fn forward(
        &self,
        levels: [&Tensor; 4],
        grid: [usize; 2],
        observe: &mut Observer<'_>,
    ) -> Result<Logits> {
        let _span = tracing::debug_span!("dpt").entered();
        let image = grid.map(|side| side * self.patch);
        let maps = self.maps(levels, grid, image, observe)?;
        let depth = {
            let _span = tracing::debug_span!("dpt_stage", stage = "depth").entered();
            let fused = self.depth.forward(&maps, grid, observe)?;
            let x = self.neck.forward(&fused)?;
            drop(fused);
            observe.see("head.neck", &x)?;
            let channels = x.dim(3)?;
            let base = self.sinusoid([1, image[0], image[1], channels], image, &x)?;
            let x = self.upsample.forward_onto(&base, &x)?;
            observe.see("head.up_pos", &x)?;
            let x = self.output.forward_wide(&self.last.forward_relu(&x)?)?;
            observe.see("head.logits", &x)?;
            x
        };
        let rays = match &self.rays {
            None => None,
            Some(branch) => {
                let _span = tracing::debug_span!("dpt_stage", stage = "rays").entered();
                let mut x = branch.fusion.forward(&maps, grid, observe)?;
                for conv in &branch.neck {
                    x = conv.forward(&x)?;
                }
                observe.see("head.aux_neck", &x)?;
                let x = sum(&x, &self.sinusoid(x.dims4()?.into(), image, &x)?)?;
                observe.see("head.aux_pos", &x)?;
                let x = relu(&branch.norm.forward(&branch.last.forward(&x)?)?)?;
                let x = branch.output.forward_wide(&x)?;
                observe.see("head.aux_logits", &x)?;
                Some(x)
            }
        };
        Ok(Logits { depth, rays })
    }

    /// The levels as maps of four sizes with the channels of the fusion, fine to coarse.
    fn maps(
        &self,
        levels: [&Tensor; 4],
        [rows, columns]: [usize; 2],
        image: [usize; 2],
        observe: &mut Observer<'_>,
    ) -> Result<[Tensor; 4]> {
        let _span = tracing::debug_span!("dpt_stage", stage = "act").entered();
        let mut map = |k: usize| {
            let (views, _, channels) = levels[k].dims3()?;
            let z = self.norm.forward(&cast(levels[k], self.dtype)?)?;
            let z = z.reshape((views, rows, columns, channels))?;
            let project = &self.projects[k];
            observe.see_made(format_args!("head.project.{k}"), || project.forward(&z))?;
            let shape = [views, rows, columns, self.dims[k]];
            let z = project.forward_onto(&self.sinusoid(shape, image, &z)?, &z)?;
            observe.see(format_args!("head.project_pos.{k}"), &z)?;
            let z = match k {
                0 => self.open4.forward(&z)?,
                1 => self.open2.forward(&z)?,
                3 => self.shrink.forward(&z)?,
                _ => z,
            };
            observe.see(format_args!("head.resize.{k}"), &z)?;
            let z = self.levels[k].forward(&z)?;
            observe.see(format_args!("head.rn.{}", k + 1), &z)?;
            Ok::<_, candle_core::Error>(z)
        };
        Ok([map(0)?, map(1)?, map(2)?, map(3)?])
    }

    /// What tells maps of this `shape` where they are in the image with the sides `image`; in the
    /// dtype of `like`, on its device.
    fn sinusoid(&self, shape: [usize; 4], image: [usize; 2], like: &Tensor) -> Result<Tensor> {
        let mut kept = self
            .sinusoids
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_it = |one: &&Sinusoid| {
            (one.shape, one.image, one.values.dtype()) == (shape, image, like.dtype())
        };
        if let Some(known) = kept.iter().find(is_it) {
            keep_captured(&known.values);
            return Ok(known.values.clone());
        }
        let [views, rows, columns, channels] = shape;
        let values = sinusoid([channels, rows, columns], image, like.device())?;
        let values = cast(&values, like.dtype())?.repeat((views, 1, 1, 1))?;
        if kept.len() == KEPT {
            kept.remove(0);
        }
        kept.push(Sinusoid {
            shape,
            image,
            values: values.clone(),
        });
        Ok(values)
    }
}

/// `(1, rows, columns, channels)`: sines and cosines of the place along x, then along y, on a grid
/// whose half diagonal is 1 and whose sides are as those of the image.
fn sinusoid(
    [channels, rows, columns]: [usize; 3],
    [height, width]: [usize; 2],
    device: &Device,
) -> Result<Tensor> {
    let quarter = channels / 4;
    if !channels.is_multiple_of(4) || quarter == 0 {
        candle_core::bail!("{channels} channels of a map have no whole quarters for a sinusoid");
    }
    let aspect = width as f64 / height as f64;
    let diagonal = aspect.hypot(1.0);
    let along = |count: usize, side: f64| -> Vec<f32> {
        let value = |at: usize| {
            let place = side * (2.0 * at as f64 + 1.0 - count as f64) / count as f64;
            let angle = move |k: usize| place * SINUSOID_BASE.powf(-(k as f64) / quarter as f64);
            let sines = (0..quarter).map(move |k| angle(k).sin());
            sines.chain((0..quarter).map(move |k| angle(k).cos()))
        };
        (0..count)
            .flat_map(value)
            .map(|value| (SINUSOID_FACTOR * value) as f32)
            .collect()
    };
    let across = along(columns, aspect / diagonal);
    let down = along(rows, 1.0 / diagonal);
    let mut values = Vec::with_capacity(rows * columns * channels);
    for down in down.chunks_exact(2 * quarter) {
        for across in across.chunks_exact(2 * quarter) {
            values.extend_from_slice(across);
            values.extend_from_slice(down);
        }
    }
    Tensor::from_vec(values, (1, rows, columns, channels), device)
}
