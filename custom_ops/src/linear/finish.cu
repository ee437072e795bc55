// activation(product + bias) + residual, in place: each thread takes V neighbouring columns of one row. Every `rows` rows
// have a bias of their own.

#include "element.cuh"
#include "gelu.cuh"

// Activations, as `Activation` counts them.
enum { IDENTITY, RELU, GELU };

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
