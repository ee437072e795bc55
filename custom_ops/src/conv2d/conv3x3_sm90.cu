// 3x3 convolution over channels-last maps on Hopper, padding 1: a product of 128 pixels with 64 or 128 output channels a
// block, whose left operand is never gathered: a box of pixels is copied from the place that its tap reads, and what lies
// outside of the map arrives as zeros.
//
// Two warpgroups take 64 pixels each; one more warp keeps the copies ahead of them by a few stages, each of 64 channels
// of one tap. Two blocks share a multiprocessor, so that one ends while the other goes on.

#include "element.cuh"
#include "warpgroup.cuh"

struct ConvParams {
    unsigned height, width, output;
    // Steps of 64 input channels.
    unsigned steps;
    // Pixels of a block: 2^log_width columns by 128 / 2^log_width rows.
    unsigned log_width;
    // Maps of the batch that have the same weights.
    unsigned maps;
    unsigned relu, has_bias, has_residual;
};
static_assert(sizeof(ConvParams) == 36, "as the host has it");

constexpr int PIXELS = 128;
constexpr int THREADS = 288;

// relu?(conv(x) + bias) + residual. `x` has the axes channel, column, row, map; `weight` input channel and, as one axis,
// output channels of the taps of each part of the batch.
template <typename T, int N, int STAGES>
__device__ void conv3x3(char *shared, const CUtensorMap *x, const CUtensorMap *weight, T *out, const T *bias,
                        const T *residual, ConvParams p) {
    constexpr int PIXEL_BYTES = PIXELS * TILE_ROW, STAGE_BYTES = PIXEL_BYTES + N * TILE_ROW;
    __shared__ Barrier full[STAGES], empty[STAGES];
    const unsigned columns = 1u << p.log_width, tiles = (p.width + columns - 1) >> p.log_width;
    const int first_column = blockIdx.y % tiles * columns, first_row = blockIdx.y / tiles * (PIXELS >> p.log_width);
    const int map = blockIdx.z, first_output = blockIdx.x * N, part = map / p.maps;
    const int rounds = 9 * p.steps;
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
            const int stage = round % STAGES, tap = round / p.steps, channel = round % p.steps * 64;
            if (round >= STAGES) wait_barrier(&empty[stage], (round / STAGES - 1) & 1);
            arrive_with_bytes(&full[stage], STAGE_BYTES);
            char *const tile = shared + stage * STAGE_BYTES;
            copy_box(tile, x, channel, first_column + tap % 3 - 1, first_row + tap / 3 - 1, map, &full[stage]);
            copy_box(tile + PIXEL_BYTES, weight, channel, (part * 9 + tap) * p.output + first_output, &full[stage]);
        }
        return;
    }

    const int group = threadIdx.x / 128;
    float sums[N / 2];
    for (int round = 0; round < rounds; round++) {
        const int stage = round % STAGES;
        const char *const tile = shared + stage * STAGE_BYTES, *const pixels = tile + group * (PIXEL_BYTES / 2);
        wait_barrier(&full[stage], round / STAGES % 2);
        begin_products();
#pragma unroll
        for (int step = 0; step < 4; step++) {
            multiply_rows<T>(sums, pixels + 32 * step, tile + PIXEL_BYTES + 32 * step, round > 0 || step > 0);
        }
        end_products();
        // Those of the round before are done.
        wait_for_products<1>();
        if (round > 0 && threadIdx.x % 128 == 0) arrive(&empty[(round - 1) % STAGES]);
    }
    wait_for_products<0>();

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int channel = first_output + lane % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int pixel = 16 * warp + lane / 4 + 8 * half;
        const unsigned row = first_row + (pixel >> p.log_width), column = first_column + pixel % columns;
        if (row >= p.height || column >= p.width) continue;
        const size_t at = ((size_t(map) * p.height + row) * p.width + column) * p.output + channel;
#pragma unroll
        for (int eight = 0; eight < N / 8; eight++) {
            float values[2] = {sums[4 * eight + 2 * half], sums[4 * eight + 2 * half + 1]}, added[2];
            if (p.has_bias) {
                load<T, 2>(added, bias + part * p.output + channel + 8 * eight);
                values[0] += added[0], values[1] += added[1];
            }
            if (p.relu) values[0] = fmaxf(values[0], 0.f), values[1] = fmaxf(values[1], 0.f);
            if (p.has_residual) {
                load<T, 2>(added, residual + at + 8 * eight);
                values[0] += added[0], values[1] += added[1];
            }
            store<T, 2>(out + at + 8 * eight, values);
        }
    }
}

#define CONV3X3(NAME, T, N, STAGES)                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                           \
        conv3x3_sm90_##NAME(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap weight, T *out, \
                            const T *bias, const T *residual, ConvParams params) {                                     \
        DYNAMIC_SHARED(shared);                                                                                        \
        conv3x3<T, N, STAGES>(shared, &x, &weight, out, bias, residual, params);                                       \
    }
CONV3X3(f16_64, __half, 64, 4)
CONV3X3(bf16_64, __nv_bfloat16, 64, 4)
CONV3X3(f16_128, __half, 128, 3)
CONV3X3(bf16_128, __nv_bfloat16, 128, 3)
