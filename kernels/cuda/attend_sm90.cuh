// Attention for Hopper: a warpgroup that loads (tensor copies by one thread, bias data by one warp) and two warpgroups of
// 64 query rows that compute by wgmma. Blocks stay, and go through the work list in a snake, so that each gets long and
// short items.
//
// A unit is one head and one page. Scores of unit i + 1 are started before the values of unit i, so that the activation of
// unit i + 1 runs while those values are in the tensor cores; the other warpgroup fills the gap before the scores. Two
// fragments of probabilities take turns, because a product in flight still reads its own.
#pragma once
#include "attend.cuh"
#include "hopper.cuh"

#if defined(LONGBOW_HOST) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
namespace longbow {

constexpr int kThreads90 = 384;
constexpr int kStages90 = 4;
constexpr int kLoadRegisters = 40;      // of each thread of the warpgroup that loads
constexpr int kComputeRegisters = 232;  // of those that compute

// The compiler gives every thread what the bounds of the launch allow, in eights; warpgroups then share that out anew. With one
// register too many the second of them would wait for ever.
constexpr int kLaunchRegisters = (1 << 16) / kThreads90 / 8 * 8;
static_assert(128 * kLoadRegisters + 256 * kComputeRegisters <= kThreads90 * kLaunchRegisters, "registers of a block");

// A tile of 64 rows x 128 columns as the copy engine writes it: boxes of 64 rows, each of at most 64 columns (one swizzle).
template <int HD>
struct Boxes {
    static constexpr int kColumns = HD < 64 ? HD : 64;
    static constexpr int kCount = kGroup / kColumns;
    static constexpr int kBytes = kPage * kColumns * 2;
    static constexpr int kAtom = 8 * kColumns * 2;  // bytes of 8 rows
    static constexpr Swizzle kSwizzle = kColumns == 64 ? Swizzle::k128 : Swizzle::k64;
    unsigned char box[kCount][kBytes];
};

template <int HD>
struct alignas(1024) Shared90 {
    Boxes<HD> q[2];
    Boxes<HD> k[kStages90];
    Boxes<HD> v[kStages90];
    PageBias bias[kStages90];
    Times times[kStages90];
    LongbowTimeBias time_bias;
    uint64_t full[kStages90];
    uint64_t empty[kStages90];
    uint64_t q_full;
    uint64_t q_empty;
};

static_assert(sizeof(Shared90<32>) == 175104 && sizeof(Shared90<64>) == 175104 && sizeof(Shared90<128>) == 175104,
              "as in src/cuda/engine.rs");

// Item of round `round` of this block, or past the end: even rounds run up the blocks, odd rounds down.
LONGBOW_FN int snake(int round) {
    const int grid = grid_size();
    return round * grid + (round % 2 ? grid - 1 - block_index() : block_index());
}

template <int HD, bool BIAS, bool CAUSAL>
struct Attend90 {
    static constexpr int kHeads = kGroup / HD;
    using Tile = Boxes<HD>;
    const LongbowAttend& p;
    const TensorMap* q_map;
    const TensorMap* kv_map;
    Shared90<HD>& shared;
    int thread, lane;

    LONGBOW_FN static int pages_of(const LongbowWork& w) {
        return pages_between(w.key_begin, keys_until<CAUSAL>(w, kTile));
    }

    // One thread: starts every tensor copy.
    LONGBOW_FN void copy_tiles() {
        int loaded = 0;
        for (int round = 0; snake(round) < p.work_count; ++round) {
            const LongbowWork w = p.work[snake(round)];
            barrier_wait(&shared.q_empty, (round & 1) ^ 1);
            barrier_arrive_expecting(&shared.q_full, 2 * Tile::kCount * Tile::kBytes);
            for (int half = 0; half < 2; ++half) {
                for (int i = 0; i < Tile::kCount; ++i) {
                    tensor_load(shared.q[half].box[i], q_map, &shared.q_full, w.group * kGroup + i * Tile::kColumns,
                                w.q_row + half * kPage);
                }
            }
            const int pages = pages_of(w);
            for (int page = 0; page < pages; ++page, ++loaded) {
                const int stage = loaded % kStages90;
                barrier_wait(&shared.empty[stage], (loaded / kStages90 & 1) ^ 1);
                barrier_arrive_expecting(&shared.full[stage], 2 * Tile::kCount * Tile::kBytes);
                const int first = p.tables[w.table + w.key_begin / kPage + page] * p.page_rows + p.layer_rows +
                                  w.group * kHeads * kPage;
                for (int i = 0; i < Tile::kCount; ++i) {
                    const int column = i * Tile::kColumns, row = first + column / HD * kPage;
                    tensor_load(shared.k[stage].box[i], kv_map, &shared.full[stage], column % HD, row);
                    tensor_load(shared.v[stage].box[i], kv_map, &shared.full[stage], column % HD, row + p.v_rows);
                }
            }
        }
    }

    // One warp: writes what the bias needs of each page.
    LONGBOW_FN void copy_bias() {
        int loaded = 0;
        for (int round = 0; snake(round) < p.work_count; ++round) {
            const LongbowWork w = p.work[snake(round)];
            const int pages = pages_of(w);
            for (int page = 0; page < pages; ++page, ++loaded) {
                const int stage = loaded % kStages90, first_key = w.key_begin + page * kPage;
                const int64_t* times = p.times + static_cast<int64_t>(p.tables[w.table + first_key / kPage]) * kPage;
                PageBias& bias = shared.bias[stage];
                const int last = w.key_end - first_key - 1;
                const int64_t early = times[smaller(lane, last)], late = times[smaller(lane + 32, last)];
                float window[(kPage + kTile) / 32];
                LONGBOW_UNROLL
                for (int i = 0; i < (CAUSAL ? kPage + kTile : kPage) / 32; ++i) {
                    window[i] = p.pos_w[window_source<CAUSAL>(p, w, first_key, lane + 32 * i)];
                }
                barrier_wait(&shared.empty[stage], (loaded / kStages90 & 1) ^ 1);
                bias.times[lane] = early;
                bias.times[lane + 32] = late;
                LONGBOW_UNROLL
                for (int i = 0; i < (CAUSAL ? kPage + kTile : kPage) / 32; ++i) bias.window[lane + 32 * i] = window[i];
                sync_warp();
                const Times span = times_of_page(bias.times, lane);
                if (lane == 0) {
                    shared.times[stage] = span;
                    barrier_arrive(&shared.full[stage]);
                }
            }
        }
    }

    // Starts S = Q K^T of one head and page.
    LONGBOW_FN void start_scores(float (&s)[32], int group, int head, int stage) {
        wgmma_fence();
        LONGBOW_UNROLL
        for (int step = 0; step < HD / 16; ++step) {
            const int column = head * HD + step * 16, box = column / Tile::kColumns;
            const int offset = column % Tile::kColumns * 2;
            wgmma_scores(s, matrix_descriptor(shared.q[group].box[box] + offset, 16, Tile::kAtom, Tile::kSwizzle),
                         matrix_descriptor(shared.k[stage].box[box] + offset, 16, Tile::kAtom, Tile::kSwizzle), step > 0);
        }
        wgmma_commit();
    }

    // Starts O += P V of one head and page.
    LONGBOW_FN void start_values(float (&o)[HD / 2], const uint32_t (&prob)[16], int head, int stage) {
        wgmma_fence();
        LONGBOW_UNROLL
        for (int step = 0; step < 4; ++step) {
            const unsigned char* v = shared.v[stage].box[head * HD / Tile::kColumns] + step * 2 * Tile::kAtom;
            wgmma_values(o, &prob[4 * step], matrix_descriptor(v, Tile::kBytes, Tile::kAtom, Tile::kSwizzle));
        }
        wgmma_commit();
    }

    LONGBOW_FN void release(int stage) {
        sync_warp();
        if (lane == 0) barrier_arrive(&shared.empty[stage]);
    }

    // One item: `loaded` counts the pages of all items so far.
    LONGBOW_FN void compute(const LongbowWork& w, int group, int warp, int& loaded) {
        const WarpRows rows = warp_rows<BIAS, CAUSAL>(p, w, warp, lane);
        const int pages = pages_of(w);
        const int mine = group * kPage < w.rows
                             ? pages_between(w.key_begin, keys_until<CAUSAL>(w, (group + 1) * kPage)) : 0;
        float o[kHeads][HD / 2];
        LONGBOW_UNROLL
        for (int h = 0; h < kHeads; ++h) {
            LONGBOW_UNROLL
            for (int i = 0; i < HD / 2; ++i) o[h][i] = 0.0f;
            settle(o[h]);
        }
        if (mine > 0) units(w, rows, group, mine, loaded, o);
        // Pages that only the other warpgroup needs.
        for (int page = mine; page < pages; ++page) {
            const int at = loaded + page;
            barrier_wait(&shared.full[at % kStages90], at / kStages90 & 1);
            release(at % kStages90);
        }
        loaded += pages;
        sync_warp();
        if (lane == 0) barrier_arrive(&shared.q_empty);
        LONGBOW_UNROLL
        for (int h = 0; h < kHeads; ++h) store_sums<HD>(p, w, rows, w.group * kGroup + h * HD, lane, o[h]);
    }

    LONGBOW_FN void units(const LongbowWork& w, const WarpRows& rows, int group, int mine, int loaded,
                          float (&o)[kHeads][HD / 2]) {
        float s[32];
        barrier_wait(&shared.full[loaded % kStages90], loaded / kStages90 & 1);
        start_scores(s, group, 0, loaded % kStages90);
        wgmma_wait<0>();
        settle(s);
        uint32_t first[16] = {}, second[16] = {};
        all_pages(w, rows, group, mine, loaded, o, s, first, second);
        wgmma_wait<0>();
        settle(first);
        settle(second);
        LONGBOW_UNROLL
        for (int h = 0; h < kHeads; ++h) settle(o[h]);
        release((loaded + mine - 1) % kStages90);
    }

    // `s` holds the first unit's scores. Fragments of probabilities change with every unit, also from one page to the next: with
    // one head a page, two pages are written out, each with its own.
    LONGBOW_FN void all_pages(const LongbowWork& w, const WarpRows& rows, int group, int mine, int loaded,
                              float (&o)[kHeads][HD / 2], float (&s)[32], uint32_t (&first)[16], uint32_t (&second)[16]) {
        const int limit = lowest_limit<CAUSAL>(w, rows);
        for (int page = 0;;) {
            one_page(w, rows, limit, group, page, mine, loaded, o, s, first, second);
            if (++page == mine) return;
            if (kHeads == 1) {
                one_page(w, rows, limit, group, page, mine, loaded, o, s, second, first);
                if (++page == mine) return;
            }
        }
    }

    LONGBOW_FN void one_page(const LongbowWork& w, const WarpRows& rows, int limit, int group, int page, int mine, int loaded,
                             float (&o)[kHeads][HD / 2], float (&s)[32], uint32_t (&even)[16], uint32_t (&odd)[16]) {
        const int at = loaded + page, stage = at % kStages90;
        float b[32];
        if (BIAS) bias_fragment<CAUSAL, kPage>(b, shared.time_bias, shared.bias[stage], shared.times[stage], rows, 0, lane);
        LONGBOW_UNROLL
        for (int h = 0; h < kHeads; ++h) {
            uint32_t (&now)[16] = h % 2 ? odd : even;
            uint32_t (&before)[16] = h % 2 ? even : odd;
            activate<BIAS, kPage>(s, b, p.half_alpha, rows, limit, w.key_begin + page * kPage, lane, now);
            int next_stage = stage;
            if (h + 1 == kHeads && page + 1 < mine) {
                next_stage = (at + 1) % kStages90;
                barrier_wait(&shared.full[next_stage], (at + 1) / kStages90 & 1);
            }
            // After the last unit these scores are not used: cheaper than a branch around a wgmma.
            start_scores(s, group, (h + 1) % kHeads, next_stage);
            start_values(o[h], now, h, stage);
            wgmma_wait<1>();
            settle(s);
            // The values of the unit before are done by now, and no sooner: until here their fragment had to stay as it was.
            settle(before);
            if (h == 0 && page > 0) release((at - 1) % kStages90);
        }
    }
};

// The item at `index`, known to be the same for the warp.
LONGBOW_FN LongbowWork work_at(const LongbowAttend& p, int index) {
    const LongbowWork w = p.work[index];
    return {uniform(w.q_row), uniform(w.rows), uniform(w.position), uniform(w.key_begin),
            uniform(w.key_end), uniform(w.table), uniform(w.out_row), uniform(w.group)};
}

template <int HD, bool BIAS, bool CAUSAL>
LONGBOW_FN void attend_sm90(const LongbowAttend& p, const TensorMap* q_map, const TensorMap* kv_map,
                            unsigned char* memory) {
    Shared90<HD>& shared = *reinterpret_cast<Shared90<HD>*>(memory);
    const int thread = thread_index(), lane = thread % 32, warp = uniform(thread / 32);
    if (thread == 0) {
        require(shared_address(memory) % 1024 == 0);  // what the swizzles count from
        for (int i = 0; i < kStages90; ++i) {
            barrier_init(&shared.full[i], BIAS ? 2 : 1);
            barrier_init(&shared.empty[i], 8);
        }
        barrier_init(&shared.q_full, 1);
        barrier_init(&shared.q_empty, 8);
        barriers_visible();
        tensor_prefetch(q_map);
        tensor_prefetch(kv_map);
    }
    if (BIAS) load_time_bias(&shared.time_bias, p.time_bias, thread, kThreads90);
    sync_block();
    Attend90<HD, BIAS, CAUSAL> attend{p, q_map, kv_map, shared, thread, lane};
    if (warp < 4) {
        registers_down<kLoadRegisters>();
        if (thread == 0) attend.copy_tiles();
        if (BIAS && warp == 1) attend.copy_bias();
    } else {
        registers_up<kComputeRegisters>();
        int loaded = 0;
        for (int round = 0; snake(round) < p.work_count; ++round) {
            const LongbowWork w = work_at(p, snake(round));
            barrier_wait(&shared.q_full, round & 1);
            attend.compute(w, warp / 4 - 1, warp - 4, loaded);
        }
    }
}

}  // namespace longbow
#endif
