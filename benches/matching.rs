//! Reciprocal matching of two full-size descriptor maps: `cargo bench --bench matching`.
//!
//! Each case is checked against a walk over complete tables of nearest neighbours, which also
//! counts what a plain search would have to compute (2 operations per channel and pair of pixels,
//! each pixel looked up once).

use std::collections::HashSet;
use std::time::Instant;

use mast3r::matching::{DescriptorMap, MatchOptions, nearest_neighbors, reciprocal_matches};

const WIDTH: usize = 512;
const HEIGHT: usize = 384;
const CHANNELS: usize = 24;
const RUNS: usize = 7;

fn main() {
    let threads = rayon::current_num_threads();
    println!(
        "reciprocal matching of 2 maps of {WIDTH}x{HEIGHT}x{CHANNELS}, subsample 8, 10 rounds, {threads} threads"
    );
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    for (name, make) in [
        (
            "smooth waves, noise 4 %",
            (|second| waves(second, 0.04)) as fn(bool) -> Vec<f32>,
        ),
        ("smooth waves, noise 10 %", |second| waves(second, 0.1)),
        ("half the image flat", flat),
        ("random unit vectors", random),
        ("nearly constant", nearly_constant),
    ] {
        if wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str())) {
            case(name, &make(false), &make(true));
        }
    }
}

fn case(name: &str, first: &[f32], second: &[f32]) {
    let confidence = vec![1.0; WIDTH * HEIGHT];
    let map = |descriptors| DescriptorMap {
        width: WIDTH,
        height: HEIGHT,
        channels: CHANNELS,
        descriptors,
        confidence: &confidence,
    };
    let (first, second) = (map(first), map(second));
    let options = MatchOptions::default();
    let mut secs = Vec::new();
    let cpu_start = cpu_secs();
    let mut matches = Vec::new();
    for _ in 0..RUNS {
        let start = Instant::now();
        matches = reciprocal_matches(&first, &second, &options).expect("maps are valid");
        secs.push(start.elapsed().as_secs_f64());
    }
    secs.sort_by(f64::total_cmp);
    print!(
        "{name:26} best {:.3} s, median {:.3} s, {:5} matches",
        secs[0],
        secs[RUNS / 2],
        matches.len()
    );
    if let (Some(start), Some(end)) = (cpu_start, cpu_secs()) {
        print!(", {:.3} s of processor time", (end - start) / RUNS as f64);
    }

    if std::env::var_os("QUICK").is_some() {
        println!();
        return;
    }
    let start = Instant::now();
    let to_second = nearest_neighbors(&first, &second).expect("maps are valid");
    let to_first = nearest_neighbors(&second, &first).expect("maps are valid");
    let table_secs = start.elapsed().as_secs_f64();
    let mut asked = [HashSet::new(), HashSet::new()];
    let mut pairs = HashSet::new();
    for (tables, swap) in [
        ([&to_second, &to_first], false),
        ([&to_first, &to_second], true),
    ] {
        for y in (4..HEIGHT).step_by(8) {
            for x in (4..WIDTH).step_by(8) {
                let mut here = (y * WIDTH + x) as u32;
                let mut there = None;
                for _ in 0..options.rounds {
                    asked[usize::from(swap)].insert(here);
                    let partner = tables[0][here as usize];
                    let settled = there == Some(partner);
                    there = Some(partner);
                    asked[usize::from(!swap)].insert(partner);
                    let back = tables[1][partner as usize];
                    if settled || back == here {
                        pairs.insert(if swap {
                            (partner, here)
                        } else {
                            (here, partner)
                        });
                        break;
                    }
                    here = back;
                }
            }
        }
    }
    let index = |x: u32, y: u32| y * WIDTH as u32 + x;
    let found: HashSet<_> = matches
        .iter()
        .map(|m| (index(m.first.x, m.first.y), index(m.second.x, m.second.y)))
        .collect();
    assert_eq!(
        found, pairs,
        "{name}: the search and the complete tables disagree"
    );
    let searches = asked[0].len() + asked[1].len();
    let flop = |searches: usize| (searches * WIDTH * HEIGHT * CHANNELS * 2) as f64 * 1e-9;
    println!(
        ", {searches:5} searches; plain search {:4.0} GFLOP, {:5.0} GFLOP/s in effect; both full tables {:.1} s, {:.0} GFLOP/s",
        flop(searches),
        flop(searches) / secs[0],
        table_secs,
        flop(2 * WIDTH * HEIGHT) / table_secs,
    );
}

/// Processor time of this process so far, where the system tells (in hundredths of seconds).
fn cpu_secs() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / 100.0)
}

/// Cosine waves over the image plane, as a trained network's descriptors vary; the second image
/// is shifted and slightly enlarged. Three pixels of a hundred are meaningless.
fn waves(second: bool, noise: f64) -> Vec<f32> {
    let mut shared = Random(7);
    let waves: Vec<[f64; 3]> = (0..CHANNELS)
        .map(|_| {
            let angle = shared.uniform() * std::f64::consts::TAU;
            let per_pixel = std::f64::consts::TAU / (20.0 * 15f64.powf(shared.uniform()));
            [
                angle.cos() * per_pixel,
                angle.sin() * per_pixel,
                shared.uniform() * std::f64::consts::TAU,
            ]
        })
        .collect();
    let mut random = Random(if second { 2 } else { 1 });
    let mut all = Vec::with_capacity(WIDTH * HEIGHT * CHANNELS);
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            let (x, y) = if second {
                (x as f64 * 0.93 + 41.3, y as f64 * 0.93 + 17.7)
            } else {
                (x as f64, y as f64)
            };
            let lost = random.uniform() < 0.03;
            all.extend(unit(waves.iter().map(|[kx, ky, phase]| {
                if lost {
                    random.normal()
                } else {
                    (kx * x + ky * y + phase).cos() + noise * random.normal()
                }
            })));
        }
    }
    all
}

/// As [`waves`], but the upper half shows one surface without texture.
fn flat(second: bool) -> Vec<f32> {
    let mut all = waves(second, 0.04);
    let mut random = Random(if second { 4 } else { 3 });
    let half = all.len() / 2;
    for descriptor in all[..half].chunks_exact_mut(CHANNELS) {
        let values: Vec<f32> = unit(
            (0..CHANNELS)
                .map(|channel| if channel % 2 == 0 { 1.0 } else { -0.5 } + 0.02 * random.normal()),
        )
        .collect();
        descriptor.copy_from_slice(&values);
    }
    all
}

/// No structure at all: the worst case for every bound.
fn random(second: bool) -> Vec<f32> {
    let mut random = Random(if second { 6 } else { 5 });
    (0..WIDTH * HEIGHT)
        .flat_map(|_| {
            unit(
                (0..CHANNELS)
                    .map(|_| random.normal())
                    .collect::<Vec<_>>()
                    .into_iter(),
            )
        })
        .collect()
}

/// What a network with random weights puts out.
fn nearly_constant(second: bool) -> Vec<f32> {
    let mut random = Random(if second { 9 } else { 8 });
    (0..WIDTH * HEIGHT)
        .flat_map(|_| {
            unit(
                (0..CHANNELS)
                    .map(|_| 1.0 + 1e-4 * random.normal())
                    .collect::<Vec<_>>()
                    .into_iter(),
            )
        })
        .collect()
}

fn unit(values: impl Iterator<Item = f64>) -> impl Iterator<Item = f32> {
    let values: Vec<f64> = values.collect();
    let length = values.iter().map(|value| value * value).sum::<f64>().sqrt();
    values.into_iter().map(move |value| (value / length) as f32)
}

struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 * 2f64.powi(-53)
    }

    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (self.uniform() * std::f64::consts::TAU).cos()
    }
}
