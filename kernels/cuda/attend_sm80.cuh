// Attention by mma.sync and cp.async: 8 warps of 16 query rows each, pages of 64 keys in two stages of shared memory,
// Q and the sums in registers. Runs on everything from compute capability 8.0 on.
#pragma once
#include "attend.cuh"

namespace longbow {

constexpr int kThreads80 = 256;
constexpr int kKeys80 = 32;  // keys of one fragment: half a page, for the sake of registers

// Rows of 128 bf16: the heads of a group side by side. 16-byte piece c of row r stands at c ^ (r % 8), so that the
// eight rows of one `ldmatrix` lie in different banks.
struct alignas(16) PageTile {
    unsigned char bytes[kPage * kGroup * 2];
    LONGBOW_FN unsigned char* at(int row, int piece) { return bytes + (row * 16 + (piece ^ (row & 7))) * 16; }
};

struct Shared80 {
    PageTile k[2];
    PageTile v[2];
    PageBias bias[2];
    LongbowTimeBias time_bias;
};

static_assert(sizeof(Shared80) == 74016, "as in src/cuda/engine.rs");

template <int HD, bool BIAS, bool CAUSAL>
struct Attend80 {
    static constexpr int kHeads = kGroup / HD;
    const LongbowAttend& p;
    const LongbowWork& w;
    Shared80& shared;
    int thread, lane;

    // Starts the copies of one page.
    LONGBOW_FN void load(int stage, int first_key) {
        const int64_t page = p.tables[w.table + first_key / kPage];
        const uint16_t* k = p.pool + page * p.page_stride + p.layer_offset + static_cast<int64_t>(w.group) * kPage * kGroup;
        const int valid = w.key_end - first_key;
        LONGBOW_UNROLL
        for (int i = 0; i < kPage * 16 / kThreads80; ++i) {
            const int row = (thread + i * kThreads80) / 16, piece = thread % 16;
            const int head = piece * 8 / HD, column = piece * 8 % HD;
            const int64_t from = (static_cast<int64_t>(head) * kPage + row) * HD + column;
            copy_16(shared.k[stage].at(row, piece), k + from, row < valid);
            copy_16(shared.v[stage].at(row, piece), k + p.v_offset + from, row < valid);
        }
        if (BIAS) {
            // Keys past the end take the last one's time, so that they widen no span.
            if (thread < kPage) {
                copy_8(&shared.bias[stage].times[thread], p.times + page * kPage + smaller(thread, valid - 1));
            }
            if (thread < (CAUSAL ? kPage + kTile : kPage)) {
                copy_4(&shared.bias[stage].window[thread], p.pos_w + window_source<CAUSAL>(p, w, first_key, thread));
            }
        }
        copy_commit();
    }

    // The rows' Q as A operands: all 128 columns of the group.
    LONGBOW_FN void load_q(uint32_t (&q)[8][4], int first) {
        LONGBOW_UNROLL
        for (int half = 0; half < 2; ++half) {
            const int r = first + lane / 4 + 8 * half;
            const uint16_t* row = p.q + static_cast<int64_t>(w.q_row + (r < w.rows ? r : 0)) * p.q_stride +
                                  w.group * kGroup + 2 * (lane % 4);
            LONGBOW_UNROLL
            for (int step = 0; step < 8; ++step) {
                LONGBOW_UNROLL
                for (int right = 0; right < 2; ++right) {
                    const uint32_t pair = *reinterpret_cast<const uint32_t*>(row + 16 * step + 8 * right);
                    q[step][half + 2 * right] = r < w.rows ? pair : 0u;
                }
            }
        }
    }

    LONGBOW_FN void scores(float (&s)[kKeys80 / 2], const uint32_t (&q)[8][4], int head, int stage, int column) {
        LONGBOW_UNROLL
        for (int i = 0; i < kKeys80 / 2; ++i) s[i] = 0.0f;
        LONGBOW_UNROLL
        for (int step = 0; step < HD / 16; ++step) {
            LONGBOW_UNROLL
            for (int pair = 0; pair < kKeys80 / 16; ++pair) {
                uint32_t b[4];
                const int key = column + 16 * pair + 8 * (lane / 16) + lane % 8;
                load_matrices(b, shared.k[stage].at(key, head * HD / 8 + 2 * step + lane / 8 % 2));
                product(s, 2 * pair, q[head * HD / 16 + step], b[0], b[1]);
                product(s, 2 * pair + 1, q[head * HD / 16 + step], b[2], b[3]);
            }
        }
    }

    template <int N>
    LONGBOW_FN static void product(float (&c)[N], int block, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        float part[4] = {c[4 * block], c[4 * block + 1], c[4 * block + 2], c[4 * block + 3]};
        mma(part, a, b0, b1);
        LONGBOW_UNROLL
        for (int i = 0; i < 4; ++i) c[4 * block + i] = part[i];
    }

    LONGBOW_FN void add_values(float (&o)[HD / 2], const uint32_t (&prob)[kKeys80 / 4], int head, int stage,
                               int column) {
        LONGBOW_UNROLL
        for (int step = 0; step < kKeys80 / 16; ++step) {
            const uint32_t a[4] = {prob[4 * step], prob[4 * step + 1], prob[4 * step + 2], prob[4 * step + 3]};
            LONGBOW_UNROLL
            for (int pair = 0; pair < HD / 16; ++pair) {
                uint32_t b[4];
                const int key = column + 16 * step + 8 * (lane / 8 % 2) + lane % 8;
                load_matrices_transposed(b, shared.v[stage].at(key, head * HD / 8 + 2 * pair + lane / 16));
                product(o, 2 * pair, a, b[0], b[1]);
                product(o, 2 * pair + 1, a, b[2], b[3]);
            }
        }
    }

    LONGBOW_FN void run() {
        const int warp = thread / 32;
        const WarpRows rows = warp_rows<BIAS, CAUSAL>(p, w, warp, lane);
        const int limit = lowest_limit<CAUSAL>(w, rows);
        const int pages = pages_between(w.key_begin, keys_until<CAUSAL>(w, kTile));
        const int mine = rows.any ? pages_between(w.key_begin, keys_until<CAUSAL>(w, rows.first + 16)) : 0;
        uint32_t q[8][4];
        load_q(q, rows.first);
        float o[kHeads][HD / 2];
        LONGBOW_UNROLL
        for (int h = 0; h < kHeads; ++h) {
            LONGBOW_UNROLL
            for (int i = 0; i < HD / 2; ++i) o[h][i] = 0.0f;
        }
        if (pages > 0) load(0, w.key_begin);
        for (int page = 0; page < pages; ++page) {
            const int stage = page & 1, first_key = w.key_begin + page * kPage;
            copy_wait<0>();
            sync_block();  // this page has arrived, and nobody reads the other stage any more
            if (page + 1 < pages) load(stage ^ 1, first_key + kPage);
            if (page >= mine) continue;
            Times times{};
            if (BIAS) times = times_of_page(shared.bias[stage].times, lane);
            for (int column = 0; column < kPage; column += kKeys80) {
                float b[kKeys80 / 2];
                if (BIAS) {
                    bias_fragment<CAUSAL, kKeys80>(b, shared.time_bias, shared.bias[stage], times, rows, column, lane);
                }
                LONGBOW_UNROLL
                for (int h = 0; h < kHeads; ++h) {
                    float s[kKeys80 / 2];
                    uint32_t prob[kKeys80 / 4];
                    scores(s, q, h, stage, column);
                    activate<BIAS, kKeys80>(s, b, p.half_alpha, rows, limit, first_key + column, lane, prob);
                    add_values(o[h], prob, h, stage, column);
                }
            }
        }
        LONGBOW_UNROLL
        for (int h = 0; h < kHeads; ++h) store_sums<HD>(p, w, rows, w.group * kGroup + h * HD, lane, o[h]);
    }
};

// One work item a block; the list has the longest first, and the hardware hands blocks out in order.
template <int HD, bool BIAS, bool CAUSAL>
LONGBOW_FN void attend_sm80(const LongbowAttend& p, unsigned char* memory) {
    Shared80& shared = *reinterpret_cast<Shared80*>(memory);
    const int thread = thread_index();
    if (BIAS) {
        load_time_bias(&shared.time_bias, p.time_bias, thread, kThreads80);
        sync_block();
    }
    const LongbowWork w = p.work[block_index()];
    Attend80<HD, BIAS, CAUSAL>{p, w, shared, thread, thread % 32}.run();
}

}  // namespace longbow
