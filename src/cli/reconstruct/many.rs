//! Many pictures: pairs of them are predicted, and all pairs aligned.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use mast3r::Error;
use mast3r::input::read_text;
use mast3r::measure::MemoryAdvice;
use mast3r::network::ChosenModel;
use mast3r::pairs::{Ends, PairGraph, parse_list};
use mast3r::pipeline::{
    Keep, NetworkKey, PairChoice, Plan, Progress, ReconstructOptions, Reconstruction,
    Reconstructor, WorkFolder,
};
use mast3r::views::names::unique_names;
use mast3r::views::{Limits, Mask};

use super::super::align::report;
use super::super::known::KnownArgs;
use super::super::maps::Found;
use super::super::masks;
use super::super::refine::{self, RefineArgs};
use super::super::{GlobalArgs, progress};
use super::{Ready, ReconstructArgs, Seconds};

/// The arguments that matter to more than two pictures.
#[derive(Debug, Args)]
#[command(next_help_heading = "More than two pictures")]
pub struct ManyArgs {
    /// Which pairs to predict: auto, complete, swin-K, logwin-K, oneref-I or retrieval-NA-K
    /// [default: auto]
    ///
    /// complete is every pair: 45 of 10 pictures, 4950 of 100. swin-K joins each picture with the K
    /// that follow, as in a video; the last ones with the first again, or not with -noncyclic at
    /// the end. logwin-K joins it with those 1, 2, 4 and so on further, K of them. oneref-I joins
    /// picture I, counted from 0, with every other. retrieval-NA-K goes by what the encoder sees:
    /// NA pictures that differ most are all joined, every other one with the nearest of them, and
    /// each picture with the K - 1 most like it. auto is complete up to 12 pictures and
    /// retrieval-20-10 beyond.
    #[arg(long, value_name = "GRAPH", conflicts_with_all = ["pairs", "window"])]
    graph: Option<PairGraph>,

    /// Predict the pairs that a file lists, two image names a line
    ///
    /// A name is the image's path or the end of it, such as its file name. Lines that begin with #
    /// are passed over.
    #[arg(long, value_name = "FILE", conflicts_with = "window")]
    pairs: Option<PathBuf>,

    /// Predict each picture with the K that follow it: for frames in order, the same as --graph
    /// swin-K-noncyclic
    #[arg(long, value_name = "K", value_parser = super::at_least_one)]
    window: Option<usize>,

    /// Keep what is computed in a folder, and compute nothing that it holds
    ///
    /// A run that was ended half-way goes on where it was; one with more pictures computes the new
    /// pairs alone; other output options cost no network at all. What is kept follows from the
    /// images' pixels, the weights, the precision, the kind of device, --res and --match-step, not
    /// from names. A file that a power loss damaged is computed anew. It takes 64 bytes a pixel and
    /// pair (12.6 MB at 512x384), and nothing in it is ever removed. mast3r align reads it too, and
    /// refines cameras with --images.
    #[arg(long, value_name = "FOLDER")]
    pub(super) work: Option<PathBuf>,

    /// Most memory for the encoder's features, in GiB; more of them go to a temporary folder or to
    /// that of --work
    ///
    /// A picture of 512x384 takes 3 MB.
    #[arg(long, value_name = "GIB", default_value_t = 2.0, value_parser = gibibytes, allow_negative_numbers = true)]
    memory: f64,

    /// Leave out what masks are black over: a folder of masks named after the images, or one mask
    /// for all images
    ///
    /// The mask of left/a.jpg is left/a.png or left/a.jpg.png; where no other image is called so,
    /// a.png will do. A mask has the size of its image held upright. What is at least half as
    /// bright as its brightest pixel and not transparent counts, so 0 and 1 mean the same as 0 and
    /// 255. The rest is not matched, so it does not disturb the cameras, and has neither points nor
    /// depth. An image without a mask counts as a whole.
    #[arg(long, value_name = "PATH")]
    masks: Option<PathBuf>,

    #[command(flatten)]
    pub(super) refine: RefineArgs,

    #[command(flatten)]
    known: KnownArgs,
}

impl ManyArgs {
    /// Whether there are options that two pictures alone have no use for.
    pub fn is_asked_for(&self) -> bool {
        self.graph.is_some()
            || self.pairs.is_some()
            || self.window.is_some()
            || self.work.is_some()
            || self.masks.is_some()
            || self.known.is_given()
    }

    /// The files that are read.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.pairs
            .iter()
            .chain(&self.masks)
            .chain(self.known.files())
    }

    /// What a run will take, as far as it is known before it.
    fn cost(&self, plan: &Plan) -> String {
        let Plan {
            views,
            pairs,
            new_pairs,
            disk_bytes,
        } = *plan;
        let new = match new_pairs {
            0 => "all of them computed before".into(),
            new if new == pairs => "all to be computed".into(),
            new => format!("{new} of them to be computed"),
        };
        let disk = match &self.work {
            Some(folder) if new_pairs > 0 => {
                format!(
                    "; about {} of disk space in {}",
                    progress::bytes_text(disk_bytes),
                    folder.display()
                )
            }
            _ => String::new(),
        };
        let time = if new_pairs > 0 {
            "; the time left is estimated once the first pairs are done"
        } else {
            ""
        };
        format!("{views} images, {pairs} pairs, {new}{disk}{time}")
    }

    /// The pairs asked for, checked as far as names and numbers go.
    fn choice(&self, pictures: &[PathBuf]) -> mast3r::Result<PairChoice> {
        if let Some(file) = &self.pairs {
            return parse_list(&read_text(file)?, file, pictures).map(PairChoice::List);
        }
        let window = self.window.map(|reach| PairGraph::Window {
            reach,
            ends: Ends::Open,
        });
        let graph = window.or(self.graph).unwrap_or_default();
        if !graph.needs_similarity(pictures.len()) {
            graph
                .pairs(pictures.len(), None)
                .map_err(|error| Error::Usage(format!("--graph: {error}")))?;
        }
        Ok(PairChoice::Graph(graph))
    }
}

impl ReconstructArgs {
    pub(super) fn run_many(
        &self,
        pictures: &[PathBuf],
        started: Instant,
        global: &GlobalArgs,
    ) -> anyhow::Result<()> {
        if self.predictions.is_some() {
            let reason = "is of two pictures alone; --work FOLDER keeps maps and matches of every pair, and align reads it";
            return Err(Error::Usage(format!("--predictions {reason}")).into());
        }
        let pairs = self.many.choice(pictures)?;
        let masks = match &self.many.masks {
            Some(path) => {
                let names = unique_names(pictures);
                masks::find(
                    path,
                    &pictures.iter().cloned().zip(names).collect::<Vec<_>>(),
                    global,
                )?
            }
            None => Vec::new(),
        };
        let outputs = self.open_results(pictures)?;
        let line = progress::stages(global.quiet);
        progress::begin(&line, "load pictures", 1);
        let Ready {
            chosen,
            views,
            runtime,
        } = self.ready(pictures, global)?;
        let work = self.many.work.as_ref().map(WorkFolder::open).transpose()?;
        let network = work
            .as_ref()
            .map(|_| NetworkKey::new(chosen.checkpoint.digest(), &runtime));
        let keep = work
            .as_ref()
            .zip(network.as_ref())
            .map(|(folder, network)| Keep { folder, network });

        let mut views = views;
        let of_views = masks
            .iter()
            .zip(0..)
            .filter_map(|(path, at)| path.as_ref().map(|path| (path, at)));
        let loaded = of_views.map(|(path, at)| {
            Mask::load(path, &views[at], &chosen.framing, &Limits::default())
                .map(|mask| (path, at, mask))
        });
        for (path, at, mask) in Error::all(loaded)? {
            let view = &mut views[at];
            if mask.hides_all() {
                global.say(format_args!(
                    "{}: the mask hides the whole of {}",
                    path.display(),
                    view.name
                ));
            }
            view.restrict(mask);
        }
        let advice = match &self.many.work {
            Some(folder) => format!(
                "interrupted; run the same command again to go on: {} keeps what was computed",
                folder.display()
            ),
            None => {
                "interrupted; nothing is kept: with --work FOLDER the same command can go on where it was ended".into()
            }
        };
        progress::advise_on_interrupt(global.quiet, advice);
        let prepared = started.elapsed();
        let load = || chosen.load(&runtime);
        let mut reconstructor = Reconstructor::lazy(chosen.predicts(), load);
        reconstructor.options = ReconstructOptions {
            pairs,
            matching: self.options().matching,
            align: self
                .many
                .known
                .options(&views, pictures, self.many.refine.is_on(), global)?,
            memory: (self.many.memory * f64::from(1u32 << 30)) as u64,
            keep_matches: self.results.maps.wants_matches(),
        };
        let memory = MemoryAdvice::new(chosen.checkpoint.config(), &runtime)?;
        let result = reconstructor.run(&views, keep, &|event| {
            match event {
                Progress::Plan(plan) if !global.quiet => line.say(self.many.cost(&plan)),
                Progress::Begin(stage, steps) => progress::begin(&line, stage.name(), steps),
                Progress::Step => line.inc(1),
                _ => {}
            }
            ControlFlow::Continue(())
        });
        let mut result = result.map_err(|error| memory.explain(error, super::largest(&views)))?;
        let refining = Instant::now();
        if self.many.refine.is_on() {
            progress::begin(&line, "refine", 1);
        }
        let options = &reconstructor.options.align;
        let refinement = self
            .many
            .refine
            .run(&mut result.alignment, &views, pictures, options)?;
        let refine = refining.elapsed();
        let checking = Instant::now();
        progress::begin(&line, "check", 1);
        let checked = self
            .results
            .check_views(&mut result.alignment, runtime.device());
        let check = checking.elapsed();
        progress::begin(&line, "write", 1);
        let writing = Instant::now();
        let found = Found::Pairs(&result.matches);
        let results = outputs.write(&result.alignment, found, checked, |written| {
            if let Some(folder) = &work {
                written.add(
                    "work",
                    folder.path(),
                    format!(
                        "{} of {} pairs are new",
                        result.computed,
                        result.alignment.pairs.len()
                    ),
                );
            }
        });
        line.finish_and_clear();
        let (write, total) = (writing.elapsed(), started.elapsed());
        let seconds = Seconds {
            load: prepared,
            refine,
            check,
            write,
            total,
            stages: result.times,
        };
        let say = || {
            say(&result, &chosen, &seconds, global);
            refinement
                .iter()
                .for_each(|refinement| refine::say(refinement, &result.alignment, global));
        };
        self.results
            .conclude(results, &result.alignment, global, say, |mut summary| {
                let counts = [result.encoded, result.computed];
                self.describe(
                    &mut summary,
                    &chosen,
                    counts,
                    &seconds,
                    refinement.as_ref(),
                    global,
                )?;
                Ok(summary)
            })
    }
}

/// For a person: pictures and pairs that were left out, and where the time went.
fn say(result: &Reconstruction, chosen: &ChosenModel, seconds: &Seconds, global: &GlobalArgs) {
    let (encoded, computed, times) = (result.encoded, result.computed, &seconds.stages);
    let (pictures, pairs) = (result.alignment.views.len(), result.alignment.pairs.len());
    global.say(format_args!(
        "{}: {encoded} of {pictures} pictures encoded, {computed} of {pairs} pairs computed; {:.2} s (load {:.2}, encode \
         {:.2}, pairs {:.2}, align {:.2}, write {:.2})",
        chosen.name,
        seconds.total.as_secs_f64(),
        (seconds.load + times.load).as_secs_f64(),
        times.encode.as_secs_f64(),
        times.pairs.as_secs_f64(),
        times.align.as_secs_f64(),
        seconds.write.as_secs_f64(),
    ));
    report(&result.alignment, times.align.as_secs_f64(), global);
}

fn gibibytes(text: &str) -> Result<f64, String> {
    let number = text
        .parse()
        .ok()
        .filter(|number: &f64| number.is_finite() && *number >= 0.0);
    number.ok_or_else(|| "expected a number of GiB, 0 or more".into())
}
