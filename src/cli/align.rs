//! `mast3r align`: stored predictions of pairs to cameras and a point cloud.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{ArgGroup, Args};
use mast3r::Error;
use mast3r::alignment::{self, Alignment, PairEvidence, PairReport, PredictionFolder, Verdict};
use mast3r::export::{Pictures, Placing, depth_files};
use mast3r::matching::{MatchOptions, PairMatches};
use mast3r::pipeline::{ReconstructOptions, mark_contradicted};
use mast3r::views::View;
use serde_json::{Value, json};

use super::GlobalArgs;
use super::known::KnownArgs;
use super::maps::{Found, MapArgs, MapOutputs};
use super::outputs::{self, Written};
use super::pictures::named;
use super::progress;
use super::scene::{ConsistencyArgs, SceneArgs, SceneOutputs, SceneReports, points_json};

/// The options of which one at least is given.
const OUTPUTS: [&str; 5] = ["output", "cameras", "matches", "depth", "depth_tensors"];

/// Pairs that are left out and named, unless all are asked for.
const MOST_LISTED: usize = 12;

/// Stored predictions of pairs of pictures to cameras and a coloured point cloud
///
/// Needs no network. The world is the frame of the first picture that is placed: x right, y down, z forward.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("written").required(true).multiple(true).args(OUTPUTS))]
pub struct AlignArgs {
    /// Folder with scene.json, views.safetensors and pairs.safetensors, or one that reconstruct --work made
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,

    #[command(flatten)]
    scene: SceneArgs,

    /// Folder with the picture files, by the names in scene.json, for formats with pictures and --exif-focal
    ///
    /// They are linked, or copied with --copy-images, and cameras are of their size. A picture that is stored on its
    /// side, as its EXIF orientation says, is written upright instead. Without this, the pictures are those of
    /// views.safetensors, as PNG.
    #[arg(long, value_name = "FOLDER")]
    images: Option<PathBuf>,

    /// Copy pictures instead of linking to them
    #[arg(long, requires = "images")]
    copy_images: bool,

    #[command(flatten)]
    maps: MapArgs,

    #[command(flatten)]
    consistency: ConsistencyArgs,

    #[command(flatten)]
    known: KnownArgs,

    /// Print a JSON summary on standard output
    #[arg(long)]
    json: bool,
}

/// Everything that will be written, open.
struct Outputs {
    scene: SceneOutputs,
    maps: MapOutputs,
}

impl AlignArgs {
    pub fn run(&self, global: &GlobalArgs) -> anyhow::Result<()> {
        let started = Instant::now();
        self.check()?;
        let folder = PredictionFolder::open(&self.folder)?;
        let mut inputs = folder.files();
        inputs.extend(self.known.files().cloned());
        outputs::check_apart(self.files(), &inputs)?;
        let views = folder.views()?;
        let options = self.known.options(&views, &self.picture_files(&views), global)?;
        let outputs = self.open_outputs(&views)?;
        let spinner = progress::spinner(global.quiet);
        progress::show(&spinner, "align");
        let mut matches = Vec::new();
        let matching = MatchOptions::default();
        let evidence = folder.evidence(&matching).inspect(|evidence| {
            if let Ok(PairEvidence { pair, matches: found, .. }) = evidence
                && self.maps.wants_matches()
            {
                matches.push(PairMatches { views: [pair.first, pair.second], matches: found.clone() });
            }
        });
        let mut alignment = alignment::align(&views, evidence, &options)?;
        if let Some(px) = self.consistency.pixels() {
            mark_contradicted(&mut alignment.scene, px, global.runtime()?.device())?;
        }
        let solve_seconds = started.elapsed().as_secs_f64();
        progress::show(&spinner, "write");
        let mut written = Written::default();
        let Outputs { scene, maps } = outputs;
        let reports = scene.write(&alignment.scene, &mut written, |written| {
            Ok(maps.write(&alignment.scene, Found::Pairs(&matches), written)?)
        })?;
        spinner.finish_and_clear();
        report(&alignment, solve_seconds, global);
        written.lines().for_each(|line| global.say(line));
        if self.json {
            let seconds = json!({ "align": solve_seconds, "total": started.elapsed().as_secs_f64() });
            outputs::print_json(&summary(&alignment, &reports, &written, seconds))?;
        }
        Ok(())
    }

    /// What the arguments alone show to be wrong.
    fn check(&self) -> mast3r::Result<()> {
        if self.json && self.scene.has_stdout() {
            return Err(Error::Usage("--json and -o - both want standard output; give one of them a file".into()));
        }
        match (&self.images, self.scene.is_given(), self.known.needs_pictures()) {
            (None, _, true) => {
                let reason = "it reads the pictures' files; say with --images where they are";
                return Err(Error::Usage(format!("--exif-focal: {reason}")));
            }
            (Some(_), false, false) => {
                let reason = "it is for a scene with pictures or --exif-focal, and neither --output nor that was given";
                return Err(Error::Usage(format!("--images: {reason}")));
            }
            _ => {}
        }
        ReconstructOptions { consistency: self.consistency.pixels(), ..ReconstructOptions::default() }.check()?;
        self.scene.check()
    }

    fn files(&self) -> impl Iterator<Item = &Path> {
        self.scene.files().chain(self.maps.files())
    }

    /// The pictures of `views`.
    fn pictures(&self, views: &[View]) -> Pictures {
        if self.images.is_none() {
            return Pictures::OfScene;
        }
        let placing = if self.copy_images { Placing::Copy } else { Placing::Link };
        let names = views.iter().map(|view| view.name.clone()).collect();
        Pictures::Files { names, paths: self.picture_files(views), placing }
    }

    /// The files of `views`; none if their folder is not given.
    fn picture_files(&self, views: &[View]) -> Vec<PathBuf> {
        let of = |folder: &PathBuf| views.iter().map(|view| folder.join(&view.name)).collect();
        self.images.as_ref().map_or_else(Vec::new, of)
    }

    fn open_outputs(&self, views: &[View]) -> mast3r::Result<Outputs> {
        Ok(Outputs { scene: self.scene.open(&self.pictures(views))?, maps: self.maps.open()? })
    }
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
pub(super) fn report(alignment: &Alignment, seconds: f64, global: &GlobalArgs) {
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
    let overruled: Vec<String> = alignment
        .scene
        .views
        .iter()
        .zip(&alignment.views)
        .filter_map(|(view, report)| {
            let (stated, found) = (report.overruled_focal?, view.camera.as_ref()?.intrinsics.fx);
            Some(format!("{} (EXIF {stated:.0} px, found {found:.0} px)", view.name))
        })
        .collect();
    if !overruled.is_empty() {
        global.say(format_args!(
            "  --exif-focal: overruled for {} of {views} images, whose maps suggest a focal length that is more than a quarter \
             off: {}",
            overruled.len(),
            named(overruled)
        ));
    }
    let is_placed = |view: usize| alignment.views[view].placed;
    // Of a picture that is left out nobody wants to hear once more for each of its pairs.
    let is_told = |pair: &&PairReport| is_placed(pair.pair.first) && is_placed(pair.pair.second);
    let left_out = |pair: &&PairReport| !matches!(pair.verdict, Verdict::Used | Verdict::Apart);
    let pairs: Vec<&PairReport> = alignment.pairs.iter().filter(left_out).filter(is_told).collect();
    let listed = if global.verbose > 0 { pairs.len() } else { pairs.len().min(MOST_LISTED) };
    for pair in &pairs[..listed] {
        let reason = match pair.verdict {
            Verdict::Used | Verdict::Apart => continue,
            Verdict::Unsound => "its maps and matches do not agree, or its maps with those of other pairs",
            Verdict::Contradicts => "it contradicts the pairs around it",
            Verdict::Misfit => "its matches do not fit the cameras",
        };
        let [first, second] = [pair.pair.first, pair.pair.second].map(|view| names[view]);
        global.say(format_args!("  the pair {first}, {second} is left out: {reason}"));
    }
    if pairs.len() > listed {
        global.say(format_args!("  {} more pairs are left out; -v or --json names them", pairs.len() - listed));
    }
}

/// One object for a program.
pub(super) fn summary(alignment: &Alignment, reports: &SceneReports, written: &Written, seconds: Value) -> Value {
    let depth_files = if written.has("depth") { depth_files(&alignment.scene) } else { Vec::new() };
    let views: Vec<Value> = alignment
        .scene
        .views
        .iter()
        .zip(&alignment.views)
        .enumerate()
        .map(|(index, (view, report))| {
            json!({
                "name": view.name,
                "placed": report.placed,
                "focal": view.camera.as_ref().map(|camera| camera.intrinsics.fx),
                "inlier_share": report.inlier_share,
                "reprojection_px": report.reprojection_px,
                "overruled_focal": report.overruled_focal,
                "depth_file": depth_files.get(index),
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
        "points": reports.points().as_ref().map(points_json),
        "outputs": written.json(),
        "exports": reports.json(),
        "seconds": seconds,
    })
}
