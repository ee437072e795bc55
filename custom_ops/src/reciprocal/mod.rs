//! Reciprocal nearest neighbours among the descriptors of two pictures, on a GPU.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(test)]
#[path = "../../tests/cuda/mod.rs"]
mod cuda_kernels;
#[cfg(any(test, feature = "cuda"))]
mod plan;

use candle_core::{Result, Tensor, bail};

/// Most channels of a descriptor that the kernels take; the networks have 24.
pub const MOST_DESCRIPTOR_CHANNELS: usize = 24;

/// Seeds that came to rest, of one decode of a pair of pictures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// For seeds on the first and on the second picture: the pixel where a seed came to rest, and its nearest neighbour
    /// in the other picture; in the order of the seeds.
    pub pairs: [Vec<(u32, u32)>; 2],
    /// Descriptors of the first and of the second map that are not finite or whose square is not within 1e-6 and 1e6.
    /// If there are any, the pairs mean nothing.
    pub unusable: [usize; 2],
}

/// Whether [`reciprocal_walks`] can search maps like this one.
pub fn has_reciprocal_walks(map: &Tensor) -> bool {
    let is_taken = cfg!(feature = "cuda") && map.device().is_cuda() && map.dtype() == candle_core::DType::F32;
    is_taken && map.dims().last().is_some_and(|channels| (1..=MOST_DESCRIPTOR_CHANNELS).contains(channels))
}

/// Walks seeds to their nearest neighbour in the other picture and back until they stay where they are, at most `rounds`
/// times.
///
/// `decodes` are one or two decodes of the same two pictures, `(height, width, channels)` descriptors of the first and
/// the second, float32 on one CUDA device; `seeds` are pixel numbers, row major, on either picture. The nearest
/// neighbour has the largest dot product, a float32 sum of products in channel order, and is the earliest pixel where
/// several are equal. One wait for the device.
///
/// # Errors
/// Maps for which [`has_reciprocal_walks`] is false or whose shapes disagree; errors of the device.
pub fn reciprocal_walks(decodes: &[[&Tensor; 2]], seeds: [&[u32]; 2], rounds: usize) -> Result<Vec<Settled>> {
    let Some(first) = decodes.first() else { return Ok(Vec::new()) };
    for maps in decodes {
        for (map, reference) in maps.iter().zip(first) {
            if map.rank() != 3 || map.dims() != reference.dims() || !has_reciprocal_walks(map) {
                bail!(
                    "reciprocal walks: float32 maps of (height, width, at most {MOST_DESCRIPTOR_CHANNELS} channels) on CUDA \
                     expected, the same in all decodes; got {:?} of {:?} on {:?}",
                    map.shape(),
                    map.dtype(),
                    map.device().location()
                );
            }
        }
    }
    if first[0].dims()[2] != first[1].dims()[2] {
        bail!("reciprocal walks: descriptors of {:?} and {:?} cannot be compared", first[0].shape(), first[1].shape());
    }
    #[cfg(feature = "cuda")]
    return cuda::walk(decodes, seeds, rounds);
    #[cfg(not(feature = "cuda"))]
    bail!("reciprocal walks of {} and {} seeds, {rounds} rounds: built without CUDA", seeds[0].len(), seeds[1].len())
}
