// attention.cu for Hopper where there are few queries: the same arguments, results and softmax; products are a
// warpgroup's.
//
// A block takes 64 queries of one head. Its two warpgroups take turns at the keys and values, which pass through shared
// memory 128 at a time, the next ones on their way while these are used, and join what they have in the end.

#include "attention.cuh"
#include "attention_rows.cuh"
#include "matrix_units.cuh"
#include "warpgroup.cuh"

constexpr int QUERIES = 64;
constexpr int KEYS = 128;
constexpr int GROUPS = 2;
constexpr int QUERY_BYTES = QUERIES * TILE_ROW, KEY_BYTES = KEYS * TILE_ROW;
// Queries, then for each warpgroup two tiles of keys and two of values.
static_assert(QUERY_BYTES == 8192 && 4 * KEY_BYTES == 65536, "as the host has it");

// ROWS rows of 64 channels into a tile by a warpgroup, zeros past `rows`.
template <int ROWS, typename T>
__device__ __forceinline__ void load_tile(char *tile, const T *from, unsigned token_stride, int rows) {
#pragma unroll
    for (int i = 0; i < ROWS / 16; i++) {
        const int index = threadIdx.x % 128 + 128 * i, row = index / 8, piece = index % 8;
        const bool inside = row < rows;
        copy_async(tile + piece_offset(row, piece), from + size_t(inside ? row : 0) * token_stride + piece * 8, inside);
    }
}

template <typename T>
__device__ void attention(char *shared, T *out, const T *q, const T *k, const T *v, AttentionParams p) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32, group = threadIdx.x / 128;
    char *const query_tile = shared, *const key_tiles = query_tile + QUERY_BYTES + group * 4 * KEY_BYTES;
    char *const value_tiles = key_tiles + 2 * KEY_BYTES;
    const unsigned head = blockIdx.y % p.heads, batch = blockIdx.y / p.heads;
    const unsigned first_query = blockIdx.x * QUERIES;
    q += size_t(batch) * p.q_batch_stride + head * p.q_head_stride + size_t(first_query) * p.q_token_stride;
    k += size_t(batch) * p.k_batch_stride + head * p.k_head_stride;
    v += size_t(batch) * p.v_batch_stride + head * p.v_head_stride;
    const int tiles = (p.keys + KEYS - 1) / KEYS;

    const auto load_keys = [&](int turn) {
        const unsigned first = (turn * GROUPS + group) * KEYS;
        const int at = turn % 2 * KEY_BYTES, rows = int(p.keys - first);
        load_tile<KEYS>(key_tiles + at, k + size_t(first) * p.k_token_stride, p.k_token_stride, rows);
        load_tile<KEYS>(value_tiles + at, v + size_t(first) * p.v_token_stride, p.v_token_stride, rows);
    };
    if (group == 0) load_tile<QUERIES>(query_tile, q, p.q_token_stride, int(p.queries - first_query));
    if (group < tiles) load_keys(0);
    commit_copies();

    float sums[32] = {};
    // Of the lane's two rows, g and g + 8.
    float largest[2] = {-INFINITY, -INFINITY}, total[2] = {0.f, 0.f};

    for (int turn = 0; turn * GROUPS < tiles; turn++) {
        wait_for_copies();
        publish_shared();
        __syncthreads();
        const char *keys = key_tiles + turn % 2 * KEY_BYTES, *values = value_tiles + turn % 2 * KEY_BYTES;
        const int tile = turn * GROUPS + group;
        if (tile + GROUPS < tiles) {
            load_keys(turn + 1);
            commit_copies();
        }
        if (tile >= tiles) continue;

        float scores[64];
        begin_products();
#pragma unroll
        for (int step = 0; step < DIM / 16; step++) {
            multiply_rows<T>(scores, query_tile + 32 * step, keys + 32 * step, step > 0);
        }
        end_products();
        wait_for_products<0>();
        // Keys past the end weigh nothing.
        const int left = int(p.keys) - tile * KEYS;
        if (left < KEYS) {
#pragma unroll
            for (int i = 0; i < 64; i++) {
                if (i / 4 * 8 + lane % 4 * 2 + i % 2 >= left) scores[i] = -INFINITY;
            }
        }

        float highest[2] = {largest[0], largest[1]};
#pragma unroll
        for (int i = 0; i < 64; i++) highest[i % 4 / 2] = fmaxf(highest[i % 4 / 2], scores[i]);
#pragma unroll
        for (int row = 0; row < 2; row++) {
            // The four lanes of a row.
            highest[row] = fmaxf(highest[row], __shfl_xor_sync(0xffffffff, highest[row], 1));
            highest[row] = fmaxf(highest[row], __shfl_xor_sync(0xffffffff, highest[row], 2));
            const float shrink = power_of_two((largest[row] - highest[row]) * p.scale);
            largest[row] = highest[row];
            total[row] *= shrink;
#pragma unroll
            for (int group = 0; group < 8; group++) {
                sums[4 * group + 2 * row] *= shrink;
                sums[4 * group + 2 * row + 1] *= shrink;
            }
        }
        const float offset[2] = {largest[0] * p.scale, largest[1] * p.scale};
#pragma unroll
        for (int i = 0; i < 64; i++) {
            scores[i] = power_of_two(fmaf(scores[i], p.scale, -offset[i % 4 / 2]));
            total[i % 4 / 2] += scores[i];
        }

        // sums += weights v: sixteen keys at a time.
        uint32_t weights[8][4];
#pragma unroll
        for (int i = 0; i < 32; i++) weights[i / 4][i % 4] = pair<T>(scores[2 * i], scores[2 * i + 1]);
        begin_products();
#pragma unroll
        for (int step = 0; step < KEYS / 16; step++) {
            multiply_columns<T>(sums, weights[step], values + 16 * TILE_ROW * step);
        }
        end_products();
        wait_for_products<0>();
    }

    // What the second warpgroup has, a number of every thread after the other, to the first.
    float *const others = reinterpret_cast<float *>(shared);
    __syncthreads();
    if (group == 1) {
#pragma unroll
        for (int i = 0; i < 32; i++) others[128 * i + threadIdx.x % 128] = sums[i];
#pragma unroll
        for (int row = 0; row < 2; row++) {
            others[128 * (32 + row) + threadIdx.x % 128] = largest[row];
            others[128 * (34 + row) + threadIdx.x % 128] = total[row];
        }
    }
    __syncthreads();
    if (group == 1) return;
#pragma unroll
    for (int row = 0; row < 2; row++) {
        const float other = others[128 * (32 + row) + threadIdx.x], highest = fmaxf(largest[row], other);
        const float mine = power_of_two((largest[row] - highest) * p.scale);
        const float its = power_of_two((other - highest) * p.scale);
        total[row] = total[row] * mine + others[128 * (34 + row) + threadIdx.x] * its;
#pragma unroll
        for (int i = 0; i < 32; i++) {
            if (i % 4 / 2 == row) sums[i] = sums[i] * mine + others[128 * i + threadIdx.x] * its;
        }
    }

    write_rows(out, sums, total, first_query + 16 * warp + lane / 4, batch, head, p.queries, p.heads);
}

#define ATTENTION(NAME, T)                                                                                             \
    extern "C" __global__ void __launch_bounds__(128 * GROUPS, 1)                                                      \
        attention_split_sm90_##NAME(T *out, const T *q, const T *k, const T *v, AttentionParams params) {              \
        DYNAMIC_SHARED(shared);                                                                                        \
        attention<T>(shared, out, q, k, v, params);                                                                    \
    }
ATTENTION(f16, __half)
ATTENTION(bf16, __nv_bfloat16)
