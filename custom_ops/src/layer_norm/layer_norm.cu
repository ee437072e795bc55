// Layer normalisation: one warp a row; mean, then variance about it, in float32. Every `part` rows have a scale and a
// shift of their own; row r is made of row r + turn, counted around.

#include "element.cuh"

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffff, x, lane);
    return x;
}

// Vectors of a row that a lane keeps.
constexpr int KEPT = 4;

template <typename T, int V>
__device__ void layer_norm(T *__restrict__ out, const T *__restrict__ x, const float *__restrict__ scale,
                           const float *__restrict__ shift, unsigned columns, float eps, unsigned rows, unsigned part,
                           unsigned turn) {
    const unsigned row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    const T *from = x + size_t((row + turn) % rows) * columns;
    scale += row / part * columns;
    shift += row / part * columns;
    T *to = out + size_t(row) * columns;
    // Of a row that is not longer, nothing is read twice, and nothing is waited for after the sums.
    float kept[KEPT][V], scales[KEPT][V], shifts[KEPT][V], values[V], sum = 0.f, squares = 0.f;
    const unsigned rest = KEPT * 32 * V + lane * V;
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const unsigned i = (32 * k + lane) * V;
        if (i >= columns) continue;
        load<T, V>(kept[k], from + i);
        load<float, V>(scales[k], scale + i);
        load<float, V>(shifts[k], shift + i);
    }
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        if ((32 * k + lane) * V >= columns) continue;
#pragma unroll
        for (int j = 0; j < V; j++) sum += kept[k][j];
    }
    for (unsigned i = rest; i < columns; i += 32 * V) {
        load<T, V>(values, from + i);
#pragma unroll
        for (int j = 0; j < V; j++) sum += values[j];
    }
    const float mean = warp_sum(sum) / columns;
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        if ((32 * k + lane) * V >= columns) continue;
#pragma unroll
        for (int j = 0; j < V; j++) squares += (kept[k][j] - mean) * (kept[k][j] - mean);
    }
    for (unsigned i = rest; i < columns; i += 32 * V) {
        load<T, V>(values, from + i);
#pragma unroll
        for (int j = 0; j < V; j++) squares += (values[j] - mean) * (values[j] - mean);
    }
    const float inverse = rsqrtf(warp_sum(squares) / columns + eps);
    const auto finish = [&](float(&x)[V], const float(&scales)[V], const float(&shifts)[V], unsigned i) {
#pragma unroll
        for (int j = 0; j < V; j++) x[j] = (x[j] - mean) * inverse * scales[j] + shifts[j];
        store<T, V>(to + i, x);
    };
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const unsigned i = (32 * k + lane) * V;
        if (i < columns) finish(kept[k], scales[k], shifts[k], i);
    }
    for (unsigned i = rest; i < columns; i += 32 * V) {
        load<T, V>(values, from + i);
        load<float, V>(scales[0], scale + i);
        load<float, V>(shifts[0], shift + i);
        finish(values, scales[0], shifts[0], i);
    }
}

#define LAYER_NORM(NAME, T, V)                                                                                         \
    extern "C" __global__ void layer_norm_##NAME(T *out, const T *x, const float *scale, const float *shift,           \
                                                 unsigned columns, float eps, unsigned rows, unsigned part,            \
                                                 unsigned turn) {                                                      \
        layer_norm<T, V>(out, x, scale, shift, columns, eps, rows, part, turn);                                        \
    }
FOR_EACH_DTYPE(LAYER_NORM)
