//! The tensors of an any-view network, under the names of its published files without `model.`.

use super::list::List;
use super::{ANY_VIEW_LAST, AnyViewConfig, CAMERA_NUMBERS, EncoderConfig, Stack, TensorSpec};

/// Channels of a ray and its confidence.
pub(in crate::model) const RAY_CHANNELS: usize = 7;
/// The level of the ray branch that makes the rays; the others were trained and are never read.
pub(in crate::model) const RAY_LEVEL: usize = 3;

/// Every tensor that inference reads, that of rays included.
pub(super) fn any_view_tensors(
    encoder: &EncoderConfig,
    any_view: &AnyViewConfig,
) -> Vec<TensorSpec> {
    let mut list = List {
        prefix: "",
        tensors: Vec::new(),
    };
    backbone(&mut list, encoder, any_view);
    head(&mut list, 2 * encoder.stack.dim, any_view);
    camera_decoder(&mut list, 2 * encoder.stack.dim);
    camera_encoder(&mut list, &any_view.camera_encoder);
    list.tensors
}

/// Parameters of the levels of the ray branch that no output depends on.
pub(super) fn unread_of_rays(any_view: &AnyViewConfig) -> usize {
    let features = any_view.features;
    let conv = |input: usize, output: usize, side: usize| output * (input * side * side + 1);
    let neck = 3 * conv(features, features / 2, 3) + 2 * conv(features / 2, features, 3);
    let last = conv(features / 2, ANY_VIEW_LAST, 3) + conv(ANY_VIEW_LAST, RAY_CHANNELS, 1);
    RAY_LEVEL * (neck + last)
}

fn backbone(list: &mut List, encoder: &EncoderConfig, any_view: &AnyViewConfig) {
    let Stack {
        depth,
        dim,
        heads,
        mlp_dim,
    } = encoder.stack;
    let (grid, head_dim) = (any_view.position_grid, dim / heads.max(1));
    list.prefix = "backbone.pretrained.";
    list.add("cls_token", &[1, 1, dim]);
    list.add("camera_token", &[1, 2, dim]);
    list.add("pos_embed", &[1, 1 + grid * grid, dim]);
    list.conv("patch_embed.proj", dim, 3, encoder.patch);
    for i in 0..depth {
        let block = format!("blocks.{i}");
        scaled_block(list, &block, dim, mlp_dim);
        if i >= any_view.alternate_from {
            list.norm(&format!("{block}.attn.q_norm"), head_dim);
            list.norm(&format!("{block}.attn.k_norm"), head_dim);
        }
    }
    list.norm("norm", dim);
}

fn scaled_block(list: &mut List, block: &str, dim: usize, mlp_dim: usize) {
    list.self_attention_and_mlp(block, dim, mlp_dim);
    list.add(&format!("{block}.ls1.gamma"), &[dim]);
    list.add(&format!("{block}.ls2.gamma"), &[dim]);
}

fn head(list: &mut List, input: usize, any_view: &AnyViewConfig) {
    let features = any_view.features;
    list.prefix = "head.";
    list.norm("norm", input);
    for (k, &outputs) in any_view.layer_dims.iter().enumerate() {
        list.conv(&format!("projects.{k}"), outputs, input, 1);
        // The finer levels are upsampled by 4 and 2, the third stays, the coarsest is halved.
        if let Some(kernel) = [Some(4), Some(2), None, Some(3)][k] {
            list.conv(&format!("resize_layers.{k}"), outputs, outputs, kernel);
        }
        list.add(
            &format!("scratch.layer{}_rn.weight", k + 1),
            &[features, outputs, 3, 3],
        );
    }
    for branch in ["", "_aux"] {
        for level in 1..=4 {
            let fusion = format!("scratch.refinenet{level}{branch}");
            for unit in if level == 4 { 2..=2 } else { 1..=2 } {
                for conv in ["conv1", "conv2"] {
                    let name = format!("{fusion}.resConfUnit{unit}.{conv}");
                    list.conv(&name, features, features, 3);
                }
            }
            list.conv(&format!("{fusion}.out_conv"), features, features, 1);
        }
    }
    list.conv("scratch.output_conv1", features / 2, features, 3);
    list.conv("scratch.output_conv2.0", ANY_VIEW_LAST, features / 2, 3);
    list.conv("scratch.output_conv2.2", 2, ANY_VIEW_LAST, 1);
    for step in 0..5 {
        let (input, output) = match step % 2 {
            0 => (features, features / 2),
            _ => (features / 2, features),
        };
        let name = format!("scratch.output_conv1_aux.{RAY_LEVEL}.{step}");
        list.conv(&name, output, input, 3);
    }
    let last = format!("scratch.output_conv2_aux.{RAY_LEVEL}");
    list.conv(&format!("{last}.0"), ANY_VIEW_LAST, features / 2, 3);
    // All levels share one norm, which files hold under the first one's name alone.
    list.norm("scratch.output_conv2_aux.0.2", ANY_VIEW_LAST);
    list.conv(&format!("{last}.5"), RAY_CHANNELS, ANY_VIEW_LAST, 1);
}

fn camera_decoder(list: &mut List, dim: usize) {
    list.prefix = "cam_dec.";
    list.linear("backbone.0", dim, dim);
    list.linear("backbone.2", dim, dim);
    list.linear("fc_t", 3, dim);
    list.linear("fc_qvec", 4, dim);
    list.linear("fc_fov.0", 2, dim);
}

fn camera_encoder(list: &mut List, stack: &Stack) {
    let Stack {
        depth,
        dim,
        mlp_dim,
        ..
    } = *stack;
    list.prefix = "cam_enc.";
    list.linear("pose_branch.fc1", dim / 2, CAMERA_NUMBERS);
    list.linear("pose_branch.fc2", dim, dim / 2);
    list.norm("token_norm", dim);
    list.norm("trunk_norm", dim);
    (0..depth).for_each(|i| scaled_block(list, &format!("trunk.{i}"), dim, mlp_dim));
}
