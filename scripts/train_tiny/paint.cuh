// Vectors, noise and two-dimensional textures, for a GPU and for a CPU.
#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define FN __device__ __forceinline__
#else
#define FN static inline
#endif

struct Vec {
    float x, y, z;
};
FN Vec vec(float x, float y, float z) { Vec v = {x, y, z}; return v; }
FN Vec at(const float* p) { return vec(p[0], p[1], p[2]); }
FN Vec operator+(Vec a, Vec b) { return vec(a.x + b.x, a.y + b.y, a.z + b.z); }
FN Vec operator-(Vec a, Vec b) { return vec(a.x - b.x, a.y - b.y, a.z - b.z); }
FN Vec operator*(Vec a, Vec b) { return vec(a.x * b.x, a.y * b.y, a.z * b.z); }
FN Vec operator*(Vec a, float s) { return vec(a.x * s, a.y * s, a.z * s); }
FN Vec mix(Vec a, Vec b, float s) { return a + (b - a) * s; }
FN float mix(float a, float b, float s) { return a + (b - a) * s; }
FN float dot(Vec a, Vec b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
FN float smaller(float a, float b) { return a < b ? a : b; }
FN float larger(float a, float b) { return a > b ? a : b; }
FN float clamp01(float a) { return smaller(larger(a, 0.0f), 1.0f); }
FN Vec unit(Vec a) { return a * (1.0f / sqrtf(larger(dot(a, a), 1e-20f))); }
FN Vec times(const float* m, Vec a) {
    return vec(m[0] * a.x + m[1] * a.y + m[2] * a.z, m[3] * a.x + m[4] * a.y + m[5] * a.z,
               m[6] * a.x + m[7] * a.y + m[8] * a.z);
}
FN Vec transposed_times(const float* m, Vec a) {
    return vec(m[0] * a.x + m[3] * a.y + m[6] * a.z, m[1] * a.x + m[4] * a.y + m[7] * a.z,
               m[2] * a.x + m[5] * a.y + m[8] * a.z);
}

// ---- noise --------------------------------------------------------------------------------------------------------

FN uint32_t hash(uint32_t v) {
    v = v * 747796405u + 2891336453u;
    v = ((v >> ((v >> 28) + 4u)) ^ v) * 277803737u;
    return (v >> 22) ^ v;
}
FN uint32_t hash(int x, int y, uint32_t seed) { return hash((uint32_t)x + hash((uint32_t)y + hash(seed))); }
FN float in_unit(uint32_t h) { return (float)(h >> 8) * (1.0f / 16777216.0f); }
FN float cell_value(int x, int y, uint32_t seed) { return in_unit(hash(x, y, seed)); }

// Smooth noise in [0, 1] with a knot at every whole number.
FN float value_noise(float u, float v, uint32_t seed) {
    float iu = floorf(u), iv = floorf(v), fu = u - iu, fv = v - iv;
    int x = (int)iu, y = (int)iv;
    fu = fu * fu * (3.0f - 2.0f * fu);
    fv = fv * fv * (3.0f - 2.0f * fv);
    return mix(mix(cell_value(x, y, seed), cell_value(x + 1, y, seed), fu),
               mix(cell_value(x, y + 1, seed), cell_value(x + 1, y + 1, seed), fu), fv);
}

// Three octaves in [0, 1]; those finer than `blur`, the pixel's size, are left at their mean.
FN float fractal(float u, float v, uint32_t seed, float blur) {
    float sum = 0.0f, weight = 0.571f, scale = 1.0f;
    for (int octave = 0; octave < 3; octave++) {
        float seen = clamp01(2.0f - 2.0f * blur * scale);
        sum += weight * (seen > 0.0f ? mix(0.5f, value_noise(u * scale, v * scale, seed + octave), seen) : 0.5f);
        weight *= 0.5f;
        scale *= 2.17f;
    }
    return sum;
}

// ---- textures -----------------------------------------------------------------------------------------------------

struct Paint {
    float blend;  // between the two colours
    float tone;   // brightness of this brick, plank, tile
};

// 1 within `half` of a whole number, softened by the pixel's size.
FN float line(float a, float half, float blur) {
    float distance = fabsf(a - floorf(a + 0.5f));
    return clamp01((half - distance) / larger(blur, 1e-4f) + 0.5f);
}

// Texture number `kind` at (u, v), in cells; `blur` is the pixel's size in cells.
FN Paint paint(int kind, float u, float v, uint32_t seed, float blur) {
    int x = (int)floorf(u), y = (int)floorf(v);
    float fu = u - x, fv = v - y;
    uint32_t h = hash(x, y, seed);
    float blend = 0.5f, tone = 1.0f, mean = 0.5f;
    switch (kind) {
    case 0: blend = fractal(u, v, seed, blur); blend = clamp01(2.4f * blend - 0.7f); mean = blend; break;
    case 1: blend = (float)((x + y) & 1); break;
    case 2: {  // bricks, every other row shifted by half
        int row = (int)floorf(v * 2.0f);
        float shifted = u + 0.5f * (row & 1);
        int column = (int)floorf(shifted);
        tone = 0.75f + 0.5f * cell_value(column, row, seed);
        blend = larger(line(shifted, 0.04f, blur), line(v * 2.0f, 0.08f, 2.0f * blur));
        mean = 0.2f;
        break;
    }
    case 3: {  // planks of one cell's width and four cells' length, each shifted by its own amount
        float along = u * 0.25f + cell_value(y, 7, seed);
        int plank = (int)floorf(along);
        tone = 0.7f + 0.6f * cell_value(plank, y, seed + 1u);
        float grain = fractal(u * 0.8f + 17.0f * plank, v * 7.0f, seed + 2u, 7.0f * blur);
        blend = larger(0.6f * grain, larger(line(v, 0.03f, blur), line(along, 0.008f, 0.25f * blur)));
        mean = 0.32f;
        break;
    }
    case 4: blend = line(u, 0.1f + 0.3f * in_unit(hash(seed)), blur); break;
    case 5: {  // dots of different sizes
        float radius = 0.15f + 0.3f * in_unit(h), du = fu - 0.5f, dv = fv - 0.5f;
        blend = clamp01((radius - sqrtf(du * du + dv * dv)) / larger(blur, 1e-4f) + 0.5f);
        tone = 0.8f + 0.4f * in_unit(hash(h));
        mean = 0.3f;
        break;
    }
    case 6: blend = 0.5f + 0.5f * sinf(6.2832f * (0.6f * u + 2.0f * fractal(u, v, seed, blur))); break;
    case 7:
        tone = 0.7f + 0.6f * in_unit(h);
        blend = larger(line(u, 0.03f, blur), line(v, 0.03f, blur));
        blend = larger(blend, 0.5f * fractal(3.0f * u, 3.0f * v, seed, 3.0f * blur));
        mean = 0.3f;
        break;
    case 8: {  // cells of random points
        float nearest = 9.0f, second = 9.0f;
        uint32_t cell = 0;
        for (int j = -1; j <= 1; j++) {
            for (int i = -1; i <= 1; i++) {
                uint32_t other = hash(x + i, y + j, seed);
                float du = i + in_unit(other) - fu, dv = j + in_unit(hash(other)) - fv, d = du * du + dv * dv;
                if (d < nearest) { second = nearest; nearest = d; cell = other; } else if (d < second) { second = d; }
            }
        }
        blend = in_unit(hash(cell + 1u));
        tone = sqrtf(second) - sqrtf(nearest) < 0.06f ? 0.4f : 0.7f + 0.6f * in_unit(hash(cell + 2u));
        break;
    }
    case 9: blend = clamp01(8.0f * (value_noise(u, v, seed) - 0.5f) + 0.5f); break;
    case 10: {  // blocks, some of which fall into smaller ones
        if (in_unit(h) < 0.6f) {
            h = hash((int)floorf(u * 3.0f), (int)floorf(v * 3.0f), seed + 5u);
            blur *= 3.0f;
        }
        blend = in_unit(hash(h));
        tone = 0.6f + 0.8f * in_unit(hash(h + 1u));
        break;
    }
    case 11: {  // glyphs: four by five random dots, as in print
        int i = (int)(fu * 6.0f), j = (int)(fv * 7.0f);
        bool inside = i > 0 && i < 5 && j > 0 && j < 6;
        blend = inside && ((hash(h) >> ((i - 1) * 5 + j - 1)) & 1u) ? 1.0f : 0.0f;
        blur *= 5.0f;
        mean = 0.25f;
        break;
    }
    case 12: {  // rings about the middle of each cell
        float du = fu - 0.5f, dv = fv - 0.5f;
        float rings = (1.0f + 3.0f * in_unit(h)) * sqrtf(du * du + dv * dv) + in_unit(hash(h));
        blend = 0.5f + 0.5f * sinf(6.2832f * rings);
        blur *= 2.0f;
        break;
    }
    default: blend = 0.5f * line(u, 0.22f, blur) + 0.5f * line(v * 1.3f, 0.15f, 1.3f * blur); break;
    }
    float seen = clamp01(1.7f - 1.6f * blur);
    Paint result = {mix(mean, blend, seen), mix(1.0f, tone, seen)};
    return result;
}
