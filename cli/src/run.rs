//! `mast3r run`: a worker's part of a plan.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use clap::{Args, ValueEnum};
use mast3r::Error;
use mast3r::network::{ChosenModel, Model};
use mast3r::pipeline::jobs::{JobEvent, JobPlan, JobStage, JobState, Jobs, StageSummary};
use mast3r::pipeline::{DeviceKind, NetworkKey, WorkFolder};
use mast3r::runtime::{DeviceChoice, DeviceList, Precision, Runtime};

use crate::GlobalArgs;
use crate::progress;

/// Run shards of a plan
///
/// Encodes the images of a shard, then decodes and matches its pairs; the pairs need the encodings
/// of all shards, and the command ends with exit code 5 where they are missing. It may be run twice,
/// by two workers at a time, and be killed at any time: files appear whole or not at all, and what
/// is there is not computed again. An image that cannot be decoded, or has changed, is named and
/// takes no part; the exit code is 0 then too. Prints a JSON object a line on standard output for
/// every finished image, pair and stage.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Work folder with plan.json
    #[arg(long, value_name = "FOLDER")]
    work: PathBuf,

    /// Shard, counted from 0 [default: all shards, one after the other]
    #[arg(long, value_name = "I")]
    shard: Option<usize>,

    /// Stage [default: both]
    #[arg(long, value_name = "STAGE")]
    stage: Option<StageArg>,

    /// Memory for the encoder's features, in GiB
    #[arg(long, value_name = "GIB", default_value_t = 2.0, value_parser = crate::reconstruct::gibibytes, allow_negative_numbers = true)]
    memory: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StageArg {
    /// Images to features
    Encode,
    /// Features to points and matches
    Pairs,
}

impl RunArgs {
    pub fn run(&self, global: &GlobalArgs) -> anyhow::Result<()> {
        let Some(plan) = JobPlan::read(&self.work)? else {
            let reason = "there is no plan; make one with `mast3r plan`";
            return Err(Error::Usage(format!("{}: {reason}", self.work.display())).into());
        };
        if let Some(shard) = self.shard {
            plan.check_shard(shard)?;
        }
        let chosen = plan.choice()?.choose()?;
        let runtimes = runtimes(&plan, global)?;
        check_key(&plan, &chosen, &runtimes[0])?;
        let loaded = Mutex::new(Vec::new());
        let network = || load(&chosen, &runtimes, &loaded);
        let shards = match self.shard {
            Some(shard) => vec![shard],
            None => (0..plan.shards()).collect(),
        };
        let mut jobs = Jobs::open(
            WorkFolder::open(&self.work)?,
            plan,
            chosen.framing,
            &network,
        )?;
        jobs.memory = crate::reconstruct::bytes(self.memory);
        let advice = "interrupted; run the same command again to go on: what was computed is kept";
        progress::advise_on_interrupt(global.quiet, advice.into());
        let failure = Mutex::new(None);
        let watch = |event: &JobEvent| {
            if let Err(error) = print_line(event) {
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
            say(event, global);
        };
        for stage in [JobStage::Encode, JobStage::Pairs] {
            let is_wanted = match self.stage {
                None => true,
                Some(StageArg::Encode) => stage == JobStage::Encode,
                Some(StageArg::Pairs) => stage == JobStage::Pairs,
            };
            if is_wanted {
                for &shard in &shards {
                    let summary = jobs.run(stage, shard, &watch)?;
                    watch(&JobEvent::Stage(summary));
                }
            }
        }
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(Error::io("standard output", error).into()),
            None => Ok(()),
        }
    }
}

/// A line of JSON, at once.
fn print_line(event: &JobEvent) -> io::Result<()> {
    let mut line = serde_json::to_string(event)?;
    line.push('\n');
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.flush()
}

/// For a person: what cannot be used, and how a stage ended.
fn say(event: &JobEvent, global: &GlobalArgs) {
    match event {
        JobEvent::Image {
            state: JobState::Failed,
            image,
            reason,
            ..
        } => {
            let reason = reason.as_ref().unwrap_or(image);
            global.say(format_args!("  left out: {reason}"));
        }
        JobEvent::Pair {
            state: JobState::Failed,
            images: [first, second],
            reason,
            ..
        } => {
            let reason = reason.as_deref().unwrap_or_default();
            global.say(format_args!("  the pair {first}, {second} is left out: {reason}"));
        }
        JobEvent::Stage(StageSummary {
            shard,
            stage,
            computed,
            kept,
            failed,
            seconds,
        }) => global.say(format_args!(
            "shard {shard}, {}: {computed} computed, {kept} there, {failed} left out; {seconds:.2} s",
            stage.name()
        )),
        _ => {}
    }
}

/// The devices asked for, or else one of the plan's kind.
fn runtimes(plan: &JobPlan, global: &GlobalArgs) -> mast3r::Result<Vec<Runtime>> {
    let planned: Precision = plan.key().precision().parse().map_err(Error::Usage)?;
    if let [asked] = global.precisions()
        && *asked != planned
    {
        return Err(Error::Usage(format!(
            "--precision {asked}: the plan has {planned}"
        )));
    }
    if global.device != DeviceList::default() {
        return global.device.open(planned);
    }
    let choice = match plan.key().kind() {
        Some(DeviceKind::Cpu) => DeviceChoice::Cpu,
        Some(DeviceKind::Cuda) => DeviceChoice::Cuda(0),
        Some(DeviceKind::Metal) => DeviceChoice::Metal(0),
        None => DeviceChoice::Auto,
    };
    Ok(vec![Runtime::new(choice, planned)?])
}

/// Refuses to compute what the plan does not mean.
fn check_key(plan: &JobPlan, chosen: &ChosenModel, runtime: &Runtime) -> mast3r::Result<()> {
    let (planned, here) = (
        plan.key(),
        NetworkKey::new(chosen.checkpoint.digest(), runtime),
    );
    if planned.network() != here.network() {
        return Err(Error::weights(
            chosen.checkpoint.describe(),
            "these are not the weights of the plan; use the same file on all machines",
        ));
    }
    if planned.device() != here.device() {
        return Err(Error::Usage(format!(
            "the plan is for {}, and this machine computes on {}, which rounds differently; use machines of \
             one kind, or make the plan on one of these",
            planned.device(),
            here.device()
        )));
    }
    match *planned == here {
        true => Ok(()),
        false => Err(Error::Usage(
            "the plan is of another version of this program; make it again".into(),
        )),
    }
}

/// The network on each device, loaded when it is first needed.
fn load(
    chosen: &ChosenModel,
    runtimes: &[Runtime],
    loaded: &Mutex<Vec<Model>>,
) -> mast3r::Result<Vec<Model>> {
    let mut loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
    if loaded.is_empty() {
        *loaded = chosen.load_each(runtimes)?;
    }
    Ok(loaded.clone())
}
