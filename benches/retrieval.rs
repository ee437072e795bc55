//! Image retrieval among many images: `cargo bench --bench retrieval [-- IMAGES LENGTH]`.
//!
//! Vectors are random around one centre for every ten images, as the places of a walk that looks at
//! each of them ten times.

use std::time::Instant;

use mast3r::pairs::{Ends, PairGraph, Similarity, spatial_pairs};
use mast3r::views::GpsPosition;

fn main() {
    let numbers: Vec<usize> = std::env::args()
        .filter_map(|text| text.parse().ok())
        .collect();
    let images = numbers.first().copied().unwrap_or(10_000);
    let length = numbers.get(1).copied().unwrap_or(768);
    let threads = rayon::current_num_threads();
    println!("{images} images of {length} numbers, {threads} threads");
    let mut state = 1u64;
    let mut number = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let centres: Vec<Vec<f32>> = (0..images.div_ceil(10))
        .map(|_| (0..length).map(|_| number()).collect())
        .collect();
    let vectors: Vec<Vec<f32>> = (0..images)
        .map(|image| {
            let centre = &centres[image * 7 % centres.len()];
            centre.iter().map(|value| value + 0.5 * number()).collect()
        })
        .collect();
    let started = Instant::now();
    let similarity = Similarity::of(&vectors).expect("finite vectors");
    println!("directions: {:.2} s", started.elapsed().as_secs_f64());
    for graph in [
        PairGraph::Retrieval {
            anchors: 20,
            neighbours: 10,
        },
        PairGraph::Loop {
            reach: 5,
            closures: 4,
        },
        PairGraph::Window {
            reach: 5,
            ends: Ends::Open,
        },
    ] {
        let started = Instant::now();
        let pairs = graph
            .pairs(images, Some(&similarity))
            .expect("a graph with pairs");
        println!(
            "{graph}: {} pairs, {:.2} s",
            pairs.len(),
            started.elapsed().as_secs_f64()
        );
    }
    // A walk that crosses itself, a metre a step.
    let positions: Vec<Option<GpsPosition>> = (0..images)
        .map(|image| {
            let angle = image as f64 / 200.0;
            Some(GpsPosition {
                latitude: 48.0 + 2e-3 * angle.sin(),
                longitude: 11.0 + 2e-3 * (1.3 * angle).cos(),
                altitude: None,
            })
        })
        .collect();
    let started = Instant::now();
    let pairs = spatial_pairs(&positions, 8);
    println!(
        "nearest 8: {} pairs, {:.2} s",
        pairs.len(),
        started.elapsed().as_secs_f64()
    );
}
