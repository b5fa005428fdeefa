// What Rust hands to a native kernel. `src/ffi.rs` declares the same structs; both sides assert the sizes.
#pragma once
#include <cstddef>
#include <cstdint>

// Return codes. Rust checks every shape before the call, so anything but OK is a fault in this crate.
enum LongbowCode : int32_t {
    LONGBOW_OK = 0,
    LONGBOW_BAD_SIZE = 1,     // the struct's size differs: the two declarations drifted apart
    LONGBOW_BAD_SHAPE = 2,    // a dimension out of range
    LONGBOW_BAD_SCRATCH = 3,  // too little scratch, or not aligned to 64 bytes
    LONGBOW_BAD_KEYS = 4,     // the blocks hold fewer keys than key_end
};

// Consecutive keys. Row r of k starts at k + r * k_stride and holds heads * d_qk floats; v likewise.
struct LongbowKvBlock {
    const float* k;
    const float* v;
    const int64_t* times;  // null without a bias
    int64_t k_stride;
    int64_t v_stride;
    int64_t rows;
};
static_assert(sizeof(LongbowKvBlock) == 48, "as in src/ffi.rs");

// Some query rows against a range of keys: out = scale * sum over keys of silu(alpha * q.k + bias) * v.
struct LongbowAttention {
    uint64_t size;  // sizeof(LongbowAttention)
    int64_t heads;
    int64_t d_qk;
    int64_t d_v;
    int64_t rows;
    const float* q;
    int64_t q_stride;
    const int64_t* next_times;  // row r: next_times[r * next_step]; null without a bias
    int64_t next_step;
    int64_t first_position;  // of row 0
    int64_t causal;          // 1: row r stands at first_position + r and sees keys up to there; 0: all rows see all keys
    int64_t key_begin;
    int64_t key_end;
    const LongbowKvBlock* blocks;
    int64_t block_count;
    const float* pos_w;    // 2 * max_len - 1; null without a bias
    const float* ts_w;     // 129
    const int64_t* edges;  // 129: smallest |difference| of each bucket
    int64_t max_len;
    const float* own_k;  // each row's own key and value, seen by that row alone; null if none
    int64_t own_k_stride;
    const float* own_v;
    int64_t own_v_stride;
    float* out;  // rows x heads * d_v, overwritten
    int64_t out_stride;
    float* scratch;  // aligned to 64 bytes
    uint64_t scratch_floats;
    float alpha;
    float scale;
};
static_assert(sizeof(LongbowAttention) == 224, "as in src/ffi.rs");

extern "C" {
uint64_t longbow_attention_scratch_avx2(const LongbowAttention* params);
uint64_t longbow_attention_scratch_avx512(const LongbowAttention* params);
int32_t longbow_attention_avx2(const LongbowAttention* params);
int32_t longbow_attention_avx512(const LongbowAttention* params);
void longbow_silu_avx2(float* x, size_t len);
void longbow_silu_avx512(float* x, size_t len);
}
