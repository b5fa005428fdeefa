// Exact top-k by inner product with bf16 or int8 vectors: the vectors are read once, and what is left is done on 4 bytes a row. Scores become
// unsigned keys that order alike; three passes of a radix selection (11 + 11 + 10 bits) find the k-th key exactly, a
// fourth gathers what is above it and, in row order, as many equal keys as are still wanted; one block sorts the result.
#pragma once
#include "device.cuh"

namespace longbow {

constexpr int kTopThreads = 512;
constexpr int kTopMax = 1024;
constexpr int kBins = 2048;

// Larger scores get larger keys; a NaN gets 0, which stands for a row that may not be found.
LONGBOW_FN uint32_t key_of(float score) {
    if (!(score == score)) return 0;
    const auto bits = static_cast<uint32_t>(bits_of(score));
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
LONGBOW_FN float score_of(uint32_t key) { return float_of(key & 0x80000000u ? key & 0x7fffffffu : ~key); }

// Bin of a key in pass 0, 1, 2, and the bits above it.
LONGBOW_FN int bin_of(uint32_t key, int pass) { return pass == 0 ? key >> 21 : pass == 1 ? key >> 10 & 2047 : key & 1023; }
LONGBOW_FN uint32_t above(uint32_t key, int pass) { return pass == 0 ? 0 : pass == 1 ? key >> 21 : key >> 10; }

struct SharedTop {
    uint32_t counts[kBins];
    uint32_t bin;
    uint32_t left;
    uint32_t warps[kTopThreads / 32];
    uint32_t base;
    uint32_t more;
};

static_assert(sizeof(SharedTop) == 8272, "as in src/cuda/engine.rs");

// What the passes before found: `prefix` holds the bits of the k-th key so far, `left` how many keys of that prefix are
// wanted. Where fewer than k keys exist, `left` stays above what the last bin holds and the prefix ends as 0.
struct Cut {
    uint32_t prefix;
    uint32_t left;
};

// The bin, counted from the highest, in which the running count reaches `left`; all threads of the block call it.
LONGBOW_FN Cut cut_in(SharedTop& s, const uint32_t* counts, uint32_t left, int thread) {
    constexpr int kEach = kBins / kTopThreads;
    uint32_t mine = 0;
    for (int i = 0; i < kEach; ++i) mine += counts[kBins - 1 - (thread * kEach + i)];
    // What the warp's lanes below have, by a butterfly; then what the warps before have.
    const int lane = thread % 32, warp = thread / 32;
    uint32_t before = 0, total = mine;
    LONGBOW_UNROLL
    for (int mask = 1; mask < 32; mask *= 2) {
        const auto other = static_cast<uint32_t>(shuffle_xor(static_cast<int32_t>(total), mask));
        if (lane & mask) before += other;
        total += other;
    }
    if (lane == 0) s.warps[warp] = total;
    if (thread == 0) {
        s.bin = 0;
        s.left = left;
        s.more = 1;  // fewer than `left` in all
    }
    sync_block();
    for (int w = 0; w < warp; ++w) before += s.warps[w];
    if (before < left && before + mine >= left) {
        for (int i = 0; i < kEach; ++i) {
            const int bin = kBins - 1 - (thread * kEach + i);
            if (before + counts[bin] >= left) {
                s.bin = static_cast<uint32_t>(bin);
                s.left = left - before;
                s.more = 0;
                break;
            }
            before += counts[bin];
        }
    }
    sync_block();
    const Cut cut{s.bin, s.more ? 0xffffffffu : s.left};
    sync_block();
    return cut;
}

// The k-th key as far as `passes` passes know it; left = 2^32 - 1: there are fewer than k keys, and all are taken.
LONGBOW_FN Cut cut_after(SharedTop& s, const LongbowTopK& p, int query, int passes, int thread) {
    const uint32_t* counts = p.counts + static_cast<int64_t>(query) * 3 * kBins;
    Cut all = cut_in(s, counts, static_cast<uint32_t>(p.k), thread);
    if (passes > 1 && all.left != 0xffffffffu) {
        const Cut next = cut_in(s, counts + kBins, all.left, thread);
        all = {all.prefix << 11 | next.prefix, next.left};
    }
    if (passes > 2 && all.left != 0xffffffffu) {
        const Cut next = cut_in(s, counts + 2 * kBins, all.left, thread);
        all = {all.prefix << 10 | next.prefix, next.left};
    }
    return all;
}

LONGBOW_FN void clear_counts(SharedTop& s, int thread) {
    for (int i = thread; i < kBins; i += kTopThreads) s.counts[i] = 0;
    sync_block();
}

LONGBOW_FN void add_counts(SharedTop& s, uint32_t* to, int thread) {
    sync_block();
    for (int i = thread; i < kBins; i += kTopThreads) {
        if (s.counts[i]) atomic_add(&to[i], s.counts[i]);
    }
}

LONGBOW_FN bool may_be_found(const LongbowTopK& p, int query, int64_t row) {
    return !p.eligible || (p.eligible[query * p.eligible_words + row / 64] >> (row % 64) & 1);
}

// A query against bf16 vectors: a lane holds LOADS pieces of 8 numbers, piece by piece where it reads those of a vector.
template <int LOADS>
struct QueryBf16 {
    static constexpr int kPiece = 8;  // numbers in 16 bytes
    float q[LOADS][kPiece];

    LONGBOW_FN void read(const float* query, int within, int lanes, int pieces) {
        LONGBOW_UNROLL
        for (int l = 0; l < LOADS; ++l) {
            LONGBOW_UNROLL
            for (int i = 0; i < kPiece; ++i) {
                const int piece = within + l * lanes;
                q[l][i] = piece < pieces ? query[kPiece * piece + i] : 0.0f;
            }
        }
    }

    LONGBOW_FN float scale(const float*, int64_t) const { return 1.0f; }

    // The inner product with the vector that `lanes` lanes hold together; all of them call it.
    LONGBOW_FN float score(const uint4 (&raw)[LOADS], float, int lanes) const {
        float sum = 0.0f;
        LONGBOW_UNROLL
        for (int l = 0; l < LOADS; ++l) {
            const uint32_t words[4] = {raw[l].x, raw[l].y, raw[l].z, raw[l].w};
            LONGBOW_UNROLL
            for (int i = 0; i < 4; ++i) {
                sum += low_half(words[i]) * q[l][2 * i];
                sum += high_half(words[i]) * q[l][2 * i + 1];
            }
        }
        for (int mask = lanes / 2; mask > 0; mask >>= 1) sum += shuffle_xor(sum, mask);
        return sum;
    }
};

// A query against int8 vectors: itself as whole numbers of 16 bits, as two int8 each, so that four multiplications are
// one instruction and sums are exact in any order: a vector's score errs by the rounding of its own numbers alone.
template <int LOADS>
struct QueryInt8 {
    static constexpr int kPiece = 16;
    uint32_t high[LOADS][4];
    uint32_t low[LOADS][4];
    float unit;

    LONGBOW_FN void read(const float* query, int within, int lanes, int pieces) {
        float most = 0.0f;
        for (int l = 0; l < LOADS; ++l) {
            const int piece = within + l * lanes;
            for (int i = 0; i < kPiece && piece < pieces; ++i) {
                const float x = query[kPiece * piece + i];
                most = x > most ? x : -x > most ? -x : most;
            }
        }
        for (int mask = lanes / 2; mask > 0; mask >>= 1) {
            const float other = shuffle_xor(most, mask);
            most = other > most ? other : most;
        }
        // 127 * 256: the high half of any number then fits.
        unit = most / 32512.0f;
        const float each = most > 1e-30f ? 32512.0f / most : 0.0f;
        LONGBOW_UNROLL
        for (int l = 0; l < LOADS; ++l) {
            const int piece = within + l * lanes;
            LONGBOW_UNROLL
            for (int word = 0; word < 4; ++word) {
                high[l][word] = low[l][word] = 0;
                LONGBOW_UNROLL
                for (int i = 0; i < 4; ++i) {
                    const int whole = piece < pieces ? nearest(query[kPiece * piece + 4 * word + i] * each) : 0;
                    const int upper = (whole + 128) >> 8;
                    high[l][word] |= (static_cast<uint32_t>(upper) & 0xffu) << (8 * i);
                    low[l][word] |= (static_cast<uint32_t>(whole - 256 * upper) & 0xffu) << (8 * i);
                }
            }
        }
    }

    LONGBOW_FN float scale(const float* scales, int64_t row) const { return scales[row]; }

    LONGBOW_FN float score(const uint4 (&raw)[LOADS], float scale, int lanes) const {
        int32_t upper = 0, lower = 0;
        LONGBOW_UNROLL
        for (int l = 0; l < LOADS; ++l) {
            const uint32_t words[4] = {raw[l].x, raw[l].y, raw[l].z, raw[l].w};
            LONGBOW_UNROLL
            for (int i = 0; i < 4; ++i) {
                upper = dot4(words[i], high[l][i], upper);
                lower = dot4(words[i], low[l][i], lower);
            }
        }
        for (int mask = lanes / 2; mask > 0; mask >>= 1) {
            upper += shuffle_xor(upper, mask);
            lower += shuffle_xor(lower, mask);
        }
        // Both are below 2^24, so the product is exact.
        return (256.0f * static_cast<float>(upper) + static_cast<float>(lower)) * (unit * scale);
    }
};

// Scores of the block's rows, and their counts by the highest bits. LOADS: 16-byte pieces of a vector that one lane reads;
// `lanes` lanes share a vector.
template <template <int> class Query, int LOADS>
LONGBOW_FN void top_scores(const LongbowTopK& p, int lanes, unsigned char* memory) {
    SharedTop& s = *reinterpret_cast<SharedTop*>(memory);
    using Q = Query<LOADS>;
    const int thread = thread_index(), lane = thread % 32, query = block_index_y();
    const int within = lane % lanes, group = thread / lanes, groups = kTopThreads / lanes, pieces = p.dim / Q::kPiece;
    Q q;
    q.read(p.queries + static_cast<int64_t>(query) * p.dim, within, lanes, pieces);
    clear_counts(s, thread);
    const int64_t begin = static_cast<int64_t>(block_index()) * p.block_rows;
    const int64_t end = smaller(begin + p.block_rows, p.rows);
    const uint4* vectors = static_cast<const uint4*>(p.vectors);
    uint32_t* keys = p.keys + static_cast<int64_t>(query) * p.rows;
    constexpr int kTogether = 8 / LOADS;  // vectors in flight for each lane
    for (int64_t at = begin; at < end; at += static_cast<int64_t>(groups) * kTogether) {
        uint4 raw[kTogether][LOADS];
        float scale[kTogether];
        LONGBOW_UNROLL
        for (int t = 0; t < kTogether; ++t) {
            const int64_t row = at + group + t * groups;
            scale[t] = row < end ? q.scale(p.scales, row) : 0.0f;
            LONGBOW_UNROLL
            for (int l = 0; l < LOADS; ++l) {
                const int piece = within + l * lanes;
                raw[t][l] = {0, 0, 0, 0};
                if (row < end && piece < pieces) raw[t][l] = load_streaming(vectors + row * pieces + piece);
            }
        }
        LONGBOW_UNROLL
        for (int t = 0; t < kTogether; ++t) {
            const float sum = q.score(raw[t], scale[t], lanes);
            const int64_t row = at + group + t * groups;
            if (within == 0 && row < end) {
                const uint32_t key = may_be_found(p, query, row) ? key_of(sum) : 0;
                keys[row] = key;
                if (key) atomic_add_shared(&s.counts[bin_of(key, 0)], 1);
            }
        }
    }
    add_counts(s, p.counts + static_cast<int64_t>(query) * 3 * kBins, thread);
}

// Counts the next bits of the keys that share the prefix found so far. In the last pass `pass` is 3: it counts the keys
// equal to the k-th one in each block.
LONGBOW_FN void top_narrow(const LongbowTopK& p, int pass, unsigned char* memory) {
    SharedTop& s = *reinterpret_cast<SharedTop*>(memory);
    const int thread = thread_index(), query = block_index_y();
    const Cut cut = cut_after(s, p, query, pass, thread);
    const int64_t begin = static_cast<int64_t>(block_index()) * p.block_rows;
    const int64_t end = smaller(begin + p.block_rows, p.rows);
    const uint32_t* keys = p.keys + static_cast<int64_t>(query) * p.rows;
    clear_counts(s, thread);
    if (cut.left != 0xffffffffu) {
        for (int64_t row = begin + thread; row < end; row += kTopThreads) {
            const uint32_t key = keys[row];
            if (!key) continue;
            if (pass == 3) {
                if (key == cut.prefix) atomic_add_shared(&s.counts[0], 1);
            } else if (above(key, pass) == cut.prefix) {
                atomic_add_shared(&s.counts[bin_of(key, pass)], 1);
            }
        }
    }
    if (pass < 3) {
        add_counts(s, p.counts + (static_cast<int64_t>(query) * 3 + pass) * kBins, thread);
    } else {
        sync_block();
        if (thread == 0) p.ties[static_cast<int64_t>(query) * grid_size() + block_index()] = s.counts[0];
    }
}

// Appends the keys above the k-th one, and the first `left` equal ones in row order.
LONGBOW_FN void top_gather(const LongbowTopK& p, unsigned char* memory) {
    SharedTop& s = *reinterpret_cast<SharedTop*>(memory);
    const int thread = thread_index(), lane = thread % 32, warp = thread / 32, query = block_index_y();
    const Cut cut = cut_after(s, p, query, 3, thread);
    const bool all = cut.left == 0xffffffffu;
    const uint32_t* ties = p.ties + static_cast<int64_t>(query) * grid_size();
    if (thread == 0) s.base = 0;
    sync_block();
    for (int b = thread; b < block_index(); b += kTopThreads) atomic_add_shared(&s.base, ties[b]);
    sync_block();
    uint32_t equal_before = s.base;
    const int64_t begin = static_cast<int64_t>(block_index()) * p.block_rows;
    const int64_t end = smaller(begin + p.block_rows, p.rows);
    const uint32_t* keys = p.keys + static_cast<int64_t>(query) * p.rows;
    for (int64_t at = begin; at < end; at += kTopThreads) {
        const int64_t row = at + thread;
        const uint32_t key = row < end ? keys[row] : 0;
        const bool equal = !all && key != 0 && key == cut.prefix;
        const uint32_t mask = ballot(equal);
        if (lane == 0) s.warps[warp] = static_cast<uint32_t>(count_bits(mask));
        sync_block();
        uint32_t order = equal_before + static_cast<uint32_t>(count_bits(mask & ((1u << lane) - 1)));
        uint32_t total = 0;
        for (int w = 0; w < kTopThreads / 32; ++w) {
            if (w < warp) order += s.warps[w];
            total += s.warps[w];
        }
        if (key != 0 && (all || key > cut.prefix || (equal && order < cut.left))) {
            const uint32_t place = atomic_add(&p.taken[query], 1);
            p.found[static_cast<int64_t>(query) * kTopMax + place] =
                static_cast<uint64_t>(key) << 32 | static_cast<uint32_t>(~static_cast<uint32_t>(row));
        }
        equal_before += total;
        sync_block();
    }
}

// Sorts what was gathered, best first; one block a query.
LONGBOW_FN void top_sort(const LongbowTopK& p, unsigned char* memory) {
    uint64_t* keys = reinterpret_cast<uint64_t*>(memory);
    const int thread = thread_index(), query = block_index();
    const auto taken = static_cast<int>(p.taken[query]);
    for (int i = thread; i < kTopMax; i += kTopThreads) {
        keys[i] = i < taken ? p.found[static_cast<int64_t>(query) * kTopMax + i] : 0;
    }
    sync_block();
    for (int size = 2; size <= kTopMax; size *= 2) {
        for (int step = size / 2; step > 0; step /= 2) {
            const int low = thread / step * 2 * step + thread % step, high = low + step;
            const uint64_t a = keys[low], b = keys[high];
            if ((a < b) == ((low & size) == 0)) {
                keys[low] = b;
                keys[high] = a;
            }
            sync_block();
        }
    }
    for (int i = thread; i < p.k; i += kTopThreads) {
        const uint64_t key = keys[i];
        p.out_rows[static_cast<int64_t>(query) * p.k + i] = key ? ~static_cast<uint32_t>(key) : 0xffffffffu;
        p.out_scores[static_cast<int64_t>(query) * p.k + i] = key ? score_of(static_cast<uint32_t>(key >> 32)) : 0.0f;
    }
}

}  // namespace longbow
