//! The element types of tensors on the CPU; arithmetic is float32.
//!
//! The conversions have no branches and call nothing, so that loops over them vectorise for any
//! instruction set; those of the `half` crate ask at each value which instructions the CPU has.

use candle_core::WithDType;
use half::{bf16, f16};

/// An element that kernels read and write as float32.
pub(crate) trait Element: WithDType + Send + Sync {
    fn widen(self) -> f32;
    /// Rounds to nearest, ties to even; what is too large becomes infinite, NaN stays NaN.
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

const F32_INFINITY: u32 = 0x7f80_0000;

impl Element for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        // The exponents' biases differ by 112, and multiplying by 2^112 normalises subnormals too.
        const REBIAS: f32 = f32::from_bits((127 + 112) << 23);
        let bits = u32::from(self.to_bits());
        let magnitude = f32::from_bits((bits & 0x7fff) << 13) * REBIAS;
        // Infinity and NaN came out as 65536 and more, with the mantissa in place.
        let special = if magnitude >= 65536. { F32_INFINITY } else { 0 };
        f32::from_bits(magnitude.to_bits() | special | ((bits & 0x8000) << 16))
    }

    #[inline(always)]
    fn round(value: f32) -> Self {
        let bits = value.to_bits();
        let sign = (bits >> 16) & 0x8000;
        let magnitude = bits & 0x7fff_ffff;
        // Half a step added to 13 bits that are dropped, less one unless the last kept bit is odd.
        let odd = (magnitude >> 13) & 1;
        let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + odd) >> 13;
        // The sum with 0.5 has steps of 2^-24, those of subnormal float16; the addition rounds.
        let subnormal = (f32::from_bits(magnitude) + 0.5)
            .to_bits()
            .wrapping_sub(0.5f32.to_bits());
        const SMALLEST_NORMAL: u32 = (127 - 14) << 23;
        const INFINITE: u32 = (127 + 16) << 23;
        let finite = if magnitude < SMALLEST_NORMAL {
            subnormal
        } else {
            normal
        };
        let infinite_or_nan = if magnitude > F32_INFINITY {
            0x7e00
        } else {
            0x7c00
        };
        let rounded = if magnitude < INFINITE {
            finite
        } else {
            infinite_or_nan
        };
        Self::from_bits((rounded | sign) as u16)
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn round(value: f32) -> Self {
        let bits = value.to_bits();
        // Half a step, less one unless the last kept bit is odd.
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        // A NaN must not be rounded to infinity.
        let nan = (bits >> 16) | 0x40;
        Self::from_bits(if bits & 0x7fff_ffff > F32_INFINITY {
            nan
        } else {
            rounded
        } as u16)
    }
}

/// A float32 as bfloat16 bits, rounded to nearest even. NaN stays NaN because the caller's values
/// are finite or the result is reported as such.
#[inline(always)]
pub(crate) fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16
}

/// Two neighbouring values as one word of bfloat16, the first in the low half.
#[inline(always)]
pub(crate) fn bf16_pair(first: f32, second: f32) -> u32 {
    bf16_bits(first) | (bf16_bits(second) << 16)
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::cpu::levels::{self, Level, Task};

    /// The float32 values at, just beside and halfway between all values of 16 bits, and some of
    /// every exponent.
    fn telling_values() -> Vec<f32> {
        let sixteen_bits = (0..=u16::MAX).flat_map(|bits| {
            [
                f16::from_bits(bits).to_f32(),
                bf16::from_bits(bits).to_f32(),
            ]
        });
        let mut values: Vec<f32> = sixteen_bits.collect();
        values.sort_by(f32::total_cmp);
        let halves: Vec<f32> = values
            .windows(2)
            .map(|pair| pair[0] + (pair[1] - pair[0]) / 2.)
            .collect();
        values.extend(halves);
        let beside: Vec<f32> = values
            .iter()
            .flat_map(|value| [value.next_up(), value.next_down()])
            .collect();
        values.extend(beside);
        values.extend((0..1 << 20).map(|i: u32| f32::from_bits(i.wrapping_mul(0x9e37_79b9))));
        values
    }

    struct Rounding<'a, T> {
        values: &'a [f32],
        rounded: Vec<T>,
    }

    impl<T: Element> Task for Rounding<'_, T> {
        #[inline(always)]
        fn run<L: Level>(&mut self) {
            let mut rounded = vec![T::zero(); self.values.len()];
            for (rounded, &value) in rounded.iter_mut().zip(self.values) {
                *rounded = T::round(value);
            }
            self.rounded = rounded;
        }
    }

    /// As compiled for the best instruction set, where the loop is vectorised.
    fn rounded<T: Element>(values: &[f32]) -> Vec<T> {
        let mut task = Rounding {
            values,
            rounded: Vec::new(),
        };
        levels::run(&mut task);
        task.rounded
    }

    #[test]
    fn every_float16_and_bfloat16_widens_exactly() {
        for bits in 0..=u16::MAX {
            let (half, brain) = (f16::from_bits(bits), bf16::from_bits(bits));
            for (got, want) in [
                (half.widen(), half.to_f32()),
                (brain.widen(), brain.to_f32()),
            ] {
                // Signalling NaNs may stay so or become quiet.
                let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
                assert!(same, "{bits:#06x} widens to {got:e}, should be {want:e}");
            }
        }
    }

    #[test]
    fn rounding_is_to_nearest_even_through_subnormals_ties_infinity_and_nan() {
        let values = telling_values();
        let (half, brain) = (rounded::<f16>(&values), rounded::<bf16>(&values));
        for ((&value, half), brain) in values.iter().zip(half).zip(brain) {
            let (want_half, want_brain) = (f16::from_f32(value), bf16::from_f32(value));
            assert!(
                half.to_bits() == want_half.to_bits() || (half.is_nan() && want_half.is_nan()),
                "{value:e} rounds to float16 {half:e}, should be {want_half:e}"
            );
            assert!(
                brain.to_bits() == want_brain.to_bits() || (brain.is_nan() && want_brain.is_nan()),
                "{value:e} rounds to bfloat16 {brain:e}, should be {want_brain:e}"
            );
        }
    }
}
