//! Images to features.

use std::path::PathBuf;
use std::time::Instant;

use rayon::prelude::*;
use safetensors::Dtype;

use super::plan::Checksums;
use super::{ImageRecord, JobEvent, JobStage, JobState, JobWatch, Jobs, StageSummary};
use crate::error::{Error, Result};
use crate::model::FeatureExtractor;
use crate::pipeline::features::FeatureStore;
use crate::pipeline::key::Key;
use crate::pipeline::work::{file_name, serialised, write_file};
use crate::views::{self, Limits, View};

/// Images that are decoded together: the frames of a video are.
const TOGETHER: usize = 32;
/// The tensor of mean tokens.
pub(super) const MEANS: &str = "means";

impl Jobs<'_> {
    pub(super) fn encode(&self, shard: usize, watch: JobWatch<'_>) -> Result<StageSummary> {
        let started = Instant::now();
        let records = self.records();
        let path = records.of_shard(JobStage::Encode, shard);
        let images = self.plan.images_of(shard);
        let kept: Option<Vec<ImageRecord>> = records.read(&path)?;
        let kept = kept.filter(|kept| kept.len() == images.len());
        let is_whole = |kept: &Vec<ImageRecord>| {
            let is_there = |record: &ImageRecord| -> Result<bool> {
                let Some((pixels, _)) = &record.pixels else {
                    return Ok(true);
                };
                let features = Key::of_features(pixels, Some(self.plan.key()))?;
                let features = self.folder.features().join(file_name(&features));
                Ok(features.is_file() && self.folder.view_path(pixels).is_file())
            };
            kept.iter().map(is_there).collect::<Result<Vec<_>>>()
        };
        if let Some(kept) = &kept
            && is_whole(kept)?.into_iter().all(|is_there| is_there)
            && records.means(shard).is_file()
        {
            let state = |record: &ImageRecord| match record.pixels {
                Some(_) => JobState::Kept,
                None => JobState::Failed,
            };
            let states: Vec<JobState> = kept.iter().map(state).collect();
            for ((index, record), state) in images.zip(kept).zip(&states) {
                watch(&self.event(shard, index, *state, record.reason.clone()));
            }
            return Ok(summary(shard, &states, started));
        }
        let prepared = self.prepare(shard)?;
        let usable: Vec<(usize, &(Key, views::Crop))> = prepared
            .iter()
            .enumerate()
            .filter_map(|(at, record)| record.pixels.as_ref().map(|pixels| (at, pixels)))
            .collect();
        let keys = usable
            .iter()
            .map(|(_, (pixels, _))| Key::of_features(pixels, Some(self.plan.key())))
            .collect::<Result<_>>()?;
        let mut features = FeatureStore::new(self.memory, keys, Some(self.folder.features()));
        let mut missing = Vec::new();
        for at in 0..usable.len() {
            if !features.is_known(at)? {
                missing.push(at);
            }
        }
        let mut states: Vec<JobState> = vec![JobState::Failed; prepared.len()];
        for (at, _) in &usable {
            states[*at] = JobState::Kept;
        }
        let report = |at: usize, state: JobState| {
            let reason = prepared[at].reason.clone();
            watch(&self.event(shard, images.start + at, state, reason));
        };
        if !missing.is_empty() {
            let models = (self.network)()?;
            let extractors: Vec<&FeatureExtractor> = models
                .iter()
                .map(|model| model.encoder())
                .collect::<Result<_>>()?;
            let load = |at: usize| {
                let (index, (pixels, crop)) = &usable[at];
                let name = self.plan.images()[images.start + index]
                    .path
                    .to_string_lossy();
                self.folder.read_view(pixels, &name, *crop)
            };
            features.encode(load, &missing, &extractors, |at| {
                let (at, _) = usable[at];
                states[at] = JobState::Computed;
                report(at, JobState::Computed);
                Ok(())
            })?;
        }
        for (at, state) in states.iter().enumerate() {
            if *state != JobState::Computed {
                report(at, *state);
            }
        }
        let means = (0..usable.len())
            .map(|at| features.mean_token(at))
            .collect::<Result<Vec<_>>>()?;
        let channels = means.first().map_or(0, Vec::len);
        let bytes: Vec<u8> = means
            .iter()
            .flatten()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let shape = vec![means.len(), channels];
        let content = serialised(MEANS, Dtype::F32, shape, &bytes)?;
        write_file(&records.means(shard), &content)?;
        records.write(&path, &prepared)?;
        Ok(summary(shard, &states, started))
    }

    /// Decodes the images of a shard and keeps the pixels that the network sees.
    fn prepare(&self, shard: usize) -> Result<Vec<ImageRecord>> {
        let images = &self.plan.images()[self.plan.images_of(shard)];
        let mut records = Vec::with_capacity(images.len());
        for images in images.chunks(TOGETHER) {
            let paths: Vec<PathBuf> = images.iter().map(|image| self.plan.path(image)).collect();
            let sums = Checksums::of(&paths);
            let unusable = |at: usize| {
                let image = &images[at];
                if image.size.is_none() {
                    return image.reason.clone().or(Some("it cannot be used".into()));
                }
                match sums.get(&paths[at]) {
                    None => Some(format!("{}: cannot be read", image.path.display())),
                    Some((bytes, sum)) if (*bytes, sum) != (image.bytes, &image.sha256) => {
                        Some(format!(
                            "{}: has changed since the plan was made",
                            image.path.display()
                        ))
                    }
                    _ => None,
                }
            };
            let reasons: Vec<Option<String>> = (0..images.len()).map(unusable).collect();
            let wanted: Vec<usize> = (0..images.len())
                .filter(|at| reasons[*at].is_none())
                .collect();
            let mut loaded = self.load(wanted.iter().map(|&at| paths[at].clone()).collect());
            loaded.reverse();
            let result = |reason| match reason {
                Some(reason) => Err(reason),
                None => loaded
                    .pop()
                    .unwrap_or_else(|| Err("it was not decoded".into())),
            };
            let results: Vec<Result<View, String>> = reasons.into_iter().map(result).collect();
            // Several at a time: each waits for the disk.
            let record = |result| match result {
                Ok(view) => {
                    let key = Key::of_view(&view);
                    self.folder.write_view(&key, &view)?;
                    Ok(ImageRecord {
                        pixels: Some((key, view.crop)),
                        reason: None,
                    })
                }
                Err(reason) => Ok(ImageRecord {
                    pixels: None,
                    reason: Some(reason),
                }),
            };
            let made: Result<Vec<ImageRecord>> = results.into_par_iter().map(record).collect();
            records.extend(made?);
        }
        Ok(records)
    }

    /// Loads images: together, or, where one of them cannot be loaded, each by itself.
    fn load(&self, paths: Vec<PathBuf>) -> Vec<Result<View, String>> {
        let limits = Limits::default();
        match views::load(&paths, &self.framing, &limits) {
            Ok(views) => views.into_iter().map(Ok).collect(),
            Err(_) => paths
                .par_iter()
                .map(|path| {
                    views::load_one(path, &self.framing, &limits)
                        .map_err(|error: Error| error.to_string())
                })
                .collect(),
        }
    }

    fn event(
        &self,
        shard: usize,
        index: usize,
        state: JobState,
        reason: Option<String>,
    ) -> JobEvent {
        JobEvent::Image {
            shard,
            image: self.plan.images()[index].path.display().to_string(),
            state,
            reason,
        }
    }
}

fn summary(shard: usize, states: &[JobState], started: Instant) -> StageSummary {
    let count = |wanted| states.iter().filter(|state| **state == wanted).count();
    StageSummary {
        shard,
        stage: JobStage::Encode,
        computed: count(JobState::Computed),
        kept: count(JobState::Kept),
        failed: count(JobState::Failed),
        seconds: started.elapsed().as_secs_f64(),
    }
}
