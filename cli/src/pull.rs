//! `mast3r pull`: published weights into the cache.

use std::io::{self, BufRead as _, IsTerminal as _};

use clap::Args;
use mast3r::Error;
use mast3r::hub::{Event, Hub, PullOptions, Pulled};
use mast3r::model::registry::Network;

use crate::progress::Line;
use crate::{GlobalArgs, models, outputs, print_log, progress};

/// Download published weights into the cache
///
/// MASt3R's come from the Hugging Face hub, DUNE's and DuneMASt3R's from their authors' server;
/// `mast3r models` lists them. Prints the paths on standard output. Continues interrupted
/// downloads. Contacts no server for weights that are in the cache.
#[derive(Debug, Args)]
#[command(after_long_help = ENVIRONMENT)]
pub struct PullArgs {
    /// Networks; mast3r and mast3r-encoder share a file
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,

    /// Accept the licence of the weights without being asked
    ///
    /// The published weights are for non-commercial use only; mast3r models shows their terms.
    #[arg(long)]
    accept_license: bool,

    /// Image size that the weights were trained for, where there are several: 336 or 448 for DUNE
    #[arg(long, value_name = "PIXELS")]
    res: Option<u32>,

    /// Branch, tag or commit of the repository on the Hugging Face hub
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,

    /// Download again, even if the file is in the cache
    #[arg(long)]
    force: bool,
}

const ENVIRONMENT: &str = "\
Environment:
  HF_HOME               the cache: hub/ for the Hugging Face hub's files, mast3r/ for others;
                        ~/.cache/huggingface if not set
  HF_HUB_CACHE          another place for hub/
  HF_ENDPOINT           a mirror of the Hugging Face hub, instead of https://huggingface.co
  HF_TOKEN              a token of your account there, which goes to that address alone; or in the
                        file that HF_TOKEN_PATH names, HF_HOME/token if not set
  HF_HUB_OFFLINE        1 forbids to fetch anything
  MAST3R_DUNE_ENDPOINT  a mirror of the folder of DUNE's and DuneMASt3R's files, instead of
                        https://download.europe.naverlabs.com/dune
  HTTPS_PROXY, ALL_PROXY, NO_PROXY";

impl PullArgs {
    pub fn run(&self, global: &GlobalArgs) -> anyhow::Result<()> {
        let mut networks: Vec<&Network> = Vec::new();
        for name in &self.names {
            let network = Network::find(name)?;
            if networks.iter().all(|known| known.name != network.name) {
                networks.push(network);
            }
        }
        let options = PullOptions {
            long_side: self.res,
            revision: self.revision.clone(),
            force: self.force,
        };
        let hub = Hub::from_env()?;
        let mut missing = Vec::new();
        for &network in &networks {
            if hub.cached(network, &options)?.is_none() || self.force {
                missing.push(network);
            }
        }
        self.accept(global, &hub, &missing)?;
        for network in networks {
            let mut show = Show { global, bar: None };
            let pulled = hub.pull(network, &options, &mut |event| show.event(event));
            drop(show);
            report(global, network, &pulled?)?;
        }
        Ok(())
    }

    /// Shows the terms of what will be fetched, and goes on only if they are accepted.
    fn accept(&self, global: &GlobalArgs, hub: &Hub, networks: &[&Network]) -> anyhow::Result<()> {
        // Offline nothing is fetched, and the error that says so should not wait for an answer.
        if networks.is_empty() || hub.offline {
            return Ok(());
        }
        let mut terms: Vec<&str> = networks
            .iter()
            .map(|network| network.weights_license)
            .collect();
        terms.dedup();
        let terms = format!("the weights are for {}", terms.join("; and for "));
        if self.accept_license {
            global.say(terms);
            return Ok(());
        }
        if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
            return Err(Error::Usage(format!(
                "{terms}; if you accept that, say so with --accept-license"
            ))
            .into());
        }
        print_log(terms);
        print_log("Do you accept this? Type yes to go on:");
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        match answer.trim().eq_ignore_ascii_case("yes") {
            true => Ok(()),
            false => Err(Error::Usage(
                "the licence was not accepted, so nothing was fetched".into(),
            )
            .into()),
        }
    }
}

/// What a person sees of a transfer.
struct Show<'a> {
    global: &'a GlobalArgs,
    bar: Option<Line>,
}

impl Show<'_> {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::File { address, .. } => self.say(format_args!("fetching {address}")),
            Event::Waiting => self.say("another process fetches this file; waiting for it"),
            Event::Started { total, kept } => {
                self.clear();
                if kept > 0 {
                    self.say(format_args!("{} are here already", models::size(kept)));
                }
                let bar = progress::bytes(self.global.quiet, total);
                bar.set_position(kept);
                bar.reset_eta();
                self.bar = Some(bar);
            }
            Event::Received { bytes } => {
                if let Some(bar) = &self.bar {
                    bar.set_position(bytes);
                }
            }
            Event::Retrying { reason, wait } => {
                self.clear();
                self.say(format_args!(
                    "{reason}; trying again in {:.1} s",
                    wait.as_secs_f64()
                ));
            }
            _ => self.clear(),
        }
    }

    fn say(&self, line: impl std::fmt::Display) {
        self.global.say(line);
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Show<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Says what became of a network's files, and prints where they are.
fn report(global: &GlobalArgs, network: &Network, pulled: &Pulled) -> anyhow::Result<()> {
    for file in &pulled.files {
        let name = network.name;
        match &file.received {
            None => global.say(format_args!(
                "{name}: already in the cache, nothing fetched"
            )),
            Some(received) => {
                let source = match received.announced {
                    true => "as the server announced",
                    false => "as received; the server announces none",
                };
                let size = models::size(received.bytes);
                global.say(format_args!(
                    "{name}: {size}, SHA-256 {} ({source})",
                    received.sha256
                ));
                if let Some(before) = &received.before {
                    global.say(format_args!(
                        "{name}: the file is another than before, which had SHA-256 {before}"
                    ));
                }
            }
        }
        outputs::print_text(&format!("{}\n", file.path.display()))?;
    }
    Ok(())
}
