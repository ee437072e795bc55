// The nine taps of a 3x3 convolution side by side, zeros outside the image: one thread moves one channel of one tap of
// a pixel, or four neighbouring ones.

#include <metal_stdlib>
using namespace metal;

// The host's `TapsParams`; `channels` counts elements of type V.
struct TapsParams {
    uint height;
    uint width;
    uint channels;
    uint first_row;
    // From one pixel and one row to the next.
    uint step;
    uint relu;
};

// V is an element of the tensors or a vector of four, F the same in float32. Threads are (columns by taps by channels,
// rows, 1) of the result; rows run through the whole batch, and a row's place in its own image tells the edges.
template <typename V, typename F>
[[kernel]] void taps3x3(
    device const V* x [[buffer(0)]],
    device V* out [[buffer(1)]],
    constant TapsParams& params [[buffer(2)]],
    uint3 position [[thread_position_in_grid]]
) {
    const uint pixel_length = 9 * params.channels;
    const uint columns = (params.width + params.step - 1) / params.step;
    const uint rows = (params.height + params.step - 1) / params.step;
    if (position.x >= columns * pixel_length) {
        return;
    }
    const uint channel = position.x % params.channels;
    const uint tap = position.x % pixel_length / params.channels;
    const uint batch_row = params.first_row + position.y;
    // One before the first wraps around to the largest number.
    const uint column = position.x / pixel_length * params.step + tap % 3 - 1;
    const uint row = batch_row % rows * params.step + tap / 3 - 1;
    V value = V(F(0.0f));
    if (row < params.height && column < params.width) {
        const uint from = batch_row / rows * params.height + row;
        value = x[(from * params.width + column) * params.channels + channel];
        if (params.relu != 0) {
            value = V(max(F(value), F(0.0f)));
        }
    }
    out[position.y * columns * pixel_length + position.x] = value;
}

template [[host_name("taps3x3_f32")]] [[kernel]] decltype(taps3x3<float, float>) taps3x3<float, float>;
template [[host_name("taps3x3_f32_x4")]] [[kernel]] decltype(taps3x3<float4, float4>) taps3x3<float4, float4>;
template [[host_name("taps3x3_f16")]] [[kernel]] decltype(taps3x3<half, float>) taps3x3<half, float>;
template [[host_name("taps3x3_f16_x4")]] [[kernel]] decltype(taps3x3<half4, float4>) taps3x3<half4, float4>;
#if defined(__HAVE_BFLOAT__)
template [[host_name("taps3x3_bf16")]] [[kernel]] decltype(taps3x3<bfloat, float>) taps3x3<bfloat, float>;
template [[host_name("taps3x3_bf16_x4")]] [[kernel]] decltype(taps3x3<bfloat4, float4>) taps3x3<bfloat4, float4>;
#endif
