//! What the program's spans cost while nobody listens, against the forward pass that they are in:
//! `cargo bench --bench spans -- --network mast3r@512x384`.

// A panic is how a benchmark fails.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Instant;

use clap::Parser;
use mast3r::model::checkpoint::Checkpoint;
use mast3r::model::registry::Network;
use mast3r::runtime::{DeviceChoice, Precision, Runtime};
use mast3r_measure::spans::record;
use mast3r_measure::{LoadedNetwork, Stage, Summary, Workload, generated_pair};

/// Spans that one figure is a mean of.
const SPANS: u32 = 10_000_000;

#[derive(Parser)]
struct Args {
    /// auto, cpu, cuda or metal
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// f32, f16 or bf16
    #[arg(long, default_value = "f32")]
    precision: Precision,
    /// NAME@WIDTHxHEIGHT
    #[arg(long, num_args = 1.., default_values = ["dune-small@336x336", "dunemast3r-small@336x336"])]
    network: Vec<String>,
    /// Forward passes that count, after one that does not
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// What cargo itself passes
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    // As the program itself has it, unless it is told to say more.
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new("warn"))
        .init();
    let args = Args::parse();
    let nanoseconds = disabled_span();
    println!("a span that nobody listens to: {nanoseconds:.2} ns, mean of {SPANS}");
    println!();
    println!(
        "| network | size | precision | device | forward, median ms | spans | their cost, ms | share |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let runtime = Runtime::new(args.device, args.precision).unwrap();
    for text in &args.network {
        let (name, size) = text.split_once('@').unwrap();
        let (width, height) = size.split_once('x').unwrap();
        let (width, height): (u32, u32) = (width.parse().unwrap(), height.parse().unwrap());
        let config = Network::find(name).unwrap().config_at(width.max(height));
        let network =
            LoadedNetwork::new(&Checkpoint::random(&config, "0"), false, &runtime).unwrap();
        let workload =
            Workload::new(&network, &generated_pair(width, height), 1, Stage::Full).unwrap();
        let forward = || drop(black_box(workload.run(Stage::Full).unwrap()));
        forward();
        let times: Vec<f64> = (0..args.runs.max(1))
            .map(|_| {
                let started = Instant::now();
                forward();
                1e3 * started.elapsed().as_secs_f64()
            })
            .collect();
        let median = Summary::of(&times).unwrap().median;
        let ((), recording) = record(None, forward).unwrap();
        let spans = recording.spans().len();
        let cost = nanoseconds * spans as f64 / 1e6;
        let (precision, device) = (args.precision, runtime.device_name());
        let share = 100.0 * cost / median;
        println!(
            "| {name} | {width}x{height} | {precision} | {device} | {median:.2} | {spans} | {cost:.6} | {share:.6} % |"
        );
    }
}

/// Nanoseconds of a span with the fields that a linear layer's has.
fn disabled_span() -> f64 {
    let role = black_box(String::from("fc1"));
    let started = Instant::now();
    for number in 0..SPANS {
        let number = black_box(u64::from(number));
        let _span =
            tracing::trace_span!("linear", role, flop = 2 * number, bytes = 4 * number).entered();
    }
    started.elapsed().as_secs_f64() * 1e9 / f64::from(SPANS)
}
