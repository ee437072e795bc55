//! Where the goldens are, how they are read, and how far a result may be from them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

/// The folder with the goldens: `MAST3R_GOLDEN`, or the one beside this file.
pub fn golden_dir() -> PathBuf {
    match std::env::var_os("MAST3R_GOLDEN") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"),
    }
}

/// The entries of a folder whose names start with `prefix` and end with `suffix`, sorted.
pub fn discover(folder: &Path, prefix: &str, suffix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with(prefix) && name.ends_with(suffix)
        })
        .collect();
    found.sort();
    found
}

pub fn read_json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A file of reference tensors, whole or sampled.
///
/// A trimmed file keeps of a large tensor every `stride`-th element of its flattened values and says so in the metadata
/// entry `sampled`: `{name: {"shape": [...], "stride": s}}`.
pub struct Reference {
    pub path: PathBuf,
    pub tensors: HashMap<String, Tensor>,
    pub metadata: HashMap<String, String>,
    sampled: Value,
}

impl Reference {
    pub fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap_or_default();
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let sampled = metadata.get("sampled").map_or(Value::Null, |text| serde_json::from_str(text).unwrap());
        Self { path: path.to_path_buf(), tensors, metadata, sampled }
    }

    pub fn json(&self, entry: &str) -> Value {
        serde_json::from_str(&self.metadata[entry]).unwrap()
    }

    pub fn get(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("{}: no tensor {name}", self.path.display()))
    }

    /// Compares `got` with the tensor `name`, if the file has it, and records the result.
    pub fn compare(&self, name: &str, got: &Tensor, report: &mut Report) {
        let Some(want) = self.tensors.get(name) else { return };
        let got = flat(got);
        let (shape, stride) = match self.sampled.get(name) {
            None => (want.dims().to_vec(), 1),
            Some(entry) => {
                let shape = entry["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
                (shape, entry["stride"].as_u64().unwrap() as usize)
            }
        };
        let count: usize = shape.iter().product();
        assert_eq!(got.len(), count, "{}: {name} should be {shape:?}", self.path.display());
        let got: Vec<f64> = got.into_iter().step_by(stride).collect();
        report.add(name, &got, &flat(want));
    }
}

pub fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// How close two lists of values are.
#[derive(Clone, Copy, Debug)]
pub struct Closeness {
    /// Largest absolute difference over the largest magnitude of the reference.
    pub error: f64,
    /// One minus Pearson's correlation, 0 for constant lists that agree.
    pub decorrelation: f64,
    /// Where the largest difference is, in the flattened values.
    pub worst: usize,
}

pub fn closeness(got: &[f64], want: &[f64]) -> Closeness {
    let largest = want.iter().fold(0f64, |m, x| m.max(x.abs()));
    let (mut gap, mut worst) = (0f64, 0);
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let difference = (g - w).abs();
        // A NaN on one side only is as far as can be.
        let difference = if g.is_nan() && w.is_nan() {
            0.
        } else if difference.is_nan() {
            f64::INFINITY
        } else {
            difference
        };
        if difference > gap {
            (gap, worst) = (difference, i);
        }
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (got_mean, want_mean) = (mean(got), mean(want));
    let (mut covariance, mut got_variance, mut want_variance) = (0., 0., 0.);
    for (g, w) in got.iter().zip(want) {
        let (g, w) = (g - got_mean, w - want_mean);
        covariance += g * w;
        got_variance += g * g;
        want_variance += w * w;
    }
    let scale: f64 = (got_variance * want_variance).sqrt();
    let decorrelation = if scale > 0. { 1. - covariance / scale } else { 0. };
    Closeness { error: if largest > 0. { gap / largest } else { gap }, decorrelation, worst }
}

/// All comparisons of a case; fails at the end with every breach, not only the first.
pub struct Report {
    case: String,
    pub rows: Vec<(String, Closeness)>,
    breaches: Vec<String>,
    allowed: fn(&str) -> (f64, f64),
}

impl Report {
    /// `allowed` gives the largest error and the largest decorrelation for a tensor's name.
    pub fn new(case: impl Into<String>, allowed: fn(&str) -> (f64, f64)) -> Self {
        Self { case: case.into(), rows: Vec::new(), breaches: Vec::new(), allowed }
    }

    pub fn add(&mut self, name: &str, got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len(), "{}: {name}", self.case);
        let closeness = closeness(got, want);
        let (error, decorrelation) = (self.allowed)(name);
        if !(closeness.error <= error && closeness.decorrelation <= decorrelation) {
            self.breaches.push(format!(
                "{name}: error {:.1e} at {}, allowed {error:.0e}; 1 - Pearson {:.1e}, allowed {decorrelation:.0e}",
                closeness.error, closeness.worst, closeness.decorrelation
            ));
        }
        self.rows.push((name.to_string(), closeness));
    }

    /// Fails if anything was too far or if fewer than `least` tensors were compared.
    pub fn finish(self, least: usize) {
        assert!(self.rows.len() >= least, "{}: {} tensors compared, {least} expected", self.case, self.rows.len());
        assert!(self.breaches.is_empty(), "{}:\n  {}", self.case, self.breaches.join("\n  "));
    }
}
