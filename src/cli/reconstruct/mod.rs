//! `mast3r reconstruct`: pictures to cameras and a point cloud. Two pictures are solved here, more in `many`.

mod many;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use clap::{ArgGroup, Args};
use mast3r::Error;
use mast3r::export::{
    OutputFile, Pictures, Placing, PreviewOptions, SafetensorsWriter, TensorMetadata, TensorSpec, depth_files,
    draw_preview, picture_metadata, write_rgb_png,
};
use mast3r::matching::{MatchOptions, ViewMaps};
use mast3r::model::Mast3r;
use mast3r::pipeline::{ReconstructOptions, Reconstruction, Reconstructor};
use mast3r::runtime::{Precision, Runtime};
use mast3r::scene::{PointCounts, PointFilter, Scene, Thinning};
use mast3r::views::{self, Limits, View};
use serde_json::{Value, json};

use super::GlobalArgs;
use super::maps::{Found, MapArgs, MapOutputs};
use super::network::{Chosen, NetworkArgs};
use super::outputs::{self, Written};
use super::pictures::{PictureArgs, tell_identical};
use super::progress;
use super::scene::{ConsistencyArgs, SceneArgs, SceneOutputs, SceneReports, points_json};
use many::ManyArgs;

/// The network without `--model` and without a file that says otherwise.
const DEFAULT_NETWORK: &str = "mast3r";

/// The options of which one at least is given.
const OUTPUTS: [&str; 7] = ["output", "cameras", "matches", "depth", "depth_tensors", "predictions", "preview"];

/// The preview's size and angle without their options: [`PreviewOptions`]' own.
const PREVIEW_SIZE: &str = "1280x960";
const PREVIEW_ANGLE: &str = "35,20";

/// Two pictures or more to cameras and a coloured point cloud
///
/// Points are in the first camera's frame: x right, y down, z forward, in metres where the network was trained so. Of more
/// than two pictures, many pairs are predicted and all of them aligned; pictures and pairs that do not fit are named and
/// left out.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("reconstructed").required(true).multiple(true).args(OUTPUTS))]
pub struct ReconstructArgs {
    #[command(flatten)]
    pictures: PictureArgs,

    #[command(flatten)]
    scene: SceneArgs,

    /// Copy pictures into folders for other programs instead of linking to them
    #[arg(long, requires = "output")]
    copy_images: bool,

    #[command(flatten)]
    consistency: ConsistencyArgs,

    #[command(flatten)]
    maps: MapArgs,

    /// Draw the point cloud and the cameras as a PNG
    ///
    /// Of the points that are kept. Each camera is a frustum that holds its picture; where cameras cannot be solved, the
    /// first stands alone. Points that hang in the air between a near surface and a far one are not drawn.
    #[arg(long, value_name = "PNG")]
    preview: Option<PathBuf>,

    /// Size of the preview
    #[arg(long, value_name = "WIDTHxHEIGHT", default_value = PREVIEW_SIZE, value_parser = preview_size, requires = "preview")]
    preview_size: [u32; 2],

    /// Where the preview is seen from, in degrees
    ///
    /// At azimuth 0 the viewer stands behind the cameras and looks where they look; it goes around the scene to the right,
    /// at 90 looks from there, and at 180 towards the cameras. At elevation 0 it stands as high as the middle of the
    /// scene, at 90 looks down on it.
    #[arg(
        long, value_name = "AZIMUTH,ELEVATION", default_value = PREVIEW_ANGLE, value_parser = preview_angle,
        allow_hyphen_values = true, requires = "preview"
    )]
    preview_angle: [f64; 2],

    /// Write all that the network says of two pictures as safetensors
    ///
    /// pts3d.1, conf.1, desc.1, desc_conf.1 of the first picture, and the same with .2 of the second, whose points are
    /// in the first camera's frame too.
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,

    /// Decode a pair in both orders: better cameras for half as much time again
    ///
    /// Of more than two pictures, every pair is.
    #[arg(long)]
    symmetric: bool,

    /// Seek matches from every PIXELS-th pixel of every PIXELS-th row
    #[arg(long, value_name = "PIXELS", default_value_t = MatchOptions::default().subsample, value_parser = at_least_one)]
    match_step: usize,

    /// Print a JSON summary on standard output
    #[arg(long)]
    json: bool,

    // Last, because their headings would go on to what follows.
    #[command(flatten)]
    many: ManyArgs,

    #[command(flatten)]
    network: NetworkArgs,
}

/// Everything that will be written, open.
struct Outputs {
    scene: SceneFiles,
    predictions: Option<OutputFile>,
}

/// What is written of a scene, however many pictures it is of.
struct SceneFiles {
    scene: SceneOutputs,
    maps: MapOutputs,
    preview: Option<OutputFile>,
}

/// What a run has ready before the first picture is encoded.
struct Ready {
    chosen: Chosen,
    views: Vec<View>,
    runtime: Runtime,
}

impl ReconstructArgs {
    pub fn run(&self, global: &GlobalArgs) -> anyhow::Result<()> {
        let started = Instant::now();
        let pictures = self.pictures.expand(global)?;
        self.check(&pictures)?;
        if pictures.len() > 2 || self.many.is_asked_for() {
            return self.run_many(&pictures, started, global);
        }
        let outputs = self.open_outputs(&pictures)?;
        let spinner = progress::spinner(global.quiet);
        progress::show(&spinner, "load pictures");
        let Ready { chosen, views, runtime } = self.ready(&pictures, global)?;
        progress::show(&spinner, "load weights");
        let model = chosen.build(&runtime, |config, vb| Mast3r::new(config, vb, &runtime))?;
        let load_seconds = started.elapsed().as_secs_f64();

        let mut reconstructor = Reconstructor::new(&model);
        reconstructor.options = self.options();
        let result = reconstructor.run([&views[0], &views[1]], |stage| progress::show(&spinner, stage.name()))?;
        progress::show(&spinner, "write");
        let (written, exports, counts) = self.write(outputs, &result, &views, &chosen)?;
        spinner.finish_and_clear();
        let report = Report {
            result: &result,
            written: &written,
            exports: &exports,
            counts,
            load_seconds,
            total_seconds: started.elapsed().as_secs_f64(),
            chosen: &chosen,
        };
        global.say(report.line());
        written.lines().for_each(|line| global.say(line));
        if self.json {
            outputs::print_json(&report.json(global.precision()?))?;
        }
        Ok(())
    }

    /// Checks and loads pictures, and checks the network.
    fn ready(&self, pictures: &[PathBuf], global: &GlobalArgs) -> anyhow::Result<Ready> {
        let limits = Limits::default();
        if let Some(framing) = self.network.early_framing(DEFAULT_NETWORK)? {
            for picture in pictures {
                views::framed_size(picture, &framing, &limits)?;
            }
        } else {
            pictures.iter().try_for_each(|picture| views::probe(picture, &limits))?;
        }
        let runtime = global.runtime()?;
        let chosen = self.network.choose(DEFAULT_NETWORK)?;
        if chosen.checkpoint.config().two_view.is_none() {
            let way_out = "reconstruct needs a two-view network such as mast3r; encode takes this one";
            return Err(Error::Usage(format!("{} is an encoder alone; {way_out}", chosen.name)).into());
        }
        let views = views::load(pictures, &chosen.framing, &limits)?;
        tell_identical(&views, global);
        Ok(Ready { chosen, views, runtime })
    }

    /// What the arguments alone show to be wrong.
    fn check(&self, pictures: &[PathBuf]) -> mast3r::Result<()> {
        if self.json && self.scene.has_stdout() {
            return Err(Error::Usage("--json and -o - both want standard output; give one of them a file".into()));
        }
        if self.consistency.pixels().is_some() && !self.scene.is_given() && self.preview.is_none() {
            let reason = "it drops points, and neither --output nor --preview was given";
            return Err(Error::Usage(format!("--consistency: {reason}")));
        }
        self.scene.check()?;
        self.options().check().map_err(|error| Error::Usage(format!("--consistency: {error}")))?;
        self.preview_options().check().map_err(|error| Error::Usage(format!("--preview: {error}")))?;
        let files = [&self.preview, &self.predictions, &self.many.work].into_iter().flatten().map(PathBuf::as_path);
        let files = self.scene.files().chain(self.maps.files()).chain(files);
        let mut inputs = [pictures, self.network.files()].concat();
        inputs.extend(self.many.files().cloned());
        outputs::check_apart(files, &inputs)?;
        match pictures.len() {
            // A name that stands for nothing is worth more than the count.
            1 => match pictures[0].metadata() {
                Err(source) => Err(Error::unreadable(&pictures[0], source)),
                Ok(_) => Err(Error::Usage("1 image: reconstruct needs two views of a scene or more".into())),
            },
            _ => Ok(()),
        }
    }

    fn options(&self) -> ReconstructOptions {
        ReconstructOptions {
            symmetric: self.symmetric,
            matching: MatchOptions { subsample: self.match_step, ..MatchOptions::default() },
            consistency: self.consistency.pixels(),
            keep_descriptors: self.predictions.is_some(),
            ..ReconstructOptions::default()
        }
    }

    fn preview_options(&self) -> PreviewOptions {
        let ([width, height], [azimuth, elevation]) = (self.preview_size, self.preview_angle);
        PreviewOptions { width, height, azimuth, elevation, ..PreviewOptions::default() }
    }

    fn open_outputs(&self, pictures: &[PathBuf]) -> mast3r::Result<Outputs> {
        Ok(Outputs {
            scene: self.open_scene_files(pictures)?,
            predictions: outputs::file(self.predictions.as_deref())?,
        })
    }

    fn open_scene_files(&self, pictures: &[PathBuf]) -> mast3r::Result<SceneFiles> {
        let placing = if self.copy_images { Placing::Copy } else { Placing::Link };
        let pictures = Pictures::files(pictures.to_vec(), placing);
        Ok(SceneFiles {
            scene: self.scene.open(&pictures)?,
            maps: self.maps.open()?,
            preview: outputs::png(self.preview.as_deref(), "preview")?,
        })
    }

    fn write(
        &self,
        outputs: Outputs,
        result: &Reconstruction,
        views: &[View],
        chosen: &Chosen,
    ) -> anyhow::Result<(Written, SceneReports, Option<PointCounts>)> {
        let Outputs { scene, predictions } = outputs;
        self.write_scene(scene, &result.scene, Found::Two(&result.matches), |written| {
            if let Some(file) = predictions {
                let path = file.path().to_path_buf();
                write_predictions(file, &result.maps, views, chosen)?;
                written.add("predictions", &path, "raw maps");
            }
            Ok(())
        })
    }

    /// Writes what is asked for of a scene, and before standard output the `others`.
    fn write_scene(
        &self,
        outputs: SceneFiles,
        scene: &Scene,
        matches: Found<'_>,
        others: impl FnOnce(&mut Written) -> anyhow::Result<()>,
    ) -> anyhow::Result<(Written, SceneReports, Option<PointCounts>)> {
        let SceneFiles { scene: scene_outputs, maps, preview } = outputs;
        let mut written = Written::default();
        let mut drawn = None;
        let reports = scene_outputs.write(scene, &mut written, |written| {
            maps.write(scene, matches, written)?;
            if let Some(file) = preview {
                let path = file.path().to_path_buf();
                // Surfaces are drawn whole, however few points of them go into a cloud.
                let whole = PointFilter { thinning: Thinning::default(), ..self.scene.filter() };
                let points = scene.select(&whole)?;
                let image = draw_preview(&points, &self.preview_options())?;
                file.write_with(|out| write_rgb_png(&image, out))?;
                written.add("preview", &path, format!("{}x{}", image.width(), image.height()));
                drawn = Some(points.counts());
            }
            others(written)
        })?;
        let counts = reports.points().or(drawn);
        Ok((written, reports, counts))
    }
}

/// What a finished run has to say.
struct Report<'a> {
    result: &'a Reconstruction,
    written: &'a Written,
    exports: &'a SceneReports,
    counts: Option<PointCounts>,
    load_seconds: f64,
    total_seconds: f64,
    chosen: &'a Chosen,
}

impl Report<'_> {
    /// One line for a person.
    fn line(&self) -> String {
        let Self { result, load_seconds: load, total_seconds: total, chosen, .. } = self;
        let cameras = match &result.cameras {
            Ok(solved) => {
                let focals = solved.cameras.each_ref().map(|camera| camera.intrinsics.fx);
                let pose = solved.cameras[1].world_from_camera;
                format!(
                    "focal {:.1} and {:.1} px, rotation {:.2} degrees, baseline {:.4}",
                    focals[0],
                    focals[1],
                    pose.rotation.angle().to_degrees(),
                    pose.translation.vector.norm()
                )
            }
            Err(error) => format!("no cameras: {error}"),
        };
        let stages: Vec<String> =
            result.times.iter().map(|(stage, time)| format!("{} {:.2}", stage.name(), time.as_secs_f64())).collect();
        format!(
            "{}: {} matches, {cameras}; {total:.2} s (load {load:.2}, {})",
            chosen.name,
            result.matches.len(),
            stages.join(", ")
        )
    }

    /// One object for a program.
    fn json(&self, precision: Precision) -> Value {
        let Self { result, written, exports, counts, load_seconds: load, total_seconds: total, chosen } = self;
        let mut seconds = serde_json::Map::new();
        seconds.insert("load".into(), json!(load));
        for (stage, time) in &result.times {
            seconds.insert(stage.name().into(), json!(time.as_secs_f64()));
        }
        seconds.insert("total".into(), json!(total));
        let depth_files = if written.has("depth") { depth_files(&result.scene) } else { Vec::new() };
        json!({
            "model": chosen.name,
            "weights": chosen.checkpoint.describe(),
            "precision": precision.to_string(),
            "views": result.scene.views.iter().enumerate().map(|(index, view)| json!({
                "name": view.name,
                "width": view.crop.width,
                "height": view.crop.height,
                "depth_file": depth_files.get(index),
                "focal": view.camera.as_ref().map(|camera| camera.intrinsics.fx),
                "world_from_camera": view.camera.as_ref().map(|camera| {
                    let matrix = camera.world_from_camera.to_homogeneous();
                    (0..4).map(|row| (0..4).map(|column| matrix[(row, column)]).collect()).collect::<Vec<Vec<f64>>>()
                }),
            })).collect::<Vec<_>>(),
            "cameras_error": result.cameras.as_ref().err().map(Error::to_string),
            "matches": result.matches.len(),
            "points": counts.as_ref().map(points_json),
            "outputs": written.json(),
            "exports": exports.json(),
            "seconds": seconds,
        })
    }
}

fn preview_size(text: &str) -> Result<[u32; 2], String> {
    let sides = text.split_once(['x', 'X', '×']).and_then(|(width, height)| {
        let side = |digits: &str| digits.parse::<u32>().ok();
        Some([side(width)?, side(height)?])
    });
    sides.ok_or_else(|| format!("expected WIDTHxHEIGHT such as {PREVIEW_SIZE}"))
}

fn preview_angle(text: &str) -> Result<[f64; 2], String> {
    let angles = text.split_once(',').and_then(|(azimuth, elevation)| {
        let angle = |digits: &str| digits.trim().parse::<f64>().ok();
        Some([angle(azimuth)?, angle(elevation)?])
    });
    angles.ok_or_else(|| format!("expected AZIMUTH,ELEVATION in degrees, such as {PREVIEW_ANGLE}"))
}

fn at_least_one(text: &str) -> Result<usize, &'static str> {
    text.parse().map(NonZeroUsize::get).map_err(|_| "expected a whole number, 1 or more")
}

fn write_predictions(file: OutputFile, maps: &[ViewMaps; 2], views: &[View], chosen: &Chosen) -> mast3r::Result<()> {
    let mut tensors = Vec::new();
    let mut metadata = TensorMetadata::from([("model".to_string(), chosen.name.clone())]);
    for (view, (maps, picture)) in (1..).zip(maps.iter().zip(views)) {
        let (height, width) = (maps.points.height, maps.points.width);
        tensors.push(TensorSpec::new(format!("pts3d.{view}"), &[height, width, 3]));
        tensors.push(TensorSpec::new(format!("conf.{view}"), &[height, width]));
        tensors.push(TensorSpec::new(format!("desc.{view}"), &[height, width, maps.channels]));
        tensors.push(TensorSpec::new(format!("desc_conf.{view}"), &[height, width]));
        metadata.insert(format!("view.{view}"), picture_metadata(&picture.name, &picture.crop));
    }
    let path = file.path().to_path_buf();
    let mut writer = SafetensorsWriter::new(file, &path, tensors, &metadata)?;
    for (view, maps) in (1..).zip(maps) {
        writer.write(&format!("pts3d.{view}"), maps.points.points.as_flattened())?;
        writer.write(&format!("conf.{view}"), &maps.points.confidence)?;
        writer.write(&format!("desc.{view}"), &maps.descriptors)?;
        writer.write(&format!("desc_conf.{view}"), &maps.descriptor_confidence)?;
    }
    writer.commit().map(drop)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Cli, Command};
    use super::*;

    fn args(options: &str) -> ReconstructArgs {
        let line = format!("mast3r reconstruct a.png b.png --weights w.pth -o c.ply {options}");
        match Cli::parse_from(line.split_whitespace()).command {
            Command::Reconstruct(args) => args,
            _ => panic!("the line says reconstruct"),
        }
    }

    #[test]
    fn the_preview_is_drawn_by_default_as_the_library_draws_it() {
        assert_eq!(args("").preview_options(), PreviewOptions::default());
        let options = args("--preview p.png --preview-size 640x480 --preview-angle -120.5,-15").preview_options();
        assert_eq!((options.width, options.height, options.azimuth, options.elevation), (640, 480, -120.5, -15.0));
    }
}
