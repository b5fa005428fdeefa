// Vectors of AVX-512 with BF16: products of pairs of bfloat16, summed in f32. Included after blocks.hpp.
#pragma once
#include <cstring>

namespace {

// z / (1 + 2^z) for N vectors side by side, for weights that will be rounded to bf16: relative error 7.5e-5 of the polynomial
// and 6e-5 of the approximate reciprocal; bf16 itself loses up to 2e-3. From z = 127 on it is 0, for 2^z has no reciprocal then.
template <int N>
void gate_bf16(__m512* z) {
    __m512 p[N], f[N];
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) f[i] = _mm512_reduce_ps(z[i], 0x09);  // z - floor(z)
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) p[i] = _mm512_fmadd_ps(_mm512_set1_ps(7.802387e-2f), f[i], _mm512_set1_ps(2.260669e-1f));
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) p[i] = _mm512_fmadd_ps(p[i], f[i], _mm512_set1_ps(6.958343e-1f));
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) p[i] = _mm512_fmadd_ps(p[i], f[i], _mm512_set1_ps(9.999251e-1f));
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) p[i] = _mm512_add_ps(_mm512_scalef_ps(p[i], z[i]), _mm512_set1_ps(1.0f));
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) z[i] = _mm512_mul_ps(z[i], _mm512_rcp14_ps(p[i]));
}

// Two bf16 in each word of a panel: queries, keys, weights and values are rounded to bf16, every sum is f32.
struct Pairs {
    static constexpr int64_t kEach = 2;

    static Reg dot(Reg a, Reg b, Reg sum) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }

    // One row of queries times `factor`, the column behind an odd number of them 0: word c to to[c * kRows].
    static void queries(const float* from, int64_t d, float factor, float* to) {
        for (int64_t c = 0; c < d; c += Vec::kLanes, to += Vec::kLanes / 2 * kRows) {
            const int64_t left = smaller(Vec::kLanes, d - c);
            const __m256bh half = _mm512_cvtneps_pbh(Vec::mul(Vec::load_first(from + c, left), Vec::set1(factor)));
            float words[Vec::kLanes / 2];
            std::memcpy(words, &half, sizeof(words));
            for (int64_t i = 0; i < (left + 1) / 2; ++i) to[i * kRows] = words[i];
        }
    }

    // The gate over `vectors` vectors of floats of each of `rows` rows, to pairs at the row's beginning. Where a pair of vectors
    // lacks its second one, that half of the pairs is of no meaning.
    static void gate_rows(float* weights, int64_t rows, int64_t vectors) {
        constexpr int G = 4;
        const float* from[G];
        float* to[G];
        int n = 0;
        for (int64_t r = 0; r < rows; ++r) {
            for (int64_t c = 0; c < vectors; c += 2) {
                from[n] = weights + r * kKeys + c * Vec::kLanes;
                to[n++] = weights + r * kKeys + c * (Vec::kLanes / 2);
                if (n < G) continue;
                gates<G>(from, to);
                n = 0;
            }
        }
        for (int i = 0; i < n; ++i) gates<1>(from + i, to + i);
    }

    // Weights `from` to `to` of a row become 0, and the one that shares a word with the last.
    static void clear(float* row, int64_t from, int64_t to) {
        std::memset(reinterpret_cast<char*>(row) + 2 * from, 0, static_cast<size_t>(2 * (round_up(to, 2) - from)));
    }

  private:
    template <int G>
    static void gates(const float* const* from, float* const* to) {
        Reg z[2 * G];
#pragma GCC unroll 8
        for (int i = 0; i < 2 * G; ++i) z[i] = Vec::load(from[i / 2] + i % 2 * Vec::kLanes);
        gate_bf16<2 * G>(z);
#pragma GCC unroll 8
        for (int i = 0; i < G; ++i) Vec::store(to[i], (Reg)_mm512_cvtne2ps_pbh(z[2 * i + 1], z[2 * i]));
    }
};

}  // namespace
