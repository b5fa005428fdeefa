// One tile of HSTU attention: some query rows against a range of keys, K and V packed step by step.
//
// Order of the loops: steps of kKeys keys; the rows' bias; heads; blocks of kRows rows. A step's keys and values are
// packed once for each tile and head (keys transposed, so that lanes are keys; values padded to whole vectors), and
// serve all rows of the tile. The values of SiLU never leave a 6 x 64 piece of scratch.
#pragma once
#include "blocks.hpp"
#include "bias.hpp"

namespace {

int64_t round_up(int64_t x, int64_t step) { return (x + step - 1) / step * step; }

// Where everything lies in the scratch, in floats. Each part starts at a whole cache line.
struct Layout {
    int64_t v_width, q, sums, kt, v, weights, window, mixed, row_bias, zeros, total;

    explicit Layout(const LongbowAttention& p) {
        int64_t at = 0;
        const auto take = [&at](int64_t floats) {
            const int64_t here = at;
            at += round_up(floats, 16);
            return here;
        };
        v_width = round_up(p.d_v, Vec::kLanes);
        q = take(p.heads * p.rows * p.d_qk);
        sums = take(p.rows * p.heads * v_width);
        kt = take(p.d_qk * kKeys);
        v = take(kKeys * v_width);
        weights = take(kRows * kKeys);
        window = take(round_up(p.key_end - p.key_begin, kKeys) + p.rows + kKeys);
        mixed = take(p.rows * kKeys);
        row_bias = take(p.rows * static_cast<int64_t>(sizeof(RowBias) / sizeof(float)));
        zeros = take(larger(p.d_qk, p.d_v));
        total = at;
    }
};

uint64_t scratch_floats(const LongbowAttention& p) { return static_cast<uint64_t>(Layout(p).total); }

// The rows of one step, wherever they lie.
struct StepRows {
    const float* k[kKeys];
    const float* v[kKeys];
    StepTimes times;
    int64_t keys;
};

// Walks the blocks of a sequence key by key.
struct Cursor {
    const LongbowKvBlock* block;
    const LongbowKvBlock* end;
    int64_t row;

    Cursor(const LongbowAttention& p) : block(p.blocks), end(p.blocks + p.block_count), row(p.key_begin) { settle(); }

    void settle() {
        while (block != end && row >= block->rows) {
            row -= block->rows;
            ++block;
        }
    }

    // Takes `keys` keys; the missing ones of a whole step repeat the last time and point nowhere.
    bool take(int64_t keys, StepRows& out) {
        StepTimes& t = out.times;
        t.low = INT64_MAX;
        t.high = INT64_MIN;
        out.keys = keys;
        for (int64_t j = 0; j < keys; ++j, ++row) {
            settle();
            if (block == end) return false;
            out.k[j] = block->k + row * block->k_stride;
            out.v[j] = block->v + row * block->v_stride;
            t.full[j] = block->times ? block->times[row] : 0;
            t.low = smaller(t.low, t.full[j]);
            t.high = larger(t.high, t.full[j]);
        }
        for (int64_t j = keys; j < kKeys; ++j) t.full[j] = t.full[keys - 1];
        for (int64_t j = 0; j < kKeys; ++j) t.low_bits[j] = static_cast<int32_t>(static_cast<uint64_t>(t.full[j]));
        return true;
    }
};

// kt[c][j] = row j's float c of one head. Missing keys are 0, so that their score is their bias, which is finite.
void pack_keys(const StepRows& rows, int64_t offset, int64_t d, const float* zeros, float* kt) {
    const float* at[kKeys];
    for (int64_t j = 0; j < kKeys; ++j) at[j] = j < rows.keys ? rows.k[j] + offset : zeros;
    const int64_t used = round_up(rows.keys, Vec::kLanes);
    const int64_t whole = d / 4 * 4;
    for (int64_t j = 0; j < used; j += Vec::kLanes) {
        for (int64_t c = 0; c < whole; c += 4) {
            const Reg a = Vec::gather_quarters(at + j, c, 0), b = Vec::gather_quarters(at + j, c, 1);
            const Reg e = Vec::gather_quarters(at + j, c, 2), f = Vec::gather_quarters(at + j, c, 3);
            const Reg ab = Vec::unpack_low(a, b), ef = Vec::unpack_low(e, f);
            const Reg ab2 = Vec::unpack_high(a, b), ef2 = Vec::unpack_high(e, f);
            float* to = kt + c * kKeys + j;
            Vec::store(to, Vec::pairs_low(ab, ef));
            Vec::store(to + kKeys, Vec::pairs_high(ab, ef));
            Vec::store(to + 2 * kKeys, Vec::pairs_low(ab2, ef2));
            Vec::store(to + 3 * kKeys, Vec::pairs_high(ab2, ef2));
        }
        for (int64_t c = whole; c < d; ++c) {
            for (int64_t i = j; i < j + Vec::kLanes; ++i) kt[c * kKeys + i] = at[i][c];
        }
    }
}

// Values of one head, each row padded with zeros to whole vectors.
void pack_values(const StepRows& rows, int64_t offset, int64_t d, int64_t width, float* v) {
    const int64_t whole = d / Vec::kLanes * Vec::kLanes;
    for (int64_t j = 0; j < rows.keys; ++j) {
        const float* from = rows.v[j] + offset;
        float* to = v + j * width;
        for (int64_t c = 0; c < whole; c += Vec::kLanes) Vec::store(to + c, Vec::loadu(from + c));
        if (whole < d) Vec::store(to + whole, Vec::load_first(from + whole, d - whole));
    }
}

// Brings one head's share of the next step's rows into the second-level cache, a few lines for each block of rows. Rows
// lie a stride apart, which the hardware's own prefetch does not follow.
class Prefetch {
  public:
    Prefetch(const StepRows& next, int64_t head, const LongbowAttention& p, int64_t blocks)
        : next_(next), k_from_(head * p.d_qk), k_to_(k_from_ + p.d_qk), v_from_(head * p.d_v), v_to_(v_from_ + p.d_v),
          each_((next.keys + blocks - 1) / blocks) {}

    void some() {
        const int64_t to = smaller(next_.keys, at_ + each_);
        for (; at_ < to; ++at_) {
            for (int64_t c = k_from_; c < k_to_; c += 16) _mm_prefetch(next_.k[at_] + c, _MM_HINT_T1);
            for (int64_t c = v_from_; c < v_to_; c += 16) _mm_prefetch(next_.v[at_] + c, _MM_HINT_T1);
        }
    }

  private:
    const StepRows& next_;
    const int64_t k_from_, k_to_, v_from_, v_to_, each_;
    int64_t at_ = 0;
};

// One tile at work: parameters, scratch, and the loops.
class Tile {
  public:
    explicit Tile(const LongbowAttention& p)
        : p_(p), at_(p), s_(p.scratch), row_bias_(reinterpret_cast<RowBias*>(s_ + at_.row_bias)),
          bias_(p, s_ + at_.window, s_ + at_.mixed, row_bias_) {
        fill(s_ + at_.sums, s_ + at_.sums + p.rows * p.heads * at_.v_width, 0.0f);
        fill(s_ + at_.zeros, s_ + at_.zeros + larger(p.d_qk, p.d_v), 0.0f);
        // Head by head, times alpha and -log2(e).
        for (int64_t h = 0; h < p.heads; ++h) {
            for (int64_t r = 0; r < p.rows; ++r) {
                const float* from = p.q + r * p.q_stride + h * p.d_qk;
                float* to = s_ + at_.q + (h * p.rows + r) * p.d_qk;
                for (int64_t c = 0; c < p.d_qk; ++c) to[c] = from[c] * (p.alpha * kMinusLog2e);
            }
        }
    }

    bool run() {
        Cursor cursor(p_);
        StepRows steps[2];
        if (p_.key_begin < p_.key_end && !cursor.take(smaller(kKeys, p_.key_end - p_.key_begin), steps[0])) return false;
        int now = 0;
        for (int64_t key = p_.key_begin; key < p_.key_end; key += kKeys, now ^= 1) {
            const StepRows& rows = steps[now];
            StepRows& next = steps[now ^ 1];
            next.keys = 0;
            if (key + kKeys < p_.key_end && !cursor.take(smaller(kKeys, p_.key_end - key - kKeys), next)) return false;
            bias_.step(key, rows.times);
            for (int64_t h = 0; h < p_.heads; ++h) {
                pack_keys(rows, h * p_.d_qk, p_.d_qk, s_ + at_.zeros, s_ + at_.kt);
                pack_values(rows, h * p_.d_v, p_.d_v, at_.v_width, s_ + at_.v);
                head(h, key, rows.keys, Prefetch(next, h, p_, (p_.rows + kRows - 1) / kRows));
            }
        }
        if (p_.own_k) add_own();
        write();
        return true;
    }

  private:
    void head(int64_t h, int64_t key, int64_t keys, Prefetch prefetch) {
        // Rows that stand before the first key of the step see none of it.
        const int64_t first = p_.causal ? larger(0, key - p_.first_position) / kRows * kRows : 0;
        for (int64_t r = first; r < p_.rows; r += kRows) {
            const int64_t rows = smaller(kRows, p_.rows - r);
            int64_t seen = keys, ragged = 0;
            if (p_.causal) {
                const int64_t last = p_.first_position + r + rows - 1 - key + 1;  // keys of the step up to the last row's
                seen = smaller(keys, last);
                if (seen <= 0) continue;
                ragged = larger(0, seen - (last - (rows - 1)));
            }
            prefetch.some();
            const HeadStep step = {s_ + at_.q + (h * p_.rows + r) * p_.d_qk, p_.d_qk, s_ + at_.kt, row_bias_ + r, s_ + at_.v,
                                   at_.v_width, s_ + at_.sums + (r * p_.heads + h) * at_.v_width, p_.heads * at_.v_width,
                                   s_ + at_.weights, seen, ragged};
            head_step(step, rows);
        }
    }

    // Each row's own key and value.
    void add_own() {
        for (int64_t r = 0; r < p_.rows; ++r) {
            for (int64_t h = 0; h < p_.heads; ++h) {
                const float* q = s_ + at_.q + (h * p_.rows + r) * p_.d_qk;
                const float* k = p_.own_k + r * p_.own_k_stride + h * p_.d_qk;
                const float* v = p_.own_v + r * p_.own_v_stride + h * p_.d_v;
                float* sums = s_ + at_.sums + (r * p_.heads + h) * at_.v_width;
                Reg dot = Vec::zero();
                int64_t c = 0;
                for (; c + Vec::kLanes <= p_.d_qk; c += Vec::kLanes) dot = Vec::fma(Vec::loadu(q + c), Vec::loadu(k + c), dot);
                if (c < p_.d_qk) {
                    dot = Vec::fma(Vec::load_first(q + c, p_.d_qk - c), Vec::load_first(k + c, p_.d_qk - c), dot);
                }
                const Reg weight = Vec::gate(Vec::set1(Vec::sum(dot) + bias_.own()));
                for (c = 0; c + Vec::kLanes <= p_.d_v; c += Vec::kLanes) {
                    Vec::store(sums + c, Vec::fma(weight, Vec::loadu(v + c), Vec::load(sums + c)));
                }
                if (c < p_.d_v) {
                    Vec::store(sums + c, Vec::fma(weight, Vec::load_first(v + c, p_.d_v - c), Vec::load(sums + c)));
                }
            }
        }
    }

    // The factors that were left out of every weight come in here, once.
    void write() {
        const Reg factor = Vec::set1(p_.scale * kMinusLn2);
        for (int64_t r = 0; r < p_.rows; ++r) {
            for (int64_t h = 0; h < p_.heads; ++h) {
                const float* from = s_ + at_.sums + (r * p_.heads + h) * at_.v_width;
                float* to = p_.out + r * p_.out_stride + h * p_.d_v;
                int64_t c = 0;
                for (; c + Vec::kLanes <= p_.d_v; c += Vec::kLanes) Vec::storeu(to + c, Vec::mul(Vec::load(from + c), factor));
                if (c < p_.d_v) Vec::store_first(to + c, Vec::mul(Vec::load(from + c), factor), p_.d_v - c);
            }
        }
    }

    const LongbowAttention& p_;
    const Layout at_;
    float* const s_;
    RowBias* const row_bias_;
    TileBias bias_;
};

int32_t attention(const LongbowAttention& p) {
    if (p.size != sizeof(LongbowAttention)) return LONGBOW_BAD_SIZE;
    if (p.heads < 1 || p.d_qk < 1 || p.d_v < 1 || p.rows < 1 || p.key_begin < 0 || p.key_end < p.key_begin) {
        return LONGBOW_BAD_SHAPE;
    }
    if (p.scratch_floats < scratch_floats(p) || reinterpret_cast<uintptr_t>(p.scratch) % 64 != 0) return LONGBOW_BAD_SCRATCH;
    return Tile(p).run() ? LONGBOW_OK : LONGBOW_BAD_KEYS;
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
