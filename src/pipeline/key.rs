//! What files of a work folder are named by: digests of what they follow from.

use candle_core::DeviceLocation;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::checksum::hexadecimal;
use crate::error::{Error, Result};
use crate::matching::MatchOptions;
use crate::runtime::{Optimisations, Precision, Runtime};
use crate::views::View;

/// What every digest begins with: files of other versions are not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Versions {
    /// Of the files: how they are named and what they hold.
    pub files: u32,
    /// Of the numbers: changes when the same pixels, weights and options give others, by another
    /// normalisation, other kernels or another search for matches. How an image is resized and
    /// cropped shows in its pixels.
    pub results: u32,
}

pub(super) const VERSIONS: Versions = Versions {
    files: 3,
    results: 1,
};

/// What a network's numbers follow from, besides the pixels that it sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkKey {
    /// Of the dimensions and the weights.
    network: String,
    precision: String,
    /// Its kind, and for the CPU the instruction set: each rounds in its own way.
    device: String,
    optimisations: Vec<String>,
}

impl NetworkKey {
    /// Of a network that runs in `runtime`; `digest` stands for its dimensions and its weights:
    /// [`Checkpoint::digest`](crate::model::checkpoint::Checkpoint::digest).
    pub fn new(digest: impl Into<String>, runtime: &Runtime) -> Self {
        let kind = match runtime.device().location() {
            DeviceLocation::Cpu => DeviceKind::Cpu,
            DeviceLocation::Cuda { .. } => DeviceKind::Cuda,
            DeviceLocation::Metal { .. } => DeviceKind::Metal,
        };
        Self::planned(digest, kind, runtime.precision(), runtime.optimisations())
    }

    /// Of a network that will run on a device of a kind that need not be here. For a CPU the
    /// instruction set is that of this machine.
    pub fn planned(
        digest: impl Into<String>,
        kind: DeviceKind,
        precision: Precision,
        optimisations: Optimisations,
    ) -> Self {
        Self {
            network: digest.into(),
            precision: precision.to_string(),
            device: match kind {
                DeviceKind::Cpu => format!("{CPU}, {}", custom_ops::instruction_set()),
                DeviceKind::Cuda => CUDA.into(),
                DeviceKind::Metal => METAL.into(),
            },
            optimisations: optimisations
                .iter()
                .map(|optimisation| optimisation.name().to_string())
                .collect(),
        }
    }

    /// Of the dimensions and the weights.
    pub fn network(&self) -> &str {
        &self.network
    }

    /// The precision, as [`Precision`] reads it.
    pub fn precision(&self) -> &str {
        &self.precision
    }

    /// The kind of device, and for a CPU its instruction set.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The kind of device; `None` if this program does not know it.
    pub fn kind(&self) -> Option<DeviceKind> {
        match self.device.split(',').next() {
            Some(CPU) => Some(DeviceKind::Cpu),
            Some(CUDA) => Some(DeviceKind::Cuda),
            Some(METAL) => Some(DeviceKind::Metal),
            _ => None,
        }
    }
}

const CPU: &str = "cpu";
const CUDA: &str = "cuda";
const METAL: &str = "metal";

/// A kind of device. Devices of one kind give the same numbers, but for CPUs of other instruction
/// sets and GPUs of other models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// An Apple GPU.
    Metal,
}

/// What a file of a work folder follows from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Key(String);

/// What an image's features follow from; files of a run that keeps nothing have no network.
#[derive(Serialize)]
struct FeatureKey<'a> {
    pixels: &'a Key,
    network: Option<&'a NetworkKey>,
}

/// What a pair's evidence follows from.
#[derive(Serialize)]
struct PairKey<'a> {
    features: [&'a Key; 2],
    subsample: usize,
    rounds: usize,
    tolerance: Option<f64>,
    border: u32,
}

impl Key {
    /// The digest of parts, which are told apart by their lengths.
    fn of(versions: Versions, parts: &[&[u8]]) -> Self {
        let mut digest = Sha256::new();
        let Versions { files, results } = versions;
        let versions = format!("mast3r work {files}.{results}");
        for part in [versions.as_bytes()].iter().chain(parts) {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        Self(hexadecimal(&digest.finalize()[..16]))
    }

    /// Of the text of a plan.
    pub(super) fn of_plan(text: &[u8]) -> Self {
        Self::of(VERSIONS, &[b"plan", text])
    }

    /// Its hexadecimal digits.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Of an image's pixels.
    pub(super) fn of_view(view: &View) -> Self {
        let (width, height) = view.rgb.dimensions();
        Self::of(
            VERSIONS,
            &[
                b"pixels",
                &width.to_le_bytes(),
                &height.to_le_bytes(),
                view.rgb.as_raw(),
            ],
        )
    }

    /// Of the features of pixels.
    pub(super) fn of_features(pixels: &Self, network: Option<&NetworkKey>) -> Result<Self> {
        Self::of_parts("features", &FeatureKey { pixels, network })
    }

    /// Of the evidence of a pair, by the keys of its features.
    pub(super) fn of_pair(features: [&Self; 2], matching: &MatchOptions) -> Result<Self> {
        let MatchOptions {
            subsample,
            rounds,
            tolerance,
            border,
        } = *matching;
        Self::of_parts(
            "pair",
            &PairKey {
                features,
                subsample,
                rounds,
                tolerance,
                border,
            },
        )
    }

    fn of_parts(what: &str, parts: &impl Serialize) -> Result<Self> {
        let parts = serde_json::to_vec(parts).map_err(|error| Error::io(what, error.into()))?;
        Ok(Self::of(VERSIONS, &[what.as_bytes(), &parts]))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use image::RgbImage;

    use super::*;
    use crate::views::Crop;

    pub(in super::super) fn view(name: &str, level: u8) -> View {
        let (width, height) = (4, 2);
        let rgb = RgbImage::from_pixel(width, height, image::Rgb([level; 3]));
        View::new(name, rgb, Crop::whole(width, height))
    }

    #[test]
    fn keys_follow_from_pixels_and_not_from_names() {
        assert_eq!(Key::of_view(&view("a", 7)), Key::of_view(&view("b", 7)));
        assert_ne!(Key::of_view(&view("a", 7)), Key::of_view(&view("a", 8)));
        let turned = View {
            rgb: crate::views::pixels(RgbImage::from_pixel(2, 4, image::Rgb([7; 3]))),
            ..view("a", 7)
        };
        assert_ne!(Key::of_view(&view("a", 7)), Key::of_view(&turned));
    }

    #[test]
    fn keys_follow_from_every_part_and_their_order() {
        let [a, b] = [7, 8].map(|level| Key::of_view(&view("a", level)));
        let network = || NetworkKey {
            network: "0a".into(),
            precision: "f32".into(),
            device: "cpu".into(),
            optimisations: vec!["one".into(), "two".into()],
        };
        let features = |network: &NetworkKey| Key::of_features(&a, Some(network)).unwrap();
        let matching = MatchOptions::default();
        let pair = |features: [&Key; 2], matching: MatchOptions| {
            Key::of_pair(features, &matching).unwrap()
        };
        let keys = [
            features(&network()),
            features(&NetworkKey {
                network: "0b".into(),
                ..network()
            }),
            features(&NetworkKey {
                precision: "f16".into(),
                ..network()
            }),
            features(&NetworkKey {
                device: "cuda".into(),
                ..network()
            }),
            features(&NetworkKey {
                optimisations: vec!["one".into()],
                ..network()
            }),
            Key::of_features(&a, None).unwrap(),
            Key::of_features(&b, None).unwrap(),
            pair([&a, &b], matching),
            pair([&b, &a], matching),
            pair(
                [&a, &b],
                MatchOptions {
                    subsample: 4,
                    ..matching
                },
            ),
            pair(
                [&a, &b],
                MatchOptions {
                    rounds: 4,
                    ..matching
                },
            ),
            pair(
                [&a, &b],
                MatchOptions {
                    border: 4,
                    ..matching
                },
            ),
            pair(
                [&a, &b],
                MatchOptions {
                    tolerance: Some(4.),
                    ..matching
                },
            ),
            Key::of(VERSIONS, &[b"ab", b"c"]),
            Key::of(VERSIONS, &[b"a", b"bc"]),
            Key::of(
                Versions {
                    files: VERSIONS.files + 1,
                    ..VERSIONS
                },
                &[b"a", b"bc"],
            ),
            Key::of(
                Versions {
                    results: VERSIONS.results + 1,
                    ..VERSIONS
                },
                &[b"a", b"bc"],
            ),
        ];
        for (at, key) in keys.iter().enumerate() {
            assert!(!keys[..at].contains(key), "{at}: {key:?}");
        }
        assert_eq!(a.as_str().len(), 32);
    }
}
