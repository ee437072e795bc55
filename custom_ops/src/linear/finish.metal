// activation(product + bias) + residual, in place: one thread finishes one column of a row, or four neighbouring ones.
// Everything is float32 until it is rounded once, to the nearest, ties to even.

#include <metal_stdlib>
using namespace metal;

// The host's `FinishParams`; `columns` and `count` count elements of type V.
struct FinishParams {
    uint columns;
    // Rows that have a bias of their own.
    uint rows;
    // As the host's `Activation` counts them: nothing, ReLU, GELU.
    uint activation;
    uint has_bias;
    uint has_residual;
    uint count;
};

// x P(x^2) / Q(x^2) on |x| <= 3.92, beyond which the error function is 1 to float32: the polynomials of the CPU, which
// Metal's library does not have. Absolute error under 4e-7.
template <typename F>
inline F error_function(F argument) {
    const F x = clamp(argument, F(-3.92f), F(3.92f));
    const F s = x * x;
    F p = F(2.0501735e-6f);
    p = fma(p, s, F(2.848726e-4f));
    p = fma(p, s, F(3.7651525e-3f));
    p = fma(p, s, F(5.2747287e-2f));
    p = fma(p, s, F(0.1903956f));
    p = fma(p, s, F(1.1283792f));
    F q = F(3.8092082e-5f);
    q = fma(q, s, F(1.1624236e-3f));
    q = fma(q, s, F(1.4968285e-2f));
    q = fma(q, s, F(0.11410462f));
    q = fma(q, s, F(0.50206643f));
    q = fma(q, s, F(1.0f));
    return x * p / q;
}

// V is an element of the tensors or a vector of four, F the same in float32. Threads are (elements, 1, 1).
template <typename V, typename F>
[[kernel]] void finish(
    device V* product [[buffer(0)]],
    device const V* bias [[buffer(1)]],
    device const V* residual [[buffer(2)]],
    constant FinishParams& params [[buffer(3)]],
    uint3 position [[thread_position_in_grid]]
) {
    const uint index = position.x;
    if (index >= params.count) {
        return;
    }
    F x = F(product[index]);
    if (params.has_bias != 0) {
        const uint part = index / params.columns / params.rows;
        x = x + F(bias[part * params.columns + index % params.columns]);
    }
    if (params.activation == 1) {
        x = max(x, F(0.0f));
    } else if (params.activation == 2) {
        const F half_of_it = x * F(0.5f);
        x = fma(half_of_it, error_function<F>(x * F(0.70710678f)), half_of_it);
    }
    if (params.has_residual != 0) {
        x = x + F(residual[index]);
    }
    product[index] = V(x);
}

template [[host_name("finish_f32")]] [[kernel]] decltype(finish<float, float>) finish<float, float>;
template [[host_name("finish_f32_x4")]] [[kernel]] decltype(finish<float4, float4>) finish<float4, float4>;
template [[host_name("finish_f16")]] [[kernel]] decltype(finish<half, float>) finish<half, float>;
template [[host_name("finish_f16_x4")]] [[kernel]] decltype(finish<half4, float4>) finish<half4, float4>;
#if defined(__HAVE_BFLOAT__)
template [[host_name("finish_bf16")]] [[kernel]] decltype(finish<bfloat, float>) finish<bfloat, float>;
template [[host_name("finish_bf16_x4")]] [[kernel]] decltype(finish<bfloat4, float4>) finish<bfloat4, float4>;
#endif
