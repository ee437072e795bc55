// Our split.cuh without the instruction that rounds to TF32.
#pragma once

#include "matrix_units.cuh"

struct SplitNumber {
    uint32_t high, low;
};

inline SplitNumber split(float x) {
    // Of two equally near numbers the larger in size.
    const uint32_t high = (__float_as_uint(x) + 0x1000u) & ~0x1fffu;
    const float left = x - __uint_as_float(high);
    return {high, isfinite(left) ? __float_as_uint(left) : 0u};
}
