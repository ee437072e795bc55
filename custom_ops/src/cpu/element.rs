//! The element types of tensors on the CPU; arithmetic is float32.

use candle_core::WithDType;
use half::{bf16, f16};

/// An element that kernels read and write as float32.
pub(crate) trait Element: WithDType + Send + Sync {
    fn widen(self) -> f32;
    /// Rounds to nearest, ties to even.
    fn round(value: f32) -> Self;
}

impl Element for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn round(value: f32) -> Self {
        value
    }
}

impl Element for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    fn round(value: f32) -> Self {
        Self::from_f32(value)
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    fn round(value: f32) -> Self {
        Self::from_f32(value)
    }
}
