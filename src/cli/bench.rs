//! `mast3r bench`: how long the networks take here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use indicatif::ProgressBar;
use mast3r::export::{ElementType, write_checkpoint};
use mast3r::measure::{
    Bench, Case, Effort, Event, Machine, Measured, PictureSource, Report, Stage, Summary, Table, WeightSource,
    correlation_table, correlations, measure_ops, ratio_table, read_other, size_for, suite, tables,
};
use mast3r::model::checkpoint::Checkpoint;
use mast3r::model::registry::{NETWORKS, Network};
use mast3r::runtime::{Optimisation, Optimisations, Precision, Runtime};
use mast3r::views::{self, Limits, Resolution};
use mast3r::{Error, Result};

use super::GlobalArgs;
use super::network;
use super::outputs::{self, TextOutput};
use super::progress;

/// Seconds after which a row of the suite gets no more runs.
const SUITE_SECONDS: f64 = 30.0;

/// How long the networks take on this machine
///
/// Loads, warms up and measures; needs no checkpoint and no pictures. Times are wall-clock times of whole runs, with the
/// device synchronised, and every single one is in the JSON.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Networks, or all; see `mast3r encode --help` for their names
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    model: Vec<String>,

    /// Sizes: long sides, or WIDTHxHEIGHT; each network's usual one if not given
    ///
    /// Generated pictures are square for the DUNE networks and 4:3 for mast3r, so 512 is 512x384 there. The tables published
    /// for MLX write height by width: their 512x672 is 672x512 here.
    #[arg(long, value_name = "SIZES", value_delimiter = ',')]
    res: Vec<Resolution>,

    /// Pictures, or pairs of a two-view network, at a time
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Vec<u32>,

    /// Parts of the network: encode, decode, heads, match or full
    #[arg(long, value_name = "STAGES", value_delimiter = ',', default_value = "full")]
    stage: Vec<Stage>,

    /// Checkpoint, or random:SEED; random:0 if not given
    #[arg(long, value_name = "FILE")]
    weights: Vec<PathBuf>,

    /// One or two pictures to measure with; generated ones if not given
    #[arg(long, value_name = "PICTURE", num_args = 1..=2)]
    image: Vec<PathBuf>,

    /// Leave optimisations out, to see what they are worth
    ///
    /// Names are those of the last table of the suite; a wrong one lists them.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    without: Vec<Optimisation>,

    /// The tables of the published page and more, instead of single networks
    ///
    /// Summary, encoders, whole networks, stages, custom operations, memory, correlation with f32, optimisations switched
    /// off in turn, batching. In f32 and bf16 on the CPU and in f32, f16 and bf16 on a GPU, if --precision does not say
    /// otherwise. It takes about half an hour on two CPU cores.
    #[arg(long, conflicts_with_all = ["model", "res", "batch", "stage", "image", "weights", "without"])]
    suite: bool,

    /// A small suite, to see that everything works: under two minutes on two cores
    #[arg(long, requires = "suite")]
    quick: bool,

    /// Keep finished rows in FILE, and measure none again that it has
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,

    /// Runs before those that count
    #[arg(long, value_name = "N")]
    warmup: Option<usize>,

    /// Runs that count, at least
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    runs: Option<u32>,

    /// Go on until the runs of a row took so many seconds together
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "0")]
    min_time: Duration,

    /// Begin no more runs of a row after so many seconds, but for the first three; 30 in the suite
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    max_time: Option<Duration>,

    /// Write every run and all terms as JSON; - is standard output
    #[arg(long, value_name = "FILE")]
    export_json: Option<PathBuf>,

    /// Write the tables as Markdown; - is standard output
    #[arg(long, value_name = "FILE")]
    export_markdown: Option<PathBuf>,

    /// Write a line for each row as comma-separated values; - is standard output
    #[arg(long, value_name = "FILE")]
    export_csv: Option<PathBuf>,

    /// Keep the outputs of whole networks, and the pictures, as safetensors in a folder
    #[arg(long, value_name = "FOLDER")]
    outputs: Option<PathBuf>,

    /// Write the weights as one safetensors file, float32, for this program and for scripts/bench_torch.py
    ///
    /// Of the one network asked for.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["suite", "show"])]
    save_weights: Option<PathBuf>,

    /// Set the figures beside those of another program, such as scripts/bench_torch.py wrote
    ///
    /// Prints how many times as long it took for every case that both measured, and, where both kept their --outputs, how
    /// near these are.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,

    /// Measure nothing, and show what FILE holds
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "res", "suite", "resume", "image", "weights", "outputs"])]
    show: Option<PathBuf>,
}

/// The files that are asked for, open.
struct Exports {
    json: Option<TextOutput>,
    markdown: Option<TextOutput>,
    csv: Option<TextOutput>,
}

impl BenchArgs {
    pub fn run(&self, global: &GlobalArgs) -> anyhow::Result<()> {
        let exports = self.open_exports()?;
        let other = self.against.as_deref().map(read_other).transpose()?;
        let report = match &self.show {
            Some(path) => Report::read(path)?,
            None => self.measure(global)?,
        };
        let mut tables = if self.is_of_suite(&report) { tables::of_suite(&report) } else { Vec::new() };
        if let (Some(other), Some(path)) = (&other, &self.against) {
            tables.extend(self.beside(&report, other, path));
        }
        let detailed = tables::detailed(&report);
        if exports.leaves_stdout_free() {
            let text: Vec<String> = tables.iter().chain([&detailed]).map(Table::text).collect();
            outputs::print_text(&text.join("\n"))?;
        }
        exports.write(&report, &tables, &detailed)
    }

    fn measure(&self, global: &GlobalArgs) -> anyhow::Result<Report> {
        let precisions = self.precisions(global)?;
        let pictures = self.picture_source()?;
        let weights = self.weight_source()?;
        let early = if self.suite { Vec::new() } else { self.cases(&precisions, &pictures, &weights)? };
        let runtime = Runtime::new(global.device, precisions.first().copied().unwrap_or_default())?;
        let mut bench = Bench::new(&runtime)?;
        bench.effort = self.effort(runtime.device().is_cpu());
        (bench.pictures, bench.weights) = (pictures, weights);
        bench.outputs = self.outputs.as_deref().map(output_folder).transpose()?;
        bench.release_memory = super::memory::release;
        let cases = match (self.suite, precisions.is_empty()) {
            (false, _) => early,
            (true, true) => suite::cases(self.quick, suite_precisions(runtime.device().is_cpu()), &runtime)?,
            (true, false) => suite::cases(self.quick, &precisions, &runtime)?,
        };
        bench.check(&cases)?;
        self.save_weights(&cases, &bench.weights)?;
        let mut report = Report::new(Machine::here(runtime.device())?);
        if let Some(path) = &self.resume {
            report = resumed(path, report)?;
            bench.keep = Some(path.clone());
        }
        let bar = progress::spinner(global.quiet);
        bench.on_event = shown_on(bar.clone(), cases.len());
        bench.run(&cases, &mut report).context("the benchmark stopped")?;
        if self.suite {
            let of_cases: Vec<Precision> = cases.iter().map(|case| case.precision).collect();
            for precision in [Precision::F32, Precision::F16, Precision::Bf16] {
                let measured = report.ops.iter().any(|row| row.precision == precision.to_string());
                if of_cases.contains(&precision) && !measured {
                    let begin = |op: &str| progress::show(&bar, format!("{op} {precision}"));
                    report.ops.extend(measure_ops(&runtime.in_precision(precision), self.series_ms(), begin)?);
                    bench.save(&report)?;
                }
            }
        }
        bar.finish_and_clear();
        Ok(report)
    }

    /// Precisions asked for, float32 first so that the others can be compared with it; none: the suite's own.
    fn precisions(&self, global: &GlobalArgs) -> Result<Vec<Precision>> {
        let mut precisions = global.precisions().to_vec();
        precisions.sort_by_key(|&precision| precision != Precision::F32);
        if precisions.is_empty() && !self.suite {
            precisions.push(Precision::default());
        }
        Ok(precisions)
    }

    fn cases(&self, precisions: &[Precision], pictures: &PictureSource, weights: &WeightSource) -> Result<Vec<Case>> {
        let optimisations = self.without.iter().fold(Optimisations::all(), |set, &off| set.without(off));
        let mut cases = Vec::new();
        for network in self.networks(weights)? {
            let usual = [Resolution::LongSide(network.default_long_side)];
            let resolutions = if self.res.is_empty() { &usual[..] } else { &self.res };
            for &resolution in resolutions {
                let size = size_for(network, resolution, pictures)?;
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
            let known = match weights {
                WeightSource::Random(_) => None,
                WeightSource::Checkpoint(checkpoint, _) => Network::of(checkpoint.config()),
            };
            return known.map(|network| vec![network]).ok_or_else(|| {
                Error::Usage("which network? give --model NAME, a list of them, --model all, or --suite".into())
            });
        }
        self.model.iter().map(|name| Network::find(name)).collect()
    }

    fn picture_source(&self) -> Result<PictureSource> {
        self.image.iter().try_for_each(|picture| views::probe(picture, &Limits::default()))?;
        Ok(if self.image.is_empty() { PictureSource::Generated } else { PictureSource::Files(self.image.clone()) })
    }

    fn weight_source(&self) -> Result<WeightSource> {
        if let Some(seed) = network::random_seed(&self.weights)? {
            return Ok(WeightSource::Random(seed));
        }
        if self.weights.is_empty() {
            return Ok(WeightSource::Random("0".into()));
        }
        let checkpoint = Checkpoint::open(&self.weights)?;
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

    /// Tables of our figures beside another program's.
    fn beside(&self, ours: &Report, other: &Report, path: &Path) -> Vec<Table> {
        let folder_of = |path: &Path| path.parent().unwrap_or(Path::new("")).to_path_buf();
        let our_folder = self.outputs.clone().or(self.show.as_deref().map(folder_of)).unwrap_or_default();
        let measured = correlations(
            Measured { report: ours, folder: &our_folder },
            Measured { report: other, folder: &folder_of(path) },
        );
        let mut tables = vec![ratio_table(ours, other)];
        if !measured.is_empty() {
            tables.push(correlation_table(&measured));
        }
        tables
    }

    /// Writes the weights of the one network of `cases`.
    fn save_weights(&self, cases: &[Case], weights: &WeightSource) -> Result<()> {
        let Some(path) = &self.save_weights else { return Ok(()) };
        let (first, rest) = cases.split_first().ok_or_else(|| Error::Usage("no network to save".into()))?;
        let checkpoint = weights.checkpoint(first);
        if rest.iter().any(|case| weights.checkpoint(case).config() != checkpoint.config()) {
            let reason = "--save-weights: several networks are asked for; give --model and --res of one";
            return Err(Error::Usage(reason.into()));
        }
        write_checkpoint(&checkpoint, ElementType::F32, path)
    }

    /// How long a series of calls of an operation lasts.
    fn series_ms(&self) -> f64 {
        if self.quick { 5.0 } else { 100.0 }
    }

    /// Whether the published page's tables can be made of it.
    fn is_of_suite(&self, report: &Report) -> bool {
        let several = report.results.iter().any(|row| row.model != report.results[0].model);
        self.suite || self.show.is_some() && several
    }

    fn open_exports(&self) -> Result<Exports> {
        let paths = [&self.export_json, &self.export_markdown, &self.export_csv];
        let given = paths.into_iter().flatten();
        if given.clone().filter(|path| path.as_os_str() == "-").count() > 1 {
            return Err(Error::Usage("only one export can go to standard output; give the others files".into()));
        }
        let inputs = [&self.weights[..], &self.image, self.show.as_slice(), self.against.as_slice()].concat();
        outputs::check_apart(given.chain(&self.resume).chain(&self.save_weights).map(PathBuf::as_path), &inputs)?;
        let open = |path: &Option<PathBuf>| path.as_deref().map(TextOutput::open).transpose();
        Ok(Exports {
            json: open(&self.export_json)?,
            markdown: open(&self.export_markdown)?,
            csv: open(&self.export_csv)?,
        })
    }
}

impl Exports {
    fn leaves_stdout_free(&self) -> bool {
        let all = [&self.json, &self.markdown, &self.csv];
        !all.into_iter().flatten().any(|output| matches!(output, TextOutput::Stdout))
    }

    fn write(self, report: &Report, tables: &[Table], detailed: &Table) -> anyhow::Result<()> {
        if let Some(output) = self.json {
            output.write(&report.json()?)?;
        }
        if let Some(output) = self.markdown {
            let sections: Vec<String> = tables.iter().chain([detailed]).map(|table| table.markdown(2)).collect();
            output.write(&sections.join("\n"))?;
        }
        if let Some(output) = self.csv {
            output.write(&detailed.csv())?;
        }
        Ok(())
    }
}

/// Shows what happens, with the running median.
fn shown_on(bar: ProgressBar, count: usize) -> Box<dyn FnMut(Event<'_>)> {
    let mut done = 0;
    Box::new(move |event| match event {
        Event::Load(case) => progress::show(&bar, format!("{}/{count} {case}: load weights", done + 1)),
        Event::Run(case, times, least) => {
            let median = Summary::of(times).map_or(0.0, |summary| summary.median);
            let (made, least) = (times.len(), least.max(times.len()));
            progress::show(&bar, format!("{}/{count} {case}: run {made}/{least}, median {median:.2} ms", done + 1));
        }
        Event::Done(_) | Event::Skipped(_) => done += 1,
    })
}

fn suite_precisions(on_cpu: bool) -> &'static [Precision] {
    if on_cpu { &[Precision::F32, Precision::Bf16] } else { &[Precision::F32, Precision::F16, Precision::Bf16] }
}

/// A folder that exists from now on.
fn output_folder(path: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(path).map_err(|error| Error::io(path, error))?;
    Ok(path.to_path_buf())
}

/// The report in `path` if there is one, which must be of this machine; that it can be written is checked now.
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
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
