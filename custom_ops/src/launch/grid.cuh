// What the thread blocks of a launch do together; the launch is a cooperative one, which has all of them under way at
// once.

#pragma once

// Ends a step of the whole grid: what was written before it is seen after it.
struct GridBarrier {
    // Thread blocks that have come to it so far: zero at first.
    unsigned *arrived;
    unsigned expected = 0;

    __device__ __forceinline__ void wait() {
        expected += gridDim.x;
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence();
            atomicAdd(arrived, 1u);
            while (*static_cast<volatile unsigned *>(arrived) < expected) {}
            __threadfence();
        }
        __syncthreads();
    }
};
