// Position and time bias of one tile. Included by attention.hpp, once for each instruction set.
#pragma once

namespace {

constexpr int kBuckets = 128;

int64_t saturating_difference(int64_t a, int64_t b) {
    int64_t d;
    if (__builtin_sub_overflow(a, b, &d)) return a < b ? INT64_MIN : INT64_MAX;
    return d;
}

int64_t magnitude(int64_t d) { return d == INT64_MIN ? INT64_MAX : (d < 0 ? -d : d); }

// The bucket of |d|, found by walking from `start`: neighbouring rows and steps lie close together.
int walk(const int64_t* edges, int64_t d, int start) {
    int b = start;
    while (b < kBuckets && edges[b + 1] <= d) ++b;
    while (b > 0 && edges[b] > d) --b;
    return b;
}

// Times of the keys of one step. Unsorted times are fine: low and high are the true smallest and largest.
struct StepTimes {
    alignas(64) int32_t low_bits[kKeys];
    int64_t full[kKeys];
    int64_t low;
    int64_t high;

    // The missing ones of a whole step repeat the last.
    void read(const int64_t* times, int64_t keys) {
        low = INT64_MAX;
        high = INT64_MIN;
        for (int64_t j = 0; j < kKeys; ++j) {
            const int64_t t = times[smaller(j, keys - 1)];
            full[j] = t;
            low_bits[j] = static_cast<int32_t>(static_cast<uint64_t>(t));
            low = smaller(low, t);
            high = larger(high, t);
        }
    }
};

// Smallest and largest |difference| between times of rows and keys; `low` may be smaller than the true one.
struct Span {
    int64_t low;
    int64_t high;
};

Span span(int64_t next_low, int64_t next_high, const StepTimes& times) {
    const int64_t most = saturating_difference(next_high, times.low);
    const int64_t least = saturating_difference(next_low, times.high);
    const int64_t a = magnitude(most), b = magnitude(least);
    const bool crosses = least <= 0 && most >= 0;
    return {crosses ? 0 : smaller(a, b), larger(a, b)};
}

// Rows of a tile.
constexpr int64_t kTile = 16;

// The bias of a panel as tiles are loaded from it: key j of row t * kTile + i lies at at[t * tile + i * row + j], and every 16th
// key starts a cache line: loads of a tile that cross lines take twice the time.
struct PanelBias {
    const float* at;
    int64_t tile, row;  // floats
};

// The bias of a tile: built once for the tile (constructor), then once for each step of keys (`step`, `panel`).
class TileBias {
  public:
    // `window` takes keys + rows + 2 * kKeys floats; for `step`, `mixed` takes rows * kKeys floats and `rows_out` one entry for each
    // row; for `panel`, window[-3 * kTile] to window[-1] must be readable.
    TileBias(const LongbowAttention& p, float* window, float* mixed, RowBias* rows_out)
        : p_(p), window_(window), mixed_(mixed), rows_out_(rows_out) {
        const int64_t keys = p.key_end - p.key_begin;
        const int64_t padded = (keys + kKeys - 1) / kKeys * kKeys + spread() + kKeys;
        if (!p.pos_w) {
            fill(window, window + padded, 0.0f);
            return;
        }
        for (int b = 0; b <= kBuckets; ++b) ts_[b] = p.ts_w[b] * kMinusLog2e;
        // Row r at key j reads window[j - key_begin + spread - r], whatever the row: the bias is Toeplitz.
        const float* from = p.pos_w + (p.max_len - 1 + p.key_begin - (p.first_position + spread()));
        const int64_t used = keys + spread();
        for (int64_t i = 0; i < used; ++i) window[i] = from[i] * kMinusLog2e;
        fill(window + used, window + padded, 0.0f);
        next_low_ = next_high_ = p.next_times[0];
        for (int64_t r = 1; r < p.rows && p.next_step; ++r) {
            next_low_ = smaller(next_low_, p.next_times[r]);
            next_high_ = larger(next_high_, p.next_times[r]);
        }
    }

    // The rows' bias for the `kKeys` keys from `key` on.
    const RowBias* step(int64_t key, const StepTimes& times) {
        const float* base = window_ + (key - p_.key_begin) + spread();
        if (!p_.pos_w || constant(times)) {
            for (int64_t r = 0; r < p_.rows; ++r) rows_out_[r] = {base - (p_.causal ? r : 0), constant_};
            return rows_out_;
        }
        for (int64_t r = 0; r < p_.rows; ++r) {
            if (r > 0 && alike()) {
                rows_out_[r] = rows_out_[0];
            } else {
                rows_out_[r] = row(r, base - (p_.causal ? r : 0), times, mixed_ + r * kKeys);
            }
        }
        return rows_out_;
    }

    // The same for tiles, made in `out`, which takes panel_floats(rows). Rows behind the last have a bias of no meaning.
    PanelBias panel(int64_t key, const StepTimes& times, float* out) {
        const float* base = window_ + (key - p_.key_begin);
        if (!p_.pos_w) return {window_, 0, 0};
        if (!constant(times)) {
            for (int64_t r = 0; r < (alike() ? 1 : p_.rows); ++r) {
                float* to = out + r * kKeys;
                const RowBias bias = row(r, base + spread() - (p_.causal ? r : 0), times, to);
                if (bias.at != to) add(bias.at, bias.plus, kKeys, to);
            }
            return alike() ? PanelBias{out, 0, 0} : PanelBias{out, kTile * kKeys, kKeys};
        }
        if (alike()) {
            add(base, constant_, kKeys, out);
            return {out, 0, 0};
        }
        // The window once for each row of a tile, one float later each: the rows of a tile then lie one behind the other, and the
        // next tile's begin kTile floats before.
        const int64_t width = bank_width(p_.rows), last = round_up(spread(), kTile) + kTile;
        for (int64_t i = 0; i < kTile; ++i) add(base + spread() - last - i, constant_, last + kKeys, out + i * width);
        return {out + last, -kTile, width};
    }

    static int64_t panel_floats(int64_t rows) { return larger(round_up(rows, kTile) * kKeys, kTile * bank_width(rows)); }

    // The bias of a row and its own key: same position, no time between.
    float own() const { return p_.pos_w ? (p_.pos_w[p_.max_len - 1] + p_.ts_w[0]) * kMinusLog2e : 0.0f; }

  private:
    // An odd number of cache lines, so that a tile's rows spread over the cache.
    static int64_t bank_width(int64_t rows) { return (round_up(rows, 2 * kTile) + 2 * kTile + kKeys) / 32 * 32 + 16; }

    // `from` plus `x` to the `count` floats of `to`.
    static void add(const float* from, float x, int64_t count, float* to) {
        const Reg plus = Vec::set1(x);
        for (int64_t i = 0; i < count; i += Vec::kLanes) Vec::store(to + i, Vec::add(Vec::loadu(from + i), plus));
    }

    int64_t spread() const { return p_.causal ? p_.rows - 1 : 0; }

    // Whether every row has the same bias.
    bool alike() const { return !p_.causal && !p_.next_step; }

    // Whether one bucket holds every pair of the tile and the step; its weight is then in `constant_`.
    bool constant(const StepTimes& times) {
        const Span s = span(next_low_, next_high_, times);
        tile_bucket_ = walk(p_.edges, s.low, tile_bucket_);
        constant_ = ts_[tile_bucket_];
        return tile_bucket_ == kBuckets || s.high < p_.edges[tile_bucket_ + 1];
    }

    RowBias row(int64_t r, const float* base, const StepTimes& times, float* out) {
        const int64_t next = p_.next_times[r * p_.next_step];
        const Span s = span(next, next, times);
        const int low = low_bucket_ = walk(p_.edges, s.low, low_bucket_);
        const int high = high_bucket_ = walk(p_.edges, s.high, high_bucket_);
        if (low == high) {
            return {base, ts_[low]};
        }
        if (s.high > INT32_MAX) {
            for (int64_t j = 0; j < kKeys; ++j) {
                const int64_t d = magnitude(saturating_difference(next, times.full[j]));
                out[j] = base[j] + ts_[walk(p_.edges, d, low)];
            }
            return {out, 0.0f};
        }
        const int32_t bits = static_cast<int32_t>(static_cast<uint64_t>(next));
        for (int64_t j = 0; j < kKeys; j += Vec::kLanes) {
            const Vec::Ints d = Vec::differences(bits, times.low_bits + j);
            Reg x = Vec::set1(ts_[low]);
            for (int b = low + 1; b <= high; ++b) {
                x = Vec::blend_from(d, static_cast<int32_t>(p_.edges[b]), x, Vec::set1(ts_[b]));
            }
            Vec::store(out + j, Vec::add(x, Vec::loadu(base + j)));
        }
        return {out, 0.0f};
    }

    const LongbowAttention& p_;
    float* window_;
    float* mixed_;
    RowBias* rows_out_;
    float ts_[kBuckets + 1] = {};
    float constant_ = 0.0f;
    int64_t next_low_ = 0, next_high_ = 0;
    int tile_bucket_ = 0, low_bucket_ = 0, high_bucket_ = 0;
};

}  // namespace
