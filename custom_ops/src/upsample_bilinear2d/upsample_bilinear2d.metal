// Bilinear resampling of channels-last maps: one thread blends one channel of a target pixel, or four neighbouring ones.

#include <metal_stdlib>
using namespace metal;

// The host's `UpsampleParams`; `channels` and the strides count elements of type V.
struct UpsampleParams {
    uint height;
    uint width;
    uint channels;
    uint to_height;
    uint to_width;
    uint batch_stride;
    uint row_stride;
    uint column_stride;
    uint align_corners;
    float row_step;
    float column_step;
};

// The two source indices of a target index and the second one's weight.
struct Taps {
    uint low;
    uint high;
    float weight;
};

inline Taps taps(uint target, uint size, float step, bool align_corners) {
    const float source = align_corners ? float(target) * step : max((float(target) + 0.5f) * step - 0.5f, 0.0f);
    const uint low = min(uint(source), size - 1);
    return Taps{low, min(low + 1, size - 1), source - float(low)};
}

// V is an element of the tensors or a vector of four, F the same in float32. Threads are (columns by channels, rows,
// batch entries) of the target.
template <typename V, typename F>
[[kernel]] void upsample_bilinear2d(
    device const V* x [[buffer(0)]],
    device V* out [[buffer(1)]],
    constant UpsampleParams& params [[buffer(2)]],
    uint3 position [[thread_position_in_grid]]
) {
    if (position.x >= params.to_width * params.channels) {
        return;
    }
    const bool align_corners = params.align_corners != 0;
    const Taps row = taps(position.y, params.height, params.row_step, align_corners);
    const Taps column =
        taps(position.x / params.channels, params.width, params.column_step, align_corners);

    device const V* image = x + position.z * params.batch_stride + position.x % params.channels;
    device const V* low = image + row.low * params.row_stride;
    device const V* high = image + row.high * params.row_stride;
    const uint left = column.low * params.column_stride;
    const uint right = column.high * params.column_stride;

    const F up = F(1.0f - row.weight);
    const F down = F(row.weight);
    const F at_left = fma(up, F(low[left]), down * F(high[left]));
    const F at_right = fma(up, F(low[right]), down * F(high[right]));
    const F blended = fma(F(1.0f - column.weight), at_left, F(column.weight) * at_right);
    out[(position.z * params.to_height + position.y) * params.to_width * params.channels + position.x] = V(blended);
}

template [[host_name("upsample_bilinear2d_f32")]] [[kernel]]
decltype(upsample_bilinear2d<float, float>) upsample_bilinear2d<float, float>;
template [[host_name("upsample_bilinear2d_f32_x4")]] [[kernel]]
decltype(upsample_bilinear2d<float4, float4>) upsample_bilinear2d<float4, float4>;
template [[host_name("upsample_bilinear2d_f16")]] [[kernel]]
decltype(upsample_bilinear2d<half, float>) upsample_bilinear2d<half, float>;
template [[host_name("upsample_bilinear2d_f16_x4")]] [[kernel]]
decltype(upsample_bilinear2d<half4, float4>) upsample_bilinear2d<half4, float4>;
#if defined(__HAVE_BFLOAT__)
template [[host_name("upsample_bilinear2d_bf16")]] [[kernel]]
decltype(upsample_bilinear2d<bfloat, float>) upsample_bilinear2d<bfloat, float>;
template [[host_name("upsample_bilinear2d_bf16_x4")]] [[kernel]]
decltype(upsample_bilinear2d<bfloat4, float4>) upsample_bilinear2d<bfloat4, float4>;
#endif
