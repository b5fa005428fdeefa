// What both forms of the attention kernel share: bias, mask and activation of one fragment of scores. A fragment is 16
// query rows a warp x KEYS keys of a page: lane l holds rows g = l / 4 and g + 8, of each block n of 8 keys the columns
// 2 (l % 4) and the next; entry 4 n + 2 half + e is row g + 8 half, column 8 n + 2 (l % 4) + e. `wgmma` uses the same
// layout. The functions take the fragment's first column in the page.
#pragma once
#include <type_traits>

#include "device.cuh"

namespace longbow {

// What the bias needs of one page of keys; filled by whoever loads the page.
struct PageBias {
    int64_t times[kPage];
    // Causal: the weight of tile row r and column c stands at c - r + 127. Otherwise at c.
    float window[kPage + kTile];
};

// The query rows of one warp.
struct WarpRows {
    int64_t next[2];  // next times of rows g and g + 8
    int64_t low;      // smallest and largest next time of the 16 rows
    int64_t high;
    int limit[2];     // first key that rows g and g + 8 do not see
    int first;        // row of the tile that the warp starts at
    bool any;         // whether the warp has rows at all
};

// Smallest and largest time of a page.
struct Times {
    int64_t low;
    int64_t high;
};

// Smallest and largest |difference| between times in two ranges.
struct Span {
    int64_t least;  // signed
    int64_t low;
    int64_t high;
};

LONGBOW_FN Span span_of(int64_t next_low, int64_t next_high, int64_t low, int64_t high) {
    const int64_t most = next_high - low, least = next_low - high;
    const int64_t a = most < 0 ? -most : most, b = least < 0 ? -least : least;
    return {least, least <= 0 && most >= 0 ? 0 : smaller(a, b), larger(a, b)};
}

// The cell of |difference| d: exponent and two bits of the mantissa of d, truncated so that no d lands in the next cell.
template <class Int>
LONGBOW_FN int cell_of(Int d) {
    return (float_bits_down(d > 0 ? d : Int(1)) >> 21) - (127 << 2);
}

LONGBOW_FN int bucket_of(const LongbowTimeBias& table, int64_t d) {
    const int cell = cell_of(d);
    return table.buckets[cell] + (d >= table.cells[cell].edge ? 1 : 0);
}

template <class Int>
LONGBOW_FN float weight_of(const LongbowTimeBias& table, Int d) {
    const LongbowCell cell = table.cells[cell_of(d)];
    return static_cast<int64_t>(d) >= cell.edge ? cell.high : cell.low;
}

// The rows of warp `warp` of the tile. Rows past the end take the times of the warp's first row.
template <bool BIAS, bool CAUSAL>
LONGBOW_FN WarpRows warp_rows(const LongbowAttend& p, const LongbowWork& w, int warp, int lane) {
    WarpRows rows;
    rows.first = warp * 16;
    rows.any = rows.first < w.rows;
    LONGBOW_UNROLL
    for (int half = 0; half < 2; ++half) {
        const int r = rows.first + lane / 4 + 8 * half;
        rows.limit[half] = CAUSAL ? smaller(w.key_end, w.position + r + 1) : w.key_end;
        const int known = r < w.rows ? r : (rows.any ? rows.first : 0);
        rows.next[half] = BIAS ? p.next_times[w.q_row + known] : 0;
    }
    rows.low = smaller(rows.next[0], rows.next[1]);
    rows.high = larger(rows.next[0], rows.next[1]);
    if (BIAS) {
        LONGBOW_UNROLL
        for (int mask = 16; mask >= 4; mask >>= 1) {
            rows.low = smaller(rows.low, shuffle_xor(rows.low, mask));
            rows.high = larger(rows.high, shuffle_xor(rows.high, mask));
        }
    }
    return rows;
}

// Where entry `e` of a page's window lies in the table of position weights; outside it only masked pairs would read.
template <bool CAUSAL>
LONGBOW_FN int window_source(const LongbowAttend& p, const LongbowWork& w, int first_key, int e) {
    const int at = p.max_len - 1 + first_key - w.position - (CAUSAL ? kTile - 1 : 0) + e;
    return smaller(larger(at, 0), 2 * p.max_len - 2);
}

template <bool CAUSAL, int KEYS>
LONGBOW_FN void position_bias(float (&b)[KEYS / 2], const PageBias& page, const WarpRows& rows, int column, int lane) {
    const float* w = page.window + column + 2 * (lane % 4);
    if (!CAUSAL) {
        LONGBOW_UNROLL
        for (int n = 0; n < KEYS / 8; ++n) {
            b[4 * n] = b[4 * n + 2] = w[8 * n];
            b[4 * n + 1] = b[4 * n + 3] = w[8 * n + 1];
        }
        return;
    }
    // The bias is constant along diagonals: row g + 8 reads at column c what row g reads at c - 8.
    w += kTile - 1 - rows.first - lane / 4;
    float before0 = w[-8], before1 = w[-7];
    LONGBOW_UNROLL
    for (int n = 0; n < KEYS / 8; ++n) {
        b[4 * n + 2] = before0;
        b[4 * n + 3] = before1;
        b[4 * n] = before0 = w[8 * n];
        b[4 * n + 1] = before1 = w[8 * n + 1];
    }
}

// Adds the time bias of every pair by its own cell.
template <class Int, bool CAUSAL, int KEYS>
LONGBOW_FN void time_bias_by_cell(float (&b)[KEYS / 2], const LongbowTimeBias& table, const PageBias& page,
                                  const WarpRows& rows, int column, int lane) {
    LONGBOW_UNROLL
    for (int n = 0; n < KEYS / 8; ++n) {
        LONGBOW_UNROLL
        for (int e = 0; e < 2; ++e) {
            // Truncated to 32 bits, the difference is still exact where the span fits: without a sign, so that it may wrap.
            using Bits = std::make_unsigned_t<Int>;
            const Bits t = static_cast<Bits>(page.times[column + 8 * n + 2 * (lane % 4) + e]);
            LONGBOW_UNROLL
            for (int half = 0; half < (CAUSAL ? 2 : 1); ++half) {
                const Int d = static_cast<Int>(static_cast<Bits>(rows.next[half]) - t);
                const float weight = weight_of(table, d < 0 ? static_cast<Int>(-d) : d);
                b[4 * n + 2 * half + e] += weight;
                if (!CAUSAL) b[4 * n + 2 + e] += weight;
            }
        }
    }
}

// Halved bias of a fragment: position, and time by the cheapest way that is exact for the warp's rows and this page.
template <bool CAUSAL, int KEYS>
LONGBOW_FN void bias_fragment(float (&b)[KEYS / 2], const LongbowTimeBias& table, const PageBias& page,
                              const Times& times, const WarpRows& rows, int column, int lane) {
    position_bias<CAUSAL, KEYS>(b, page, rows, column, lane);
    const Span span = span_of(rows.low, rows.high, times.low, times.high);
    const int bucket = bucket_of(table, span.low);
    const float below = table.weights[bucket];
    if (span.high < table.edges[bucket + 1]) {
        // One bucket holds every pair: the common case far from the diagonal.
        LONGBOW_UNROLL
        for (int i = 0; i < KEYS / 2; ++i) b[i] += below;
    } else if (span.least >= 0 && span.high <= INT32_MAX && span.high < table.edges[bucket + 2]) {
        const int32_t edge = static_cast<int32_t>(table.edges[bucket + 1]);
        const float from = table.weights[bucket + 1];
        const int32_t next[2] = {static_cast<int32_t>(rows.next[0]), static_cast<int32_t>(rows.next[1])};
        LONGBOW_UNROLL
        for (int n = 0; n < KEYS / 8; ++n) {
            LONGBOW_UNROLL
            for (int e = 0; e < 2; ++e) {
                const int32_t t = static_cast<int32_t>(page.times[column + 8 * n + 2 * (lane % 4) + e]);
                LONGBOW_UNROLL
                for (int half = 0; half < 2; ++half) {
                    const int32_t d = static_cast<int32_t>(static_cast<uint32_t>(next[half]) - static_cast<uint32_t>(t));
                    b[4 * n + 2 * half + e] += d >= edge ? from : below;
                }
            }
        }
    } else if (span.high <= INT32_MAX) {
        time_bias_by_cell<int32_t, CAUSAL, KEYS>(b, table, page, rows, column, lane);
    } else {
        time_bias_by_cell<int64_t, CAUSAL, KEYS>(b, table, page, rows, column, lane);
    }
}

// The same in every lane.
LONGBOW_FN Times times_of_page(const int64_t* times, int lane) {
    const int64_t a = times[lane], b = times[lane + 32];
    int64_t low = smaller(a, b), high = larger(a, b);
    LONGBOW_UNROLL
    for (int mask = 16; mask > 0; mask >>= 1) {
        low = smaller(low, shuffle_xor(low, mask));
        high = larger(high, shuffle_xor(high, mask));
    }
    return {low, high};
}

// P = silu(alpha S + bias), packed to bf16 as the A operand of the second product: pair j of P is pair j of S. `b` holds
// halved biases. Keys that a row does not see get exactly 0.
template <bool BIAS, bool MASK, int KEYS>
LONGBOW_FN void activate_fragment(const float (&s)[KEYS / 2], const float (&b)[KEYS / 2], float half_alpha,
                                  const WarpRows& rows, int first_key, int lane, uint32_t (&p)[KEYS / 4]) {
    LONGBOW_UNROLL
    for (int j = 0; j < KEYS / 4; ++j) {
        float h[2];
        LONGBOW_UNROLL
        for (int e = 0; e < 2; ++e) {
            const int i = 2 * j + e;
            h[e] = BIAS ? half_alpha * s[i] + b[i] : half_alpha * s[i];
            const int key = first_key + 8 * (j / 2) + 2 * (lane % 4) + e;
            if (MASK && key >= rows.limit[j % 2]) h[e] = 0.0f;
        }
        p[j] = pack_bf16(silu_of_half(h[0]), silu_of_half(h[1]));
    }
}

template <bool BIAS, int KEYS>
LONGBOW_FN void activate(const float (&s)[KEYS / 2], const float (&b)[KEYS / 2], float half_alpha,
                         const WarpRows& rows, int lowest_limit, int first_key, int lane, uint32_t (&p)[KEYS / 4]) {
    if (first_key + KEYS > lowest_limit) {
        activate_fragment<BIAS, true, KEYS>(s, b, half_alpha, rows, first_key, lane, p);
    } else {
        activate_fragment<BIAS, false, KEYS>(s, b, half_alpha, rows, first_key, lane, p);
    }
}

// The limit of the warp's first row, which no row of the warp falls below.
template <bool CAUSAL>
LONGBOW_FN int lowest_limit(const LongbowWork& w, const WarpRows& rows) {
    return CAUSAL ? smaller(w.key_end, w.position + rows.first + 1) : w.key_end;
}

// Keys that tile rows 0..end see: the last page that they need ends at or above this.
template <bool CAUSAL>
LONGBOW_FN int keys_until(const LongbowWork& w, int end) {
    return CAUSAL ? smaller(w.key_end, w.position + smaller(end, w.rows)) : w.key_end;
}

LONGBOW_FN int pages_between(int begin, int end) { return end > begin ? (end - begin + kPage - 1) / kPage : 0; }

// Copies the table of the layer to shared memory; the caller synchronises.
LONGBOW_FN void load_time_bias(LongbowTimeBias* to, const LongbowTimeBias* from, int thread, int threads) {
    const uint32_t* source = reinterpret_cast<const uint32_t*>(from);
    uint32_t* target = reinterpret_cast<uint32_t*>(to);
    for (int i = thread; i < static_cast<int>(sizeof(LongbowTimeBias) / 4); i += threads) target[i] = source[i];
}

// Writes one warp's sums of one head: `o` in fragment layout, WIDTH columns from `column` on.
template <int WIDTH>
LONGBOW_FN void store_sums(const LongbowAttend& p, const LongbowWork& w, const WarpRows& rows, int column, int lane,
                           const float (&o)[WIDTH / 2]) {
    LONGBOW_UNROLL
    for (int half = 0; half < 2; ++half) {
        const int r = rows.first + lane / 4 + 8 * half;
        if (r >= w.rows) continue;
        float* to = p.out + static_cast<int64_t>(w.out_row + r) * p.out_stride + column + 2 * (lane % 4);
        LONGBOW_UNROLL
        for (int n = 0; n < WIDTH / 8; ++n) {
            to[8 * n] = o[4 * n + 2 * half] * p.scale;
            to[8 * n + 1] = o[4 * n + 2 * half + 1] * p.scale;
        }
    }
}

}  // namespace longbow
