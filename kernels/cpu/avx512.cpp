// The kernels for AVX-512 F, BW, VL and DQ: 16 lanes, 32 registers.
#include <immintrin.h>

#include "params.h"

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
    static void store_first(float* p, Reg x, int64_t n) { _mm512_mask_storeu_ps(p, first(n), x); }

    // Four floats at `offset` of the rows s, s + 4, s + 8 and s + 12, one in each quarter.
    static Reg gather_quarters(const float* const* rows, int64_t offset, int s) {
        Reg x = _mm512_castps128_ps512(_mm_loadu_ps(rows[s] + offset));
        x = _mm512_mask_broadcast_f32x4(x, 0x00f0, _mm_loadu_ps(rows[s + 4] + offset));
        x = _mm512_mask_broadcast_f32x4(x, 0x0f00, _mm_loadu_ps(rows[s + 8] + offset));
        return _mm512_mask_broadcast_f32x4(x, 0xf000, _mm_loadu_ps(rows[s + 12] + offset));
    }
    static Reg unpack_low(Reg a, Reg b) { return _mm512_unpacklo_ps(a, b); }
    static Reg unpack_high(Reg a, Reg b) { return _mm512_unpackhi_ps(a, b); }
    static Reg pairs_low(Reg a, Reg b) {
        return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
    }
    static Reg pairs_high(Reg a, Reg b) {
        return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
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
        z = _mm512_min_ps(_mm512_set1_ps(126.0f), z);
        const Reg f = _mm512_reduce_ps(z, 0x09);  // z - floor(z)
        Reg p = _mm512_set1_ps(1.89375405821825e-3f);
        p = fma(p, f, _mm512_set1_ps(8.949590423301283e-3f));
        p = fma(p, f, _mm512_set1_ps(5.586033707727633e-2f));
        p = fma(p, f, _mm512_set1_ps(2.401418182014339e-1f));
        p = fma(p, f, _mm512_set1_ps(6.93154489663232e-1f));
        p = fma(p, f, _mm512_set1_ps(9.999998983500243e-1f));
        const Reg below = add(_mm512_scalef_ps(p, z), _mm512_set1_ps(1.0f));
        const Reg r = _mm512_rcp14_ps(below);
        return mul(mul(z, r), _mm512_fnmadd_ps(below, r, _mm512_set1_ps(2.0f)));
    }
};

}  // namespace

#include "attention.hpp"

extern "C" uint64_t longbow_attention_scratch_avx512(const LongbowAttention* params) { return scratch_floats(*params); }
extern "C" int32_t longbow_attention_avx512(const LongbowAttention* params) { return attention(*params); }
extern "C" void longbow_silu_avx512(float* x, size_t len) { silu(x, len); }
