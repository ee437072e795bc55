//! `mast3r reconstruct`: two pictures to a point cloud.

use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use mast3r::Error;
use mast3r::export::{
    CamerasFile, ExportOptions, Format, OutputFile, OutputFolder, PreviewOptions, SafetensorsWriter, TensorMetadata,
    TensorSpec, draw_preview, picture_metadata, write_depth, write_file, write_matches, write_rgb_png, write_to,
};
use mast3r::matching::MatchOptions;
use mast3r::model::Mast3r;
use mast3r::pipeline::{ReconstructOptions, Reconstruction, Reconstructor, ViewMaps};
use mast3r::runtime::Precision;
use mast3r::scene::{PointCounts, PointFilter};
use mast3r::views::{self, Limits, View};
use serde_json::{Value, json};

use super::GlobalArgs;
use super::network::{Chosen, NetworkArgs};
use super::outputs::{self, CloudOutput, Written};
use super::progress;

/// The network without `--model` and without a file that says otherwise.
const DEFAULT_NETWORK: &str = "mast3r";

/// The preview's size and angle without their options: [`PreviewOptions`]' own.
const PREVIEW_SIZE: &str = "1280x960";
const PREVIEW_ANGLE: &str = "35,20";

/// Two pictures to a coloured point cloud
///
/// Points are in the first camera's frame: x right, y down, z forward, in metres where the network was trained so.
#[derive(Debug, Args)]
pub struct ReconstructArgs {
    /// The two pictures: JPEG, PNG, WebP, TIFF or BMP
    #[arg(value_name = "PICTURE", required = true)]
    pictures: Vec<PathBuf>,

    /// Point cloud, a .ply or .glb file; - is PLY on standard output
    ///
    /// It may be left out if something else is written. An existing file is replaced once the new one is complete.
    #[arg(short, long, value_name = "FILE", required_unless_present_any = ["cameras", "matches", "depth", "predictions", "preview"])]
    output: Option<PathBuf>,

    /// Keep points of at least this confidence; the network's begin at 1
    #[arg(long, value_name = "CONFIDENCE", allow_negative_numbers = true)]
    min_confidence: Option<f32>,

    /// Keep the most confident PERCENT of all points, above 0 to 100
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true)]
    keep_percentile: Option<f32>,

    /// Drop points that the other view contradicts by more than PIXELS
    ///
    /// A point goes if the other view sees through it: if it floats in front of what the other view shows at its place,
    /// by more than PIXELS of reprojection error in its own picture at the network's size, and is not more confident
    /// than that. A point that is hidden in the other picture, or lies outside it, stays. 1 to 3 is usual. It works
    /// beside the rules for confidence, which count all points as if it were not there, and applies to the point cloud
    /// and its preview alone. Without cameras, as with random weights, it is an error.
    #[arg(long, value_name = "PIXELS", allow_negative_numbers = true)]
    consistency: Option<f32>,

    /// Write both cameras' poses and intrinsics as JSON
    #[arg(long, value_name = "FILE")]
    cameras: Option<PathBuf>,

    /// Write pixels that show the same point as CSV
    #[arg(long, value_name = "FILE")]
    matches: Option<PathBuf>,

    /// Write depth and confidence of both pictures into a folder
    ///
    /// For each picture: depth as 16-bit PNG in millimetres (0 is unknown), depth and confidence as .npy, and a
    /// coloured preview.
    #[arg(long, value_name = "FOLDER")]
    depth: Option<PathBuf>,

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

    /// Write all that the network says as safetensors
    ///
    /// pts3d.1, conf.1, desc.1, desc_conf.1 of the first picture, and the same with .2 of the second, whose points are
    /// in the first camera's frame too.
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,

    /// Decode the pair in both orders: better cameras for half as much time again
    #[arg(long)]
    symmetric: bool,

    /// Seek matches from every PIXELS-th pixel of every PIXELS-th row
    #[arg(long, value_name = "PIXELS", default_value_t = MatchOptions::default().subsample, value_parser = at_least_one)]
    match_step: usize,

    /// Print a JSON summary on standard output
    #[arg(long)]
    json: bool,

    // Last, because its heading would go on to what follows.
    #[command(flatten)]
    network: NetworkArgs,
}

/// Everything that will be written, open.
struct Outputs {
    cloud: Option<CloudOutput>,
    cameras: Option<OutputFile>,
    matches: Option<OutputFile>,
    depth: Option<OutputFolder>,
    preview: Option<OutputFile>,
    predictions: Option<OutputFile>,
}

impl ReconstructArgs {
    pub fn run(&self, global: &GlobalArgs) -> anyhow::Result<()> {
        let started = Instant::now();
        let pictures = self.check()?;
        let outputs = self.open_outputs()?;
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
        let spinner = progress::spinner(global.quiet);
        progress::show(&spinner, "load weights");
        let model = chosen.build(&runtime, |config, vb| Mast3r::new(config, vb, &runtime))?;
        let load_seconds = started.elapsed().as_secs_f64();

        let mut reconstructor = Reconstructor::new(&model);
        reconstructor.options = self.options();
        let result = reconstructor.run([&views[0], &views[1]], |stage| progress::show(&spinner, stage.name()))?;
        progress::show(&spinner, "write");
        let (written, counts) = self.write(outputs, &result, &views, &chosen)?;
        spinner.finish_and_clear();
        let report = Report {
            result: &result,
            written: &written,
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

    /// What the arguments alone show to be wrong.
    fn check(&self) -> mast3r::Result<&[PathBuf; 2]> {
        if self.json && self.output.as_ref().is_some_and(|path| path.as_os_str() == "-") {
            return Err(Error::Usage("--json and -o - both want standard output; give one of them a file".into()));
        }
        if self.consistency.is_some() && self.output.is_none() && self.preview.is_none() {
            let reason = "it drops points, and neither --output nor --preview was given";
            return Err(Error::Usage(format!("--consistency: {reason}")));
        }
        let PointFilter { min_confidence, keep_percentile } = self.filter();
        for (flag, filter) in [
            ("--min-confidence", PointFilter { min_confidence, ..PointFilter::default() }),
            ("--keep-percentile", PointFilter { keep_percentile, ..PointFilter::default() }),
        ] {
            filter.check().map_err(|error| Error::Usage(format!("{flag}: {error}")))?;
        }
        self.options().check().map_err(|error| Error::Usage(format!("--consistency: {error}")))?;
        self.preview_options().check().map_err(|error| Error::Usage(format!("--preview: {error}")))?;
        let files = [&self.output, &self.cameras, &self.matches, &self.depth, &self.preview, &self.predictions];
        let inputs = [&self.pictures, self.network.files()].concat();
        outputs::check_apart(files.into_iter().flatten().map(PathBuf::as_path), &inputs)?;
        <&[PathBuf; 2]>::try_from(&self.pictures[..]).map_err(|_| {
            let more = "more than two pictures cannot be reconstructed yet; run it on pairs";
            let count = self.pictures.len();
            Error::Usage(if count > 2 {
                format!("{count} pictures: {more}")
            } else {
                format!("{count} picture: reconstruct needs two views of a scene")
            })
        })
    }

    fn filter(&self) -> PointFilter {
        PointFilter { min_confidence: self.min_confidence, keep_percentile: self.keep_percentile }
    }

    fn options(&self) -> ReconstructOptions {
        ReconstructOptions {
            symmetric: self.symmetric,
            matching: MatchOptions { subsample: self.match_step, ..MatchOptions::default() },
            consistency: self.consistency,
            ..ReconstructOptions::default()
        }
    }

    fn preview_options(&self) -> PreviewOptions {
        let ([width, height], [azimuth, elevation]) = (self.preview_size, self.preview_angle);
        PreviewOptions { width, height, azimuth, elevation, ..PreviewOptions::default() }
    }

    /// How many points a cloud has, for a person.
    fn cloud_detail(&self, counts: &PointCounts) -> String {
        let contradicted = match self.consistency {
            Some(px) => format!(", {} contradicted by more than {px} px", counts.contradicted),
            None => String::new(),
        };
        format!("{} of {} points{contradicted}", counts.kept, counts.total)
    }

    fn open_outputs(&self) -> mast3r::Result<Outputs> {
        Ok(Outputs {
            cloud: self.output.as_deref().map(CloudOutput::open).transpose()?,
            cameras: outputs::file(self.cameras.as_deref())?,
            matches: outputs::file(self.matches.as_deref())?,
            depth: outputs::folder(self.depth.as_deref())?,
            preview: outputs::png(self.preview.as_deref(), "preview")?,
            predictions: outputs::file(self.predictions.as_deref())?,
        })
    }

    fn write(
        &self,
        outputs: Outputs,
        result: &Reconstruction,
        views: &[View],
        chosen: &Chosen,
    ) -> anyhow::Result<(Written, Option<PointCounts>)> {
        let mut written = Written::default();
        let mut counts = None;
        let mut to_stdout = false;
        let options = ExportOptions { filter: self.filter() };
        match outputs.cloud {
            Some(CloudOutput::File(format, file)) => {
                let path = file.path().to_path_buf();
                let kept = write_file(&result.scene, format, &options, file)?;
                written.add("cloud", &path, self.cloud_detail(&kept));
                counts = Some(kept);
            }
            Some(CloudOutput::Stdout) => to_stdout = true,
            None => {}
        }
        if let Some(file) = outputs.cameras {
            let path = file.path().to_path_buf();
            let cameras = CamerasFile::new(&result.scene)?;
            file.write_with(|out| cameras.write(out))?;
            let detail = if result.cameras.is_ok() { "poses and intrinsics" } else { "without poses" };
            written.add("cameras", &path, detail);
        }
        if let Some(file) = outputs.matches {
            let path = file.path().to_path_buf();
            file.write_with(|out| write_matches(&result.matches, &views[0].crop, &views[1].crop, out))?;
            written.add("matches", &path, format!("{} matches", result.matches.len()));
        }
        if let Some(folder) = outputs.depth {
            let path = folder.path().to_path_buf();
            let reports = write_depth(&result.scene, folder)?;
            let unknown: usize = reports.iter().map(|report| report.unknown).sum();
            let saturated: usize = reports.iter().map(|report| report.saturated).sum();
            written.add("depth", &path, format!("{unknown} unknown, {saturated} beyond 16 bits"));
        }
        if let Some(file) = outputs.preview {
            let path = file.path().to_path_buf();
            let points = result.scene.select(&options.filter)?;
            let image = draw_preview(&points, &self.preview_options())?;
            file.write_with(|out| write_rgb_png(&image, out))?;
            written.add("preview", &path, format!("{}x{}", image.width(), image.height()));
            counts = Some(points.counts());
        }
        if let Some(file) = outputs.predictions {
            let path = file.path().to_path_buf();
            write_predictions(file, &result.maps, views, chosen)?;
            written.add("predictions", &path, "raw maps");
        }
        // Last, because its reader may go away before the end.
        if to_stdout {
            let kept = write_to(&result.scene, Format::Ply, &options, &mut io::stdout().lock())?;
            written.add("cloud", Path::new("standard output"), self.cloud_detail(&kept));
            counts = Some(kept);
        }
        Ok((written, counts))
    }
}

/// What a finished run has to say.
struct Report<'a> {
    result: &'a Reconstruction,
    written: &'a Written,
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
        let Self { result, written, counts, load_seconds: load, total_seconds: total, chosen } = self;
        let mut seconds = serde_json::Map::new();
        seconds.insert("load".into(), json!(load));
        for (stage, time) in &result.times {
            seconds.insert(stage.name().into(), json!(time.as_secs_f64()));
        }
        seconds.insert("total".into(), json!(total));
        json!({
            "model": chosen.name,
            "weights": chosen.checkpoint.describe(),
            "precision": precision.to_string(),
            "views": result.scene.views.iter().map(|view| json!({
                "name": view.name,
                "width": view.crop.width,
                "height": view.crop.height,
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
            "seconds": seconds,
        })
    }
}

/// What became of a cloud's points: all numbers but the first add up to it.
fn points_json(counts: &PointCounts) -> Value {
    json!({
        "total": counts.total,
        "not_finite": counts.not_finite,
        "contradicted": counts.contradicted,
        "below_min_confidence": counts.below_min_confidence,
        "below_percentile": counts.below_percentile,
        "kept": counts.kept,
    })
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

fn at_least_one(text: &str) -> Result<usize, std::num::ParseIntError> {
    text.parse().map(NonZeroUsize::get)
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

    #[test]
    fn contradicted_points_are_reported_where_they_were_sought() {
        let counts = PointCounts {
            total: 100,
            not_finite: 1,
            contradicted: 7,
            below_min_confidence: 20,
            below_percentile: 30,
            kept: 42,
        };
        assert_eq!(args("").cloud_detail(&counts), "42 of 100 points");
        let detail = args("--consistency 1.5").cloud_detail(&counts);
        assert_eq!(detail, "42 of 100 points, 7 contradicted by more than 1.5 px");
        assert_eq!(args("--consistency 1.5").options().consistency, Some(1.5));
        let points = points_json(&counts);
        assert_eq!((&points["contradicted"], &points["kept"]), (&7.into(), &42.into()));
        let all: u64 = points.as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
        assert_eq!(all, 2 * 100);
    }
}
