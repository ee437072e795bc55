// Our grid.cuh in C++17; see matrix_units.cuh.

#pragma once

#include "matrix_units.cuh"

// Waits for all threads of the grid, whose blocks run at once.
void wait_for_grid();

struct GridBarrier {
    unsigned *arrived;

    void wait() { wait_for_grid(); }
};
