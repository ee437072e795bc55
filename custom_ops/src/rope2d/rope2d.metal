// Rotary embedding over a grid: one thread turns one pair of elements, or four neighbouring pairs at once.

#include <metal_stdlib>
using namespace metal;

// The host's `RopeParams`; `quarter` and the strides count elements of type V.
struct RopeParams {
    uint tokens;
    uint heads;
    uint quarter;
    uint batch_stride;
    uint token_stride;
    uint head_stride;
    uint second_batch_stride;
    uint second_token_stride;
    uint second_head_stride;
};

// V is an element of the tensors or a vector of four, F the same in float32. Threads are (pairs of one batch entry,
// batch entries, sources). The table is (2, tokens, 2 quarter): cosines, then sines; y before x.
template <typename V, typename F>
[[kernel]] void rope2d(
    device const V* first [[buffer(0)]],
    device const V* second [[buffer(1)]],
    device const F* table [[buffer(2)]],
    device V* out [[buffer(3)]],
    constant RopeParams& params [[buffer(4)]],
    uint3 position [[thread_position_in_grid]],
    uint3 groups [[threadgroups_per_grid]]
) {
    const uint quarter = params.quarter;
    const uint pairs = 2 * quarter * params.heads;
    if (position.x >= params.tokens * pairs) {
        return;
    }
    const uint token = position.x / pairs;
    const uint head = position.x % pairs / (2 * quarter);
    const uint angle = position.x % (2 * quarter);
    // In a head: the pair's first element; the second is a quarter further.
    const uint channel = angle / quarter * 2 * quarter + angle % quarter;

    device const V* from = first + position.y * params.batch_stride + token * params.token_stride
        + head * params.head_stride;
    if (position.z > 0) {
        from = second + position.y * params.second_batch_stride + token * params.second_token_stride
            + head * params.second_head_stride;
    }
    const uint row = ((position.z * groups.y + position.y) * params.tokens + token) * params.heads + head;
    device V* to = out + row * 4 * quarter;

    const F cosine = table[token * 2 * quarter + angle];
    const F sine = table[(params.tokens + token) * 2 * quarter + angle];
    const F a = F(from[channel]);
    const F b = F(from[channel + quarter]);
    to[channel] = V(fma(a, cosine, -(b * sine)));
    to[channel + quarter] = V(fma(b, cosine, a * sine));
}

template [[host_name("rope2d_f32")]] [[kernel]] decltype(rope2d<float, float>) rope2d<float, float>;
template [[host_name("rope2d_f32_x4")]] [[kernel]] decltype(rope2d<float4, float4>) rope2d<float4, float4>;
template [[host_name("rope2d_f16")]] [[kernel]] decltype(rope2d<half, float>) rope2d<half, float>;
template [[host_name("rope2d_f16_x4")]] [[kernel]] decltype(rope2d<half4, float4>) rope2d<half4, float4>;
#if defined(__HAVE_BFLOAT__)
template [[host_name("rope2d_bf16")]] [[kernel]] decltype(rope2d<bfloat, float>) rope2d<bfloat, float>;
template [[host_name("rope2d_bf16_x4")]] [[kernel]] decltype(rope2d<bfloat4, float4>) rope2d<bfloat4, float4>;
#endif
