//! Everything that is written of a scene, whatever command made it, and its summary for programs.

use std::path::Path;

use clap::Args;
use mast3r::alignment::{Alignment, PairReport, Verdict};
use mast3r::export::{Images, depth_files};
use mast3r::pipeline::{check_consistency, mark_contradicted};
use mast3r::runtime::Device;
use mast3r::scene::PointCounts;
use mast3r::{Error, Result};
use serde_json::{Value, json};

use crate::GlobalArgs;
use crate::frame::{FrameArgs, Framed};
use crate::maps::{Found, MapArgs, MapOutputs};
use crate::outputs::{self, Written};
use crate::preview::{PreviewArgs, PreviewOutput};
use crate::scene::{ConsistencyArgs, SceneArgs, SceneOutputs, SceneReports, points_json};

/// The outputs of a scene as they were asked for.
#[derive(Debug, Args)]
pub struct ResultArgs {
    #[command(flatten)]
    pub scene: SceneArgs,

    #[command(flatten)]
    consistency: ConsistencyArgs,

    #[command(flatten)]
    pub maps: MapArgs,

    #[command(flatten)]
    preview: PreviewArgs,

    #[command(flatten)]
    pub frame: FrameArgs,

    /// Print a JSON summary on standard output
    #[arg(long)]
    json: bool,
}

/// The outputs of a scene, open.
#[derive(Debug)]
pub struct ResultOutputs {
    scene: SceneOutputs,
    maps: MapOutputs,
    preview: Option<PreviewOutput>,
}

/// What became of the outputs.
#[derive(Debug)]
pub struct Results {
    written: Written,
    exports: SceneReports,
    counts: Option<PointCounts>,
}

impl ResultArgs {
    /// Whether a summary is printed for a program.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// What the arguments alone show to be wrong.
    pub fn check(&self) -> Result<()> {
        if self.json && self.scene.has_stdout() {
            return Err(Error::Usage(
                "--json and -o - both want standard output; give one of them a file".into(),
            ));
        }
        if let Some(px) = self.consistency.pixels() {
            if !self.scene.is_given() && self.preview.file().is_none() {
                let reason = "it drops points, and neither --output nor --preview was given";
                return Err(Error::Usage(format!("--consistency: {reason}")));
            }
            check_consistency(px)
                .map_err(|error| Error::Usage(format!("--consistency: {error}")))?;
        }
        self.scene.check()?;
        self.preview.check()
    }

    /// The files and folders.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.scene
            .files()
            .chain(self.maps.files())
            .chain(self.preview.file())
    }

    /// Opens all of them.
    pub fn open(&self, images: &Images) -> Result<ResultOutputs> {
        Ok(ResultOutputs {
            scene: self.scene.open(images)?,
            maps: self.maps.open()?,
            preview: self.preview.open()?,
        })
    }

    /// Whether points are checked against other views.
    pub fn checks_views(&self) -> bool {
        self.consistency.pixels().is_some()
    }

    /// Checks points against other views if that is asked for. What cannot be checked is the
    /// outputs' loss, not the run's.
    pub fn check_views(&self, alignment: &mut Alignment, device: &Device) -> Result<()> {
        self.consistency.pixels().map_or(Ok(()), |px| {
            mark_contradicted(&mut alignment.scene, px, device)
        })
    }

    /// Tells a person and a program what became of a run, and ends it: with an error if anything
    /// failed. If nothing at all was written, the error says everything.
    pub fn conclude(
        &self,
        mut results: Results,
        mut framed: Framed,
        alignment: &Alignment,
        global: &GlobalArgs,
        say: impl FnOnce(),
        summary: impl FnOnce(Value) -> Result<Value>,
    ) -> anyhow::Result<()> {
        if let Some(error) = framed.take_error() {
            results.written.fail_run("frame", error);
        }
        if !results.written.is_in_vain() {
            say();
            framed.say(alignment, global);
            if alignment.scene.is_far() {
                let [x, y, z] = alignment.scene.origin.into();
                global.say(format_args!(
                    "  the scene lies far from the world's origin: .ply has float64 coordinates, .glb and nerfstudio \
                     outputs are relative to ({x}, {y}, {z})"
                ));
            }
            results.written.lines().for_each(|line| global.say(line));
        }
        let Results {
            mut written,
            exports,
            counts,
        } = results;
        if self.json && !written.is_in_vain() {
            let frame = framed.json();
            let mut common = common_summary(alignment, &written, &exports, counts);
            common["frame"] = frame;
            let summary = summary(common)?;
            if let Err(error) = outputs::print_json(&summary) {
                written.fail("summary", Path::new(outputs::STDOUT), error);
            }
        }
        written.finish()
    }
}

impl ResultOutputs {
    /// Writes all of them, and before standard output the `others`. One that cannot be written does
    /// not keep the rest from it. `checked` is whether points could be checked against other views,
    /// on which clouds and models depend.
    pub fn write(
        self,
        alignment: &Alignment,
        found: Found<'_>,
        checked: Result<()>,
        others: impl FnOnce(&mut Written),
    ) -> Results {
        let Self {
            scene: outputs,
            maps,
            preview,
        } = self;
        let scene = &alignment.scene;
        let mut written = Written::default();
        let mut drawn = None;
        let filter = outputs.filter();
        let exports = outputs.write(scene, &checked, &mut written, |written| {
            maps.write(scene, found, written);
            if let Some(preview) = preview {
                let path = preview.path().to_path_buf();
                let detail =
                    outputs::repeated(&checked).and_then(|()| preview.write(scene, &filter));
                let detail = detail.map(|(counts, detail)| {
                    drawn = Some(counts);
                    detail
                });
                written.note("preview", &path, detail);
            }
            others(written);
        });
        // Last, because what fails for another reason fails with cameras too.
        if let Some(reason) = &alignment.cameras_error {
            written.fail_run(
                "cameras",
                Error::NoPose {
                    reason: reason.clone(),
                },
            );
        }
        let counts = exports.points().or(drawn);
        Results {
            written,
            exports,
            counts,
        }
    }
}

/// Version of the summary's layout: a new one where names or meanings change, not where entries are
/// added.
const SUMMARY_VERSION: u32 = 1;

/// What the summaries of all commands that make a scene have in common.
fn common_summary(
    alignment: &Alignment,
    written: &Written,
    exports: &SceneReports,
    counts: Option<PointCounts>,
) -> Value {
    let scene = &alignment.scene;
    let depth_files = if written.has("depth") {
        depth_files(scene)
    } else {
        Vec::new()
    };
    let views =
        scene
            .views
            .iter()
            .zip(&alignment.views)
            .enumerate()
            .map(|(index, (view, report))| {
                let pose = view
                    .camera
                    .as_ref()
                    .map(|camera| scene.world_from_camera(camera).to_homogeneous());
                json!({
                    "name": view.name,
                    "width": view.rgb.width(),
                    "height": view.rgb.height(),
                    "placed": report.placed,
                    "focal": view.camera.as_ref().map(|camera| camera.intrinsics.fx),
                    "world_from_camera": pose.as_ref().map(outputs::rows),
                    "inlier_share": report.inlier_share,
                    "reprojection_px": report.reprojection_px,
                    "overruled_focal": report.overruled_focal,
                    "depth_file": depth_files.get(index),
                })
            });
    let pair = |report: &PairReport| {
        json!({
            "pair": [report.pair.first, report.pair.second],
            "matches": report.matches,
            "verdict": verdict_name(report.verdict),
            "inlier_share": report.inlier_share,
        })
    };
    json!({
        "format": "mast3r-summary",
        "version": SUMMARY_VERSION,
        "views": views.collect::<Vec<_>>(),
        "pairs": alignment.pairs.iter().map(pair).collect::<Vec<_>>(),
        "matches": alignment.pairs.iter().map(|pair| pair.matches).sum::<usize>(),
        "cameras_error": alignment.cameras_error,
        "origin": scene.origin.as_slice(),
        "points": counts.as_ref().map(points_json),
        "outputs": written.json(),
        "failed": written.failed_json(),
        "exports": exports.json(),
    })
}

fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Used => "used",
        Verdict::Unsound => "unsound",
        Verdict::Contradicts => "contradicts",
        Verdict::Misfit => "misfit",
        Verdict::Disconnected => "disconnected",
        Verdict::NotFinite => "not_finite",
    }
}
