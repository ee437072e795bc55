//! From paths to a checked set of tensors: which files go together, and whether they hold all that
//! a network needs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::container::read;
use super::family::Family;
use super::literal::Settings;
use super::map::Mapping;
use super::names::{Named, canonical};
use super::source::{Contents, Recorded, Stored, Tensors};
use super::{family, source};
use crate::error::{Error, Result};
use crate::model::config::{Config, EncoderKind};

/// A `config.json` with a network's arguments has some hundred bytes.
const MAX_CONFIG: u64 = 1 << 20;
/// Tensors that an error lists before it only counts.
const LISTED: usize = 10;

/// Checked weight files.
pub(super) struct Opened {
    pub(super) config: Config,
    pub(super) maps: Vec<Mapping>,
    /// Every tensor the network needs, with the index of its file.
    pub(super) tensors: HashMap<String, (usize, Stored)>,
    /// For messages: `MASt3R, PyTorch .pth, f32`.
    pub(super) description: String,
}

/// One weight file and what it holds.
struct Part<'a> {
    path: &'a Path,
    map: Mapping,
    container: &'static str,
    named: Named,
    recorded: Recorded,
}

/// The parts of a network: the decoder (or the only file) first, then its encoder.
struct Whole<'a> {
    family: Family,
    paths: Vec<&'a Path>,
    maps: Vec<Mapping>,
    tensors: Tensors,
    recorded: Recorded,
    container: String,
    may_lack_registers: bool,
}

/// Opens one file, or a DuneMASt3R decoder and its encoder in either order. `adjust` may correct
/// what the files do not record before the network is checked.
pub(super) fn open(paths: &[PathBuf], adjust: impl FnOnce(&mut Config)) -> Result<Opened> {
    checked(
        paths
            .iter()
            .map(|path| Part::open(path))
            .collect::<Result<Vec<_>>>()?,
        adjust,
    )
}

/// Opens a file that was compiled in; errors call it `name`.
#[cfg(bundled)]
pub(super) fn bundled(name: &Path, bytes: &'static [u8]) -> Result<Opened> {
    checked(vec![Part::new(name, Mapping::Bundled(bytes))?], |_| {})
}

fn checked(parts: Vec<Part<'_>>, adjust: impl FnOnce(&mut Config)) -> Result<Opened> {
    let whole = combine(parts)?;
    let at_first = |reason: String| Error::weights(whole.paths[0], reason);
    let mut config =
        family::config(whole.family, &whole.tensors, &whole.recorded).map_err(at_first)?;
    adjust(&mut config);
    config.check().map_err(at_first)?;
    if let EncoderKind::Dune { registers: 0, .. } = config.encoder.kind {
        let path =
            whole.paths[whole.file_of(&format!("{}register_tokens", config.encoder_prefix()))];
        if !whole.may_lack_registers {
            return Err(Error::weights(
                path,
                "lacks register_tokens, without which a DUNE encoder is another one",
            ));
        }
        tracing::warn!(path = %path.display(), "no register tokens, as in some files of the MLX port: features differ");
    }
    whole.check(config)
}

/// The name of the encoder that the file at `path` needs and lacks.
pub(super) fn missing_encoder(path: &Path) -> Result<Option<String>> {
    let part = Part::open(path)?;
    let lacks = part.named.family == Family::DuneMast3r && !part.has_encoder();
    Ok(lacks.then(|| part.recorded.encoder_name.unwrap_or_default()))
}

impl<'a> Part<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let mut part = Self::new(path, Mapping::open(path)?)?;
        // A .pth records its settings itself, and a DUNE encoder has none that its shapes do not
        // show.
        if part.container != source::TORCH && part.named.family != Family::Dune {
            part.recorded.config = beside(path)?;
        }
        Ok(part)
    }

    fn new(path: &'a Path, map: Mapping) -> Result<Self> {
        let at = |reason| Error::weights(path, reason);
        let Contents {
            container,
            permuted,
            tensors,
            recorded,
        } = read(map.bytes()).map_err(at)?;
        let named = canonical(tensors, permuted).map_err(at)?;
        Ok(Self {
            path,
            map,
            container,
            named,
            recorded,
        })
    }

    fn has_encoder(&self) -> bool {
        self.named
            .tensors
            .keys()
            .any(|name| name.starts_with("dune_backbone."))
    }
}

/// The `config.json` beside the weights at `path`, if there is one.
fn beside(path: &Path) -> Result<Option<Settings>> {
    let config = path.with_file_name("config.json");
    match std::fs::metadata(&config) {
        Ok(metadata) if metadata.is_file() && metadata.len() <= MAX_CONFIG => {}
        _ => return Ok(None),
    }
    let text = std::fs::read_to_string(&config).map_err(|source| Error::io(&config, source))?;
    let damaged = |reason| {
        Error::weights(
            &config,
            format!("is beside the weights and cannot be read: {reason}"),
        )
    };
    Settings::from_json(&text).map(Some).map_err(damaged)
}

/// Decides which network the parts make up.
fn combine(mut parts: Vec<Part<'_>>) -> Result<Whole<'_>> {
    // A decoder comes first, whatever order it was given in.
    parts.sort_by_key(|part| part.named.family != Family::DuneMast3r);
    let mut parts = parts.into_iter();
    let (Some(first), second, None) = (parts.next(), parts.next(), parts.next()) else {
        return Err(Error::Usage(
            "weights are one file, or two: a DuneMASt3R decoder and its DUNE encoder".to_string(),
        ));
    };
    let family = first.named.family;
    let may_lack_registers =
        |part: &Part<'_>| part.container != source::TORCH && part.named.under_encoder;
    match (family, second) {
        (Family::DuneMast3r, None) if !first.has_encoder() => {
            let encoder = first
                .recorded
                .encoder_name
                .as_deref()
                .map(|name| format!(" ({name})"))
                .unwrap_or_default();
            Err(Error::weights(
                first.path,
                format!(
                    "holds DuneMASt3R without its DUNE encoder{encoder}; give both files, {} and the encoder",
                    first.path.display()
                ),
            ))
        }
        (Family::DuneMast3r, Some(second)) if second.named.family == Family::Dune => {
            if first.has_encoder() {
                return Err(Error::weights(
                    first.path,
                    format!(
                        "holds the encoder of its DuneMASt3R already; leave out {}",
                        second.path.display()
                    ),
                ));
            }
            let may_lack_registers = may_lack_registers(&second);
            let mut tensors = first.named.tensors;
            let encoder = second.named.tensors.into_iter();
            tensors.extend(encoder.map(|(name, stored)| (format!("dune_backbone.{name}"), stored)));
            Ok(Whole {
                family,
                paths: vec![first.path, second.path],
                maps: vec![first.map, second.map],
                tensors,
                recorded: Recorded {
                    encoder: second.recorded.encoder,
                    ..first.recorded
                },
                container: match first.container == second.container {
                    true => format!("two {}", first.container),
                    false => format!("{} and {}", first.container, second.container),
                },
                may_lack_registers,
            })
        }
        (_, Some(second)) => Err(Error::weights(
            first.path,
            format!(
                "holds {}, and {} holds {}; two files must be a DuneMASt3R decoder and its DUNE encoder",
                family.title(),
                second.path.display(),
                second.named.family.title()
            ),
        )),
        (_, None) => Ok(Whole {
            family,
            paths: vec![first.path],
            may_lack_registers: may_lack_registers(&first),
            maps: vec![first.map],
            tensors: first.named.tensors,
            recorded: first.recorded,
            container: first.container.to_string(),
        }),
    }
}

impl Whole<'_> {
    /// The index of the file that holds, or should hold, the tensor `name`.
    fn file_of(&self, name: &str) -> usize {
        usize::from(self.paths.len() == 2 && name.starts_with("dune_backbone."))
    }

    /// Takes out what `config` needs, once all of it is there and in shape.
    fn check(mut self, config: Config) -> Result<Opened> {
        let mut tensors = HashMap::new();
        let mut problems = Vec::new();
        for spec in config.tensors() {
            let file = self.file_of(&spec.name);
            let problem = match self.tensors.remove(&spec.name) {
                None => "is missing".to_string(),
                Some(Err(reason)) => reason,
                Some(Ok(stored)) if stored.shape != spec.shape => {
                    format!(
                        "has shape {:?} and should have {:?}",
                        stored.shape, spec.shape
                    )
                }
                Some(Ok(stored)) => {
                    tensors.insert(spec.name, (file, stored));
                    continue;
                }
            };
            problems.push((file, format!("{} {problem}", spec.name)));
        }
        if let Some(&(file, _)) = problems.first() {
            let listed: Vec<_> = problems
                .iter()
                .take(LISTED)
                .map(|(_, problem)| problem.as_str())
                .collect();
            let more = match problems.len() - listed.len() {
                0 => String::new(),
                more => format!("; and {more} more"),
            };
            let count = problems.len();
            let reason = format!(
                "{count} of the network's {} tensors are unusable: {}{more}",
                config.tensors().len(),
                listed.join("; ")
            );
            return Err(Error::weights(self.paths[file], reason));
        }
        let mut formats: Vec<_> = tensors
            .values()
            .map(|(_, stored)| stored.format.name())
            .collect();
        formats.sort_unstable();
        formats.dedup();
        let description = format!("{}, {}", self.container, formats.join(" and "));
        Ok(Opened {
            config,
            maps: self.maps,
            tensors,
            description,
        })
    }
}
