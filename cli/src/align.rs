//! `mast3r align`: stored predictions of pairs to cameras and a point cloud.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use clap::{ArgGroup, Args};
use mast3r::Error;
use mast3r::alignment::{
    self, AlignOptions, Alignment, EvidenceStore, Pair, PairEvidence, PairReport, PredictionFolder,
    Verdict,
};
use mast3r::export::{Images, Placing};
use mast3r::matching::{MatchOptions, PairMatches};
use mast3r::pipeline::WorkFolder;
use mast3r::pipeline::jobs::{self, JobPlan};
use mast3r::views::View;
use serde_json::{Value, json};

use crate::GlobalArgs;
use crate::images::named;
use crate::known::KnownArgs;
use crate::maps::Found;
use crate::refine::{self, RefineArgs};
use crate::results::ResultArgs;
use crate::{outputs, progress};

/// The options of which one at least is given.
const OUTPUTS: [&str; 6] = [
    "output",
    "cameras",
    "matches",
    "depth",
    "depth_tensors",
    "preview",
];

/// Pairs that are left out and named, unless all are asked for.
const MOST_LISTED: usize = 12;

/// Align stored pair predictions: camera poses and a coloured point cloud
///
/// Needs no network. The world frame is that of the first registered image: x right, y down, z
/// forward.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("written").required(true).multiple(true).args(OUTPUTS))]
pub struct AlignArgs {
    /// Folder with scene.json, views.safetensors and pairs.safetensors, one that reconstruct --work
    /// made, or one with a plan whose shards are all done
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,

    #[command(flatten)]
    results: ResultArgs,

    /// Folder with the image files that scene.json names: refine the cameras on them
    ///
    /// See --no-refine. --exif-focal reads them too. Formats with images link to the files, or copy
    /// them with --copy-images, and state cameras at their size; a file whose EXIF orientation is
    /// not upright is written upright instead. Without this option these formats have the images of
    /// views.safetensors, as PNG.
    #[arg(long, value_name = "FOLDER")]
    images: Option<PathBuf>,

    /// Copy images instead of linking to them
    #[arg(long, requires = "images")]
    copy_images: bool,

    #[command(flatten)]
    refine: RefineArgs,

    #[command(flatten)]
    known: KnownArgs,
}

impl AlignArgs {
    pub fn run(&self, global: &GlobalArgs) -> anyhow::Result<()> {
        let started = Instant::now();
        self.check()?;
        self.list_planned(global)?;
        let folder = PredictionFolder::open(&self.folder)?;
        let mut inputs = folder.files();
        inputs.extend(self.known.files().cloned());
        outputs::check_apart(self.results.files(), &inputs)?;
        let views = folder.views()?;
        self.check_images_are_read()?;
        let options = AlignOptions {
            without_matches: !self.refines() && !self.results.scene.has_images(),
            ..self
                .known
                .options(&views, &self.image_files(&views), self.refines(), global)?
        };
        let frame = self.results.frame.prepare(&self.image_files(&views))?;
        let outputs = self.results.open(&self.images(&views))?;
        progress::advise_to_start_over(global.quiet);
        let spinner = progress::spinner(global.quiet);
        progress::show(&spinner, "align");
        let matching = MatchOptions::default();
        let store = Kept {
            store: folder.store(&matching),
            matches: self.results.maps.wants_matches().then(Mutex::default),
        };
        let mut alignment =
            alignment::align_from(&views, &store, &options, &|event| spinner.follow(event))?;
        let matches = store.into_matches();
        alignment.scene.metric = folder.is_metric() && !options.has_known_scale();
        let aligned_seconds = started.elapsed().as_secs_f64();
        let images = self.image_files(&views);
        let refinement = self
            .refine
            .run(&mut alignment, &views, &images, &options, &spinner)?;
        let framed = frame.apply(&mut alignment);
        let refine_seconds = started.elapsed().as_secs_f64() - aligned_seconds;
        let checked = match self.results.checks_views() {
            true => global
                .runtime("the consistency check")
                .and_then(|runtime| self.results.check_views(&mut alignment, runtime.device())),
            false => Ok(()),
        };
        let solve_seconds = started.elapsed().as_secs_f64() - refine_seconds;
        progress::begin(&spinner, "write", 1);
        let results = outputs.write(&alignment, Found::Pairs(&matches), checked, |_| {});
        spinner.finish_and_clear();
        let say = || {
            report(&alignment, solve_seconds, global);
            refinement
                .iter()
                .for_each(|refinement| refine::say(refinement, &alignment, global));
        };
        self.results.conclude(results, framed, &alignment, global, say, |mut summary| {
            summary["seconds"] = json!({
                "align": solve_seconds, "refine": refine_seconds, "total": started.elapsed().as_secs_f64()
            });
            summary["refinement"] = refinement.as_ref().map_or(Value::Null, refine::summary);
            Ok(summary)
        })
    }

    /// Lists the images and pairs of a work folder with a plan, whose shards must all be done.
    fn list_planned(&self, global: &GlobalArgs) -> mast3r::Result<()> {
        let Some(plan) = JobPlan::read(&self.folder)? else {
            return Ok(());
        };
        let left_out = jobs::list(&WorkFolder::open(&self.folder)?, &plan)?;
        for (_, reason) in &left_out.images {
            global.say(format_args!("  left out: {reason}"));
        }
        for ([first, second], reason) in &left_out.pairs {
            global.say(format_args!(
                "  the pair {first}, {second} is left out: {reason}"
            ));
        }
        Ok(())
    }

    /// Whether cameras are refined, on the image files.
    fn refines(&self) -> bool {
        self.images.is_some() && self.refine.is_on()
    }

    /// Whether EXIF data of the image files are read.
    fn needs_images(&self) -> bool {
        self.known.needs_images() || self.results.frame.reads_images()
    }

    /// Refuses image files that nothing reads.
    fn check_images_are_read(&self) -> mast3r::Result<()> {
        let is_read = self.refines() || self.results.scene.is_given() || self.needs_images();
        if self.images.is_some() && !is_read {
            let reason = "it is for a scene with images, --exif-focal, --georeference or cameras that are refined";
            return Err(Error::Usage(format!("--images: {reason}")));
        }
        Ok(())
    }

    /// What the arguments alone show to be wrong.
    fn check(&self) -> mast3r::Result<()> {
        let reads_images = [
            ("--refine", self.refine.is_given()),
            ("--exif-focal", self.known.needs_images()),
            ("--georeference", self.results.frame.reads_images()),
        ];
        let reader = reads_images
            .into_iter()
            .find_map(|(flag, reads)| reads.then_some(flag));
        if let (None, Some(flag)) = (&self.images, reader) {
            let reason = "it reads the images' files; say with --images where they are";
            return Err(Error::Usage(format!("{flag}: {reason}")));
        }
        self.results.check()
    }

    /// The images of `views`.
    fn images(&self, views: &[View]) -> Images {
        if self.images.is_none() {
            return Images::OfScene;
        }
        let placing = if self.copy_images {
            Placing::Copy
        } else {
            Placing::Link
        };
        let names = views.iter().map(|view| view.name.clone()).collect();
        Images::Files {
            names,
            paths: self.image_files(views),
            placing,
        }
    }

    /// The files of `views`; none if their folder is not given.
    fn image_files(&self, views: &[View]) -> Vec<PathBuf> {
        let of = |folder: &PathBuf| views.iter().map(|view| folder.join(&view.name)).collect();
        self.images.as_ref().map_or_else(Vec::new, of)
    }
}

/// Evidence whose matches are kept when it is read, if they are wanted.
struct Kept<S> {
    store: S,
    /// By the index of the pair.
    matches: Option<Mutex<BTreeMap<usize, PairMatches>>>,
}

impl<S: EvidenceStore> EvidenceStore for Kept<S> {
    fn pairs(&self) -> &[Pair] {
        self.store.pairs()
    }

    fn read(&self, index: usize) -> mast3r::Result<PairEvidence> {
        let evidence = self.store.read(index)?;
        if let Some(matches) = &self.matches {
            let Pair { first, second } = evidence.pair;
            let found = PairMatches {
                views: [first, second],
                matches: evidence.matches.clone(),
            };
            let mut matches = matches.lock().unwrap_or_else(PoisonError::into_inner);
            matches.insert(index, found);
        }
        Ok(evidence)
    }
}

impl<S> Kept<S> {
    /// In the order of the pairs.
    fn into_matches(self) -> Vec<PairMatches> {
        let kept = self.matches.unwrap_or_default().into_inner();
        let kept = kept.unwrap_or_else(PoisonError::into_inner);
        kept.into_values().collect()
    }
}

/// The alignment of a folder of predictions, by default options.
pub(super) fn without_refinement(folder: &Path) -> mast3r::Result<Alignment> {
    let folder = PredictionFolder::open(folder)?;
    let views = folder.views()?;
    let matching = MatchOptions::default();
    let evidence = folder.evidence(&matching);
    let mut alignment = alignment::align(&views, evidence, &AlignOptions::default())?;
    alignment.scene.metric = folder.is_metric();
    Ok(alignment)
}

/// For a person: a line on the whole, and one for each image and pair that was left out.
pub(super) fn report(alignment: &Alignment, seconds: f64, global: &GlobalArgs) {
    let names: Vec<&str> = alignment
        .scene
        .views
        .iter()
        .map(|view| view.name.as_str())
        .collect();
    let placed = alignment.views.iter().filter(|view| view.placed).count();
    let used = alignment
        .pairs
        .iter()
        .filter(|pair| pair.verdict == Verdict::Used)
        .count();
    let (views, pairs) = (alignment.views.len(), alignment.pairs.len());
    global.say(format_args!(
        "{placed} of {views} images placed, by {used} of {pairs} pairs; {seconds:.2} s"
    ));
    for (name, view) in names.iter().zip(&alignment.views) {
        if !view.placed {
            global.say(format_args!(
                "  {name} is left out: no sound pair connects it to the others"
            ));
        }
    }
    let overruled: Vec<String> = alignment
        .scene
        .views
        .iter()
        .zip(&alignment.views)
        .filter_map(|(view, report)| {
            let (stated, found) = (report.overruled_focal?, view.camera.as_ref()?.intrinsics.fx);
            Some(format!(
                "{} (EXIF {stated:.0} px, found {found:.0} px)",
                view.name
            ))
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
    // Of an image that is left out nobody wants to hear once more for each of its pairs.
    let is_told = |pair: &&PairReport| {
        pair.verdict == Verdict::NotFinite
            || is_placed(pair.pair.first) && is_placed(pair.pair.second)
    };
    let left_out =
        |pair: &&PairReport| !matches!(pair.verdict, Verdict::Used | Verdict::Disconnected);
    let pairs: Vec<&PairReport> = alignment
        .pairs
        .iter()
        .filter(left_out)
        .filter(is_told)
        .collect();
    let listed = if global.verbose > 0 {
        pairs.len()
    } else {
        pairs.len().min(MOST_LISTED)
    };
    for pair in &pairs[..listed] {
        let reason = match pair.verdict {
            Verdict::Used | Verdict::Disconnected => continue,
            Verdict::Unsound => {
                "its maps and matches do not agree, or its maps with those of other pairs"
            }
            Verdict::Contradicts => "it contradicts the pairs around it",
            Verdict::Misfit => "its matches do not fit the cameras",
            Verdict::NotFinite => {
                "its predictions are not finite (-v tells which); try --precision f32"
            }
        };
        let [first, second] = [pair.pair.first, pair.pair.second].map(|view| names[view]);
        global.say(format_args!(
            "  the pair {first}, {second} is left out: {reason}"
        ));
    }
    if pairs.len() > listed {
        global.say(format_args!(
            "  {} more pairs are left out; -v or --json names them",
            pairs.len() - listed
        ));
    }
}
