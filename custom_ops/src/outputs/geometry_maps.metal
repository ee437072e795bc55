// Points and confidences of a head's last numbers, one pixel a thread.

#include <metal_stdlib>
using namespace metal;

// The host's `GeometryParams`.
struct GeometryParams {
    uint pixels;
};

// (e^d - 1) / d for d >= 0, 1 at 0. Metal's library has no `expm1`: where e^d - 1 would cancel, the power series, of which
// the first term left out is below 3e-9.
inline float growth(float d) {
    if (d < 1.0f) {
        float sum = 1.0f;
        for (uint n = 12; n > 1; n--) {
            sum = fma(sum, d / float(n), 1.0f);
        }
        return sum;
    }
    return (exp(d) - 1.0f) / d;
}

// `geometry` has x, y, z and a raw confidence for each pixel; points come first in `out`, then confidences.
template <typename V, typename F>
[[kernel]] void geometry_maps(
    device const V* geometry [[buffer(0)]],
    device F* out [[buffer(1)]],
    constant GeometryParams& params [[buffer(2)]],
    uint3 position [[thread_position_in_grid]]
) {
    const uint pixel = position.x;
    if (pixel >= params.pixels) {
        return;
    }
    const V raw = geometry[pixel];
    const F scale = growth(sqrt(raw.x * raw.x + raw.y * raw.y + raw.z * raw.z));
    out[3 * pixel] = raw.x * scale;
    out[3 * pixel + 1] = raw.y * scale;
    out[3 * pixel + 2] = raw.z * scale;
    out[3 * params.pixels + pixel] = exp(raw.w) + 1.0f;
}

template [[host_name("geometry_maps_f32_x4")]] [[kernel]] decltype(geometry_maps<float4, float>) geometry_maps<float4, float>;
