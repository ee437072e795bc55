//! What a network predicts of two views, as tensors on the device and as arrays on the host:
//! `cargo run --example two_view_maps -- a.jpg b.jpg`.

use mast3r::Model;
use mast3r::matching::{MatchOptions, reciprocal_matches};
use mast3r::model::Predictions;
use mast3r::pipeline::fetch_pairs;
use mast3r::runtime::{DeviceChoice, Precision, Runtime};
use mast3r::views::{self, Limits};

fn main() -> mast3r::Result<()> {
    let mut paths: Vec<String> = std::env::args().skip(1).collect();
    if paths.is_empty() {
        paths = (1..=2)
            .map(|number| format!("assets/demo_{number}.jpg"))
            .collect();
    }
    let runtime = Runtime::new(DeviceChoice::Auto, Precision::F32)?;
    let model = Model::open("tiny", &runtime)?;
    let views = views::load(&paths, model.framing(), &Limits::default())?;
    let Predictions::Pairs(pairs) = model.predict(&views)? else {
        return Err(mast3r::Error::Usage("give a network of pairs".into()));
    };
    for (indices, prediction) in &pairs {
        println!("{indices:?}: points {:?}", prediction.first.points.shape());
    }

    // One transfer for all of them.
    let predictions: Vec<_> = pairs.iter().map(|(_, prediction)| prediction).collect();
    for ((indices, _), [first, second]) in pairs.iter().zip(fetch_pairs(&predictions)?) {
        let (first, second) = (first.descriptor_map(), second.descriptor_map());
        let matches = reciprocal_matches(&first, &second, &MatchOptions::default())?;
        println!("{indices:?}: {} matches", matches.len());
    }
    Ok(())
}
