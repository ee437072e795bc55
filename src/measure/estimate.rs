//! How much memory a network will want, before anything is loaded.

use candle_core::Device;

use super::machine::available_bytes;
use crate::model::config::{Config, EncoderKind, Stack};
use crate::runtime::{Precision, Runtime};
use crate::{Error, Result};

/// What allocators and short-lived copies add to the tensors counted: more on the CPU, whose threads have buffers of their
/// own. With these the estimate was 1.0 to 1.5 times the peak of every two-view row in `docs/BENCHMARKS.md`.
const MARGINS: [f64; 2] = [1.5, 1.1];
/// The program itself, in bytes.
const PROGRAM: u64 = 64 << 20;
/// What our convolution gathers at most at a time on a GPU.
const TAPS: f64 = (1_u64 << 30) as f64;

/// Bytes that the weights of `config` take as they are held: heads float32, the rest in `precision`.
pub fn weight_bytes(config: &Config, precision: Precision) -> u64 {
    let width = precision.dtype().size_in_bytes() as u64;
    let bytes = |tensor: &crate::model::config::TensorSpec| {
        let count: usize = tensor.shape.iter().product();
        count as u64 * if tensor.name.contains("downstream_head") { 4 } else { width }
    };
    config.tensors().iter().map(bytes).sum()
}

/// Bytes that one run wants at most, weights included: of pictures of `size` (width and height), `batch` of them or of
/// pairs, on `device`. An estimate from the largest tensors that live at a time, made to be above the truth.
pub fn needed_bytes(config: &Config, size: [u32; 2], batch: usize, precision: Precision, device: &Device) -> u64 {
    let patch = config.encoder.patch as f64;
    let pixels = f64::from(size[0]) * f64::from(size[1]);
    let special = match config.encoder.kind {
        EncoderKind::Dune { registers, .. } => 1 + registers,
        EncoderKind::Croco => 0,
    };
    let tokens = pixels / (patch * patch);
    let batch = batch as f64;
    // Activations are float32 on the CPU whatever the precision.
    let width = if device.is_cpu() { 4.0 } else { precision.dtype().size_in_bytes() as f64 };
    let scores_in_memory = !device.is_cpu() && precision == Precision::F32;
    let block = |stack: &Stack, tokens: f64, sequences: f64| {
        // The tokens, their norm, q, k and v, and the MLP's hidden layer; on a GPU the latter before and after.
        let channels = (stack.dim * 5 + stack.mlp_dim * 2) as f64;
        let scores = if scores_in_memory { 3.0 * stack.heads as f64 * tokens * tokens } else { 0.0 };
        sequences * (tokens * channels + scores) * width
    };
    let views = if config.two_view.is_some() { 2.0 } else { 1.0 };
    let pictures = views * batch * pixels * 3.0 * (4.0 + width);
    let mut work = block(&config.encoder.stack, tokens + special as f64, views * batch);
    if let Some(two_view) = &config.two_view {
        let head = &two_view.head;
        let kept = 4.0 * 2.0 * batch * tokens * (config.encoder.stack.dim + 3 * two_view.decoder.dim) as f64;
        let decoder = kept + block(&two_view.decoder, tokens, batch) * 2.0;
        let taps = if device.is_cpu() { 0.0 } else { TAPS.min(9.0 * 4.0 * batch * pixels * head.head_channels as f64) };
        // The map before and after the last 3x3 convolution, descriptors before and after they are put in order, and
        // both views' results.
        let channels =
            (head.head_channels + head.last + 3 * head.descriptor_channels() + 2 * (head.descriptor + 5)) as f64;
        work = work.max(decoder).max(kept + 4.0 * batch * pixels * channels + taps);
    }
    let margin = MARGINS[usize::from(!device.is_cpu())];
    weight_bytes(config, precision) + PROGRAM + (margin * (pictures + work)) as u64
}

/// Refuses what will not fit in the memory that is free now.
///
/// # Errors
/// [`Error::Usage`] with both figures; errors of the device.
pub fn check_fits(config: &Config, size: [u32; 2], batch: usize, runtime: &Runtime) -> Result<()> {
    let needed = needed_bytes(config, size, batch, runtime.precision(), runtime.device());
    let free = available_bytes(runtime.device())?;
    if needed <= free {
        return Ok(());
    }
    let gib = |bytes: u64| bytes as f64 / (1_u64 << 30) as f64;
    Err(Error::Usage(format!(
        "{}x{}, batch {batch}, {}: about {:.1} GiB of memory are needed and {:.1} GiB are free on {}; choose a smaller \
         --batch or --res, or another --precision",
        size[0],
        size[1],
        runtime.precision(),
        gib(needed),
        gib(free),
        runtime.device_name()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::registry::Network;

    #[test]
    fn weights_take_what_their_parameters_say() {
        let config = &Network::find("mast3r-encoder").unwrap().config;
        let parameters: usize = config.tensors().iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum();
        assert_eq!(weight_bytes(config, Precision::F32), 4 * parameters as u64);
        assert_eq!(weight_bytes(config, Precision::Bf16), 2 * parameters as u64);
        let pair = &Network::find("mast3r").unwrap().config;
        let ratio = weight_bytes(pair, Precision::F32) as f64 / weight_bytes(pair, Precision::F16) as f64;
        assert!((1.6..2.0).contains(&ratio), "the heads stay float32: {ratio}");
    }

    #[test]
    fn estimates_grow_with_the_batch_and_an_absurd_one_is_refused() {
        let config = &Network::find("mast3r").unwrap().config;
        let needed = |batch| needed_bytes(config, [512, 384], batch, Precision::F32, &Device::Cpu);
        assert!(needed(4) > needed(1) + (256 << 20));
        let runtime = Runtime::new(crate::runtime::DeviceChoice::Cpu, Precision::F32).unwrap();
        let message = check_fits(config, [512, 384], 1 << 20, &runtime).unwrap_err().to_string();
        assert!(message.contains("smaller --batch"), "{message}");
    }
}
