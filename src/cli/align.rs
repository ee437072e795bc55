//! `mast3r align`: stored predictions of pairs to cameras and a point cloud.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use mast3r::Error;
use mast3r::alignment::{
    self, AlignOptions, Alignment, CameraList, KnownCamera, PairReport, PredictionFolder, Verdict,
};
use mast3r::export::{
    CamerasFile, ExportOptions, Format, OutputFile, OutputFolder, write_colmap, write_depth, write_depth_tensors,
    write_file, write_to,
};
use mast3r::matching::MatchOptions;
use mast3r::pipeline::{ReconstructOptions, mark_contradicted};
use mast3r::scene::{PointCounts, PointFilter, Scene, SceneView};
use mast3r::views::View;
use serde_json::{Value, json};

use super::GlobalArgs;
use super::outputs::{self, CloudOutput, Written};
use super::progress;

/// Stored predictions of pairs of pictures to cameras and a coloured point cloud
///
/// Needs no network. The world is the frame of the first picture that is placed: x right, y down, z forward.
#[derive(Debug, Args)]
pub struct AlignArgs {
    /// Folder with scene.json, views.safetensors and pairs.safetensors
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,

    /// Point cloud, a .ply or .glb file; - is PLY on standard output
    ///
    /// It may be left out if something else is written. An existing file is replaced once the new one is complete.
    #[arg(short, long, value_name = "FILE", required_unless_present_any = ["cameras", "depth", "depth_tensors", "colmap"])]
    output: Option<PathBuf>,

    /// Keep points of at least this confidence; the network's begin at 1
    #[arg(long, value_name = "CONFIDENCE", allow_negative_numbers = true)]
    min_confidence: Option<f32>,

    /// Keep the most confident PERCENT of all points, above 0 to 100
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true)]
    keep_percentile: Option<f32>,

    /// Write all cameras' poses and intrinsics as JSON
    #[arg(long, value_name = "FILE")]
    cameras: Option<PathBuf>,

    /// Write depth and confidence of all pictures into a folder
    ///
    /// For each picture: depth as 16-bit PNG in millimetres (0 is unknown), depth and confidence as .npy, and a
    /// coloured preview.
    #[arg(long, value_name = "FOLDER")]
    depth: Option<PathBuf>,

    /// Write depth and confidence of all pictures as one safetensors file, which --cameras then names
    #[arg(long, value_name = "FILE")]
    depth_tensors: Option<PathBuf>,

    /// Write a sparse model as COLMAP's text files into a folder
    ///
    /// cameras.txt, images.txt and points3D.txt, at the size of the pictures, for COLMAP, Gaussian splatting and the like.
    #[arg(long, value_name = "FOLDER")]
    colmap: Option<PathBuf>,

    /// Drop points that another view contradicts by more than PIXELS
    ///
    /// As for reconstruct: a point goes if another view sees through it.
    #[arg(long, value_name = "PIXELS", allow_negative_numbers = true)]
    consistency: Option<f32>,

    /// All pictures were taken with one camera at one zoom: give them one focal length
    #[arg(long)]
    shared_focal: bool,

    /// Known focal lengths and principal points, a file as --cameras writes it; they stay as they are
    ///
    /// Pictures are known by name; of those that the file lacks, focal lengths are found.
    #[arg(long, value_name = "FILE", conflicts_with = "shared_focal")]
    intrinsics: Option<PathBuf>,

    /// Known poses, a file as --cameras writes it; they stay as they are
    ///
    /// Pictures are known by name; of those that the file lacks, poses are found. The world is then the file's, and so is
    /// the scale if it places two pictures at least.
    #[arg(long, value_name = "FILE")]
    poses: Option<PathBuf>,

    /// Print a JSON summary on standard output
    #[arg(long)]
    json: bool,
}

/// Everything that will be written, open.
struct Outputs {
    cloud: Option<CloudOutput>,
    cameras: Option<OutputFile>,
    depth: Option<OutputFolder>,
    depth_tensors: Option<OutputFile>,
    colmap: Option<OutputFolder>,
}

impl AlignArgs {
    pub fn run(&self, global: &GlobalArgs) -> anyhow::Result<()> {
        let started = Instant::now();
        self.check()?;
        let folder = PredictionFolder::open(&self.folder)?;
        let mut inputs = folder.files().map(Path::to_path_buf).to_vec();
        inputs.extend([&self.intrinsics, &self.poses].into_iter().flatten().cloned());
        outputs::check_apart(self.files(), &inputs)?;
        let views = folder.views()?;
        let options = AlignOptions { shared_focal: self.shared_focal, known: self.known(&views)? };
        let outputs = self.open_outputs()?;
        let spinner = progress::spinner(global.quiet);
        progress::show(&spinner, "align");
        let mut alignment = alignment::align(&views, folder.evidence(&MatchOptions::default()), &options)?;
        if let Some(px) = self.consistency {
            check_consistency(&mut alignment.scene, px, global)?;
        }
        let solve_seconds = started.elapsed().as_secs_f64();
        progress::show(&spinner, "write");
        let (written, counts) = self.write(outputs, &alignment)?;
        spinner.finish_and_clear();
        report(&alignment, solve_seconds, global);
        written.lines().for_each(|line| global.say(line));
        if self.json {
            let seconds = json!({ "align": solve_seconds, "total": started.elapsed().as_secs_f64() });
            outputs::print_json(&summary(&alignment, counts, &written, seconds))?;
        }
        Ok(())
    }

    /// What the arguments alone show to be wrong.
    fn check(&self) -> mast3r::Result<()> {
        if self.json && self.output.as_ref().is_some_and(|path| path.as_os_str() == "-") {
            return Err(Error::Usage("--json and -o - both want standard output; give one of them a file".into()));
        }
        ReconstructOptions { consistency: self.consistency, ..ReconstructOptions::default() }.check()?;
        self.filter().check()
    }

    fn filter(&self) -> PointFilter {
        PointFilter { min_confidence: self.min_confidence, keep_percentile: self.keep_percentile }
    }

    fn known(&self, views: &[View]) -> mast3r::Result<Vec<KnownCamera>> {
        let mut known = vec![KnownCamera::default(); views.len()];
        if let Some(path) = &self.intrinsics {
            CameraList::open(path)?.set_intrinsics(views, &mut known)?;
        }
        if let Some(path) = &self.poses {
            CameraList::open(path)?.set_poses(views, &mut known)?;
        }
        Ok(known)
    }

    fn files(&self) -> impl Iterator<Item = &Path> {
        [&self.output, &self.cameras, &self.depth, &self.depth_tensors, &self.colmap]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
    }

    fn open_outputs(&self) -> mast3r::Result<Outputs> {
        Ok(Outputs {
            cloud: self.output.as_deref().map(CloudOutput::open).transpose()?,
            cameras: outputs::file(self.cameras.as_deref())?,
            depth: outputs::folder(self.depth.as_deref())?,
            depth_tensors: outputs::file(self.depth_tensors.as_deref())?,
            colmap: outputs::folder(self.colmap.as_deref())?,
        })
    }

    fn write(&self, outputs: Outputs, alignment: &Alignment) -> anyhow::Result<(Written, Option<PointCounts>)> {
        let scene = &alignment.scene;
        let mut written = Written::default();
        let mut counts = None;
        let mut to_stdout = false;
        let options = ExportOptions { filter: self.filter() };
        let detail = |counts: &PointCounts| format!("{} of {} points", counts.kept, counts.total);
        match outputs.cloud {
            Some(CloudOutput::File(format, file)) => {
                let path = file.path().to_path_buf();
                let kept = write_file(scene, format, &options, file)?;
                written.add("cloud", &path, detail(&kept));
                counts = Some(kept);
            }
            Some(CloudOutput::Stdout) => to_stdout = true,
            None => {}
        }
        if let Some(file) = outputs.depth_tensors {
            let path = file.path().to_path_buf();
            let count = write_depth_tensors(scene, file)?;
            written.add("depth_tensors", &path, format!("{count} maps"));
        }
        if let Some(file) = outputs.cameras {
            let path = file.path().to_path_buf();
            let mut cameras = CamerasFile::new(scene)?;
            cameras.depths = self.depth_tensors.as_deref().map(|depths| beside(depths, &path)).transpose()?;
            file.write_with(|out| cameras.write(out))?;
            written.add("cameras", &path, "poses and intrinsics");
        }
        if let Some(folder) = outputs.depth {
            let path = folder.path().to_path_buf();
            let reports = write_depth(scene, folder)?;
            let unknown: usize = reports.iter().map(|report| report.unknown).sum();
            written.add("depth", &path, format!("{unknown} unknown"));
        }
        if let Some(folder) = outputs.colmap {
            let path = folder.path().to_path_buf();
            let model = write_colmap(scene, &options, folder)?;
            written.add("colmap", &path, format!("{} images, {} points", model.images, model.points));
        }
        // Last, because its reader may go away before the end.
        if to_stdout {
            let kept = write_to(scene, Format::Ply, &options, &mut io::stdout().lock())?;
            written.add("cloud", Path::new("standard output"), detail(&kept));
            counts = Some(kept);
        }
        Ok((written, counts))
    }
}

/// Marks the contradicted points of the pictures that have a camera; the others have no points.
fn check_consistency(scene: &mut Scene, px: f32, global: &GlobalArgs) -> mast3r::Result<()> {
    let views = std::mem::take(&mut scene.views).into_iter().enumerate();
    let (placed, mut all): (Vec<_>, Vec<_>) = views.partition(|(_, view)| view.camera.is_some());
    let (indices, views): (Vec<usize>, Vec<SceneView>) = placed.into_iter().unzip();
    let mut placed = Scene { views };
    mark_contradicted(&mut placed, px, global.runtime()?.device())?;
    all.extend(indices.into_iter().zip(placed.views));
    all.sort_by_key(|(index, _)| *index);
    scene.views = all.into_iter().map(|(_, view)| view).collect();
    Ok(())
}

/// How the file `of` names `path`: by its name alone if they lie in one folder.
fn beside(path: &Path, of: &Path) -> mast3r::Result<String> {
    let whole = |path: &Path| path.canonicalize().map_err(|error| Error::io(path, error));
    let (path, folder) = (whole(path)?, of.parent().filter(|folder| !folder.as_os_str().is_empty()));
    let folder = whole(folder.unwrap_or(Path::new(".")))?;
    let name = if path.parent() == Some(&folder) { Path::new(path.file_name().unwrap_or_default()) } else { &path };
    Ok(name.to_string_lossy().into_owned())
}

fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Used => "used",
        Verdict::Unsound => "unsound",
        Verdict::Contradicts => "contradicts",
        Verdict::Misfit => "misfit",
        Verdict::Apart => "apart",
    }
}

/// For a person: a line on the whole, and one for each picture and pair that was left out.
fn report(alignment: &Alignment, seconds: f64, global: &GlobalArgs) {
    let names: Vec<&str> = alignment.scene.views.iter().map(|view| view.name.as_str()).collect();
    let placed = alignment.views.iter().filter(|view| view.placed).count();
    let used = alignment.pairs.iter().filter(|pair| pair.verdict == Verdict::Used).count();
    let (views, pairs) = (alignment.views.len(), alignment.pairs.len());
    global.say(format_args!("{placed} of {views} pictures placed, by {used} of {pairs} pairs; {seconds:.2} s"));
    for (name, view) in names.iter().zip(&alignment.views) {
        if !view.placed {
            global.say(format_args!("  {name} is left out: no sound pair connects it to the others"));
        }
    }
    for pair in &alignment.pairs {
        let reason = match pair.verdict {
            Verdict::Used | Verdict::Apart => continue,
            Verdict::Unsound => "its maps and matches do not agree, or its maps with those of other pairs",
            Verdict::Contradicts => "it contradicts the pairs around it",
            Verdict::Misfit => "its matches do not fit the cameras",
        };
        let [first, second] = [pair.pair.first, pair.pair.second].map(|view| names[view]);
        global.say(format_args!("  the pair {first}, {second} is left out: {reason}"));
    }
}

/// One object for a program.
fn summary(alignment: &Alignment, counts: Option<PointCounts>, written: &Written, seconds: Value) -> Value {
    let views: Vec<Value> = alignment
        .scene
        .views
        .iter()
        .zip(&alignment.views)
        .map(|(view, report)| {
            json!({
                "name": view.name,
                "placed": report.placed,
                "focal": view.camera.as_ref().map(|camera| camera.intrinsics.fx),
                "inlier_share": report.inlier_share,
                "reprojection_px": report.reprojection_px,
            })
        })
        .collect();
    let pair = |report: &PairReport| {
        json!({
            "pair": [report.pair.first, report.pair.second],
            "matches": report.matches,
            "verdict": verdict_name(report.verdict),
            "inlier_share": report.inlier_share,
        })
    };
    json!({
        "views": views,
        "pairs": alignment.pairs.iter().map(pair).collect::<Vec<_>>(),
        "points": counts.map(|counts| json!({
            "total": counts.total,
            "not_finite": counts.not_finite,
            "contradicted": counts.contradicted,
            "below_min_confidence": counts.below_min_confidence,
            "below_percentile": counts.below_percentile,
            "kept": counts.kept,
        })),
        "outputs": written.json(),
        "seconds": seconds,
    })
}
