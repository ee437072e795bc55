//! Views that are aligned in groups: as well as together, deterministically, and false loops named.

// A panic is how a test fails, in its helpers too.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)] // the measurement uses more of them
#[path = "../benches/large_scenes/predictions.rs"]
mod predictions;
#[allow(dead_code)] // the measurement uses more of them
#[path = "../benches/large_scenes/world.rs"]
mod world;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use image::RgbImage;
use mast3r::alignment::{
    AlignOptions, EvidenceStore, KnownCamera, Pair, PairEvidence, StoredAlignment, Verdict,
    ViewShape, align, align_from, align_stored,
};
use mast3r::geometry::Camera;
use mast3r::geometry::procrustes::{Correspondence, similarity};
use mast3r::pipeline::{Progress, Stage, unwatched};
use mast3r::views::{Crop, View};
use mast3r::{Error, Result};
use nalgebra::Point3;
use predictions::{WINDOW, Walk};

const SIZE: [u32; 2] = [64, 48];

struct Store<'a>(&'a Walk);

impl EvidenceStore for Store<'_> {
    fn pairs(&self) -> &[Pair] {
        &self.0.pairs
    }

    fn read(&self, index: usize) -> Result<PairEvidence> {
        Ok(self.0.evidence(self.0.pairs[index]))
    }
}

fn in_groups() -> AlignOptions {
    AlignOptions {
        most_together: Some(60),
        ..AlignOptions::default()
    }
}

fn shapes(walk: &Walk) -> Vec<ViewShape> {
    (0..walk.cameras.len())
        .map(|view| walk.shape(format!("{view}.png")))
        .collect()
}

fn stored(walk: &Walk, options: &AlignOptions) -> StoredAlignment {
    align_stored(&shapes(walk), &Store(walk), options, &unwatched).unwrap()
}

fn views(walk: &Walk) -> Vec<View> {
    let [width, height] = SIZE;
    let rgb = || RgbImage::new(width, height);
    let view = |view| View::new(format!("{view}.png"), rgb(), Crop::whole(width, height));
    (0..walk.cameras.len()).map(view).collect()
}

/// Mean errors of places, over the extent of the walk, and of rotations, in degrees, after a
/// similarity.
fn errors(found: &[Option<Camera>], truth: &[Camera]) -> [f64; 2] {
    let placed: Vec<(&Camera, &Camera)> = found
        .iter()
        .zip(truth)
        .map(|(found, truth)| (found.as_ref().unwrap(), truth))
        .collect();
    let centre = |camera: &Camera| Point3::from(camera.world_from_camera.translation.vector);
    let pairs: Vec<Correspondence> = placed
        .iter()
        .map(|(found, truth)| Correspondence {
            from: centre(found),
            to: centre(truth),
            weight: 1.0,
        })
        .collect();
    let fit = similarity(&pairs).unwrap();
    let extent = pairs
        .iter()
        .map(|pair| (pair.to - pairs[0].to).norm())
        .fold(0.0, f64::max);
    let count = pairs.len() as f64;
    let shift = pairs
        .iter()
        .map(|pair| (fit * pair.from - pair.to).norm())
        .sum::<f64>();
    let turn = placed.iter().map(|(found, truth)| {
        (fit.isometry.rotation * found.world_from_camera.rotation)
            .angle_to(&truth.world_from_camera.rotation)
            .to_degrees()
    });
    [shift / count / extent, turn.sum::<f64>() / count]
}

fn cameras(views: &[mast3r::scene::SceneView]) -> Vec<Option<Camera>> {
    views.iter().map(|view| view.camera).collect()
}

#[test]
fn groups_are_as_accurate_as_all_views_together() {
    let walk = Walk::new(150, SIZE, WINDOW, false);
    let views = views(&walk);
    let evidence = || (0..walk.pairs.len()).map(|index| Store(&walk).read(index));
    let together = align(&views, evidence(), &AlignOptions::default()).unwrap();
    let grouped = align(&views, evidence(), &in_groups()).unwrap();
    let [one, two] =
        [&together, &grouped].map(|aligned| errors(&cameras(&aligned.scene.views), &walk.cameras));
    println!("together {one:?}, in groups {two:?}");
    assert!(two[0] < 0.01 && two[1] < 1.0, "{two:?}");
    assert!(
        two[0] < 1.5 * one[0] + 1e-3 && two[1] < 1.5 * one[1] + 0.1,
        "{one:?}, {two:?}"
    );

    // Depths, points and matches are there as well.
    for (view, scene) in grouped.scene.views.iter().enumerate() {
        let camera = scene.camera.unwrap();
        let middle = scene.depth.len() / 2 + 5;
        let pixel = [(middle % 64) as f64, (middle / 64) as f64];
        let point = camera.unproject(pixel, f64::from(scene.depth[middle]));
        let found = scene.points.points[middle].map(f64::from);
        assert!(
            (point - Point3::from(found)).norm() < 1e-4 * point.coords.norm().max(1.0),
            "{view}"
        );
    }
    let used = grouped
        .pairs
        .iter()
        .filter(|pair| pair.verdict == Verdict::Used)
        .count();
    assert_eq!(grouped.scene.matches.len(), used);
    assert!(
        used * 10 > walk.pairs.len() * 9,
        "{used} of {}",
        walk.pairs.len()
    );
    assert!(
        grouped
            .views
            .iter()
            .all(|view| view.placed && view.inlier_share > 0.7)
    );

    // What is read from a store is what was kept in the temporary file, within its precision.
    let stored = stored(&walk, &in_groups());
    let gap = errors(
        &cameras(&grouped.scene.views),
        &stored
            .cameras
            .iter()
            .map(|camera| camera.unwrap())
            .collect::<Vec<_>>(),
    );
    assert!(gap[0] < 1e-3 && gap[1] < 0.05, "{gap:?}");
    let [depths, confidence] = stored.depths(7).unwrap().unwrap();
    assert_eq!((depths.len(), confidence.len()), (64 * 48, 64 * 48));
    assert!(stored.depths(150).unwrap().is_none());
}

#[test]
fn false_loops_between_rooms_that_look_alike_are_named_and_bend_nothing() {
    let walk = Walk::new(420, SIZE, WINDOW, true);
    assert!(walk.false_pairs.len() > 10, "{}", walk.false_pairs.len());
    let aligned = stored(&walk, &in_groups());
    let (mut false_used, mut right_left_out) = (0, 0);
    for report in &aligned.pairs {
        let is_false = walk
            .false_pairs
            .contains(&(report.pair.first, report.pair.second));
        let is_used = report.verdict == Verdict::Used;
        false_used += usize::from(is_false && is_used);
        right_left_out += usize::from(!is_false && !is_used && !walk.is_made_up(report.pair));
    }
    let found = errors(&aligned.cameras, &walk.cameras);
    println!(
        "{found:?}, {right_left_out} of {} left out",
        walk.pairs.len()
    );
    assert_eq!(false_used, 0);
    assert!(right_left_out * 50 < walk.pairs.len(), "{right_left_out}");
    // A false loop that is used bends the walk by a quarter of its extent.
    assert!(found[0] < 0.02 && found[1] < 1.5, "{found:?}");
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let walk = Walk::new(110, SIZE, WINDOW, false);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| stored(&walk, &in_groups()))
    };
    let [one, three] = [run(1), run(3)];
    let bits = |aligned: &StoredAlignment| -> Vec<u64> {
        let camera = |camera: &Option<Camera>| {
            let camera = camera.unwrap();
            let matrix = camera.world_from_camera.to_homogeneous();
            let mut values: Vec<u64> = matrix.iter().map(|value| value.to_bits()).collect();
            values.push(camera.intrinsics.fx.to_bits());
            values
        };
        aligned.cameras.iter().flat_map(camera).collect()
    };
    assert_eq!(bits(&one), bits(&three));
    assert_eq!(one.pairs, three.pairs);
    assert_eq!(one.views, three.views);
    assert_eq!(one.depths(60).unwrap(), three.depths(60).unwrap());
}

#[test]
fn known_poses_are_held() {
    let walk = Walk::new(110, SIZE, WINDOW, false);
    let known = |view: usize| KnownCamera {
        world_from_camera: (view % 20 == 3).then_some(walk.cameras[view].world_from_camera),
        intrinsics: Some(walk.cameras[view].intrinsics),
        ..KnownCamera::default()
    };
    let options = AlignOptions {
        known: (0..110).map(known).collect(),
        ..in_groups()
    };
    let aligned = stored(&walk, &options);
    for (view, (found, truth)) in aligned.cameras.iter().zip(&walk.cameras).enumerate() {
        let found = found.unwrap();
        assert_eq!(found.intrinsics, truth.intrinsics);
        let gap =
            found.world_from_camera.translation.vector - truth.world_from_camera.translation.vector;
        if view % 20 == 3 {
            assert_eq!(found.world_from_camera, truth.world_from_camera);
        }
        assert!(gap.norm() < 0.25, "{view}: {gap}");
    }
}

#[test]
fn groups_are_told_of_and_can_be_cancelled() {
    let walk = Walk::new(110, SIZE, WINDOW, false);
    let [promised, done] = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let watch = |event: Progress| {
        match event {
            Progress::Begin(Stage::Align, steps) => promised.store(steps, Ordering::Relaxed),
            Progress::Step => {
                done.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
        ControlFlow::Continue(())
    };
    align_stored(&shapes(&walk), &Store(&walk), &in_groups(), &watch).unwrap();
    let steps = done.into_inner();
    assert!(steps > 3);
    assert_eq!(steps, promised.into_inner());

    let read = AtomicUsize::new(0);
    let cancel = |event: Progress| match event {
        Progress::Step if read.fetch_add(1, Ordering::Relaxed) > 0 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let cancelled = align_stored(&shapes(&walk), &Store(&walk), &in_groups(), &cancel);
    assert!(matches!(cancelled, Err(Error::Cancelled)));
}

#[test]
fn a_pair_that_names_a_view_that_there_is_not_is_refused() {
    let walk = Walk::new(110, SIZE, WINDOW, false);
    let few = &shapes(&walk)[..100];
    let error = align_stored(few, &Store(&walk), &in_groups(), &unwatched)
        .err()
        .unwrap();
    assert!(error.to_string().contains("100 views"), "{error}");
}

/// A store whose first pair is not finite, or none.
struct Spoiled<'a>(&'a Walk, bool);

impl EvidenceStore for Spoiled<'_> {
    fn pairs(&self) -> &[Pair] {
        &self.0.pairs
    }

    fn read(&self, index: usize) -> Result<PairEvidence> {
        let mut evidence = self.0.evidence(self.0.pairs[index]);
        if index == 0 || self.1 {
            evidence.forward[0].points[7] = [f32::NAN; 3];
        }
        Ok(evidence)
    }
}

#[test]
fn evidence_that_can_be_read_again_needs_no_copy() {
    let walk = Walk::new(100, SIZE, WINDOW, false);
    let (views, options) = (views(&walk), in_groups());
    let scene = align_from(&views, &Store(&walk), &options, &unwatched).unwrap();
    let stored = stored(&walk, &options);
    assert_eq!(cameras(&scene.scene.views), stored.cameras);
    let used = |pairs: &[mast3r::alignment::PairReport]| {
        pairs
            .iter()
            .filter(|pair| pair.verdict == Verdict::Used)
            .count()
    };
    assert_eq!(scene.scene.matches.len(), used(&stored.pairs));
    let copied = align(
        &views,
        (0..walk.pairs.len()).map(|index| Store(&walk).read(index)),
        &options,
    );
    let copied = copied.unwrap();
    for (found, copied) in scene.scene.matches.iter().zip(&copied.scene.matches) {
        assert_eq!(found.views, copied.views);
        assert_eq!(found.matches.len(), copied.matches.len());
    }
    let known = |scene: &mast3r::scene::Scene| -> usize {
        let depths = scene.views.iter().flat_map(|view| &view.depth);
        depths.filter(|depth| depth.is_finite()).count()
    };
    assert!(known(&scene.scene) > 0 && known(&scene.scene) == known(&copied.scene));

    let one = align_from(&views, &Spoiled(&walk, false), &options, &unwatched).unwrap();
    assert_eq!(one.pairs[0].verdict, Verdict::NotFinite);
    let all = align_from(&views, &Spoiled(&walk, true), &options, &unwatched);
    assert!(matches!(all, Err(Error::NotFinite { .. })), "{all:?}");
}
