//! Alignment of long walks through a large synthetic world, with time, memory and accuracy:
//! `cargo bench --bench large_scenes -- 250 500 1000`.
//!
//! A camera walks through rooms, corridors and open places on a grid and comes back to most of them
//! two or three times. Each frame is paired with the four that follow, and with up to three earlier ones
//! that look the same way from near by. Predictions are made when they are asked for, as noisy as
//! those of a small network: every decode in units of its own, depths off by 3 % on the whole of a
//! view and by as much again in each decode, focal lengths by 3 and 2 %, poses by 1.2 degrees and 2 % of
//! the depth, matches by 0.6 pixels and a tenth of them wrong; one loop of fifty joins frames that
//! have nothing in common. The processor time to make all this is told apart. The word `together` solves for
//! all views together, as up to 150 are by default, and `twins` gives
//! the world two rooms that look alike, and false loops between them.
//!
//! `cargo bench --bench large_scenes -- 1000 window=8` pairs each frame with the next eight.
//!
//! `cargo bench --bench large_scenes -- 1000 size=336x252 cloud=FILE.ply` writes the cloud of black
//! images of another size too, as `mast3r align` does, for the memory that it takes.
//!
//! `cargo bench --bench large_scenes -- 2000 frames=FOLDER` writes images of such a walk, with streets
//! too, and their true cameras, for the program itself to reconstruct.

// A panic is how a measurement fails.
#![allow(clippy::unwrap_used)]

mod paint;
mod predictions;
mod render;
mod world;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use image::RgbImage;
use mast3r::Result;
use mast3r::alignment::{
    AlignOptions, Alignment, EvidenceStore, Pair, PairEvidence, PairReport, Verdict, ViewShape,
    align, align_from, align_stored,
};
use mast3r::export;
use mast3r::geometry::Camera;
use mast3r::geometry::procrustes::{Correspondence, similarity};
use mast3r::pipeline::unwatched;
use mast3r::views::{Crop, View};
use nalgebra::Point3;
use predictions::{WINDOW, Walk};

const SIZE: [u32; 2] = [128, 96];

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let says = |word: &str| words.iter().any(|said| said == word);
    let counts = words.iter().filter_map(|word| word.parse().ok());
    let given = |name: &str| words.iter().find_map(|word| word.strip_prefix(name));
    let folder = given("frames=");
    let cloud = given("cloud=");
    let size = given("size=").map_or(SIZE, |size| {
        let (width, height) = size.split_once('x').expect("a size is WIDTHxHEIGHT");
        [width, height].map(|side| side.parse().unwrap())
    });
    let window = given("window=").map_or(WINDOW, |window| window.parse().unwrap());
    println!("{} threads", rayon::current_num_threads());
    for frames in counts {
        if let Some(folder) = folder {
            render::render(frames, Path::new(folder));
            continue;
        }
        let walk = Walk::new(frames, size, window, says("twins"));
        let store = Timed {
            walk: &walk,
            making: AtomicU64::new(0),
        };
        let started = (Instant::now(), process_seconds());
        let views = || -> Vec<View> {
            let [width, height] = size;
            let crop = Crop::whole(width, height);
            let view = |index| View::new(name(index), RgbImage::new(width, height), crop);
            (0..frames).map(view).collect()
        };
        let report_scene = |aligned: &Alignment| {
            let cameras: Vec<Option<Camera>> =
                aligned.scene.views.iter().map(|view| view.camera).collect();
            report(&store, &cameras, &aligned.pairs, started);
        };
        if says("together") {
            let options = AlignOptions {
                most_together: Some(usize::MAX),
                ..AlignOptions::default()
            };
            let evidence = (0..walk.pairs.len()).map(|index| store.read(index));
            report_scene(&align(&views(), evidence, &options).unwrap());
        } else if let Some(cloud) = cloud {
            let options = AlignOptions {
                without_matches: true,
                ..AlignOptions::default()
            };
            let aligned = align_from(&views(), &store, &options, &unwatched).unwrap();
            export::write(&aligned.scene, cloud, &Default::default()).unwrap();
            report_scene(&aligned);
        } else {
            let shapes: Vec<ViewShape> = (0..frames).map(|index| walk.shape(name(index))).collect();
            let aligned =
                align_stored(&shapes, &store, &AlignOptions::default(), &unwatched).unwrap();
            report(&store, &aligned.cameras, &aligned.pairs, started);
        }
    }
}

fn name(index: usize) -> String {
    format!("{index:05}.png")
}

/// A walk that counts the processor time that its predictions take, in microseconds.
struct Timed<'a> {
    walk: &'a Walk,
    making: AtomicU64,
}

impl EvidenceStore for Timed<'_> {
    fn pairs(&self) -> &[Pair] {
        &self.walk.pairs
    }

    fn read(&self, index: usize) -> Result<PairEvidence> {
        let start = thread_seconds();
        let evidence = self.walk.evidence(self.walk.pairs[index]);
        let spent = ((thread_seconds() - start) * 1e6) as u64;
        self.making.fetch_add(spent, Ordering::Relaxed);
        Ok(evidence)
    }
}

fn report(
    Timed { walk, making }: &Timed<'_>,
    cameras: &[Option<Camera>],
    pairs: &[PairReport],
    (start, start_cpu): (Instant, f64),
) {
    let seconds = start.elapsed().as_secs_f64();
    let making = making.load(Ordering::Relaxed) as f64 / 1e6;
    let cpu = process_seconds() - start_cpu - making;
    let used = |pair: &&PairReport| pair.verdict == Verdict::Used;
    println!(
        "{} views, {} pairs, {} used: {seconds:.1} s; {cpu:.1} s of processor time, and {making:.1} for the predictions; peak {:.2} GB",
        cameras.len(),
        pairs.len(),
        pairs.iter().filter(used).count(),
        peak_gigabytes()
    );
    let is_false = |pair: &&PairReport| {
        walk.false_pairs
            .contains(&(pair.pair.first, pair.pair.second))
    };
    let is_right = |pair: &&PairReport| !is_false(pair) && !walk.is_made_up(pair.pair);
    println!(
        "  {} false loops, {} of them used; {} pairs of {} that are right not used",
        walk.false_pairs.len(),
        pairs.iter().filter(is_false).filter(used).count(),
        pairs
            .iter()
            .filter(is_right)
            .filter(|pair| !used(pair))
            .count(),
        pairs.iter().filter(is_right).count(),
    );
    println!("  {}", errors(walk, cameras));
}

/// Mean and largest errors after a similarity.
fn errors(walk: &Walk, cameras: &[Option<Camera>]) -> String {
    let placed: Vec<(&Camera, &Camera)> = cameras
        .iter()
        .zip(&walk.cameras)
        .filter_map(|(found, truth)| Some((found.as_ref()?, truth)))
        .collect();
    let centre = |camera: &Camera| Point3::from(camera.world_from_camera.translation.vector);
    let centres: Vec<Correspondence> = placed
        .iter()
        .map(|(found, truth)| Correspondence {
            from: centre(found),
            to: centre(truth),
            weight: 1.0,
        })
        .collect();
    let fit = similarity(&centres).expect("the cameras do not stand in a line");
    let mut low = [f64::INFINITY; 3];
    let mut high = [f64::NEG_INFINITY; 3];
    for camera in &walk.cameras {
        for axis in 0..3 {
            low[axis] = low[axis].min(centre(camera)[axis]);
            high[axis] = high[axis].max(centre(camera)[axis]);
        }
    }
    let extent = (0..3)
        .map(|axis| (high[axis] - low[axis]).powi(2))
        .sum::<f64>()
        .sqrt();
    let shifts: Vec<f64> = centres
        .iter()
        .map(|pair| 100.0 * (fit * pair.from - pair.to).norm() / extent)
        .collect();
    let turns: Vec<f64> = placed
        .iter()
        .map(|(found, truth)| {
            (fit.isometry.rotation * found.world_from_camera.rotation)
                .angle_to(&truth.world_from_camera.rotation)
                .to_degrees()
        })
        .collect();
    let focals: Vec<f64> = placed
        .iter()
        .map(|(found, truth)| 100.0 * (found.intrinsics.fx / truth.intrinsics.fx - 1.0).abs())
        .collect();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    format!(
        "{} placed; position {:.3} %, at most {:.3} % of {extent:.0} m; rotation {:.3}, at most {:.3} degrees; focal length {:.2} %",
        placed.len(),
        mean(&shifts),
        most(&shifts),
        mean(&turns),
        most(&turns),
        mean(&focals)
    )
}

/// Of all threads, and of this one; 0 where that is not told.
fn process_seconds() -> f64 {
    ticks("/proc/self/stat")
}

fn thread_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace()
        .next()
        .and_then(|first| first.parse::<f64>().ok())
        .map_or(0.0, |ns| ns / 1e9)
}

fn ticks(file: &str) -> f64 {
    let stat = std::fs::read_to_string(file).unwrap_or_default();
    let fields = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().skip(11).take(2));
    fields.map_or(0.0, |fields| {
        fields
            .filter_map(|field| field.parse::<f64>().ok())
            .sum::<f64>()
            / 100.0
    })
}

fn peak_gigabytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next())
        .and_then(|kilobytes| kilobytes.parse::<f64>().ok())
        .map_or(0.0, |kilobytes| kilobytes / 1e6)
}
