// Register blocks: the two products of one head for a few rows. Included by attention.hpp, once for each instruction set.
#pragma once

namespace {

// Not those of the standard library: a linker may keep one copy of an inline function for the whole program, and ours
// would be the copy that needs AVX-512.
inline int64_t smaller(int64_t a, int64_t b) { return b < a ? b : a; }
inline int64_t larger(int64_t a, int64_t b) { return a < b ? b : a; }
inline int64_t round_up(int64_t x, int64_t step) { return (x + step - 1) / step * step; }
inline void fill(float* from, float* to, float x) {
    for (; from != to; ++from) *from = x;
}

template <int N>
struct Count {
    static constexpr int value = N;
};

using Reg = Vec::Reg;
constexpr int64_t kKeys = 64;      // most keys of one step (a power of two, and PANEL_KEYS of src/panel.rs)
constexpr int kHalf = 6;           // rows of a register block of kColumns vectors
constexpr int kRows = 2 * kHalf;   // rows that go through a step together
constexpr float kMinusLog2e = -1.44269504088896340736f;
constexpr float kMinusLn2 = -0.69314718055994530942f;

// How numbers are multiplied: one float in each word of a panel. `Pairs` of bf16.hpp has two bf16 in each.
struct Floats {
    static constexpr int64_t kEach = 1;  // numbers in a word
    static Reg dot(Reg a, Reg b, Reg sum) { return Vec::fma(a, b, sum); }
    // One row of queries times `factor`: word c to to[c * kRows].
    static void queries(const float* from, int64_t d, float factor, float* to) {
        for (int64_t c = 0; c < d; ++c) to[c * kRows] = from[c] * factor;
    }
    static void gate_rows(float* weights, int64_t rows, int64_t vectors);
    // Weights `from` to `to` of a row become 0, and those that share a word with them from behind.
    static void clear(float* row, int64_t from, int64_t to) { fill(row + from, row + to, 0.0f); }
};

// Brings the next head's panel into the second-level cache: a share for each block of rows, one line at a time between its
// multiplications, since many at once keep the loads behind them waiting.
class Prefetch {
  public:
    Prefetch(const uint32_t* from, const uint32_t* to, int64_t blocks)
        : at_(from), until_(from), to_(to), each_(round_up((to - from + blocks - 1) / larger(1, blocks), 16)) {}

    void share() { until_ = to_ - until_ < each_ ? to_ : until_ + each_; }
    void one() {
        if (at_ >= until_) return;
        _mm_prefetch(reinterpret_cast<const char*>(at_), _MM_HINT_T1);
        at_ += 16;
    }
    // What is left of the share.
    void rest() {
        while (at_ < until_) one();
    }

  private:
    const uint32_t* at_;
    const uint32_t* until_;
    const uint32_t* to_;
    int64_t each_;
};

// A row's bias at the first key of the step: a pointer to one float for each key, and a constant to add.
struct RowBias {
    const float* at;
    float plus;
};

// scores = q k^T + bias for R rows and C vectors of keys. q: word t of row r at q[t * kRows + r]; kt: `words` rows of
// `width` keys; scores: rows of kKeys. All is scaled by -log2(e), so that the gate needs no further multiplication.
template <class N, int R, int C>
void score(const float* q, int64_t words, const float* kt, int64_t width, const RowBias* bias, float* scores,
           Prefetch& prefetch) {
    Prefetch lines = prefetch;
    Reg s[R][C];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
        const Reg plus = Vec::set1(bias[r].plus);
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) s[r][c] = Vec::add(Vec::loadu(bias[r].at + c * Vec::kLanes), plus);
    }
    for (int64_t t = 0; t < words; ++t, q += kRows, kt += width) {
        lines.one();
        Reg k[C];
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) k[c] = Vec::load(kt + c * Vec::kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const Reg x = Vec::set1(q[r]);
#pragma GCC unroll 8
            for (int c = 0; c < C; ++c) s[r][c] = N::dot(x, k[c], s[r][c]);
        }
    }
    prefetch = lines;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) Vec::store(scores + r * kKeys + c * Vec::kLanes, s[r][c]);
    }
}

// The gate over `vectors` vectors of each of `rows` rows, in place. Vec::kGates of them go through it side by side: alone, a
// vector waits for its own previous step most of the time.
inline void Floats::gate_rows(float* weights, int64_t rows, int64_t vectors) {
    constexpr int G = Vec::kGates;
    float* at[G];
    int n = 0;
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < vectors; ++c) {
            at[n++] = weights + r * kKeys + c * Vec::kLanes;
            if (n < G) continue;
            Vec::template gates<G>(at);
            n = 0;
        }
    }
    for (int i = 0; i < n; ++i) Vec::template gates<1>(at + i);
}

// sums += weights v for R rows and C vectors of value columns over `words` words of each row of weights. The step's own sum is
// made in registers first: adding blocks instead of single terms keeps the rounding error of long histories small.
template <class N, int R, int C>
void gather(const float* weights, int64_t words, const float* v, int64_t v_width, float* sums, int64_t sums_stride) {
    Reg s[R][C];
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) s[r][c] = Vec::zero();
    }
    for (int64_t j = 0; j < words; ++j, ++weights, v += v_width) {
        Reg x[C];
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) x[c] = Vec::load(v + c * Vec::kLanes);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            const Reg w = Vec::set1(weights[r * kKeys]);
#pragma GCC unroll 8
            for (int c = 0; c < C; ++c) s[r][c] = N::dot(w, x[c], s[r][c]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) {
            float* at = sums + r * sums_stride + c * Vec::kLanes;
            Vec::store(at, Vec::add(Vec::load(at), s[r][c]));
        }
    }
}

// One head of one row block against one step of keys.
struct HeadStep {
    const float* q;  // q_words rows of kRows words
    int64_t q_words;
    const float* kt;
    int64_t k_width;
    const RowBias* bias;
    const float* v;
    int64_t v_width;  // padded to whole vectors
    float* sums;
    int64_t sums_stride;
    float* weights;  // rows of kKeys words
    int64_t keys;    // how many keys any row of the block sees, 1 to k_width
    int64_t ragged;  // row r sees keys - max(0, ragged - r) of them
    Prefetch* prefetch;
};

template <class N, int R>
void score_rows(const HeadStep& s, int64_t row) {
    constexpr int C = Vec::kColumns;
    const int64_t vectors = (s.keys + Vec::kLanes - 1) / Vec::kLanes;
    int64_t c = 0;
    const auto columns = [&](auto count) {
        constexpr int kSome = decltype(count)::value;
        const int64_t from = c * Vec::kLanes;
        RowBias bias[R];
        for (int r = 0; r < R; ++r) bias[r] = {s.bias[row + r].at + from, s.bias[row + r].plus};
        score<N, R, kSome>(s.q + row, s.q_words, s.kt + from, s.k_width, bias, s.weights + row * kKeys + from, *s.prefetch);
        c += kSome;
    };
    while (c + C <= vectors) columns(Count<C>{});
    if (C == 4 && vectors - c == 3) columns(Count<C == 4 ? 3 : 1>{});
    if (C == 4 && vectors - c == 2) columns(Count<C == 4 ? 2 : 1>{});
    if (vectors - c == 1) columns(Count<1>{});
}

// C vectors of value columns from `at` on, for `rows` rows from `row` on, at most R of them.
template <class N, int R, int C>
void gather_columns(const HeadStep& s, int64_t at, int64_t row, int64_t rows) {
    const int64_t words = (s.keys + N::kEach - 1) / N::kEach;
    const auto some = [&](auto count) {
        constexpr int kSome = decltype(count)::value;
        gather<N, kSome, C>(s.weights + row * kKeys, words, s.v + at, s.v_width, s.sums + row * s.sums_stride + at, s.sums_stride);
        row += kSome;
        rows -= kSome;
    };
    while (rows >= R) some(Count<R>{});
    if (R > 6 && rows >= 6) some(Count<R < 6 ? R : 6>{});
    if (rows >= 4) some(Count<4>{});
    if (rows >= 2) some(Count<2>{});
    if (rows >= 1) some(Count<1>{});
}

// 1 to kRows rows.
template <class N>
void head_step(const HeadStep& s, int64_t rows) {
    for (int64_t row = 0; row < rows; row += kHalf) {
        switch (rows - row) {
            case 1: score_rows<N, 1>(s, row); break;
            case 2: score_rows<N, 2>(s, row); break;
            case 3: score_rows<N, 3>(s, row); break;
            case 4: score_rows<N, 4>(s, row); break;
            case 5: score_rows<N, 5>(s, row); break;
            default: score_rows<N, kHalf>(s, row);
        }
    }
    s.prefetch->rest();
    N::gate_rows(s.weights, rows, (s.keys + Vec::kLanes - 1) / Vec::kLanes);
    // Keys of the future: a block's rows differ by fewer than kRows of them.
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t hidden = larger(0, s.ragged - r);
        if (hidden > 0 || s.keys % N::kEach != 0) N::clear(s.weights + r * kKeys, larger(0, s.keys - hidden), s.keys);
    }
    constexpr int C = Vec::kColumns;
    constexpr int kTall = C == 4 ? kRows : kHalf;  // as many sums in registers with half as many columns
    const int64_t wide = s.v_width / Vec::kLanes;
    int64_t w = 0;
    for (; w + C <= wide; w += C) gather_columns<N, kHalf, C>(s, w * Vec::kLanes, 0, rows);
    if (C == 4 && wide - w == 3) {
        gather_columns<N, kHalf, C == 4 ? 3 : 1>(s, w * Vec::kLanes, 0, rows);
    } else if (C == 4 && wide - w == 2) {
        gather_columns<N, kTall, C == 4 ? 2 : 1>(s, w * Vec::kLanes, 0, rows);
    } else if (wide - w == 1) {
        gather_columns<N, kTall, 1>(s, w * Vec::kLanes, 0, rows);
    }
}

}  // namespace
