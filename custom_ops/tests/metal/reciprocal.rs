//! The kernels of reciprocal.metal without a Mac: run launch by launch as the host gives them to the
//! device, and compared with a search that tries every pixel.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use std::collections::HashMap;

use super::Settled;
use super::cuda_kernels::{Case, words};
use super::shader::{SHADER, Search};
use crate::launch::shader::Use;
use crate::metal_shaders::LIMITS;
use crate::metal_shaders::emulator::{Emulator, Memory, Requests};

/// Memory that no kernel wrote yet.
const UNWRITTEN: u8 = 0xff;

fn bytes(words: impl IntoIterator<Item = u32>) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_ne_bytes).collect()
}

fn search(case: &Case) -> Search {
    let pixels = case.sizes.map(|[height, width]| height * width);
    let seeds = case.seeds.each_ref().map(Vec::as_slice);
    Search::new(
        pixels,
        case.channels,
        case.decodes.len(),
        seeds,
        case.rounds,
    )
    .unwrap()
}

/// What `reciprocal_walks` does on a device.
fn walk(emulator: &Emulator, case: &Case) -> Vec<Settled> {
    let search = search(case);
    let mut memory: HashMap<&str, Vec<u8>> = search
        .buffers
        .iter()
        .map(|buffer| {
            let begin = if buffer.zeroed { 0 } else { UNWRITTEN };
            (buffer.name, vec![begin; 4 * buffer.words])
        })
        .collect();
    for (index, plan) in search.launches.iter().enumerate() {
        let map = plan.params.map as usize;
        let of_map = |name: &str| match name {
            "descriptors" => bytes(case.decodes[map / 2][map % 2].iter().map(|x| x.to_bits())),
            "confidence" => {
                let confidences = case.confidences(map / 2, map % 2);
                bytes(confidences.iter().map(|x| x.to_bits()))
            }
            _ => bytes(search.starts.iter().copied()),
        };
        let mut requests = Requests::default();
        let limit = LIMITS[index % LIMITS.len()];
        requests.launch(&SHADER, plan, limit, |argument| match argument.used {
            Use::Changed => Memory::Changed(memory[argument.name].clone(), 0),
            _ => Memory::Read(of_map(argument.name), 0),
        });
        let changed = SHADER
            .arguments
            .iter()
            .filter(|argument| argument.used == Use::Changed);
        for (argument, bytes) in changed.zip(emulator.run(&requests)) {
            memory.insert(argument.name, bytes);
        }
    }
    search.results(&words(&memory["statistics"]), &words(&memory["walkers"]))
}

/// One test, for the compiler takes longer than the kernels.
#[test]
fn the_shader_searches_as_the_definition_says() {
    let emulator = Emulator::new(SHADER.op, SHADER.source);
    // One slice and several; two decodes; fewer channels than the kernels have; one pixel.
    for (sizes, channels, decodes, spread) in [
        ([[40, 48], [33, 29]], 24, 2, [0., 0.3]),
        ([[21, 35], [92, 94]], 24, 1, [0.5, 0.2]),
        ([[9, 17], [16, 40]], 5, 2, [0., 0.1]),
        ([[1, 1], [3, 2]], 24, 1, [0., 0.1]),
    ] {
        let case = Case::new(sizes, channels, decodes, spread);
        let want = case.want();
        let found = |decode: &Settled| decode.seeds.iter().any(|seeds| !seeds.is_empty());
        assert!(want.iter().any(found), "{sizes:?}");
        assert_eq!(walk(&emulator, &case), want, "{sizes:?}, {channels}");
    }
    the_earliest_of_equal_neighbours_is_taken(&emulator);
    what_is_not_usable_is_counted(&emulator);
}

fn the_earliest_of_equal_neighbours_is_taken(emulator: &Emulator) {
    // Of two slices.
    let mut case = Case::new([[24, 40], [110, 40]], 6, 1, [0., 0.05]);
    let last = 4300 * 6;
    for pixel in 0..40 {
        let from = last + pixel * 6;
        case.decodes[0][1].copy_within(from..from + 6, pixel * 6);
    }
    case.seeds = [(0..960).collect(), (4300..4330).rev().collect()];
    let want = case.want();
    assert!(want[0].seeds[0].iter().any(|seed| seed.nearest < 40));
    assert_eq!(walk(emulator, &case), want);
}

fn what_is_not_usable_is_counted(emulator: &Emulator) {
    let mut case = Case::new([[9, 11], [10, 9]], 24, 1, [0., 0.2]);
    case.decodes[0][0][10 * 24..11 * 24].fill(f32::NAN);
    case.decodes[0][0][..24].fill(0.);
    case.decodes[0][1][89 * 24..90 * 24].fill(f32::INFINITY);
    case.undefined = vec![(0, 0, 0), (0, 1, 7), (0, 1, 8), (0, 1, 89)];
    let found = &walk(emulator, &case)[0];
    assert_eq!((found.unusable, found.undefined), ([2, 1], [1, 3]));
    case.seeds = [vec![], vec![]];
    assert_eq!(walk(emulator, &case)[0].seeds, [vec![], vec![]]);
}

#[test]
fn searches_that_make_no_sense_are_refused_before_the_device() {
    let plan = |pixels, channels, decodes, seeds: [&[u32]; 2], rounds| {
        Search::new(pixels, channels, decodes, seeds, rounds)
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    let pixels = [20, 42];
    assert!(plan(pixels, 25, 1, [&[], &[]], 10).contains("25"));
    assert!(plan(pixels, 24, 0, [&[], &[]], 10).contains("got 0"));
    assert!(plan(pixels, 24, 1, [&[], &[]], 0).contains("and 0"));
    assert!(plan([0, 4], 24, 1, [&[], &[]], 1).contains("[0, 4]"));
    assert!(plan([1 << 26, 4], 24, 1, [&[], &[]], 1).contains("67108864"));
    assert!(plan(pixels, 24, 1, [&[20], &[]], 1).contains("seed 20 is no pixel of 20"));
}
