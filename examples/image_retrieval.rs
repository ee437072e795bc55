//! Which images are alike: one descriptor for each, the mean of its patch features:
//! `cargo run --example image_retrieval -- photos/*.jpg`.

use mast3r::Model;
use mast3r::pairs::Similarity;
use mast3r::runtime::{DeviceChoice, Precision, Runtime};
use mast3r::views::{self, Limits};

fn main() -> mast3r::Result<()> {
    let mut paths: Vec<String> = std::env::args().skip(1).collect();
    if paths.is_empty() {
        paths = (1..=4)
            .map(|number| format!("assets/demo_{number}.jpg"))
            .collect();
    }
    let runtime = Runtime::new(DeviceChoice::Auto, Precision::F32)?;
    let model = Model::open("tiny", &runtime)?;
    let views = views::load(&paths, model.framing(), &Limits::default())?;
    let descriptors = model
        .features(&views)?
        .iter()
        .map(|features| Ok(features.tokens.mean(1)?.flatten_all()?.to_vec1()?))
        .collect::<mast3r::Result<Vec<Vec<f32>>>>()?;
    let similarity = Similarity::of(&descriptors)?;
    for (index, view) in views.iter().enumerate() {
        let nearest = (0..views.len())
            .filter(|other| *other != index)
            .max_by(|a, b| {
                similarity
                    .cosine(index, *a)
                    .total_cmp(&similarity.cosine(index, *b))
            });
        if let Some(nearest) = nearest {
            let (name, score) = (&views[nearest].name, similarity.cosine(index, nearest));
            println!("{}: most like {name} ({score:.3})", view.name);
        }
    }
    Ok(())
}
