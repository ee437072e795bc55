//! Many pictures: pairs of them are predicted, and all pairs aligned.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use mast3r::Error;
use mast3r::input::read_text;
use mast3r::model::Mast3r;
use mast3r::pairs::{Ends, PairGraph, parse_list};
use mast3r::pipeline::{
    Keep, ManyOptions, ManyReconstruction, ManyReconstructor, PairChoice, Progress, WorkFolder, mark_contradicted,
};
use mast3r::scene::PointCounts;
use mast3r::views::names::unique_names;
use mast3r::views::{Limits, Mask, View};
use serde_json::{Value, json};

use super::super::align::{report, summary};
use super::super::known::KnownArgs;
use super::super::maps::Found;
use super::super::masks;
use super::super::outputs::{self, Written};
use super::super::scene::{SceneReports, points_json};
use super::super::{GlobalArgs, progress};
use super::{Chosen, Ready, ReconstructArgs};

/// The arguments that matter to more than two pictures.
#[derive(Debug, Args)]
#[command(next_help_heading = "More than two pictures")]
pub struct ManyArgs {
    /// Which pairs to predict: auto, complete, swin-K, logwin-K, oneref-I or retrieval-NA-K [default: auto]
    ///
    /// complete is every pair: 45 of 10 pictures, 4950 of 100. swin-K joins each picture with the K that follow, as in a
    /// video; the last ones with the first again, or not with -noncyclic at the end. logwin-K joins it with those 1, 2, 4
    /// and so on further, K of them. oneref-I joins picture I, counted from 0, with every other. retrieval-NA-K goes by
    /// what the encoder sees: NA pictures that differ most are all joined, every other one with the nearest of them, and
    /// each picture with the K - 1 most like it. auto is complete up to 12 pictures and retrieval-20-10 beyond.
    #[arg(long, value_name = "GRAPH", conflicts_with_all = ["pairs", "window"])]
    graph: Option<PairGraph>,

    /// Predict the pairs that a file lists, two image names a line
    ///
    /// A name is the image's path or the end of it, such as its file name. Lines that begin with # are passed over.
    #[arg(long, value_name = "FILE", conflicts_with = "window")]
    pairs: Option<PathBuf>,

    /// Predict each picture with the K that follow it: for frames in order, the same as --graph swin-K-noncyclic
    #[arg(long, value_name = "K", value_parser = super::at_least_one)]
    window: Option<usize>,

    /// Keep what is computed in a folder, and compute nothing that it holds
    ///
    /// A run that was ended half-way goes on where it was; one with more pictures computes the new pairs alone; other
    /// output options cost no network at all. What is kept follows from the pictures' pixels, the weights, the precision,
    /// --res and --match-step, not from names. It takes 64 bytes a pixel and pair (12.6 MB at 512x384), and nothing in it
    /// is ever removed. mast3r align reads it too.
    #[arg(long, value_name = "FOLDER")]
    pub(super) work: Option<PathBuf>,

    /// Most memory for the encoder's features, in GiB; more of them go to a temporary folder or to that of --work
    ///
    /// A picture of 512x384 takes 3 MB.
    #[arg(long, value_name = "GIB", default_value_t = 2.0, value_parser = gibibytes, allow_negative_numbers = true)]
    memory: f64,

    /// Leave out what masks are black over: a folder of masks named after the images, or one mask for all images
    ///
    /// The mask of left/a.jpg is left/a.png or left/a.jpg.png; where no other image is called so, a.png will do. A mask
    /// has the size of its image held upright. White counts. The rest is not matched, so it does not disturb the cameras,
    /// and has neither points nor depth. An image without a mask counts as a whole.
    #[arg(long, value_name = "PATH")]
    masks: Option<PathBuf>,

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
        self.pairs.iter().chain(&self.masks).chain(self.known.files())
    }

    /// The pairs asked for, checked as far as names and numbers go.
    fn choice(&self, pictures: &[PathBuf]) -> mast3r::Result<PairChoice> {
        if let Some(file) = &self.pairs {
            return parse_list(&read_text(file)?, file, pictures).map(PairChoice::List);
        }
        let window = self.window.map(|reach| PairGraph::Window { reach, ends: Ends::Open });
        let graph = window.or(self.graph).unwrap_or_default();
        if !graph.needs_similarity(pictures.len()) {
            graph.pairs(pictures.len(), None).map_err(|error| Error::Usage(format!("--graph: {error}")))?;
        }
        Ok(PairChoice::Graph(graph))
    }
}

impl ReconstructArgs {
    pub(super) fn run_many(&self, pictures: &[PathBuf], started: Instant, global: &GlobalArgs) -> anyhow::Result<()> {
        if self.predictions.is_some() {
            let reason =
                "is of two pictures alone; --work FOLDER keeps maps and matches of every pair, and align reads it";
            return Err(Error::Usage(format!("--predictions {reason}")).into());
        }
        let pairs = self.many.choice(pictures)?;
        let masks = match &self.many.masks {
            Some(path) => {
                let names = unique_names(pictures);
                masks::find(path, &pictures.iter().cloned().zip(names).collect::<Vec<_>>(), global)?
            }
            None => Vec::new(),
        };
        let outputs = self.open_scene_files(pictures)?;
        let line = progress::stages(global.quiet);
        progress::begin(&line, "load pictures", 1);
        let Ready { chosen, views, runtime } = self.ready(pictures, global)?;
        let work = self.many.work.as_ref().map(WorkFolder::open).transpose()?;
        let network = work.as_ref().map(|_| format!("{} {}", chosen.checkpoint.digest(), runtime.precision()));
        let keep = work.as_ref().zip(network.as_ref()).map(|(folder, network)| Keep { folder, network });

        let mask = |(path, view): (&Option<PathBuf>, &View)| {
            path.as_ref().map(|path| Mask::load(path, view, &chosen.framing, &Limits::default())).transpose()
        };
        let masks = masks.iter().zip(&views).map(mask).collect::<mast3r::Result<_>>()?;
        let prepared = started.elapsed();
        let network = || chosen.try_build(&runtime, |config, vb| Mast3r::new(config, vb, &runtime));
        let mut reconstructor = ManyReconstructor::with_network(network);
        reconstructor.options = ManyOptions {
            pairs,
            matching: self.options().matching,
            align: self.many.known.options(&views, pictures, global)?,
            memory: (self.many.memory * f64::from(1u32 << 30)) as u64,
            masks,
            keep_matches: self.maps.wants_matches(),
        };
        let mut result = reconstructor.run(&views, keep, &|step| match step {
            Progress::Begin(stage, steps) => progress::begin(&line, stage.name(), steps),
            Progress::Step => line.inc(1),
        })?;
        let checking = Instant::now();
        if let Some(px) = self.consistency.pixels() {
            progress::begin(&line, "check", 1);
            mark_contradicted(&mut result.alignment.scene, px, runtime.device())?;
        }
        let check_time = checking.elapsed();
        progress::begin(&line, "write", 1);
        let writing = Instant::now();
        let found = Found::Pairs(&result.matches);
        let (written, exports, counts) = self.write_scene(outputs, &result.alignment.scene, found, |written| {
            if let Some(folder) = &work {
                written.add(
                    "work",
                    folder.path(),
                    format!("{} of {} pairs are new", result.computed, result.alignment.pairs.len()),
                );
            }
            Ok(())
        })?;
        line.finish_and_clear();
        let times = [
            ("load", prepared + result.times.load),
            ("encode", result.times.encode),
            ("pairs", result.times.pairs),
            ("decode", result.times.decode),
            ("fetch", result.times.fetch),
            ("match", result.times.matching),
            ("align", result.times.align),
            ("check", check_time),
            ("write", writing.elapsed()),
            ("total", started.elapsed()),
        ];
        let report =
            ManyReport { result: &result, written: &written, exports: &exports, counts, chosen: &chosen, times };
        report.say(global);
        if self.json {
            outputs::print_json(&report.json(global.precision()?.to_string()))?;
        }
        Ok(())
    }
}

/// What a finished run has to say.
struct ManyReport<'a> {
    result: &'a ManyReconstruction,
    written: &'a Written,
    exports: &'a SceneReports,
    counts: Option<PointCounts>,
    chosen: &'a Chosen,
    times: [(&'static str, Duration); 10],
}

impl ManyReport<'_> {
    /// For a person: pictures and pairs that were left out, where the time went, what was written.
    fn say(&self, global: &GlobalArgs) {
        let Self { result, times, .. } = self;
        let seconds = |name: &str| times.iter().find(|time| time.0 == name).map_or(0.0, |time| time.1.as_secs_f64());
        let (encoded, computed) = (result.encoded, result.computed);
        let (pictures, pairs) = (result.alignment.views.len(), result.alignment.pairs.len());
        global.say(format_args!(
            "{}: {encoded} of {pictures} pictures encoded, {computed} of {pairs} pairs computed; {:.2} s (load {:.2}, encode \
             {:.2}, pairs {:.2}, align {:.2}, write {:.2})",
            self.chosen.name,
            seconds("total"),
            seconds("load"),
            seconds("encode"),
            seconds("pairs"),
            seconds("align"),
            seconds("write"),
        ));
        report(&result.alignment, seconds("align"), global);
        self.written.lines().for_each(|line| global.say(line));
    }

    /// One object for a program.
    fn json(&self, precision: String) -> Value {
        let Self { result, written, exports, counts, chosen, times } = self;
        let seconds: serde_json::Map<String, Value> =
            times.iter().map(|(name, time)| (name.to_string(), json!(time.as_secs_f64()))).collect();
        let mut value = summary(&result.alignment, exports, written, seconds.into());
        value["points"] = counts.as_ref().map(points_json).into();
        value["model"] = json!(chosen.name);
        value["weights"] = json!(chosen.checkpoint.describe());
        value["precision"] = json!(precision);
        value["encoded"] = json!(result.encoded);
        value["computed"] = json!(result.computed);
        value
    }
}

fn gibibytes(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0);
    number.ok_or_else(|| "expected a number of GiB, 0 or more".into())
}
