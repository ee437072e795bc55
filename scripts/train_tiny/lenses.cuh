// What two different cameras make of the light: blur, vignetting, exposure, tone, noise, JPEG.
#pragma once
#include "shapes.cuh"

constexpr int METERED = 256;  // pixels that decide an exposure
constexpr float MIDDLE = 0.46f;

// The square root of pixel `i` of METERED, what a camera's exposure is made of.
FN float metered(const float* linear, int height, int width, int i) {
    size_t plane = (size_t)height * width;
    const float* p = linear + (size_t)((i / 16 + 0.5f) / 16.0f * height) * width + (int)((i % 16 + 0.5f) / 16.0f * width);
    return sqrtf(smaller(0.3f * p[0] + 0.6f * p[plane] + 0.1f * p[2 * plane], 4.0f)) / METERED;
}

// The developed colour in [0, 1] of a pixel, from linear colours (3, height, width).
FN Vec developed(const Camera& c, float exposure, const float* linear, uint32_t seed, int height, int width, int row, int column) {
    size_t plane = (size_t)height * width;
    Vec sum = vec(0.0f, 0.0f, 0.0f);
    float scale = (height > width ? height : width) / 224.0f, sharp = 0.08f / (scale * scale);
    float xx = c.blur_xx + sharp, xy = c.blur_xy, yy = c.blur_yy + sharp;
    if (c.blur_xx + c.blur_yy < 0.05f) {
        const float* p = linear + (size_t)row * width + column;
        sum = vec(p[0], p[plane], p[2 * plane]);
    } else {
        float inverse = 1.0f / (xx * yy - xy * xy) / (scale * scale), total = 0.0f;
        for (int j = -2; j <= 2; j++) {
            for (int i = -2; i <= 2; i++) {
                int y = row + j, x = column + i;
                if (y < 0 || x < 0 || y >= height || x >= width) { continue; }
                float weight = expf(-0.5f * inverse * (yy * i * i - 2.0f * xy * i * j + xx * j * j));
                const float* p = linear + (size_t)y * width + x;
                sum = sum + vec(p[0], p[plane], p[2 * plane]) * weight;
                total += weight;
            }
        }
        sum = sum * (1.0f / total);
    }
    float x = (column + 0.5f) / width - 0.5f, y = (row + 0.5f) / height - 0.5f;
    sum = sum * c.gain * exposure * (1.0f - c.vignette * 2.0f * (x * x + y * y));
    float value[3] = {sum.x, sum.y, sum.z};
    uint32_t h = hash(column, row, seed);
    float mean = 0.0f;
    for (int i = 0; i < 3; i++) {
        float a = larger(value[i], 0.0f);
        a = a * (1.0f + a * 0.1f) / (1.0f + 0.45f * a);  // highlights roll off
        a = powf(smaller(a, 1.0f) + 1e-5f, c.gamma);
        value[i] = mix(a, a * a * (3.0f - 2.0f * a), c.contrast);
        mean += value[i] * (i == 0 ? 0.3f : i == 1 ? 0.59f : 0.11f);
    }
    h = hash(h + 1u);
    float shared = in_unit(h) + in_unit(hash(h)) - 1.0f;
    for (int i = 0; i < 3; i++) {
        h = hash(h + i);
        float own = in_unit(h) + in_unit(hash(h)) - 1.0f;
        float sigma = c.noise * (0.5f + 0.8f * sqrtf(value[i]));
        value[i] = clamp01(mix(mean, value[i], c.saturation) + 2.45f * sigma * (own * c.speckle + shared * (1.0f - c.speckle)));
    }
    return vec(value[0], value[1], value[2]);
}

// Works together on one piece: the threads of a block, or one on a CPU.
struct Team {
    int lane, size;
};
#ifdef __CUDACC__
FN void wait_for_all() { __syncthreads(); }
#else
FN void wait_for_all() {}
#endif

struct Patch {  // 16 x 16 pixels: luma, and chroma at half the resolution, in [-128, 127]
    float luma[256], blue[256], red[256], chroma[128], rows[384];
};

// Cosine of the transform's row k at sample i.
FN float cosine(int k, int i) { return (k ? 0.5f : 0.35355339f) * cosf(0.19634954f * (2 * i + 1) * k); }

// Six blocks of 8 x 8: four of luma, two of chroma.
FN float* block_of(Patch* p, int block, int y, int x) {
    return block < 4 ? p->luma + (8 * (block >> 1) + y) * 16 + 8 * (block & 1) + x : p->chroma + 64 * (block - 4) + 8 * y + x;
}

// One patch of an image, whose top left pixel is (top, left), from linear light to bytes.
FN void develop(Team team, Patch* p, const Camera& c, float exposure, const float* linear, uint32_t seed, int height, int width, int top,
                int left, unsigned char* rgb) {
    size_t plane = (size_t)height * width;
    for (int i = team.lane; i < 256; i += team.size) {
        int row = top + i / 16, column = left + i % 16;
        Vec v = developed(c, exposure, linear, seed, height, width, row < height ? row : height - 1, column < width ? column : width - 1) * 255.0f;
        float y = 0.299f * v.x + 0.587f * v.y + 0.114f * v.z;
        p->luma[i] = y - 128.0f;
        p->blue[i] = 0.564f * (v.z - y);
        p->red[i] = 0.713f * (v.x - y);
    }
    wait_for_all();
    if (c.quality > 0.0f) {
        for (int i = team.lane; i < 128; i += team.size) {
            int y = (i & 63) / 8 * 2, x = (i & 7) * 2;
            const float* from = (i < 64 ? p->blue : p->red) + y * 16 + x;
            p->chroma[i] = 0.25f * (from[0] + from[1] + from[16] + from[17]);
        }
        wait_for_all();
        for (int pass = 0; pass < 4; pass++) {  // rows, columns and the rounding, columns, rows
            for (int i = team.lane; i < 384; i += team.size) {
                int block = i / 64, y = i / 8 % 8, x = i % 8;
                float sum = 0.0f;
                for (int k = 0; k < 8; k++) {
                    switch (pass) {
                    case 0: sum += cosine(x, k) * *block_of(p, block, y, k); break;
                    case 1: sum += cosine(y, k) * *block_of(p, block, k, x); break;
                    case 2: sum += cosine(k, y) * *block_of(p, block, k, x); break;
                    default: sum += cosine(k, x) * *block_of(p, block, y, k);
                    }
                }
                if (pass == 1) {
                    float step = c.quality * (1.0f + (block < 4 ? 0.35f : 0.9f) * (x + y));
                    sum = step * floorf(sum / step + 0.5f);
                }
                p->rows[i] = sum;
            }
            wait_for_all();
            for (int i = team.lane; i < 384; i += team.size) { *block_of(p, i / 64, i / 8 % 8, i % 8) = p->rows[i]; }
            wait_for_all();
        }
        for (int i = team.lane; i < 256; i += team.size) {
            int at = (i / 16 / 2) * 8 + i % 16 / 2;
            p->blue[i] = p->chroma[at];
            p->red[i] = p->chroma[64 + at];
        }
        wait_for_all();
    }
    for (int i = team.lane; i < 256; i += team.size) {
        int row = top + i / 16, column = left + i % 16;
        if (row >= height || column >= width) { continue; }
        float y = p->luma[i] + 128.0f, r = y + p->red[i] / 0.713f, b = y + p->blue[i] / 0.564f;
        float g = (y - 0.299f * r - 0.114f * b) / 0.587f;
        unsigned char* to = rgb + (size_t)row * width + column;
        to[0] = (unsigned char)(255.0f * clamp01(r / 255.0f) + 0.5f);
        to[plane] = (unsigned char)(255.0f * clamp01(g / 255.0f) + 0.5f);
        to[2 * plane] = (unsigned char)(255.0f * clamp01(b / 255.0f) + 0.5f);
    }
    wait_for_all();
}
