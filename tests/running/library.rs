//! The library as another program uses it, with the bundled network.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use mast3r::alignment::{Alignment, PredictionFolder, align_from};
use mast3r::matching::MatchOptions;
use mast3r::model::Predictions;
use mast3r::model::config::Predicts;
use mast3r::model::registry::Network;
use mast3r::network::{ModelChoice, WeightChoice};
use mast3r::pipeline::{Keep, NetworkKey, Progress, Stage, WorkFolder, fetch_pairs, unwatched};
use mast3r::runtime::{DeviceChoice, Precision, Runtime};
use mast3r::views::{self, Limits, Resolution, View};
use mast3r::{Error, Model, Reconstructor};

fn demo(number: usize) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("assets/demo_{number}.jpg"))
}

fn model() -> Model {
    let runtime = Runtime::new(DeviceChoice::Cpu, Precision::F32).unwrap();
    let choice = ModelChoice {
        resolution: Some(Resolution::LongSide(168)),
        ..ModelChoice::of("tiny").unwrap()
    };
    choice.choose().unwrap().load(&runtime).unwrap()
}

fn views(model: &Model, count: usize) -> Vec<View> {
    let paths: Vec<PathBuf> = (1..=count).map(demo).collect();
    views::load(&paths, model.framing(), &Limits::default()).unwrap()
}

#[test]
fn a_set_of_views_is_predicted_in_every_ordered_pair() {
    let model = model();
    assert_eq!((model.name(), model.predicts()), ("tiny", Predicts::Pairs));
    let views = views(&model, 3);
    let Predictions::Pairs(pairs) = model.predict(&views).unwrap() else {
        panic!("tiny predicts pairs");
    };
    let order: Vec<[usize; 2]> = pairs.iter().map(|(views, _)| *views).collect();
    assert_eq!(order, [[0, 1], [1, 0], [0, 2], [2, 0], [1, 2], [2, 1]]);

    // The same as one by one, and the same together as each alone.
    let features = model.features(&views).unwrap();
    let predictions: Vec<_> = pairs.iter().map(|(_, prediction)| prediction).collect();
    let fetched = fetch_pairs(&predictions).unwrap();
    for ([first, second], together) in order.into_iter().zip(fetched) {
        let network = model.pairwise().unwrap();
        let alone = network.decode(&features[first], &features[second]).unwrap();
        let alone = fetch_pairs(&[&alone]).unwrap().remove(0);
        for (one, other) in alone.iter().zip(&together) {
            assert_eq!(one.points.points, other.points.points);
            assert_eq!(one.descriptors, other.descriptors);
        }
    }

    let error = model.predict(&views[..1]).unwrap_err();
    assert!(matches!(error, Error::Usage(_)), "{error}");
}

#[test]
fn an_encoder_reconstructs_nothing_and_says_so() {
    let runtime = Runtime::new(DeviceChoice::Cpu, Precision::F32).unwrap();
    let choice = ModelChoice {
        network: Some(Network::find("dune-small").unwrap()),
        weights: WeightChoice::Random("0".into()),
        resolution: Some(Resolution::LongSide(56)),
    };
    let encoder = choice.choose().unwrap().load(&runtime).unwrap();
    let views = views(&encoder, 2);
    assert!(matches!(
        encoder.predict(&views).unwrap(),
        Predictions::Features(features) if features.len() == 2
    ));
    let error = Reconstructor::new(&encoder)
        .run(&views, None, &unwatched)
        .unwrap_err();
    assert!(matches!(error, Error::Usage(_)), "{error}");
    assert!(encoder.pairwise().is_err());
}

#[test]
fn images_in_memory_give_the_scene_of_their_files() {
    let model = model();
    let files = views(&model, 2);
    let memory: Vec<View> = [1, 2]
        .map(|number| {
            let rgb = views::load_whole(&demo(number), &Limits::default()).unwrap();
            View::from_rgb(format!("demo_{number}.jpg"), &rgb, model.framing()).unwrap()
        })
        .into();
    let [one, two] = [files, memory].map(|views| {
        let result = Reconstructor::new(&model).run(&views, None, &unwatched);
        result.unwrap().alignment
    });
    assert!(one.cameras_error.is_none());
    for (one, two) in one.scene.views.iter().zip(&two.scene.views) {
        assert_eq!((&one.name, one.camera), (&two.name, two.camera));
        assert_eq!(one.points.points, two.points.points);
    }
}

#[test]
fn a_set_that_is_solved_in_submaps_is_aligned_from_its_work_folder() {
    let model = model();
    let views = views(&model, 4);
    let runtime = Runtime::new(DeviceChoice::Cpu, Precision::F32).unwrap();
    let network = NetworkKey::new("tiny", &runtime);
    let folder = tempfile::tempdir().unwrap();
    let work = WorkFolder::open(folder.path()).unwrap();
    let keep = Keep {
        folder: &work,
        network: &network,
    };
    let mut reconstructor = Reconstructor::new(&model);
    reconstructor.options.align.most_together = Some(3);
    let run = |computed: usize| {
        let run = reconstructor.run(&views, Some(keep), &unwatched).unwrap();
        assert_eq!(run.computed, computed);
        run.alignment
    };
    let first = run(6);
    assert!(first.views.iter().all(|view| view.placed));
    let same = |other: &Alignment| {
        assert_eq!(first.pairs, other.pairs);
        assert_eq!(first.scene.matches, other.scene.matches);
        for (one, two) in first.scene.views.iter().zip(&other.scene.views) {
            assert_eq!((one.camera, &one.rgb), (two.camera, &two.rgb));
            assert_eq!(one.points.points, two.points.points);
        }
    };
    same(&run(0));

    let predictions = PredictionFolder::open(folder.path()).unwrap();
    let matching = MatchOptions::default();
    let (stored, options) = (predictions.views().unwrap(), &reconstructor.options.align);
    let read = predictions.store(&matching);
    same(&align_from(&stored, &read, options, &unwatched).unwrap());

    // What an earlier run left may be damaged.
    let pairs = std::fs::read_dir(folder.path().join("pairs")).unwrap();
    let pair = pairs.map(|file| file.unwrap().path()).next().unwrap();
    std::fs::write(&pair, "damaged").unwrap();
    same(&run(1));
}

#[test]
fn a_run_is_cancelled_at_the_next_event() {
    let model = model();
    let views = views(&model, 3);
    for cancel in [
        Progress::Begin(Stage::Encode, 3),
        Progress::Begin(Stage::Pairs, 3),
        Progress::Step,
        Progress::Begin(Stage::Align, 1),
    ] {
        let events = AtomicUsize::new(0);
        let result = Reconstructor::new(&model).run(&views, None, &|event| {
            events.fetch_add(1, Ordering::Relaxed);
            match event == cancel {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Cancelled), "{cancel:?}: {error}");
        assert!(events.into_inner() < 15, "{cancel:?}");
    }
}
