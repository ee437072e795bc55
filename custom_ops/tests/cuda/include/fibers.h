// The threads of a block as fibers, and what a driver reads and allocates.

#pragma once

#include <ucontext.h>

#include <cstdlib>
#include <deque>
#include <memory>
#include <string>

uint3 threadIdx, blockIdx, blockDim, gridDim;

// The address sanitizer goes through a whole stack at every turn.
constexpr std::size_t STACK = 1 << 16;

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack = std::make_unique<char[]>(STACK);
    uint3 place;
    bool is_done;
    std::vector<Copy> copies;
    Products products;
};

// Those of the block that runs.
std::deque<Fiber> fibers;
std::deque<Warp> warps;
ucontext_t scheduler;
Fiber *current;
void (*body)();
unsigned waiting = 0, releases = 0, phases = 0;

Warp &warp() { return warps[threadIdx.x / 32]; }
std::vector<Copy> &copies() { return current->copies; }
Products &products_of(unsigned thread) { return fibers.at(thread).products; }

void yield() {
    Fiber &mine = *current;
    swapcontext(&mine.context, &scheduler);
    threadIdx = mine.place;
}

void __syncthreads() {
    const unsigned release = releases;
    waiting++;
    while (releases == release) yield();
}

void begin() {
    body();
    current->is_done = true;
}

void run_block(unsigned threads) {
    warps.clear();
    warps.resize((threads + 31) / 32);
    fibers.resize(threads);
    waiting = 0;
    for (unsigned i = 0; i < threads; i++) {
        Fiber &fiber = fibers[i];
        fiber.place = {i, 0, 0};
        fiber.is_done = false;
        fiber.copies.clear();
        fiber.products = {};
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = &scheduler;
        makecontext(&fiber.context, begin, 0);
    }
    for (;;) {
        unsigned left = 0, occasions = phases;
        for (const Warp &w : warps) occasions += w.occasions;
        bool has_ended = false;
        // The last comes first: a kernel must not rely on an order.
        for (std::size_t i = fibers.size(); i-- > 0;) {
            Fiber &fiber = fibers[i];
            if (fiber.is_done) continue;
            current = &fiber;
            threadIdx = fiber.place;
            swapcontext(&scheduler, &fiber.context);
            has_ended |= fiber.is_done;
            left += !fiber.is_done;
        }
        if (left == 0) break;
        unsigned after = phases;
        for (const Warp &w : warps) after += w.occasions;
        if (waiting == left) {
            waiting = 0;
            releases++;
        } else if (!has_ended && after == occasions) {
            std::fprintf(stderr, "a deadlock: %u threads left, %u of them at a barrier\n", left, waiting), std::exit(1);
        }
    }
}

template <typename T> bool read(T *to, std::size_t count) { return std::fread(to, sizeof(T), count, stdin) == count; }

template <typename T> T need() {
    T value;
    if (!read(&value, 1)) std::fprintf(stderr, "the request ends early\n"), std::exit(1);
    return value;
}

struct Memory {
    char *bytes;
    std::size_t size;
};

Memory allocate(std::size_t size) {
    void *bytes = nullptr;
    if (posix_memalign(&bytes, 256, size)) std::exit(1);
    // Not a number: what is read before it is written is seen.
    std::memset(bytes, 0xff, size);
    return {static_cast<char *>(bytes), size};
}

// Runs `body` for every block, the last first.
void run_grid(const unsigned (&blocks)[3], unsigned threads) {
    blockDim = {threads, 1, 1};
    gridDim = {blocks[0], blocks[1], blocks[2]};
    for (unsigned z = blocks[2]; z-- > 0;) {
        for (unsigned y = blocks[1]; y-- > 0;) {
            for (unsigned x = blocks[0]; x-- > 0;) {
                blockIdx = {x, y, z};
                run_block(threads);
            }
        }
    }
}
