// The nine taps of a 3x3 convolution side by side, (batch, height, width, channels) to rows of 9 channels each, zeros
// outside: each thread moves V neighbouring channels of one tap of one pixel. With `step` 2 of every second pixel of every
// second row.

#include "element.cuh"

template <typename T, int V>
__device__ void taps(T *out, const T *x, unsigned height, unsigned width, unsigned channels, unsigned first_row,
                     unsigned step, unsigned relu, unsigned count) {
    const unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    const unsigned pieces = channels / V;
    const unsigned channel = index % pieces * V;
    const unsigned tap = index / pieces % 9;
    const unsigned pixel = index / (9 * pieces);
    const unsigned rows = (height + step - 1) / step, columns = (width + step - 1) / step;
    const unsigned column = pixel % columns * step + tap % 3 - 1;
    // Rows run through the whole batch: a row's place in its own image tells the edges.
    const unsigned batch_row = first_row + pixel / columns;
    const unsigned row = batch_row % rows * step + tap / 3 - 1;
    float values[V] = {};
    // One before the first wraps around to the largest number.
    if (row < height && column < width) {
        load<T, V>(values, x + (size_t(batch_row / rows * height + row) * width + column) * channels + channel);
        if (relu) {
#pragma unroll
            for (int i = 0; i < V; i++) values[i] = fmaxf(values[i], 0.f);
        }
    }
    store<T, V>(out + size_t(index) * V, values);
}

#define TAPS(NAME, T, V)                                                                                               \
    extern "C" __global__ void taps3x3_##NAME(T *out, const T *x, unsigned height, unsigned width, unsigned channels,  \
                                              unsigned first_row, unsigned step, unsigned relu,                          \
                                              unsigned count) {                                                        \
        taps<T, V>(out, x, height, width, channels, first_row, step, relu, count);                                     \
    }
FOR_EACH_DTYPE(TAPS)
