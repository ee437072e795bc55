// attention.cu for Hopper: the same results and softmax; products are a warpgroup's, and copies are of boxes.
//
// A block takes 64 queries of one head for each of its two or three warpgroups, which share the keys and values: 128 at
// a time, kept coming by one more warp. The scores of the next keys are multiplied while those of the last ones weigh
// their values, and the warpgroups take turns at giving the units work, so that the powers of one are taken while they
// multiply for another.

#include "attention.cuh"
#include "attention_rows.cuh"
#include "matrix_units.cuh"
#include "warpgroup.cuh"

// Of a warpgroup.
constexpr int QUERIES = 64;
constexpr int KEYS = 128;
constexpr int QUERY_BYTES = QUERIES * TILE_ROW, KEY_BYTES = KEYS * TILE_ROW;
// Tiles of keys, and of values, that there is room for.
template <int GROUPS> constexpr int STAGES_OF = GROUPS == 2 ? 3 : 2;
static_assert(QUERY_BYTES == 8192 && KEY_BYTES == 16384, "as the host has it");

// Of a thread of the warpgroup that copies, and of the others: 64 Ki in all.
constexpr int COPYING_REGISTERS = 24;
template <int GROUPS> constexpr int REGISTERS = GROUPS == 2 ? 240 : 160;

// Scores as weights below the largest of their row, which goes on from tile to tile: returns by how much what was summed
// before shrinks. Of the lane's two rows, g and g + 8.
//
// CHAINS maxima and sums of each row at a time: of two warpgroups not enough is under way without.
template <int CHAINS>
__device__ __forceinline__ void weigh(float (&scores)[64], float (&largest)[2], float (&total)[2], float (&shrink)[2],
                                      float scale) {
    float most[CHAINS][2], sums[CHAINS][2] = {}, highest[2], offset[2];
#pragma unroll
    for (int i = 0; i < 64; i++) {
        float &one = most[i / 4 % CHAINS][i % 4 / 2];
        one = i < 4 * CHAINS && i % 2 == 0 ? scores[i] : fmaxf(one, scores[i]);
    }
#pragma unroll
    for (int row = 0; row < 2; row++) {
        highest[row] = largest[row];
#pragma unroll
        for (int chain = 0; chain < CHAINS; chain++) highest[row] = fmaxf(highest[row], most[chain][row]);
        // The four lanes of a row.
        highest[row] = fmaxf(highest[row], __shfl_xor_sync(0xffffffff, highest[row], 1));
        highest[row] = fmaxf(highest[row], __shfl_xor_sync(0xffffffff, highest[row], 2));
        shrink[row] = power_of_two((largest[row] - highest[row]) * scale);
        largest[row] = highest[row];
        offset[row] = highest[row] * scale;
        total[row] *= shrink[row];
    }
#pragma unroll
    for (int i = 0; i < 64; i++) {
        scores[i] = power_of_two(fmaf(scores[i], scale, -offset[i % 4 / 2]));
        sums[i / 4 % CHAINS][i % 4 / 2] += scores[i];
    }
#pragma unroll
    for (int row = 0; row < 2; row++) {
#pragma unroll
        for (int chain = 0; chain < CHAINS; chain++) total[row] += sums[chain][row];
    }
}

template <typename T, int GROUPS>
__device__ void attention(char *shared, const CUtensorMap *q, const CUtensorMap *k, const CUtensorMap *v, T *out,
                          BoxedAttentionParams p) {
    constexpr int STAGES = STAGES_OF<GROUPS>, CHAINS = GROUPS == 2 ? 4 : 1;
    __shared__ Barrier queries_full, keys_full[STAGES], keys_empty[STAGES], values_full[STAGES], values_empty[STAGES];
    char *const query_tiles = shared, *const key_tiles = query_tiles + GROUPS * QUERY_BYTES;
    char *const value_tiles = key_tiles + STAGES * KEY_BYTES;
    const int head = blockIdx.y % p.heads, batch = blockIdx.y / p.heads, first_query = blockIdx.x * GROUPS * QUERIES;
    const int tiles = (p.keys + KEYS - 1) / KEYS;
    if (threadIdx.x == 0) {
        start_barrier(&queries_full, 1);
        for (int stage = 0; stage < STAGES; stage++) {
            start_barrier(&keys_full[stage], 1);
            start_barrier(&values_full[stage], 1);
            start_barrier(&keys_empty[stage], GROUPS);
            start_barrier(&values_empty[stage], GROUPS);
        }
        publish_barriers();
    }
    __syncthreads();

    if (threadIdx.x >= 128 * GROUPS) {
        give_registers<COPYING_REGISTERS>();
        if (threadIdx.x != 128 * GROUPS) return;
        arrive_with_bytes(&queries_full, GROUPS * QUERY_BYTES);
        for (int group = 0; group < GROUPS; group++) {
            copy_box(query_tiles + group * QUERY_BYTES, q, 0, head, first_query + group * QUERIES, batch, &queries_full);
        }
        for (int tile = 0; tile < tiles; tile++) {
            const int stage = tile % STAGES;
            const unsigned before = (tile / STAGES - 1) & 1;
            if (tile >= STAGES) wait_barrier(&keys_empty[stage], before);
            arrive_with_bytes(&keys_full[stage], KEY_BYTES);
            copy_box(key_tiles + stage * KEY_BYTES, k, 0, head, tile * KEYS, batch, &keys_full[stage]);
            if (tile >= STAGES) wait_barrier(&values_empty[stage], before);
            arrive_with_bytes(&values_full[stage], KEY_BYTES);
            copy_box(value_tiles + stage * KEY_BYTES, v, 0, head, tile * KEYS, batch, &values_full[stage]);
        }
        return;
    }

    take_registers<REGISTERS<GROUPS>>();
    const int lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32, group = threadIdx.x / 128;
    const char *const query_tile = query_tiles + group * QUERY_BYTES;
    float sums[32] = {}, scores[64], largest[2] = {-INFINITY, -INFINITY}, total[2] = {0.f, 0.f};
    uint32_t weights[8][4];

    // scores = q k
    const auto begin_scores = [&](int tile) {
        const char *const keys = key_tiles + tile % STAGES * KEY_BYTES;
        wait_barrier(&keys_full[tile % STAGES], tile / STAGES % 2);
        begin_products();
#pragma unroll
        for (int step = 0; step < DIM / 16; step++) {
            multiply_rows<T>(scores, query_tile + 32 * step, keys + 32 * step, step > 0);
        }
        end_products();
    };
    // sums += weights v: sixteen keys at a time.
    const auto begin_sums = [&](int tile) {
        const char *const values = value_tiles + tile % STAGES * KEY_BYTES;
        wait_barrier(&values_full[tile % STAGES], tile / STAGES % 2);
        begin_products();
#pragma unroll
        for (int step = 0; step < KEYS / 16; step++) {
            multiply_columns<T>(sums, weights[step], values + 16 * TILE_ROW * step);
        }
        end_products();
    };
    // Keys past the end weigh nothing.
    const auto mask = [&](int tile) {
        const int left = int(p.keys) - tile * KEYS;
        if (left >= KEYS) return;
#pragma unroll
        for (int i = 0; i < 64; i++) {
            if (i / 4 * 8 + lane % 4 * 2 + i % 2 >= left) scores[i] = -INFINITY;
        }
    };
    const auto release = [&](Barrier *empty) {
        if (threadIdx.x % 128 == 0) arrive(empty);
    };
    const auto pack = [&] {
#pragma unroll
        for (int i = 0; i < 32; i++) weights[i / 4][i % 4] = pair<T>(scores[2 * i], scores[2 * i + 1]);
    };

    float shrink[2];
    if (tiles > 1 && group == GROUPS - 1) pass_turn<256>(1);
    wait_barrier(&queries_full, 0);
    begin_scores(0);
    wait_for_products<0>();
    release(&keys_empty[0]);
    mask(0);
    weigh<CHAINS>(scores, largest, total, shrink, p.scale);
    pack();
    for (int tile = 1; tile < tiles; tile++) {
        wait_for_turn<256>(1 + group);
        begin_scores(tile);
        begin_sums(tile - 1);
        // To the next one; the last turn is the last warpgroup's.
        if (tile + 1 < tiles || group + 1 < GROUPS) pass_turn<256>(1 + (group + 1) % GROUPS);
        wait_for_products<1>();
        release(&keys_empty[tile % STAGES]);
        mask(tile);
        weigh<CHAINS>(scores, largest, total, shrink, p.scale);
        wait_for_products<0>();
        release(&values_empty[(tile - 1) % STAGES]);
#pragma unroll
        for (int i = 0; i < 32; i++) sums[i] *= shrink[i % 4 / 2];
        pack();
    }
    begin_sums(tiles - 1);
    wait_for_products<0>();

    const unsigned first = first_query + QUERIES * group + 16 * warp + lane / 4;
    write_rows(out, sums, total, first, batch, head, p.queries, p.heads);
}

#define ATTENTION(NAME, T, GROUPS)                                                                                     \
    extern "C" __global__ void __launch_bounds__(128 * GROUPS + 128, 1)                                                 \
        attention_sm90_##NAME(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,            \
                              const __grid_constant__ CUtensorMap v, T *out, BoxedAttentionParams params) {            \
        DYNAMIC_SHARED(shared);                                                                                        \
        attention<T, GROUPS>(shared, &q, &k, &v, out, params);                                                         \
    }
ATTENTION(f16_2, __half, 2)
ATTENTION(bf16_2, __nv_bfloat16, 2)
ATTENTION(f16_3, __half, 3)
ATTENTION(bf16_3, __nv_bfloat16, 3)
