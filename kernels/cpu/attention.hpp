// One tile of HSTU attention: some query rows against a range of keys, panel by panel.
//
// Order of the loops: steps (panels of up to kKeys keys); the rows' bias; heads; blocks of kRows rows. A panel is read once for
// all rows of the tile; panels of bf16 are widened first, unless pairs of bf16 are multiplied as they are (`Pairs`). The values of
// SiLU never leave a 12 x 64 piece of scratch.
#pragma once
#include "blocks.hpp"
#include "bias.hpp"
#include "walk.hpp"
#include "ends.hpp"

namespace {

// Whether the panels hold pairs and the products take floats.
template <class N>
bool widens(const LongbowAttention& p) {
    return N::kEach == 1 && p.format == LONGBOW_BF16;
}

// Where everything lies in the scratch, in floats. Each part starts at a whole cache line.
template <class N>
struct Layout {
    int64_t v_width, q_words, q, sums, kt, v, weights, window, mixed, row_bias, total;

    explicit Layout(const LongbowAttention& p) {
        int64_t at = 0;
        const auto take = [&at](int64_t floats) {
            const int64_t here = at;
            at += round_up(floats, 16);
            return here;
        };
        v_width = round_up(p.d_v, 16);
        q_words = (p.d_qk + N::kEach - 1) / N::kEach;
        q = take(p.heads * round_up(p.rows, kRows) * q_words);
        sums = take(p.rows * p.heads * v_width);
        kt = take(widens<N>(p) ? round_up(p.d_qk, 32) * kKeys : 0);
        v = take(widens<N>(p) ? kKeys * v_width : 0);
        weights = take(kRows * kKeys);
        window = take(round_up(p.key_end - p.key_begin, kKeys) + p.rows + 2 * kKeys);
        mixed = take(p.rows * kKeys);
        row_bias = take(p.rows * static_cast<int64_t>(sizeof(RowBias) / sizeof(float)));
        total = at;
    }
};

template <class N>
uint64_t scratch_floats(const LongbowAttention& p) {
    return static_cast<uint64_t>(Layout<N>(p).total);
}

// Rows of pairs of bf16 to two rows of floats each: the lower halves first.
void widen(const uint32_t* from, int64_t rows, int64_t width, float* to) {
    for (int64_t r = 0; r < rows; ++r, from += width, to += 2 * width) {
        for (int64_t c = 0; c < width; c += Vec::kLanes) {
            Vec::store(to + c, Vec::low_halves(from + c));
            Vec::store(to + width + c, Vec::high_halves(from + c));
        }
    }
}

// One tile at work: parameters, scratch, and the loops.
template <class N>
class Tile {
  public:
    explicit Tile(const LongbowAttention& p)
        : p_(p), at_(p), s_(p.scratch),
          bias_(p, s_ + at_.window, s_ + at_.mixed, reinterpret_cast<RowBias*>(s_ + at_.row_bias)) {
        fill(s_ + at_.sums, s_ + at_.sums + p.rows * p.heads * at_.v_width, 0.0f);
        // Head by head in blocks of kRows rows, word by word, times alpha and -log2(e).
        for (int64_t h = 0; h < p.heads; ++h) {
            for (int64_t r = 0; r < p.rows; ++r) {
                const float* from = p.q + r * p.q_stride + h * p.d_qk;
                N::queries(from, p.d_qk, p.alpha * kMinusLog2e, queries(h, r / kRows * kRows) + r % kRows);
            }
        }
    }

    bool run() {
        Cursor cursor(p_);
        Step steps[2];
        int64_t key = p_.key_begin;
        if (key < p_.key_end && !cursor.take(p_.key_end - key, steps[0])) return false;
        for (int now = 0; key < p_.key_end; now ^= 1) {
            const Step& step = steps[now];
            Step& next = steps[now ^ 1];
            const int64_t left = p_.key_end - key - step.keys;
            next.panel = next.end = nullptr;
            if (left > 0 && !cursor.take(left, next)) return false;
            const RowBias* bias = bias_.step(key, step.times);
            const HeadWords words = head_words(p_, step.panel_keys);
            const uint32_t* k = step.panel;
            for (int64_t h = 0; h < p_.heads; ++h, k += words.k + words.v) {
                const bool last = h + 1 == p_.heads;
                const uint32_t* soon = last ? next.panel : k + words.k + words.v;
                const uint32_t* end = last ? (next.panel ? next.panel + (next.end - next.panel) / p_.heads : soon)
                                           : soon + words.k + words.v;
                head(h, key, step, k, bias, Prefetch(soon, end, (p_.rows + kRows - 1) / kRows));
            }
            key += step.keys;
        }
        const auto sums = [this](int64_t r, int64_t h) { return s_ + at_.sums + (r * p_.heads + h) * at_.v_width; };
        if (p_.own_k) add_own(p_, bias_.own(), sums);
        write(p_, sums);
        return true;
    }

  private:
    // Queries of the block of kRows rows that starts at row r.
    float* queries(int64_t h, int64_t r) const { return s_ + at_.q + (h * round_up(p_.rows, kRows) + r) * at_.q_words; }

    void head(int64_t h, int64_t key, const Step& step, const uint32_t* panel, const RowBias* bias, Prefetch prefetch) {
        const HeadWords words = head_words(p_, step.panel_keys);
        const float* kt = reinterpret_cast<const float*>(panel);
        const float* v = kt + words.k;
        if (widens<N>(p_)) {
            widen(panel, words.k / step.panel_keys, step.panel_keys, s_ + at_.kt);
            widen(panel + words.k, step.panel_keys / 2, at_.v_width, s_ + at_.v);
            kt = s_ + at_.kt;
            v = s_ + at_.v;
        }
        // Rows that stand before the first key of the step see none of it.
        const int64_t first = p_.causal ? larger(0, key - p_.first_position) / kRows * kRows : 0;
        for (int64_t r = first; r < p_.rows; r += kRows) {
            const int64_t rows = smaller(kRows, p_.rows - r);
            int64_t seen = step.keys, ragged = 0;
            if (p_.causal) {
                const int64_t last = p_.first_position + r + rows - 1 - key + 1;  // keys of the step up to the last row's
                seen = smaller(step.keys, last);
                if (seen <= 0) continue;
                ragged = larger(0, seen - (last - (rows - 1)));
            }
            prefetch.share();
            float* const sums = s_ + at_.sums + (r * p_.heads + h) * at_.v_width;
            head_step<N>({queries(h, r), at_.q_words, kt, step.panel_keys, bias + r, v, at_.v_width, sums, p_.heads * at_.v_width,
                          s_ + at_.weights, seen, ragged, &prefetch},
                         rows);
        }
    }

    const LongbowAttention& p_;
    const Layout<N> at_;
    float* const s_;
    TileBias bias_;
};

template <class N>
int32_t attention(const LongbowAttention& p) {
    if (p.size != sizeof(LongbowAttention)) return LONGBOW_BAD_SIZE;
    if (N::kEach == 2 && p.format != LONGBOW_BF16) return LONGBOW_BAD_SHAPE;
    const int32_t refused = check(p, scratch_floats<N>(p));
    if (refused != LONGBOW_OK) return refused;
    return Tile<N>(p).run() ? LONGBOW_OK : LONGBOW_BAD_KEYS;
}

// x * sigmoid(x), in place.
void silu(float* x, size_t len) {
    const Reg in = Vec::set1(kMinusLog2e), out = Vec::set1(kMinusLn2);
    size_t i = 0;
    for (; i + Vec::kLanes <= len; i += Vec::kLanes) {
        Vec::storeu(x + i, Vec::mul(Vec::gate(Vec::mul(Vec::loadu(x + i), in)), out));
    }
    if (i < len) {
        const int64_t rest = static_cast<int64_t>(len - i);
        Vec::store_first(x + i, Vec::mul(Vec::gate(Vec::mul(Vec::load_first(x + i, rest), in)), out), rest);
    }
}

}  // namespace
