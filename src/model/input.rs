//! Images as input tensors.

use std::ops::Deref;

use candle_core::{DType, Device, Tensor};
use image::{ImageBuffer, Rgb};

use crate::Result;
use crate::nn::work;

/// Mean and deviation of ImageNet's red, green and blue.
const IMAGENET: ([f32; 3], [f32; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

/// What is done to 8-bit values before the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalisation {
    /// `((u8 / 255) - 0.5) / 0.5`: MASt3R.
    MinusOneToOne,
    /// `((u8 / 255) - mean) / deviation`: DUNE alone.
    ImageNet,
}

/// Images of one size as `(batch, 3, height, width)`, float32.
pub fn images<C: Deref<Target = [u8]>>(
    images: &[&ImageBuffer<Rgb<u8>, C>],
    normalisation: Normalisation,
    device: &Device,
) -> Result<Tensor> {
    let Some(first) = images.first() else {
        return Err(crate::Error::Usage("no image to encode".into()));
    };
    let (width, height) = first.dimensions();
    let values = 3 * u64::from(width) * u64::from(height) * images.len() as u64;
    // A byte in, a float32 out.
    let _span = tracing::trace_span!(
        "normalise",
        flop = work::NORMALISE * values,
        bytes = 5 * values
    )
    .entered();
    let pixels = (width * height) as usize;
    let (mean, deviation) = match normalisation {
        Normalisation::MinusOneToOne => ([0.5; 3], [0.5; 3]),
        Normalisation::ImageNet => IMAGENET,
    };
    let mut planes = vec![0f32; images.len() * 3 * pixels];
    for (planes, image) in planes.chunks_exact_mut(3 * pixels).zip(images) {
        if image.dimensions() != (width, height) {
            return Err(crate::Error::Usage(format!(
                "images of {width}x{height} and {}x{} do not fit in one batch",
                image.width(),
                image.height()
            )));
        }
        for (channel, plane) in planes.chunks_exact_mut(pixels).enumerate() {
            let values = image.as_raw().iter().skip(channel).step_by(3);
            for (out, &value) in plane.iter_mut().zip(values) {
                *out = (f32::from(value) / 255. - mean[channel]) / deviation[channel];
            }
        }
    }
    Ok(Tensor::from_vec(
        planes,
        (images.len(), 3, height as usize, width as usize),
        device,
    )?)
}

/// Images in [-1, 1] normalised as ImageNet's: what DuneMASt3R does to its input.
pub fn imagenet_from_minus_one_to_one(images: &Tensor) -> candle_core::Result<Tensor> {
    ImageNet::new(images.device())?.normalised(images)
}

/// Mean and deviation of ImageNet's colours where images are.
#[derive(Clone, Debug)]
pub(super) struct ImageNet {
    /// `(1, 3, 1, 1)`.
    mean: Tensor,
    deviation: Tensor,
}

impl ImageNet {
    pub(super) fn new(device: &Device) -> candle_core::Result<Self> {
        let constant = |values: [f32; 3]| Tensor::new(&values, device)?.reshape((1, 3, 1, 1));
        Ok(Self {
            mean: constant(IMAGENET.0)?,
            deviation: constant(IMAGENET.1)?,
        })
    }

    /// As [`imagenet_from_minus_one_to_one`].
    pub(super) fn normalised(&self, images: &Tensor) -> candle_core::Result<Tensor> {
        let (flop, bytes) = (
            || work::NORMALISE * work::elements(images),
            || 2 * work::bytes(images),
        );
        let _span = tracing::trace_span!("normalise", flop = flop(), bytes = bytes()).entered();
        let unit = images.to_dtype(DType::F32)?.affine(0.5, 0.5)?;
        unit.broadcast_sub(&self.mean)?
            .broadcast_div(&self.deviation)
    }
}
