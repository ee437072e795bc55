// The exact (erf) form of GELU.

#pragma once

#include <type_traits>

// For results in T. In half precision erf is formula 7.1.26 of Abramowitz and Stegun, whose error of 1.5e-7 a rounding
// hides: a reciprocal and an exponential in place of a longer polynomial.
template <typename T> __device__ __forceinline__ float gelu(float x) {
    if constexpr (std::is_same<T, float>::value) {
        return 0.5f * x * (1.f + erff(x * 0.70710678118654752f));
    } else {
        const float size = fabsf(x), t = __fdividef(1.f, fmaf(0.3275911f * 0.70710678118654752f, size, 1.f));
        float rest = fmaf(1.061405429f, t, -1.453152027f);
        rest = fmaf(rest, t, 1.421413741f);
        rest = fmaf(rest, t, -0.284496736f);
        rest = fmaf(rest, t, 0.254829592f);
        // 1 - erf of the size; exp(-x^2 / 2) as a power of 2.
        rest *= t * exp2f(x * x * -0.72134752044448170f);
        // Of infinity, which would be multiplied by zero.
        const float lost = rest > 0.f ? 0.5f * size * rest : 0.f;
        return x != x ? x : fmaxf(x, 0.f) - lost;
    }
}
