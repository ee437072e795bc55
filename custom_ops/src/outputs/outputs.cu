// A head's last numbers to its maps, one pixel a thread.

#include "element.cuh"

// `geometry` has x, y, z and a raw confidence for each of `pixels`; points come first in `out`, then confidences.
extern "C" __global__ void geometry_maps(float *out, const float *geometry, unsigned pixels) {
    const unsigned pixel = blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel >= pixels) return;
    const float4 raw = reinterpret_cast<const float4 *>(geometry)[pixel];
    const float distance = sqrtf(raw.x * raw.x + raw.y * raw.y + raw.z * raw.z);
    const float scale = expm1f(distance) / fmaxf(distance, 1e-8f);
    float *point = out + size_t(pixel) * 3;
    point[0] = raw.x * scale;
    point[1] = raw.y * scale;
    point[2] = raw.z * scale;
    out[size_t(pixels) * 3 + pixel] = expf(raw.w) + 1.f;
}

struct DescriptorParams {
    unsigned rows, columns, patch;
    // Of a descriptor; one more in a token, its confidence, if `has_confidence`.
    unsigned channels, has_confidence;
    float floor;
};
static_assert(sizeof(DescriptorParams) == 24, "as the host has it");

constexpr unsigned STAGED_PIXELS = 256, STAGED_CHANNELS = 32;

// A pixel's confidence to `out`, its raw descriptor to `to` and the length of that to `lengths`; to `out` as it should be
// if there is no `to`.
__device__ __forceinline__ void describe(float *to, float *lengths, float *out, const float *tokens,
                                         const DescriptorParams &p, unsigned pixel, unsigned pixels) {
    const unsigned width = p.columns * p.patch, height = p.rows * p.patch;
    const unsigned x = pixel % width, y = pixel / width % height, batch = pixel / width / height;
    const unsigned token = (batch * p.rows + y / p.patch) * p.columns + x / p.patch;
    const unsigned area = p.patch * p.patch;
    const float *from =
        tokens + size_t(token) * (p.channels + p.has_confidence) * area + y % p.patch * p.patch + x % p.patch;
    float squares = 0.f;
    for (unsigned channel = 0; channel < p.channels; channel++) {
        const float value = from[size_t(channel) * area];
        squares += value * value;
        if (to) to[channel] = value;
    }
    const float length = sqrtf(squares);
    if (to) {
        lengths[threadIdx.x] = length;
    } else {
        for (unsigned channel = 0; channel < p.channels; channel++) {
            out[size_t(pixel) * p.channels + channel] = from[size_t(channel) * area] / length;
        }
    }
    if (p.has_confidence) {
        out[size_t(pixels) * p.channels + pixel] = expf(from[size_t(p.channels) * area]) + p.floor;
    }
}

// Channel c patch^2 + i patch + j of a token is channel c of its pixel (i, j). Descriptors of unit length come first in
// `out`, then confidences.
extern "C" __global__ void descriptor_maps(float *out, const float *tokens, DescriptorParams p, unsigned pixels) {
    __shared__ float staged[STAGED_PIXELS * (STAGED_CHANNELS + 1)], lengths[STAGED_PIXELS];
    const unsigned first = blockIdx.x * blockDim.x, pixel = first + threadIdx.x;
    const bool is_staged = p.channels <= STAGED_CHANNELS && blockDim.x <= STAGED_PIXELS;
    // An odd distance between pixels: threads side by side do not meet in a bank.
    const unsigned distance = p.channels | 1;
    if (pixel < pixels) {
        describe(is_staged ? staged + threadIdx.x * distance : nullptr, lengths, out, tokens, p, pixel, pixels);
    }
    if (!is_staged) return;
    __syncthreads();
    // Numbers side by side by threads side by side.
    const unsigned numbers = min(blockDim.x, pixels - first) * p.channels;
    for (unsigned i = threadIdx.x; i < numbers; i += blockDim.x) {
        const unsigned of = i / p.channels;
        out[size_t(first) * p.channels + i] = staged[of * distance + i % p.channels] / lengths[of];
    }
}
