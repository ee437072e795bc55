//! Predictions that were changed: numbered otherwise, cut apart, damaged.

use super::stored::Stored;
use super::*;

/// How far two alignments are apart, whose views are the same: degrees, share of the span, percent
/// of the focal length.
fn gap(one: &Alignment, two: &Alignment, views: impl Fn(usize) -> usize) -> [f64; 3] {
    let (mut found, mut wanted, mut focal) = (Vec::new(), Vec::new(), 0f64);
    for (index, view) in one.scene.views.iter().enumerate() {
        let (Some(a), Some(b)) = (view.camera, two.scene.views[views(index)].camera) else {
            continue;
        };
        found.push(b.world_from_camera.to_homogeneous());
        wanted.push(a.world_from_camera.to_homogeneous());
        focal = focal.max(100.0 * (b.intrinsics.fx / a.intrinsics.fx - 1.0).abs());
    }
    assert!(found.len() > 1);
    let (rotation, translation) = pose_errors(&found, &wanted);
    [
        mean_and_largest(&rotation)[1],
        mean_and_largest(&translation)[1],
        focal,
    ]
}

/// With the numbers change which decode weighs a match that both found, units, and the order of
/// sums. That is allowed to move the solution by a fraction of its own error.
const SAME: [f64; 3] = [0.04, 0.001, 0.15];

fn assert_same(what: &str, gap: [f64; 3]) {
    println!("{what}: {gap:.5?}");
    assert!(
        gap.iter().zip(SAME).all(|(gap, allowed)| *gap <= allowed),
        "{what}: {gap:.5?}, allowed {SAME:?}"
    );
}

#[test]
fn renumbered_images_give_the_same_cameras() {
    let folder = scene("outlier5");
    let (stored, plain) = (Stored::open(&folder), aligned(&folder));
    for number in [|view: usize| 4 - view, |view: usize| (view + 2) % 5] {
        assert_same(
            "renumbered",
            gap(&plain, &stored.renumbered(number).aligned(), number),
        );
    }
}

#[test]
fn a_pair_in_other_units_gives_the_same_cameras() {
    let folder = scene("outlier5");
    let mut stored = Stored::open(&folder);
    for (name, (_, _, data)) in &mut stored.predictions {
        if (name.starts_with("1-2.") || name.starts_with("2-1.")) && name.ends_with(".points") {
            for bytes in data.as_chunks_mut::<2>().0 {
                *bytes = half::f16::from_f32(2.0 * half::f16::from_le_bytes(*bytes).to_f32())
                    .to_le_bytes();
            }
        }
    }
    assert_same(
        "doubled",
        gap(&aligned(&folder), &stored.aligned(), |view| view),
    );
}

#[test]
fn of_a_graph_that_falls_apart_the_largest_part_is_aligned_and_the_rest_is_named() {
    let folder = scene("outlier5");
    let alignment = Stored::open(&folder)
        .with_pairs(|pair| !pair.contains(&2))
        .aligned();
    let placed: Vec<bool> = alignment.views.iter().map(|view| view.placed).collect();
    assert_eq!(placed, [true, true, false, true, true]);
    let lost = &alignment.scene.views[2];
    assert!(lost.camera.is_none() && lost.depth.iter().all(|depth| depth.is_nan()));
    assert!(Errors::of(&folder, &alignment).rotation[1] < 1.0);

    let none = Stored::open(&folder).with_pairs(|_| false);
    assert!(align_folder(none.write().path(), &AlignOptions::default()).is_err());
}

#[test]
fn an_image_of_another_scene_is_left_out_and_changes_nothing() {
    let folder = scene("outlier5");
    let (plain, mut stored, other) = (
        aligned(&folder),
        Stored::open(&folder),
        Stored::open(&scene("two_view")),
    );
    let own = stored.predictions.clone();
    stored
        .images
        .push(json!({ "name": "foreign.png", "width": other.images[1]["width"], "height": other.images[1]["height"] }));
    stored.copy(&other.views, "1.", "5.");
    for view in 0..5 {
        let partner = (view + 1) % 5;
        stored.pairs.push([view, 5]);
        // What was said of each image beside another one, as if it had been said of these two.
        stored.copy(
            &own,
            &format!("{view}-{partner}.first"),
            &format!("{view}-5.first"),
        );
        stored.copy(
            &other.predictions,
            "0-1.second",
            &format!("{view}-5.second"),
        );
        stored.copy(&other.predictions, "1-0.first", &format!("5-{view}.first"));
        stored.copy(
            &own,
            &format!("{partner}-{view}.second"),
            &format!("5-{view}.second"),
        );
    }
    let alignment = stored.aligned();
    assert!(!alignment.views[5].placed);
    let used = |report: &&PairReport| report.verdict == Verdict::Used;
    assert!(
        alignment
            .pairs
            .iter()
            .filter(used)
            .all(|report| report.pair.second < 5)
    );
    assert_eq!(alignment.pairs.iter().filter(used).count(), 9);
    assert_same("with a foreign image", gap(&plain, &alignment, |view| view));
}

#[test]
fn pairs_that_are_not_finite_are_left_out_and_the_others_aligned() {
    let predictions = PredictionFolder::open(scene("outlier5")).unwrap();
    let views = predictions.views().unwrap();
    let options = AlignOptions::default();
    let matching = MatchOptions::default();
    let evidence = || predictions.evidence(&matching);
    let pair_of = |evidence: &mast3r::Result<PairEvidence>| evidence.as_ref().unwrap().pair;
    let (first, second) = (
        Pair {
            first: 0,
            second: 1,
        },
        Pair {
            first: 2,
            second: 3,
        },
    );
    let without = evidence().filter(|evidence| ![first, second].contains(&pair_of(evidence)));
    let expected = align(&views, without, &options).unwrap();
    // One is not finite in its maps; of the other the source says so itself.
    let spoilt = evidence().map(|evidence| match pair_of(&evidence) {
        pair if pair == first => evidence.map(|mut evidence| {
            evidence.reverse[1].points[7][2] = f32::NAN;
            evidence
        }),
        pair if pair == second => {
            let source = Error::NotFinite {
                what: "points".into(),
                count: 1,
                total: 9,
                hint: "none".into(),
            };
            Err(Error::PairNotFinite {
                pair: [pair.first, pair.second],
                source: Box::new(source),
            })
        }
        _ => evidence,
    });
    let found = align(&views, spoilt, &options).unwrap();
    let dropped: Vec<Pair> = found
        .pairs
        .iter()
        .filter(|report| report.verdict == Verdict::NotFinite)
        .map(|report| report.pair)
        .collect();
    assert_eq!(dropped, [first, second]);
    assert_eq!(found.pairs.len(), expected.pairs.len() + 2);
    let cameras = |alignment: &Alignment| {
        alignment
            .scene
            .views
            .iter()
            .map(|view| view.camera)
            .collect::<Vec<_>>()
    };
    assert_eq!(cameras(&found), cameras(&expected));

    // If none is finite, that is an error which names the first.
    let none = evidence().map(|evidence| {
        evidence.map(|mut evidence| {
            evidence.forward[0].confidence[3] = f32::INFINITY;
            evidence
        })
    });
    let error = align(&views, none, &options).unwrap_err();
    assert!(matches!(error, Error::NotFinite { .. }), "{error}");
    let message = "000.png and 001.png: confidences of the first view: 1 of ";
    assert!(error.to_string().starts_with(message), "{error}");
}

#[test]
fn damaged_folders_are_refused_with_their_path() {
    let stored = Stored::open(&scene("two_view"));
    let refusal = |change: &dyn Fn(&mut Stored)| {
        let mut changed = Stored {
            images: stored.images.clone(),
            pairs: stored.pairs.clone(),
            views: stored.views.clone(),
            predictions: stored.predictions.clone(),
        };
        change(&mut changed);
        align_folder(changed.write().path(), &AlignOptions::default())
            .unwrap_err()
            .to_string()
    };
    let expect =
        |part: &str, error: String| assert!(error.contains(part), "{error:?} lacks {part:?}");
    expect(
        "[0, 2] is not [i, j] with i < j < 2",
        refusal(&|stored| stored.pairs = vec![[0, 2]]),
    );
    expect(
        "is listed twice",
        refusal(&|stored| stored.pairs = vec![[0, 1]; 2]),
    );
    expect(
        "tensor 0-1.first.points is missing",
        refusal(&|stored| drop(stored.predictions.remove("0-1.first.points"))),
    );
    expect(
        "views.safetensors: the tensor 1.rgb",
        refusal(&|stored| stored.images[1]["width"] = 64.into()),
    );
    expect("no images", refusal(&|stored| stored.images.clear()));

    let folder = stored.write();
    let path = folder.path().join("pairs.safetensors");
    let whole = read(&path);
    fs::write(&path, &whole[..whole.len() - 10]).unwrap();
    expect(
        "incomplete or damaged",
        align_folder(folder.path(), &AlignOptions::default())
            .unwrap_err()
            .to_string(),
    );
    fs::write(&path, &whole[..100]).unwrap();
    expect(
        "ends inside its header",
        align_folder(folder.path(), &AlignOptions::default())
            .unwrap_err()
            .to_string(),
    );
    fs::remove_file(&path).unwrap();
    expect(
        "pairs.safetensors: no such file",
        align_folder(folder.path(), &AlignOptions::default())
            .unwrap_err()
            .to_string(),
    );
}
