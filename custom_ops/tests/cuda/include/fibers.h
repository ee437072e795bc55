// The threads of a block, or of blocks that run at once, as fibers; and what a driver reads and allocates.

#pragma once

#include <ucontext.h>

#include <cstdlib>
#include <deque>
#include <memory>
#include <string>

uint3 threadIdx, blockIdx, blockDim, gridDim;
char *dynamic_shared;

// The address sanitizer goes through a whole stack at every turn.
constexpr std::size_t STACK = 1 << 16;

struct Memory {
    char *bytes;
    std::size_t size;
};

// Of its own, so that the address sanitizer sees an access beyond it.
Memory allocate(std::size_t size) {
    void *bytes = nullptr;
    if (posix_memalign(&bytes, 1024, size)) std::exit(1);
    // Not a number: what is read before it is written is seen.
    std::memset(bytes, 0xff, size);
    return {static_cast<char *>(bytes), size};
}

struct Block {
    uint3 place;
    // Dynamic shared memory.
    std::unique_ptr<char, decltype(&std::free)> shared{nullptr, std::free};
    std::deque<Warp> warps;
    // Threads that have not ended, and those of them at the barrier.
    unsigned left, waiting = 0, releases = 0;
};

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack = std::make_unique<char[]>(STACK);
    Block *block;
    uint3 place;
    bool is_done;
    Copies copies;
    Products products;
};

// Of the blocks that run, in their order.
std::deque<Block> running;
std::deque<Fiber> fibers;
ucontext_t scheduler;
Fiber *current;
void (*body)();
unsigned phases = 0;
// At the barrier of the grid.
unsigned waiting_in_grid = 0, releases_of_grid = 0;

Warp &warp() { return current->block->warps[threadIdx.x / 32]; }
Copies &copies() { return current->copies; }
// Of a thread of the block that runs alone.
Products &products_of(unsigned thread) { return fibers.at(thread).products; }

// What the threads see of where they are.
void go_on(const Fiber &fiber) {
    threadIdx = fiber.place, blockIdx = fiber.block->place, dynamic_shared = fiber.block->shared.get();
}

void yield() {
    Fiber &mine = *current;
    swapcontext(&mine.context, &scheduler);
    go_on(mine);
}

void __syncthreads() {
    Block &block = *current->block;
    const unsigned release = block.releases;
    block.waiting++;
    while (block.releases == release) yield();
}

void wait_for_grid() {
    const unsigned release = releases_of_grid;
    waiting_in_grid++;
    while (releases_of_grid == release) yield();
}

void begin() {
    body();
    current->is_done = true;
}

// Runs `body` for some blocks at once. Shared memory that is not dynamic is one for all: only a block that runs alone may
// have any.
void run_blocks(const std::vector<uint3> &places, unsigned threads, unsigned shared) {
    running.clear();
    fibers.resize(places.size() * threads);
    waiting_in_grid = 0;
    for (std::size_t b = 0; b < places.size(); b++) {
        Block &block = running.emplace_back();
        block.place = places[b], block.left = threads;
        if (shared > 0) block.shared.reset(allocate(shared).bytes);
        block.warps.resize((threads + 31) / 32);
        for (unsigned i = 0; i < threads; i++) {
            Fiber &fiber = fibers[b * threads + i];
            fiber.block = &block;
            fiber.place = {i, 0, 0};
            fiber.is_done = false;
            fiber.copies = {};
            fiber.products = {};
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = fiber.stack.get();
            fiber.context.uc_stack.ss_size = STACK;
            fiber.context.uc_link = &scheduler;
            makecontext(&fiber.context, begin, 0);
        }
    }
    const auto occasions = [] {
        unsigned count = phases;
        for (const Block &block : running) {
            for (const Warp &w : block.warps) count += w.occasions;
        }
        return count;
    };
    for (;;) {
        const unsigned before = occasions();
        bool has_moved = false;
        // The last comes first: a kernel must not rely on an order.
        for (std::size_t i = fibers.size(); i-- > 0;) {
            Fiber &fiber = fibers[i];
            if (fiber.is_done) continue;
            current = &fiber;
            go_on(fiber);
            swapcontext(&scheduler, &fiber.context);
            fiber.block->left -= fiber.is_done;
            has_moved |= fiber.is_done;
        }
        unsigned left = 0, waiting = waiting_in_grid;
        for (Block &block : running) {
            left += block.left, waiting += block.waiting;
            if (block.left > 0 && block.waiting == block.left) {
                block.waiting = 0;
                block.releases++;
                has_moved = true;
            }
        }
        if (left == 0) break;
        if (waiting_in_grid == left) {
            waiting_in_grid = 0;
            releases_of_grid++;
        } else if (!has_moved && occasions() == before) {
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

// Runs `body` for every block, the last first, one after the other or all at once.
void run_grid(const unsigned (&blocks)[3], unsigned threads, unsigned shared, bool at_once = false) {
    blockDim = {threads, 1, 1};
    gridDim = {blocks[0], blocks[1], blocks[2]};
    std::vector<uint3> places;
    for (unsigned z = blocks[2]; z-- > 0;) {
        for (unsigned y = blocks[1]; y-- > 0;) {
            for (unsigned x = blocks[0]; x-- > 0;) places.push_back({x, y, z});
        }
    }
    if (at_once) return run_blocks(places, threads, shared);
    for (const uint3 &place : places) run_blocks({place}, threads, shared);
}
