//! Where the goldens are, how they are read, and how far a result may be from them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use mast3r::model::checkpoint::Checkpoint;
use mast3r::model::config::{
    Config, EncoderConfig, EncoderKind, HeadConfig, Stack, TwoViewConfig, hooks,
};
use mast3r::runtime::{DeviceChoice, Precision, Runtime};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// The folder with the goldens: `MAST3R_GOLDEN`, or the one beside this file.
pub fn golden_dir() -> PathBuf {
    match std::env::var_os("MAST3R_GOLDEN") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"),
    }
}

/// The folder with what PyTorch makes of the bundled network, which no other folder of goldens can
/// know.
#[cfg(feature = "tiny")]
pub fn bundled_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bundled")
}

/// The entries of a folder whose names start with `prefix` and end with `suffix`, sorted; none
/// without the folder.
pub fn discover(folder: &Path, prefix: &str, suffix: &str) -> Vec<PathBuf> {
    if !folder.exists() {
        return Vec::new();
    }
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

/// A whole file, or a panic that names it.
pub fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A network with the full structure and small dimensions, as its `config.json` describes it.
pub struct TinyNetwork {
    /// For example `…/mast3r_tiny`.
    pub folder: PathBuf,
    pub config: Config,
    /// Seed of its weights: they are `Checkpoint::random(&config, &seed)`.
    pub seed: String,
    /// The whole `config.json`.
    pub json: Value,
}

/// Every small network of the golden data.
pub fn tiny_networks() -> Vec<TinyNetwork> {
    let folders = std::fs::read_dir(golden_dir()).expect("the golden folder is there");
    let mut networks: Vec<_> = folders
        .map(|entry| entry.expect("the golden folder is readable").path())
        .collect();
    networks.sort();
    networks.retain(|folder| {
        folder.to_string_lossy().ends_with("_tiny") && folder.join("config.json").is_file()
    });
    networks.into_iter().map(tiny_network).collect()
}

fn tiny_network(folder: PathBuf) -> TinyNetwork {
    let text =
        std::fs::read_to_string(folder.join("config.json")).expect("config.json is readable");
    let json: Value = serde_json::from_str(&text).expect("config.json is JSON");
    let seed = json["weight_seed"]
        .as_str()
        .expect("there is a seed")
        .to_string();
    let settings = &json["config"];
    let size = |settings: &Value, name: &str| {
        settings[name].as_u64().unwrap_or_else(|| panic!("{name}")) as usize
    };
    let stack = |settings: &Value, depth: &str, dim: &str, heads: &str| {
        let dim = size(settings, dim);
        Stack {
            depth: size(settings, depth),
            dim,
            heads: size(settings, heads),
            mlp_dim: 4 * dim,
        }
    };
    let dune = |settings: &Value| EncoderConfig {
        kind: EncoderKind::Dune {
            position_grid: size(settings, "image_size") / size(settings, "patch_size"),
            registers: size(settings, "num_register_tokens"),
        },
        patch: size(settings, "patch_size"),
        stack: stack(settings, "depth", "embed_dim", "num_heads"),
    };
    let encoder = match json["kind"].as_str().expect("there is a kind") {
        "dune" => dune(settings),
        "dunemast3r" => dune(&settings["dune"]),
        _ => EncoderConfig {
            kind: EncoderKind::Croco,
            patch: size(settings, "patch_size"),
            stack: stack(settings, "enc_depth", "enc_embed_dim", "enc_num_heads"),
        },
    };
    let two_view = settings.get("dec_depth").is_some().then(|| {
        let decoder = stack(settings, "dec_depth", "dec_embed_dim", "dec_num_heads");
        let layer_dims = [0, 1, 2, 3]
            .map(|k| settings["dpt_layer_dims"][k].as_u64().expect("four widths") as usize);
        let head = HeadConfig {
            hooks: hooks(decoder.depth),
            layer_dims,
            features: size(settings, "dpt_feature_dim"),
            head_channels: size(settings, "dpt_feature_dim") / 2,
            last: size(settings, "dpt_last_dim"),
            descriptor: size(settings, "desc_dim"),
            two_confidences: true,
            descriptor_hidden: 4 * (encoder.stack.dim + decoder.dim),
            descriptor_confidence_floor: 0.0,
        };
        TwoViewConfig {
            decoder,
            view_embed: false,
            head,
        }
    });
    TinyNetwork {
        folder,
        config: Config { encoder, two_view },
        seed,
        json,
    }
}

/// A file of reference tensors, whole or sampled.
///
/// A trimmed file keeps of a large tensor every `stride`-th element of its flattened values and
/// says so in the metadata entry `sampled`: `{name: {"shape": [...], "stride": s}}`.
pub struct Reference {
    pub path: PathBuf,
    pub tensors: HashMap<String, Tensor>,
    pub metadata: HashMap<String, String>,
    sampled: Value,
}

impl Reference {
    pub fn open(path: &Path) -> Self {
        let bytes = read(path);
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap_or_default();
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let sampled = metadata
            .get("sampled")
            .map_or(Value::Null, |text| serde_json::from_str(text).unwrap());
        Self {
            path: path.to_path_buf(),
            tensors,
            metadata,
            sampled,
        }
    }

    pub fn json(&self, entry: &str) -> Value {
        serde_json::from_str(&self.metadata[entry]).unwrap()
    }

    pub fn get(&self, name: &str) -> &Tensor {
        self.tensors
            .get(name)
            .unwrap_or_else(|| panic!("{}: no tensor {name}", self.path.display()))
    }

    /// Shape and values of the tensor `name`, as float32.
    pub fn floats(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let tensor = self.get(name);
        let values = tensor
            .to_dtype(DType::F32)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        (tensor.dims().to_vec(), values)
    }

    /// The shape of the tensor `name` before any sampling.
    pub fn shape(&self, name: &str) -> Vec<usize> {
        match self.sampled.get(name) {
            None => self.get(name).dims().to_vec(),
            Some(entry) => entry["shape"]
                .as_array()
                .unwrap()
                .iter()
                .map(|n| n.as_u64().unwrap() as usize)
                .collect(),
        }
    }

    /// Compares `got` with the tensor `name`, if the file has it, and records the result.
    pub fn compare(&self, name: &str, got: &Tensor, report: &mut Report) {
        let Some(want) = self.tensors.get(name) else {
            return;
        };
        let (got, shape) = (flat(got), self.shape(name));
        let stride = self
            .sampled
            .get(name)
            .map_or(1, |entry| entry["stride"].as_u64().unwrap() as usize);
        assert_eq!(
            got.len(),
            shape.iter().product::<usize>(),
            "{}: {name} should be {shape:?}",
            self.path.display()
        );
        let got: Vec<f64> = got.into_iter().step_by(stride).collect();
        report.add(name, &got, &flat(want));
    }
}

/// Where networks run: `MAST3R_DEVICE` in `MAST3R_PRECISION`, or the CPU in float32.
pub fn runtime() -> Runtime {
    runtime_in(
        std::env::var("MAST3R_PRECISION")
            .map_or(Precision::F32, |precision| precision.parse().unwrap()),
    )
}

/// Where networks run in this precision: `MAST3R_DEVICE`, or the CPU.
pub fn runtime_in(precision: Precision) -> Runtime {
    let device =
        std::env::var("MAST3R_DEVICE").map_or(DeviceChoice::Cpu, |device| device.parse().unwrap());
    Runtime::new(device, precision).unwrap()
}

/// The weights of a small network: scaled where the case says so, rounded to float16 where the case
/// is one of files that hold them so.
pub fn weights_of_case(config: &Config, seed: &str, case: &Reference) -> VarBuilder<'static> {
    let recipe = Checkpoint::random(config, seed);
    let is_named = |name: &str, pattern: &Value| {
        let mut parts = pattern.as_str().unwrap().split('*');
        parts.all(|part| name.contains(part))
    };
    let is_scaled = |name: &str, scale: &Value| {
        // A list of patterns in some cases, of parts of names in others.
        let names = scale.get("names").unwrap_or(&scale["names_containing"]);
        let mut names = names.as_array().unwrap().iter();
        !name.starts_with("cam_enc.") && names.any(|pattern| is_named(name, pattern))
    };
    let is_scaling = case.metadata.contains_key("smallscale");
    let scale = is_scaling.then(|| case.json("smallscale"));
    let is_rounded = case.path.parent().unwrap().ends_with("mlx");
    let tensor = |name: &str| {
        let mut tensor = recipe.tensor(name, DType::F32, &Device::Cpu).unwrap();
        if let Some(scale) = scale.as_ref().filter(|scale| is_scaled(name, scale)) {
            tensor = (tensor * scale["factor"].as_f64().unwrap()).unwrap();
        }
        if is_rounded {
            let half = tensor.to_dtype(DType::F16).unwrap();
            tensor = half.to_dtype(DType::F32).unwrap();
        }
        tensor
    };
    let names = config.tensors().into_iter().map(|spec| spec.name);
    let tensors = names.map(|name| (name.clone(), tensor(&name))).collect();
    let runtime = runtime();
    VarBuilder::from_tensors(tensors, runtime.precision().dtype(), runtime.device())
}

/// A channels-last map as reference maps are.
pub fn channels_first(map: &Tensor) -> Tensor {
    map.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap()
}

/// Every `step`-th index of axis `dim`.
pub fn every(tensor: &Tensor, dim: usize, step: usize) -> Tensor {
    let indices: Vec<u32> = (0..tensor.dim(dim).unwrap() as u32).step_by(step).collect();
    let indices = Tensor::new(indices, tensor.device()).unwrap();
    tensor.index_select(&indices, dim).unwrap()
}

pub fn hex_sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The values as f64, row major.
pub fn flat(tensor: &Tensor) -> Vec<f64> {
    // Metal has no f64.
    tensor
        .to_device(&Device::Cpu)
        .unwrap()
        .to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
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
    let decorrelation = if scale > 0. {
        1. - covariance / scale
    } else {
        0.
    };
    Closeness {
        error: if largest > 0. { gap / largest } else { gap },
        decorrelation,
        worst,
    }
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
        Self {
            case: case.into(),
            rows: Vec::new(),
            breaches: Vec::new(),
            allowed,
        }
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
        assert!(
            self.rows.len() >= least,
            "{}: {} tensors compared, {least} expected",
            self.case,
            self.rows.len()
        );
        assert!(
            self.breaches.is_empty(),
            "{}:\n  {}",
            self.case,
            self.breaches.join("\n  ")
        );
    }
}
