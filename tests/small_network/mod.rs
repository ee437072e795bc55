//! A network with the full structure and few channels.

use mast3r::model::config::{
    Config, EncoderConfig, EncoderKind, HeadConfig, Stack, TwoViewConfig, hooks,
};

/// A network of pairs, with two heads of attention.
pub fn small_pair(kind: EncoderKind, patch: usize, dim: usize) -> Config {
    let stack = |depth| Stack {
        depth,
        dim,
        heads: 2,
        mlp_dim: 4 * dim,
    };
    let decoder = stack(4);
    let head = HeadConfig {
        hooks: hooks(decoder.depth),
        layer_dims: [32, 32, 32, 32],
        features: 32,
        head_channels: 16,
        last: 16,
        descriptor: 8,
        two_confidences: true,
        descriptor_hidden: 64,
        descriptor_confidence_floor: 0.0,
    };
    Config {
        encoder: EncoderConfig {
            kind,
            patch,
            stack: stack(2),
        },
        two_view: Some(TwoViewConfig {
            decoder,
            view_embed: false,
            head,
        }),
    }
}
