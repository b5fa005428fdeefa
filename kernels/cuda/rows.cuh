// Kernels over single rows: embedding, the end of the heads, copies of pages.
#pragma once
#include "device.cuh"

namespace longbow {

constexpr int kRowThreads = 256;

// One warp a row.
LONGBOW_FN void embed(const LongbowEmbed& p) {
    const int lane = thread_index() % 32, row = block_index() * (kRowThreads / 32) + thread_index() / 32;
    if (row >= p.rows) return;
    const int full = p.item_dim + p.action_dim;
    const float* item = p.item_table + static_cast<int64_t>(p.items[row]) * p.item_dim;
    const float* action = p.action_table + static_cast<int64_t>(p.actions[row]) * p.action_dim;
    const float* position = p.pos_table + static_cast<int64_t>(p.positions[row]) * full;
    float* x = p.x + static_cast<int64_t>(row) * p.width;
    for (int c = lane; c < p.width; c += 32) {
        float value = 0.0f;
        if (c < full) value = (c < p.item_dim ? item[c] : action[c - p.item_dim]) * p.scale + position[c];
        x[c] = value;
    }
    if (lane == 0 && p.slots[row] >= 0) p.times[p.slots[row]] = p.row_times[row];
}

// One warp a row.
LONGBOW_FN void heads_output(const LongbowHeads& p) {
    const int lane = thread_index() % 32, row = block_index() * (kRowThreads / 32) + thread_index() / 32;
    if (row >= p.rows) return;
    const float* h = p.hidden + static_cast<int64_t>(row) * p.hidden_stride;
    const float inverse = 1.0f / static_cast<float>(p.hidden_dim);
    float sum = 0.0f, squares = 0.0f;
    for (int c = lane; c < p.hidden_dim; c += 32) sum += h[c];
    const float mean = warp_sum(sum) * inverse;
    for (int c = lane; c < p.hidden_dim; c += 32) squares += (h[c] - mean) * (h[c] - mean);
    const float factor = inverse_sqrt(warp_sum(squares) * inverse + 1e-5f);
    for (int task = 0; task < p.tasks; ++task) {
        float logit = 0.0f;
        for (int c = lane; c < p.hidden_dim; c += 32) {
            const float gate = sigmoid((h[c] - mean) * factor * p.norm[c] + p.norm_bias[c]);
            logit += h[c] * gate * p.output[static_cast<int64_t>(task) * p.hidden_dim + c];
        }
        logit = warp_sum(logit);
        if (lane == 0) p.probs[static_cast<int64_t>(row) * p.tasks + task] = sigmoid(logit + p.output_bias[task]);
    }
}

// One block a copy.
LONGBOW_FN void copy_rows(const LongbowCopy* copies, uint16_t* pool, int64_t* times, int64_t page_stride, int head_dim) {
    const LongbowCopy copy = copies[block_index()];
    const uint4* from = reinterpret_cast<const uint4*>(pool + copy.from * page_stride);
    uint4* to = reinterpret_cast<uint4*>(pool + copy.to * page_stride);
    const int pieces = static_cast<int>(page_stride / 8), row_pieces = head_dim / 8;
    for (int i = thread_index(); i < pieces; i += kRowThreads) {
        if (i / row_pieces % kPage < copy.rows) to[i] = from[i];
    }
    if (thread_index() < copy.rows) {
        times[static_cast<int64_t>(copy.to) * kPage + thread_index()] =
            times[static_cast<int64_t>(copy.from) * kPage + thread_index()];
    }
}

// New numbers to the rows of vectors that changed: one warp a row.
LONGBOW_FN void put_rows(const LongbowPutRows& p) {
    const int lane = thread_index() % 32, pieces = p.row_bytes / 16;
    const int at = block_index() * (kRowThreads / 32) + thread_index() / 32;
    if (at >= p.count) return;
    const int64_t row = p.rows[at];
    const uint4* from = static_cast<const uint4*>(p.numbers) + static_cast<int64_t>(at) * pieces;
    uint4* to = static_cast<uint4*>(p.vectors) + row * pieces;
    for (int i = lane; i < pieces; i += 32) to[i] = from[i];
    if (lane == 0 && p.scales) p.scales[row] = p.new_scales[at];
}

}  // namespace longbow
