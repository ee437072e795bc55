//! The CPU's layers at the shapes of the networks, beside the plain Candle expression that each
//! replaces.
//!
//! `cargo bench -p mast3r-custom-ops --bench dense` prints the best and the median of several runs;
//! both sides alternate, so that a machine that changes its speed changes both. On Linux the
//! allocator keeps what is freed, as in the program.

// A failed op ends the benchmark.
#![allow(clippy::unwrap_used, missing_docs)]

mod memory;

use std::time::Instant;

use candle_core::{Device, Result, Tensor};
use custom_ops::{
    Activation, PackedConv3x3, PackedLinear, Storage, attention, conv3x3, instruction_set,
    layer_norm, linear, plain,
};

const RUNS: usize = 9;

/// One line of the table, if the command line's word is in its name; `gflop` is 0 where bytes
/// matter more.
fn row(
    name: &str,
    gflop: f64,
    ours: impl Fn() -> Result<Tensor>,
    plain: impl Fn() -> Result<Tensor>,
) {
    if std::env::args()
        .skip(1)
        .any(|word| !word.starts_with("--") && !name.contains(&word))
    {
        return;
    }
    let time = |run: &dyn Fn() -> Result<Tensor>| {
        let start = Instant::now();
        let out = run().unwrap();
        let seconds = start.elapsed().as_secs_f64();
        drop(out);
        seconds
    };
    let (mut ours_runs, mut plain_runs) = (Vec::new(), Vec::new());
    for run in 0..=RUNS {
        let (ours, plain) = (time(&ours), time(&plain));
        if run > 0 {
            ours_runs.push(ours);
            plain_runs.push(plain);
        }
    }
    let stats = |runs: &mut Vec<f64>| {
        runs.sort_by(f64::total_cmp);
        (runs[0], runs[runs.len() / 2])
    };
    let ((best, median), (plain_best, plain_median)) =
        (stats(&mut ours_runs), stats(&mut plain_runs));
    let rate = if gflop > 0. {
        format!("{:.0}", gflop / median)
    } else {
        "-".into()
    };
    println!(
        "| {name} | {:.2} | {:.2} | {rate} | {:.2} | {:.2} | {:.2}x |",
        1e3 * best,
        1e3 * median,
        1e3 * plain_best,
        1e3 * plain_median,
        plain_median / median
    );
}

fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1., shape, &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn main() {
    memory::keep_freed_blocks();
    println!(
        "{} threads, {}, {RUNS} runs, float32 input\n",
        rayon::current_num_threads(),
        instruction_set()
    );
    println!("| op | ours best ms | median ms | GFLOP/s | plain best ms | median ms | speed-up |");
    println!("|---|---|---|---|---|---|---|");
    for (rows, input, output) in [
        (1536, 1024, 3072),
        (1536, 1024, 4096),
        (1536, 4096, 1024),
        (768, 7168, 6400),
    ] {
        let (x, w) = (random(&[rows, input]), random(&[output, input]));
        let bias = random(&[output]);
        let transposed = w.t().unwrap();
        for storage in [Storage::F32, Storage::F16, Storage::Bf16] {
            let layer =
                PackedLinear::new(&values(&w), input, Some(&values(&bias)), storage).unwrap();
            row(
                &format!("linear {rows}x{input} to {output}, GELU, {storage:?}"),
                2e-9 * (rows * input * output) as f64,
                || linear(&x, &layer, Activation::Gelu, None),
                || plain::linear(&x, &transposed, Some(&bias), Activation::Gelu, None),
            );
        }
    }
    for (batch, tokens, heads) in [(2, 768, 16), (1, 768, 12), (1, 1344, 16)] {
        let qkv = random(&[batch, tokens, 3, heads, 64]);
        let third = |i| qkv.get_on_dim(2, i).unwrap();
        let (q, k, v) = (third(0), third(1), third(2));
        for storage in [Storage::F32, Storage::Bf16] {
            row(
                &format!("attention {batch}x{tokens}x{heads}x64, {storage:?}"),
                4e-9 * (batch * tokens * tokens * heads * 64) as f64,
                || attention(&q, &k, &v, storage),
                || plain::attention(&q, &k, &v),
            );
        }
    }
    for (height, width, input, output) in [
        (384, 512, 128, 128),
        (192, 256, 256, 128),
        (96, 128, 256, 256),
    ] {
        let (x, w) = (
            random(&[1, height, width, input]),
            random(&[output, input, 3, 3]),
        );
        let first = x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
        for storage in [Storage::F32, Storage::Bf16] {
            let layer = PackedConv3x3::new(&values(&w), input, None, storage).unwrap();
            row(
                &format!("conv3x3 {height}x{width}, {input} to {output}, {storage:?}"),
                18e-9 * (height * width * input * output) as f64,
                || conv3x3(&x, &layer, false, Activation::Identity, None),
                || first.conv2d(&w, 1, 1, 1, 1),
            );
        }
    }
    for dim in [1024, 768] {
        let (x, scale, shift) = (random(&[1536, dim]), random(&[dim]), random(&[dim]));
        row(
            &format!("layer_norm 1536x{dim}"),
            0.,
            || layer_norm(&x, &scale, &shift, 1e-6),
            || plain::layer_norm(&x, &scale, &shift, 1e-6),
        );
    }
}
