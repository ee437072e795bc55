//! Features to points and matches.

use std::fs;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use super::encode::MEANS;
use super::plan::part;
use super::{
    FailedPair, JobEvent, JobStage, JobState, JobWatch, Jobs, PairList, PairRecord, StageSummary,
    UsableImage, stored_pair,
};
use crate::alignment::Pair;
use crate::error::{Error, Result};
use crate::model::Mast3r;
use crate::pairs::Similarity;
use crate::pipeline::PairChoice;
use crate::pipeline::features::{FeatureStore, float32};
use crate::pipeline::key::Key;
use crate::pipeline::reconstruct::{Decoding, decoded_order, groups};
use crate::pipeline::sharing::{Stop, joined, spawned};
use crate::pipeline::work::{StoredPair, tensor_of};

impl Jobs<'_> {
    pub(super) fn compute_pairs(&self, shard: usize, watch: JobWatch<'_>) -> Result<StageSummary> {
        let started = Instant::now();
        let records = self.records();
        let (images, _) = records.images()?;
        let list = self.pair_list(&images)?;
        let range = part(list.pairs.len(), shard, self.plan.shards());
        let pairs = list.pairs[range]
            .iter()
            .map(|pair| stored_pair(*pair, &images, &self.plan))
            .collect::<Result<Vec<_>>>()?;
        let event = |pair: Pair, state, matches, reason| {
            let names = [pair.first, pair.second].map(|image| images[image].name.clone());
            watch(&JobEvent::Pair {
                shard,
                images: names,
                state,
                matches,
                reason,
            });
        };
        let (kept, missing): (Vec<&StoredPair>, Vec<&StoredPair>) = pairs
            .iter()
            .partition(|stored| self.folder.has_pair(&stored.key));
        for stored in &kept {
            event(stored.pair, JobState::Kept, None, None);
        }
        let mut failed = Vec::new();
        if !missing.is_empty() {
            self.decode(&images, &missing, |number, result| {
                let pair = missing[number].pair;
                match result {
                    Ok(matches) => event(pair, JobState::Computed, Some(matches), None),
                    Err(error @ Error::NotFinite { .. }) => {
                        let reason = error.to_string();
                        failed.push(FailedPair {
                            images: [pair.first, pair.second],
                            reason: reason.clone(),
                        });
                        event(pair, JobState::Failed, None, Some(reason));
                    }
                    Err(error) => return Err(error),
                }
                Ok(())
            })?;
        }
        let summary = StageSummary {
            shard,
            stage: JobStage::Pairs,
            computed: missing.len() - failed.len(),
            kept: kept.len(),
            failed: failed.len(),
            seconds: started.elapsed().as_secs_f64(),
        };
        let record = PairRecord {
            pairs: pairs.len(),
            failed,
        };
        records.write(&records.of_shard(JobStage::Pairs, shard), &record)?;
        Ok(summary)
    }

    /// All pairs: as the first worker chose them, which all others would choose too.
    fn pair_list(&self, images: &[UsableImage]) -> Result<PairList> {
        let records = self.records();
        let path = records.pair_list();
        if let Some(list) = records.read::<PairList>(&path)? {
            let is_known = |pair: &[usize; 2]| pair[0] < pair[1] && pair[1] < images.len();
            if !list.pairs.iter().all(is_known) {
                let reason = "is not the list of these images; delete it";
                return Err(Error::input(&path, reason));
            }
            return Ok(list);
        }
        let position = |index: usize| {
            images
                .binary_search_by_key(&index, |image| image.index)
                .ok()
        };
        let (pairs, graph) = match self.plan.pairs(position)? {
            PairChoice::List(pairs) => (pairs, "list".to_string()),
            PairChoice::Graph(graph) => {
                let similarity = match graph.needs_similarity(images.len()) {
                    true => Some(Similarity::of(&self.means(images.len())?)?),
                    false => None,
                };
                (
                    graph.pairs(images.len(), similarity.as_ref())?,
                    graph.resolved(images.len()).to_string(),
                )
            }
        };
        let list = PairList {
            graph,
            pairs: pairs.iter().map(|pair| [pair.first, pair.second]).collect(),
        };
        records.write(&path, &list)?;
        Ok(list)
    }

    /// The mean tokens of all images that can be used.
    fn means(&self, count: usize) -> Result<Vec<Vec<f32>>> {
        let records = self.records();
        let mut means = Vec::with_capacity(count);
        for shard in 0..self.plan.shards() {
            let way_out = "delete it, and encode its shard again";
            let path = records.means(shard);
            let bytes = fs::read(&path).map_err(|error| Error::unreadable(&path, error))?;
            let read = tensor_of((&path, &bytes), MEANS, way_out, |tensor| {
                let &[_, channels] = tensor.shape() else {
                    return Err(format!("{MEANS} is {:?}", tensor.shape()));
                };
                let values = float32(tensor.data());
                let rows = values.chunks_exact(channels.max(1));
                Ok(rows.map(<[f32]>::to_vec).collect::<Vec<_>>())
            })?;
            means.extend(read);
        }
        if means.len() != count {
            let reason = format!("has {} mean tokens for {count} images", means.len());
            return Err(Error::input(&records.folder, reason));
        }
        Ok(means)
    }

    /// Decodes pairs and keeps them; `done` is told of each, in order.
    fn decode(
        &self,
        images: &[UsableImage],
        pairs: &[&StoredPair],
        mut done: impl FnMut(usize, Result<usize>) -> Result<()> + Send,
    ) -> Result<()> {
        let orders: Vec<[usize; 2]> = pairs
            .iter()
            .map(|stored| decoded_order(stored.pair, stored.exchanged))
            .collect();
        // Features of the images of these pairs alone.
        let mut needed: Vec<usize> = orders.as_flattened().to_vec();
        needed.sort_unstable();
        needed.dedup();
        let place = |image: &usize| needed.binary_search(image).unwrap_or_default();
        let orders: Vec<[usize; 2]> = orders
            .iter()
            .map(|order| order.each_ref().map(place))
            .collect();
        let keys: Vec<Key> = needed
            .iter()
            .map(|&image| images[image].features.clone())
            .collect();
        let mut features = FeatureStore::new(self.memory, keys, Some(self.folder.features()));
        let models: Vec<Mast3r> = (self.network)()?
            .iter()
            .map(|model| model.pairwise().cloned())
            .collect::<Result<_>>()?;
        // Features that a disk damaged or somebody deleted are made again.
        let mut missing = Vec::new();
        for at in 0..needed.len() {
            if !features.is_known(at)? {
                missing.push(at);
            }
        }
        if !missing.is_empty() {
            let extractors: Vec<_> = models.iter().map(Mast3r::extractor).collect();
            let load = |at: usize| {
                let UsableImage {
                    name, pixels, crop, ..
                } = &images[needed[at]];
                self.folder.read_view(pixels, name, *crop)
            };
            features.encode(load, &missing, &extractors, |_| Ok(()))?;
        }
        let features = Mutex::new(features);
        let matching = self.plan.matching();
        let pixels = |at: usize| {
            let crop = &images[needed[at]].crop;
            u64::from(crop.width) * u64::from(crop.height)
        };
        let decoding = Decoding {
            models: &models,
            groups: &groups(&orders, pixels, &models),
            features: &features,
            matching: &matching,
        };
        let sharing = decoding.sharing();
        thread::scope(|scope| {
            let consumer = spawned(scope, || {
                let _stopper = sharing.stopper(Stop::Always);
                let mut number = 0;
                while number < pairs.len() {
                    let stopped = || Error::Internal("the pairs were not decoded".into());
                    for matches in sharing.take().ok_or_else(stopped)? {
                        done(number, matches)?;
                        number += 1;
                    }
                }
                Ok(())
            })?;
            let decoded = decoding.run(&sharing, &|number, decoded| {
                let StoredPair { pair, key, .. } = pairs[number];
                let evidence = decoded.evidence(*pair, &matching, || {})?;
                self.folder.write_pair(key, &evidence)?;
                Ok(evidence.matches.len())
            });
            let consumed = joined(consumer);
            decoded?;
            consumed
        })
    }
}
