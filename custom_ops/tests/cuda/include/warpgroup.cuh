// As much of our warpgroup.cuh as our kernels use, in C++17; see matrix_units.cuh.
//
// Boxes arrive as soon as they are asked for. Products happen when a thread of their warpgroup waits for them: one that
// is not waited for is not in the sums, and one whose tile is written over too early is wrong.

#pragma once

#include "matrix_units.cuh"

// Phases of barriers and groups of products that have ended so far.
extern unsigned phases;

constexpr int TILE_ROW = 128;

inline int piece_offset(int row, int piece) { return row * TILE_ROW + ((piece ^ (row & 7)) << 4); }
inline void publish_shared() {}
inline void begin_products() { together({}); }

inline void end_products() {
    together({});
    Products &mine = products_of(threadIdx.x);
    mine.ended.push_back(std::move(mine.begun));
    mine.begun.clear();
}

// A product is the whole warpgroup's: it is done when all four warps have asked for it, and then for all of them.
template <int N> void wait_for_products() {
    const std::size_t ended = products_of(threadIdx.x).ended.size(), target = ended > N ? ended - N : 0;
    const unsigned first = threadIdx.x / 128 * 128;
    for (unsigned thread = first; thread < first + 128; thread++) {
        while (products_of(thread).ended.size() < target) yield();
    }
    for (unsigned thread = first; thread < first + 128; thread++) {
        Products &its = products_of(thread);
        for (; its.done < target; its.done++, phases++) {
            for (const auto &product : its.ended[its.done]) product();
            its.ended[its.done].clear();
        }
    }
}

// Number `byte / sizeof(T)` of row `row` of a tile, or of a part of it that begins at `from`.
template <typename T> float in_tile(const void *from, unsigned row, unsigned byte) {
    std::uintptr_t at = reinterpret_cast<std::uintptr_t>(from) + row / 8 * 1024 + row % 8 * TILE_ROW + byte;
    at ^= (at >> 7 & 7) << 4;
    T x;
    std::memcpy(&x, reinterpret_cast<const void *>(at), sizeof x);
    return x;
}

// The row and the column of sum i of a thread's.
inline void place_of(unsigned thread, int i, unsigned &row, unsigned &column) {
    row = thread % 128 / 32 * 16 + thread % 32 / 4 + i % 4 / 2 * 8;
    column = i / 4 * 8 + thread % 4 * 2 + i % 2;
}

template <typename T, int N> void multiply_rows(float (&d)[N], const void *a, const void *b, bool add) {
    together({});
    products_of(threadIdx.x).begun.push_back([&d, a, b, add, thread = threadIdx.x] {
        for (int i = 0; i < N; i++) {
            unsigned row, column;
            place_of(thread, i, row, column);
            float sum = add ? d[i] : 0.f;
            for (unsigned k = 0; k < 16; k++) sum += in_tile<T>(a, row, 2 * k) * in_tile<T>(b, column, 2 * k);
            d[i] = sum;
        }
    });
}

template <typename T, int N> void multiply_columns(float (&d)[N], const uint32_t (&a)[4], const void *b) {
    const Brought *all = together({nullptr, {a[0], a[1], a[2], a[3]}, {}, 0});
    std::vector<float> rows(16 * 16);
    for (unsigned other = 0; other < 32; other++) {
        for (unsigned i = 0; i < 8; i++) {
            T x;
            x.bits = std::uint16_t(all[other].a[i / 2] >> (16 * (i % 2)));
            rows[(other / 4 + i / 2 % 2 * 8) * 16 + other % 4 * 2 + i % 2 + i / 4 * 8] = x;
        }
    }
    products_of(threadIdx.x).begun.push_back([&d, rows, b, thread = threadIdx.x] {
        for (int i = 0; i < N; i++) {
            unsigned row, column;
            place_of(thread, i, row, column);
            for (unsigned k = 0; k < 16; k++) d[i] += rows[row % 16 * 16 + k] * in_tile<T>(b, k, 2 * column);
        }
    });
}

struct Barrier {
    int arrivals, missing;
    long bytes;
    unsigned phase;

    void look() {
        if (missing > 0 || bytes > 0) return;
        missing = arrivals;
        phase++;
        phases++;
    }
};

inline void start_barrier(Barrier *barrier, int arrivals) { *barrier = {arrivals, arrivals, 0, 0}; }
inline void publish_barriers() {}

inline void arrive(Barrier *barrier) {
    barrier->missing--;
    barrier->look();
}

inline void arrive_with_bytes(Barrier *barrier, unsigned bytes) {
    barrier->bytes += bytes;
    arrive(barrier);
}

inline void wait_barrier(Barrier *barrier, unsigned parity) {
    while (barrier->phase % 2 == parity) yield();
}

// Half-precision numbers, the innermost axis first.
struct CUtensorMap {
    const char *numbers;
    unsigned dims[4], box[4];
};

inline void copy_box(void *to, const CUtensorMap *tensor, int a, int b, int c, int d, Barrier *barrier) {
    if (reinterpret_cast<std::uintptr_t>(to) % 1024 != 0) std::fprintf(stderr, "a box that is not aligned\n"), std::exit(1);
    const int from[4] = {a, b, c, d};
    const unsigned(&box)[4] = tensor->box;
    const unsigned count = box[0] * box[1] * box[2] * box[3];
    for (unsigned i = 0; i < count; i++) {
        const unsigned places[4] = {i % box[0], i / box[0] % box[1], i / box[0] / box[1] % box[2],
                                    i / box[0] / box[1] / box[2]};
        std::size_t at = 0;
        bool inside = true;
        for (int axis = 3; axis >= 0; axis--) {
            const int place = from[axis] + int(places[axis]);
            inside &= place >= 0 && place < int(tensor->dims[axis]);
            at = at * tensor->dims[axis] + place;
        }
        const unsigned row = i / box[0], byte = i % box[0] * 2;
        char *target = static_cast<char *>(to) + piece_offset(row, byte / 16) + byte % 16;
        if (inside) {
            std::memcpy(target, tensor->numbers + 2 * at, 2);
        } else {
            std::memset(target, 0, 2);
        }
    }
    barrier->bytes -= 2 * long(count);
    barrier->look();
}

inline void copy_box(void *to, const CUtensorMap *tensor, int a, int b, Barrier *barrier) {
    copy_box(to, tensor, a, b, 0, 0, barrier);
}

template <int N> void give_registers() {}
template <int N> void take_registers() {}

// Threads that have come to each of a block's numbered barriers, and how often one was full. What is left at a block's
// end would be there for the next one.
inline unsigned came[16], filled[16];

template <int THREADS> void pass_turn(int barrier) {
    if (++came[barrier] < THREADS) return;
    came[barrier] = 0;
    filled[barrier]++;
    phases++;
}

template <int THREADS> void wait_for_turn(int barrier) {
    const unsigned before = filled[barrier];
    pass_turn<THREADS>(barrier);
    while (filled[barrier] == before) yield();
}
