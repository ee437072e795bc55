// Numbers of sixteen bits in C++17.
//
// `half` and `bfloat` are the IEEE half and the upper half of a float: converted exactly, and rounded to the nearest,
// ties to even.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

using uint = std::uint32_t;

inline uint bits_of(float x) {
    uint bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline float float_of(uint bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

struct half {
    std::uint16_t bits;

    half() = default;

    explicit half(float x) {
        const uint magnitude = bits_of(x) & 0x7fffffffu;
        uint rounded;
        if (magnitude > 0x7f800000u) {
            rounded = 0x7e00u;
        } else if (magnitude >= 0x47800000u) {
            rounded = 0x7c00u;
        } else if (magnitude < 0x38800000u) {
            // Below 2^-14 the steps are 2^-24; `nearbyint` rounds ties to even.
            rounded = uint(std::nearbyint(float_of(magnitude) * 16777216.0f));
        } else {
            rounded = (magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
        }
        bits = std::uint16_t(rounded | ((bits_of(x) >> 16) & 0x8000u));
    }

    operator float() const {
        const uint magnitude = bits & 0x7fffu;
        const uint sign = uint(bits & 0x8000u) << 16;
        if (magnitude >= 0x7c00u) return float_of(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
        if (magnitude < 0x400u) return float_of(sign | bits_of(float(magnitude) / 16777216.0f));
        return float_of(sign | ((magnitude << 13) + 0x38000000u));
    }
};

struct bfloat {
    std::uint16_t bits;

    bfloat() = default;

    explicit bfloat(float x) {
        const uint all = bits_of(x);
        const bool nan = (all & 0x7fffffffu) > 0x7f800000u;
        bits = std::uint16_t(nan ? (all >> 16) | 0x40u : (all + 0x7fffu + ((all >> 16) & 1u)) >> 16);
    }

    operator float() const { return float_of(uint(bits) << 16); }
};
