//! `mast3r models`: the networks, where their weights come from, and which of them are here.

use std::path::{Path, PathBuf};

use clap::Args;
use mast3r::hub::{Cache, Hub, Servers};
use mast3r::model::config::Predicts;
use mast3r::model::published::{Source, WeightFile};
use mast3r::model::registry::{NETWORKS, Network};
use serde_json::{Value, json};

use crate::outputs;

/// List the networks, the sources of their weights, and which are in the cache
///
/// Contacts no server.
#[derive(Debug, Args)]
pub struct ModelsArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A network and the weights of it that are here.
struct Model {
    network: &'static Network,
    cached: mast3r::Result<Option<Vec<PathBuf>>>,
}

impl ModelsArgs {
    pub fn run(&self) -> anyhow::Result<()> {
        let hub = Hub {
            cache: Cache::from_env()?,
            servers: Servers::from_env()?,
            offline: true,
        };
        let models: Vec<Model> = NETWORKS
            .iter()
            .map(|network| Model {
                network,
                cached: hub.cache.find(network, None),
            })
            .collect();
        if self.json {
            let models: Vec<Value> = models.iter().map(|model| model.json(&hub)).collect();
            let cache = json!({ "hub": path(&hub.cache.hub), "own": path(&hub.cache.own) });
            return Ok(outputs::print_json(
                &json!({ "models": models, "cache": cache }),
            )?);
        }
        Ok(outputs::print_text(&text(&models, &hub))?)
    }
}

/// A table, and below it what is too long for one.
fn text(models: &[Model], hub: &Hub) -> String {
    let mut rows = vec![["NAME", "PARAMETERS", "SIZE", "DOWNLOAD", "CACHED"].map(String::from)];
    rows.extend(models.iter().map(Model::row));
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let [name, parameters, size, download, _] = [0, 1, 2, 3, 4].map(width);
    let line = |row: &[String; 5]| {
        let [a, b, c, d, e] = row;
        format!("{a:name$}  {b:>parameters$}  {c:>size$}  {d:>download$}  {e}\n")
    };
    let mut text: String = rows.iter().map(line).collect();
    for model in models {
        let network = model.network;
        text += &format!("\n{}: {}\n", network.name, network.summary);
        for file in network.weights {
            let size = if network.weights.len() > 1 {
                format!(", for {}", file.long_side)
            } else {
                String::new()
            };
            text += &format!("  from {}{size}\n", hub.address(file));
            if let Some(encoder) = file.encoder {
                text += &format!(
                    "  and {}, if the file lacks its encoder\n",
                    hub.address(encoder)
                );
            }
        }
        text += &format!("  licence: {}\n", network.weights_license);
        match &model.cached {
            Ok(Some(paths)) => text.extend(
                paths
                    .iter()
                    .map(|path| format!("  cached: {}\n", path.display())),
            ),
            Ok(None) => {}
            Err(error) => text += &format!("  cached, but not valid: {error}\n"),
        }
    }
    text
}

impl Model {
    fn row(&self) -> [String; 5] {
        let network = self.network;
        let cached = match &self.cached {
            Ok(Some(paths)) => size(paths.iter().filter_map(|path| bytes(path)).sum()),
            Ok(None) if network.has_bundled_weights() => "bundled".into(),
            Ok(None) => "no".into(),
            Err(_) => "damaged".into(),
        };
        [
            network.name.into(),
            format!("{:.0} M", network.parameters() as f64 / 1e6),
            network.default_long_side.to_string(),
            network.weights_at(None).map_or_else(
                || "none".into(),
                |file| format!("~{}", size(file.about_bytes)),
            ),
            cached,
        ]
    }

    fn json(&self, hub: &Hub) -> Value {
        let network = self.network;
        let file = |file: &&WeightFile| {
            let repository = match file.source {
                Source::HuggingFace(repository) => Some(repository),
                Source::Naver => None,
            };
            json!({
                "repository": repository,
                "file": file.name,
                "address": hub.address(file),
                "long_side": file.long_side,
                "about_bytes": file.about_bytes,
                "sha256": file.sha256,
                "encoder": file.encoder.map(|encoder| hub.address(encoder)),
            })
        };
        let here = |here: &PathBuf| json!({ "path": path(here), "bytes": bytes(here) });
        let cached = self.cached.as_ref().ok().and_then(Option::as_ref);
        json!({
            "name": network.name,
            "summary": network.summary,
            "parameters": network.parameters(),
            "two_view": network.predicts() == Predicts::Pairs,
            "any_view": network.predicts() == Predicts::Scene,
            "patch": network.patch(),
            "default_long_side": network.default_long_side,
            "known_long_sides": network.known_long_sides,
            "weights": network.weights.iter().map(file).collect::<Vec<_>>(),
            "bundled": network.has_bundled_weights(),
            "weights_license": network.weights_license,
            "cached": cached.map(|paths| paths.iter().map(here).collect::<Vec<_>>()),
            "cache_error": self.cached.as_ref().err().map(ToString::to_string),
        })
    }
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

fn bytes(path: &Path) -> Option<u64> {
    path.metadata().ok().map(|file| file.len())
}

/// A number of bytes for a person.
pub fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        1e9.. => format!("{:.2} GB", bytes / 1e9),
        1e6.. => format!("{:.0} MB", bytes / 1e6),
        _ => format!("{:.0} kB", (bytes / 1e3).ceil()),
    }
}
