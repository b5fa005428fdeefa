// The kernels for AVX2 and FMA: 8 lanes, 16 registers.
#include <immintrin.h>

#include "params.h"

namespace {

struct Vec {
    using Reg = __m256;
    static constexpr int kLanes = 8;
    // Vectors of a register block beside its 6 rows: 12 sums, 2 loads, 1 broadcast.
    static constexpr int kColumns = 2;

    static Reg zero() { return _mm256_setzero_ps(); }
    static Reg set1(float x) { return _mm256_set1_ps(x); }
    static Reg load(const float* p) { return _mm256_load_ps(p); }
    static Reg loadu(const float* p) { return _mm256_loadu_ps(p); }
    static void store(float* p, Reg x) { _mm256_store_ps(p, x); }
    static void storeu(float* p, Reg x) { _mm256_storeu_ps(p, x); }
    static Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
    static Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
    static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
    static float sum(Reg a) {
        __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
        x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
    }

    static __m256i first(int64_t n) {
        const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int32_t>(n)), lane);
    }
    // The first n < kLanes floats; the other lanes are 0.
    static Reg load_first(const float* p, int64_t n) { return _mm256_maskload_ps(p, first(n)); }
    static Reg first_of(Reg x, int64_t n) { return _mm256_and_ps(x, _mm256_castsi256_ps(first(n))); }
    static void store_first(float* p, Reg x, int64_t n) { _mm256_maskstore_ps(p, first(n), x); }

    // The lower and the upper bf16 of 8 words, as floats.
    static Reg low_halves(const uint32_t* p) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_load_si256(reinterpret_cast<const __m256i*>(p)), 16));
    }
    static Reg high_halves(const uint32_t* p) {
        const __m256i x = _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
        return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(-65536)));
    }

    // |next - times[0..8]| in 32 bits; exact when the true differences fit.
    using Ints = __m256i;
    static Ints differences(int32_t next, const int32_t* times) {
        const __m256i t = _mm256_load_si256(reinterpret_cast<const __m256i*>(times));
        return _mm256_abs_epi32(_mm256_sub_epi32(_mm256_set1_epi32(next), t));
    }
    // `above` where d >= edge (which is at least 1), else `x`.
    static Reg blend_from(Ints d, int32_t edge, Reg x, Reg above) {
        return _mm256_blendv_ps(x, above, _mm256_castsi256_ps(_mm256_cmpgt_epi32(d, _mm256_set1_epi32(edge - 1))));
    }

    // z / (1 + 2^z). Relative error: 1.1e-7 of the polynomial, 1.4e-7 of the reciprocal, and rounding. NaN stays NaN;
    // outside [-126, 126] the power is held, which changes the quotient by less than 1e-30.
    static Reg gate(Reg z) {
        const Reg round = _mm256_set1_ps(12582912.0f);  // 1.5 * 2^23: the sum's low bits are the nearest integer
        const Reg held = _mm256_max_ps(_mm256_set1_ps(-126.0f), _mm256_min_ps(_mm256_set1_ps(126.0f), z));
        const Reg shifted = add(held, round);
        const Reg f = _mm256_sub_ps(held, _mm256_sub_ps(shifted, round));
        Reg p = _mm256_set1_ps(1.3390863364616103e-3f);
        p = fma(p, f, _mm256_set1_ps(9.676031918324871e-3f));
        p = fma(p, f, _mm256_set1_ps(5.550357114219194e-2f));
        p = fma(p, f, _mm256_set1_ps(2.4022107485308267e-1f));
        p = fma(p, f, _mm256_set1_ps(6.931471880262287e-1f));
        p = fma(p, f, _mm256_set1_ps(1.0000000754548972f));
        const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
        const Reg power = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent));
        const Reg below = add(power, _mm256_set1_ps(1.0f));
        const Reg r = _mm256_rcp_ps(below);
        return mul(mul(z, r), _mm256_fnmadd_ps(below, r, _mm256_set1_ps(2.0f)));
    }
    static constexpr int kGates = 1;
    template <int N>
    static void gates(float* const* at) {
        static_assert(N == 1, "one by one: the compiler keeps two in flight with 16 registers");
        store(*at, gate(load(*at)));
    }
};

}  // namespace

#include "attention.hpp"
#include "product.hpp"

extern "C" uint64_t longbow_attention_scratch_avx2(const LongbowAttention* params) { return scratch_floats<Floats>(*params); }
extern "C" int32_t longbow_attention_avx2(const LongbowAttention* params) { return attention<Floats>(*params); }
extern "C" void longbow_silu_avx2(float* x, size_t len) { silu(x, len); }
extern "C" int32_t longbow_product_avx2(const LongbowProduct* params) { return product(*params); }
extern "C" int32_t longbow_norm_avx2(const LongbowNorm* params) { return norm(*params); }
