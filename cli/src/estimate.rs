//! `--estimate`: what a reconstruction will take, before anything is computed.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mast3r::Error;
use mast3r::model::Mast3r;
use mast3r::model::config::Predicts;
use mast3r::network::{ChosenModel, Model};
use mast3r::pipeline::{Needs, PairChoice, RepeatedPairs};
use mast3r::runtime::Runtime;
use mast3r::views::{self, Limits};
use mast3r_measure::peak_resident_bytes;
use serde_json::json;

use crate::encode::counted;
use crate::progress::{bytes_text, rounded};
use crate::{GlobalArgs, outputs};

/// How long pairs are decoded to measure their time, at least.
const MEASURED: Duration = Duration::from_secs(2);
/// Pairs that are decoded at most.
const MOST_MEASURED: usize = 256;
/// Processor time of the alignment for a pair, a stored figure: `cargo bench --bench alignment`, 1212
/// pairs of 224x168 in 30 s, Intel Xeon with AVX-512.
const ALIGN_SECONDS: f64 = 0.025;

/// Prints what the pairs `choice` of `images` take on `runtimes`; `memory` is that for features.
pub fn print(
    images: &[PathBuf],
    choice: &PairChoice,
    chosen: &ChosenModel,
    runtimes: &[Runtime],
    memory: u64,
    is_json: bool,
    global: &GlobalArgs,
) -> anyhow::Result<()> {
    if chosen.predicts() != Predicts::Pairs {
        let reason = "estimates are for networks of image pairs, such as mast3r";
        return Err(Error::Usage(format!("{}: {reason}", chosen.name)).into());
    }
    let limits = Limits::default();
    let sized = images.iter().filter_map(|path| {
        let crop = views::framed_size(path, &chosen.framing, &limits);
        crop.map_err(|error| global.say(format_args!("  left out: {error}")))
            .ok()
            .map(|crop| (path, [crop.width, crop.height]))
    });
    let sized: Vec<_> = sized.collect();
    let sizes: Vec<[u32; 2]> = sized.iter().map(|(_, size)| *size).collect();
    let needs = Needs::of(&sizes, choice, chosen.checkpoint.config(), memory)?;
    let [first, second, ..] = &sized[..] else {
        return Err(Error::Usage("two images or more can be estimated".into()).into());
    };
    let (encode, pair) = measured([first.0, second.0], chosen, runtimes)?;
    let program = peak_resident_bytes().unwrap_or(0);
    let memory = program + needs.memory_bytes;
    let cores = rayon::current_num_threads() as f64;
    let seconds = needs.pairs.map(|pairs| {
        let pairs = pairs as f64;
        needs.images as f64 * encode + pairs * (pair + ALIGN_SECONDS / cores)
    });
    let time = seconds.map(|seconds| rounded(Duration::from_secs_f64(seconds)));
    global.say(format_args!(
        "{}, {} pairs with {}",
        counted(needs.images),
        range(needs.pairs.map(|pairs| pairs.to_string())),
        chosen.name
    ));
    global.say(format_args!(
        "  disk: {} with --work: {} for pixels and features, {} a pair",
        range(needs.disk_bytes.map(bytes_text)),
        bytes_text(needs.image_bytes),
        bytes_text(needs.pair_bytes)
    ));
    global.say(format_args!(
        "  memory: about {}, measured for the network and computed for the images",
        bytes_text(memory)
    ));
    global.say(format_args!(
        "  time: {} on {}: measured now {:.3} s an image and {:.3} s a pair, and a stored figure for the \
         alignment, {:.0} s; reading images, refinement and writing are not counted",
        range(time),
        runtimes[0].device_name(),
        encode,
        pair,
        needs.pairs[1] as f64 * ALIGN_SECONDS / cores
    ));
    if is_json {
        outputs::print_json(&json!({
            "images": needs.images,
            "pairs": needs.pairs,
            "disk_bytes": needs.disk_bytes,
            "memory_bytes": memory,
            "seconds": seconds,
            "measured": { "encode_image": encode, "pair": pair, "device": runtimes[0].device_name() },
            "stored": { "align_pair_core": ALIGN_SECONDS },
        }))?;
    }
    Ok(())
}

/// `3`, or `3 to 5`.
fn range([least, most]: [String; 2]) -> String {
    if least == most {
        least
    } else {
        format!("{least} to {most}")
    }
}

/// Seconds for an image and for a pair, of devices that share the work, from two images.
fn measured(
    paths: [&PathBuf; 2],
    chosen: &ChosenModel,
    runtimes: &[Runtime],
) -> anyhow::Result<(f64, f64)> {
    let loaded = chosen.load_each(runtimes)?;
    let views = views::load(&paths, &chosen.framing, &Limits::default())?;
    let [first, second] = <[_; 2]>::try_from(views)
        .map_err(|_| Error::Internal("two images became another number of views".into()))?;
    let views = [first, second];
    let mut encode = f64::INFINITY;
    // The first time warms up.
    for _ in 0..3 {
        let started = Instant::now();
        loaded[0].features(&views)?;
        runtimes[0].synchronize()?;
        encode = encode.min(started.elapsed().as_secs_f64() / 2.0);
    }
    let models: Vec<Mast3r> = loaded
        .iter()
        .map(|model: &Model| model.pairwise().cloned())
        .collect::<Result<_, _>>()?;
    let mut count = models.len();
    RepeatedPairs::new(&models, &views, count)?.run(&models)?;
    loop {
        let pairs = RepeatedPairs::new(&models, &views, count)?;
        let started = Instant::now();
        pairs.run(&models)?;
        let elapsed = started.elapsed();
        if elapsed >= MEASURED || count >= MOST_MEASURED {
            let encode = encode / models.len() as f64;
            return Ok((encode, elapsed.as_secs_f64() / count as f64));
        }
        let wanted = MEASURED.as_secs_f64() / elapsed.as_secs_f64().max(1e-3);
        count = ((count as f64 * wanted * 1.2) as usize + 1).min(MOST_MEASURED);
    }
}
