// gelu(x W^T + bias) on Hopper: a product of 128 rows with 64 or 128 output channels a block, whose activation is applied
// to the sums, so that they never are in memory.
//
// As conv3x3_sm90.cu: two warpgroups take 64 rows each; one more warp keeps the copies ahead of them by a few stages of 64
// channels. Two blocks share a multiprocessor, so that the activation of one goes on during the products of the other.

#include "element.cuh"
#include "gelu.cuh"
#include "warpgroup.cuh"

struct GeluParams {
    // Rows of each part, which have the same weights.
    unsigned rows, output;
    // Steps of 64 input channels.
    unsigned steps;
};
static_assert(sizeof(GeluParams) == 12, "as the host has it");

constexpr int ROWS = 128;
constexpr int THREADS = 288;

// Two numbers of T, rounded.
template <typename T> __device__ __forceinline__ uint32_t both(float low, float high) {
    Vector<T, 2> vector = {{rounded<T>(low), rounded<T>(high)}};
    return *reinterpret_cast<const uint32_t *>(&vector);
}

// What lane k of four neighbours has in words[t] goes to words[k] of lane t.
__device__ __forceinline__ void transpose(uint32_t (&words)[4], int lane) {
#pragma unroll
    for (int step = 1; step <= 2; step *= 2) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (i & step) continue;
            const bool is_upper = lane & step;
            const uint32_t got = __shfl_xor_sync(0xffffffff, is_upper ? words[i] : words[i + step], step);
            if (is_upper) words[i] = got;
            else words[i + step] = got;
        }
    }
}

// `x` has the axes input channel and, as one, rows of all parts; `weight` input channel and output channels of all parts.
template <typename T, int N, int STAGES>
__device__ void linear_gelu(char *shared, const CUtensorMap *x, const CUtensorMap *weight, T *out, const T *bias,
                            GeluParams p) {
    constexpr int ROW_BYTES = ROWS * TILE_ROW, STAGE_BYTES = ROW_BYTES + N * TILE_ROW;
    __shared__ Barrier full[STAGES], empty[STAGES];
    const unsigned first_output = blockIdx.x * N, first_row = blockIdx.y * ROWS, part = blockIdx.z;
    const int rounds = p.steps;
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; stage++) {
            start_barrier(&full[stage], 1);
            start_barrier(&empty[stage], 2);
        }
        publish_barriers();
    }
    __syncthreads();

    if (threadIdx.x >= 256) {
        if (threadIdx.x != 256) return;
        for (int round = 0; round < rounds; round++) {
            const int stage = round % STAGES;
            if (round >= STAGES) wait_barrier(&empty[stage], (round / STAGES - 1) & 1);
            arrive_with_bytes(&full[stage], STAGE_BYTES);
            char *const tile = shared + stage * STAGE_BYTES;
            copy_box(tile, x, round * 64, part * p.rows + first_row, &full[stage]);
            copy_box(tile + ROW_BYTES, weight, round * 64, part * p.output + first_output, &full[stage]);
        }
        return;
    }

    const int group = threadIdx.x / 128;
    float sums[N / 2];
    for (int round = 0; round < rounds; round++) {
        const int stage = round % STAGES;
        const char *const tile = shared + stage * STAGE_BYTES, *const rows = tile + group * (ROW_BYTES / 2);
        wait_barrier(&full[stage], round / STAGES % 2);
        begin_products();
#pragma unroll
        for (int step = 0; step < 4; step++) {
            multiply_rows<T>(sums, rows + 32 * step, tile + ROW_BYTES + 32 * step, round > 0 || step > 0);
        }
        end_products();
        // Those of the round before are done.
        wait_for_products<1>();
        if (round > 0 && threadIdx.x % 128 == 0) arrive(&empty[(round - 1) % STAGES]);
    }
    wait_for_products<0>();

    // A lane has two numbers of every eight in a row; after the transposition all eight of every fourth eight.
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, quarter = lane % 4;
    bias += part * p.output + first_output;
    out += size_t(part) * p.rows * p.output + first_output;
#pragma unroll
    for (int first = 0; first < N / 8; first += 4) {
        float added[4][2];
#pragma unroll
        for (int i = 0; i < 4; i++) load<T, 2>(added[i], bias + 8 * (first + i) + 2 * quarter);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t words[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float *sum = sums + 4 * (first + i) + 2 * half;
                words[i] = both<T>(gelu<T>(sum[0] + added[i][0]), gelu<T>(sum[1] + added[i][1]));
            }
            transpose(words, lane);
            const unsigned row = first_row + 16 * warp + lane / 4 + 8 * half;
            if (row >= p.rows) continue;
            const uint4 vector = {words[0], words[1], words[2], words[3]};
            *reinterpret_cast<uint4 *>(out + size_t(row) * p.output + 8 * (first + quarter)) = vector;
        }
    }
}

#define LINEAR_GELU(NAME, T, N, STAGES)                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                           \
        linear_gelu_sm90_##NAME(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap weight,     \
                                T *out, const T *bias, GeluParams params) {                                            \
        DYNAMIC_SHARED(shared);                                                                                        \
        linear_gelu<T, N, STAGES>(shared, &x, &weight, out, bias, params);                                             \
    }
LINEAR_GELU(f16_64, __half, 64, 4)
LINEAR_GELU(bf16_64, __nv_bfloat16, 64, 4)
LINEAR_GELU(f16_128, __half, 128, 3)
LINEAR_GELU(bf16_128, __nv_bfloat16, 128, 3)
