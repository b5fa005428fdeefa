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
    LONGBOW_NO_TILES = 5,     // the operating system does not grant the AMX tiles
};

// How K and V are kept (src/panel.rs): panels of `panel_keys` keys, and in a panel, head by head, first K, then V.
enum LongbowFormat : int64_t {
    // K as d_qk rows of panel_keys floats (so lanes are keys), V as panel_keys rows of d_v floats, padded to 16.
    LONGBOW_F32 = 0,
    // Pairs of bf16 in words of 32 bits, the lower half first. K: d_qk / 2 (d_qk padded to 32) rows of panel_keys pairs of
    // neighbouring columns; V: panel_keys / 2 rows of pairs of neighbouring keys, d_v padded to 16.
    LONGBOW_BF16 = 1,
};

// Consecutive keys in panels.
struct LongbowKvBlock {
    const void* panels;    // aligned to 64 bytes
    const int64_t* times;  // null without a bias
    int64_t rows;
    int64_t panel_keys;  // 16, 32 or 64
};
static_assert(sizeof(LongbowKvBlock) == 32, "as in src/ffi.rs");

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
    int64_t key_begin;       // starts a panel
    int64_t key_end;
    const LongbowKvBlock* blocks;
    int64_t block_count;
    int64_t format;        // a LongbowFormat, of all blocks
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
static_assert(sizeof(LongbowAttention) == 232, "as in src/ffi.rs");

// c = a * b, or c += a * b + bias.
struct LongbowProduct {
    uint64_t size;  // sizeof(LongbowProduct)
    int64_t rows;
    int64_t inner;
    int64_t cols;
    const float* a;
    int64_t a_stride;
    const float* b;     // panels of 64 columns: `inner` rows of 64 floats each, the last one padded with zeros
    const float* bias;  // one for each column; null if none
    float* c;
    int64_t c_stride;
    int64_t accumulate;
};
static_assert(sizeof(LongbowProduct) == 88, "as in src/ffi.rs");

// out = gate * (weight * (x - mean) / sqrt(variance + epsilon) + bias), row by row.
struct LongbowNorm {
    uint64_t size;  // sizeof(LongbowNorm)
    int64_t rows;
    int64_t cols;
    const float* x;
    int64_t x_stride;
    const float* weight;  // one for each column; null (with `bias`) if none
    const float* bias;
    const float* gate;  // null if none
    int64_t gate_stride;
    float* out;
    int64_t out_stride;
    float epsilon;
    float unused;
};
static_assert(sizeof(LongbowNorm) == 96, "as in src/ffi.rs");

extern "C" {
uint64_t longbow_attention_scratch_avx2(const LongbowAttention* params);
uint64_t longbow_attention_scratch_avx512(const LongbowAttention* params);
uint64_t longbow_attention_scratch_avx512bf16(const LongbowAttention* params);
uint64_t longbow_attention_scratch_amx(const LongbowAttention* params);
int32_t longbow_attention_avx2(const LongbowAttention* params);
int32_t longbow_attention_avx512(const LongbowAttention* params);
int32_t longbow_attention_avx512bf16(const LongbowAttention* params);
int32_t longbow_attention_amx(const LongbowAttention* params);
int32_t longbow_attention_amx_model(const LongbowAttention* params);
int32_t longbow_product_avx2(const LongbowProduct* params);
int32_t longbow_product_avx512(const LongbowProduct* params);
int32_t longbow_norm_avx2(const LongbowNorm* params);
int32_t longbow_norm_avx512(const LongbowNorm* params);
void longbow_silu_avx2(float* x, size_t len);
void longbow_silu_avx512(float* x, size_t len);
// Asks the operating system for the AMX tiles, once for the process; 0 when it grants them.
int32_t longbow_amx_permit();
}
