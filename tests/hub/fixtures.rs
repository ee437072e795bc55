//! Small networks that are published nowhere, and a cache of their own for each test.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use mast3r::hub::{Cache, Hub, PullOptions, Pulled, Servers, Token};
use mast3r::model::checkpoint::Checkpoint;
use mast3r::model::config::{
    Config, EncoderConfig, EncoderKind, HeadConfig, Stack, TwoViewConfig, hooks,
};
use mast3r::model::published::{Source, WeightFile};
use mast3r::model::registry::Network;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

pub const REPOSITORY: &str = "someone/small";
pub const TOKEN: &str = "hf_verysecret";

/// A file of this repository's tests.
pub fn fixture(name: &str) -> Vec<u8> {
    fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(name),
    )
    .unwrap()
}

/// The weights of a small DUNE encoder.
pub fn dune() -> Vec<u8> {
    fixture("dune_tiny/checkpoint.pth")
}

/// The weights of a small MASt3R, which its `config.json` completes.
pub fn mast3r() -> Vec<u8> {
    fixture("mast3r_tiny/mlx/unified_mlx.safetensors")
}

pub const MAST3R_SETTINGS: &str = r#"{"conf_mode": ["exp", 1, Infinity], "depth_mode": ["exp", -Infinity, Infinity],
    "desc_conf_mode": ["exp", 0, Infinity], "two_confs": true, "output_mode": "pts3d+desc6",
    "enc_num_heads": 2, "dec_num_heads": 2}"#;

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A cache and servers for one test.
pub struct Setup {
    pub folder: TempDir,
    pub hub: Hub,
}

impl Setup {
    pub fn new(server: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache {
            hub: folder.path().join("hub"),
            own: folder.path().join("mast3r"),
        };
        let token = Some(Token::new(TOKEN).unwrap());
        let servers = Servers {
            hub: server.to_string(),
            naver: format!("{server}/dune"),
            token,
        };
        Self {
            hub: Hub {
                cache,
                servers,
                offline: false,
            },
            folder,
        }
    }

    pub fn pull(&self, network: &Network) -> mast3r::Result<Pulled> {
        self.hub.pull(network, &PullOptions::default(), &mut |_| {})
    }

    /// Pulls what must not work. Returns the message.
    pub fn refusal(&self, network: &Network) -> String {
        let message = self.pull(network).unwrap_err().to_string();
        assert!(!message.contains(TOKEN), "{message}");
        assert_eq!(
            self.hub.cache.find(network, None).unwrap(),
            None,
            "{message}"
        );
        message
    }

    /// Files below `folder`, with their sizes.
    pub fn files(&self, folder: &str) -> BTreeMap<String, u64> {
        let mut found = BTreeMap::new();
        let root = self.folder.path().join(folder);
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)
                .into_iter()
                .flatten()
                .map(Result::unwrap)
            {
                let (path, metadata) = (entry.path(), entry.metadata().unwrap());
                if metadata.is_dir() {
                    folders.push(path);
                } else if path.extension().is_none_or(|extension| extension != "lock") {
                    found.insert(
                        path.strip_prefix(&root).unwrap().display().to_string(),
                        metadata.len(),
                    );
                }
            }
        }
        found
    }

    pub fn own(&self, name: &str) -> PathBuf {
        self.hub.cache.own.join(name)
    }
}

/// A network of these dimensions that the given files serve.
fn network(config: Config, weights: &[&'static WeightFile]) -> Network {
    Network {
        config,
        weights: weights.to_vec().leak(),
        ..*Network::find("dune-small").unwrap()
    }
}

const fn naver(name: &'static str, encoder: Option<&'static WeightFile>) -> WeightFile {
    WeightFile {
        source: Source::Naver,
        name,
        long_side: 56,
        about_bytes: 0,
        encoder,
        sha256: None,
    }
}

const DUNE: &WeightFile = &naver("dune.pth", None);
const DECODER: &WeightFile = &naver("decoder.pth", Some(DUNE));
const MAST3R: &WeightFile = &WeightFile {
    source: Source::HuggingFace(REPOSITORY),
    name: "model.safetensors",
    ..naver("", None)
};

pub fn dune_network() -> Network {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dune_tiny/checkpoint.pth");
    network(Checkpoint::open(&[path]).unwrap().config().clone(), &[DUNE])
}

pub fn mast3r_network() -> Network {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), MAST3R_SETTINGS).unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, mast3r()).unwrap();
    network(
        Checkpoint::open(&[path]).unwrap().config().clone(),
        &[MAST3R],
    )
}

/// A small DuneMASt3R whose decoder and encoder are two files, with both.
pub fn two_files() -> (Network, Vec<u8>, Vec<u8>) {
    let stack = |depth| Stack {
        depth,
        dim: 64,
        heads: 1,
        mlp_dim: 96,
    };
    let head = HeadConfig {
        hooks: hooks(4),
        layer_dims: [2, 3, 4, 5],
        features: 4,
        head_channels: 3,
        last: 2,
        descriptor: 4,
        two_confidences: true,
        descriptor_hidden: 6,
        descriptor_confidence_floor: 0.0,
    };
    let kind = EncoderKind::Dune {
        position_grid: 3,
        registers: 2,
    };
    let config = Config {
        encoder: EncoderConfig {
            kind,
            patch: 2,
            stack: stack(2),
        },
        two_view: Some(TwoViewConfig {
            decoder: stack(4),
            view_embed: false,
            head,
        }),
    };
    let tensors = |config: &Config, name: &dyn Fn(&str) -> Option<String>| {
        let checkpoint = Checkpoint::random(config, "7");
        let specs = config.tensors().into_iter();
        let named = specs.filter_map(|spec| Some((name(&spec.name)?, spec.name)));
        named
            .map(|(name, own)| {
                (
                    name,
                    checkpoint.tensor(&own, DType::F16, &Device::Cpu).unwrap(),
                )
            })
            .collect()
    };
    let decoder = tensors(&config, &|name| {
        (!name.starts_with("dune_backbone.")).then(|| name.to_string())
    });
    let alone = Config {
        encoder: config.encoder.clone(),
        two_view: None,
    };
    let encoder = tensors(&alone, &|name| Some(format!("encoder.{name}")));
    let bytes = |tensors: HashMap<String, Tensor>| {
        let file = tempfile::NamedTempFile::new().unwrap();
        candle_core::safetensors::save(&tensors, file.path()).unwrap();
        fs::read(file.path()).unwrap()
    };
    (network(config, &[DECODER]), bytes(decoder), bytes(encoder))
}
