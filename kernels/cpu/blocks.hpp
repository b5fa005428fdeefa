// Register blocks: the two products of one head for a few rows. Included by attention.hpp, once for each instruction set.
#pragma once

namespace {

// Not those of the standard library: a linker may keep one copy of an inline function for the whole program, and ours
// would be the copy that needs AVX-512.
inline int64_t smaller(int64_t a, int64_t b) { return b < a ? b : a; }
inline int64_t larger(int64_t a, int64_t b) { return a < b ? b : a; }
inline void fill(float* from, float* to, float x) {
    for (; from != to; ++from) *from = x;
}

template <int N>
struct Count {
    static constexpr int value = N;
};

using Reg = Vec::Reg;
constexpr int64_t kKeys = 64;  // keys of one step (a power of two, and KEY_STEP of src/tile.rs)
constexpr int kRows = 6;       // rows of a register block
constexpr float kMinusLog2e = -1.44269504088896340736f;
constexpr float kMinusLn2 = -0.69314718055994530942f;

// A row's bias at the first key of the step: a pointer to one float for each key, and a constant to add.
struct RowBias {
    const float* at;
    float plus;
};

// weights = gate(q k^T + bias) for R rows and C vectors of keys. q: rows of `d` floats; kt: `d` rows of kKeys keys;
// weights: rows of kKeys. Everything is scaled by -log2(e), so that the gate needs no further multiplication.
template <int R, int C>
void score(const float* q, int64_t d, const float* kt, const RowBias* bias, float* weights) {
    Reg s[R][C];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
        const Reg plus = Vec::set1(bias[r].plus);
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) s[r][c] = Vec::add(Vec::loadu(bias[r].at + c * Vec::kLanes), plus);
    }
    for (int64_t t = 0; t < d; ++t) {
        Reg k[C];
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) k[c] = Vec::load(kt + t * kKeys + c * Vec::kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const Reg x = Vec::set1(q[r * d + t]);
#pragma GCC unroll 8
            for (int c = 0; c < C; ++c) s[r][c] = Vec::fma(x, k[c], s[r][c]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) Vec::store(weights + r * kKeys + c * Vec::kLanes, Vec::gate(s[r][c]));
    }
}

// sums += weights v for R rows and C vectors of value columns over `keys` keys. The step's own sum is made in registers
// first: adding blocks instead of single terms keeps the rounding error of long histories small.
template <int R, int C>
void gather(const float* weights, int64_t keys, const float* v, int64_t v_width, float* sums, int64_t sums_stride) {
    Reg s[R][C];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) s[r][c] = Vec::zero();
    }
    for (int64_t j = 0; j < keys; ++j) {
        Reg x[C];
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) x[c] = Vec::load(v + j * v_width + c * Vec::kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const Reg w = Vec::set1(weights[r * kKeys + j]);
#pragma GCC unroll 8
            for (int c = 0; c < C; ++c) s[r][c] = Vec::fma(w, x[c], s[r][c]);
        }
    }
#pragma GCC unroll 8
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
    const float* q;
    int64_t d_qk;
    const float* kt;
    const RowBias* bias;
    const float* v;
    int64_t v_width;  // padded to whole vectors
    float* sums;
    int64_t sums_stride;
    float* weights;
    int64_t keys;     // how many keys any row of the block sees, 1 to kKeys
    int64_t ragged;   // row r sees keys - max(0, ragged - r) of them
};

template <int R, int C>
void score_columns(const HeadStep& s, int64_t from) {
    RowBias bias[R];
    for (int r = 0; r < R; ++r) bias[r] = {s.bias[r].at + from, s.bias[r].plus};
    score<R, C>(s.q, s.d_qk, s.kt + from, bias, s.weights + from);
}

template <int R>
void head_step(const HeadStep& s) {
    constexpr int C = Vec::kColumns;
    const int64_t vectors = (s.keys + Vec::kLanes - 1) / Vec::kLanes;
    int64_t c = 0;
    for (; c + C <= vectors; c += C) score_columns<R, C>(s, c * Vec::kLanes);
    const int64_t from = c * Vec::kLanes;
    if (C == 4 && vectors - c == 3) score_columns<R, C == 4 ? 3 : 1>(s, from);
    if (C == 4 && vectors - c == 2) score_columns<R, C == 4 ? 2 : 1>(s, from);
    if (vectors - c == 1) score_columns<R, 1>(s, from);
    // Keys of the future: a block's rows differ by fewer than R of them.
    for (int64_t r = 0; r < R && r < s.ragged; ++r) {
        for (int64_t j = larger(0, s.keys - (s.ragged - r)); j < s.keys; ++j) s.weights[r * kKeys + j] = 0.0f;
    }
    const int64_t wide = s.v_width / Vec::kLanes;
    int64_t w = 0;
    const auto sum = [&](auto columns) {
        constexpr int N = decltype(columns)::value;
        const int64_t at = w * Vec::kLanes;
        gather<R, N>(s.weights, s.keys, s.v + at, s.v_width, s.sums + at, s.sums_stride);
        w += N;
    };
    while (w + C <= wide) sum(Count<C>{});
    if (C == 4 && wide - w == 3) sum(Count<C == 4 ? 3 : 1>{});
    if (C == 4 && wide - w == 2) sum(Count<C == 4 ? 2 : 1>{});
    if (wide - w == 1) sum(Count<1>{});
}

// The same for 1 to kRows rows.
void head_step(const HeadStep& s, int64_t rows) {
    switch (rows) {
        case 1: return head_step<1>(s);
        case 2: return head_step<2>(s);
        case 3: return head_step<3>(s);
        case 4: return head_step<4>(s);
        case 5: return head_step<5>(s);
        default: return head_step<6>(s);
    }
}

}  // namespace
