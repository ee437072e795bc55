//! Two images in memory to a cloud of coloured points: `cargo run --example images_in_memory -- a.jpg b.jpg`.
//!
//! The images could come from a camera or a video as well: all that is needed is their pixels.

use std::ops::ControlFlow;

use mast3r::image::{self, RgbImage};
use mast3r::pipeline::Progress;
use mast3r::runtime::{DeviceChoice, Precision, Runtime};
use mast3r::views::View;
use mast3r::{Model, Reconstructor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut paths: Vec<String> = std::env::args().skip(1).collect();
    if paths.is_empty() {
        paths = vec!["assets/demo_1.jpg".into(), "assets/demo_2.jpg".into()];
    }
    let frames: Vec<RgbImage> = paths
        .iter()
        .map(|path| Ok(image::open(path)?.to_rgb8()))
        .collect::<image::ImageResult<_>>()?;

    let runtime = Runtime::new(DeviceChoice::Auto, Precision::F32)?;
    let model = Model::open("tiny", &runtime)?;
    let views = frames
        .iter()
        .enumerate()
        .map(|(index, frame)| View::from_rgb(format!("frame {index}"), frame, model.framing()))
        .collect::<mast3r::Result<Vec<View>>>()?;

    let watch = |event: Progress| {
        if let Progress::Begin(stage, _) = event {
            eprintln!("{}", stage.name());
        }
        // `Break` would cancel the run.
        ControlFlow::Continue(())
    };
    let result = Reconstructor::new(&model).run(&views, None, &watch)?;
    for view in &result.alignment.scene.views {
        let points = view
            .points
            .points
            .iter()
            .filter(|point| point[2].is_finite());
        println!(
            "{}: {} points, camera {:?}",
            view.name,
            points.count(),
            view.camera
        );
    }
    Ok(())
}
