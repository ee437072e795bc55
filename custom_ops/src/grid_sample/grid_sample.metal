// Bilinear sampling of channels-last maps at given places: one thread blends one channel of a sample, or four
// neighbouring ones.

#include <metal_stdlib>
using namespace metal;

// The host's `GridSampleParams`; `channels` and the strides count elements of type V.
struct GridSampleParams {
    uint height;
    uint width;
    uint channels;
    uint places;
    uint batch_stride;
    uint row_stride;
    uint column_stride;
    uint border;
    uint align_corners;
};

// The two pixels of an axis that a place lies between, with their weights; a weight of 0 where there is no pixel.
struct Taps {
    uint low;
    uint high;
    float low_weight;
    float high_weight;
};

inline Taps taps(float place, uint size, bool border, bool align_corners) {
    const float last = float(size - 1);
    // Infinity and NaN are told by their bits: a compiler with fast math may assume that arithmetic meets neither.
    const uint bits = as_type<uint>(place);
    float pixel;
    if ((bits & 0x7fffffffu) < 0x7f800000u) {
        // The limits are far outside of any map, and keep the products finite.
        const float near = clamp(place, -1e27f, 1e27f);
        pixel = align_corners ? (near + 1.0f) * 0.5f * last : ((near + 1.0f) * float(size) - 1.0f) * 0.5f;
        if (border) {
            pixel = clamp(pixel, 0.0f, last);
        }
    } else if (border) {
        pixel = bits == 0x7f800000u ? last : 0.0f;
    } else {
        pixel = -1.0f;
    }
    if (pixel <= -1.0f || pixel >= float(size)) {
        return Taps{0, 0, 0.0f, 0.0f};
    }
    const float low = floor(pixel);
    const float weight = pixel - low;
    const bool has_low = low >= 0.0f;
    const bool has_high = low + 1.0f <= last;
    return Taps{
        has_low ? uint(low) : 0,
        has_high ? uint(low + 1.0f) : 0,
        has_low ? 1.0f - weight : 0.0f,
        has_high ? weight : 0.0f,
    };
}

// `sum + weight * pixel`; what is not seen plays no part, not even if it is not a number.
template <typename V, typename F>
inline F blend(F sum, float weight, device const V* pixel) {
    return weight == 0.0f ? sum : fma(F(weight), F(*pixel), sum);
}

// V is an element of the tensors or a vector of four, F the same in float32. Threads are (places by channels, batch
// entries, 1).
template <typename V, typename F>
[[kernel]] void grid_sample(
    device const V* x [[buffer(0)]],
    device const float* grid [[buffer(1)]],
    device V* out [[buffer(2)]],
    constant GridSampleParams& params [[buffer(3)]],
    uint3 position [[thread_position_in_grid]]
) {
    if (position.x >= params.places * params.channels) {
        return;
    }
    const uint place = position.y * params.places + position.x / params.channels;
    const uint channel = position.x % params.channels;
    const bool border = params.border != 0;
    const bool align_corners = params.align_corners != 0;
    const Taps column = taps(grid[2 * place], params.width, border, align_corners);
    const Taps row = taps(grid[2 * place + 1], params.height, border, align_corners);

    device const V* low = x + position.y * params.batch_stride + channel + row.low * params.row_stride;
    device const V* high = x + position.y * params.batch_stride + channel + row.high * params.row_stride;
    const uint left = column.low * params.column_stride;
    const uint right = column.high * params.column_stride;
    F sum = F(0.0f);
    sum = blend<V, F>(sum, row.low_weight * column.low_weight, low + left);
    sum = blend<V, F>(sum, row.low_weight * column.high_weight, low + right);
    sum = blend<V, F>(sum, row.high_weight * column.low_weight, high + left);
    sum = blend<V, F>(sum, row.high_weight * column.high_weight, high + right);
    out[place * params.channels + channel] = V(sum);
}

template [[host_name("grid_sample_f32")]] [[kernel]] decltype(grid_sample<float, float>) grid_sample<float, float>;
template [[host_name("grid_sample_f32_x4")]] [[kernel]] decltype(grid_sample<float4, float4>) grid_sample<float4, float4>;
template [[host_name("grid_sample_f16")]] [[kernel]] decltype(grid_sample<half, float>) grid_sample<half, float>;
template [[host_name("grid_sample_f16_x4")]] [[kernel]] decltype(grid_sample<half4, float4>) grid_sample<half4, float4>;
#if defined(__HAVE_BFLOAT__)
template [[host_name("grid_sample_bf16")]] [[kernel]] decltype(grid_sample<bfloat, float>) grid_sample<bfloat, float>;
template [[host_name("grid_sample_bf16_x4")]] [[kernel]]
decltype(grid_sample<bfloat4, float4>) grid_sample<bfloat4, float4>;
#endif
