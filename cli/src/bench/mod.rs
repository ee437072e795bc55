//! `mast3r bench`: how long the networks take here.

mod exports;
mod plan;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use indicatif::ProgressBar;
use mast3r::runtime::{Optimisation, Optimisations};
use mast3r::views::Resolution;
use mast3r::{Error, Result};
use mast3r_measure::{
    Event, Machine, Measured, Report, Stage, Summary, Table, correlation_table, correlations,
    memory_table, prediction_table, ratio_table, read_other, tables,
};

use self::exports::Exports;
use crate::GlobalArgs;
use crate::outputs;
use crate::progress;

/// Time between two medians on a terminal.
const REFRESH: Duration = Duration::from_millis(200);

/// Benchmark the networks on this machine
///
/// Needs no checkpoint and no images. Times are wall-clock times of whole runs, with the device
/// synchronised; the JSON has each one.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Networks, or all; `mast3r models` lists them
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    model: Vec<String>,

    /// Image sizes: long sides in pixels, or WIDTHxHEIGHT [default: the network's own]
    ///
    /// Generated images are square for the DUNE networks and 4:3 for mast3r, so 512 is 512x384
    /// there. The tables published for MLX write height by width: their 512x672 is 672x512 here.
    #[arg(long, value_name = "SIZES", value_delimiter = ',')]
    res: Vec<Resolution>,

    /// Batch size: images, or pairs of a two-view network
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Vec<u32>,

    /// Stages to measure: encode, decode, heads, match, pairs or full
    ///
    /// pairs is what reconstruct does of pairs once images are encoded, up to matches and points on
    /// the host; with --batch 64 a run is of 64 pairs. It alone runs on several devices.
    #[arg(
        long,
        value_name = "STAGES",
        value_delimiter = ',',
        default_value = "full"
    )]
    stage: Vec<Stage>,

    /// Checkpoint, or random:SEED [default: random:0]
    #[arg(long, value_name = "FILE")]
    weights: Vec<PathBuf>,

    /// One or two images to measure with [default: generated images]
    #[arg(long, value_name = "IMAGE", num_args = 1..=2)]
    image: Vec<PathBuf>,

    /// Switch optimisations off, to measure what each one gains
    ///
    /// An unknown name lists them all.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    without: Vec<Optimisation>,

    /// Measure the full suite: all networks, stages, operations, memory and optimisations
    ///
    /// Tables: summary, encoders, whole networks, stages, custom operations, memory, correlation
    /// with f32, each optimisation switched off, batching. In f32 and bf16 on the CPU, in f32, f16
    /// and bf16 on a GPU, unless --precision is given. Takes about half an hour on two CPU cores.
    #[arg(long, conflicts_with_all = ["model", "res", "batch", "stage", "image", "weights", "without"])]
    suite: bool,

    /// Predict times on Apple GPUs instead of measuring: a Markdown table, from one run on the CPU
    ///
    /// Of whole networks alone: what Metal would be given, launch by launch, and how long that would
    /// take by each chip's published memory bandwidth and operations. Nothing of it was measured.
    #[arg(long, conflicts_with_all = ["resume", "outputs", "show", "export_json", "export_markdown", "export_csv", "against", "save_weights", "stage", "batch"])]
    predict: bool,

    /// Measure a small suite, to check the set-up: under two minutes on two cores
    #[arg(long, requires = "suite")]
    quick: bool,

    /// Save finished rows in FILE, and skip those that it already has
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,

    /// Warm-up runs
    ///
    /// At least one is made, except of pairs, in which the network's operations are counted.
    #[arg(long, value_name = "N")]
    warmup: Option<usize>,

    /// Measured runs, at least
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    runs: Option<u32>,

    /// Repeat each row for at least this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "0")]
    min_time: Duration,

    /// Stop a row after this many seconds and at least three runs [default: none, 20 in the suite]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    max_time: Option<Duration>,

    /// Write every run and its conditions as JSON; - is standard output
    #[arg(long, value_name = "FILE")]
    export_json: Option<PathBuf>,

    /// Write the tables as Markdown; - is standard output
    #[arg(long, value_name = "FILE")]
    export_markdown: Option<PathBuf>,

    /// Write one line a row as CSV; - is standard output
    #[arg(long, value_name = "FILE")]
    export_csv: Option<PathBuf>,

    /// Write the networks' outputs and the images as safetensors into a folder
    #[arg(long, value_name = "FOLDER")]
    outputs: Option<PathBuf>,

    /// Write the weights as float32 safetensors, for this program and scripts/bench_torch.py
    ///
    /// Needs exactly one network.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["suite", "show"])]
    save_weights: Option<PathBuf>,

    /// Compare with the report of another program, such as scripts/bench_torch.py
    ///
    /// Prints the ratio of times for every case in both reports and, where both have --outputs, the
    /// difference between them.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,

    /// Print the tables of the report FILE; measure nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "res", "suite", "resume", "image", "weights", "outputs"])]
    show: Option<PathBuf>,
}

impl BenchArgs {
    pub fn run(&self, global: &GlobalArgs) -> anyhow::Result<()> {
        if self.predict {
            return self.print_predictions(global);
        }
        let other = self.against.as_deref().map(read_other).transpose()?;
        let (mut report, exports) = match &self.show {
            Some(path) => (Report::read(path)?, Exports::open(self)?),
            None => self.measure(global)?,
        };
        let mut tables = if self.is_of_suite(&report) {
            tables::of_suite(&report)
        } else {
            Vec::new()
        };
        if let (Some(other), Some(path)) = (&other, &self.against) {
            tables.extend(self.beside(&mut report, other, path));
        }
        tables.push(tables::detailed(&report));
        if exports.leaves_stdout_free() {
            let text: Vec<String> = tables.iter().map(Table::text).collect();
            // A reader that goes away must not take the exports with it.
            let printed = outputs::print_text(&text.join("\n"));
            exports.write(&report, &tables)?;
            return Ok(printed?);
        }
        exports.write(&report, &tables)
    }

    /// Everything that can be refused is refused before anything is written or loaded.
    fn measure(&self, global: &GlobalArgs) -> anyhow::Result<(Report, Exports)> {
        let (mut bench, cases) = self.plan(global)?;
        if let Some(folder) = &self.outputs {
            // Exports may lie in it.
            std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
        }
        let exports = Exports::open(self)?;
        let mut report = Report::new(Machine::here(bench.runtime().device())?);
        if let Some(path) = &self.resume {
            report = resumed(path, report)?;
        }
        self.save_weights(&cases, &bench.weights)?;
        let bar = progress::spinner(global.quiet);
        bench.on_event = shown_on(bar.clone(), cases.len());
        bench
            .run(&cases, &mut report)
            .context("the benchmark stopped")?;
        if self.suite {
            bench
                .run_ops(&cases, self.series_ms(), &mut report)
                .context("the benchmark stopped")?;
        }
        bar.finish_and_clear();
        Ok((report, exports))
    }

    fn print_predictions(&self, global: &GlobalArgs) -> anyhow::Result<()> {
        let (mut bench, mut cases) = self.plan(global)?;
        cases.retain(|case| {
            case.stage == Stage::Full
                && case.batch == 1
                && (!self.suite || case.optimisations == Optimisations::all())
        });
        let bar = progress::spinner(global.quiet);
        bench.on_event = shown_on(bar.clone(), cases.len());
        let predictions = bench.predict(&cases).context("the prediction stopped")?;
        bar.finish_and_clear();
        Ok(outputs::print_text(&prediction_table(&predictions))?)
    }

    /// Whether the published page's tables can be made of it.
    fn is_of_suite(&self, report: &Report) -> bool {
        let several = report
            .results
            .iter()
            .any(|row| row.model != report.results[0].model);
        self.suite || self.show.is_some() && several
    }

    /// Tables of our figures beside another program's; how near the outputs are goes into our
    /// report.
    fn beside(&self, ours: &mut Report, other: &Report, path: &Path) -> Vec<Table> {
        let folder_of = |path: &Path| path.parent().unwrap_or(Path::new("")).to_path_buf();
        let our_folder = self
            .outputs
            .clone()
            .or(self.show.as_deref().map(folder_of))
            .unwrap_or_default();
        ours.correlations = correlations(
            Measured {
                report: ours,
                folder: &our_folder,
            },
            Measured {
                report: other,
                folder: &folder_of(path),
            },
        );
        let mut tables = vec![ratio_table(ours, other)];
        tables.extend(Some(memory_table(ours, other)).filter(|table| !table.rows.is_empty()));
        if !ours.correlations.is_empty() {
            tables.push(correlation_table(&ours.correlations));
        }
        tables
    }
}

/// Shows what happens, with the running median.
fn shown_on(bar: ProgressBar, count: usize) -> Box<dyn FnMut(Event<'_>)> {
    let mut done = 0;
    let mut shown = Instant::now();
    Box::new(move |event| match event {
        Event::Load(case) => {
            progress::show(&bar, format!("{}/{count} {case}: load weights", done + 1))
        }
        // Of thousands of short runs few are shown: a median of them all costs as much as a run.
        Event::Run(case, times, least) if times.len() < 10 || shown.elapsed() > REFRESH => {
            shown = Instant::now();
            let median = Summary::of(times).map_or(0.0, |summary| summary.median);
            let (made, least) = (times.len(), least.max(times.len()));
            progress::show(
                &bar,
                format!(
                    "{}/{count} {case}: run {made}/{least}, median {median:.2} ms",
                    done + 1
                ),
            );
        }
        Event::Run(..) => {}
        Event::Operation(name) => progress::show(&bar, name.to_string()),
        Event::Done(_) | Event::Skipped(_) => done += 1,
    })
}

/// The report in `path` if there is one, which must be of this machine; that it can be written is
/// checked now.
fn resumed(path: &Path, fresh: Report) -> Result<Report> {
    let report = match path.exists() {
        false => fresh,
        true => {
            let known = Report::read(path)?;
            if !known.machine.is_like(&fresh.machine) {
                let (there, here) = (known.machine.describe(), fresh.machine.describe());
                let way_out = "name another file, or the same --device and --threads";
                return Err(Error::input(
                    path,
                    format!("was measured elsewhere ({there}) than here ({here}); {way_out}"),
                ));
            }
            known
        }
    };
    drop(mast3r::export::OutputFile::create(path)?);
    Ok(report)
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| format!("{text:?} is not a number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
