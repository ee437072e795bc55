//! The benchmark: cases one after the other, each with its terms, kept as soon as it is done.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::Tensor;
use image::RgbImage;

use crate::case::Key;
use crate::machine::now;
use crate::spans::{Recording, record};
use crate::{
    Case, Effort, ImageSource, Load, LoadedNetwork, Machine, Output, PeakMemory, Prediction,
    Report, Row, Stage, WeightSource, Workload, agreement, check_fits, matrix_product_peak,
    measure_ops, weight_bytes,
};
use mast3r::export::{OutputFile, SafetensorsWriter, TemporaryFolder, TensorMetadata, TensorSpec};
use mast3r::model::config::Predicts;
use mast3r::pipeline::MOST_PAIRS_TOGETHER;
use mast3r::runtime::{Optimisations, Precision, Runtime};
use mast3r::{Error, Result};

/// Something that a display may want to show.
#[derive(Debug)]
pub enum Event<'a> {
    /// A network is being built.
    Load(&'a Case),
    /// A run has ended: the times so far, of at least how many.
    Run(&'a Case, &'a [f64], usize),
    /// A row is complete.
    Done(&'a Row),
    /// A row was there already.
    Skipped(&'a Row),
    /// An operation is being timed.
    Operation(&'a str),
}

/// Measures cases into a [`Report`].
pub struct Bench<'a> {
    /// How much is done for each.
    pub effort: Effort,
    /// The weights.
    pub weights: WeightSource,
    /// The images.
    pub images: ImageSource,
    /// A folder for the outputs of whole networks.
    pub outputs: Option<PathBuf>,
    /// Is written anew after every row.
    pub keep: Option<PathBuf>,
    /// Gives freed memory back to the system, so that a row's peak is its own.
    pub release_memory: fn(),
    /// Is told what happens.
    pub on_event: Box<dyn FnMut(Event<'_>) + 'a>,
    /// More devices, which share the pairs of [`Stage::Pairs`].
    pub others: Vec<Runtime>,
    runtime: Runtime,
    scratch: TemporaryFolder,
    /// One network, or two when a variant is set against it.
    loaded: Vec<(Key, LoadedNetwork)>,
}

impl<'a> Bench<'a> {
    /// A benchmark on the runtime's device, in whatever precision a case asks for, with random
    /// weights of seed 0 and generated images.
    ///
    /// # Errors
    /// [`Error::Io`] if there is no place for temporary files.
    pub fn new(runtime: &Runtime) -> Result<Self> {
        Ok(Self {
            effort: Effort::default(),
            weights: WeightSource::Random("0".into()),
            images: ImageSource::Generated,
            outputs: None,
            keep: None,
            release_memory: || {},
            on_event: Box::new(|_| {}),
            others: Vec::new(),
            runtime: runtime.clone(),
            scratch: TemporaryFolder::new()?,
            loaded: Vec::new(),
        })
    }

    /// Checks what can be checked before anything is loaded: stages, weights, images, memory.
    ///
    /// # Errors
    /// [`Error::Usage`] that names the case; [`Error::Weights`] for weights of another network.
    pub fn check(&self, cases: &[Case]) -> Result<()> {
        for case in cases {
            if case.network.predicts() == Predicts::Features && !case.stage.is_of_encoders() {
                let (name, stage) = (case.network.name, case.stage);
                return Err(Error::Usage(format!(
                    "stage {stage}: {name} is an encoder alone; give encode or full"
                )));
            }
            if case.network.predicts() == Predicts::Scene && case.stage != Stage::Full {
                let (name, stage) = (case.network.name, case.stage);
                return Err(Error::Usage(format!(
                    "stage {stage}: {name} runs as a whole; give full"
                )));
            }
            if !self.others.is_empty() && case.stage != Stage::Pairs {
                return Err(Error::Usage(format!(
                    "stage {} runs on one device, only pairs on several",
                    case.stage
                )));
            }
            if let ImageSource::Files(paths) = &self.images
                && case.network.predicts() == Predicts::Pairs
                && paths.len() != 2
            {
                let (name, count) = (case.network.name, paths.len());
                return Err(Error::Usage(format!(
                    "{name} wants two images, got {count}"
                )));
            }
            if let WeightSource::Checkpoint(checkpoint, _) = &self.weights {
                checkpoint.expect(case.network)?;
            }
            let runtime = self.runtime.in_precision(case.precision);
            let together = match case.stage {
                Stage::Pairs => case.batch.min(MOST_PAIRS_TOGETHER),
                _ => case.batch,
            };
            check_fits(
                &self.weights.key(case).config,
                case.size,
                together,
                &runtime,
            )?;
        }
        Ok(())
    }

    /// What Metal would be given for each of `cases`: counted in one run on the CPU, in float32, of
    /// each network and size.
    ///
    /// # Errors
    /// [`Error::Usage`] if the benchmark's device is another one; those of the run.
    pub fn predict(&mut self, cases: &[Case]) -> Result<Vec<Prediction>> {
        if !self.runtime.device().is_cpu() {
            return Err(Error::Usage(
                "times on Apple GPUs are predicted from a run on the CPU: --device cpu".into(),
            ));
        }
        let mut counted: Vec<(String, Recording)> = Vec::new();
        let mut predictions = Vec::new();
        for case in cases {
            let float32 = Case {
                precision: Precision::F32,
                ..case.clone()
            };
            let name = float32.to_string();
            let known = counted.iter().position(|(other, _)| *other == name);
            let index = match known {
                Some(index) => index,
                None => {
                    counted.push((name, self.recorded(&float32)?));
                    counted.len() - 1
                }
            };
            let load = Load::of(&counted[index].1, case.precision);
            let case = case.clone();
            predictions.push((index, Prediction { case, load }));
        }
        // The precisions of a network side by side.
        predictions.sort_by_key(|&(index, _)| index);
        Ok(predictions.into_iter().map(|(_, each)| each).collect())
    }

    /// The spans of one run.
    fn recorded(&mut self, case: &Case) -> Result<Recording> {
        let key = self.weights.key(case);
        self.loaded.retain(|(known, _)| *known == key);
        let index = self.load(case)?;
        let images = self.images.load(case.network, case.size)?;
        let workload = Workload::new(&self.loaded[index].1, &images, case.batch, case.stage)?;
        let (done, recording) = record(None, || workload.run(case.stage))?;
        done?;
        Ok(recording)
    }

    /// Measures `cases` in order into `report`, except those that it has already.
    ///
    /// # Errors
    /// Of the device, of the disk.
    pub fn run(&mut self, cases: &[Case], report: &mut Report) -> Result<()> {
        for (index, case) in cases.iter().enumerate() {
            let mut row = self.row(case);
            let known = report
                .results
                .iter()
                .find(|other| row.is_answered_by(other));
            if let Some(known) =
                known.filter(|_| !self.is_wanted_for_comparison(&cases[index..], report))
            {
                (self.on_event)(Event::Skipped(known));
                continue;
            }
            self.measure(case, &mut row, &mut report.peaks)?;
            (self.on_event)(Event::Done(&row));
            report.results.retain(|other| !row.is_answered_by(other));
            report.results.push(row);
            self.save(report)?;
        }
        self.loaded.clear();
        Ok(())
    }

    /// Measures single operations into `report`, in each precision of `cases` that it has none in;
    /// see [`measure_ops`].
    ///
    /// # Errors
    /// Of the device, of the disk.
    pub fn run_ops(&mut self, cases: &[Case], series_ms: f64, report: &mut Report) -> Result<()> {
        for precision in [Precision::F32, Precision::F16, Precision::Bf16] {
            let measured = report
                .ops
                .iter()
                .any(|row| row.precision == precision.to_string());
            if cases.iter().any(|case| case.precision == precision) && !measured {
                let runtime = self.runtime.in_precision(precision);
                report.ops.extend(measure_ops(&runtime, series_ms, |op| {
                    (self.on_event)(Event::Operation(op))
                })?);
                self.save(report)?;
            }
        }
        Ok(())
    }

    /// Where it computes.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Writes the report where it is kept.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, report: &Report) -> Result<()> {
        let Some(path) = &self.keep else {
            return Ok(());
        };
        let text = report.json()?;
        OutputFile::create(path)?.write_with(|out| out.write_all(text.as_bytes()))
    }

    /// The terms of a case.
    fn row(&self, case: &Case) -> Row {
        Row {
            framework: Machine::framework(),
            variant: case.variant(),
            model: case.network.name.into(),
            resolution: case.resolution(),
            stage: case.stage.to_string(),
            precision: case.precision.to_string(),
            device: [&self.runtime]
                .into_iter()
                .chain(&self.others)
                .map(Runtime::device_name)
                .collect::<Vec<_>>()
                .join(","),
            batch: case.batch,
            threads: rayon::current_num_threads(),
            weights: self.weights.describe(),
            images: self.images.describe(),
            // The run in which a whole network's operations are counted warms it up too.
            warmup: self.effort.warmup.max(usize::from(case.is_counted())),
            ..Row::default()
        }
    }

    /// Whether the first of `cases`, in float32, is measured already but its outputs are gone, and
    /// a case after it is to be compared with them.
    fn is_wanted_for_comparison(&self, cases: &[Case], report: &Report) -> bool {
        let Some((first, rest)) = cases.split_first() else {
            return false;
        };
        let has_outputs = self.outputs_of(first, Precision::F32).is_file();
        let open = |case: &&Case| {
            let row = self.row(case);
            !report.results.iter().any(|other| row.is_answered_by(other))
        };
        let same = |case: &&Case| {
            (case.network.name, case.size) == (first.network.name, first.size) && case.is_compared()
        };
        first.precision == Precision::F32
            && first.is_compared()
            && !has_outputs
            && rest.iter().filter(same).any(|case| open(&case))
    }

    fn measure(
        &mut self,
        case: &Case,
        row: &mut Row,
        peaks: &mut BTreeMap<String, f64>,
    ) -> Result<()> {
        // What a variant costs is measured against runs right beside it: machines drift.
        let whole = (!case.is_default()).then(|| Case {
            optimisations: Optimisations::all(),
            ..case.clone()
        });
        let kept: Vec<&Case> = whole.iter().chain([case]).collect();
        self.loaded
            .retain(|(key, _)| kept.iter().any(|case| self.weights.key(case) == *key));
        (self.release_memory)();
        let beside = whole.as_ref().map(|whole| self.load(whole)).transpose()?;
        let index = self.load(case)?;
        let (key, loaded) = &self.loaded[index];
        let beside = beside.map(|index| &self.loaded[index].1);
        row.load_ms = Some(loaded.load_ms());
        row.weights_mib = Some(mib(weight_bytes(&key.config, case.precision)));
        let peak = match peaks.get(&row.precision) {
            Some(&peak) => peak,
            None => {
                let peak = matrix_product_peak(loaded.runtime())?;
                peaks.insert(row.precision.clone(), peak);
                (self.release_memory)();
                peak
            }
        };
        let images = self.images.load(case.network, case.size)?;
        let workload = |loaded| Workload::new(loaded, &images, case.batch, case.stage);
        let beside = beside.map(workload).transpose()?;
        let mut effort = self.effort;
        let mut last = None;
        let mut beside_runs = Vec::new();
        let on_event = &mut self.on_event;
        let (runs, memory) = PeakMemory::of(loaded.runtime().device(), || {
            let workload = workload(loaded)?;
            if case.is_counted() {
                // The first run's spans say how much there is to compute; it counts as warming up.
                let (done, recording) = record(None, || workload.run(case.stage))?;
                done?;
                effort.warmup = effort.warmup.saturating_sub(1);
                row.gflop = gflop(&recording);
            }
            let before = || match &beside {
                Some(beside) => {
                    let start = Instant::now();
                    beside.run(case.stage)?;
                    beside_runs.push(1e3 * start.elapsed().as_secs_f64());
                    Ok(())
                }
                None => Ok(()),
            };
            let run = || {
                last = None;
                last = Some(workload.run(case.stage)?);
                Ok(())
            };
            effort.time(before, run, |times| {
                on_event(Event::Run(case, times, effort.runs))
            })
        })?;
        row.beside_runs_ms = beside_runs.split_off(effort.warmup.min(beside_runs.len()));
        row.set_runs(runs);
        row.peak_share = row.gflop_per_s.map(|speed| speed / peak);
        if case.is_default() {
            row.peak_rss_mib = memory.resident_bytes.map(mib);
            row.peak_device_mib = memory.device_bytes.map(mib);
        }
        row.date = now();
        if let Some(output) = last.filter(|_| case.is_compared()) {
            self.compare(case, &output, &images, row)?;
        }
        Ok(())
    }

    /// Has the case's network ready, and says where.
    fn load(&mut self, case: &Case) -> Result<usize> {
        let key = self.weights.key(case);
        if let Some(index) = self.loaded.iter().position(|(known, _)| *known == key) {
            return Ok(index);
        }
        (self.on_event)(Event::Load(case));
        let checkpoint = self.weights.checkpoint(case);
        let runtime = self
            .runtime
            .configured(case.precision, case.optimisations)?;
        let mut loaded = LoadedNetwork::new(
            &checkpoint,
            case.network.predicts() == Predicts::Features,
            &runtime,
        )?;
        let configured = |other: &Runtime| other.configured(case.precision, case.optimisations);
        let others = self.others.iter().map(configured);
        loaded.share(&checkpoint, &others.collect::<Result<Vec<_>>>()?)?;
        (self.release_memory)();
        self.loaded.push((key, loaded));
        Ok(self.loaded.len() - 1)
    }

    /// Keeps a whole network's outputs and says how near they are to those in float32.
    fn compare(
        &self,
        case: &Case,
        output: &Output,
        images: &[RgbImage],
        row: &mut Row,
    ) -> Result<()> {
        let mut tensors = output.named()?;
        let reference = self.outputs_of(case, Precision::F32);
        if case.precision != Precision::F32 && reference.is_file() {
            row.agreement = agreement(&reference, &tensors)?;
        }
        if self.outputs.is_some() || case.precision == Precision::F32 {
            let views = case.network.predicts().least_views();
            tensors.push(("images".into(), Workload::images(&images[..views])?));
            let path = self.outputs_of(case, case.precision);
            write_tensors(&path, &tensors)?;
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            row.outputs = self.outputs.is_some().then_some(name);
        }
        Ok(())
    }

    /// Where the outputs of a case are kept: in the folder asked for, or until the benchmark ends.
    fn outputs_of(&self, case: &Case, precision: Precision) -> PathBuf {
        let folder: &Path = self.outputs.as_deref().unwrap_or(self.scratch.path());
        folder.join(format!(
            "{}-{}-{precision}.safetensors",
            case.network.name,
            case.resolution()
        ))
    }
}

/// Operations that the spans state, in units of 10^9; none for work without networks.
fn gflop(recording: &Recording) -> Option<f64> {
    let flop: u64 = recording
        .spans()
        .iter()
        .filter_map(|span| span.number("flop"))
        .sum();
    (flop > 0).then_some(flop as f64 / 1e9)
}

fn mib(bytes: u64) -> f64 {
    (10.0 * bytes as f64 / (1 << 20) as f64).round() / 10.0
}

fn write_tensors(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let specs = tensors
        .iter()
        .map(|(name, tensor)| TensorSpec::new(name, tensor.dims()))
        .collect();
    let mut writer = SafetensorsWriter::new(
        OutputFile::create(path)?,
        path,
        specs,
        &TensorMetadata::new(),
    )?;
    for (name, tensor) in tensors {
        writer.write(name, &tensor.flatten_all()?.to_vec1()?)?;
    }
    writer.commit().map(drop)
}
