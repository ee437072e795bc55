//! Where the golden data are and what describes them.

use std::path::{Path, PathBuf};

use mast3r::model::config::{Config, EncoderConfig, EncoderKind, HeadConfig, Stack, TwoViewConfig, hooks};
use serde_json::Value;

/// The root of the golden data.
pub fn golden_dir() -> PathBuf {
    let committed = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    std::env::var_os("MAST3R_GOLDEN").map_or_else(committed, PathBuf::from)
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
    let mut networks: Vec<_> = folders.map(|entry| entry.expect("the golden folder is readable").path()).collect();
    networks.sort();
    networks.retain(|folder| folder.to_string_lossy().ends_with("_tiny") && folder.join("config.json").is_file());
    networks.into_iter().map(tiny_network).collect()
}

fn tiny_network(folder: PathBuf) -> TinyNetwork {
    let text = std::fs::read_to_string(folder.join("config.json")).expect("config.json is readable");
    let json: Value = serde_json::from_str(&text).expect("config.json is JSON");
    let seed = json["weight_seed"].as_str().expect("there is a seed").to_string();
    let settings = &json["config"];
    let size = |settings: &Value, name: &str| settings[name].as_u64().unwrap_or_else(|| panic!("{name}")) as usize;
    let stack = |settings: &Value, depth: &str, dim: &str, heads: &str| {
        let dim = size(settings, dim);
        Stack { depth: size(settings, depth), dim, heads: size(settings, heads), mlp_dim: 4 * dim }
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
        let layer_dims = [0, 1, 2, 3].map(|k| settings["dpt_layer_dims"][k].as_u64().expect("four widths") as usize);
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
        TwoViewConfig { decoder, head }
    });
    TinyNetwork { folder, config: Config { encoder, two_view }, seed, json }
}
