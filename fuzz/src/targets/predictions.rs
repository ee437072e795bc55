//! Folders of predictions: `scene.json` with tensors in two files, or with a file for each view and
//! pair.

use mast3r::alignment::{PairEvidence, PredictionFolder};
use mast3r::geometry::PointMap;
use mast3r::matching::MatchOptions;

use crate::scratch;

/// `scene.json`, `views.safetensors` and `pairs.safetensors`.
pub fn together(data: &[u8]) {
    scratch::write_sections(
        [
            "together/scene.json",
            "together/views.safetensors",
            "together/pairs.safetensors",
        ],
        data,
    );
    read("together");
}

/// `scene.json`, a file of a view and one of a pair, which the others name.
pub fn apart(data: &[u8]) {
    scratch::write_sections(
        [
            "apart/scene.json",
            "apart/views/0.safetensors",
            "apart/pairs/0.safetensors",
        ],
        data,
    );
    read("apart");
    // The pair's file alone too, so that not every input needs the list.
    if let [_, _, Some(pair)] = scratch::sections::<3>(data) {
        let name = scratch::folder().join("apart/pairs/0.safetensors");
        let pair_of = mast3r::alignment::Pair {
            first: 0,
            second: 1,
        };
        if let Ok(evidence) = PairEvidence::from_safetensors(pair_of, pair, &name) {
            check(&evidence);
            let written = evidence
                .to_safetensors()
                .expect("what was read can be written");
            let again = PairEvidence::from_safetensors(pair_of, &written, &name)
                .expect("what was written can be read");
            assert_eq!(again.matches.len(), evidence.matches.len());
        }
    }
}

fn read(folder: &str) {
    let folder = scratch::folder().join(folder);
    let Ok(opened) = PredictionFolder::open(&folder) else {
        return;
    };
    for file in opened.files() {
        let inside = file.strip_prefix(&folder).expect("files lie in the folder");
        let plain = inside
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        assert!(plain, "{} leaves its folder", file.display());
    }
    let views = opened.views();
    if let Ok(views) = &views {
        for view in views {
            assert_eq!(view.rgb.dimensions(), (view.crop.width, view.crop.height));
            let scale = view.crop.scale_to_file();
            assert!(
                scale.iter().all(|scale| scale.is_finite() && *scale > 0.0),
                "{:?}",
                view.crop
            );
        }
    }
    for pair in opened.pairs() {
        assert!(pair.first < pair.second);
        if let Ok(evidence) = opened.read_pair(*pair, &MatchOptions::default()) {
            assert_eq!(evidence.pair, *pair);
            check(&evidence);
            if let Ok(views) = &views {
                let sizes = [pair.first, pair.second].map(|view| views[view].rgb.dimensions());
                let maps = evidence
                    .forward
                    .each_ref()
                    .map(|map| (map.width as u32, map.height as u32));
                assert_eq!(maps, sizes, "maps are of the size of their views");
            }
        }
    }
}

/// What everything that reads evidence takes for granted.
fn check(evidence: &PairEvidence) {
    let [first, second] = &evidence.forward;
    let [own_second, own_first] = &evidence.reverse;
    let size = |map: &PointMap| [map.width, map.height];
    assert_eq!(
        [size(first), size(second)],
        [size(own_first), size(own_second)]
    );
    for map in [first, second, own_first, own_second] {
        assert_eq!(
            [map.points.len(), map.confidence.len()],
            [map.width * map.height; 2]
        );
    }
    for found in &evidence.matches {
        for (pixel, map) in [(found.first, first), (found.second, second)] {
            assert!(
                (pixel.x as usize) < map.width && (pixel.y as usize) < map.height,
                "{found:?}"
            );
        }
    }
}
