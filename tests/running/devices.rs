//! Several devices share the work, and results are those of one, bit for bit. `MAST3R_DEVICES` names
//! other devices than two runtimes on the CPU, such as `cuda:all`, and `MAST3R_PRECISION` a precision.

use image::RgbImage;
use mast3r::model::FeatureExtractor;
use mast3r::model::checkpoint::Checkpoint;
use mast3r::model::config::EncoderKind;
use mast3r::network::ChosenModel;
use mast3r::pairs::PairGraph;
use mast3r::pipeline::{EncodedImage, PairChoice, Reconstruction, encode_images, unwatched};
use mast3r::runtime::{DeviceList, Precision, Runtime};
use mast3r::views::{Framing, Resize, Resolution, View};
use mast3r::{Error, Reconstructor};

use crate::small_network::small_pair;

fn runtimes() -> Vec<Runtime> {
    let setting = |name: &str, usual: &str| std::env::var(name).unwrap_or(usual.into());
    let devices: DeviceList = setting("MAST3R_DEVICES", "cpu,cpu").parse().unwrap();
    let precision: Precision = setting("MAST3R_PRECISION", "f32").parse().unwrap();
    let runtimes = devices.open(precision).unwrap();
    assert!(runtimes.len() > 1, "{devices}: several devices expected");
    runtimes
}

/// A small network of pairs with random weights, heads of 64 channels as GPUs want them.
fn network() -> ChosenModel {
    let config = small_pair(EncoderKind::Croco, 16, 128);
    ChosenModel {
        name: "small".into(),
        checkpoint: Checkpoint::random(&config, "devices"),
        framing: Framing {
            resolution: Resolution::LongSide(128),
            patch: 16,
            resize: Resize::Pillow,
            square_allowed: true,
            square_at_224: false,
        },
    }
}

/// Textured images, all different, every third one upright.
fn views(count: u32, framing: &Framing) -> Vec<View> {
    let view = |index: u32| {
        let size = if index % 3 == 2 { [96, 128] } else { [128, 96] };
        let rgb = RgbImage::from_fn(size[0], size[1], |x, y| {
            let wave = |scale: u32| {
                let place = x * (3 + index) + y * (5 + scale) + 17 * index * scale;
                (f64::from(place) / 9.0).sin() * 100.0 + 128.0
            };
            image::Rgb([1, 2, 3].map(|scale| wave(scale) as u8))
        });
        View::from_rgb(format!("{index}.png"), &rgb, framing).unwrap()
    };
    (0..count).map(view).collect()
}

fn bits(values: impl IntoIterator<Item = f32>) -> Vec<u32> {
    values.into_iter().map(f32::to_bits).collect()
}

fn reconstruct(
    chosen: &ChosenModel,
    runtimes: &[Runtime],
    views: &[View],
    graph: PairGraph,
    memory: u64,
) -> Reconstruction {
    let models = chosen.load_each(runtimes).unwrap();
    let mut reconstructor = Reconstructor::across(&models).unwrap();
    reconstructor.options.pairs = PairChoice::Graph(graph);
    reconstructor.options.keep_matches = true;
    reconstructor.options.memory = memory;
    reconstructor.run(views, None, &unwatched).unwrap()
}

fn assert_same(one: &Reconstruction, several: &Reconstruction) {
    assert_eq!(
        (one.encoded, one.computed),
        (several.encoded, several.computed)
    );
    let matches = |of: &Reconstruction| {
        let pairs = of
            .matches
            .iter()
            .map(|pair| (pair.views, pair.matches.clone()));
        pairs.collect::<Vec<_>>()
    };
    assert!(one.matches.iter().any(|pair| !pair.matches.is_empty()));
    assert_eq!(matches(one), matches(several));
    assert_eq!(
        format!("{:?}", one.alignment.pairs),
        format!("{:?}", several.alignment.pairs)
    );
    let scenes = [one, several].map(|of| &of.alignment.scene.views);
    for (one, other) in scenes[0].iter().zip(scenes[1]) {
        assert_eq!(one.name, other.name);
        assert_eq!(format!("{:?}", one.camera), format!("{:?}", other.camera));
        assert_eq!(
            bits(one.depth.iter().copied()),
            bits(other.depth.iter().copied())
        );
        let points =
            |of: &mast3r::scene::SceneView| bits(of.points.points.as_flattened().iter().copied());
        assert_eq!(points(one), points(other));
    }
}

#[test]
fn pairs_shared_by_devices_give_what_one_device_gives() {
    let (chosen, runtimes) = (network(), runtimes());
    let views = views(7, &chosen.framing);
    let complete = PairGraph::Complete;
    let plenty = 1 << 30;
    let one = reconstruct(&chosen, &runtimes[..1], &views, complete, plenty);
    assert_eq!(one.computed, 21);
    let several = reconstruct(&chosen, &runtimes, &views, complete, plenty);
    assert_same(&one, &several);
    // With features on disk.
    let several = reconstruct(&chosen, &runtimes, &views, complete, 0);
    assert_same(&one, &several);
}

#[test]
fn pairs_chosen_by_similarity_do_not_depend_on_the_devices() {
    let (chosen, runtimes) = (network(), runtimes());
    let views = views(7, &chosen.framing);
    let graph: PairGraph = "retrieval-3-2".parse().unwrap();
    let one = reconstruct(&chosen, &runtimes[..1], &views, graph, 1 << 30);
    assert!(one.computed < 21);
    let several = reconstruct(&chosen, &runtimes, &views, graph, 1 << 30);
    assert_same(&one, &several);
}

fn encode(extractors: &[FeatureExtractor], views: &[View]) -> Vec<EncodedImage> {
    let mut images = Vec::new();
    let load = |range: std::ops::Range<usize>| Ok(views[range].to_vec());
    let take = |image| {
        images.push(image);
        Ok(true)
    };
    encode_images(extractors, views.len(), true, load, take).unwrap();
    images
}

#[test]
fn images_encoded_by_devices_come_in_order_and_as_from_one() {
    let (chosen, runtimes) = (network(), runtimes());
    let views = views(9, &chosen.framing);
    let extractors = chosen.load_encoders(&runtimes).unwrap();
    let one = encode(&extractors[..1], &views);
    let several = encode(&extractors, &views);
    assert_eq!(one.len(), 9);
    for (index, (one, other)) in one.iter().zip(&several).enumerate() {
        assert_eq!((one.index, other.index), (index, index));
        assert_eq!(one.grid, other.grid);
        assert_eq!(
            bits(one.tokens.iter().copied()),
            bits(other.tokens.iter().copied())
        );
    }

    // The first error, in the images' order, ends it.
    let load = |range: std::ops::Range<usize>| match range.start {
        4.. => Err(Error::Usage(format!("no image {}", range.start))),
        _ => Ok(views[range].to_vec()),
    };
    let mut seen = 0;
    let take = |image: EncodedImage| {
        assert_eq!(image.index, seen);
        seen += 1;
        Ok(true)
    };
    let error = encode_images(&extractors, views.len(), true, load, take).unwrap_err();
    assert_eq!((error.to_string().as_str(), seen), ("no image 4", 4));
}

#[test]
fn no_network_reconstructs_nothing() {
    assert!(matches!(Reconstructor::across(&[]), Err(Error::Usage(_))));
}
