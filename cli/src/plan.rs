//! `mast3r plan`: what many workers are to compute.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use mast3r::Error;
use mast3r::matching::MatchOptions;
use mast3r::model::config::Predicts;
use mast3r::model::registry::Network;
use mast3r::pipeline::jobs::{JobPlan, PLAN_FILE, PlanOptions};
use mast3r::pipeline::{DeviceKind, NetworkKey, ReconstructOptions, WorkFolder};
use mast3r::runtime::Optimisations;
use serde_json::json;

use crate::encode::counted;
use crate::images::ImageArgs;
use crate::network::NetworkArgs;
use crate::pairs::PairArgs;
use crate::{GlobalArgs, estimate, outputs};

/// The network without `--model` and without a file that says otherwise.
const DEFAULT_NETWORK: &str = "mast3r";

/// Divide a reconstruction among workers on one machine or many
///
/// Writes plan.json into the work folder: images with sizes and checksums, the network, the rule for
/// pairs, and how many shards there are. Workers on any machine that sees the folder, the images and
/// the weights under the same paths then run `mast3r run --work FOLDER --shard I --stage encode` for
/// every shard, and when all of them are done the same with `--stage pairs`. `mast3r align FOLDER`
/// makes the reconstruction. Results are those of one `mast3r reconstruct --work`. The same
/// arguments give the same plan. Images that cannot be used are named and take no part.
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    images: ImageArgs,

    /// Work folder for the plan and for all results; its parent must exist
    #[arg(long, value_name = "FOLDER")]
    work: PathBuf,

    /// Number of shards, that is of workers or more
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = crate::at_least_one)]
    shards: usize,

    /// Kind of device that all workers compute on, where it is not that of --device here
    ///
    /// Of CPUs all must have this machine's instruction set (--version -v tells it), because others
    /// round differently.
    #[arg(long, value_name = "KIND")]
    workers: Option<Kind>,

    /// Start matching from every PIXELS-th pixel of every PIXELS-th row
    #[arg(long, value_name = "PIXELS", default_value_t = MatchOptions::default().subsample, value_parser = crate::at_least_one)]
    match_step: usize,

    /// Print images, pairs, disk space, memory and time, and write nothing
    ///
    /// Times are measured on this device with two of the images, that of the alignment is a stored
    /// figure.
    #[arg(long)]
    estimate: bool,

    /// Print a JSON summary on standard output
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pairs: PairArgs,

    // Last, because its heading would go on to what follows.
    #[command(flatten)]
    network: NetworkArgs,
}

/// A kind of device.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Cpu,
    Cuda,
    Metal,
}

impl PlanArgs {
    pub fn run(&self, global: &GlobalArgs) -> anyhow::Result<()> {
        let files = self.images.expand(global)?;
        let images = self.images.frames(files, global)?;
        let inputs = [&images[..], self.network.files()].concat();
        outputs::check_apart([self.work.as_path()], &inputs)?;
        let pairs = self.pairs.choice(&images)?;
        let choice = self.network.choice(DEFAULT_NETWORK)?;
        let chosen = self.network.choose(DEFAULT_NETWORK)?;
        if chosen.predicts() != Predicts::Pairs {
            let reason = "plans are for networks of image pairs, such as mast3r";
            return Err(Error::Usage(format!("{}: {reason}", chosen.name)).into());
        }
        if self.estimate {
            let memory = ReconstructOptions::default().memory;
            let runtimes = global.runtimes()?;
            return estimate::print(
                &images, &pairs, &chosen, &runtimes, memory, self.json, global,
            );
        }
        let digest = chosen.checkpoint.digest();
        let key = match self.workers {
            None => NetworkKey::new(digest, &global.runtime("plan")?),
            Some(kind) => {
                let kind = match kind {
                    Kind::Cpu => DeviceKind::Cpu,
                    Kind::Cuda => DeviceKind::Cuda,
                    Kind::Metal => DeviceKind::Metal,
                };
                NetworkKey::planned(digest, kind, global.precision()?, Optimisations::all())
            }
        };
        let matching = MatchOptions {
            subsample: self.match_step,
            ..MatchOptions::default()
        };
        let plan = JobPlan::new(
            &images,
            &PlanOptions {
                choice: &choice,
                framing: &chosen.framing,
                metric: Network::is_metric(&chosen.name),
                key,
                pairs: &pairs,
                matching,
                shards: self.shards,
            },
        )?;
        let folder = WorkFolder::open(&self.work)?;
        if plan.write(&folder)? {
            global.say("the folder had another plan, which is replaced; what was computed is used");
        }
        let unusable: Vec<&str> = plan
            .images()
            .iter()
            .filter_map(|image| image.reason.as_deref())
            .collect();
        for reason in &unusable {
            global.say(format_args!("  left out: {reason}"));
        }
        let path = folder.path().join(PLAN_FILE);
        let count = plan.images().len() - unusable.len();
        global.say(format_args!(
            "{}: {} for {} on {}, pairs by {}, {} shards",
            path.display(),
            counted(count),
            chosen.name,
            plan.key().device(),
            plan.pair_rule(),
            plan.shards()
        ));
        if self.json {
            outputs::print_json(&json!({
                "plan": path,
                "model": chosen.name,
                "device": plan.key().device(),
                "precision": plan.key().precision(),
                "images": count,
                "unusable": unusable,
                "pairs": plan.pair_rule(),
                "shards": plan.shards(),
            }))?;
        }
        Ok(())
    }
}
