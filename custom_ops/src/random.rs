//! Values for tests: drawn at random, the same on every run, so that a comparison that passes once
//! passes again.

use candle_core::{Device, Shape, Tensor};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, StandardNormal};

/// Standard normal values in float32 on the CPU, decided by `seed` and the shape.
pub fn normal(seed: u64, shape: impl Into<Shape>) -> Tensor {
    let shape = shape.into();
    let mut generator = StdRng::seed_from_u64(seed);
    let values: Vec<f32> = StandardNormal
        .sample_iter(&mut generator)
        .take(shape.elem_count())
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}
