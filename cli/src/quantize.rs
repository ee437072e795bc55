//! `mast3r quantize`: weights in fewer bytes.

use std::path::{Path, PathBuf};

use clap::Args;
use mast3r::Error;
use mast3r::export::{WeightFormat, write_quantised};
use mast3r::model::registry::Network;
use mast3r::network::{ModelChoice, WeightChoice};

use crate::GlobalArgs;
use crate::network::weight_choice;

/// Store a network's weights in fewer bytes
///
/// The file is read wherever weights are, by its content, and in every precision: numbers are what
/// the file says times their units. `--precision int8` multiplies weights as an int8 file has them.
#[derive(Debug, Args)]
pub struct QuantizeArgs {
    /// Checkpoint, .safetensors or .pth, two if decoder and encoder are in two files; the name of a
    /// network whose weights are bundled or in the cache; or random:SEED for those of mast3r
    #[arg(value_name = "IN", required = true, num_args = 1..=2)]
    weights: Vec<PathBuf>,

    /// The safetensors file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// How numbers are stored: int8, int4, bf16 or f16
    ///
    /// int8 has a unit for each row of a matrix, int4 one for 32 neighbours; in both biases, norms
    /// and positions stay float32.
    #[arg(long, value_name = "FORMAT")]
    to: WeightFormat,
}

impl QuantizeArgs {
    pub fn run(&self, global: &GlobalArgs) -> anyhow::Result<()> {
        let chosen = self.choice()?.choose().map_err(|error| match error {
            Error::NoWeights { network } => {
                let way_out = format!(
                    "no weights in the cache; fetch the published ones with `mast3r pull {network}`, or give a file"
                );
                Error::weights(network, way_out)
            }
            other => other,
        })?;
        write_quantised(&chosen.checkpoint, self.to, &self.output)?;
        let size = |path: &Path| std::fs::metadata(path).map(|data| data.len());
        if let Ok(bytes) = size(&self.output) {
            global.say(format_args!(
                "wrote {}: {} in {}, {:.1} MB",
                self.output.display(),
                chosen.name,
                self.to,
                bytes as f64 / 1e6
            ));
        }
        Ok(())
    }

    fn choice(&self) -> mast3r::Result<ModelChoice> {
        let name = match &self.weights[..] {
            [one] if !one.exists() => one.to_str(),
            _ => None,
        };
        let named = name.and_then(|name| Network::find(name).ok());
        let weights = match named {
            Some(_) => WeightChoice::Published,
            None => weight_choice(&self.weights)?,
        };
        let network = match weights {
            WeightChoice::Random(_) => Some(Network::find("mast3r")?),
            _ => named,
        };
        Ok(ModelChoice {
            network,
            weights,
            resolution: None,
        })
    }
}
