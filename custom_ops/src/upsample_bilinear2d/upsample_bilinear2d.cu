// Bilinear resampling of channels-last maps: each thread blends V neighbouring channels of one target pixel, and adds
// those of `base`, one map for the whole batch, if there is one.

#include "element.cuh"

struct UpsampleParams {
    unsigned height, width, channels, to_height, to_width;
    unsigned batch_stride, row_stride, column_stride;
    unsigned align_corners;
    float row_step, column_step;
};
static_assert(sizeof(UpsampleParams) == 44, "as the host has it");

struct Taps {
    unsigned low, high;
    float weight;
};

__device__ __forceinline__ Taps taps(unsigned target, unsigned size, float step, bool align_corners) {
    const float source = align_corners ? target * step : fmaxf((target + 0.5f) * step - 0.5f, 0.f);
    const unsigned low = min(unsigned(source), size - 1);
    return {low, min(low + 1, size - 1), source - low};
}

template <typename T, int V>
__device__ void upsample(T *out, const T *x, UpsampleParams p, unsigned count, const T *base) {
    const unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    const unsigned pieces = p.channels / V;
    const unsigned channel = index % pieces * V;
    const unsigned pixel = index / pieces;
    const unsigned column = pixel % p.to_width;
    const unsigned row = pixel / p.to_width % p.to_height;
    const unsigned batch = pixel / p.to_width / p.to_height;

    const Taps y = taps(row, p.height, p.row_step, p.align_corners);
    const Taps x_taps = taps(column, p.width, p.column_step, p.align_corners);
    const T *map = x + size_t(batch) * p.batch_stride + channel;
    const T *low = map + y.low * p.row_stride, *high = map + y.high * p.row_stride;
    const unsigned left = x_taps.low * p.column_stride, right = x_taps.high * p.column_stride;

    float a[V], b[V], c[V], d[V], blended[V];
    load<T, V>(a, low + left);
    load<T, V>(b, low + right);
    load<T, V>(c, high + left);
    load<T, V>(d, high + right);
#pragma unroll
    for (int i = 0; i < V; i++) {
        const float at_left = (1.f - y.weight) * a[i] + y.weight * c[i];
        const float at_right = (1.f - y.weight) * b[i] + y.weight * d[i];
        blended[i] = (1.f - x_taps.weight) * at_left + x_taps.weight * at_right;
    }
    if (base) {
        float added[V];
        load<T, V>(added, base + (pixel - batch * p.to_width * p.to_height) * p.channels + channel);
#pragma unroll
        for (int i = 0; i < V; i++) blended[i] += added[i];
    }
    store<T, V>(out + size_t(index) * V, blended);
}

#define UPSAMPLE(NAME, T, V)                                                                                           \
    extern "C" __global__ void upsample_bilinear2d_##NAME(T *out, const T *x, UpsampleParams params, unsigned count,   \
                                                          const T *base) {                                             \
        upsample<T, V>(out, x, params, count, base);                                                                   \
    }
FOR_EACH_DTYPE(UPSAMPLE)
