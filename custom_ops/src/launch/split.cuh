// Float32 numbers as sums of two numbers of TF32, which has 10 bits of mantissa: for products on the matrix units.
#pragma once

#include <stdint.h>

// What a number is the sum of, as bits; of the low part the units read 10 bits of mantissa too.
struct SplitNumber {
    uint32_t high, low;
};

// The nearest number of TF32, and what it leaves.
__device__ __forceinline__ SplitNumber split(float x) {
    SplitNumber s;
    asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(s.high) : "f"(x));
    // Of infinity nothing is left.
    const float left = x - __uint_as_float(s.high);
    s.low = isfinite(left) ? __float_as_uint(left) : 0u;
    return s;
}
