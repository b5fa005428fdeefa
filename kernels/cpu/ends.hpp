// What happens to the sums of a tile once, after all keys. `sums(r, h)` points to those of row r in head h. Included by
// attention.hpp and tiles.hpp.
#pragma once

namespace {

// Each row's own key and value.
template <typename Sums>
void add_own(const LongbowAttention& p, float own_bias, Sums sums) {
    const Reg bias = Vec::set1(own_bias);
    for (int64_t r = 0; r < p.rows; ++r) {
        for (int64_t h = 0; h < p.heads; ++h) {
            const float* q = p.q + r * p.q_stride + h * p.d_qk;
            const float* k = p.own_k + r * p.own_k_stride + h * p.d_qk;
            const float* v = p.own_v + r * p.own_v_stride + h * p.d_v;
            float* to = sums(r, h);
            Reg dot = Vec::zero();
            int64_t c = 0;
            for (; c + Vec::kLanes <= p.d_qk; c += Vec::kLanes) dot = Vec::fma(Vec::loadu(q + c), Vec::loadu(k + c), dot);
            if (c < p.d_qk) dot = Vec::fma(Vec::load_first(q + c, p.d_qk - c), Vec::load_first(k + c, p.d_qk - c), dot);
            const Reg weight = Vec::gate(Vec::add(Vec::set1(Vec::sum(dot) * (p.alpha * kMinusLog2e)), bias));
            for (c = 0; c + Vec::kLanes <= p.d_v; c += Vec::kLanes) {
                Vec::store(to + c, Vec::fma(weight, Vec::loadu(v + c), Vec::load(to + c)));
            }
            if (c < p.d_v) Vec::store(to + c, Vec::fma(weight, Vec::load_first(v + c, p.d_v - c), Vec::load(to + c)));
        }
    }
}

// The factors that were left out of every weight come in here, once.
template <typename Sums>
void write(const LongbowAttention& p, Sums sums) {
    const Reg factor = Vec::set1(p.scale * kMinusLn2);
    for (int64_t r = 0; r < p.rows; ++r) {
        for (int64_t h = 0; h < p.heads; ++h) {
            const float* from = sums(r, h);
            float* to = p.out + r * p.out_stride + h * p.d_v;
            int64_t c = 0;
            for (; c + Vec::kLanes <= p.d_v; c += Vec::kLanes) Vec::storeu(to + c, Vec::mul(Vec::load(from + c), factor));
            if (c < p.d_v) Vec::store_first(to + c, Vec::mul(Vec::load(from + c), factor), p.d_v - c);
        }
    }
}

// What every kernel refuses.
int32_t check(const LongbowAttention& p, uint64_t scratch_floats) {
    if (p.heads < 1 || p.d_qk < 1 || p.d_v < 1 || p.rows < 1 || p.key_begin < 0 || p.key_end < p.key_begin) {
        return LONGBOW_BAD_SHAPE;
    }
    if (p.format != LONGBOW_F32 && p.format != LONGBOW_BF16) return LONGBOW_BAD_SHAPE;
    if (p.scratch_floats < scratch_floats || reinterpret_cast<uintptr_t>(p.scratch) % 64 != 0) return LONGBOW_BAD_SCRATCH;
    return LONGBOW_OK;
}

}  // namespace
