// The attention for AVX-512 with BF16: histories kept in bf16 are multiplied as they are. Everything else is avx512.cpp's.
#include "params.h"
#include "vec512.hpp"
#include "attention.hpp"
#include "bf16.hpp"

extern "C" uint64_t longbow_attention_scratch_avx512bf16(const LongbowAttention* params) { return scratch_floats<Pairs>(*params); }
extern "C" int32_t longbow_attention_avx512bf16(const LongbowAttention* params) { return attention<Pairs>(*params); }
