//! How much memory a network will want, before anything is loaded.

use candle_core::Device;

use crate::machine::available_bytes;
use mast3r::model::config::{Config, Stack};
use mast3r::runtime::{Precision, Runtime};
use mast3r::{Error, Result};

/// What allocators and short-lived copies add to the tensors counted: more on the CPU, whose
/// threads have buffers of their own. With these the estimate was 1.0 to 1.5 times the peak of
/// every two-view row in `docs/BENCHMARKS.md`.
const MARGINS: [f64; 2] = [1.5, 1.1];
/// The program itself, in bytes.
const PROGRAM: u64 = 64 << 20;

/// What the names of tensors contain that are float32 in every precision.
const HEADS: [&str; 5] = [
    "downstream_head",
    "head.projects",
    "head.resize_layers",
    "head.scratch",
    "cam_",
];

/// Bytes that the weights of `config` take at most as they are held: heads float32, the rest in
/// `precision`, but for int8 what is not a matrix.
pub fn weight_bytes(config: &Config, precision: Precision) -> u64 {
    let width = precision.dtype().size_in_bytes() as u64;
    let bytes = |tensor: &mast3r::model::config::TensorSpec| {
        let count: usize = tensor.shape.iter().product();
        let width = match (precision, &tensor.shape[..]) {
            (Precision::Int8, [_, _]) => 1,
            _ => width,
        };
        count as u64
            * if HEADS.iter().any(|head| tensor.name.contains(head)) {
                4
            } else {
                width
            }
    };
    config.tensors().iter().map(bytes).sum()
}

/// Bytes that one run wants at most, weights included: of images of `size` (width and height),
/// `batch` of them or of pairs, on `device`. An estimate from the largest tensors that live at a
/// time, made to be above the truth.
pub fn needed_bytes(
    config: &Config,
    size: [u32; 2],
    batch: usize,
    precision: Precision,
    device: &Device,
) -> u64 {
    let patch = config.encoder.patch as f64;
    let pixels = f64::from(size[0]) * f64::from(size[1]);
    let special = config.encoder.special_tokens();
    let tokens = pixels / (patch * patch);
    let batch = batch as f64;
    // Activations are float32 on the CPU whatever the precision.
    let width = if device.is_cpu() {
        4.0
    } else {
        precision.dtype().size_in_bytes() as f64
    };
    let scores_in_memory = !device.is_cpu() && precision == Precision::F32;
    let block = |stack: &Stack, tokens: f64, sequences: f64| {
        // The tokens, their norm, q, k and v, and the MLP's hidden layer; on a GPU the latter
        // before and after.
        let channels = (stack.dim * 5 + stack.mlp_dim * 2) as f64;
        let scores = if scores_in_memory {
            3.0 * stack.heads as f64 * tokens * tokens
        } else {
            0.0
        };
        sequences * (tokens * channels + scores) * width
    };
    let views = config.predicts().least_views() as f64;
    let images = views * batch * pixels * 3.0 * (4.0 + width);
    let mut work = block(
        &config.encoder.stack,
        tokens + special as f64,
        views * batch,
    );
    if let Some(any_view) = config.any_view() {
        // Of all views four levels of both halves; of one view on a CPU, of eight on a GPU, two maps
        // of the fusion at the finest level and two at the image's size.
        let kept = 4.0 * 2.0 * batch * tokens * config.encoder.stack.dim as f64 * width;
        let at_once = if device.is_cpu() { 1.0 } else { batch.min(8.0) };
        let finest = 64.0 / (patch * patch) * 3.0 + 2.0 * 0.5;
        let maps = at_once * pixels * any_view.features as f64 * finest * 4.0;
        work = kept + work.max(maps) + batch * pixels * 4.0 * 2.0;
    }
    if let Some(two_view) = &config.two_view {
        let head = &two_view.head;
        let kept = 4.0
            * 2.0
            * batch
            * tokens
            * (config.encoder.stack.dim + 3 * two_view.decoder.dim) as f64;
        let decoder = kept + block(&two_view.decoder, tokens, batch) * 2.0;
        let taps = if device.is_cpu() {
            0.0
        } else {
            (custom_ops::most_taps(device) as f64)
                .min(9.0 * 4.0 * batch * pixels * head.head_channels as f64)
        };
        // The map before and after the last 3x3 convolution, descriptors before and after they are
        // put in order, and both views' results.
        let channels = (head.head_channels
            + head.last
            + 3 * head.descriptor_channels()
            + 2 * (head.descriptor + 5)) as f64;
        work = work
            .max(decoder)
            .max(kept + 4.0 * batch * pixels * channels + taps);
    }
    let margin = MARGINS[usize::from(!device.is_cpu())];
    weight_bytes(config, precision) + PROGRAM + (margin * (images + work)) as u64
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
         batch or size, or another precision",
        size[0],
        size[1],
        runtime.precision(),
        gib(needed),
        gib(free),
        runtime.device_name()
    )))
}

/// What to do when a GPU's memory does not suffice, from what was free before anything was loaded.
#[derive(Clone, Debug)]
pub struct MemoryAdvice {
    config: Config,
    runtime: Runtime,
    /// `None` on the CPU, whose allocator does not report that memory is short.
    free: Option<u64>,
}

impl MemoryAdvice {
    /// For a network that is not loaded yet.
    ///
    /// # Errors
    /// Of the GPU's driver.
    pub fn new(config: &Config, runtime: &Runtime) -> Result<Self> {
        let free = if runtime.device().is_cpu() {
            None
        } else {
            Some(available_bytes(runtime.device())?)
        };
        Ok(Self {
            config: config.clone(),
            runtime: runtime.clone(),
            free,
        })
    }

    /// The same error; if the device's memory did not suffice, with the size of images that should
    /// fit. Those that did not are of `size`, width and height, at most.
    pub fn explain(&self, error: Error, size: [u32; 2]) -> Error {
        let Some(free) = self.free.filter(|_| error.is_out_of_memory()) else {
            return error;
        };
        let (device, work) = match error {
            Error::OutOfMemory { device, work, .. } => (device, work),
            _ => (
                self.runtime.device_name(),
                format!("images of {}x{} pixels", size[0], size[1]),
            ),
        };
        Error::OutOfMemory {
            device,
            work,
            advice: self.advice(free, size),
        }
    }

    fn advice(&self, free: u64, size: [u32; 2]) -> String {
        let precision = self.runtime.precision();
        let needed = |size| needed_bytes(&self.config, size, 1, precision, self.runtime.device());
        let free_text = format!("{:.1} GiB were free", free as f64 / (1_u64 << 30) as f64);
        match fitting_size(size, self.config.encoder.patch as u32, |size| {
            needed(size) <= free
        }) {
            Some([width, height]) => {
                let longest = width.max(height);
                format!(
                    "{free_text}, which should be enough for {width}x{height}: use size {longest}, or precision f16"
                )
            }
            None => format!(
                "{free_text}, which is not enough for images of any size; use a smaller network or the device cpu"
            ),
        }
    }
}

/// The largest size below `size`, of its proportions in whole patches, that fits.
fn fitting_size(size: [u32; 2], patch: u32, fits: impl Fn([u32; 2]) -> bool) -> Option<[u32; 2]> {
    let longest = size[0].max(size[1]);
    let scaled = |longest_scaled: u32| {
        size.map(|side| {
            let patches = f64::from(side) * f64::from(longest_scaled)
                / (f64::from(longest) * f64::from(patch));
            (patches.round() as u32).max(1) * patch
        })
    };
    (1..longest.div_ceil(patch))
        .rev()
        .map(|patches| scaled(patches * patch))
        .find(|&size| fits(size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mast3r::model::registry::Network;

    #[test]
    fn weights_take_what_their_parameters_say() {
        let config = &Network::find("mast3r-encoder").unwrap().config;
        let parameters: usize = config
            .tensors()
            .iter()
            .map(|tensor| tensor.shape.iter().product::<usize>())
            .sum();
        assert_eq!(weight_bytes(config, Precision::F32), 4 * parameters as u64);
        assert_eq!(weight_bytes(config, Precision::Bf16), 2 * parameters as u64);
        let pair = &Network::find("mast3r").unwrap().config;
        let ratio =
            weight_bytes(pair, Precision::F32) as f64 / weight_bytes(pair, Precision::F16) as f64;
        assert!(
            (1.6..2.0).contains(&ratio),
            "the heads stay float32: {ratio}"
        );
    }

    #[test]
    fn the_largest_size_that_fits_is_named() {
        let area = |most: u32| move |[width, height]: [u32; 2]| width * height <= most;
        assert_eq!(
            fitting_size([512, 384], 16, area(512 * 384)),
            Some([496, 368])
        );
        assert_eq!(
            fitting_size([384, 512], 16, area(256 * 192)),
            Some([192, 256])
        );
        assert_eq!(fitting_size([512, 384], 16, area(0)), None);

        let config = &Network::find("mast3r").unwrap().config;
        let runtime = Runtime::new(mast3r::runtime::DeviceChoice::Cpu, Precision::F32).unwrap();
        let short = || Error::out_of_memory("cuda:0".into(), "decoding".into());
        let advice = |free| MemoryAdvice {
            config: config.clone(),
            runtime: runtime.clone(),
            free,
        };
        // The weights take 2.6 GB.
        let some = advice(Some(3 << 30))
            .explain(short(), [512, 384])
            .to_string();
        assert!(
            some.contains("3.0 GiB were free, which should be enough for "),
            "{some}"
        );
        let none = advice(Some(1 << 30))
            .explain(short(), [512, 384])
            .to_string();
        assert!(none.contains("not enough for images of any size"), "{none}");
        let other = advice(Some(1 << 30))
            .explain(Error::Usage("no".into()), [512, 384])
            .to_string();
        assert_eq!(other, "no");
    }

    #[test]
    fn estimates_grow_with_the_batch_and_an_absurd_one_is_refused() {
        let config = &Network::find("mast3r").unwrap().config;
        let needed = |batch| needed_bytes(config, [512, 384], batch, Precision::F32, &Device::Cpu);
        assert!(needed(4) > needed(1) + (256 << 20));
        let runtime = Runtime::new(mast3r::runtime::DeviceChoice::Cpu, Precision::F32).unwrap();
        let message = check_fits(config, [512, 384], 1 << 20, &runtime)
            .unwrap_err()
            .to_string();
        assert!(message.contains("smaller batch"), "{message}");
    }
}
