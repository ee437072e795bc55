// Layer normalisation: one SIMD group a row; mean, then variance about it, in float32.

#include <metal_stdlib>
using namespace metal;

// The host's `LayerNormParams`; `columns` counts elements of type V.
struct LayerNormParams {
    uint columns;
    // Numbers of a row.
    uint numbers;
    uint rows;
    // Rows that have a scale and a shift of their own.
    uint part;
    // Row r is made of row r + turn, counted around.
    uint turn;
    float eps;
};

constexpr constant uint LANES = 32;
// Elements of a row that a lane keeps: of rows that are not longer nothing is read twice.
constexpr constant uint KEPT = 8;

inline float total(float x) {
    return x;
}

inline float total(float4 x) {
    return (x.x + x.y) + (x.z + x.w);
}

// V is an element of the tensors or a vector of four, F the same in float32. Threads are (lanes by rows, 1, 1).
template <typename V, typename F>
[[kernel]] void layer_norm(
    device const V* x [[buffer(0)]],
    device const F* scale [[buffer(1)]],
    device const F* shift [[buffer(2)]],
    device V* out [[buffer(3)]],
    constant LayerNormParams& params [[buffer(4)]],
    uint3 position [[thread_position_in_grid]]
) {
    const uint row = position.x / LANES;
    const uint lane = position.x % LANES;
    if (row >= params.rows) {
        return;
    }
    device const V* from = x + (row + params.turn) % params.rows * params.columns;
    device const F* scales = scale + row / params.part * params.columns;
    device const F* shifts = shift + row / params.part * params.columns;
    device V* to = out + row * params.columns;

    F kept[KEPT];
    F sum = F(0.0f);
    for (uint k = 0; k < KEPT; k++) {
        const uint i = LANES * k + lane;
        kept[k] = F(0.0f);
        if (i < params.columns) {
            kept[k] = F(from[i]);
        }
        sum = sum + kept[k];
    }
    for (uint i = LANES * KEPT + lane; i < params.columns; i += LANES) {
        sum = sum + F(from[i]);
    }
    const F mean = F(simd_sum(total(sum)) / float(params.numbers));

    F squares = F(0.0f);
    for (uint k = 0; k < KEPT; k++) {
        kept[k] = kept[k] - mean;
        if (LANES * k + lane < params.columns) {
            squares = fma(kept[k], kept[k], squares);
        }
    }
    for (uint i = LANES * KEPT + lane; i < params.columns; i += LANES) {
        const F centred = F(from[i]) - mean;
        squares = fma(centred, centred, squares);
    }
    const F inverse = F(1.0f / sqrt(simd_sum(total(squares)) / float(params.numbers) + params.eps));

    for (uint k = 0; k < KEPT; k++) {
        const uint i = LANES * k + lane;
        if (i < params.columns) {
            to[i] = V(fma(kept[k] * inverse, scales[i], shifts[i]));
        }
    }
    for (uint i = LANES * KEPT + lane; i < params.columns; i += LANES) {
        to[i] = V(fma((F(from[i]) - mean) * inverse, scales[i], shifts[i]));
    }
}

template [[host_name("layer_norm_f32")]] [[kernel]] decltype(layer_norm<float, float>) layer_norm<float, float>;
template [[host_name("layer_norm_f32_x4")]] [[kernel]] decltype(layer_norm<float4, float4>) layer_norm<float4, float4>;
template [[host_name("layer_norm_f16")]] [[kernel]] decltype(layer_norm<half, float>) layer_norm<half, float>;
template [[host_name("layer_norm_f16_x4")]] [[kernel]] decltype(layer_norm<half4, float4>) layer_norm<half4, float4>;
#if defined(__HAVE_BFLOAT__)
template [[host_name("layer_norm_bf16")]] [[kernel]] decltype(layer_norm<bfloat, float>) layer_norm<bfloat, float>;
template [[host_name("layer_norm_bf16_x4")]] [[kernel]]
decltype(layer_norm<bfloat4, float4>) layer_norm<bfloat4, float4>;
#endif
