//! `mast3r`: photographs in, a 3D reconstruction out, from the command line: arguments, progress,
//! messages and exit codes around the library.

mod align;
mod bench;
mod encode;
mod estimate;
mod evaluate;
mod filter;
mod frame;
mod images;
mod known;
mod maps;
mod masks;
mod memory;
mod models;
mod network;
mod outputs;
mod pairs;
mod plan;
mod preview;
mod profile;
mod progress;
mod pull;
mod quantize;
mod reconstruct;
mod refine;
mod results;
mod run;
mod scene;
mod shell;
mod videos;
mod view;

use std::io::{self, IsTerminal as _, Write as _};
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::LazyLock;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use mast3r::runtime::{DeviceList, Optimisation, Optimisations, Precision, Runtime};
use mast3r::{Error, ErrorKind};
use tracing_subscriber::fmt::format::FmtSpan;

use outputs::Failures;

/// Two or more photographs in, a 3D reconstruction out
///
/// Runs MASt3R, DUNE and DuneMASt3R on the CPU, on NVIDIA GPUs and on Apple GPUs.
#[derive(Debug, Parser)]
#[command(name = "mast3r", version, long_version = LONG_VERSION.as_str(), max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: GlobalArgs,
}

/// Threads at most, for each core. More do nothing but wait for one another: 1000 on 2 cores took
/// 32 s for what 2 do in one.
const THREADS_PER_CORE: usize = 4;
/// The least that the limit is, so that threads beyond the cores can be tried on small machines.
const LEAST_THREAD_LIMIT: usize = 16;

/// The version with the features of this build and the devices that it can use.
static LONG_VERSION: LazyLock<String> = LazyLock::new(|| {
    let named = |parts: &[(bool, &'static str)]| {
        let there: Vec<_> = parts
            .iter()
            .filter(|(there, _)| *there)
            .map(|(_, name)| *name)
            .collect();
        there.join(", ")
    };
    let (cuda, metal) = (cfg!(feature = "cuda"), cfg!(feature = "metal"));
    let features = named(&[
        (cfg!(feature = "tiny"), "tiny"),
        (cuda, "cuda"),
        (metal, "metal"),
    ]);
    let devices = named(&[
        (true, "cpu"),
        (cuda, "cuda"),
        (metal, "metal (never run by its authors)"),
    ]);
    format!(
        "{}\nfeatures: {features}\ndevices: {devices}",
        env!("CARGO_PKG_VERSION")
    )
});

const AFTER_HELP: &str = "\
Examples:
  mast3r reconstruct assets/demo_1.jpg assets/demo_2.jpg --model tiny -o cloud.ply
  mast3r pull mast3r
  mast3r reconstruct left.jpg right.jpg -o cloud.ply
  mast3r reconstruct photos/ --work work/ -o cloud.ply --cameras cameras.json
  mast3r plan photos/ --work work/ --shards 4
  mast3r run --work work/ --shard 0 --stage encode
  mast3r align predictions/ -o cloud.ply -o kitchen --format colmap
  mast3r view cloud.ply
  mast3r evaluate cameras.json colmap/ --plot errors.svg
  mast3r encode photos/*.jpg --weights dune.pth -o features.safetensors --pca preview.png
  mast3r bench --model dune-base --res 336
  mast3r profile --model dune-base --res 336 --trace trace.json
  mast3r quantize mast3r -o mast3r_int8.safetensors --to int8

Exit codes:
    0  everything that was asked for is written
    1  disk, network, memory, device, or a bug in mast3r
    2  wrong usage
    3  an input file cannot be used, or the images do not determine camera poses
    4  weights are missing or wrong
    5  other shards of a plan have to be run first
  130  interrupted, with unfinished outputs removed; what pull received is kept

If one output cannot be written, all others are; the exit code is that of the first that failed.
Results go to standard output, logs to standard error.";

#[derive(Debug, Subcommand)]
enum Command {
    Reconstruct(Box<reconstruct::ReconstructArgs>),
    Align(Box<align::AlignArgs>),
    Plan(Box<plan::PlanArgs>),
    Run(run::RunArgs),
    View(view::ViewArgs),
    Encode(encode::EncodeArgs),
    Evaluate(evaluate::EvaluateArgs),
    Bench(bench::BenchArgs),
    Profile(profile::ProfileArgs),
    Models(models::ModelsArgs),
    Pull(pull::PullArgs),
    Quantize(quantize::QuantizeArgs),
    Completions(shell::CompletionsArgs),
    Man(shell::ManArgs),
}

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
struct GlobalArgs {
    /// Where to compute: auto (a GPU if there is one), cpu, cuda[:N] or metal[:N]; several NVIDIA
    /// GPUs as cuda:0,cuda:1 or cuda:all
    ///
    /// GPUs need a build with the feature cuda or metal; on Apple GPUs it was never run. reconstruct,
    /// encode and bench --stage pairs share their work out among several GPUs of one model; results
    /// are those of one.
    #[arg(long, global = true, value_name = "DEVICE", default_value = "auto")]
    device: DeviceList,

    /// Precision of weights and products: f32, tf32, f16, bf16 or, on the CPU, int8; maps are f32
    /// always
    ///
    /// f32 if not given. bench takes a list, f32,bf16.
    #[arg(long, global = true, value_name = "PRECISION", value_delimiter = ',')]
    precision: Vec<Precision>,

    /// Precision of the heads: auto, or f32 whatever the rest is
    ///
    /// By default heads are float16 on NVIDIA GPUs and bfloat16 on the CPU where the precision is
    /// reduced.
    #[arg(long, global = true, value_name = "PRECISION", default_value = "auto")]
    heads: HeadPrecision,

    /// CPU threads, at most four for each core [default: one for each core]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Print errors only
    #[arg(short, long, global = true)]
    quiet: bool,

    /// Print more messages; -vv prints all of them
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    verbose: u8,
}

/// What heads multiply in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum HeadPrecision {
    /// As the device and the precision of the rest have it.
    Auto,
    /// float32.
    F32,
}

impl GlobalArgs {
    /// The device of a command that runs on one.
    fn runtime(&self, command: &str) -> mast3r::Result<Runtime> {
        let device = self.device.single(command)?;
        Runtime::with_optimisations(device, self.precision()?, self.optimisations())
    }

    /// The devices that share the work, one or more.
    fn runtimes(&self) -> mast3r::Result<Vec<Runtime>> {
        self.device
            .open_with(self.precision()?, self.optimisations())
    }

    /// All that the options do not forbid.
    fn optimisations(&self) -> Optimisations {
        match self.heads {
            HeadPrecision::Auto => Optimisations::all(),
            HeadPrecision::F32 => Optimisations::all()
                .without(Optimisation::HalfHeads)
                .without(Optimisation::TensorFloat32Heads),
        }
    }

    /// The one precision of a command that takes no list.
    fn precision(&self) -> mast3r::Result<Precision> {
        match self.precision[..] {
            [] => Ok(Precision::default()),
            [precision] => Ok(precision),
            _ => Err(Error::Usage(
                "--precision: this command takes one, only bench takes a list".into(),
            )),
        }
    }

    /// The precisions asked for; none if the option is not given.
    fn precisions(&self) -> &[Precision] {
        &self.precision
    }

    /// A log line, unless told to be quiet.
    fn say(&self, line: impl std::fmt::Display) {
        if !self.quiet {
            print_log(line);
        }
    }
}

/// Parses the arguments and runs the command.
fn main() -> ExitCode {
    memory::keep_freed_blocks();
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        // A broken pipe is not an error.
        Err(error) if outputs::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let (messages, first) = match error.downcast_ref::<Failures>() {
                Some(failures) => (
                    failures.messages().collect(),
                    failures.first().unwrap_or(&error),
                ),
                None => (vec![format!("{error:#}")], &error),
            };
            let options = library_error(first).and_then(options_for);
            let options = options.map_or(String::new(), |options| format!(" (options: {options})"));
            messages
                .iter()
                .for_each(|message| print_log(format_args!("error: {message}{options}")));
            exit_code(first)
        }
    }
}

/// Prints on standard error. Where nobody listens there is nobody to be told, and `eprintln!` would
/// panic.
fn print_log(line: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    set_up(&cli.global)?;
    match &cli.command {
        Command::Reconstruct(args) => args.run(&cli.global),
        Command::Align(args) => args.run(&cli.global),
        Command::Plan(args) => args.run(&cli.global),
        Command::Run(args) => args.run(&cli.global),
        Command::View(args) => args.run(&cli.global),
        Command::Encode(args) => args.run(&cli.global),
        Command::Evaluate(args) => args.run(&cli.global),
        Command::Bench(args) => args.run(&cli.global),
        Command::Profile(args) => args.run(&cli.global),
        Command::Models(args) => args.run(),
        Command::Pull(args) => args.run(&cli.global),
        Command::Quantize(args) => args.run(&cli.global),
        Command::Completions(args) => args.run(Cli::command()),
        Command::Man(args) => args.run(Cli::command()),
    }
}

fn set_up(global: &GlobalArgs) -> anyhow::Result<()> {
    let level = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (_, 0) => "warn",
        (_, 1) => "mast3r=info",
        _ => "mast3r=trace",
    };
    let filter = tracing_subscriber::EnvFilter::new(level);
    // Everything includes how long each layer took.
    let spans = if global.verbose > 1 {
        FmtSpan::CLOSE
    } else {
        FmtSpan::NONE
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(spans)
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();
    start_threads(global.threads.map(usize::from))?;
    ctrlc::set_handler(|| {
        mast3r::programs::end_programs();
        mast3r::export::remove_temporaries();
        if let Some(advice) = progress::interrupt_advice() {
            // A bar leaves the cursor at its end.
            let line_break = if io::stderr().is_terminal() { "\n" } else { "" };
            print_log(format_args!("{line_break}{advice}"));
        }
        // What a shell reports for a program ended by an interrupt.
        std::process::exit(130);
    })?;
    Ok(())
}

/// Starts the threads that compute: so many, or one for each core.
fn start_threads(wanted: Option<usize>) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let most = (THREADS_PER_CORE * cores).max(LEAST_THREAD_LIMIT);
    let threads = wanted.map(|wanted| wanted.min(most));
    if let Some(wanted) = wanted.filter(|wanted| *wanted > most) {
        tracing::warn!(
            "--threads {wanted}: more than {most} threads only wait for {cores} cores; {most} are started"
        );
    }
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.unwrap_or(0))
        .build_global();
    pool.with_context(|| {
        format!(
            "{} threads cannot be started; try fewer --threads",
            threads.unwrap_or(cores)
        )
    })
}

fn library_error(error: &anyhow::Error) -> Option<&Error> {
    error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Error>())
}

/// The options that the way out of an error is about: the library's messages name none.
fn options_for(error: &Error) -> Option<&'static str> {
    match error {
        Error::NotFinite { .. } | Error::PairNotFinite { .. } => Some("--precision f32"),
        Error::OutOfMemory { .. } => Some("--res, --precision, --device"),
        _ => None,
    }
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(match library_error(error).map(Error::kind) {
        Some(ErrorKind::Usage) => 2,
        Some(ErrorKind::Input) => 3,
        Some(ErrorKind::Weights) => 4,
        Some(ErrorKind::Unfinished) => 5,
        _ => 1,
    })
}

/// Reads a number of things of which there is one or more.
fn at_least_one(text: &str) -> Result<usize, &'static str> {
    text.parse()
        .map(NonZeroUsize::get)
        .map_err(|_| "expected a whole number, 1 or more")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let full = || Error::io("disk/c.ply", io::Error::other("no space"));
        assert_eq!(
            format!("{:#}", anyhow::Error::new(full())),
            "disk/c.ply: no space"
        );
        let error = anyhow::Error::new(full()).context("the cloud");
        assert_eq!(format!("{error:#}"), "the cloud: disk/c.ply: no space");
    }
}
