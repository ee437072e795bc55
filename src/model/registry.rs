//! The networks by name: one table that the command line, the library and the documentation share.

use std::mem::discriminant;

use crate::error::{Error, Result};
use crate::model::config::{
    AnyViewConfig, Config, EncoderConfig, EncoderKind, HeadConfig, Predicts, Stack, TwoViewConfig,
    hooks,
};
use crate::model::published::{self, WeightFile};
use crate::views::{Framing, Resolution};

/// A network as published, under the name that `--model` takes.
#[derive(Debug)]
pub struct Network {
    /// The name, for example `dunemast3r-small`.
    pub name: &'static str,
    /// One line on what it is.
    pub summary: &'static str,
    /// Its dimensions. DUNE encoders were published for two sizes: see [`Network::config_at`].
    pub config: Config,
    /// Long side of an image in pixels, unless the caller says otherwise.
    pub default_long_side: u32,
    /// Long sides for which weights were published or that the authors use.
    pub known_long_sides: &'static [u32],
    /// Whether a square image may stay square; otherwise it is cut to 4:3.
    pub square_allowed: bool,
    /// Whether a long side of 224 means a square of 224 x 224.
    pub square_at_224: bool,
    /// Whether its weights are part of this library, if that is built with the feature `tiny`.
    pub bundled: bool,
    /// Whether it was trained to predict metres; false where that is not known.
    pub metric: bool,
    /// The terms of the published weights.
    pub weights_license: &'static str,
    /// The published files, each of which has all weights or says what it lacks; the first is the
    /// usual one.
    pub weights: &'static [&'static WeightFile],
}

const MAST3R_LICENSE: &str = "non-commercial use only (CC BY-NC-SA 4.0 and the terms of the training data, listed in \
                              CHECKPOINTS_NOTICE beside the weights of NAVER's MASt3R)";
const DUNE_LICENSE: &str =
    "non-commercial use only (the DUNE license that NAVER publishes with the weights)";

const DA3_LICENSE: &str = "Apache-2.0 by the cards of ByteDance's repositories, commercial use included; \
                           whether the training data restrict it is not known here";

const TINY_LICENSE: &str = "this project's own (Apache-2.0 OR MIT); trained from nothing on scenes rendered by this \
                            project, with images and models under CC0, CC BY, MIT, Apache or in the public domain, \
                            which assets/tiny.ATTRIBUTION.md lists";

/// Every network this library runs.
pub const NETWORKS: &[Network] = &[
    Network {
        name: "tiny",
        summary: "a small DuneMASt3R of our own, bundled and free: two images to points, confidences and descriptors",
        config: Config {
            encoder: dune(TINY_ENCODER, 16),
            two_view: Some(TINY_TWO_VIEW),
        },
        default_long_side: 336,
        known_long_sides: &[336],
        square_allowed: true,
        square_at_224: false,
        bundled: true,
        metric: false,
        weights_license: TINY_LICENSE,
        weights: &[],
    },
    Network {
        name: "dune-small",
        summary: "DUNE encoder, ViT-S/14: one image to patch features",
        config: Config {
            encoder: dune(SMALL, 24),
            two_view: None,
        },
        default_long_side: 336,
        known_long_sides: &[336, 448],
        square_allowed: true,
        square_at_224: true,
        bundled: false,
        metric: false,
        weights_license: DUNE_LICENSE,
        weights: published::DUNE_SMALL,
    },
    Network {
        name: "dune-base",
        summary: "DUNE encoder, ViT-B/14: one image to patch features",
        config: Config {
            encoder: dune(BASE, 24),
            two_view: None,
        },
        default_long_side: 336,
        known_long_sides: &[336, 448],
        square_allowed: true,
        square_at_224: true,
        bundled: false,
        metric: false,
        weights_license: DUNE_LICENSE,
        weights: published::DUNE_BASE,
    },
    Network {
        name: "mast3r-encoder",
        summary: "the encoder of MASt3R, ViT-L/16: one image to patch features",
        config: Config {
            encoder: CROCO_LARGE,
            two_view: None,
        },
        default_long_side: 512,
        known_long_sides: &[224, 512],
        square_allowed: false,
        square_at_224: true,
        bundled: false,
        metric: false,
        weights_license: MAST3R_LICENSE,
        weights: published::MAST3R,
    },
    Network {
        name: "mast3r",
        summary: "MASt3R, ViT-L/16 encoder: two images to points, confidences and descriptors",
        config: Config {
            encoder: CROCO_LARGE,
            two_view: Some(two_view(LARGE.dim)),
        },
        default_long_side: 512,
        known_long_sides: &[224, 512],
        square_allowed: false,
        square_at_224: true,
        bundled: false,
        metric: true,
        weights_license: MAST3R_LICENSE,
        weights: published::MAST3R,
    },
    Network {
        name: "dunemast3r-small",
        summary: "DuneMASt3R, DUNE ViT-S/14 encoder: two images to points, confidences and descriptors",
        config: Config {
            encoder: dune(SMALL, 32),
            two_view: Some(two_view(SMALL.dim)),
        },
        default_long_side: 336,
        known_long_sides: &[336, 448, 518],
        square_allowed: true,
        square_at_224: true,
        bundled: false,
        metric: true,
        weights_license: DUNE_LICENSE,
        weights: published::DUNEMAST3R_SMALL,
    },
    Network {
        name: "dunemast3r-base",
        summary: "DuneMASt3R, DUNE ViT-B/14 encoder: two images to points, confidences and descriptors",
        config: Config {
            encoder: dune(BASE, 32),
            two_view: Some(two_view(BASE.dim)),
        },
        default_long_side: 336,
        known_long_sides: &[336, 448, 518],
        square_allowed: true,
        square_at_224: true,
        bundled: false,
        metric: true,
        weights_license: DUNE_LICENSE,
        weights: published::DUNEMAST3R_BASE,
    },
    Network {
        name: "da3-small",
        summary: "Depth Anything 3 Small, ViT-S/14: any number of images to depths and cameras",
        config: any_view(SMALL, 64, [48, 96, 192, 384]),
        default_long_side: 504,
        known_long_sides: &[504],
        square_allowed: true,
        square_at_224: false,
        bundled: false,
        metric: false,
        weights_license: DA3_LICENSE,
        weights: published::DA3_SMALL,
    },
    Network {
        name: "da3-base",
        summary: "Depth Anything 3 Base, ViT-B/14: any number of images to depths and cameras",
        config: any_view(BASE, 128, [96, 192, 384, 768]),
        default_long_side: 504,
        known_long_sides: &[504],
        square_allowed: true,
        square_at_224: false,
        bundled: false,
        metric: false,
        weights_license: DA3_LICENSE,
        weights: published::DA3_BASE,
    },
];

impl Network {
    /// Whether the network called `name` predicts metres; false for one that is not known.
    pub fn is_metric(name: &str) -> bool {
        Self::find(name).is_ok_and(|network| network.metric)
    }

    /// The network called `name`.
    ///
    /// # Errors
    /// [`Error::Usage`] with the nearest name and all of them.
    pub fn find(name: &str) -> Result<&'static Self> {
        if let Some(network) = NETWORKS.iter().find(|network| network.name == name) {
            return Ok(network);
        }
        let names: Vec<_> = NETWORKS.iter().map(|network| network.name).collect();
        let nearest = names
            .iter()
            .min_by_key(|known| edits(&name.to_lowercase(), known))
            .copied()
            .unwrap_or_default();
        let names = names.join(", ");
        Err(Error::Usage(format!(
            "unknown model '{name}'; the nearest is {nearest}, and there are {names}"
        )))
    }

    /// The network whose dimensions are those of `config`, if there is one; see
    /// [`Network::accepts`].
    pub fn of(config: &Config) -> Option<&'static Self> {
        let same_parts = |network: &&Network| network.predicts() == config.predicts();
        NETWORKS
            .iter()
            .filter(same_parts)
            .find(|network| network.accepts(config))
    }

    /// Whether weights of these dimensions can be run as this network: the same encoder and, for a
    /// two-view network, the same decoder and heads. MASt3R's encoder can be taken from the whole
    /// of MASt3R. DUNE's position grid, its register tokens and the head counts are the weights'
    /// own affair.
    pub fn accepts(&self, config: &Config) -> bool {
        let (own, other) = (&self.config.encoder, &config.encoder);
        let same_stack =
            |a: &Stack, b: &Stack| (a.depth, a.dim, a.mlp_dim) == (b.depth, b.dim, b.mlp_dim);
        let same_encoder = discriminant(&own.kind) == discriminant(&other.kind)
            && own.patch == other.patch
            && same_stack(&own.stack, &other.stack)
            && self.config.any_view().map(any_view_head) == config.any_view().map(any_view_head);
        let same_rest = match (&self.config.two_view, &config.two_view) {
            (None, None) => true,
            (None, Some(_)) => !self.config.is_dune(),
            (Some(_), None) => false,
            (Some(a), Some(b)) => {
                same_stack(&a.decoder, &b.decoder)
                    && (a.head.layer_dims, a.head.features) == (b.head.layer_dims, b.head.features)
                    && a.head.descriptor == b.head.descriptor
            }
        };
        same_encoder && same_rest
    }

    /// The dimensions for images with this long side: DUNE encoders alone were published with a
    /// position grid of their own for each known size; for any other size, and for the other
    /// networks, this is [`Network::config`].
    pub fn config_at(&self, long_side: u32) -> Config {
        let mut config = self.config.clone();
        if let (EncoderKind::Dune { position_grid, .. }, None) =
            (&mut config.encoder.kind, &config.two_view)
            && self.known_long_sides.contains(&long_side)
        {
            *position_grid = long_side as usize / config.encoder.patch;
        }
        config
    }

    /// The published file for images with this long side; the usual one for a size that has none
    /// of its own, and none if nothing is published.
    pub fn weights_at(&self, long_side: Option<u32>) -> Option<&'static WeightFile> {
        let own = self
            .weights
            .iter()
            .find(|file| Some(file.long_side) == long_side);
        own.or(self.weights.first()).copied()
    }

    /// How this network wants its images at `resolution`.
    pub fn framing(&self, resolution: Resolution) -> Framing {
        Framing {
            resolution,
            patch: self.patch(),
            resize: self.config.resize(),
            square_allowed: self.square_allowed,
            square_at_224: self.square_at_224,
        }
    }

    /// Side of a square patch in pixels; image sides are multiples of it.
    pub fn patch(&self) -> u32 {
        self.config.encoder.patch as u32
    }

    /// Parameters as published; see [`Config::parameters`]. A decoder that tells the views apart by
    /// an embedding serves both and counts once.
    pub fn parameters(&self) -> usize {
        let two_view = self.config.two_view.as_ref();
        if !two_view.is_some_and(|two_view| two_view.view_embed) {
            return self.config.parameters();
        }
        let tensors = self
            .config
            .tensors()
            .into_iter()
            .filter(|tensor| !tensor.name.contains("dec_blocks2."));
        tensors
            .map(|tensor| tensor.shape.iter().product::<usize>())
            .sum()
    }

    /// What it predicts of the views that it is given.
    pub fn predicts(&self) -> Predicts {
        self.config.predicts()
    }

    /// Whether a published file may lack the encoder, which another file then completes.
    pub fn may_lack_encoder(&self) -> bool {
        self.weights.iter().any(|file| file.encoder.is_some())
    }

    /// Whether this build holds its weights.
    pub fn has_bundled_weights(&self) -> bool {
        self.bundled && cfg!(bundled)
    }
}

/// What tells the heads of two any-view networks apart.
fn any_view_head(config: &AnyViewConfig) -> ([usize; 4], usize, [usize; 4]) {
    (config.hooks, config.features, config.layer_dims)
}

const SMALL: Stack = vit(12, 384, 6);
const BASE: Stack = vit(12, 768, 12);
const LARGE: Stack = vit(24, 1024, 16);
const TINY_ENCODER: Stack = Stack {
    depth: 8,
    dim: 384,
    heads: 6,
    mlp_dim: 768,
};
const TINY_DECODER: Stack = Stack {
    depth: 6,
    dim: 256,
    heads: 4,
    mlp_dim: 768,
};
const TINY_TWO_VIEW: TwoViewConfig = TwoViewConfig {
    decoder: TINY_DECODER,
    view_embed: true,
    head: HeadConfig {
        hooks: hooks(TINY_DECODER.depth),
        layer_dims: [48, 64, 96, 128],
        features: 64,
        head_channels: 48,
        last: 32,
        descriptor: 24,
        two_confidences: true,
        descriptor_hidden: 192,
        descriptor_confidence_floor: 0.0,
    },
};
const CROCO_LARGE: EncoderConfig = EncoderConfig {
    kind: EncoderKind::Croco,
    patch: 16,
    stack: LARGE,
};

const fn vit(depth: usize, dim: usize, heads: usize) -> Stack {
    Stack {
        depth,
        dim,
        heads,
        mlp_dim: 4 * dim,
    }
}

const fn dune(stack: Stack, position_grid: usize) -> EncoderConfig {
    EncoderConfig {
        kind: EncoderKind::Dune {
            position_grid,
            registers: 4,
        },
        patch: 14,
        stack,
    }
}

/// Depth Anything 3 around a vision transformer of twelve blocks.
const fn any_view(stack: Stack, features: usize, layer_dims: [usize; 4]) -> Config {
    let camera_encoder = Stack {
        depth: 4,
        heads: 16,
        ..stack
    };
    Config {
        encoder: EncoderConfig {
            kind: EncoderKind::AnyView(AnyViewConfig {
                position_grid: 37,
                alternate_from: 4,
                hooks: [5, 7, 9, 11],
                layer_dims,
                features,
                camera_encoder,
            }),
            patch: 14,
            stack,
        },
        two_view: None,
    }
}

const fn two_view(encoder_dim: usize) -> TwoViewConfig {
    TwoViewConfig {
        decoder: BASE,
        view_embed: false,
        head: HeadConfig {
            hooks: hooks(BASE.depth),
            layer_dims: [96, 192, 384, 768],
            features: 256,
            head_channels: 128,
            last: 128,
            descriptor: 24,
            two_confidences: true,
            descriptor_hidden: 4 * (encoder_dim + BASE.dim),
            descriptor_confidence_floor: 0.0,
        },
    }
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_counts_are_the_published_ones() {
        let count = |name: &str| Network::find(name).unwrap().parameters();
        assert_eq!(count("mast3r"), 688_638_856);
        assert_eq!(count("dunemast3r-small"), 345_405_520);
        assert_eq!(count("dunemast3r-base"), 433_708_240);
        let dune = |name: &str, size| Network::find(name).unwrap().config_at(size).parameters();
        assert_eq!(dune("dune-small", 336), 21_753_600);
        assert_eq!(dune("dune-small", 448), 21_925_632);
        assert_eq!(dune("dune-base", 336), 85_974_528);
        assert_eq!(dune("dune-base", 448), 86_318_592);
        assert_eq!(count("da3-small"), 34_299_463);
        assert_eq!(count("da3-base"), 135_366_599);
    }

    #[cfg(bundled)]
    #[test]
    fn the_bundled_weights_are_those_of_tiny() {
        let tiny = Network::find("tiny").unwrap();
        let checkpoint = crate::model::checkpoint::Checkpoint::tiny().unwrap();
        assert_eq!(checkpoint.config(), &tiny.config);
        assert_eq!(tiny.parameters(), 19_702_128);
        assert!(
            checkpoint
                .describe()
                .starts_with("DuneMASt3R (tiny), bundled"),
            "{}",
            checkpoint.describe()
        );
    }

    #[test]
    fn parts_have_the_published_parameter_counts() {
        let part = |name: &str, prefix: &str| -> usize {
            let tensors = Network::find(name).unwrap().config.tensors();
            let named = tensors
                .iter()
                .filter(|tensor| tensor.name.starts_with(prefix));
            named
                .map(|tensor| tensor.shape.iter().product::<usize>())
                .sum()
        };
        let unread = 2 * (256 * 256 * 9 + 256);
        assert_eq!(part("mast3r", "enc_blocks."), 302_309_376);
        assert_eq!(part("mast3r", "dec_blocks2."), 113_439_744);
        assert_eq!(part("mast3r", "downstream_head1.dpt."), 20_201_668 - unread);
        assert_eq!(
            part("mast3r", "downstream_head2.head_local_features."),
            58_733_824
        );
        assert_eq!(
            part("dunemast3r-small", "dune_backbone.blocks."),
            21_302_784
        );
        assert_eq!(
            part(
                "dunemast3r-small",
                "mast3r.downstream_head1.head_local_features."
            ),
            27_897_124
        );
        assert_eq!(
            part("dunemast3r-base", "mast3r.downstream_head2.dpt."),
            20_177_092 - unread
        );
    }

    #[test]
    fn weights_are_chosen_by_size() {
        let file = |name: &str, side| Network::find(name).unwrap().weights_at(side).unwrap().name;
        assert_eq!(file("dune-base", None), "dune_vitbase14_336.pth");
        assert_eq!(file("dune-base", Some(448)), "dune_vitbase14_448.pth");
        assert_eq!(file("dune-base", Some(518)), "dune_vitbase14_336.pth");
        assert_eq!(file("mast3r-encoder", Some(224)), file("mast3r", None));
    }

    #[test]
    fn an_unknown_name_gets_the_nearest_and_all() {
        let message = Network::find("Dune-smal").unwrap_err().to_string();
        assert!(message.contains("the nearest is dune-small,"), "{message}");
        for network in NETWORKS {
            assert!(message.contains(network.name), "{message}");
        }
    }

    #[test]
    fn every_network_is_found_by_its_dimensions_and_checks_out() {
        for network in NETWORKS {
            assert_eq!(Network::of(&network.config).unwrap().name, network.name);
            network.config.check().unwrap();
            assert!(
                network
                    .known_long_sides
                    .contains(&network.default_long_side)
            );
        }
        let mast3r = &Network::find("mast3r").unwrap().config;
        assert!(Network::find("mast3r-encoder").unwrap().accepts(mast3r));
        assert!(!Network::find("dune-base").unwrap().accepts(mast3r));
    }
}
