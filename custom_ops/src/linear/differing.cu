// Whether two results differ in any bit: sets `found` to 1 where they do.

extern "C" __global__ void differing(const unsigned *a, const unsigned *b, unsigned words, unsigned *found) {
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < words; i += gridDim.x * blockDim.x) {
        if (a[i] != b[i]) *found = 1;
    }
}
