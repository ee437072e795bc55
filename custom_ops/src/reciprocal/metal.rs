//! The walks on Metal.

use std::sync::Arc;

use candle_core::backend::BackendStorage as _;
use candle_core::metal_backend::{MetalDevice, MetalStorage};
use candle_core::{CpuStorage, DType, Result, Storage, bail};
use candle_metal_kernels::metal::Buffer;

use super::shader::{SHADER, Search};
use super::{MatchedMap, Settled};
use crate::launch::metal::{Bound, encode};

/// A search that the device was given.
#[derive(Debug)]
pub(super) struct Walking {
    search: Search,
    statistics: MetalStorage,
    walkers: MetalStorage,
}

impl Walking {
    pub(super) fn begin(
        decodes: &[[MatchedMap<'_>; 2]],
        starts: [&[u32]; 2],
        rounds: usize,
    ) -> Result<Self> {
        let [first, second] = decodes[0].each_ref().map(|map| map.descriptors.dims3());
        let (first, second) = (first?, second?);
        let pixels = [first.0 * first.1, second.0 * second.1];
        let search = Search::new(pixels, first.2, decodes.len(), starts, rounds)?;
        let device = decodes[0][0].descriptors.device().as_metal_device()?;

        let starts = device.new_buffer_with_data(&search.starts)?;
        let buffer = |words: usize, zeroed: bool| -> Result<Arc<Buffer>> {
            if zeroed {
                device.allocate_zeros(words * size_of::<u32>())
            } else {
                device.new_buffer(words, DType::U32, SHADER.op)
            }
        };
        let buffers = search
            .buffers
            .iter()
            .map(|each| Ok((*each, buffer(each.words, each.zeroed)?)))
            .collect::<Result<Vec<_>>>()?;
        let maps = decodes
            .iter()
            .flatten()
            .map(|map| Ok([map.descriptors.contiguous()?, map.confidence.contiguous()?]))
            .collect::<Result<Vec<_>>>()?;

        for plan in &search.launches {
            // Read by those launches only that are given the map's number.
            let [descriptors, confidence] = &maps[plan.params.map as usize];
            let (descriptors, confidence) = (
                descriptors.storage_and_layout(),
                confidence.storage_and_layout(),
            );
            let mut bound = vec![Bound::whole("starts", &starts)];
            for (name, (storage, layout)) in
                [("descriptors", &descriptors), ("confidence", &confidence)]
            {
                let Storage::Metal(storage) = &**storage else {
                    bail!("reciprocal walks: a tensor that is not on Metal")
                };
                bound.push(Bound::new(name, storage, layout));
            }
            let own = buffers.iter().map(|(of, own)| Bound::whole(of.name, own));
            bound.extend(own);
            encode(&SHADER, plan, &bound, device)?;
        }
        let kept = |name: &str| -> Result<MetalStorage> {
            match buffers.iter().find(|(of, _)| of.name == name) {
                Some((of, own)) => Ok(words(own, of.words, device)),
                None => bail!("reciprocal walks: no buffer {name}"),
            }
        };
        Ok(Self {
            statistics: kept("statistics")?,
            walkers: kept("walkers")?,
            search,
        })
    }

    pub(super) fn wait(&self) -> Result<Vec<Settled>> {
        let fetched = |storage: &MetalStorage| match storage.to_cpu_storage()? {
            CpuStorage::U32(words) => Ok(words),
            _ => bail!("reciprocal walks: words expected"),
        };
        let (statistics, walkers) = (fetched(&self.statistics)?, fetched(&self.walkers)?);
        Ok(self.search.results(&statistics, &walkers))
    }
}

fn words(buffer: &Arc<Buffer>, count: usize, device: &MetalDevice) -> MetalStorage {
    MetalStorage::new(buffer.clone(), device.clone(), count, DType::U32)
}
