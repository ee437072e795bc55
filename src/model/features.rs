//! An encoder with its input preparation: images to features.

use std::borrow::Borrow;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use super::config::Config;
use super::encoder::Encoder;
use super::input::{self, ImageNet, Normalisation};
use crate::nn::passes::{cast, gathered};
use crate::nn::{Builder, Captured, LayerNorm, Observer, unobserved};
use crate::runtime::{Runtime, Together};
use crate::views::View;
use crate::{Error, Result};

/// One view's patch tokens.
#[derive(Clone, Debug)]
pub struct Features {
    /// `(1, rows * columns, channels)`, row major over the patch grid.
    pub tokens: Tensor,
    /// Rows and columns of patches.
    pub grid: [usize; 2],
}

impl Features {
    /// The tokens as `(rows, columns, channels)`, float32.
    pub fn map(&self) -> Result<Tensor> {
        let channels = self.tokens.dim(2)?;
        Ok(self
            .tokens
            .reshape((self.grid[0], self.grid[1], channels))?
            .to_dtype(DType::F32)?)
    }
}

/// Which layer norm ends the encoding.
#[derive(Clone, Debug)]
enum Ending {
    /// The encoder's own, if asked for.
    Own,
    /// DuneMASt3R's, over the tokens before the encoder's own.
    DuneMast3r { norm: LayerNorm, colours: ImageNet },
}

/// An encoder that takes images.
#[derive(Clone, Debug)]
pub struct FeatureExtractor {
    encoder: Encoder,
    ending: Ending,
    patch: usize,
    runtime: Runtime,
    /// Images encoded together.
    together: Arc<Together>,
    captured: Arc<Captured>,
}

impl FeatureExtractor {
    /// Images encoded together, at most.
    pub(crate) const BATCH: usize = 2;

    /// The encoder of `config`; inside DuneMASt3R with the norm that its decoder expects.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a tensor is missing or misshapen.
    pub fn new(config: &Config, vb: &VarBuilder, runtime: &Runtime) -> Result<Self> {
        let dune_mast3r = config.is_dune() && config.two_view.is_some();
        let prefix = config.encoder_prefix().trim_end_matches('.');
        let vb =
            &Builder::new(vb.clone(), runtime.optimisations()).in_precision(runtime.precision());
        let encoder_vb = if prefix.is_empty() {
            vb.clone()
        } else {
            vb.pp(prefix)
        };
        let ending = if dune_mast3r {
            // PyTorch's default epsilon, unlike every other norm of the network.
            Ending::DuneMast3r {
                norm: LayerNorm::new(config.encoder.stack.dim, 1e-5, vb.pp("norm"))?,
                colours: ImageNet::new(runtime.device())?,
            }
        } else {
            Ending::Own
        };
        Ok(Self {
            encoder: Encoder::new(&config.encoder, !dune_mast3r, encoder_vb)?,
            ending,
            patch: config.encoder.patch,
            runtime: runtime.clone(),
            together: Arc::new(Together::at_most(Self::BATCH)),
            captured: Arc::default(),
        })
    }

    /// The encoder itself.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Where the network computes.
    pub fn device(&self) -> &Device {
        self.runtime.device()
    }

    /// The device's name, for messages.
    pub(crate) fn device_name(&self) -> String {
        self.runtime.device_name()
    }

    /// How tokens are stored: float32 on the CPU, elsewhere in the precision of the weights.
    pub(crate) fn token_dtype(&self) -> DType {
        if self.device().is_cpu() {
            DType::F32
        } else {
            self.runtime.precision().dtype()
        }
    }

    /// Side of a patch in pixels.
    pub fn patch(&self) -> usize {
        self.patch
    }

    /// How images are normalised for [`FeatureExtractor::forward`].
    pub fn normalisation(&self) -> Normalisation {
        match (&self.encoder, &self.ending) {
            (Encoder::Dune(_) | Encoder::AnyView(_), Ending::Own) => Normalisation::ImageNet,
            _ => Normalisation::MinusOneToOne,
        }
    }

    /// `(batch, 3, height, width)`, normalised, to `(batch, rows * columns, dim)`.
    ///
    /// `norm` matters to DUNE alone: its users see normalised tokens, its own projectors read them
    /// before the norm.
    pub fn forward(
        &self,
        images: &Tensor,
        norm: bool,
        observe: &mut Observer<'_>,
    ) -> candle_core::Result<Tensor> {
        if observe.looks() {
            return self.pass(images, norm, observe);
        }
        let name = if norm {
            "encoder"
        } else {
            "encoder without norm"
        };
        let pass = |inputs: &[Tensor]| Ok(vec![self.pass(&inputs[0], norm, &mut unobserved())?]);
        only(
            self.captured
                .run(name, &self.runtime, &[images], &[], pass)?,
        )
    }

    fn pass(
        &self,
        images: &Tensor,
        norm: bool,
        observe: &mut Observer<'_>,
    ) -> candle_core::Result<Tensor> {
        let _span = tracing::debug_span!("encoder").entered();
        let on_cpu = self.runtime.device().is_cpu();
        let cast = |t: &Tensor| {
            if on_cpu {
                Ok(t.clone())
            } else {
                cast(t, self.runtime.precision().dtype())
            }
        };
        match &self.ending {
            Ending::Own => self.encoder.forward(&cast(images)?, norm, observe),
            Ending::DuneMast3r { norm, colours } => {
                let images = colours.normalised(images)?;
                observe.see("enc.imagenet_img", &images)?;
                let tokens =
                    norm.forward(&self.encoder.forward(&cast(&images)?, false, observe)?)?;
                observe.see("enc.out", &tokens)?;
                Ok(tokens)
            }
        }
    }

    /// Encodes views, those of equal size together. One [`Features`] for each, in order.
    pub fn encode<V: Borrow<View>>(&self, views: &[V], norm: bool) -> Result<Vec<Features>> {
        let mut features = Vec::with_capacity(views.len());
        let mut rest = views;
        let size = |view: &V| view.borrow().rgb.dimensions();
        while let Some(first) = rest.first() {
            let attempt = |most| {
                let count = rest
                    .iter()
                    .take(most)
                    .take_while(|view| size(view) == size(first))
                    .count();
                self.encode_batch(&rest[..count], norm)
            };
            let out_of_memory = || {
                let (width, height) = size(first);
                let work = format!(
                    "encoding {} of {width}x{height} pixels",
                    first.borrow().name
                );
                Error::out_of_memory(self.runtime.device_name(), work)
            };
            let encoded = self.together.run("images", attempt, out_of_memory)?;
            rest = &rest[encoded.len()..];
            features.extend(encoded);
        }
        Ok(features)
    }

    fn encode_batch<V: Borrow<View>>(&self, views: &[V], norm: bool) -> Result<Vec<Features>> {
        let rgb: Vec<_> = views.iter().map(|view| &view.borrow().rgb).collect();
        let images = input::images(&rgb, self.normalisation(), self.runtime.device())?;
        let (_, _, height, width) = images.dims4()?;
        if !height.is_multiple_of(self.patch) || !width.is_multiple_of(self.patch) {
            return Err(Error::Usage(format!(
                "{}: {width}x{height} is not a whole number of {1}x{1} patches; choose a size whose sides are multiples of {1}",
                views[0].borrow().name,
                self.patch
            )));
        }
        let tokens = self.forward(&images, norm, &mut unobserved())?;
        let grid = [height / self.patch, width / self.patch];
        (0..views.len())
            .map(|i| {
                Ok(Features {
                    tokens: gathered(&tokens.narrow(0, i, 1)?)?,
                    grid,
                })
            })
            .collect()
    }
}

/// The one tensor of a pass that makes one.
fn only(tensors: Vec<Tensor>) -> candle_core::Result<Tensor> {
    match <[Tensor; 1]>::try_from(tensors) {
        Ok([tensor]) => Ok(tensor),
        Err(tensors) => candle_core::bail!("{} tensors in place of one", tensors.len()),
    }
}
