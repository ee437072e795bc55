//! Numbers on their way from a device to the host.

#[cfg(feature = "cuda")]
pub(crate) mod cuda;

use std::borrow::Cow;

#[cfg(any(test, feature = "cuda"))]
use candle_core::Device;
use candle_core::{DType, Result, Tensor, bail};

/// Brings float32 tensors to the host while the device goes on.
///
/// On CUDA copies come after what the device was given before them and ahead of whatever it is
/// given next, and waiting for them is waiting for nothing else: the host may give the device more
/// work first. They go to page-locked memory, which is kept for later ones; clones share it. On
/// other devices a download is complete when it begins.
#[derive(Clone, Debug, Default)]
pub struct Downloader {
    #[cfg(feature = "cuda")]
    pool: cuda::Pool,
}

/// Tensors on their way.
#[derive(Debug)]
pub struct Download(Numbers);

/// Of each tensor, or of all in turn with how many each has.
#[derive(Debug)]
enum Numbers {
    Arrived(Vec<Vec<f32>>),
    #[cfg(feature = "cuda")]
    Coming(cuda::Copies, Vec<usize>),
}

impl Downloader {
    /// Begins to bring tensors of one device to the host.
    ///
    /// # Errors
    /// Tensors that are not float32 or not of one device; errors of the device.
    pub fn begin(&self, tensors: &[&Tensor]) -> Result<Download> {
        let Some(first) = tensors.first() else {
            return Ok(Download(Numbers::Arrived(Vec::new())));
        };
        for tensor in tensors {
            if tensor.dtype() != DType::F32 || !tensor.device().same_device(first.device()) {
                bail!(
                    "download: float32 tensors of one device expected, got {:?} on {:?} after one on {:?}",
                    tensor.dtype(),
                    tensor.device().location(),
                    first.device().location()
                );
            }
        }
        Ok(Download(match first.device() {
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => {
                let lengths = tensors.iter().map(|tensor| tensor.elem_count()).collect();
                Numbers::Coming(self.pool.begin_tensors(device, tensors)?, lengths)
            }
            _ => Numbers::Arrived(
                tensors
                    .iter()
                    .map(|tensor| arrived(tensor))
                    .collect::<Result<_>>()?,
            ),
        }))
    }
}

#[cfg(feature = "cuda")]
impl Downloader {
    pub(crate) fn pool(&self) -> &cuda::Pool {
        &self.pool
    }
}

impl Download {
    /// The numbers of each tensor, row major, once they have arrived; to be had once.
    ///
    /// # Errors
    /// Of the device, in whatever it was given before.
    pub fn wait(&mut self) -> Result<Vec<Cow<'_, [f32]>>> {
        match &mut self.0 {
            Numbers::Arrived(numbers) => Ok(std::mem::take(numbers)
                .into_iter()
                .map(Cow::Owned)
                .collect()),
            #[cfg(feature = "cuda")]
            Numbers::Coming(copies, lengths) => {
                let mut rest = copies.floats()?;
                let parts = lengths.iter().map(|&length| {
                    let (this, after) = rest.split_at(length);
                    rest = after;
                    Cow::Borrowed(this)
                });
                Ok(parts.collect())
            }
        }
    }
}

fn arrived(tensor: &Tensor) -> Result<Vec<f32>> {
    // Candle fetches all of the memory that a tensor is a part of, but for the CPU's.
    let whole = if tensor.device().is_cpu() {
        tensor.contiguous()?
    } else {
        tensor.force_contiguous()?
    };
    whole.flatten_all()?.to_vec1()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_views_of_tensors_arrive_row_major() {
        let whole = Tensor::arange(0f32, 24., &Device::Cpu)
            .unwrap()
            .reshape((2, 3, 4))
            .unwrap();
        let turned = whole.narrow(0, 1, 1).unwrap().transpose(1, 2).unwrap();
        let mut download = Downloader::default()
            .begin(&[&whole.narrow(0, 1, 1).unwrap(), &turned])
            .unwrap();
        let parts = download.wait().unwrap();
        assert_eq!(
            parts[0].as_ref(),
            (12..24).map(|x| x as f32).collect::<Vec<_>>()
        );
        assert_eq!(parts[1][..4], [12., 16., 20., 13.]);
        assert!(
            Downloader::default()
                .begin(&[])
                .unwrap()
                .wait()
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn other_numbers_are_refused() {
        let halves = Tensor::zeros(3, DType::F16, &Device::Cpu).unwrap();
        let message = Downloader::default()
            .begin(&[&halves])
            .unwrap_err()
            .to_string();
        assert!(message.contains("F16"), "{message}");
    }

    /// On a GPU, where there is one.
    #[cfg(feature = "cuda")]
    #[test]
    fn downloads_under_way_do_not_mix_and_memory_is_used_again() {
        let Some(device) = crate::launch::cuda::test_device() else {
            return;
        };
        let downloader = Downloader::default();
        for round in 0..3 {
            let size = 1 << (20 - round);
            let whole = Tensor::arange(0f32, (4 * size) as f32, &Device::Cpu)
                .unwrap()
                .reshape((4, size))
                .unwrap();
            let whole = whole.to_device(&device).unwrap();
            let mut downloads: Vec<Download> = (0..4)
                .map(|row| {
                    let row = whole.narrow(0, row, 1).unwrap();
                    // What comes after must not be seen.
                    let download = downloader
                        .begin(&[&row, &row.narrow(1, 1, 2).unwrap()])
                        .unwrap();
                    (row * 2.).unwrap();
                    download
                })
                .collect();
            for (row, download) in downloads.iter_mut().enumerate().rev() {
                let parts = download.wait().unwrap();
                let first = (row * size) as f32;
                assert!(
                    parts[0]
                        .iter()
                        .enumerate()
                        .all(|(column, &x)| x == first + column as f32),
                    "{round}, {row}"
                );
                assert_eq!(parts[1].as_ref(), [first + 1., first + 2.]);
            }
        }
    }
}
