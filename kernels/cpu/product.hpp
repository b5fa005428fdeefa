// Matrix products with a right-hand side that was packed once. Included once for each instruction set.
#pragma once

namespace {

constexpr int64_t kPanelCols = 64;

// R rows of `a` times C vectors of columns of one panel, into registers, then to `c`.
template <int R, int C>
void product_block(const LongbowProduct& p, const float* a, const float* b, int64_t col, float* c) {
    Reg s[R][C];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int v = 0; v < C; ++v) s[r][v] = Vec::zero();
    }
    for (int64_t t = 0; t < p.inner; ++t, b += kPanelCols) {
        Reg x[C];
#pragma GCC unroll 8
        for (int v = 0; v < C; ++v) x[v] = Vec::load(b + v * Vec::kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const Reg w = Vec::set1(a[r * p.a_stride + t]);
#pragma GCC unroll 8
            for (int v = 0; v < C; ++v) s[r][v] = Vec::fma(w, x[v], s[r][v]);
        }
    }
#pragma GCC unroll 8
    for (int v = 0; v < C; ++v) {
        const int64_t at = col + v * Vec::kLanes, left = p.cols - at;
        const bool whole = left >= Vec::kLanes;
        Reg bias = Vec::zero();
        if (p.bias) bias = whole ? Vec::loadu(p.bias + at) : Vec::load_first(p.bias + at, left);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            float* to = c + r * p.c_stride + at;
            Reg sum = Vec::add(s[r][v], bias);
            if (p.accumulate) sum = Vec::add(sum, whole ? Vec::loadu(to) : Vec::load_first(to, left));
            if (whole) {
                Vec::storeu(to, sum);
            } else {
                Vec::store_first(to, sum, left);
            }
        }
    }
}

// One panel of columns for R rows.
template <int R>
void product_rows(const LongbowProduct& p, const float* a, const float* panel, int64_t col, float* c) {
    constexpr int C = Vec::kColumns;
    const int64_t vectors = (smaller(kPanelCols, p.cols - col) + Vec::kLanes - 1) / Vec::kLanes;
    int64_t v = 0;
    const auto some = [&](auto count) {
        constexpr int N = decltype(count)::value;
        product_block<R, N>(p, a, panel + v * Vec::kLanes, col + v * Vec::kLanes, c);
        v += N;
    };
    while (v + C <= vectors) some(Count<C>{});
    if (C == 4 && vectors - v == 3) some(Count<C == 4 ? 3 : 1>{});
    if (C == 4 && vectors - v == 2) some(Count<C == 4 ? 2 : 1>{});
    if (vectors - v == 1) some(Count<1>{});
}

int32_t product(const LongbowProduct& p) {
    if (p.size != sizeof(LongbowProduct)) return LONGBOW_BAD_SIZE;
    if (p.rows < 0 || p.inner < 0 || p.cols < 0) return LONGBOW_BAD_SHAPE;
    for (int64_t col = 0; col < p.cols; col += kPanelCols) {
        const float* panel = p.b + col * p.inner;
        int64_t r = 0;
        for (; r + kHalf <= p.rows; r += kHalf) {
            product_rows<kHalf>(p, p.a + r * p.a_stride, panel, col, p.c + r * p.c_stride);
        }
        for (; r < p.rows; ++r) product_rows<1>(p, p.a + r * p.a_stride, panel, col, p.c + r * p.c_stride);
    }
    return LONGBOW_OK;
}

// Does `step(first column, columns)` for each vector of a row; only the last one may be short.
template <typename Do>
void each_vector(int64_t cols, Do step) {
    for (int64_t c = 0; c < cols; c += Vec::kLanes) step(c, smaller(Vec::kLanes, cols - c));
}

Reg load_some(const float* p, int64_t n) { return n == Vec::kLanes ? Vec::loadu(p) : Vec::load_first(p, n); }

// Mean first, then the variance about it.
void norm_row(const LongbowNorm& p, const float* x, const float* gate, float* out) {
    const float count = static_cast<float>(p.cols);
    Reg sum = Vec::zero(), square = Vec::zero();
    each_vector(p.cols, [&](int64_t c, int64_t n) { sum = Vec::add(sum, load_some(x + c, n)); });
    const Reg mean = Vec::set1(-Vec::sum(sum) / count);
    each_vector(p.cols, [&](int64_t c, int64_t n) {
        // Lanes beyond the row count as the mean.
        const Reg d = n == Vec::kLanes ? Vec::add(Vec::loadu(x + c), mean) : Vec::first_of(Vec::add(load_some(x + c, n), mean), n);
        square = Vec::fma(d, d, square);
    });
    const Reg factor = Vec::set1(1.0f / __builtin_sqrtf(Vec::sum(square) / count + p.epsilon));
    each_vector(p.cols, [&](int64_t c, int64_t n) {
        Reg y = Vec::mul(Vec::add(load_some(x + c, n), mean), factor);
        if (p.weight) y = Vec::fma(y, load_some(p.weight + c, n), load_some(p.bias + c, n));
        if (gate) y = Vec::mul(y, load_some(gate + c, n));
        if (n == Vec::kLanes) {
            Vec::storeu(out + c, y);
        } else {
            Vec::store_first(out + c, y, n);
        }
    });
}

int32_t norm(const LongbowNorm& p) {
    if (p.size != sizeof(LongbowNorm)) return LONGBOW_BAD_SIZE;
    if (p.rows < 0 || p.cols < 1) return LONGBOW_BAD_SHAPE;
    for (int64_t r = 0; r < p.rows; ++r) {
        norm_row(p, p.x + r * p.x_stride, p.gate ? p.gate + r * p.gate_stride : nullptr, p.out + r * p.out_stride);
    }
    return LONGBOW_OK;
}

}  // namespace
