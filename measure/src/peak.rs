//! The fastest matrix product that the machine was seen to make, to set a network's speed against.

use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use custom_ops::{Activation, PackedLinear, linear};

use crate::ops::storage;
use mast3r::Result;
use mast3r::nn::products::FloatProducts;
use mast3r::runtime::{Precision, Runtime};

/// How long products are repeated.
const STRETCH: Duration = Duration::from_millis(400);

/// GFLOP/s of the fastest of a few large matrix products in the runtime's precision, each repeated
/// for 0.4 s; two operations for each multiplication with its addition. On the CPU the products are
/// ours and, in float32, Candle's; on a GPU Candle's, which are the vendor's library's.
///
/// # Errors
/// Of the device.
pub fn matrix_product_peak(runtime: &Runtime) -> Result<f64> {
    let mut best: f64 = 0.0;
    if runtime.device().is_cpu() {
        for (rows, input, output) in [(1024, 1024, 4096), (2048, 4096, 1024)] {
            best = best.max(packed(runtime.precision(), rows, input, output)?);
        }
        if runtime.precision() == Precision::F32 {
            best = best.max(dense(runtime, 2048)?);
        }
    } else {
        for side in [4096, 8192] {
            best = best.max(dense(runtime, side)?);
        }
    }
    Ok(best)
}

fn packed(precision: Precision, rows: usize, input: usize, output: usize) -> Result<f64> {
    let weight: Vec<f32> = (0..input * output)
        .map(|i| (i % 61) as f32 / 61.0 - 0.5)
        .collect();
    let layer = PackedLinear::new(&weight, input, None, storage(precision))?;
    let x = Tensor::rand(-1_f32, 1.0, (rows, input), &Device::Cpu)?;
    repeated(2.0 * (rows * input * output) as f64, &Device::Cpu, || {
        Ok(linear(&x, &layer, Activation::Identity, None)?)
    })
}

fn dense(runtime: &Runtime, side: usize) -> Result<f64> {
    let device = runtime.device();
    let matrix =
        || Tensor::rand(-1_f32, 1.0, (side, side), device)?.to_dtype(runtime.precision().dtype());
    let (a, b) = (matrix()?, matrix()?);
    let products = FloatProducts::of(runtime.precision());
    repeated(2.0 * (side as f64).powi(3), device, || {
        Ok(products.launch(device, a.dtype(), || a.matmul(&b))?)
    })
}

/// GFLOP/s of `product` after a first call.
fn repeated(flop: f64, device: &Device, product: impl Fn() -> Result<Tensor>) -> Result<f64> {
    product()?;
    device.synchronize()?;
    let mut best: f64 = 0.0;
    let start = Instant::now();
    // Four in a row, so that a GPU's host does not set the pace.
    while start.elapsed() < STRETCH {
        let lap = Instant::now();
        for _ in 0..4 {
            std::hint::black_box(product()?);
        }
        device.synchronize()?;
        best = best.max(4.0 * flop / lap.elapsed().as_secs_f64() / 1e9);
    }
    Ok(best)
}
