// Bilinear sampling of channels-last maps at given places: each thread blends V neighbouring channels of one place.

#include "element.cuh"

struct GridSampleParams {
    unsigned height, width, channels, places;
    unsigned batch_stride, row_stride, column_stride;
    unsigned border, align_corners;
};
static_assert(sizeof(GridSampleParams) == 36, "as the host has it");

struct Taps {
    unsigned low, high;
    // 0 for a pixel outside.
    float low_weight, high_weight;
};

__device__ __forceinline__ Taps taps(float place, unsigned size, bool border, bool align_corners) {
    const float last = float(size - 1);
    float pixel = align_corners ? (place + 1.f) / 2.f * last : ((place + 1.f) * size - 1.f) / 2.f;
    // fmaxf turns what is not a number into 0.
    if (border) pixel = fminf(fmaxf(pixel, 0.f), last);
    if (!(pixel > -1.f && pixel < float(size))) return {0, 0, 0.f, 0.f};
    const float low = floorf(pixel), weight = pixel - low;
    const bool low_inside = low >= 0.f, high_inside = low + 1.f <= last;
    return {low_inside ? unsigned(low) : 0, high_inside ? unsigned(low + 1.f) : 0, low_inside ? 1.f - weight : 0.f,
            high_inside ? weight : 0.f};
}

template <typename T, int V>
__device__ __forceinline__ void add(float (&sum)[V], const T *pixel, float weight) {
    // A pixel of no weight may hold anything, also what is not a number.
    if (weight == 0.f) return;
    float values[V];
    load<T, V>(values, pixel);
#pragma unroll
    for (int i = 0; i < V; i++) sum[i] += weight * values[i];
}

template <typename T, int V>
__device__ void sample(T *out, const T *x, const float *grid, GridSampleParams p, unsigned count) {
    const unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    const unsigned pieces = p.channels / V;
    const unsigned place = index / pieces;
    const float2 at = reinterpret_cast<const float2 *>(grid)[place];
    const Taps columns = taps(at.x, p.width, p.border, p.align_corners);
    const Taps rows = taps(at.y, p.height, p.border, p.align_corners);
    const T *map = x + size_t(place / p.places) * p.batch_stride + index % pieces * V;
    const T *low = map + rows.low * p.row_stride, *high = map + rows.high * p.row_stride;
    const unsigned left = columns.low * p.column_stride, right = columns.high * p.column_stride;

    float sum[V] = {};
    add<T, V>(sum, low + left, rows.low_weight * columns.low_weight);
    add<T, V>(sum, low + right, rows.low_weight * columns.high_weight);
    add<T, V>(sum, high + left, rows.high_weight * columns.low_weight);
    add<T, V>(sum, high + right, rows.high_weight * columns.high_weight);
    store<T, V>(out + size_t(index) * V, sum);
}

#define GRID_SAMPLE(NAME, T, V)                                                                                        \
    extern "C" __global__ void grid_sample_##NAME(T *out, const T *x, const float *grid, GridSampleParams params,      \
                                                  unsigned count) {                                                    \
        sample<T, V>(out, x, grid, params, count);                                                                     \
    }
FOR_EACH_DTYPE(GRID_SAMPLE)
