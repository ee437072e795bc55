//! `mast3r evaluate`: camera poses compared with a reference.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use mast3r::evaluation::{
    AUC_DEGREES, Cameras, Evaluation, ImageErrors, PlotLabels, TrajectoryErrors, TrajectoryFit,
    write_plot,
};
use mast3r::{Error, Result, Visible};
use serde_json::{Value, json};

use crate::GlobalArgs;
use crate::align;
use crate::images::named;
use crate::outputs::{self, Written};

/// The list of images of a folder of predictions.
const PREDICTIONS: &str = "scene.json";
/// Version of the layout of `--json`.
const VERSION: u32 = 1;

/// Compare camera poses with a reference: pose AUC, trajectory, rotation and focal length errors
///
/// CAMERAS and REFERENCE are each a file written by --cameras, nerfstudio's transforms.json, a TUM
/// trajectory, the folder of a COLMAP model, or a work folder, which is aligned first, without the
/// refinement.
/// Images are matched by name, with or without folders and extension; those of a trajectory by the
/// times that images are named after, or else by their indices.
///
/// The pose error of two images is the larger of the angles between their relative rotations and
/// between the directions of their relative translations; images of the reference without a pose
/// count as 180 degrees. Units of positions are the reference's.
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    /// Cameras to evaluate
    #[arg(value_name = "CAMERAS")]
    cameras: PathBuf,

    /// Reference cameras (ground truth)
    #[arg(value_name = "REFERENCE")]
    reference: PathBuf,

    /// Similarity transform that aligns the camera centres with the reference
    #[arg(long, value_name = "FIT", value_enum, default_value_t)]
    fit: Fit,

    /// Draw the cumulative error curve and both trajectories from above
    #[arg(long, value_name = "SVG")]
    plot: Option<PathBuf>,

    /// Print JSON on standard output instead of the table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Fit {
    /// Least squares (Umeyama)
    #[default]
    LeastSquares,
    /// Least sum of distances, robust to a few wrong cameras
    Robust,
}

impl EvaluateArgs {
    pub fn run(&self, global: &GlobalArgs) -> anyhow::Result<()> {
        let inputs = [self.cameras.clone(), self.reference.clone()];
        outputs::check_apart(self.plot.as_deref(), &inputs)?;
        if let Some(plot) = &self.plot
            && !plot
                .extension()
                .is_some_and(|extension| extension.eq_ignore_ascii_case("svg"))
        {
            let reason = "the drawing is an SVG; name it .svg";
            return Err(Error::Usage(format!("{}: {reason}", plot.display())).into());
        }
        let plot = outputs::file(self.plot.as_deref())?;
        let estimate = open(&self.cameras, global)?;
        let reference = open(&self.reference, global)?;
        let fit = match self.fit {
            Fit::LeastSquares => TrajectoryFit::LeastSquares,
            Fit::Robust => TrajectoryFit::Robust,
        };
        let found = Evaluation::new(&estimate, &reference, fit)?;
        let mut written = Written::default();
        if let Some(file) = plot {
            let path = file.path().to_path_buf();
            let labels = PlotLabels {
                estimate: &self.cameras.to_string_lossy(),
                reference: &self.reference.to_string_lossy(),
            };
            let drawn = file.write_with(|out| write_plot(&found, labels, out));
            written.note("plot", &path, drawn.map(|()| "SVG".into()));
        }
        self.tell_unmatched(&found, global);
        written.lines().for_each(|line| global.say(line));
        let printed = match self.json {
            true => outputs::print_json(&summary(&found)),
            false => print(&found),
        };
        if let Err(error) = printed {
            written.fail("table", Path::new(outputs::STDOUT), error);
        }
        written.finish()
    }

    /// Names the images that are in one of both alone.
    fn tell_unmatched(&self, found: &Evaluation, global: &GlobalArgs) {
        if !found.unknown.is_empty() {
            global.say(format_args!(
                "{} images are not in {}: {}",
                found.unknown.len(),
                self.reference.display(),
                named(found.unknown.clone())
            ));
        }
        let missing: Vec<String> = found
            .images
            .iter()
            .filter(|image| !image.is_listed)
            .map(|image| image.name.clone())
            .collect();
        if !missing.is_empty() {
            global.say(format_args!(
                "{} images are not in {}, and count as unregistered: {}",
                missing.len(),
                self.cameras.display(),
                named(missing)
            ));
        }
    }
}

/// The cameras of `path`; those of a folder of predictions are aligned.
fn open(path: &Path, global: &GlobalArgs) -> Result<Cameras> {
    let folder = match path.file_name() {
        Some(name) if name == PREDICTIONS && path.is_file() => path.parent(),
        _ => Some(path),
    };
    let folder = folder.filter(|folder| folder.join(PREDICTIONS).is_file());
    let Some(folder) = folder else {
        return Cameras::open(path);
    };
    global.say(format_args!(
        "{}: predictions, aligned without the refinement",
        path.display()
    ));
    let alignment = align::without_refinement(folder)?;
    if let Some(reason) = alignment.cameras_error {
        return Err(Error::NoCameras {
            what: format!("the evaluation of {}", path.display()),
            reason,
        });
    }
    Cameras::of_scene(&alignment.scene, path)
}

/// Writes the table for a person.
fn print(found: &Evaluation) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(table(found).as_bytes())?;
    out.flush()
}

fn table(found: &Evaluation) -> String {
    let mut lines = String::new();
    let name = |image: &ImageErrors| Visible(&image.name).to_string();
    let width = found
        .images
        .iter()
        .map(|image| name(image).chars().count())
        .max();
    let width = width.unwrap_or(0).max("image".len());
    let cell = |value: Option<f64>, decimals: usize| {
        value.map_or("-".into(), |value| format!("{value:.decimals$}"))
    };
    let percent = |value: Option<f64>| cell(value.map(|value| 100.0 * value), 2);
    // Writing into a string cannot fail.
    let mut row = |name: &str, cells: [String; 6]| {
        let [rotation, centre, pose, focal, of, error] = cells;
        let _ = writeln!(
            lines,
            "{name:width$}  {rotation:>10}  {centre:>10}  {pose:>10}  {focal:>10}  {of:>10}  {error:>8}"
        );
    };
    row(
        "image",
        ["rotation", "centre", "pairs", "focal", "reference", "error"].map(String::from),
    );
    row(
        "",
        ["deg", "units", "deg", "px", "px", "%"].map(String::from),
    );
    for image in &found.images {
        if image.estimate.is_none() {
            let why = if image.is_listed {
                "no pose"
            } else {
                "missing"
            };
            row(
                &name(image),
                [why, "-", "-", "-", "-", "-"].map(String::from),
            );
            continue;
        }
        let [own, of] = image.focals.map_or([None; 2], |focals| focals.map(Some));
        row(
            &name(image),
            [
                cell(image.rotation, 3),
                cell(image.centre, 4),
                cell(image.pose, 3),
                cell(own, 1),
                cell(of, 1),
                percent(image.focal()),
            ],
        );
    }
    lines.push('\n');
    let _ = writeln!(
        lines,
        "registered            {} of {} images, {} pairs",
        found.registered(),
        found.images.len(),
        found.pairs.len()
    );
    let auc = |values: [f64; 4]| values.map(|auc| format!("{:.1}", 100.0 * auc)).join("  ");
    let degrees = AUC_DEGREES.map(|degrees| degrees.to_string()).join("/");
    let _ = writeln!(lines, "pose AUC@{degrees}   {}", auc(found.auc()));
    if found.registered() < found.images.len() {
        let _ = writeln!(
            lines,
            "of registered images  {}",
            auc(found.auc_registered())
        );
    }
    if let Some([rotation, direction]) = found.medians() {
        let _ = writeln!(
            lines,
            "median of pairs       rotation {rotation:.3} deg, direction {direction:.3} deg"
        );
    }
    let _ = match &found.trajectory {
        None => writeln!(
            lines,
            "trajectory            fewer than three poses in different places"
        ),
        Some(TrajectoryErrors {
            rmse,
            mean,
            median,
            max,
            extent,
            similarity,
            ..
        }) => writeln!(
            lines,
            "trajectory            RMSE {rmse:.4}, mean {mean:.4}, median {median:.4}, largest {max:.4}; RMSE {:.3} % of \
             the extent {extent:.4}; scale {:.6}",
            100.0 * rmse / extent,
            similarity.scaling()
        ),
    };
    if found
        .trajectory
        .is_some_and(|trajectory| trajectory.is_on_a_line)
    {
        lines.push_str("                      centres on a line: aligned by the orientations\n");
    }
    if let Some(focal) = found.focal() {
        let _ = writeln!(
            lines,
            "focal length          median error {:.2} %",
            100.0 * focal
        );
    }
    lines
}

/// The same for a program.
fn summary(found: &Evaluation) -> Value {
    let image = |image: &ImageErrors| {
        json!({
            "name": image.name,
            "listed": image.is_listed,
            "registered": image.estimate.is_some(),
            "rotation_deg": image.rotation,
            "centre": image.centre,
            "pairs_deg": image.pose,
            "focal_px": image.focals.map(|[own, _]| own),
            "reference_focal_px": image.focals.map(|[_, of]| of),
            "focal_error": image.focal(),
        })
    };
    let aucs = |values: [f64; 4]| -> Value {
        AUC_DEGREES
            .iter()
            .zip(values)
            .map(|(degrees, auc)| (degrees.to_string(), json!(auc)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let rows =
        |trajectory: &TrajectoryErrors| outputs::rows(&trajectory.similarity.to_homogeneous());
    let medians = found.medians();
    json!({
        "format": "mast3r-evaluation",
        "version": VERSION,
        "images": found.images.iter().map(image).collect::<Vec<_>>(),
        "unknown_images": found.unknown,
        "registered": found.registered(),
        "pairs": found.pairs.len(),
        "auc": aucs(found.auc()),
        "auc_registered": aucs(found.auc_registered()),
        "median_rotation_deg": medians.map(|[rotation, _]| rotation),
        "median_direction_deg": medians.map(|[_, direction]| direction),
        "median_focal_error": found.focal(),
        "trajectory": found.trajectory.as_ref().map(|trajectory| json!({
            "rmse": trajectory.rmse,
            "mean": trajectory.mean,
            "median": trajectory.median,
            "max": trajectory.max,
            "extent": trajectory.extent,
            "scale": trajectory.similarity.scaling(),
            "on_a_line": trajectory.is_on_a_line,
            "reference_from_cameras": rows(trajectory),
        })),
    })
}
