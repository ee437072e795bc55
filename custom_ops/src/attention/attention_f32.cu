// attention.cu for float32: products are the matrix units' of TF32, which has 10 bits of mantissa, so every number is the
// sum of a high and a low part, and a product that of three: all but low by low. Markidis et al., "NVIDIA Tensor Core
// Programmability, Performance & Precision", 2018.
//
// The units cut their sums off instead of rounding them. So no sum there is of more than 64 keys; these are added up as
// float32.
//
// In an operand of m16n8k8 a lane holds (row g, column t) and (row g, column t + 4), in a result (row g, columns 2t and
// 2t + 1). Weights, a result, become an operand where keys 2t and 2t + 1 are columns t and t + 4.

#include "attention.cuh"
#include "matrix_units.cuh"
#include "split.cuh"

constexpr int TILE = 64;
// Rows in shared memory are one 16-byte vector longer, so that what a warp reads lies in different banks.
constexpr int ROW = DIM + 4;
// Two tiles of keys and two of values.
static_assert(4 * TILE * ROW * sizeof(float) == 69632, "as the host has it");

// Rows of 64 channels into shared memory by 128 threads, zeros past `rows`.
__device__ __forceinline__ void load_tile(float (*tile)[ROW], const float *from, unsigned token_stride, int rows) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const int piece = threadIdx.x + 128 * i, row = piece / 16, channel = piece % 16 * 4;
        const bool inside = row < rows;
        copy_async(&tile[row][channel], from + size_t(inside ? row : 0) * token_stride + channel, inside);
    }
}

// c += a b without the product of the low parts, for four results at a time, so that none waits for its own sum.
__device__ __forceinline__ void multiply_add_split(float (&c)[8][4], int first, const SplitNumber (&a)[4],
                                                   const SplitNumber (&b)[4][2]) {
    const uint32_t high[4] = {a[0].high, a[1].high, a[2].high, a[3].high};
    const uint32_t low[4] = {a[0].low, a[1].low, a[2].low, a[3].low};
#pragma unroll
    for (int i = 0; i < 4; i++) multiply_add_tf32(c[first + i], low, b[i][0].high, b[i][1].high);
#pragma unroll
    for (int i = 0; i < 4; i++) multiply_add_tf32(c[first + i], high, b[i][0].low, b[i][1].low);
#pragma unroll
    for (int i = 0; i < 4; i++) multiply_add_tf32(c[first + i], high, b[i][0].high, b[i][1].high);
}

extern "C" __global__ void __launch_bounds__(128, 2)
    attention_f32(float *out, const float *q, const float *k, const float *v, AttentionParams p) {
    DYNAMIC_SHARED(shared);
    float(*const tiles_of_keys)[ROW] = reinterpret_cast<float(*)[ROW]>(shared);
    float(*const tiles_of_values)[ROW] = tiles_of_keys + 2 * TILE;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const unsigned head = blockIdx.y % p.heads, batch = blockIdx.y / p.heads;
    const unsigned first_query = blockIdx.x * TILE + 16 * warp;
    q += size_t(batch) * p.q_batch_stride + head * p.q_head_stride;
    k += size_t(batch) * p.k_batch_stride + head * p.k_head_stride;
    v += size_t(batch) * p.v_batch_stride + head * p.v_head_stride;
    const int tiles = (p.keys + TILE - 1) / TILE;

    load_tile(tiles_of_keys, k, p.k_token_stride, int(p.keys));
    load_tile(tiles_of_values, v, p.v_token_stride, int(p.keys));
    commit_copies();

    // Of the lane's two rows, g and g + 8; rows past the last query repeat it.
    SplitNumber queries[8][4];
#pragma unroll
    for (int row = 0; row < 2; row++) {
        const float *from = q + size_t(min(first_query + g + 8 * row, p.queries - 1)) * p.q_token_stride;
#pragma unroll
        for (int step = 0; step < 8; step++) {
            queries[step][row] = split(from[8 * step + t]);
            queries[step][row + 2] = split(from[8 * step + t + 4]);
        }
    }
    float sums[8][4] = {};
    float largest[2] = {-INFINITY, -INFINITY}, total[2] = {0.f, 0.f};

    for (int tile = 0; tile < tiles; tile++) {
        wait_for_copies();
        __syncthreads();
        if (tile + 1 < tiles) {
            const unsigned next = (tile + 1) * TILE;
            const int at = (tile + 1) % 2 * TILE;
            load_tile(tiles_of_keys + at, k + size_t(next) * p.k_token_stride, p.k_token_stride, int(p.keys - next));
            load_tile(tiles_of_values + at, v + size_t(next) * p.v_token_stride, p.v_token_stride, int(p.keys - next));
            commit_copies();
        }
        const float(*const keys)[ROW] = tiles_of_keys + tile % 2 * TILE;
        const float(*const values)[ROW] = tiles_of_values + tile % 2 * TILE;

        // scores = q k^T: eight channels of 32 keys at a time.
        float scores[8][4] = {};
#pragma unroll
        for (int step = 0; step < 8; step++) {
#pragma unroll
            for (int group = 0; group < 8; group += 4) {
                SplitNumber b[4][2];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float *key = keys[8 * (group + i) + g] + 8 * step + t;
                    b[i][0] = split(key[0]);
                    b[i][1] = split(key[4]);
                }
                multiply_add_split(scores, group, queries[step], b);
            }
        }
        // Keys past the end weigh nothing.
        const int left = int(p.keys) - tile * TILE;
        if (left < TILE) {
#pragma unroll
            for (int group = 0; group < 8; group++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    if (8 * group + 2 * t + i % 2 >= left) scores[group][i] = -INFINITY;
                }
            }
        }

        float highest[2] = {largest[0], largest[1]}, shrink[2], offset[2];
#pragma unroll
        for (int group = 0; group < 8; group++) {
#pragma unroll
            for (int i = 0; i < 4; i++) highest[i / 2] = fmaxf(highest[i / 2], scores[group][i]);
        }
#pragma unroll
        for (int row = 0; row < 2; row++) {
            // The four lanes of a row.
            highest[row] = fmaxf(highest[row], __shfl_xor_sync(0xffffffff, highest[row], 1));
            highest[row] = fmaxf(highest[row], __shfl_xor_sync(0xffffffff, highest[row], 2));
            shrink[row] = exp2f((largest[row] - highest[row]) * p.scale);
            largest[row] = highest[row];
            total[row] *= shrink[row];
            offset[row] = largest[row] * p.scale;
        }
#pragma unroll
        for (int group = 0; group < 8; group++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                scores[group][i] = exp2f(fmaf(scores[group][i], p.scale, -offset[i / 2]));
                total[i / 2] += scores[group][i];
            }
        }

        // Of these keys, weights v: eight keys and 32 channels at a time.
        float parts[8][4] = {};
#pragma unroll
        for (int step = 0; step < 8; step++) {
            const SplitNumber weights[4] = {split(scores[step][0]), split(scores[step][2]), split(scores[step][1]),
                                            split(scores[step][3])};
#pragma unroll
            for (int group = 0; group < 8; group += 4) {
                SplitNumber b[4][2];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int channel = 8 * (group + i) + g;
                    b[i][0] = split(values[8 * step + 2 * t][channel]);
                    b[i][1] = split(values[8 * step + 2 * t + 1][channel]);
                }
                multiply_add_split(parts, group, weights, b);
            }
        }
#pragma unroll
        for (int group = 0; group < 8; group++) {
#pragma unroll
            for (int i = 0; i < 4; i++) sums[group][i] = fmaf(sums[group][i], shrink[i / 2], parts[group][i]);
        }
    }

#pragma unroll
    for (int row = 0; row < 2; row++) {
        total[row] += __shfl_xor_sync(0xffffffff, total[row], 1);
        total[row] += __shfl_xor_sync(0xffffffff, total[row], 2);
        const unsigned query = first_query + g + 8 * row;
        if (query >= p.queries) continue;
        float *to = out + ((size_t(batch) * p.queries + query) * p.heads + head) * DIM + 2 * t;
        const float inverse = 1.f / total[row];
#pragma unroll
        for (int group = 0; group < 8; group++) {
            *reinterpret_cast<float2 *>(to + 8 * group) =
                make_float2(sums[group][2 * row] * inverse, sums[group][2 * row + 1] * inverse);
        }
    }
}
