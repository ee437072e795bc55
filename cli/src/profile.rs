//! `mast3r profile`: where the time goes.

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::Args;
use mast3r::export::OutputFile;
use mast3r::runtime::{Optimisation, Runtime};
use mast3r::views::{self, Limits};
use mast3r_measure::{Machine, Profile, ProfileImages, ProfileOptions, Profiler, check_images};
use serde_json::{Value, json};

use crate::GlobalArgs;
use crate::network::NetworkArgs;
use crate::outputs::{self, TextOutput};
use crate::progress;

/// The network without `--model` and without a file that says otherwise.
const DEFAULT_NETWORK: &str = "mast3r";

/// Profile stages, blocks and single operations
///
/// Repeats what `reconstruct` does, or `encode` for an encoder, and prints tables of times; the
/// rows of each table add up to its total. Weights are random (seed 0) unless --weights is given;
/// times do not depend on them. On a GPU the device is synchronised after every component, which
/// makes the total longer; the time without is measured too.
#[derive(Debug, Args)]
pub struct ProfileArgs {
    /// Two images, or one or two for an encoder [default: generated images]
    #[arg(value_name = "IMAGE")]
    images: Vec<PathBuf>,

    /// Warm-up runs [default: 1, on a GPU 3]
    #[arg(long, value_name = "N")]
    warmup: Option<usize>,

    /// Measured runs, each made once with recording and once without [default: 3, on a GPU 10]
    #[arg(long, value_name = "N")]
    runs: Option<NonZeroUsize>,

    /// Write everything as JSON; - is standard output, in place of the tables
    #[arg(long, value_name = "FILE")]
    export_json: Option<PathBuf>,

    /// Write the tables as Markdown; - is standard output, in place of the tables
    #[arg(long, value_name = "FILE")]
    export_markdown: Option<PathBuf>,

    /// Write a timeline of one run as Chrome trace events, for ui.perfetto.dev or chrome://tracing
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,

    /// Draw one run as a flame graph
    #[arg(long, value_name = "SVG")]
    flame: Option<PathBuf>,

    /// Switch optimisations off, to measure what each one gains; an unknown name lists them all
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    without: Vec<Optimisation>,

    // Last, because its heading would go on to what follows.
    #[command(flatten)]
    network: NetworkArgs,
}

/// Everything that will be written, open.
struct Outputs {
    json: Option<TextOutput>,
    markdown: Option<TextOutput>,
    trace: Option<OutputFile>,
    flame: Option<OutputFile>,
}

impl ProfileArgs {
    pub fn run(&self, global: &GlobalArgs) -> anyhow::Result<()> {
        let network = self.network.or_random();
        let outputs = self.open_outputs()?;
        let limits = Limits::default();
        let early = network.early_framing(DEFAULT_NETWORK)?;
        views::probe_all(&self.images, early.as_ref(), &limits)?;
        // A graph is one launch: what runs inside cannot be waited for.
        let launched = global.optimisations().without(Optimisation::CapturedGraphs);
        let optimisations = self
            .without
            .iter()
            .fold(launched, |set, &off| set.without(off));
        let device = global.device.single("profile")?;
        let runtime = Runtime::with_optimisations(device, global.precision()?, optimisations)?;
        let chosen = network.choose(DEFAULT_NETWORK)?;
        let config = chosen.checkpoint.config();
        let images = if self.images.is_empty() {
            ProfileImages::generate(config.predicts().least_views(), &chosen.framing)?
        } else {
            check_images(config, self.images.len())?;
            ProfileImages::Given(self.images.clone())
        };
        let usual = ProfileOptions::usual(&runtime);
        let options = ProfileOptions {
            warmup: self.warmup.unwrap_or(usual.warmup),
            runs: self.runs.map_or(usual.runs, NonZeroUsize::get),
        };

        let spinner = progress::spinner(global.quiet);
        progress::show(&spinner, "load weights");
        let profiler = Profiler::load(&chosen.checkpoint, &runtime)?;
        let times = Profiler::times(options);
        let begin = |number| progress::show(&spinner, format!("run {} of {times}", number + 1));
        let profile = profiler.run(&images, &chosen.framing, options, begin)?;
        spinner.finish_and_clear();

        let report = Report {
            profile,
            machine: Machine::here(runtime.device())?,
            model: chosen.name.clone(),
            weights: chosen.checkpoint.fingerprint(),
            without: self.without.clone(),
            precision: runtime.precision().to_string(),
            device: runtime.device_name(),
        };
        report.write(outputs, global)
    }

    fn open_outputs(&self) -> mast3r::Result<Outputs> {
        let files = [
            &self.export_json,
            &self.export_markdown,
            &self.trace,
            &self.flame,
        ];
        let inputs = [&self.images, self.network.files()].concat();
        outputs::check_apart(files.into_iter().flatten().map(PathBuf::as_path), &inputs)?;
        let is_stdout = |path: &Option<PathBuf>| path.as_deref() == Some(Path::new("-"));
        if is_stdout(&self.export_json) && is_stdout(&self.export_markdown) {
            let message = "--export-json - and --export-markdown - both want standard output; give one of them a file";
            return Err(mast3r::Error::Usage(message.into()));
        }
        Ok(Outputs {
            json: self
                .export_json
                .as_deref()
                .map(TextOutput::open)
                .transpose()?,
            markdown: self
                .export_markdown
                .as_deref()
                .map(TextOutput::open)
                .transpose()?,
            trace: outputs::file(self.trace.as_deref())?,
            flame: outputs::file(self.flame.as_deref())?,
        })
    }
}

/// A profile and its terms.
struct Report {
    profile: Profile,
    machine: Machine,
    model: String,
    weights: String,
    without: Vec<Optimisation>,
    precision: String,
    device: String,
}

impl Report {
    fn write(&self, outputs: Outputs, global: &GlobalArgs) -> anyhow::Result<()> {
        let stdout_taken = [&outputs.json, &outputs.markdown]
            .into_iter()
            .flatten()
            .any(TextOutput::is_stdout);
        let title = self.head();
        let mut written = outputs::Written::default();
        if let Some(file) = outputs.trace {
            let path = file.path().to_path_buf();
            let done = file.write_with(|out| self.profile.recording.write_trace(&title[0], out));
            let detail = || format!("{} spans", self.profile.recording.spans().len());
            written.note("trace", &path, done.map(|()| detail()));
        }
        if let Some(file) = outputs.flame {
            let path = file.path().to_path_buf();
            let done = file.write_with(|out| self.profile.recording.write_flame(&title[0], out));
            written.note("flame", &path, done.map(|()| "one run".into()));
        }
        let exports = [
            (outputs.markdown, "markdown", self.markdown()),
            (outputs.json, "json", self.json_text()?),
        ];
        for (output, what, text) in exports {
            if let Some(output) = output {
                output.write(
                    &text,
                    what,
                    || format!("{} tables", self.profile.tables.len()),
                    &mut written,
                );
            }
        }
        if !stdout_taken && let Err(error) = outputs::print_text(&self.text()) {
            written.fail("tables", Path::new(outputs::STDOUT), error);
        }
        written.lines().for_each(|line| global.say(line));
        written.finish()
    }

    /// What the tables are of, a line each.
    fn head(&self) -> Vec<String> {
        let Self {
            profile,
            machine,
            model,
            weights,
            precision,
            device,
            ..
        } = self;
        let ProfileOptions { warmup, runs } = profile.options;
        let resolution = self.resolution();
        let threads = machine.threads;
        let without: Vec<_> = self
            .without
            .iter()
            .map(|off| format!(", without {off}"))
            .collect();
        let without = without.concat();
        let times = |recorded: f64, unrecorded: f64| {
            format!("{recorded:.2} ms recorded, {unrecorded:.2} ms not")
        };
        let (total, network) = (
            times(profile.total_ms, profile.total_unprofiled_ms),
            times(profile.network_ms(), profile.network_unprofiled_ms()),
        );
        let [recorded, unrecorded] = profile.network_medians_ms();
        let (medians, overhead) = (
            times(recorded, unrecorded),
            100.0 * (recorded / unrecorded - 1.0),
        );
        let waiting = if profile.synchronized {
            "; synchronized after every component, hence the difference: tables are of the recorded runs"
        } else {
            ""
        };
        vec![
            format!(
                "{model}, {resolution}, {precision}, {device}, {threads} threads, weights: {weights}{without}"
            ),
            machine.describe(),
            format!(
                "means of {runs} runs after {warmup}; {} spans a run{waiting}",
                profile.spans
            ),
            format!("the whole job, weights loaded once: {total}"),
            format!("the network: {network}; medians: {medians} ({overhead:+.2} %)"),
        ]
    }

    fn resolution(&self) -> String {
        let mut sizes = self.profile.sizes.clone();
        sizes.dedup();
        let sizes: Vec<String> = sizes
            .iter()
            .map(|[width, height]| format!("{width}x{height}"))
            .collect();
        sizes.join(" and ")
    }

    fn text(&self) -> String {
        let mut text = self.head().join("\n") + "\n";
        for table in &self.profile.tables {
            let _ = write!(text, "\n{}", table.table().text());
        }
        text
    }

    fn markdown(&self) -> String {
        let head: Vec<String> = self.head().iter().map(|line| format!("- {line}")).collect();
        let mut text = format!("# Profile of {}\n\n{}\n", self.model, head.join("\n"));
        for table in &self.profile.tables {
            let _ = write!(text, "\n{}", table.table().markdown(2));
        }
        text
    }

    fn json_text(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(&self.json())? + "\n")
    }

    fn json(&self) -> Value {
        let Self {
            profile,
            machine,
            model,
            weights,
            precision,
            device,
            ..
        } = self;
        json!({
            "machine": machine,
            "model": model,
            "resolution": self.resolution(),
            "precision": precision,
            "device": device,
            "weights": weights,
            "without": self.without.iter().map(|off| off.name()).collect::<Vec<_>>(),
            "warmup": profile.options.warmup,
            "runs": profile.options.runs,
            "synchronized": profile.synchronized,
            "spans": profile.spans,
            "total_ms": profile.total_ms,
            "total_unprofiled_ms": profile.total_unprofiled_ms,
            "network_ms": profile.network_ms(),
            "network_unprofiled_ms": profile.network_unprofiled_ms(),
            "network_runs_ms": profile.network_runs_ms,
            "network_unprofiled_runs_ms": profile.network_unprofiled_runs_ms,
            "tables": profile.tables,
        })
    }
}
