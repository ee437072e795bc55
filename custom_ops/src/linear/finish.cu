// activation(product + bias) + residual, in place: each thread takes V neighbouring columns of one row. Every `rows` rows
// have a bias of their own.

#include "element.cuh"

#include <type_traits>

// Activations, as `Activation` counts them.
enum { IDENTITY, RELU, GELU };

// The exact (erf) form, for results in T. In half precision erf is formula 7.1.26 of Abramowitz and Stegun, whose error of
// 1.5e-7 a rounding hides: a reciprocal and an exponential in place of a longer polynomial.
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

template <typename T> __device__ __forceinline__ float activated(float x, unsigned activation) {
    if (activation == RELU) return fmaxf(x, 0.f);
    if (activation == GELU) return gelu<T>(x);
    return x;
}

template <typename T, int V>
__device__ void finish(T *product, const T *bias, const T *residual, unsigned columns, unsigned rows,
                       unsigned activation, unsigned has_bias, unsigned has_residual, unsigned count) {
    const unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    T *at = product + size_t(index) * V;
    float x[V], added[V];
    load<T, V>(x, at);
    if (has_bias) {
        const unsigned pieces = columns / V, part = index / pieces / rows;
        load<T, V>(added, bias + (part * pieces + index % pieces) * V);
#pragma unroll
        for (int i = 0; i < V; i++) x[i] += added[i];
    }
#pragma unroll
    for (int i = 0; i < V; i++) x[i] = activated<T>(x[i], activation);
    if (has_residual) {
        load<T, V>(added, residual + size_t(index) * V);
#pragma unroll
        for (int i = 0; i < V; i++) x[i] += added[i];
    }
    store<T, V>(at, x);
}

#define FINISH(NAME, T, V)                                                                                             \
    extern "C" __global__ void finish_##NAME(T *product, const T *bias, const T *residual, unsigned columns,           \
                                             unsigned rows, unsigned activation, unsigned has_bias,                    \
                                             unsigned has_residual, unsigned count) {                                  \
        finish<T, V>(product, bias, residual, columns, rows, activation, has_bias, has_residual, count);               \
    }
FOR_EACH_DTYPE(FINISH)
