// The lanes of a SIMD group as fibers that meet in `simd_sum`, for kernels that call it.

#pragma once

#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>

constexpr uint LANES_IN_STEP = 32;
// The address sanitizer goes through a whole stack at every turn.
constexpr std::size_t STACK = 1 << 16;

struct Lane {
    ucontext_t context;
    std::unique_ptr<char[]> stack = std::make_unique<char[]>(STACK);
    bool is_done;
    // To the last two sums: a lane may be one ahead of the others.
    float brought[2];
    // Sums that it took part in.
    uint meetings;
};

Lane lanes[LANES_IN_STEP];
ucontext_t scheduler;
uint current_lane;
std::function<void(uint)> body;

void begin_lane() {
    body(current_lane);
    lanes[current_lane].is_done = true;
}

float metal::simd_sum(float x) {
    const uint mine = current_lane;
    const uint slot = lanes[mine].meetings++ % 2;
    lanes[mine].brought[slot] = x;
    swapcontext(&lanes[mine].context, &scheduler);
    // As a tree: neighbours first.
    float sums[LANES_IN_STEP];
    for (uint i = 0; i < LANES_IN_STEP; i++) sums[i] = lanes[i].brought[slot];
    for (uint step = 1; step < LANES_IN_STEP; step *= 2) {
        for (uint i = 0; i < LANES_IN_STEP; i += 2 * step) sums[i] += sums[i + step];
    }
    return sums[0];
}

// Runs `lane` for every lane, the last first. All lanes end together, or come to the same sums.
void run_in_step(std::function<void(uint)> lane) {
    body = std::move(lane);
    for (Lane &each : lanes) {
        each.is_done = false;
        each.meetings = 0;
        getcontext(&each.context);
        each.context.uc_stack.ss_sp = each.stack.get();
        each.context.uc_stack.ss_size = STACK;
        each.context.uc_link = &scheduler;
        makecontext(&each.context, begin_lane, 0);
    }
    for (bool is_done = false; !is_done;) {
        for (uint i = LANES_IN_STEP; i-- > 0;) {
            current_lane = i;
            swapcontext(&scheduler, &lanes[i].context);
        }
        is_done = lanes[0].is_done;
        for (const Lane &each : lanes) {
            if (each.is_done != is_done || each.meetings != lanes[0].meetings) {
                std::fprintf(stderr, "the lanes of a SIMD group part before a sum\n"), std::exit(1);
            }
        }
    }
}
