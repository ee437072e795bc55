//! Every scene, against its truth and against the reference.

use super::*;

/// The reference's results as it is used, with the columns of [`Errors::columns`], and half of the
/// mean rotation error that it has with the principal point fixed, or that of a sketch of our
/// method, whichever is larger.
const REFERENCE: [(&str, [f64; 7], f64); 7] = [
    (
        "bridge6",
        [0.888, 1.068, 0.0086, 0.0127, 2.08, 4.70, 0.0314],
        0.184,
    ),
    (
        "forward8",
        [0.430, 0.742, 0.0062, 0.0138, 3.67, 6.79, 0.0429],
        0.123,
    ),
    (
        "orbit4",
        [0.664, 1.128, 0.0024, 0.0037, 2.67, 2.99, 0.0226],
        0.094,
    ),
    (
        "outlier5",
        [2.557, 5.262, 0.0251, 0.0414, 7.67, 13.76, 0.0378],
        0.352,
    ),
    (
        "portrait3",
        [0.434, 0.633, 0.0066, 0.0088, 5.24, 5.48, 0.0253],
        0.151,
    ),
    (
        "shared_focal4",
        [0.715, 1.245, 0.0051, 0.0089, 5.97, 6.10, 0.0184],
        0.232,
    ),
    (
        "two_view",
        [0.377, 0.377, 0.0175, 0.0175, 2.82, 3.38, 0.0100],
        0.170,
    ),
];

#[test]
fn every_scene_is_aligned_better_than_by_the_reference() {
    for folder in scenes() {
        for shared_focal in [false, true] {
            let name = name(&folder);
            let alignment = align_folder(
                &folder,
                &AlignOptions {
                    shared_focal,
                    ..AlignOptions::default()
                },
            )
            .unwrap();
            assert!(alignment.views.iter().all(|view| view.placed), "{name}");
            let errors = Errors::of(&folder, &alignment);
            println!("{name}, shared {shared_focal}: {errors:.4?}");
            let Some((_, allowed, least_rotation)) =
                REFERENCE.iter().find(|(scene, ..)| *scene == name)
            else {
                continue;
            };
            let below = errors
                .columns()
                .iter()
                .zip(allowed)
                .all(|(found, allowed)| found <= allowed);
            assert!(
                below,
                "{name}: {:.4?}, allowed {allowed:?}",
                errors.columns()
            );
            assert!(
                errors.rotation[0] <= *least_rotation,
                "{name}: {:?}, allowed {least_rotation}",
                errors.rotation
            );
        }
    }
}

#[test]
fn wrong_pairs_are_named_and_no_others() {
    for folder in scenes() {
        let is_wrong = |pair: &Value| pair["wrong"].as_bool().unwrap();
        let pairs = json(&folder)["truth"]["pairs"].as_array().unwrap().clone();
        let wrong: Vec<Value> = pairs
            .iter()
            .filter(|pair| is_wrong(pair))
            .map(|pair| pair["pair"].clone())
            .collect();
        let left_out: Vec<Value> = aligned(&folder)
            .pairs
            .iter()
            .filter(|report| report.verdict != Verdict::Used)
            .map(|report| json!([report.pair.first, report.pair.second]))
            .collect();
        assert_eq!(left_out, wrong, "{}", folder.display());
    }
}

#[test]
fn the_matches_of_every_pair_are_those_of_the_reference() {
    for folder in scenes() {
        let bytes = read(&folder.join("matches.safetensors"));
        let golden = SafeTensors::deserialize(&bytes).unwrap();
        let predictions = PredictionFolder::open(&folder).unwrap();
        for &pair in predictions.pairs() {
            let values = |end: &str| {
                let tensor = golden
                    .tensor(&format!("{}-{}.{end}", pair.first, pair.second))
                    .unwrap();
                tensor
                    .data()
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .map(|b| u32::from_le_bytes(*b))
                    .collect::<Vec<_>>()
            };
            let (first, second) = (values("first"), values("second"));
            let confidence = values("confidence").into_iter().map(f32::from_bits);
            let wanted: Vec<[u32; 4]> = first
                .as_chunks::<2>()
                .0
                .iter()
                .zip(second.as_chunks::<2>().0)
                .map(|(a, b)| [a[0], a[1], b[0], b[1]])
                .collect();
            let matches = predictions
                .read_pair(pair, &MatchOptions::default())
                .unwrap()
                .matches;
            let found: Vec<[u32; 4]> = matches
                .iter()
                .map(|m| [m.first.x, m.first.y, m.second.x, m.second.y])
                .collect();
            assert_eq!(found, wanted, "{} {pair:?}", folder.display());
            for (found, wanted) in matches.iter().zip(confidence) {
                assert!(
                    (found.confidence / wanted - 1.0).abs() < 1e-5,
                    "{found:?}, wanted {wanted}"
                );
            }
        }
    }
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let folder = scene("outlier5");
    let with_threads = |count: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(count)
            .build()
            .unwrap();
        let alignment = pool.install(|| aligned(&folder));
        let bits = |value: f64| value.to_bits();
        let views = alignment.scene.views.into_iter();
        let views = views.map(|view| {
            let camera = view.camera.unwrap();
            let pose: Vec<u64> = camera
                .world_from_camera
                .to_homogeneous()
                .iter()
                .copied()
                .map(bits)
                .collect();
            (
                pose,
                bits(camera.intrinsics.fx),
                view.depth
                    .iter()
                    .map(|depth| depth.to_bits())
                    .collect::<Vec<u32>>(),
            )
        });
        views.collect::<Vec<_>>()
    };
    assert_eq!(with_threads(1), with_threads(3));
}
