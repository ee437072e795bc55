// Layer normalisation: one warp a row; mean, then variance about it, in float32.

#include "element.cuh"

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffff, x, lane);
    return x;
}

template <typename T, int V>
__device__ void layer_norm(T *out, const T *x, const float *scale, const float *shift, unsigned columns, float eps,
                           unsigned rows) {
    const unsigned row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    const T *from = x + size_t(row) * columns;
    T *to = out + size_t(row) * columns;
    float values[V], sum = 0.f, squares = 0.f;
    for (unsigned i = lane * V; i < columns; i += 32 * V) {
        load<T, V>(values, from + i);
#pragma unroll
        for (int j = 0; j < V; j++) sum += values[j];
    }
    const float mean = warp_sum(sum) / columns;
    for (unsigned i = lane * V; i < columns; i += 32 * V) {
        load<T, V>(values, from + i);
#pragma unroll
        for (int j = 0; j < V; j++) squares += (values[j] - mean) * (values[j] - mean);
    }
    const float inverse = rsqrtf(warp_sum(squares) / columns + eps);
    for (unsigned i = lane * V; i < columns; i += 32 * V) {
        load<T, V>(values, from + i);
#pragma unroll
        for (int j = 0; j < V; j++) values[j] = (values[j] - mean) * inverse * scale[i + j] + shift[i + j];
        store<T, V>(to + i, values);
    }
}

#define LAYER_NORM(NAME, T, V)                                                                                         \
    extern "C" __global__ void layer_norm_##NAME(T *out, const T *x, const float *scale, const float *shift,           \
                                                 unsigned columns, float eps, unsigned rows) {                         \
        layer_norm<T, V>(out, x, scale, shift, columns, eps, rows);                                                    \
    }
FOR_EACH_DTYPE(LAYER_NORM)
