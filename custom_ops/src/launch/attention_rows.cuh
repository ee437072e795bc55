// What the attention kernels for Hopper end with.
#pragma once

#include "attention.cuh"
#include "matrix_units.cuh"

// Writes the lane's two rows, queries `first` and `first` + 8, of a head: sums over keys, by the totals of their weights,
// of which each of the row's four lanes has a part.
template <typename T>
__device__ __forceinline__ void write_rows(T *out, const float (&sums)[32], float (&total)[2], unsigned first,
                                           unsigned batch, unsigned head, unsigned queries, unsigned heads) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int row = 0; row < 2; row++) {
        total[row] += __shfl_xor_sync(0xffffffff, total[row], 1);
        total[row] += __shfl_xor_sync(0xffffffff, total[row], 2);
        const unsigned query = first + 8 * row;
        if (query >= queries) continue;
        T *to = out + ((size_t(batch) * queries + query) * heads + head) * DIM + lane % 4 * 2;
        const float inverse = 1.f / total[row];
#pragma unroll
        for (int group = 0; group < 8; group++) {
            *reinterpret_cast<uint32_t *>(to + 8 * group) =
                pair<T>(sums[4 * group + 2 * row] * inverse, sums[4 * group + 2 * row + 1] * inverse);
        }
    }
}
