// Descriptors and their confidences of tokens that open into pixels, one pixel a thread.

#include <metal_stdlib>
using namespace metal;

// The host's `DescriptorParams`.
struct DescriptorParams {
    uint rows;
    uint columns;
    uint patch;
    // Of a descriptor; one more in a token, its confidence, if `has_confidence`.
    uint channels;
    uint has_confidence;
    uint pixels;
    float floor;
};

// Channel c patch^2 + i patch + j of a token is channel c of its pixel (i, j). Descriptors of unit length come first in
// `out`, then confidences.
template <typename V>
[[kernel]] void descriptor_maps(
    device const V* tokens [[buffer(0)]],
    device V* out [[buffer(1)]],
    constant DescriptorParams& params [[buffer(2)]],
    uint3 position [[thread_position_in_grid]]
) {
    const uint pixel = position.x;
    if (pixel >= params.pixels) {
        return;
    }
    const uint patch = params.patch;
    const uint width = params.columns * patch;
    const uint height = params.rows * patch;
    const uint x = pixel % width;
    const uint y = pixel / width % height;
    const uint token = (pixel / width / height * params.rows + y / patch) * params.columns + x / patch;
    const uint area = patch * patch;
    device const V* from =
        tokens + token * (params.channels + params.has_confidence) * area + y % patch * patch + x % patch;

    V squares = 0.0f;
    for (uint channel = 0; channel < params.channels; channel++) {
        const V value = from[channel * area];
        squares = fma(value, value, squares);
    }
    const V length = sqrt(squares);
    device V* to = out + pixel * params.channels;
    for (uint channel = 0; channel < params.channels; channel++) {
        to[channel] = from[channel * area] / length;
    }
    if (params.has_confidence != 0) {
        out[params.pixels * params.channels + pixel] = exp(from[params.channels * area]) + params.floor;
    }
}

template [[host_name("descriptor_maps_f32")]] [[kernel]] decltype(descriptor_maps<float>) descriptor_maps<float>;
