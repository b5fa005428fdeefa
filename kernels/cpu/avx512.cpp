// The kernels for AVX-512 F, BW, VL and DQ.
#include "params.h"
#include "vec512.hpp"
#include "attention.hpp"
#include "product.hpp"

extern "C" uint64_t longbow_attention_scratch_avx512(const LongbowAttention* params) { return scratch_floats<Floats>(*params); }
extern "C" int32_t longbow_attention_avx512(const LongbowAttention* params) { return attention<Floats>(*params); }
extern "C" void longbow_silu_avx512(float* x, size_t len) { silu(x, len); }
extern "C" int32_t longbow_product_avx512(const LongbowProduct* params) { return product(*params); }
extern "C" int32_t longbow_norm_avx512(const LongbowNorm* params) { return norm(*params); }
