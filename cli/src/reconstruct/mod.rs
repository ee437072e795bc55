//! `mast3r reconstruct`: images to cameras and a point cloud.

mod many;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::{ArgGroup, Args};
use mast3r::Error;
use mast3r::export::{
    Images, OutputFile, Placing, SafetensorsWriter, TensorMetadata, TensorSpec, image_metadata,
};
use mast3r::matching::{MatchOptions, ViewMaps};
use mast3r::model::config::Predicts;
use mast3r::model::registry::Network;
use mast3r::network::{ChosenModel, Model};
use mast3r::pipeline::{
    Keep, NetworkKey, Progress, ReconstructOptions, Reconstruction, Reconstructor, Times,
    WorkFolder, fetch,
};
use mast3r::refine::Refinement;
use mast3r::runtime::Runtime;
use mast3r::views::{self, Limits, Source, View};
use mast3r_measure::MemoryAdvice;
use serde_json::{Value, json};

use crate::GlobalArgs;
use crate::align::report;
use crate::encode::counted;
use crate::images::{ImageArgs, tell_identical};
use crate::maps::Found;
use crate::network::NetworkArgs;
use crate::refine;
use crate::results::{ResultArgs, ResultOutputs};
use crate::videos::is_video;
use crate::{estimate, outputs, progress};
use many::ManyArgs;
pub(crate) use many::{bytes, gibibytes};

/// The network without `--model` and without a file that says otherwise.
const DEFAULT_NETWORK: &str = "mast3r";

/// The options of which one at least is given: outputs, or no output at all.
const OUTPUTS: [&str; 8] = [
    "estimate",
    "output",
    "cameras",
    "matches",
    "depth",
    "depth_tensors",
    "predictions",
    "preview",
];

/// Reconstruct camera poses and a coloured point cloud from two or more images
///
/// Pairs of images are predicted, all of them are aligned, and the cameras are refined on the image
/// files. da3-small and da3-base predict all images together instead, at a relative scale, and take
/// one image as well. The world frame is the first camera's: x right, y down, z forward, in metres
/// if the network is metric. Images and pairs that do not fit are named and left out.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("reconstructed").required(true).multiple(true).args(OUTPUTS))]
pub struct ReconstructArgs {
    #[command(flatten)]
    images: ImageArgs,

    #[command(flatten)]
    results: ResultArgs,

    /// Copy images into folders for other programs instead of linking to them
    #[arg(long, requires = "output")]
    copy_images: bool,

    /// Write the network's raw predictions for two images as safetensors
    ///
    /// pts3d.1, conf.1, desc.1, desc_conf.1 of the first image, the same with .2 of the second; all
    /// points are in the first camera's frame.
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,

    /// Print images, pairs, disk space, memory and time, and compute nothing
    ///
    /// Times are measured on this device with two of the images, that of the alignment is a stored
    /// figure.
    #[arg(long)]
    estimate: bool,

    /// Every pair is decoded in both orders; the option is accepted for scripts
    #[arg(long = "symmetric", hide = true)]
    _symmetric: bool,

    /// Start matching from every PIXELS-th pixel of every PIXELS-th row
    #[arg(long, value_name = "PIXELS", default_value_t = MatchOptions::default().subsample, value_parser = crate::at_least_one)]
    match_step: usize,

    // Last, because their headings would go on to what follows.
    #[command(flatten)]
    many: ManyArgs,

    #[command(flatten)]
    network: NetworkArgs,
}

/// What a run has ready before the first image is encoded.
struct Ready {
    chosen: ChosenModel,
    views: Vec<View>,
    /// One or more, of one kind.
    runtimes: Vec<Runtime>,
}

/// The size of the view with the most pixels.
fn largest(views: &[View]) -> [u32; 2] {
    let sizes = views.iter().map(|view| view.rgb.dimensions());
    sizes
        .max_by_key(|(width, height)| width * height)
        .map_or([0; 2], |(width, height)| [width, height])
}

impl ReconstructArgs {
    pub fn run(&self, global: &GlobalArgs) -> anyhow::Result<()> {
        let started = Instant::now();
        let files = self.images.expand(global)?;
        self.check(&files)?;
        let images = &self.images.frames(files, global)?;
        if !self.network.may_take_one_view(DEFAULT_NETWORK)? {
            check_count(images)?;
        }
        let pairs = self.many.pairs.choice(images)?;
        if self.estimate {
            let (runtimes, chosen) = (global.runtimes()?, self.network.choose(DEFAULT_NETWORK)?);
            let (memory, is_json) = (self.many.feature_bytes(), self.results.is_json());
            return estimate::print(images, &pairs, &chosen, &runtimes, memory, is_json, global);
        }
        let masks = self.many.find_masks(images, global)?;
        let frame = self.results.frame.prepare(images)?;
        let outputs = self.open_results(images)?;
        let predictions = outputs::file(self.predictions.as_deref())?;
        let line = progress::stages(global.quiet);
        progress::begin(&line, "load images", 1);
        let Ready {
            chosen,
            mut views,
            runtimes,
        } = self.ready(images, global)?;
        let work = self.many.work.as_ref().map(WorkFolder::open).transpose()?;
        let network = work
            .as_ref()
            .map(|_| NetworkKey::new(chosen.checkpoint.digest(), &runtimes[0]));
        let keep = work
            .as_ref()
            .zip(network.as_ref())
            .map(|(folder, network)| Keep { folder, network });
        many::hide(&mut views, &masks, &chosen.framing, global)?;
        progress::advise_on_interrupt(global.quiet, many::advice(self.many.work.as_deref()));
        let load = started.elapsed();

        let loader = Loader {
            chosen: &chosen,
            runtimes: &runtimes,
            loaded: Mutex::new(Vec::new()),
        };
        let mut reconstructor = Reconstructor::lazy(chosen.predicts(), || loader.models());
        reconstructor.metric = Network::is_metric(&chosen.name);
        let matching = MatchOptions {
            subsample: self.match_step,
            ..MatchOptions::default()
        };
        reconstructor.options = ReconstructOptions {
            pairs,
            matching,
            align: self
                .many
                .known
                .options(&views, images, self.many.refine.is_on(), global)?,
            memory: self.many.feature_bytes(),
            keep_matches: self.results.maps.wants_matches(),
        };
        let memory = MemoryAdvice::new(chosen.checkpoint.config(), &runtimes[0])?;
        let result = reconstructor.run(&views, keep, &|event| {
            if let Progress::Plan(plan) = event
                && !global.quiet
            {
                line.say(self.many.cost(&plan));
            }
            line.follow(event)
        });
        let mut result = result.map_err(|error| memory.explain(error, largest(&views)))?;
        let refining = Instant::now();
        let options = &reconstructor.options.align;
        let refinement =
            self.many
                .refine
                .run(&mut result.alignment, &views, images, options, &line)?;
        let framed = frame.apply(&mut result.alignment);
        let refine = refining.elapsed();
        let checking = Instant::now();
        progress::begin(&line, "check", 1);
        let checked = self
            .results
            .check_views(&mut result.alignment, runtimes[0].device());
        let check = checking.elapsed();
        progress::begin(&line, "write", 1);
        let writing = Instant::now();
        let found = match (images.len(), &result.matches[..]) {
            (2, [pair]) => Found::Two(&pair.matches),
            (_, pairs) => Found::Pairs(pairs),
        };
        let results = outputs.write(&result.alignment, found, checked, |written| {
            if let Some(file) = predictions {
                let path = file.path().to_path_buf();
                let maps = loader
                    .models()
                    .and_then(|models| raw_maps(&models[0], &views));
                let detail = maps.and_then(|maps| write_predictions(file, &maps, &views, &chosen));
                written.note("predictions", &path, detail.map(|()| "raw maps".into()));
            }
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
            load,
            refine,
            check,
            write,
            total,
            stages: result.times,
        };
        let say = || {
            let known_scale = options.has_known_scale();
            say(&result, &chosen, &seconds, known_scale, global);
            refinement
                .iter()
                .for_each(|refinement| refine::say(refinement, &result.alignment, global));
        };
        self.results.conclude(
            results,
            framed,
            &result.alignment,
            global,
            say,
            |mut summary| {
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
            },
        )
    }

    /// Adds what only this command knows to the summary: the network, how many images and pairs
    /// were computed, times, the refinement.
    fn describe(
        &self,
        summary: &mut Value,
        chosen: &ChosenModel,
        [encoded, computed]: [usize; 2],
        seconds: &Seconds,
        refinement: Option<&Refinement>,
        global: &GlobalArgs,
    ) -> mast3r::Result<()> {
        summary["model"] = json!(chosen.name);
        summary["weights"] = json!(chosen.checkpoint.describe());
        summary["precision"] = json!(global.precision()?.to_string());
        summary["encoded"] = json!(encoded);
        summary["computed"] = json!(computed);
        summary["seconds"] = seconds.json();
        summary["refinement"] = refinement.map_or(Value::Null, refine::summary);
        Ok(())
    }

    /// Checks and loads images, and checks the network.
    fn ready(&self, images: &[PathBuf], global: &GlobalArgs) -> anyhow::Result<Ready> {
        let limits = Limits::default();
        views::probe_all(
            images,
            self.network.early_framing(DEFAULT_NETWORK)?.as_ref(),
            &limits,
        )?;
        let runtimes = global.runtimes()?;
        let chosen = self.network.choose(DEFAULT_NETWORK)?;
        if !chosen.predicts().reconstructs() {
            let way_out =
                "reconstruct needs a network such as mast3r or da3-base; encode takes this one";
            return Err(
                Error::Usage(format!("{} is an encoder alone; {way_out}", chosen.name)).into(),
            );
        }
        match chosen.predicts() {
            Predicts::Scene => {
                self.many.check_joint(&chosen.name)?;
                if self.predictions.is_some() || self.results.maps.wants_matches() {
                    return Err(Error::Usage(format!(
                        "--predictions and --matches are for networks of image pairs; {} has no matches",
                        chosen.name
                    ))
                    .into());
                }
            }
            _ => check_count(images)?,
        }
        let mut views = views::load(images, &chosen.framing, &limits)?;
        if self.many.ignore_alpha {
            views.iter_mut().for_each(View::ignore_alpha);
        }
        tell_identical(&views, global);
        views::remarks(&views)
            .iter()
            .for_each(|line| global.say(line));
        if chosen.predicts() == Predicts::Scene {
            tell_shared(&views, global);
        }
        Ok(Ready {
            chosen,
            views,
            runtimes,
        })
    }

    /// What the arguments alone show to be wrong.
    fn check(&self, images: &[PathBuf]) -> mast3r::Result<()> {
        self.results.check()?;
        let files = [&self.predictions, &self.many.work]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path);
        let files = self.results.files().chain(files);
        let mut inputs = [images, self.network.files()].concat();
        inputs.extend(self.many.files().cloned());
        outputs::check_apart(files, &inputs)?;
        if self.predictions.is_some()
            && (images.len() > 2 || images.iter().any(|path| is_video(path)))
        {
            let reason = "is of two images alone; --work FOLDER keeps maps and matches of every pair, and align reads it";
            return Err(Error::Usage(format!("--predictions {reason}")));
        }
        match images {
            // A name that stands for nothing is worth more than the count.
            [only] if !is_video(only) => {
                views::probe(only, &Limits::default())?;
                if self.network.may_take_one_view(DEFAULT_NETWORK)? {
                    return Ok(());
                }
                check_count(images)
            }
            _ => Ok(()),
        }
    }

    fn open_results(&self, images: &[PathBuf]) -> mast3r::Result<ResultOutputs> {
        let placing = if self.copy_images {
            Placing::Copy
        } else {
            Placing::Link
        };
        self.results.open(&Images::files(images.to_vec(), placing))
    }
}

/// Of images of several sizes a joint network predicts what all have.
fn tell_shared(views: &[View], global: &GlobalArgs) {
    let sizes = || views.iter().map(|view| view.rgb.dimensions());
    let smallest = |side: fn((u32, u32)) -> u32| sizes().map(side).min().unwrap_or_default();
    let [width, height] = [smallest(|size| size.0), smallest(|size| size.1)];
    if sizes().any(|size| size != (width, height)) {
        global.say(format_args!(
            "images have several sizes: depth is predicted for the middle {width}x{height} pixels, which all of them have"
        ));
    }
}

/// Refuses a single view.
fn check_count(images: &[PathBuf]) -> mast3r::Result<()> {
    match images {
        [only] => Err(match Source::of(only) {
            Source::Frame { video, .. } => Error::input(
                video,
                "only 1 frame of it is used, and reconstruct needs two views of a scene or more; \
                 move the camera, ask for a higher --fps, or try --all-frames",
            ),
            _ => Error::Usage(format!(
                "{}: 1 image: reconstruct needs two views of a scene or more; name another, or a \
                 network that takes one, such as da3-base",
                only.display()
            )),
        }),
        _ => Ok(()),
    }
}

/// Where a run's time went.
struct Seconds {
    /// The images, and the weights where they do not count as a stage.
    load: Duration,
    /// Of the cameras, on the images themselves.
    refine: Duration,
    check: Duration,
    write: Duration,
    total: Duration,
    stages: Times,
}

impl Seconds {
    /// For a program, by the same names however many images there are.
    fn json(&self) -> Value {
        let Self {
            load,
            refine,
            check,
            write,
            total,
            stages,
        } = self;
        let Times {
            load: weights,
            encode,
            pairs,
            decode,
            fetch,
            matching,
            align,
        } = stages;
        json!({
            "load": (*load + *weights).as_secs_f64(),
            "encode": encode.as_secs_f64(),
            "pairs": pairs.as_secs_f64(),
            "decode": decode.as_secs_f64(),
            "fetch": fetch.as_secs_f64(),
            "match": matching.as_secs_f64(),
            "align": align.as_secs_f64(),
            "refine": refine.as_secs_f64(),
            "check": check.as_secs_f64(),
            "write": write.as_secs_f64(),
            "total": total.as_secs_f64(),
        })
    }
}

/// The network on each device, loaded when it is first needed.
struct Loader<'a> {
    chosen: &'a ChosenModel,
    runtimes: &'a [Runtime],
    loaded: Mutex<Vec<Model>>,
}

impl Loader<'_> {
    fn models(&self) -> mast3r::Result<Vec<Model>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.is_empty() {
            *loaded = self.chosen.load_each(self.runtimes)?;
        }
        Ok(loaded.clone())
    }
}

/// For a person: images and pairs that were left out, and where the time went.
fn say(
    result: &Reconstruction,
    chosen: &ChosenModel,
    seconds: &Seconds,
    known_scale: bool,
    global: &GlobalArgs,
) {
    let (encoded, computed, times) = (result.encoded, result.computed, &seconds.stages);
    let (images, pairs) = (result.alignment.views.len(), result.alignment.pairs.len());
    if chosen.predicts() == Predicts::Scene {
        global.say(format_args!(
            "{}: {} predicted together; scale {}; {:.2} s (load {:.2}, predict {:.2}, refine {:.2}, write \
             {:.2})",
            chosen.name,
            counted(images),
            if known_scale { "that of the known poses" } else { "relative" },
            seconds.total.as_secs_f64(),
            (seconds.load + times.load).as_secs_f64(),
            times.pairs.as_secs_f64(),
            seconds.refine.as_secs_f64(),
            seconds.write.as_secs_f64(),
        ));
        return;
    }
    global.say(format_args!(
        "{}: {encoded} of {images} images encoded, {computed} of {pairs} pairs computed; {:.2} s (load {:.2}, encode \
         {:.2}, pairs {:.2}, align {:.2}, refine {:.2}, write {:.2})",
        chosen.name,
        seconds.total.as_secs_f64(),
        (seconds.load + times.load).as_secs_f64(),
        times.encode.as_secs_f64(),
        times.pairs.as_secs_f64(),
        times.align.as_secs_f64(),
        seconds.refine.as_secs_f64(),
        seconds.write.as_secs_f64(),
    ));
    report(&result.alignment, times.align.as_secs_f64(), global);
    let cameras: Vec<_> = result
        .alignment
        .scene
        .views
        .iter()
        .map(|view| view.camera)
        .collect();
    if let [Some(first), Some(second)] = cameras[..] {
        let pose = first.world_from_camera.inverse() * second.world_from_camera;
        global.say(format_args!(
            "  {} matches, focal {:.1} and {:.1} px, rotation {:.2} degrees, baseline {:.4}",
            result
                .alignment
                .pairs
                .iter()
                .map(|pair| pair.matches)
                .sum::<usize>(),
            first.intrinsics.fx,
            second.intrinsics.fx,
            pose.rotation.angle().to_degrees(),
            pose.translation.vector.norm()
        ));
    }
}

/// All that the network predicts of two views, the second one's points in the first one's frame.
fn raw_maps(model: &Model, views: &[View]) -> mast3r::Result<[ViewMaps; 2]> {
    let features = model.features(views)?;
    fetch(&model.pairwise()?.decode(&features[0], &features[1])?)
}

fn write_predictions(
    file: OutputFile,
    maps: &[ViewMaps; 2],
    views: &[View],
    chosen: &ChosenModel,
) -> mast3r::Result<()> {
    let mut tensors = Vec::new();
    let mut metadata = TensorMetadata::from([("model".to_string(), chosen.name.clone())]);
    for (view, (maps, image)) in (1..).zip(maps.iter().zip(views)) {
        let (height, width) = (maps.points.height, maps.points.width);
        tensors.push(TensorSpec::new(
            format!("pts3d.{view}"),
            &[height, width, 3],
        ));
        tensors.push(TensorSpec::new(format!("conf.{view}"), &[height, width]));
        tensors.push(TensorSpec::new(
            format!("desc.{view}"),
            &[height, width, maps.channels],
        ));
        tensors.push(TensorSpec::new(
            format!("desc_conf.{view}"),
            &[height, width],
        ));
        metadata.insert(
            format!("view.{view}"),
            image_metadata(&image.name, &image.crop),
        );
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
