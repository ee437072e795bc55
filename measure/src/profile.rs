//! The whole of what the program does with a pair of images, or with one, taken apart by its own
//! spans.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::Tensor;
use tracing::debug_span;

use crate::breakdown::Breakdown;
use crate::components::{BlockTerms, Runs};
use crate::images::generated_pair;
use crate::spans::{Recording, record};
use crate::stats::Summary;
use crate::workload::{Kind, LoadedNetwork};
use mast3r::alignment::{AlignOptions, Pair, align};
use mast3r::export::{self, FeatureSink, TemporaryFolder, TensorMetadata, TensorSpec};
use mast3r::matching::MatchOptions;
use mast3r::model::checkpoint::Checkpoint;
use mast3r::model::config::{Config, Predicts};
use mast3r::model::{FeatureExtractor, Features, JointNetwork as _};
use mast3r::pipeline::pair_evidence;
use mast3r::runtime::Runtime;
use mast3r::views::{self, Framing, Limits, Resolution};
use mast3r::{Error, Result};

/// How often the job is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProfileOptions {
    /// Times that do not count, before those that do.
    pub warmup: usize,
    /// Times that count, at least one; as many more, in turn with them, are not recorded, for
    /// comparison.
    pub runs: usize,
}

impl ProfileOptions {
    /// What is usual: 1 and 3 on a CPU, 3 and 10 on a GPU.
    pub fn usual(runtime: &Runtime) -> Self {
        if runtime.device().is_cpu() {
            Self { warmup: 1, runs: 3 }
        } else {
            Self {
                warmup: 3,
                runs: 10,
            }
        }
    }
}

/// Where the time went. Times are means over the runs, in milliseconds.
#[derive(Clone, Debug)]
pub struct Profile {
    /// How often the job was done.
    pub options: ProfileOptions,
    /// Width and height of each image at the network's size.
    pub sizes: Vec<[u32; 2]>,
    /// Whether the device was waited for after every component, which makes all of them together
    /// slower.
    pub synchronized: bool,
    /// The whole job from image files to a result file, weights loaded once, as recorded.
    pub total_ms: f64,
    /// The same without recording.
    pub total_unprofiled_ms: f64,
    /// The network alone, images in memory to results on the device, as recorded: each run.
    pub network_runs_ms: Vec<f64>,
    /// The same without recording.
    pub network_unprofiled_runs_ms: Vec<f64>,
    /// Spans that were recorded in a run.
    pub spans: usize,
    /// The tables. Of each the rows that add up come to its total.
    pub tables: Vec<Breakdown>,
    /// The loading of the weights and the last run.
    pub recording: Recording,
}

impl Profile {
    /// The network's mean time as recorded.
    pub fn network_ms(&self) -> f64 {
        mean(&self.network_runs_ms)
    }

    /// The medians of the network's times as recorded, and without recording: a run that other work
    /// on the machine disturbed does not move them.
    pub fn network_medians_ms(&self) -> [f64; 2] {
        [&self.network_runs_ms, &self.network_unprofiled_runs_ms]
            .map(|runs| Summary::of(runs).map_or(f64::NAN, |summary| summary.median))
    }

    /// The network's mean time without recording.
    pub fn network_unprofiled_ms(&self) -> f64 {
        mean(&self.network_unprofiled_runs_ms)
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Image files to profile with.
#[derive(Debug)]
pub enum ProfileImages {
    /// Those of somebody.
    Given(Vec<PathBuf>),
    /// Drawn ones, removed in the end.
    Generated(Vec<PathBuf>, TemporaryFolder),
}

impl ProfileImages {
    /// Draws `count` images, one or two, of twice the size that `framing` brings them to.
    ///
    /// # Errors
    /// [`Error::Io`] if they cannot be written; [`Error::Usage`] for a framing that serves no
    /// image.
    pub fn generate(count: usize, framing: &Framing) -> Result<Self> {
        framing.check()?;
        let [width, height] = match framing.resolution {
            Resolution::LongSide(side) if framing.square_allowed => [side, side],
            Resolution::LongSide(side) => [side, side * 3 / 4],
            Resolution::Exact { width, height } => [width, height],
        };
        let folder = TemporaryFolder::new()?;
        let mut paths = Vec::new();
        for (index, image) in generated_pair(2 * width, 2 * height)
            .iter()
            .take(count)
            .enumerate()
        {
            let path = folder.path().join(format!("image-{}.png", index + 1));
            image
                .save(&path)
                .map_err(|error| Error::io(&path, std::io::Error::other(error)))?;
            paths.push(path);
        }
        Ok(Self::Generated(paths, folder))
    }

    /// The files.
    pub fn paths(&self) -> &[PathBuf] {
        match self {
            Self::Given(paths) | Self::Generated(paths, _) => paths,
        }
    }
}

/// A network, ready to be profiled.
#[derive(Debug)]
pub struct Profiler {
    network: LoadedNetwork,
    config: Config,
    runtime: Runtime,
    weights: Recording,
}

/// What was measured from outside.
struct Outcome {
    network: Duration,
    sizes: Vec<[u32; 2]>,
}

impl Profiler {
    /// Builds the network of `checkpoint`, and records how long that takes.
    ///
    /// # Errors
    /// [`Error::Weights`] about the file; errors of the device.
    pub fn load(checkpoint: &Checkpoint, runtime: &Runtime) -> Result<Self> {
        let build =
            || debug_span!("weights").in_scope(|| LoadedNetwork::new(checkpoint, false, runtime));
        let (network, weights) = record(Some(runtime), build)?;
        Ok(Self {
            network: network?,
            config: checkpoint.config().clone(),
            runtime: runtime.clone(),
            weights,
        })
    }

    /// Does the job again and again, each time that is recorded after one that is not; `begin` is
    /// told the number of each of [`Profiler::times`].
    ///
    /// Two-view networks take two images and write a point cloud, encoders any number and write
    /// features; both into a temporary folder.
    ///
    /// # Errors
    /// [`Error::Usage`] for a number of images or runs that cannot be served; those of the job.
    pub fn run(
        &self,
        images: &ProfileImages,
        framing: &Framing,
        options: ProfileOptions,
        mut begin: impl FnMut(usize),
    ) -> Result<Profile> {
        let images = images.paths();
        check_images(&self.config, images.len())?;
        if options.runs == 0 {
            return Err(Error::Usage(
                "a profile is of at least one run, got 0".into(),
            ));
        }
        let folder = TemporaryFolder::new()?;
        let mut number = 0..;
        let mut next = || begin(number.next().unwrap_or_default());
        let job = || self.job(images, framing, folder.path());
        for _ in 0..options.warmup {
            next();
            job()?;
        }
        let (mut recordings, mut unprofiled, mut network_unprofiled) =
            (Vec::new(), Vec::new(), Vec::new());
        let mut sizes = Vec::new();
        for _ in 0..options.runs {
            next();
            let started = Instant::now();
            let outcome = job()?;
            unprofiled.push(started.elapsed());
            network_unprofiled.push(outcome.network);
            next();
            let (outcome, recording) = record(Some(&self.runtime), job)?;
            sizes = outcome?.sizes;
            recordings.push(recording);
        }
        let milliseconds = |time: Duration| 1e3 * time.as_secs_f64();
        let mean_ms =
            |times: &[Duration]| milliseconds(times.iter().sum::<Duration>()) / times.len() as f64;
        let weights = self.weights.total("weights");
        let network = |recording: &Recording| recording.total("encode") + recording.total("decode");
        let runs: Vec<Duration> = recordings
            .iter()
            .map(|recording| recording.total("run"))
            .collect();
        let tables = self.tables(&recordings, weights, &sizes);
        Ok(Profile {
            options,
            sizes,
            synchronized: !self.runtime.device().is_cpu(),
            total_ms: mean_ms(&runs) + milliseconds(weights),
            total_unprofiled_ms: mean_ms(&unprofiled) + milliseconds(weights),
            network_runs_ms: recordings
                .iter()
                .map(|recording| milliseconds(network(recording)))
                .collect(),
            network_unprofiled_runs_ms: network_unprofiled.into_iter().map(milliseconds).collect(),
            spans: recordings
                .last()
                .map_or(0, |recording| recording.spans().len()),
            tables,
            recording: self
                .weights
                .clone()
                .then(recordings.pop().unwrap_or_default()),
        })
    }

    /// How often [`Profiler::run`] does the job.
    pub fn times(options: ProfileOptions) -> usize {
        options.warmup + 2 * options.runs
    }

    /// The job, from image files to a result file.
    fn job(&self, images: &[PathBuf], framing: &Framing, folder: &Path) -> Result<Outcome> {
        let _span = debug_span!("run").entered();
        let limits = Limits::default();
        // Not side by side, as `views::load` has them: the spans of other threads are not recorded.
        let views = images
            .iter()
            .map(|path| views::load_one(path, framing, &limits))
            .collect::<Result<Vec<_>>>()?;
        let sizes = views
            .iter()
            .map(|view| [view.crop.width, view.crop.height])
            .collect();

        let started = Instant::now();
        let encode = |extractor: &FeatureExtractor| {
            debug_span!("encode").in_scope(|| extractor.encode(&views, true))
        };
        match &self.network.network {
            Kind::Pair(model) => {
                let features = encode(model.extractor())?;
                let [forward, reverse] = debug_span!("decode").in_scope(|| {
                    let decode = |first: usize, second: usize| {
                        model.decode(&features[first], &features[second])
                    };
                    Ok::<_, Error>([decode(0, 1)?, decode(1, 0)?])
                })?;
                self.runtime.synchronize()?;
                let network = started.elapsed();
                drop(features);
                let pair = Pair {
                    first: 0,
                    second: 1,
                };
                let matching = MatchOptions::default();
                let evidence = pair_evidence(model, pair, [&forward, &reverse], &matching);
                let alignment = debug_span!("solve")
                    .in_scope(|| align(&views, [evidence], &AlignOptions::default()))?;
                export::write(
                    &alignment.scene,
                    folder.join("cloud.ply"),
                    &export::ExportOptions::default(),
                )?;
                Ok(Outcome { network, sizes })
            }
            Kind::Joint(joint) => {
                let predictions = debug_span!("encode").in_scope(|| joint.predict(&views))?;
                self.runtime.synchronize()?;
                let network = started.elapsed();
                let depths = || predictions.iter().map(|of_view| Ok(of_view.depth.clone()));
                export_maps(folder.join("depth.safetensors"), || depths().collect())?;
                Ok(Outcome { network, sizes })
            }
            Kind::Encoder(extractor) => {
                let features = encode(extractor)?;
                self.runtime.synchronize()?;
                let network = started.elapsed();
                let maps = || features.iter().map(Features::map);
                export_maps(folder.join("features.safetensors"), || maps().collect())?;
                Ok(Outcome { network, sizes })
            }
        }
    }

    fn tables(
        &self,
        recordings: &[Recording],
        weights: Duration,
        sizes: &[[u32; 2]],
    ) -> Vec<Breakdown> {
        let runs = Runs(recordings);
        let patch = self.config.encoder.patch as u32;
        let mut counts: Vec<u32> = sizes
            .iter()
            .map(|[width, height]| (width / patch) * (height / patch))
            .collect();
        // Images of one size are encoded together.
        let batch = if sizes.len() == 2 && sizes[0] == sizes[1] {
            2
        } else {
            1
        };
        counts.dedup();
        let tokens = |besides: usize| {
            let counts: Vec<String> = counts
                .iter()
                .map(|count| (*count as usize + besides).to_string())
                .collect();
            counts.join(" and ")
        };
        let besides = self.config.encoder.special_tokens();
        let encoder = BlockTerms {
            batch,
            tokens: tokens(besides),
            dim: self.config.encoder.stack.dim,
        };
        let mut tables = vec![
            runs.stages(weights),
            runs.encoder(),
            runs.encoder_block(&encoder),
        ];
        if let Some(two_view) = &self.config.two_view {
            let decoder = BlockTerms {
                batch: 1,
                tokens: tokens(0),
                dim: two_view.decoder.dim,
            };
            tables.extend([runs.decoder(), runs.decoder_block(&decoder)]);
        }
        tables.push(runs.kinds());
        tables
    }
}

/// Checks that a network takes so many images at once.
///
/// # Errors
/// [`Error::Usage`] if it does not.
pub fn check_images(config: &Config, count: usize) -> Result<()> {
    match (config.predicts(), count) {
        (Predicts::Pairs, 2) | (Predicts::Features, 1 | 2) => Ok(()),
        (Predicts::Scene, 1..) => Ok(()),
        (Predicts::Pairs, _) => Err(Error::Usage(format!(
            "a two-view network is profiled with two images, got {count}"
        ))),
        (Predicts::Features | Predicts::Scene, _) => Err(Error::Usage(format!(
            "an encoder is profiled with one image or two, got {count}"
        ))),
    }
}

/// Fetches a map of each view, and writes them to a file.
fn export_maps(path: PathBuf, maps: impl FnOnce() -> Result<Vec<Tensor>>) -> Result<()> {
    let (specs, values) = debug_span!("fetch").in_scope(|| {
        let (mut specs, mut values) = (Vec::new(), Vec::new());
        for (index, map) in maps()?.iter().enumerate() {
            specs.push(TensorSpec::new(format!("view{index}"), map.dims()));
            values.push(map.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok::<_, Error>((specs, values))
    })?;
    let _span = debug_span!("export").entered();
    let mut sink = FeatureSink::create(path, specs, TensorMetadata::new())?;
    for (index, values) in values.iter().enumerate() {
        sink.write(&format!("view{index}"), values)?;
    }
    sink.commit().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breakdown::{TOTAL, UNACCOUNTED};
    use crate::small_network::small_pair;
    use mast3r::model::config::EncoderKind;
    use mast3r::runtime::{DeviceChoice, Optimisations, Precision};
    use mast3r::views::Resize;

    fn small(two_view: bool) -> Config {
        let mut config = small_pair(EncoderKind::Croco, 16, 128);
        config.encoder.stack.depth = 3;
        config.two_view = config.two_view.filter(|_| two_view);
        config
    }

    fn profile(config: &Config, optimisations: Optimisations) -> Profile {
        let runtime =
            Runtime::with_optimisations(DeviceChoice::Cpu, Precision::F32, optimisations).unwrap();
        let profiler = Profiler::load(&Checkpoint::random(config, "0"), &runtime).unwrap();
        let framing = Framing {
            resolution: Resolution::Exact {
                width: 128,
                height: 96,
            },
            patch: 16,
            resize: Resize::Pillow,
            square_allowed: false,
            square_at_224: true,
        };
        let images = ProfileImages::generate(config.predicts().least_views(), &framing).unwrap();
        let options = ProfileOptions { warmup: 1, runs: 2 };
        let mut begun = Vec::new();
        let profile = profiler
            .run(&images, &framing, options, |number| begun.push(number))
            .unwrap();
        assert_eq!(begun, (0..Profiler::times(options)).collect::<Vec<_>>());
        profile
    }

    /// That the rows which say so add up to the total, to within rounding.
    fn check_sums(profile: &Profile) {
        for table in &profile.tables {
            let total = table.row(TOTAL).unwrap().ms.unwrap();
            let parts: Vec<_> = table.rows.iter().filter(|row| row.adds_up).collect();
            let sum: f64 = parts.iter().filter_map(|row| row.ms).sum();
            assert!(
                total > 0.0 && (sum / total - 1.0).abs() < 1e-9,
                "{}: {sum} of {total}\n{table:?}",
                table.title
            );
            assert!(parts.len() > 2, "{table:?}");
        }
    }

    #[test]
    fn every_table_of_a_pair_adds_up_and_the_network_is_accounted_for() {
        let profile = profile(&small(true), Optimisations::all());
        check_sums(&profile);
        assert_eq!(profile.sizes, [[128, 96]; 2]);
        let [
            stages,
            encoder,
            encoder_block,
            decoder,
            decoder_block,
            kinds,
        ] = &profile.tables[..]
        else {
            panic!("{} tables", profile.tables.len())
        };
        assert!((stages.row(TOTAL).unwrap().ms.unwrap() / profile.total_ms - 1.0).abs() < 1e-9);
        assert!((kinds.row(TOTAL).unwrap().ms.unwrap() / profile.network_ms() - 1.0).abs() < 1e-9);
        for stage in [
            "image decoding",
            "image resizing",
            "weight loading",
            "encoder",
            "decoder",
            "heads",
        ] {
            assert!(stages.row(stage).unwrap().ms.unwrap() > 0.0, "{stage}");
        }
        for stage in ["matching", "cameras", "export"] {
            assert_eq!(stages.row(stage).unwrap().calls, 1.0, "{stage}");
        }
        // Begun and awaited.
        assert_eq!(stages.row("fetching results").unwrap().calls, 2.0);
        // Of both views in both orders.
        assert_eq!(
            (
                stages.row("heads").unwrap().calls,
                encoder.row("all blocks").unwrap().calls
            ),
            (4.0, 3.0)
        );
        assert_eq!(stages.row("image decoding").unwrap().calls, 2.0);
        assert!(
            encoder_block
                .title
                .contains("B=2, N=48, D=128: mean of 3 blocks"),
            "{}",
            encoder_block.title
        );
        assert!(
            decoder_block
                .title
                .contains("B=1, N=48, D=128: mean of 16 blocks"),
            "{}",
            decoder_block.title
        );
        for block in [encoder_block, decoder_block] {
            for component in [
                "LayerNorm (pre-attention)",
                "QKV linear",
                "RoPE 2D",
                "attention",
                "FC1",
                "FC2",
            ] {
                assert_eq!(
                    block.row(component).unwrap().calls,
                    1.0,
                    "{component}\n{block:?}"
                );
            }
            assert!(block.row("GELU").unwrap().ms.is_none(), "{block:?}");
            let sections = block
                .rows
                .iter()
                .filter(|row| row.name.ends_with(" total"))
                .filter_map(|row| row.ms);
            let accounted =
                block.row(TOTAL).unwrap().ms.unwrap() - block.row(UNACCOUNTED).unwrap().ms.unwrap();
            assert!(
                (sections.sum::<f64>() / accounted - 1.0).abs() < 1e-9,
                "{block:?}"
            );
        }
        assert_eq!(decoder_block.row("RoPE 2D (cross)").unwrap().calls, 2.0);
        assert!(decoder.row("dec_norm").unwrap().ms.unwrap() > 0.0);
        for kind in [
            "linear layers",
            "attention",
            "convolutions",
            "layer norms",
            "RoPE",
            "upsampling",
            "elementwise",
        ] {
            assert!(kinds.row(kind).unwrap().ms.unwrap() > 0.0, "{kind}");
        }
        assert!(
            profile.recording.total("weights") > Duration::ZERO
                && profile.recording.total("run") > Duration::ZERO
        );
    }

    #[test]
    fn every_table_of_an_encoder_adds_up() {
        let profile = profile(&small(false), Optimisations::all());
        check_sums(&profile);
        assert_eq!((profile.tables.len(), profile.sizes.len()), (4, 1));
        assert!(
            profile.tables[2].title.contains("B=1, N=48, D=128"),
            "{}",
            profile.tables[2].title
        );
        assert!(profile.tables[0].row("matching").is_none());
        assert!(profile.tables[1].row("final norm").unwrap().ms.unwrap() > 0.0);
    }

    #[test]
    fn what_is_no_longer_fused_has_a_time_of_its_own() {
        let profile = profile(&small(true), Optimisations::none());
        check_sums(&profile);
        for (table, components) in [
            (
                2,
                &["GELU", "residual (attention)", "residual (MLP)", "RoPE 2D"][..],
            ),
            (
                4,
                &[
                    "residual (cross-attention)",
                    "K and V linear",
                    "RoPE 2D (cross)",
                    "GELU",
                ],
            ),
        ] {
            for component in components {
                let row = profile.tables[table].row(component).unwrap();
                assert!(row.ms.is_some_and(|ms| ms > 0.0), "{row:?}");
            }
        }
        assert_eq!(profile.tables[4].row("K and V linear").unwrap().calls, 2.0);
    }

    #[test]
    fn images_that_a_network_does_not_take_are_refused() {
        for (two_view, count) in [(true, 1), (true, 3), (false, 0), (false, 3)] {
            let message = check_images(&small(two_view), count)
                .unwrap_err()
                .to_string();
            assert!(message.ends_with(&format!("got {count}")), "{message}");
        }
    }
}
