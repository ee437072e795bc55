//! An export of one's own: a text file of `x y z r g b`, one point a line:
//! `cargo run --example custom_export -- photos/*.jpg > points.xyz`.

use std::io::{self, BufWriter, Write as _};

use mast3r::pipeline::unwatched;
use mast3r::runtime::{DeviceChoice, Precision, Runtime};
use mast3r::scene::PointFilter;
use mast3r::views::{self, Limits};
use mast3r::{Model, Reconstructor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut paths: Vec<String> = std::env::args().skip(1).collect();
    if paths.is_empty() {
        paths = (1..=3)
            .map(|number| format!("assets/demo_{number}.jpg"))
            .collect();
    }
    let runtime = Runtime::new(DeviceChoice::Auto, Precision::F32)?;
    let model = Model::open("tiny", &runtime)?;
    let views = views::load(&paths, model.framing(), &Limits::default())?;
    let scene = Reconstructor::new(&model)
        .run(&views, None, &unwatched)?
        .alignment
        .scene;

    // The most confident half of the points, as every export of the library selects them.
    let filter = PointFilter {
        keep_percentile: Some(50.0),
        ..PointFilter::default()
    };
    let mut out = BufWriter::new(io::stdout().lock());
    for point in scene.select(&filter)?.iter() {
        let ([x, y, z], [r, g, b]) = (point.position, point.rgb);
        writeln!(out, "{x} {y} {z} {r} {g} {b}")?;
    }
    out.flush()?;
    Ok(())
}
