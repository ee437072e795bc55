//! The command line: arguments, progress, messages and exit codes around the library.

mod align;
mod bench;
mod encode;
mod known;
mod maps;
mod masks;
mod memory;
mod models;
mod network;
mod outputs;
mod pictures;
mod profile;
mod progress;
mod pull;
mod reconstruct;
mod scene;
mod shell;

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use mast3r::runtime::{DeviceChoice, Precision, Runtime};
use mast3r::{Error, Fault};
use tracing_subscriber::fmt::format::FmtSpan;

/// Two or more photographs in, a measured 3D scene out
///
/// Runs MASt3R, DUNE and DuneMASt3R on the CPU, on NVIDIA GPUs and on Apple GPUs.
#[derive(Debug, Parser)]
#[command(version, long_version = LONG_VERSION.as_str(), max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: GlobalArgs,
}

/// The version with the features of this build and the devices that it can use.
static LONG_VERSION: LazyLock<String> = LazyLock::new(|| {
    let named = |parts: &[(bool, &'static str)]| {
        let there: Vec<_> = parts.iter().filter(|(there, _)| *there).map(|(_, name)| *name).collect();
        there.join(", ")
    };
    let (cuda, metal) = (cfg!(feature = "cuda"), cfg!(feature = "metal"));
    let features = named(&[(true, "cli"), (cfg!(feature = "tiny"), "tiny"), (cuda, "cuda"), (metal, "metal")]);
    let devices = named(&[(true, "cpu"), (cuda, "cuda"), (metal, "metal (never run by its authors)")]);
    format!("{}\nfeatures: {features}\ndevices: {devices}", env!("CARGO_PKG_VERSION"))
});

const AFTER_HELP: &str = "\
Examples:
  mast3r reconstruct assets/demo_1.jpg assets/demo_2.jpg --model tiny -o cloud.ply
  mast3r pull mast3r
  mast3r reconstruct left.jpg right.jpg -o cloud.ply
  mast3r reconstruct photos/ --work work/ -o cloud.ply --cameras cameras.json
  mast3r align predictions/ -o cloud.ply -o kitchen --format colmap
  mast3r encode photos/*.jpg --weights dune.pth -o features.safetensors --pca preview.png
  mast3r bench --model dune-base --res 336
  mast3r profile --model dune-base --res 336 --trace trace.json

Exit codes:
    0  done
    1  anything not below: disk, network, memory, device
    2  wrong usage
    3  a picture cannot be used
    4  weights are missing or wrong
  130  interrupted, with unfinished outputs removed; what pull received is kept

Data goes to standard output, everything else to standard error.";

#[derive(Debug, Subcommand)]
enum Command {
    Reconstruct(reconstruct::ReconstructArgs),
    Align(align::AlignArgs),
    Encode(encode::EncodeArgs),
    Bench(bench::BenchArgs),
    Profile(profile::ProfileArgs),
    Models(models::ModelsArgs),
    Pull(pull::PullArgs),
    Completions(shell::CompletionsArgs),
    Man(shell::ManArgs),
}

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
struct GlobalArgs {
    /// Where to compute: auto (a GPU if there is one), cpu, cuda[:N] or metal[:N]
    ///
    /// GPUs need a build with the feature cuda or metal; on Apple GPUs it was never run.
    #[arg(long, global = true, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,

    /// Precision of weights and products: f32, f16 or bf16; heads are f32 always
    ///
    /// f32 if not given. bench takes a list, f32,bf16.
    #[arg(long, global = true, value_name = "PRECISION", value_delimiter = ',')]
    precision: Vec<Precision>,

    /// CPU threads; all that the machine has, if not given
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Say nothing but errors
    #[arg(short, long, global = true)]
    quiet: bool,

    /// Say more of what is done; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    verbose: u8,
}

impl GlobalArgs {
    fn runtime(&self) -> mast3r::Result<Runtime> {
        Runtime::new(self.device, self.precision()?)
    }

    /// The one precision of a command that takes no list.
    fn precision(&self) -> mast3r::Result<Precision> {
        match self.precision[..] {
            [] => Ok(Precision::default()),
            [precision] => Ok(precision),
            _ => Err(Error::Usage("--precision: this command takes one, only bench takes a list".into())),
        }
    }

    /// The precisions asked for; none if the option is not given.
    fn precisions(&self) -> &[Precision] {
        &self.precision
    }

    /// A line of talk, unless told to be quiet.
    fn say(&self, line: impl std::fmt::Display) {
        if !self.quiet {
            print_talk(line);
        }
    }
}

/// Parses the arguments and runs the command.
pub fn main() -> ExitCode {
    memory::keep_freed_blocks();
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has had enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            print_talk(format_args!("error: {}", message(&error)));
            exit_code(&error)
        }
    }
}

/// What went wrong and why: an error and its causes, those that it tells itself once.
fn message(error: &anyhow::Error) -> String {
    let mut message = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !message.ends_with(&cause) {
            message.push_str(": ");
            message.push_str(&cause);
        }
    }
    message
}

/// Prints on standard error. Where nobody listens there is nobody to be told, and `eprintln!` would panic.
fn print_talk(line: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    set_up(&cli.global)?;
    match &cli.command {
        Command::Reconstruct(args) => args.run(&cli.global),
        Command::Align(args) => args.run(&cli.global),
        Command::Encode(args) => args.run(&cli.global),
        Command::Bench(args) => args.run(&cli.global),
        Command::Profile(args) => args.run(&cli.global),
        Command::Models(args) => args.run(),
        Command::Pull(args) => args.run(&cli.global),
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
    let spans = if global.verbose > 1 { FmtSpan::CLOSE } else { FmtSpan::NONE };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(spans)
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();
    if let Some(threads) = global.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads.into()).build_global()?;
    }
    ctrlc::set_handler(|| {
        mast3r::export::remove_temporaries();
        // What a shell reports for a program ended by an interrupt.
        std::process::exit(130);
    })?;
    Ok(())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| match cause.downcast_ref::<io::Error>() {
        Some(error) => error.kind() == io::ErrorKind::BrokenPipe,
        None => false,
    })
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    let fault = error.chain().find_map(|cause| cause.downcast_ref::<Error>()).map(Error::fault);
    ExitCode::from(match fault {
        Some(Fault::Usage) => 2,
        Some(Fault::Input) => 3,
        Some(Fault::Weights) => 4,
        _ => 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let full = || Error::io("disk/c.ply", io::Error::other("no space"));
        assert_eq!(message(&full().into()), "disk/c.ply: no space");
        let error = anyhow::Error::new(full()).context("the cloud");
        assert_eq!(message(&error), "the cloud: disk/c.ply: no space");
    }
}
