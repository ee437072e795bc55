//! Measurements as they are kept: every figure with its terms and every single run.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Correlation, Machine, Summary};
use mast3r::{Error, Result};

/// Everything that was measured in one go on one machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// GFLOP/s of the fastest matrix product seen, by precision.
    #[serde(default)]
    pub peaks: BTreeMap<String, f64>,
    /// Networks and stages of them.
    pub results: Vec<Row>,
    /// Single operations.
    #[serde(default)]
    pub ops: Vec<OpRow>,
    /// How near the outputs were to another program's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub correlations: Vec<Correlation>,
}

/// One network, stage, size, precision and batch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Row {
    /// Who measured: `mast3r 0.1.0 (candle 0.11.1)`, `torch 2.15.0`.
    pub framework: String,
    /// `default`, or what was done differently: `without fused-attention`, `tuned`.
    pub variant: String,
    /// As `--model` takes it.
    pub model: String,
    /// `WIDTHxHEIGHT`.
    pub resolution: String,
    /// As `--stage` takes it.
    pub stage: String,
    /// `f32`, `f16` or `bf16`.
    pub precision: String,
    /// `cpu`, `cuda:0`, …
    pub device: String,
    /// Images, or pairs of a two-view network, at a time.
    pub batch: usize,
    /// CPU threads.
    pub threads: usize,
    /// Which weights: `random, seed 0`, or a file.
    pub weights: String,
    /// Which images: `generated`, or file names.
    pub images: String,
    /// Runs before those that count.
    pub warmup: usize,
    /// Of `runs_ms`.
    pub median_ms: f64,
    /// Of `runs_ms`.
    pub mean_ms: f64,
    /// Sample standard deviation of `runs_ms`.
    pub stddev_ms: f64,
    /// Of `runs_ms`.
    pub min_ms: f64,
    /// Of `runs_ms`.
    pub max_ms: f64,
    /// Every run that counts, in order.
    pub runs_ms: Vec<f64>,
    /// Runs far from the others.
    pub outliers: usize,
    /// Of a row without some optimisation: runs with all of them, one before each of `runs_ms`.
    pub beside_runs_ms: Vec<f64>,
    /// Images, or pairs, per second at the median.
    pub per_second: f64,
    /// Operations of one run in units of 10^9; a multiplication with its addition counts two.
    pub gflop: Option<f64>,
    /// At the median.
    pub gflop_per_s: Option<f64>,
    /// Of the fastest matrix product seen on the machine in this precision.
    pub peak_share: Option<f64>,
    /// Reading or making the weights and building the network.
    pub load_ms: Option<f64>,
    /// The weights as they are held, in MiB.
    pub weights_mib: Option<f64>,
    /// Greatest resident memory of the process while this was measured, the loading of its weights
    /// included.
    pub peak_rss_mib: Option<f64>,
    /// Greatest memory of the GPU that was in use at a time, the weights included.
    pub peak_device_mib: Option<f64>,
    /// The file with the outputs, relative to the report's outputs folder.
    pub outputs: Option<String>,
    /// How near the outputs are to those in float32, same weights and images.
    pub agreement: Vec<Agreement>,
    /// When, in UTC.
    pub date: String,
    /// Why there are no times.
    pub error: Option<String>,
}

/// One output beside the same in float32.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// `features`, `pts3d.1`, …
    pub output: String,
    /// Pearson's correlation.
    pub pearson: f64,
    /// Largest difference over the largest magnitude.
    pub error: f64,
}

/// One operation of ours beside the plain expression that it replaces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpRow {
    /// Its name.
    pub op: String,
    /// What it was given and what it made.
    pub shape: String,
    /// `f32`, `f16` or `bf16`.
    pub precision: String,
    /// `cpu`, `cuda:0`, …
    pub device: String,
    /// CPU threads.
    pub threads: usize,
    /// Time of one call, of many in a row, each list entry a series.
    pub runs_ms: Vec<f64>,
    /// Median of `runs_ms`.
    pub median_ms: f64,
    /// The same of the plain expression.
    pub plain_runs_ms: Vec<f64>,
    /// Median of `plain_runs_ms`.
    pub plain_median_ms: f64,
    /// Bytes that have to be read and written, at the median.
    pub gb_per_s: f64,
}

impl Row {
    /// Sets all that follows from the runs.
    pub fn set_runs(&mut self, runs_ms: Vec<f64>) {
        if let Some(Summary {
            median,
            mean,
            stddev,
            min,
            max,
            outliers,
            ..
        }) = Summary::of(&runs_ms)
        {
            (self.median_ms, self.mean_ms, self.stddev_ms) = (median, mean, stddev);
            (self.min_ms, self.max_ms, self.outliers) = (min, max, outliers);
            self.per_second = 1e3 * self.batch as f64 / median;
            self.gflop_per_s = self.gflop.map(|gflop| 1e3 * gflop / median);
        }
        self.runs_ms = runs_ms;
    }

    /// Whether both are measurements of the same thing, whoever made them.
    pub fn same_case(&self, other: &Self) -> bool {
        let kind = |row: &Self| row.device.split(':').next().unwrap_or_default().to_string();
        (
            &self.model,
            &self.resolution,
            &self.stage,
            &self.precision,
            self.batch,
            kind(self),
        ) == (
            &other.model,
            &other.resolution,
            &other.stage,
            &other.precision,
            other.batch,
            kind(other),
        )
    }

    /// Whether `other` makes this row's measurement unnecessary.
    pub fn is_answered_by(&self, other: &Self) -> bool {
        other.error.is_none()
            && self.same_case(other)
            && (&self.variant, &self.weights, &self.images)
                == (&other.variant, &other.weights, &other.images)
    }
}

impl Report {
    /// Of `machine`, with nothing measured.
    pub fn new(machine: Machine) -> Self {
        Self {
            machine,
            peaks: BTreeMap::new(),
            results: Vec::new(),
            ops: Vec::new(),
            correlations: Vec::new(),
        }
    }

    /// Reads one from a JSON file, of this program or of another that writes the same form.
    ///
    /// # Errors
    /// [`Error::Input`] with the path and what is wrong.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).map_err(|error| Error::input(path, error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| {
            Error::input(path, format!("is not a report of measurements: {error}"))
        })
    }

    /// As indented JSON with a line's end.
    ///
    /// # Errors
    /// None for reports that this program made.
    pub fn json(&self) -> Result<String> {
        let text = serde_json::to_string_pretty(self);
        let text = text.map_err(|error| {
            Error::Internal(format!("the report cannot be written as JSON: {error}"))
        })?;
        Ok(text + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_back_and_unknown_fields_are_ignored() {
        let mut row = Row {
            model: "dune-small".into(),
            batch: 2,
            gflop: Some(10.0),
            ..Row::default()
        };
        row.set_runs(vec![20.0, 10.0, 30.0]);
        assert_eq!(
            (row.median_ms, row.per_second, row.gflop_per_s),
            (20.0, 100.0, Some(500.0))
        );
        let mut report = Report::new(Machine::here(&candle_core::Device::Cpu).unwrap());
        report.results.push(row);
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = report
            .json()
            .unwrap()
            .replacen("\"model\"", "\"later\": 1, \"model\"", 1);
        std::fs::write(file.path(), text).unwrap();
        assert_eq!(Report::read(file.path()).unwrap(), report);

        std::fs::write(file.path(), "{\"results\": []}").unwrap();
        let message = Report::read(file.path()).unwrap_err().to_string();
        assert!(message.contains("missing field `machine`"), "{message}");
    }
}
