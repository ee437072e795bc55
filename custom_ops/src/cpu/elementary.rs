//! Elementary functions in float32, written so that loops over them vectorise.

use super::levels::Level;

/// `e^x` for `x <= 0` down to underflow and up to overflow of float32; relative error under 2e-7.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, then the Taylor polynomial of degree 7 of `e^r` times
/// `2^n`.
#[inline(always)]
pub(crate) fn exp<L: Level>(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.; // 1.5 * 2^23: adding it rounds to an integer in the low bits
    let x = x.clamp(-87., 88.);
    let shifted = L::mul_add(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 in two parts, the first exact in products with small integers.
    let r = L::mul_add(n, -0.693_359_4, x);
    let r = L::mul_add(n, 2.121_944_4e-4, r);
    let mut p = 1. / 5040.;
    for c in [1. / 720., 1. / 120., 1. / 24., 1. / 6., 0.5, 1., 1.] {
        p = L::mul_add(p, r, c);
    }
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    p * scale
}

/// `2^x` for `x <= 0` down to underflow, for results that are rounded to bfloat16: relative error
/// under 6e-5.
///
/// `x = n + f` with `|f| <= 1/2`, then the Taylor polynomial of degree 4 of `2^f` times `2^n`.
#[inline(always)]
pub(crate) fn exp2<L: Level>(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.; // 1.5 * 2^23: adding it rounds to an integer in the low bits
    let x = x.max(-126.);
    let shifted = x + ROUND;
    let f = x - (shifted - ROUND);
    let mut p = 9.618_129e-3;
    for c in [5.550_411e-2, 0.240_226_5, std::f32::consts::LN_2, 1.] {
        p = L::mul_add(p, f, c);
    }
    p * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// The error function; absolute error under 4e-7.
///
/// `x P(x^2) / Q(x^2)` on `|x| <= 3.92`, fitted to relative error 2e-8 in exact arithmetic; beyond,
/// `erf` is 1 to within half a unit in the last place.
#[inline(always)]
pub(crate) fn erf<L: Level>(x: f32) -> f32 {
    const P: [f32; 6] = [
        2.0501735e-6,
        2.848726e-4,
        3.7651525e-3,
        5.2747287e-2,
        0.1903956,
        std::f32::consts::FRAC_2_SQRT_PI,
    ];
    const Q: [f32; 6] = [
        3.8092082e-5,
        1.1624236e-3,
        1.4968285e-2,
        0.11410462,
        0.50206643,
        1.,
    ];
    let x = x.clamp(-3.92, 3.92);
    let s = x * x;
    let (mut p, mut q) = (P[0], Q[0]);
    for i in 1..6 {
        p = L::mul_add(p, s, P[i]);
        q = L::mul_add(q, s, Q[i]);
    }
    x * p / q
}

/// The exact (erf) form of GELU.
#[inline(always)]
pub(crate) fn gelu<L: Level>(x: f32) -> f32 {
    let half = 0.5 * x;
    L::mul_add(half, erf::<L>(x * std::f32::consts::FRAC_1_SQRT_2), half)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::levels::Portable;

    #[test]
    fn exp_is_accurate_from_underflow_to_overflow() {
        for i in -8600..8700 {
            let x = i as f32 * 0.01;
            let (got, want) = (f64::from(exp::<Portable>(x)), f64::from(x).exp());
            assert!(
                (got / want - 1.).abs() < 4e-7,
                "exp({x}) = {got}, should be {want}"
            );
        }
        assert_eq!(exp::<Portable>(0.), 1.);
    }

    #[test]
    fn exp2_is_accurate_for_bfloat16() {
        for i in 0..12500 {
            let x = i as f32 * -0.01;
            let (got, want) = (f64::from(exp2::<Portable>(x)), f64::from(x).exp2());
            assert!(
                (got / want - 1.).abs() < 6e-5,
                "2^{x} = {got}, should be {want}"
            );
        }
        assert!(exp2::<Portable>(f32::NEG_INFINITY) < 2e-38);
    }

    #[test]
    fn erf_is_odd_and_saturates() {
        assert_eq!(erf::<Portable>(0.), 0.);
        assert!((erf::<Portable>(1.) - 0.842_700_8).abs() < 4e-7);
        assert!((erf::<Portable>(-0.5) + 0.520_499_9).abs() < 4e-7);
        assert!((erf::<Portable>(30.) - 1.).abs() < 4e-7);
        assert!((erf::<Portable>(2.5) - 0.999_593).abs() < 4e-7);
    }
}
