//! From the names in a file to the canonical ones: wrappers dropped, aliases resolved, permutations
//! undone.

use std::collections::HashMap;

use super::family::Family;
use super::source::{Stored, Tensors};

/// The tensors of one file under their canonical names.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) family: Family,
    pub(super) tensors: Tensors,
    /// Whether the names had DUNE's `encoder.` in front.
    pub(super) under_encoder: bool,
}

/// What the published files of Depth Anything 3 have before every name.
const ANY_VIEW_PREFIX: &str = "model.";

/// Gives `tensors` their canonical names and layout.
pub(super) fn canonical(
    tensors: Vec<(String, Result<Stored, String>)>,
    permuted: bool,
) -> Result<Named, String> {
    let plain: Vec<_> = tensors
        .iter()
        .map(|(name, _)| without_wrappers(name.strip_prefix(ANY_VIEW_PREFIX).unwrap_or(name)))
        .collect();
    let any = |prefix: &str| plain.iter().any(|(name, _)| name.starts_with(prefix));
    let Some(family) = Family::of(any) else {
        return Err(unknown(&tensors));
    };
    // Beside its encoder a DUNE checkpoint holds what it was trained with.
    let under_encoder =
        family == Family::Dune && plain.iter().any(|(_, under_encoder)| *under_encoder);

    let mut named = HashMap::new();
    let mut aliases = Vec::new();
    for ((original, mut stored), (name, inside)) in tensors.into_iter().zip(plain) {
        if under_encoder && !inside {
            continue;
        }
        if permuted {
            stored = stored.map(|stored| unpermuted(&original, stored));
        }
        match alias(&name) {
            Some(kept) => aliases.push((kept, stored)),
            None => {
                if named.insert(name.clone(), stored).is_some() {
                    return Err(format!("its tensor {original} is a second one for {name}"));
                }
            }
        }
    }
    for (kept, tensor) in aliases {
        named.entry(kept).or_insert(tensor);
    }
    share_decoder(&mut named, family.decoder_prefix());
    Ok(Named {
        family,
        tensors: named,
        under_encoder,
    })
}

/// `name` without the parts that training wrappers add, and whether one of them was `encoder`.
fn without_wrappers(name: &str) -> (String, bool) {
    let is_wrapper = |part: &&str| matches!(*part, "module" | "_orig_mod" | "encoder");
    let kept: Vec<_> = name.split('.').filter(|part| !is_wrapper(part)).collect();
    (
        kept.join("."),
        name.split('.').any(|part| part == "encoder"),
    )
}

/// PyTorch registers the four projections of a DPT twice; the hub's files keep `layer1_rn` to
/// `layer4_rn`.
fn alias(name: &str) -> Option<String> {
    let (before, after) = name.split_once(".scratch.layer_rn.")?;
    let (index, after) = after.split_once('.')?;
    let index: usize = index.parse().ok().filter(|&index| index < 4)?;
    Some(format!("{before}.scratch.layer{}_rn.{after}", index + 1))
}

/// A checkpoint from before the second decoder was trained has one for both views.
fn share_decoder(tensors: &mut Tensors, prefix: &str) {
    let (first, second) = (
        format!("{prefix}dec_blocks."),
        format!("{prefix}dec_blocks2"),
    );
    if tensors.keys().any(|name| name.starts_with(&second)) {
        return;
    }
    let copies = tensors.iter().filter_map(|(name, tensor)| {
        let rest = name.strip_prefix(&first)?;
        Some((format!("{second}.{rest}"), tensor.clone()))
    });
    let copies: Vec<_> = copies.collect();
    tensors.extend(copies);
}

/// The PyTorch view of a weight that the MLX port's converter may have permuted; its rule goes by
/// the name.
fn unpermuted(original: &str, stored: Stored) -> Stored {
    let name = original.to_lowercase();
    let transposed = ["act_postprocess.0.1.weight", "act_postprocess.1.1.weight"]
        .iter()
        .any(|part| name.contains(part));
    let is_conv = [
        "conv",
        "patch_embed.proj.weight",
        "act_postprocess",
        "layer_rn",
        "refinenet",
    ];
    // Axes of the file in PyTorch's order: (out, height, width, in) becomes (in, out, …) or (out,
    // in, …).
    let order = match stored.shape.len() {
        4 if transposed => [3, 0, 1, 2],
        4 if is_conv.iter().any(|part| name.contains(part)) => [0, 3, 1, 2],
        _ => return stored,
    };
    let reorder = |values: &[usize]| order.iter().map(|&axis| values[axis]).collect();
    Stored {
        shape: reorder(&stored.shape),
        strides: reorder(&stored.strides),
        ..stored
    }
}

fn unknown(tensors: &[(String, Result<Stored, String>)]) -> String {
    let mut names: Vec<_> = tensors.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    match names.len() {
        0 => "holds no tensors".to_string(),
        count => {
            names.truncate(4);
            format!(
                "holds neither MASt3R, DUNE, DuneMASt3R nor Depth Anything 3; its {count} tensors begin with {}",
                names.join(", ")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::{Format, row_major};
    use super::*;

    fn stored(shape: &[usize]) -> Stored {
        Stored {
            format: Format::F32,
            big_endian: false,
            shape: shape.to_vec(),
            strides: row_major(shape),
            start: 0,
        }
    }

    fn file(names: &[&str]) -> Vec<(String, Result<Stored, String>)> {
        names
            .iter()
            .enumerate()
            .map(|(i, name)| ((*name).to_string(), Ok(stored(&[i + 1]))))
            .collect()
    }

    #[test]
    fn wrappers_are_dropped_and_the_ballast_of_a_dune_checkpoint_is_left_out() {
        let names = [
            "module.encoder._orig_mod.blocks.0.0.norm1.weight",
            "encoder.cls_token",
            "projectors.a.norm.bias",
        ];
        let named = canonical(file(&names), false).unwrap();
        assert_eq!((named.family, named.under_encoder), (Family::Dune, true));
        let mut kept: Vec<_> = named.tensors.keys().map(String::as_str).collect();
        kept.sort_unstable();
        assert_eq!(kept, ["blocks.0.0.norm1.weight", "cls_token"]);
    }

    #[test]
    fn either_name_of_a_shared_projection_is_accepted() {
        let names = [
            "enc_blocks.0.x",
            "h.dpt.scratch.layer_rn.0.weight",
            "h.dpt.scratch.layer_rn.3.weight",
        ];
        let named = canonical(file(&names), false).unwrap();
        assert!(named.tensors.contains_key("h.dpt.scratch.layer1_rn.weight"));
        let both = [
            "enc_blocks.0.x",
            "h.dpt.scratch.layer_rn.0.weight",
            "h.dpt.scratch.layer1_rn.weight",
        ];
        let named = canonical(file(&both), false).unwrap();
        assert_eq!(
            named.tensors["h.dpt.scratch.layer1_rn.weight"]
                .as_ref()
                .unwrap()
                .shape,
            [3]
        );
    }

    #[test]
    fn one_decoder_serves_both_views_only_if_there_is_no_second() {
        let named = canonical(file(&["mast3r.dec_blocks.0.norm1.bias"]), false).unwrap();
        assert!(
            named
                .tensors
                .contains_key("mast3r.dec_blocks2.0.norm1.bias")
        );
        let names = [
            "enc_blocks.0.x",
            "dec_blocks.0.a",
            "dec_blocks.1.a",
            "dec_blocks2.0.a",
        ];
        let named = canonical(file(&names), false).unwrap();
        assert!(!named.tensors.contains_key("dec_blocks2.1.a"));
    }

    #[test]
    fn collisions_and_foreign_files_are_refused() {
        let message =
            canonical(file(&["module.enc_blocks.0.x", "enc_blocks.0.x"]), false).unwrap_err();
        assert!(
            message.contains("enc_blocks.0.x is a second one"),
            "{message}"
        );
        let message = canonical(file(&["conv1.weight", "fc.bias"]), false).unwrap_err();
        assert!(
            message.contains("its 2 tensors begin with conv1.weight, fc.bias"),
            "{message}"
        );
        assert!(
            canonical(Vec::new(), false)
                .unwrap_err()
                .contains("no tensors")
        );
    }

    #[test]
    fn permutations_follow_the_name_and_are_undone_as_views() {
        let view = |name: &str| {
            let view = unpermuted(name, stored(&[8, 2, 3, 5]));
            (view.shape, view.strides)
        };
        assert_eq!(
            view("h.refinenet1.resConfUnit1.conv1.weight"),
            (vec![8, 5, 2, 3], vec![30, 1, 15, 5])
        );
        assert_eq!(
            view("h.act_postprocess.0.1.weight"),
            (vec![5, 8, 2, 3], vec![1, 30, 15, 5])
        );
        assert_eq!(view("h.act_postprocess.3.1.weight").0, [8, 5, 2, 3]);
        assert_eq!(view("h.scratch.layer_rn.0.weight").0, [8, 5, 2, 3]);
        assert_eq!(view("h.scratch.layer1_rn.weight").0, [8, 2, 3, 5]);
        assert_eq!(view("h.dpt.head.0.weight").0, [8, 2, 3, 5]);
        assert_eq!(
            unpermuted("refinenet1.out_conv.bias", stored(&[8])).shape,
            [8]
        );
    }
}
