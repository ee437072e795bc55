//! From arguments to what is measured and how.

use std::time::Duration;

use mast3r::export::{ElementType, write_checkpoint};
use mast3r::model::checkpoint::Checkpoint;
use mast3r::model::registry::{NETWORKS, Network};
use mast3r::network::{ModelChoice, WeightChoice};
use mast3r::runtime::{Optimisations, Precision};
use mast3r::views::{self, Limits, Resolution};
use mast3r::{Error, Result};
use mast3r_measure::{Bench, Case, Effort, ImageSource, WeightSource, size_for, suite};

use super::BenchArgs;
use crate::network::weight_choice;
use crate::{GlobalArgs, memory};

/// Seconds after which a row of the suite gets no more runs.
const SUITE_SECONDS: f64 = 20.0;

impl BenchArgs {
    /// The benchmark and its cases, checked as far as that is possible without loading anything.
    pub(super) fn plan(&self, global: &GlobalArgs) -> Result<(Bench<'static>, Vec<Case>)> {
        let precisions = self.precisions(global);
        let images = self.image_source()?;
        let weights = self.weight_source()?;
        let mut cases = Vec::new();
        if !self.suite {
            cases = self.cases(&precisions, &images, &weights, global.optimisations())?;
        }
        let mut runtimes = global
            .device
            .open(precisions.first().copied().unwrap_or_default())?;
        let runtime = runtimes.remove(0);
        let on_cpu = runtime.device().is_cpu();
        if self.suite {
            let precisions = if self.predict && precisions.is_empty() {
                &[Precision::F32, Precision::F16][..]
            } else if precisions.is_empty() {
                suite_precisions(on_cpu)
            } else {
                &precisions
            };
            cases = suite::cases(self.quick, precisions, &runtime)?;
        }
        let mut bench = Bench::new(&runtime)?;
        bench.others = runtimes;
        bench.effort = self.effort(on_cpu);
        (bench.images, bench.weights) = (images, weights);
        (bench.outputs, bench.keep) = (self.outputs.clone(), self.resume.clone());
        bench.release_memory = memory::release;
        bench.check(&cases)?;
        self.checkpoint_to_save(&cases, &bench.weights)?;
        Ok((bench, cases))
    }

    /// Precisions asked for, float32 first so that the others can be compared with it; none: the
    /// suite's own.
    fn precisions(&self, global: &GlobalArgs) -> Vec<Precision> {
        let mut precisions = global.precisions().to_vec();
        precisions.sort_by_key(|&precision| precision != Precision::F32);
        if precisions.is_empty() && !self.suite {
            precisions.push(Precision::default());
        }
        precisions
    }

    fn cases(
        &self,
        precisions: &[Precision],
        images: &ImageSource,
        weights: &WeightSource,
        optimisations: Optimisations,
    ) -> Result<Vec<Case>> {
        let optimisations = self
            .without
            .iter()
            .fold(optimisations, |set, &off| set.without(off));
        let mut cases = Vec::new();
        for network in self.networks(weights)? {
            let usual = [Resolution::LongSide(network.default_long_side)];
            let resolutions = if self.res.is_empty() {
                &usual[..]
            } else {
                &self.res
            };
            for &resolution in resolutions {
                let size = size_for(network, resolution, images)?;
                for &precision in precisions {
                    for &stage in &self.stage {
                        let case = |&batch: &u32| Case {
                            network,
                            size,
                            precision,
                            stage,
                            batch: batch as usize,
                            optimisations,
                        };
                        cases.extend(self.batch.iter().map(case));
                    }
                }
            }
        }
        Ok(cases)
    }

    fn networks(&self, weights: &WeightSource) -> Result<Vec<&'static Network>> {
        if self.model.iter().any(|name| name == "all") {
            return Ok(NETWORKS.iter().collect());
        }
        if self.model.is_empty() {
            return match weights {
                WeightSource::Random(_) => Err(Error::Usage(
                    "which network? give --model NAME, a list of them, --model all, or --suite"
                        .into(),
                )),
                WeightSource::Checkpoint(checkpoint, _) => match Network::of(checkpoint.config()) {
                    Some(network) => Ok(vec![network]),
                    None => {
                        let reason =
                            "bench times the networks that --model names, and this is none of them";
                        Err(Error::weights(
                            &self.weights[0],
                            format!("{}: {reason}", checkpoint.describe()),
                        ))
                    }
                },
            };
        }
        self.model.iter().map(|name| Network::find(name)).collect()
    }

    fn image_source(&self) -> Result<ImageSource> {
        views::probe_all(&self.image, None, &Limits::default())?;
        Ok(if self.image.is_empty() {
            ImageSource::Generated
        } else {
            ImageSource::Files(self.image.clone())
        })
    }

    fn weight_source(&self) -> Result<WeightSource> {
        let weights = weight_choice(&self.weights)?;
        let is_bundled =
            |name: &String| Network::find(name).is_ok_and(Network::has_bundled_weights);
        let choice = match (&weights, &self.model[..]) {
            (WeightChoice::Random(seed), _) => return Ok(WeightSource::Random(seed.clone())),
            (WeightChoice::Files(_), _) => ModelChoice {
                weights,
                ..ModelChoice::default()
            },
            (WeightChoice::Published, [only]) if is_bundled(only) => ModelChoice::of(only)?,
            _ => return Ok(WeightSource::Random("0".into())),
        };
        let checkpoint = choice.choose()?.checkpoint;
        let name = checkpoint.fingerprint();
        Ok(WeightSource::Checkpoint(checkpoint, name))
    }

    fn effort(&self, on_cpu: bool) -> Effort {
        let (warmup, runs) = match (self.suite, self.quick, on_cpu) {
            (_, true, _) => (1, 2),
            (true, _, true) => (1, 10),
            (true, _, false) => (5, 30),
            _ => (3, 10),
        };
        let suite_limit = self.suite.then(|| Duration::from_secs_f64(SUITE_SECONDS));
        Effort {
            warmup: self.warmup.unwrap_or(warmup),
            runs: self.runs.map_or(runs, |runs| runs as usize),
            min_time: self.min_time,
            max_time: self.max_time.or(suite_limit).unwrap_or(Duration::MAX),
        }
    }

    /// Writes the weights, if asked to.
    pub(super) fn save_weights(&self, cases: &[Case], weights: &WeightSource) -> Result<()> {
        match (&self.save_weights, self.checkpoint_to_save(cases, weights)?) {
            (Some(path), Some(checkpoint)) => write_checkpoint(&checkpoint, ElementType::F32, path),
            _ => Ok(()),
        }
    }

    /// The weights of the one network of `cases`, if they are to be written.
    fn checkpoint_to_save(
        &self,
        cases: &[Case],
        weights: &WeightSource,
    ) -> Result<Option<Checkpoint>> {
        if self.save_weights.is_none() {
            return Ok(None);
        }
        let (first, rest) = cases
            .split_first()
            .ok_or_else(|| Error::Usage("no network to save".into()))?;
        let checkpoint = weights.checkpoint(first);
        if rest
            .iter()
            .any(|case| weights.checkpoint(case).config() != checkpoint.config())
        {
            let reason =
                "--save-weights: several networks are asked for; give --model and --res of one";
            return Err(Error::Usage(reason.into()));
        }
        Ok(Some(checkpoint))
    }

    /// How long a series of calls of an operation lasts.
    pub(super) fn series_ms(&self) -> f64 {
        if self.quick { 5.0 } else { 100.0 }
    }
}

fn suite_precisions(on_cpu: bool) -> &'static [Precision] {
    if on_cpu {
        &[Precision::F32, Precision::Bf16, Precision::Int8]
    } else {
        &[Precision::F32, Precision::F16, Precision::Bf16]
    }
}
