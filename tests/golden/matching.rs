//! `matching/`: every file is a pair of descriptor maps with the reference's matches.

use std::path::Path;

use mast3r::matching::{
    DescriptorMap, Match, MatchOptions, Pixel, nearest_neighbors, reciprocal_matches, seed_matches,
};

use crate::common::{Reference, discover, golden_dir};

/// Best and second-best scores may be closer than the rounding of the reference's `f32` sums.
const LEAST_SHARE: f64 = 0.995;

struct Case {
    name: String,
    tensors: Reference,
    sizes: [[usize; 3]; 2],
    descriptors: [Vec<f32>; 2],
    confidence: [Vec<f32>; 2],
}

impl Case {
    fn read(path: &Path) -> Self {
        let tensors = Reference::open(path);
        let [(shape_a, a), (shape_b, b)] = ["A", "B"].map(|name| tensors.floats(name));
        let confidence = ["confA", "confB"].map(|name| tensors.floats(name).1);
        let sizes = [shape_a, shape_b]
            .map(|shape| <[usize; 3]>::try_from(shape).expect("(height, width, channels)"));
        Self {
            name: path.display().to_string(),
            tensors,
            sizes,
            descriptors: [a, b],
            confidence,
        }
    }

    fn maps(&self) -> [DescriptorMap<'_>; 2] {
        [0, 1].map(|view| {
            let [height, width, channels] = self.sizes[view];
            DescriptorMap {
                width,
                height,
                channels,
                descriptors: &self.descriptors[view],
                confidence: &self.confidence[view],
            }
        })
    }

    fn pixels(&self, name: &str) -> Vec<Pixel> {
        let (_, values) = self.tensors.floats(name);
        values
            .chunks_exact(2)
            .map(|xy| Pixel {
                x: xy[0] as u32,
                y: xy[1] as u32,
            })
            .collect()
    }

    fn pairs(&self, name: &str) -> Vec<(Pixel, Pixel)> {
        self.pixels(&format!("{name}.xy1"))
            .into_iter()
            .zip(self.pixels(&format!("{name}.xy2")))
            .collect()
    }
}

fn all() -> Vec<Case> {
    let files = discover(&golden_dir().join("matching"), "", ".safetensors");
    let cases: Vec<Case> = files.iter().map(|path| Case::read(path)).collect();
    assert!(!cases.is_empty(), "no case of matching found");
    cases
}

/// The share of items that the two lists have in common; on a machine with exact sums it is 1.
fn assert_nearly_same<T: PartialEq>(what: &str, found: &[T], expected: &[T]) {
    let common = found.iter().filter(|item| expected.contains(item)).count();
    let share = common as f64 / expected.len().max(found.len()).max(1) as f64;
    assert!(
        share >= LEAST_SHARE,
        "{what}: {common} of {} expected, {} found; at least {LEAST_SHARE} must agree",
        expected.len(),
        found.len()
    );
}

#[test]
fn nearest_neighbors_are_the_references() {
    for case in all() {
        let [a, b] = case.maps();
        for (name, from, to) in [("brute.nn_A", &a, &b), ("brute.nn_B", &b, &a)] {
            let expected: Vec<u32> = case
                .tensors
                .floats(name)
                .1
                .into_iter()
                .map(|index| index as u32)
                .collect();
            let found = nearest_neighbors(from, to).expect("valid maps");
            let same = found
                .iter()
                .zip(&expected)
                .filter(|(found, expected)| found == expected)
                .count();
            let share = same as f64 / expected.len() as f64;
            assert!(
                found.len() == expected.len() && share >= LEAST_SHARE,
                "{}: {name}: {same} of {} agree",
                case.name,
                expected.len()
            );
        }
    }
}

#[test]
fn matches_from_seeds_are_the_references() {
    for case in all() {
        let [a, b] = case.maps();
        for subsample in [4, 8] {
            let name = format!("fast.s{subsample}");
            let options = MatchOptions {
                subsample,
                ..MatchOptions::default()
            };
            let found = seed_matches(&a, &b, &options).expect("valid maps");
            assert_nearly_same(
                &format!("{}: {name}", case.name),
                &found,
                &case.pairs(&name),
            );
        }
    }
}

#[test]
fn matches_of_both_directions_and_their_confidences_are_the_references() {
    for case in all() {
        let [a, b] = case.maps();
        for (name, tolerance) in [("nonsym.s8", None), ("nonsym.s8_tol5", Some(5.0))] {
            let confidence = case.tensors.floats(&format!("{name}.conf")).1;
            let expected: Vec<Match> = case
                .pairs(name)
                .into_iter()
                .zip(confidence)
                .map(|((first, second), confidence)| Match {
                    first,
                    second,
                    confidence,
                })
                .collect();
            let options = MatchOptions {
                tolerance,
                ..MatchOptions::default()
            };
            let found = reciprocal_matches(&a, &b, &options).expect("valid maps");
            assert_nearly_same(&format!("{}: {name}", case.name), &found, &expected);
        }
    }
}
