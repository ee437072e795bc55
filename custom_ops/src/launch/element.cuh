// Elements of the three dtypes, read and written as float32, one or a whole 16-byte vector at a time.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T> __device__ __forceinline__ T rounded(float x);
template <> __device__ __forceinline__ float rounded<float>(float x) { return x; }
// Numbers beyond the largest become the largest; what is not a number stays so.
template <> __device__ __forceinline__ __half rounded<__half>(float x) {
    return __float2half_rn(x > 65504.f ? 65504.f : x < -65504.f ? -65504.f : x);
}
template <> __device__ __forceinline__ __nv_bfloat16 rounded<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

// V neighbouring elements; aligned so that they travel as one access of up to 16 bytes.
template <typename T, int V> struct alignas(sizeof(T) * V) Vector {
    T values[V];
};

template <typename T, int V> __device__ __forceinline__ void load(float (&to)[V], const T *from) {
    const auto vector = *reinterpret_cast<const Vector<T, V> *>(from);
#pragma unroll
    for (int i = 0; i < V; i++) to[i] = widen(vector.values[i]);
}

template <typename T, int V> __device__ __forceinline__ void store(T *to, const float (&from)[V]) {
    Vector<T, V> vector;
#pragma unroll
    for (int i = 0; i < V; i++) vector.values[i] = rounded<T>(from[i]);
    *reinterpret_cast<Vector<T, V> *>(to) = vector;
}

// One kernel per dtype, and per width: `name_f32` for single elements, `name_f32_vector` for 16 bytes at a time.
#define FOR_EACH_DTYPE(KERNEL)                                                                                         \
    KERNEL(f32, float, 1)                                                                                              \
    KERNEL(f16, __half, 1)                                                                                             \
    KERNEL(bf16, __nv_bfloat16, 1)                                                                                     \
    KERNEL(f32_vector, float, 4)                                                                                       \
    KERNEL(f16_vector, __half, 8)                                                                                      \
    KERNEL(bf16_vector, __nv_bfloat16, 8)
