// Rotary embedding over a grid: each thread rotates V neighbouring pairs of channels, (j, j + dim / 4) of one half.
// With `norms` a layer norm over each head's channels comes first: its 2 quarter / V threads are neighbours in a warp.

#include "element.cuh"

struct RopeParams {
    unsigned tokens, heads, quarter;
    unsigned batch_stride, token_stride, head_stride;
    unsigned second_batch_stride, second_token_stride, second_head_stride;
};
static_assert(sizeof(RopeParams) == 36, "as the host has it");

// The sum of `x` over the `threads` neighbours, a power of two, that this thread is one of.
__device__ __forceinline__ float sum_of(float x, unsigned threads) {
    const unsigned lane = threadIdx.x % 32;
    const unsigned those = (threads == 32 ? 0xffffffff : (1u << threads) - 1) << lane / threads * threads;
    for (unsigned far = threads / 2; far > 0; far /= 2) x += __shfl_xor_sync(those, x, far);
    return x;
}

// `count` threads cover one source; blockIdx.y is the source. The table is (2, tokens, 2 quarter): cosines, then sines;
// `norms` is (sources, 2, 4 quarter): scales, then shifts.
template <typename T, int V>
__device__ void rope(T *out, const T *first, const T *second, const float *table, RopeParams p, unsigned count,
                     const float *norms, float eps) {
    const unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    const unsigned pieces = p.quarter / V;
    const unsigned j = index % pieces * V;
    const unsigned half = index / pieces % 2;
    const unsigned head = index / (2 * pieces) % p.heads;
    const unsigned token = index / (2 * pieces * p.heads) % p.tokens;
    const unsigned batch = index / (2 * pieces * p.heads) / p.tokens;

    const bool is_first = blockIdx.y == 0;
    const T *from = is_first ? first + size_t(batch) * p.batch_stride + token * p.token_stride + head * p.head_stride
                             : second + size_t(batch) * p.second_batch_stride + token * p.second_token_stride +
                                   head * p.second_head_stride;
    const unsigned channel = half * 2 * p.quarter + j;
    const unsigned row = ((blockIdx.y * (count / (2 * pieces)) + index / (2 * pieces))) * 4 * p.quarter;
    const float *cosines = table + size_t(token) * 2 * p.quarter + half * p.quarter + j;
    const float *sines = cosines + size_t(p.tokens) * 2 * p.quarter;

    float a[V], b[V], c[V], s[V], rotated_a[V], rotated_b[V];
    load<T, V>(a, from + channel);
    load<T, V>(b, from + channel + p.quarter);
    load<float, V>(c, cosines);
    load<float, V>(s, sines);
    if (norms) {
        const float *scales = norms + blockIdx.y * 8 * p.quarter + channel, *shifts = scales + 4 * p.quarter;
        float sum = 0.f, squares = 0.f;
#pragma unroll
        for (int i = 0; i < V; i++) sum += a[i] + b[i];
        const float mean = sum_of(sum, 2 * pieces) / (4 * p.quarter);
#pragma unroll
        for (int i = 0; i < V; i++) squares += (a[i] - mean) * (a[i] - mean) + (b[i] - mean) * (b[i] - mean);
        const float inverse = rsqrtf(sum_of(squares, 2 * pieces) / (4 * p.quarter) + eps);
#pragma unroll
        for (int i = 0; i < V; i++) {
            a[i] = (a[i] - mean) * inverse * scales[i] + shifts[i];
            b[i] = (b[i] - mean) * inverse * scales[i + p.quarter] + shifts[i + p.quarter];
        }
    }
#pragma unroll
    for (int i = 0; i < V; i++) {
        rotated_a[i] = a[i] * c[i] - b[i] * s[i];
        rotated_b[i] = b[i] * c[i] + a[i] * s[i];
    }
    store<T, V>(out + size_t(row) + channel, rotated_a);
    store<T, V>(out + size_t(row) + channel + p.quarter, rotated_b);
}

#define ROPE(NAME, T, V)                                                                                               \
    extern "C" __global__ void rope2d_##NAME(T *out, const T *first, const T *second, const float *table,              \
                                             RopeParams params, unsigned count, const float *norms, float eps) {       \
        rope<T, V>(out, first, second, table, params, count, norms, eps);                                              \
    }
FOR_EACH_DTYPE(ROPE)
