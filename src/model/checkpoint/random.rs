//! Reproducible pseudo-random weights, for measurements and tests without the published ones.
//!
//! A value depends on nothing but the seed, the tensor's name and shape and the value's index, so
//! any implementation of this recipe makes the same bits:
//!
//! ```text
//! key      = the first 8 bytes, little endian, of sha256("<seed>:<name>")
//! word[i]  = the splitmix64 output for the state key + (i + 1) · 0x9E3779B97F4A7C15
//! sum[i]   = the four 16-bit lanes of word[i] added up, less 131070
//! value[i] = offset + sum[i] · f32(deviation / √((65536² − 1) / 3))
//! ```
//!
//! Sums of four uniform numbers are nearly normal; offset and deviation keep the activations of a
//! deep network in a range where errors show.

use std::borrow::Cow;

use sha2::{Digest as _, Sha256};

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// Gains of weights, by the first part that their name contains.
const GAINS: &[(&str, f64)] = &[
    ("attn.qkv.", 1.4),
    ("cross_attn.projq.", 1.4),
    ("cross_attn.projk.", 1.4),
    ("attn.proj.", 0.7),
    ("head_local_features.fc1.", 1.2),
    ("head_local_features.fc2.", 1.2),
    ("mlp.fc1.", 1.2),
    ("mlp.fc2.", 0.7),
    ("patch_embed.proj.", 1.5),
    ("dpt.head.0.", 0.5),
    ("dpt.head.2.", 1.0),
    ("dpt.head.4.", 0.4),
    ("dpt.", 1.0),
];

/// Writes the values of the tensor `name` of `shape`, a block at a time, beginning at any of them.
pub(super) fn generator(
    seed: &str,
    name: &str,
    shape: &[usize],
) -> impl Fn(usize, &mut [f32]) + Sync + 'static {
    let name = &*recipe_name(name);
    let digest = Sha256::digest(format!("{seed}:{name}"));
    let mut start = [0; 8];
    start.copy_from_slice(&digest[..8]);
    let key = u64::from_le_bytes(start);
    let (offset, deviation) = rule(name, shape);
    let lanes = ((65536_f64.powi(2) - 1.0) / 3.0).sqrt();
    let (offset, scale) = (offset as f32, (deviation / lanes) as f32);
    move |first, block| fill(key, first as u64, scale, offset, block)
}

/// Tensors whose values are made as those of another name: camera tokens as class tokens, and fields
/// of view near one, which a camera needs.
const RENAMED: &[(&str, &str)] = &[
    ("camera_token", "cls_token"),
    ("cam_dec.fc_fov.0.weight", "mask_token"),
    ("cam_dec.fc_fov.0.bias", "gamma"),
];

/// The name that the recipe takes for a tensor called `name`.
fn recipe_name(name: &str) -> Cow<'_, str> {
    match RENAMED.iter().find(|(end, _)| name.ends_with(end)) {
        Some((_, leaf)) => Cow::Owned(format!("recipe:{name}.{leaf}")),
        None => Cow::Borrowed(name),
    }
}

fn fill(key: u64, first: u64, scale: f32, offset: f32, block: &mut [f32]) {
    for (i, value) in block.iter_mut().enumerate() {
        let mut word = key.wrapping_add((first + i as u64 + 1).wrapping_mul(GOLDEN));
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^= word >> 31;
        let lane = |shift: u32| (word >> shift) as i32 & 0xFFFF;
        let sum = lane(0) + lane(16) + lane(32) + lane(48) - 131_070;
        *value = sum as f32 * scale + offset;
    }
}

/// Offset and standard deviation of a tensor's values.
fn rule(name: &str, shape: &[usize]) -> (f64, f64) {
    match (name.rsplit('.').next().unwrap_or(name), shape) {
        ("gamma", _) => (0.55, 0.13),
        ("pos_embed", _) => (0.0, 0.15),
        ("cls_token" | "register_tokens", _) => (0.0, 0.5),
        ("mask_token", _) => (0.0, 0.02),
        ("bias", _) => (0.0, 0.05),
        // the scale of a norm
        (_, [_]) => (1.0, 0.15),
        _ => {
            // A transposed convolution whose stride is its kernel adds up its input channels once
            // per pixel.
            let transposed = ["act_postprocess.0.1.", "act_postprocess.1.1."]
                .iter()
                .any(|part| name.contains(part));
            let fan_in = if transposed {
                shape.first().copied().unwrap_or(1)
            } else {
                shape.iter().skip(1).product()
            };
            let gain = GAINS
                .iter()
                .find(|(part, _)| name.contains(part))
                .map_or(1.0, |(_, gain)| *gain);
            (0.0, gain / (fan_in.max(1) as f64).sqrt())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_recipe_wherever_a_block_begins() {
        // From an evaluation of the recipe in Python, seed 0, indices 0, 1 and 5000.
        for (name, shape, bits) in [
            (
                "enc_blocks.0.attn.qkv.weight",
                &[3072, 1024][..],
                [0x3d67_c01d, 0x3d78_2590, 0x3b9c_ef44],
            ),
            (
                "dec_norm.weight",
                &[768],
                [0x3f86_9ab3, 0x3f8c_4c9c, 0x3f95_d819],
            ),
            (
                "downstream_head1.dpt.act_postprocess.0.1.weight",
                &[96, 96, 4, 4],
                [0x3bc3_3ff7, 0x3c3e_f689, 0x3bc9_ca64],
            ),
        ] {
            let generate = generator("0", name, shape);
            let (mut start, mut late) = ([0.0; 2], [0.0; 1]);
            generate(0, &mut start);
            generate(5000, &mut late);
            assert_eq!(
                [start[0], start[1], late[0]].map(f32::to_bits),
                bits,
                "{name}"
            );
        }
    }

    #[test]
    fn values_have_the_mean_and_deviation_of_their_rule() {
        for (name, shape, mean, deviation) in [
            ("blocks.0.1.ls1.gamma", &[384][..], 0.55, 0.13),
            ("pos_embed", &[1, 577, 384], 0.0, 0.15),
            (
                "blocks.0.1.mlp.fc2.weight",
                &[384, 1536],
                0.0,
                0.7 / 1536_f64.sqrt(),
            ),
            (
                "x.dpt.head.4.weight",
                &[4, 128, 1, 1],
                0.0,
                0.4 / 128_f64.sqrt(),
            ),
        ] {
            let mut values = vec![0.0; 100_000];
            generator("any", name, shape)(0, &mut values);
            let count = values.len() as f64;
            let found = values.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
            let spread = values
                .iter()
                .map(|&value| (f64::from(value) - mean).powi(2))
                .sum::<f64>()
                / count;
            // four standard errors of a mean and of a deviation over 100 000 values
            assert!(
                (found - mean).abs() < 0.013 * deviation,
                "{name}: mean {found}"
            );
            assert!(
                (spread.sqrt() / deviation - 1.0).abs() < 0.01,
                "{name}: deviation {}",
                spread.sqrt()
            );
        }
    }
}
