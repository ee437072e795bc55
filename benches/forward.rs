//! The time of one forward pass, pictures as tensors in and maps as tensors out, on any device:
//!
//! `cargo bench --bench forward -- --device cuda --precision bf16 f16 --network mast3r@512x384 dune-base@336x336`
//!
//! Random weights, seed 0. A run ends when the device has finished; every run is listed in the JSON lines that `--json`
//! adds. For two-view networks both views are encoded together and decoded once.

// A failed step ends the benchmark.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Instant;

use candle_core::{Device, Tensor};
use clap::Parser;
use mast3r::model::checkpoint::Checkpoint;
use mast3r::model::registry::Network;
use mast3r::model::{FeatureExtractor, Features, Mast3r};
use mast3r::nn::unobserved;
use mast3r::runtime::{DeviceChoice, Precision, Runtime};

#[derive(Parser)]
struct Args {
    /// auto, cpu, cuda or metal
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// f32, f16 or bf16
    #[arg(long, num_args = 1.., default_value = "f32")]
    precision: Vec<Precision>,
    /// NAME@WIDTHxHEIGHT
    #[arg(long, num_args = 1.., default_value = "dune-small@336x336")]
    network: Vec<String>,
    /// Runs before those that count
    #[arg(long, default_value_t = 3)]
    warmup: usize,
    /// Runs that count
    #[arg(long, default_value_t = 10)]
    runs: usize,
    /// Print every run as JSON too
    #[arg(long)]
    json: bool,
    /// What cargo itself passes
    #[arg(long, hide = true)]
    bench: bool,
}

/// A network, ready to run.
enum Model {
    Encoder(Box<FeatureExtractor>),
    Pair(Box<Mast3r>),
}

fn main() {
    let args = Args::parse();
    println!("| network | size | precision | device | median ms | min | max | runs |");
    println!("|---|---|---|---|---|---|---|---|");
    for text in &args.network {
        let (name, size) = text.split_once('@').unwrap();
        let (width, height) = size.split_once('x').unwrap();
        let size: [usize; 2] = [height.parse().unwrap(), width.parse().unwrap()];
        let network = Network::find(name).unwrap();
        for &precision in &args.precision {
            measure(&args, network, size, precision);
        }
    }
}

fn measure(args: &Args, network: &Network, [height, width]: [usize; 2], precision: Precision) {
    let runtime = Runtime::new(args.device, precision).unwrap();
    let config = network.config_at(width.max(height) as u32);
    let vb = Checkpoint::random(&config, "0").var_builder(precision.dtype(), runtime.device());
    let model = match config.two_view {
        Some(_) => Model::Pair(Box::new(Mast3r::new(&config, &vb, &runtime).unwrap())),
        None => Model::Encoder(Box::new(FeatureExtractor::new(&config, &vb, &runtime).unwrap())),
    };
    let views = if matches!(model, Model::Pair(_)) { 2 } else { 1 };
    let pictures = smooth(views, height, width, runtime.device());
    let grid = [height, width].map(|side| side / network.patch() as usize);
    let mut runs = Vec::with_capacity(args.runs);
    for run in 0..args.warmup + args.runs {
        let start = Instant::now();
        forward(&model, &pictures, grid);
        runtime.synchronize().unwrap();
        if run >= args.warmup {
            runs.push(1e3 * start.elapsed().as_secs_f64());
        }
    }
    let mut sorted = runs.clone();
    sorted.sort_by(f64::total_cmp);
    let (least, median, most) = (sorted[0], sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
    let (name, device, count) = (network.name, runtime.device_name(), runs.len());
    println!("| {name} | {width}x{height} | {precision} | {device} | {median:.2} | {least:.2} | {most:.2} | {count} |");
    if args.json {
        let resolution = format!("{width}x{height}");
        let precision = precision.to_string();
        println!(
            "{}",
            serde_json::json!({
                "model": name, "resolution": resolution, "precision": precision, "device": device,
                "weights": "random, seed 0", "median_ms": median, "runs_ms": runs,
            })
        );
    }
}

fn forward(model: &Model, pictures: &Tensor, grid: [usize; 2]) {
    match model {
        Model::Encoder(encoder) => {
            black_box(encoder.forward(pictures, true, &mut unobserved()).unwrap());
        }
        Model::Pair(model) => {
            let tokens = model.extractor().forward(pictures, true, &mut unobserved()).unwrap();
            let view = |index| Features { tokens: tokens.narrow(0, index, 1).unwrap(), grid };
            black_box(model.decode(&view(0), &view(1)).unwrap());
        }
    }
}

/// Pictures of soft blobs in [-1, 1], `(views, 3, height, width)`.
fn smooth(views: usize, height: usize, width: usize, device: &Device) -> Tensor {
    let mut values = Vec::with_capacity(views * 3 * height * width);
    for index in 0..views * 3 {
        for y in 0..height {
            for x in 0..width {
                let phase = index as f32 + 0.03 * x as f32;
                values.push((phase.sin() * (0.02 * y as f32 + 0.7 * index as f32).cos()).clamp(-1., 1.));
            }
        }
    }
    Tensor::from_vec(values, (views, 3, height, width), device).unwrap()
}
