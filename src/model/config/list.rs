//! A list of tensors under construction.

use super::TensorSpec;

/// The list of tensors under construction.
pub(super) struct List {
    pub(super) prefix: &'static str,
    pub(super) tensors: Vec<TensorSpec>,
}

impl List {
    pub(super) fn add(&mut self, name: &str, shape: &[usize]) {
        self.tensors.push(TensorSpec {
            name: format!("{}{name}", self.prefix),
            shape: shape.to_vec(),
        });
    }

    pub(super) fn with_bias(&mut self, name: &str, shape: &[usize], bias: usize) {
        self.add(&format!("{name}.weight"), shape);
        self.add(&format!("{name}.bias"), &[bias]);
    }

    pub(super) fn linear(&mut self, name: &str, outputs: usize, inputs: usize) {
        self.with_bias(name, &[outputs, inputs], outputs);
    }

    pub(super) fn conv(&mut self, name: &str, outputs: usize, inputs: usize, kernel: usize) {
        self.with_bias(name, &[outputs, inputs, kernel, kernel], outputs);
    }

    pub(super) fn norm(&mut self, name: &str, dim: usize) {
        self.with_bias(name, &[dim], dim);
    }

    pub(super) fn self_attention_and_mlp(&mut self, block: &str, dim: usize, mlp_dim: usize) {
        self.linear(&format!("{block}.attn.qkv"), 3 * dim, dim);
        self.linear(&format!("{block}.attn.proj"), dim, dim);
        self.linear(&format!("{block}.mlp.fc1"), mlp_dim, dim);
        self.linear(&format!("{block}.mlp.fc2"), dim, mlp_dim);
        self.norm(&format!("{block}.norm1"), dim);
        self.norm(&format!("{block}.norm2"), dim);
    }
}
