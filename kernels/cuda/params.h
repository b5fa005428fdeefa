// What the host hands to a CUDA kernel. `src/cuda/params.rs` declares the same structs; both sides assert the sizes.
// Pointers are device pointers. bf16 is held as its 16 bits.
#pragma once
#include <cstdint>

enum : int32_t {
    LONGBOW_PAGE_ROWS = 64,    // rows of one page of K/V
    LONGBOW_TILE_ROWS = 128,   // query rows of one work item of attention
    LONGBOW_GROUP_WIDTH = 128, // columns of the heads that one work item handles together
    LONGBOW_BUCKETS = 128,     // highest time bucket
    LONGBOW_CELLS = 256,       // quarter octaves of a time difference
};

// A quarter octave of |difference|: weights below and from `edge` on (no cell holds two edges of buckets).
struct LongbowCell {
    int64_t edge;  // INT64_MAX: no edge in this cell
    float low;     // halved weight
    float high;
};
static_assert(sizeof(LongbowCell) == 16, "as in src/cuda/params.rs");

// The time bias of one layer.
struct LongbowTimeBias {
    LongbowCell cells[LONGBOW_CELLS];
    int64_t edges[LONGBOW_BUCKETS + 2];  // smallest |difference| of each bucket; the last is INT64_MAX
    float weights[LONGBOW_BUCKETS + 2];  // halved; the last is unused
    uint8_t buckets[LONGBOW_CELLS];      // bucket below each cell's edge
};
static_assert(sizeof(LongbowTimeBias) == 4096 + 1040 + 520 + 256, "as in src/cuda/params.rs");

// Some query rows of one job against a range of its keys, for one group of heads.
struct LongbowWork {
    int32_t q_row;      // first row in `q` and `next_times`
    int32_t rows;       // 1 to LONGBOW_TILE_ROWS
    int32_t position;   // of the first row; rows of a causal kernel stand one after another, others all here
    int32_t key_begin;  // a multiple of LONGBOW_PAGE_ROWS
    int32_t key_end;    // above key_begin
    int32_t table;      // first entry of the job's page table
    int32_t out_row;    // first row of `out`
    int32_t group;      // group of heads
};
static_assert(sizeof(LongbowWork) == 32, "as in src/cuda/params.rs");

// out = scale * sum over keys of silu(alpha * q.k + bias) * v, for each work item.
//
// A page holds, for each layer, K of all heads and then V of all heads, each head 64 rows of HD numbers.
struct LongbowAttend {
    const LongbowWork* work;  // longest first
    const uint16_t* q;
    const int64_t* next_times;  // of each row of `q`
    const uint16_t* pool;       // page 0
    const int64_t* times;       // [page][64]
    const int32_t* tables;      // pages of the jobs
    const float* pos_w;         // 2 * max_len - 1, halved
    const LongbowTimeBias* time_bias;
    float* out;
    int64_t q_stride;     // numbers
    int64_t out_stride;   // numbers
    int64_t page_stride;  // numbers
    int64_t layer_offset; // numbers from the start of a page to this layer's K
    int64_t v_offset;     // numbers from a layer's K to its V
    int32_t work_count;
    int32_t max_len;
    int32_t layer_rows;  // of the pool as one matrix with rows of HD numbers: rows before this layer in a page
    int32_t page_rows;   // rows of that matrix in one page
    int32_t v_rows;      // rows of that matrix between K and V
    float half_alpha;    // alpha / 2
    float scale;
    int32_t reserved;
};
static_assert(sizeof(LongbowAttend) == 144, "as in src/cuda/params.rs");

// Where the sums of one row lie: `ranges` rows of `out`, `stride` apart.
struct LongbowSums {
    int32_t first;
    int32_t stride;
    int32_t ranges;
    int32_t own;  // 1: the row's own key and value lie in its packed row and are added here
};
static_assert(sizeof(LongbowSums) == 16, "as in src/cuda/params.rs");

// x = concat(item, action) * scale + position, one row each; the time of a row that is kept goes to its page.
struct LongbowEmbed {
    const uint32_t* items;
    const uint16_t* actions;
    const int32_t* positions;
    const int32_t* slots;       // page * 64 + row of the page, or -1
    const int64_t* row_times;   // of each row
    const float* item_table;    // item_dim columns
    const float* action_table;  // action_dim columns
    const float* pos_table;     // item_dim + action_dim columns
    float* x;                   // width columns, those past item_dim + action_dim zero
    int64_t* times;             // of the pages
    int32_t rows;
    int32_t item_dim;
    int32_t action_dim;
    int32_t width;
    float scale;
    int32_t reserved;
};
static_assert(sizeof(LongbowEmbed) == 104, "as in src/cuda/params.rs");

// out = epilogue(prologue(rows) b^T): 64 rows a block, `tiles` times 64 columns; b is [n, k] bf16, its rows padded with
// zeros to a multiple of 64. The k columns come in blocks of `block`, of which the first `block_true` count; k_true count
// in all. Columns that do not count are zero.
struct LongbowDense {
    const float* x;           // project, heads: the rows; output: what is added to
    const uint16_t* b;
    const float* bias;        // output, heads: n
    const uint16_t* packed;   // output: rows [u|v|q|k]
    const float* sums;        // output: sums of attention
    const LongbowSums* rows_sums;
    const float* item_table;  // heads: item_dim columns
    const uint32_t* items;    // heads
    uint16_t* out_packed;     // project: rows [u|v|q|k]
    float* out;               // output (may be x), heads
    uint16_t* pool;           // project: takes K and V of rows with a slot
    const int32_t* slots;     // project: page * 64 + row of the page, or -1
    int64_t page_stride;      // numbers
    int64_t layer_offset;     // numbers
    int64_t v_offset;         // numbers
    int32_t rows;
    int32_t n;
    int32_t k;  // a multiple of 64
    int32_t k_true;
    int32_t block;
    int32_t block_true;
    int32_t x_stride;
    int32_t out_stride;
    int32_t width;     // of each of u, v, q, k, padded: heads * head_dim
    int32_t head_dim;  // padded: 32, 64 or 128
    int32_t item_dim;
    int32_t tiles;
    float epsilon;
    float half_alpha;  // a row's own key: silu(2 (half_alpha * q.k + own_bias)) * scale
    float own_bias;
    float scale;
};
static_assert(sizeof(LongbowDense) == 184, "as in src/cuda/params.rs");

// probability = sigmoid(w2 (h * sigmoid(norm(h) * weight + bias)) + b2), one row each.
struct LongbowHeads {
    const float* hidden;
    const float* norm;
    const float* norm_bias;
    const float* output;  // [tasks, hidden]
    const float* output_bias;
    float* probs;  // [rows, tasks]
    int32_t rows;
    int32_t hidden_dim;
    int32_t hidden_stride;
    int32_t tasks;
};
static_assert(sizeof(LongbowHeads) == 64, "as in src/cuda/params.rs");

// Rows 0..rows of page `from` to page `to`, K and V of every layer and the times.
struct LongbowCopy {
    int32_t from;
    int32_t to;
    int32_t rows;
    int32_t reserved;
};
static_assert(sizeof(LongbowCopy) == 16, "as in src/cuda/params.rs");

// The k best of `rows` vectors by inner product with each query, ties by the smaller row. The second dimension of the
// grid counts queries; scratch is laid out query by query.
struct LongbowTopK {
    const void* vectors;        // [rows, dim] bf16, or int8 in the kernels for these
    const float* scales;        // int8: [rows], what 1 stands for in each row
    const float* queries;       // [queries, dim]
    const uint64_t* eligible;   // bit r % 64 of word r / 64: row r may be found; null: all may
    uint32_t* keys;             // [queries, rows]: scores as numbers that order alike; 0: not eligible
    uint32_t* counts;           // [queries, 3, 2048]: zero before the first kernel
    uint32_t* ties;             // [queries, blocks]
    uint32_t* taken;            // [queries]: zero before the first kernel
    uint64_t* found;            // [queries, 1024]
    uint32_t* out_rows;         // [queries, k]; UINT32_MAX past the end
    float* out_scores;          // [queries, k]
    int64_t rows;               // below 2^32 - 1
    int64_t eligible_words;     // from the bitmap of one query to that of the next; 0: all share one
    int32_t dim;                // a multiple of 8, or of 16 for int8; at most 1024
    int32_t k;                  // 1 to 1024
    int32_t block_rows;         // rows of one block
    int32_t reserved;
};
static_assert(sizeof(LongbowTopK) == 120, "as in src/cuda/params.rs");

// Rows of vectors that change: row i of `numbers` and `new_scales` goes to row `rows[i]`; no row is listed twice.
struct LongbowPutRows {
    const uint32_t* rows;
    const void* numbers;       // [count, row_bytes]
    const float* new_scales;   // [count]; null for bf16
    void* vectors;
    float* scales;             // null for bf16
    int32_t count;
    int32_t row_bytes;         // a multiple of 16
};
static_assert(sizeof(LongbowPutRows) == 48, "as in src/cuda/params.rs");
