//! Reciprocal nearest neighbours among the descriptors of two images, on a GPU.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(test)]
#[path = "../../tests/cuda/mod.rs"]
mod cuda_kernels;
#[cfg(feature = "metal")]
mod metal;
#[cfg(any(test, feature = "cuda"))]
mod plan;
#[cfg(any(test, feature = "metal"))]
pub(crate) mod shader;
#[cfg(test)]
#[path = "../../tests/metal/reciprocal.rs"]
mod shaders;
#[cfg(any(test, feature = "cuda", feature = "metal"))]
mod walkers;

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::Downloader;

/// Most channels of a descriptor that the kernels take; the networks have 24.
pub const MOST_DESCRIPTOR_CHANNELS: usize = 24;

/// One decode of an image, as [`reciprocal_walks`] takes it.
#[derive(Clone, Copy, Debug)]
pub struct MatchedMap<'a> {
    /// `(height, width, channels)`.
    pub descriptors: &'a Tensor,
    /// `(height, width)`.
    pub confidence: &'a Tensor,
}

/// Seeds that came to rest, of one decode of a pair of images.
#[derive(Clone, Debug, PartialEq)]
pub struct Settled {
    /// Of seeds on the first and of seeds on the second image, in the seeds' order.
    pub seeds: [Vec<SettledSeed>; 2],
    /// Descriptors of the first and of the second map that are not finite or whose square is not
    /// within 1e-6 and 1e6. If there are any, the seeds mean nothing.
    pub unusable: [usize; 2],
    /// Confidences of the first and of the second map that are not finite.
    pub undefined: [usize; 2],
}

/// A seed at rest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SettledSeed {
    /// Where, on its own image.
    pub pixel: u32,
    /// The nearest neighbour in the other image.
    pub nearest: u32,
    /// Of the two pixels.
    pub confidence: [f32; 2],
}

/// Walks that a device was given.
#[derive(Debug)]
pub struct Walks {
    walking: Walking,
}

/// By the device that walks.
#[derive(Debug)]
enum Walking {
    #[cfg(feature = "cuda")]
    Cuda(cuda::Walking),
    #[cfg(feature = "metal")]
    Metal(metal::Walking),
}

/// Whether [`reciprocal_walks`] can search descriptors like these.
pub fn has_reciprocal_walks(descriptors: &Tensor) -> bool {
    let has_kernels = match descriptors.device() {
        Device::Cpu => false,
        Device::Cuda(_) => cfg!(feature = "cuda"),
        Device::Metal(_) => cfg!(feature = "metal"),
    };
    has_kernels
        && descriptors.dtype() == DType::F32
        && descriptors
            .dims()
            .last()
            .is_some_and(|channels| (1..=MOST_DESCRIPTOR_CHANNELS).contains(channels))
}

/// Walks seeds to their nearest neighbour in the other image and back until they stay where they
/// are, at most `rounds` times.
///
/// `decodes` are one or two decodes of the same two images, maps of the first and the second,
/// float32 on one GPU; `seeds` are pixel numbers, row major, on either image. The nearest
/// neighbour has the largest dot product, a float32 sum of products in channel order, and is the
/// earliest pixel where several are equal. The device is given all of it, and nobody waits:
/// [`Walks::wait`] does. Results come by way of `downloader` where that goes on meanwhile.
///
/// # Errors
/// Maps for which [`has_reciprocal_walks`] is false or whose shapes disagree; errors of the device.
pub fn reciprocal_walks(
    decodes: &[[MatchedMap<'_>; 2]],
    seeds: [&[u32]; 2],
    rounds: usize,
    downloader: &Downloader,
) -> Result<Walks> {
    let Some(first) = decodes.first() else {
        bail!("reciprocal walks: no decode of the images")
    };
    for maps in decodes {
        for (map, reference) in maps.iter().zip(first) {
            let MatchedMap {
                descriptors,
                confidence,
            } = map;
            let is_whole = descriptors.dims() == reference.descriptors.dims()
                && descriptors
                    .dims()
                    .split_last()
                    .is_some_and(|(_, size)| size.len() == 2 && size == confidence.dims())
                && descriptors
                    .device()
                    .same_device(first[0].descriptors.device())
                && descriptors.device().same_device(confidence.device());
            if !is_whole || confidence.dtype() != DType::F32 || !has_reciprocal_walks(descriptors) {
                bail!(
                    "reciprocal walks: on one GPU float32 maps of (height, width, at most \
                     {MOST_DESCRIPTOR_CHANNELS} channels) and their confidences expected, the same in all decodes; got {:?} and \
                     {:?} of {:?} on {:?}",
                    descriptors.shape(),
                    confidence.shape(),
                    descriptors.dtype(),
                    descriptors.device().location()
                );
            }
        }
    }
    let [one, other] = first.map(|map| map.descriptors);
    if one.dims()[2] != other.dims()[2] {
        bail!(
            "reciprocal walks: descriptors of {:?} and {:?} cannot be compared",
            one.shape(),
            other.shape()
        );
    }
    match one.device() {
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => {
            let walking = cuda::Walking::begin(decodes, seeds, rounds, downloader.pool())?;
            Ok(Walks {
                walking: Walking::Cuda(walking),
            })
        }
        #[cfg(feature = "metal")]
        Device::Metal(_) => {
            let walking = metal::Walking::begin(decodes, seeds, rounds)?;
            Ok(Walks {
                walking: Walking::Metal(walking),
            })
        }
        other => {
            let seeds = seeds.map(<[u32]>::len);
            bail!(
                "reciprocal walks of {seeds:?} seeds, {rounds} rounds, by {downloader:?}: not on {:?}",
                other.location()
            )
        }
    }
}

impl Walks {
    /// What came of it, decode by decode.
    ///
    /// # Errors
    /// Of the device, in whatever it was given before.
    pub fn wait(&self) -> Result<Vec<Settled>> {
        match self.walking {
            #[cfg(feature = "cuda")]
            Walking::Cuda(ref walking) => walking.wait(),
            #[cfg(feature = "metal")]
            Walking::Metal(ref walking) => walking.wait(),
        }
    }
}
