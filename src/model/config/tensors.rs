//! The tensors of networks under their canonical names.

use super::any_view::{any_view_tensors, unread_of_rays};
use super::list::List;
use super::{Config, EncoderConfig, EncoderKind, HeadConfig, Stack, TensorSpec, TwoViewConfig};

impl Config {
    /// Every tensor that inference reads, under its canonical name: MASt3R's and DUNE's as
    /// published, DuneMASt3R's as `dune_backbone.*`, `norm.*` and `mast3r.*`.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let mut list = List {
            prefix: self.encoder_prefix(),
            tensors: Vec::new(),
        };
        let Stack {
            depth,
            dim,
            mlp_dim,
            ..
        } = self.encoder.stack;
        if self.any_view().is_none() {
            list.conv("patch_embed.proj", dim, 3, self.encoder.patch);
        }
        match &self.encoder.kind {
            EncoderKind::AnyView(any_view) => return any_view_tensors(&self.encoder, any_view),
            EncoderKind::Croco => {
                (0..depth).for_each(|i| {
                    list.self_attention_and_mlp(&format!("enc_blocks.{i}"), dim, mlp_dim)
                });
                list.norm("enc_norm", dim);
            }
            EncoderKind::Dune {
                position_grid,
                registers,
            } => {
                let (position_grid, registers) = (*position_grid, *registers);
                list.add("cls_token", &[1, 1, dim]);
                list.add("pos_embed", &[1, 1 + position_grid * position_grid, dim]);
                if registers > 0 {
                    list.add("register_tokens", &[1, registers, dim]);
                }
                for i in 0..depth {
                    let block = format!("blocks.0.{i}");
                    list.self_attention_and_mlp(&block, dim, mlp_dim);
                    list.add(&format!("{block}.ls1.gamma"), &[dim]);
                    list.add(&format!("{block}.ls2.gamma"), &[dim]);
                }
                // DuneMASt3R reads the tokens before this norm and has one of its own at the top.
                list.prefix = "";
                list.norm("norm", dim);
            }
        }
        if let Some(two_view) = &self.two_view {
            list.prefix = self.decoder_prefix();
            list.two_view(&self.encoder, two_view);
        }
        list.tensors
    }

    /// Parameters of the network as published, that is with the few that inference never reads
    /// (mask tokens, the first residual unit of `refinenet4`, what DuneMASt3R keeps of an encoder
    /// it replaced).
    pub fn parameters(&self) -> usize {
        let read: usize = self
            .tensors()
            .iter()
            .map(|tensor| tensor.shape.iter().product::<usize>())
            .sum();
        let dim = self.encoder.stack.dim;
        if let Some(any_view) = self.any_view() {
            return read + unread_of_rays(any_view);
        }
        let mut unread = if self.is_dune() { dim } else { 0 };
        if let Some(two_view) = &self.two_view {
            let features = two_view.head.features;
            unread += two_view.decoder.dim + 2 * 2 * (features * features * 9 + features);
            if self.is_dune() {
                let patch_embed = dim * 3 * self.encoder.patch * self.encoder.patch + dim;
                unread += 2 * dim + patch_embed + 2 * dim;
            }
        }
        read + unread
    }
}

impl List {
    fn decoder_block(&mut self, block: &str, dim: usize, mlp_dim: usize) {
        self.self_attention_and_mlp(block, dim, mlp_dim);
        for part in ["projq", "projk", "projv", "proj"] {
            self.linear(&format!("{block}.cross_attn.{part}"), dim, dim);
        }
        self.norm(&format!("{block}.norm3"), dim);
        self.norm(&format!("{block}.norm_y"), dim);
    }

    fn two_view(&mut self, encoder: &EncoderConfig, two_view: &TwoViewConfig) {
        let Stack {
            depth,
            dim,
            mlp_dim,
            ..
        } = two_view.decoder;
        self.linear("decoder_embed", dim, encoder.stack.dim);
        if two_view.view_embed {
            self.add("view_embed", &[2, dim]);
        }
        for i in 0..depth {
            self.decoder_block(&format!("dec_blocks.{i}"), dim, mlp_dim);
            self.decoder_block(&format!("dec_blocks2.{i}"), dim, mlp_dim);
        }
        self.norm("dec_norm", dim);
        for view in [1, 2] {
            self.head(
                &format!("downstream_head{view}"),
                encoder,
                dim,
                &two_view.head,
            );
        }
    }

    fn head(
        &mut self,
        head: &str,
        encoder: &EncoderConfig,
        decoder_dim: usize,
        config: &HeadConfig,
    ) {
        let HeadConfig {
            layer_dims,
            features,
            head_channels,
            last,
            ..
        } = *config;
        let dpt = format!("{head}.dpt");
        let inputs = [encoder.stack.dim, decoder_dim, decoder_dim, decoder_dim];
        for (k, (&outputs, input)) in layer_dims.iter().zip(inputs).enumerate() {
            self.conv(&format!("{dpt}.act_postprocess.{k}.0"), outputs, input, 1);
            // The finer levels are upsampled by 4 and 2, the third stays, the coarsest is halved.
            if let Some(kernel) = [Some(4), Some(2), None, Some(3)][k] {
                self.conv(
                    &format!("{dpt}.act_postprocess.{k}.1"),
                    outputs,
                    outputs,
                    kernel,
                );
            }
            self.add(
                &format!("{dpt}.scratch.layer{}_rn.weight", k + 1),
                &[features, outputs, 3, 3],
            );
        }
        for level in 1..=4 {
            let fusion = format!("{dpt}.scratch.refinenet{level}");
            // The coarsest level has nothing to add to, so its first unit is stored and never used.
            for unit in if level == 4 { 2..=2 } else { 1..=2 } {
                self.conv(
                    &format!("{fusion}.resConfUnit{unit}.conv1"),
                    features,
                    features,
                    3,
                );
                self.conv(
                    &format!("{fusion}.resConfUnit{unit}.conv2"),
                    features,
                    features,
                    3,
                );
            }
            self.conv(&format!("{fusion}.out_conv"), features, features, 1);
        }
        self.conv(&format!("{dpt}.head.0"), head_channels, features, 3);
        self.conv(&format!("{dpt}.head.2"), last, head_channels, 3);
        self.conv(&format!("{dpt}.head.4"), 4, last, 1);

        let mlp = format!("{head}.head_local_features");
        let pixels = encoder.patch * encoder.patch;
        self.linear(
            &format!("{mlp}.fc1"),
            config.descriptor_hidden,
            encoder.stack.dim + decoder_dim,
        );
        self.linear(
            &format!("{mlp}.fc2"),
            config.descriptor_channels() * pixels,
            config.descriptor_hidden,
        );
    }
}
