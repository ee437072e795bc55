// As much of CUDA and of our matrix_units.cuh as our kernels use, in C++17, so that they run on a CPU.
//
// The threads of a block are fibers that take turns. What a warp does together waits until all of its 32 lanes have
// come; a lane that does not come is a deadlock, which is reported. Copies into shared memory happen when their thread
// waits for them and not before.

// Guards ours too, which a header beside it would take in.
#ifndef MATRIX_UNITS_CUH
#define MATRIX_UNITS_CUH

#include "../../numbers.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <type_traits>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
// Blocks run one after the other.
#define __shared__ static

struct uint3 {
    unsigned x, y, z;
};

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

struct alignas(8) float2 {
    float x, y;
};

struct alignas(16) float4 {
    float x, y, z, w;
};

inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

using std::isfinite;
using std::min;
using __half = half;
using __nv_bfloat16 = bfloat;

inline float __half2float(__half x) { return x; }
inline __half __float2half_rn(float x) { return __half(x); }
inline float __bfloat162float(__nv_bfloat16 x) { return x; }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }
inline unsigned __float_as_uint(float x) { return bits_of(x); }
inline float __uint_as_float(unsigned x) { return float_of(x); }
inline int __float_as_int(float x) { return int(bits_of(x)); }
inline float __int_as_float(int x) { return float_of(unsigned(x)); }
inline int __vimax3_s32(int a, int b, int c) { return std::max({a, b, c}); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float power_of_two(float x) { return std::exp2(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }

inline unsigned atomicAdd(unsigned *to, unsigned value) {
    const unsigned before = *to;
    *to += value;
    return before;
}

inline unsigned atomicMax(unsigned *to, unsigned value) {
    const unsigned before = *to;
    *to = std::max(before, value);
    return before;
}

inline unsigned atomicCAS(unsigned *to, unsigned expected, unsigned value) {
    const unsigned before = *to;
    if (before == expected) *to = value;
    return before;
}

// Of the thread whose turn it is.
extern uint3 threadIdx, blockIdx, blockDim, gridDim;

#define DYNAMIC_SHARED(NAME) char *const NAME = dynamic_shared

// Of the block that runs, at a multiple of 1024.
extern char *dynamic_shared;

// Ends the turn.
void yield();

// Waits for all threads of the block that have not ended.
void __syncthreads();

// What the lanes of a warp bring to what they do together.
struct Brought {
    const void *row;
    uint32_t a[4], b[2];
    unsigned value;
};

struct Warp {
    // Those of the last two occasions: a lane may be one ahead.
    Brought brought[2][32];
    unsigned arrived = 0, occasions = 0;
};

// The warp of the thread whose turn it is.
Warp &warp();

inline unsigned lane() { return threadIdx.x % 32; }

// Brings something, and returns what all lanes brought.
inline const Brought *together(const Brought &mine) {
    Warp &w = warp();
    const unsigned occasion = w.occasions;
    w.brought[occasion % 2][lane()] = mine;
    if (++w.arrived == 32) {
        w.arrived = 0;
        w.occasions++;
    } else {
        while (w.occasions == occasion) yield();
    }
    return w.brought[occasion % 2];
}

inline void check_mask(unsigned mask) {
    if (mask != 0xffffffffu) std::fprintf(stderr, "a mask of less than all lanes\n"), std::exit(1);
}

template <typename T> T __shfl_xor_sync(unsigned mask, T x, unsigned step) {
    static_assert(sizeof(T) == 4, "a register");
    check_mask(mask);
    Brought mine{};
    std::memcpy(&mine.value, &x, 4);
    const unsigned other = together(mine)[lane() ^ step].value;
    std::memcpy(&x, &other, 4);
    return x;
}

inline unsigned __ballot_sync(unsigned mask, bool is) {
    check_mask(mask);
    Brought mine{};
    mine.value = is;
    const Brought *all = together(mine);
    unsigned ballot = 0;
    for (unsigned i = 0; i < 32; i++) ballot |= all[i].value << i;
    return ballot;
}

struct Copy {
    void *to;
    const void *from;
    bool inside, committed;
};

// Of the thread whose turn it is.
std::vector<Copy> &copies();

// A thread's part of the products of its warpgroup: groups that it has ended, the first of them not done yet, and one
// that it has not ended. They happen when a thread of the warpgroup waits for them and not before.
struct Products {
    std::vector<std::vector<std::function<void()>>> ended;
    std::vector<std::function<void()>> begun;
    std::size_t done = 0;
};

// Of a thread of the block.
Products &products_of(unsigned thread);

inline void copy_async(void *to, const void *from, bool inside) {
    if (reinterpret_cast<std::uintptr_t>(to) % 16 != 0 || reinterpret_cast<std::uintptr_t>(from) % 16 != 0) {
        std::fprintf(stderr, "a copy that is not aligned\n"), std::exit(1);
    }
    copies().push_back({to, from, inside, false});
}

inline void commit_copies() {
    for (Copy &copy : copies()) copy.committed = true;
}

inline void wait_for_copies() {
    std::vector<Copy> left;
    for (const Copy &copy : copies()) {
        if (!copy.committed) {
            left.push_back(copy);
        } else if (copy.inside) {
            std::memcpy(copy.to, copy.from, 16);
        } else {
            std::memset(copy.to, 0, 16);
        }
    }
    copies() = left;
}

template <int N> void load_matrices(uint32_t (&m)[N], const void *row) {
    if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0) std::fprintf(stderr, "a row that is not aligned\n"), std::exit(1);
    Brought mine{};
    mine.row = row;
    const Brought *all = together(mine);
    for (int i = 0; i < N; i++) {
        std::memcpy(&m[i], static_cast<const char *>(all[8 * i + lane() / 4].row) + lane() % 4 * 4, 4);
    }
}

inline float element(uint32_t both, unsigned which) {
    half x;
    x.bits = std::uint16_t(both >> (16 * which));
    return x;
}

// `halves` of eight columns each: registers of the left operand are its upper and its lower matrix of each half.
inline void multiply_add_halves(float (&c)[4], const Brought &mine, unsigned halves) {
    const Brought *all = together(mine);
    const unsigned g = lane() / 4, t = lane() % 4;
    for (unsigned i = 0; i < 4; i++) {
        const unsigned row_half = i / 2, column = 2 * t + i % 2;
        for (unsigned k = 0; k < 8 * halves; k++) {
            const unsigned half = k / 8, quad = k % 8 / 2;
            const float a = element(all[4 * g + quad].a[2 * half + row_half], k % 2);
            const float b = element(all[4 * column + quad].b[half], k % 2);
            c[i] += a * b;
        }
    }
}

template <typename T> void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    static_assert(std::is_same_v<T, __half>, "no other kernel runs here");
    multiply_add_halves(c, {nullptr, {a[0], a[1], a[2], a[3]}, {b0, b1}, 0}, 2);
}

inline void multiply_add(float (&c)[4], const uint32_t (&a)[2], uint32_t b) {
    multiply_add_halves(c, {nullptr, {a[0], a[1], 0, 0}, {b, 0}, 0}, 1);
}

// Operands of float32, of which the units read the bits of TF32.
inline void multiply_add_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const Brought *all = together({nullptr, {a[0], a[1], a[2], a[3]}, {b0, b1}, 0});
    const unsigned g = lane() / 4, t = lane() % 4;
    const auto read = [](uint32_t bits) { return __uint_as_float(bits & ~0x1fffu); };
    for (unsigned i = 0; i < 4; i++) {
        const unsigned row_half = i / 2, column = 2 * t + i % 2;
        for (unsigned k = 0; k < 8; k++) {
            c[i] += read(all[4 * g + k % 4].a[2 * (k / 4) + row_half]) * read(all[4 * column + k % 4].b[k / 4]);
        }
    }
}

template <typename T> uint32_t pair(float low, float high) {
    return uint32_t(T(low).bits) | uint32_t(T(high).bits) << 16;
}

#endif
