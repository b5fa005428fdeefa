// Vectors of AVX-512 F, BW, VL and DQ: 16 lanes, 32 registers.
#pragma once
#include <immintrin.h>

namespace {

struct Vec {
    using Reg = __m512;
    static constexpr int kLanes = 16;
    // Vectors of a register block beside its 6 rows: 24 sums, 4 loads, 1 broadcast.
    static constexpr int kColumns = 4;

    static Reg zero() { return _mm512_setzero_ps(); }
    static Reg set1(float x) { return _mm512_set1_ps(x); }
    static Reg load(const float* p) { return _mm512_load_ps(p); }
    static Reg loadu(const float* p) { return _mm512_loadu_ps(p); }
    static void store(float* p, Reg x) { _mm512_store_ps(p, x); }
    static void storeu(float* p, Reg x) { _mm512_storeu_ps(p, x); }
    static Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
    static Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
    static Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
    static float sum(Reg a) { return _mm512_reduce_add_ps(a); }

    static __mmask16 first(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }
    // The first n < kLanes floats; the other lanes are 0.
    static Reg load_first(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
    static Reg first_of(Reg x, int64_t n) { return _mm512_maskz_mov_ps(first(n), x); }
    static void store_first(float* p, Reg x, int64_t n) { _mm512_mask_storeu_ps(p, first(n), x); }

    // The lower and the upper bf16 of 16 words, as floats.
    static Reg low_halves(const uint32_t* p) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_load_si512(p), 16)); }
    static Reg high_halves(const uint32_t* p) {
        return _mm512_castsi512_ps(_mm512_and_si512(_mm512_load_si512(p), _mm512_set1_epi32(-65536)));
    }

    // |next - times[0..16]| in 32 bits; exact when the true differences fit.
    using Ints = __m512i;
    static Ints differences(int32_t next, const int32_t* times) {
        return _mm512_abs_epi32(_mm512_sub_epi32(_mm512_set1_epi32(next), _mm512_load_si512(times)));
    }
    // `above` where d >= edge, else `x`.
    static Reg blend_from(Ints d, int32_t edge, Reg x, Reg above) {
        return _mm512_mask_blend_ps(_mm512_cmpge_epi32_mask(d, _mm512_set1_epi32(edge)), x, above);
    }

    // z / (1 + 2^z). Relative error: 1.1e-7 of the polynomial, 4e-9 of the reciprocal, and rounding. NaN stays NaN;
    // above 126 the quotient is held at 126 / 2^126, so that the reciprocal never sees infinity.
    static Reg gate(Reg z) {
        gate_all<1>(&z);
        return z;
    }
    static constexpr int kGates = 8;
    template <int N>
    static void gates(float* const* at) {
        Reg z[N];
#pragma GCC unroll 8
        for (int i = 0; i < N; ++i) z[i] = load(at[i]);
        gate_all<N>(z);
#pragma GCC unroll 8
        for (int i = 0; i < N; ++i) store(at[i], z[i]);
    }

  private:
    template <int N, typename Do>
    static void each(Do step) {
#pragma GCC unroll 8
        for (int i = 0; i < N; ++i) step(i);
    }
    template <int N>
    static void gate_all(Reg* z) {
        Reg f[N], p[N];
        each<N>([&](int i) { z[i] = _mm512_min_ps(_mm512_set1_ps(126.0f), z[i]); });
        each<N>([&](int i) { f[i] = _mm512_reduce_ps(z[i], 0x09); });  // z - floor(z)
        each<N>([&](int i) { p[i] = fma(_mm512_set1_ps(1.89375405821825e-3f), f[i], _mm512_set1_ps(8.949590423301283e-3f)); });
        each<N>([&](int i) { p[i] = fma(p[i], f[i], _mm512_set1_ps(5.586033707727633e-2f)); });
        each<N>([&](int i) { p[i] = fma(p[i], f[i], _mm512_set1_ps(2.401418182014339e-1f)); });
        each<N>([&](int i) { p[i] = fma(p[i], f[i], _mm512_set1_ps(6.93154489663232e-1f)); });
        each<N>([&](int i) { p[i] = fma(p[i], f[i], _mm512_set1_ps(9.999998983500243e-1f)); });
        each<N>([&](int i) { p[i] = _mm512_scalef_ps(p[i], z[i]); });
        each<N>([&](int i) { p[i] = add(p[i], _mm512_set1_ps(1.0f)); });
        each<N>([&](int i) { f[i] = _mm512_rcp14_ps(p[i]); });
        each<N>([&](int i) { z[i] = mul(z[i], f[i]); });
        each<N>([&](int i) { p[i] = _mm512_fnmadd_ps(p[i], f[i], _mm512_set1_ps(2.0f)); });
        each<N>([&](int i) { z[i] = mul(z[i], p[i]); });
    }
};

}  // namespace
