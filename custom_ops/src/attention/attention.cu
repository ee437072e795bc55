// Softmax attention for heads of 64 channels in float16 and bfloat16, sums in float32, no score matrix in memory.
//
// A block of four warps takes 64 queries of one head, a warp 16 of them; keys and values pass through shared memory 64
// at a time, the next ones on their way while these are used. The softmax is carried along as a running maximum and a
// running sum: Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et al., "FlashAttention",
// 2022. Products are the matrix units' m16n8k16, whose lanes hold (row g, columns 2t and 2t + 1) of an 8x8 matrix with
// g = lane / 4 and t = lane % 4.

#include "attention.cuh"
#include "matrix_units.cuh"

constexpr int TILE = 64;
// Rows in shared memory are one 16-byte vector longer, so that the eight rows of a matrix lie in different banks.
constexpr int ROW = DIM + 8;

// 64 rows of 64 channels into shared memory by 128 threads, zeros past `rows`.
template <typename T>
__device__ __forceinline__ void load_tile(T (*tile)[ROW], const T *from, unsigned token_stride, int rows) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int piece = threadIdx.x + 128 * i, row = piece / 8, channel = piece % 8 * 8;
        const bool inside = row < rows;
        copy_async(&tile[row][channel], from + size_t(inside ? row : 0) * token_stride + channel, inside);
    }
}

template <typename T>
__device__ void attention(T *out, const T *q, const T *k, const T *v, AttentionParams p) {
    __shared__ alignas(16) T query_tile[TILE][ROW];
    __shared__ alignas(16) T key_tiles[2][TILE][ROW];
    __shared__ alignas(16) T value_tiles[2][TILE][ROW];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const unsigned head = blockIdx.y % p.heads, batch = blockIdx.y / p.heads;
    const unsigned first_query = blockIdx.x * TILE;
    q += size_t(batch) * p.q_batch_stride + head * p.q_head_stride + size_t(first_query) * p.q_token_stride;
    k += size_t(batch) * p.k_batch_stride + head * p.k_head_stride;
    v += size_t(batch) * p.v_batch_stride + head * p.v_head_stride;
    const int tiles = (p.keys + TILE - 1) / TILE;

    load_tile(query_tile, q, p.q_token_stride, int(p.queries - first_query));
    load_tile(key_tiles[0], k, p.k_token_stride, int(p.keys));
    load_tile(value_tiles[0], v, p.v_token_stride, int(p.keys));
    commit_copies();

    uint32_t queries[4][4];
    float sums[8][4] = {};
    // Of the lane's two rows, g and g + 8.
    float largest[2] = {-INFINITY, -INFINITY}, total[2] = {0.f, 0.f};

    for (int tile = 0; tile < tiles; tile++) {
        wait_for_copies();
        __syncthreads();
        if (tile == 0) {
#pragma unroll
            for (int step = 0; step < 4; step++) {
                // Rows 0-7 and 8-15 of the left eight columns, then of the right.
                load_matrices(queries[step], &query_tile[16 * warp + lane % 16][16 * step + lane / 16 * 8]);
            }
        }
        if (tile + 1 < tiles) {
            const unsigned next = (tile + 1) * TILE;
            load_tile(key_tiles[(tile + 1) % 2], k + size_t(next) * p.k_token_stride, p.k_token_stride,
                      int(p.keys - next));
            load_tile(value_tiles[(tile + 1) % 2], v + size_t(next) * p.v_token_stride, p.v_token_stride,
                      int(p.keys - next));
            commit_copies();
        }
        const auto &keys = key_tiles[tile % 2];
        const auto &values = value_tiles[tile % 2];

        // scores = q k^T: eight keys at a time.
        float scores[8][4] = {};
#pragma unroll
        for (int group = 0; group < 8; group++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                uint32_t m[4];
                load_matrices(m, &keys[8 * group + lane % 8][32 * half + lane / 8 * 8]);
                multiply_add<T>(scores[group], queries[2 * half], m[0], m[1]);
                multiply_add<T>(scores[group], queries[2 * half + 1], m[2], m[3]);
            }
        }
        // Keys past the end weigh nothing.
        const int left = int(p.keys) - tile * TILE;
        if (left < TILE) {
#pragma unroll
            for (int group = 0; group < 8; group++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    if (8 * group + lane % 4 * 2 + i % 2 >= left) scores[group][i] = -INFINITY;
                }
            }
        }

        float highest[2] = {largest[0], largest[1]};
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
            const float shrink = exp2f((largest[row] - highest[row]) * p.scale);
            largest[row] = highest[row];
            total[row] *= shrink;
#pragma unroll
            for (int group = 0; group < 8; group++) {
                sums[group][2 * row] *= shrink;
                sums[group][2 * row + 1] *= shrink;
            }
        }
        const float offset[2] = {largest[0] * p.scale, largest[1] * p.scale};
#pragma unroll
        for (int group = 0; group < 8; group++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                scores[group][i] = exp2f(fmaf(scores[group][i], p.scale, -offset[i / 2]));
                total[i / 2] += scores[group][i];
            }
        }

        // sums += weights v: sixteen keys at a time.
#pragma unroll
        for (int step = 0; step < 4; step++) {
            const float(&low)[4] = scores[2 * step], (&high)[4] = scores[2 * step + 1];
            const uint32_t weights[4] = {pair<T>(low[0], low[1]), pair<T>(low[2], low[3]), pair<T>(high[0], high[1]),
                                         pair<T>(high[2], high[3])};
#pragma unroll
            for (int group = 0; group < 8; group += 2) {
                uint32_t m[4];
                load_matrices_transposed(m, &values[16 * step + lane % 16][8 * group + lane / 16 * 8]);
                multiply_add<T>(sums[group], weights, m[0], m[1]);
                multiply_add<T>(sums[group + 1], weights, m[2], m[3]);
            }
        }
    }

#pragma unroll
    for (int row = 0; row < 2; row++) {
        total[row] += __shfl_xor_sync(0xffffffff, total[row], 1);
        total[row] += __shfl_xor_sync(0xffffffff, total[row], 2);
        const unsigned query = first_query + 16 * warp + lane / 4 + 8 * row;
        if (query >= p.queries) continue;
        T *to = out + ((size_t(batch) * p.queries + query) * p.heads + head) * DIM + lane % 4 * 2;
        const float inverse = 1.f / total[row];
#pragma unroll
        for (int group = 0; group < 8; group++) {
            *reinterpret_cast<uint32_t *>(to + 8 * group) =
                pair<T>(sums[group][2 * row] * inverse, sums[group][2 * row + 1] * inverse);
        }
    }
}

extern "C" __global__ void __launch_bounds__(128)
    attention_f16(__half *out, const __half *q, const __half *k, const __half *v, AttentionParams params) {
    attention<__half>(out, q, k, v, params);
}

extern "C" __global__ void __launch_bounds__(128) attention_bf16(__nv_bfloat16 *out, const __nv_bfloat16 *q,
                                                                 const __nv_bfloat16 *k, const __nv_bfloat16 *v,
                                                                 AttentionParams params) {
    attention<__nv_bfloat16>(out, q, k, v, params);
}
