// What the kernels of attention are told, with and without Hopper's instructions.
#pragma once

// Channels of a head.
constexpr int DIM = 64;

struct AttentionParams {
    unsigned queries, keys, heads;
    unsigned q_batch_stride, q_token_stride, q_head_stride;
    unsigned k_batch_stride, k_token_stride, k_head_stride;
    unsigned v_batch_stride, v_token_stride, v_head_stride;
    // 1 / sqrt(64) times log2(e): powers of two are what the hardware has.
    float scale;
};
static_assert(sizeof(AttentionParams) == 52, "as the host has it");

// Where tensors come as boxes.
struct BoxedAttentionParams {
    unsigned queries, keys, heads;
    float scale;
};
static_assert(sizeof(BoxedAttentionParams) == 16, "as the host has it");
