// The instructions that every kernel uses, each behind a function: PTX on a GPU, `host/shim.hpp` elsewhere.
#pragma once
#include "params.h"

#ifdef LONGBOW_HOST
#include "host/shim.hpp"
#else

#define LONGBOW_KERNEL extern "C" __global__
#define LONGBOW_BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
#define LONGBOW_PARAM const __grid_constant__
#define LONGBOW_FN __device__ __forceinline__
#define LONGBOW_UNROLL _Pragma("unroll")
// Dynamic shared memory, aligned to 1,024 bytes by the launch (the kernels use no static shared memory).
#define LONGBOW_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

namespace longbow {

LONGBOW_FN uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// Stops the kernel where what it is built on does not hold: an error at once instead of wrong numbers.
LONGBOW_FN void require(bool holds) {
    if (!holds) __trap();
}

LONGBOW_FN int thread_index() { return static_cast<int>(threadIdx.x); }
LONGBOW_FN int block_index() { return static_cast<int>(blockIdx.x); }
LONGBOW_FN int block_index_y() { return static_cast<int>(blockIdx.y); }
LONGBOW_FN int grid_size() { return static_cast<int>(gridDim.x); }
LONGBOW_FN void sync_block() { __syncthreads(); }
LONGBOW_FN void sync_warp() { __syncwarp(); }
LONGBOW_FN int32_t shuffle_xor(int32_t v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
LONGBOW_FN float shuffle_xor(float v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
LONGBOW_FN int64_t shuffle_xor(int64_t v, int mask) {
    return static_cast<int64_t>(__shfl_xor_sync(0xffffffffu, static_cast<long long>(v), mask));
}
// Lane 0's value; the compiler then knows that the warp does not diverge over it.
LONGBOW_FN int uniform(int v) { return __shfl_sync(0xffffffffu, v, 0); }
LONGBOW_FN uint32_t ballot(bool v) { return __ballot_sync(0xffffffffu, v); }
LONGBOW_FN uint32_t atomic_add_shared(uint32_t* p, uint32_t v) { return atomicAdd(p, v); }
LONGBOW_FN uint32_t atomic_add(uint32_t* p, uint32_t v) { return atomicAdd(p, v); }
LONGBOW_FN float divide_fast(float a, float b) { return __fdividef(a, b); }
LONGBOW_FN uint4 load_streaming(const void* p) { return __ldcs(static_cast<const uint4*>(p)); }
LONGBOW_FN int count_bits(uint32_t v) { return __popc(v); }
LONGBOW_FN int nearest(float x) { return __float2int_rn(x); }
// c + the inner product of four int8 and four int8.
LONGBOW_FN int32_t dot4(uint32_t a, uint32_t b, int32_t c) {
    return __dp4a(static_cast<int>(a), static_cast<int>(b), c);
}

// tanh in one MUFU operation, relative error 2^-11.
LONGBOW_FN float tanh_fast(float x) {
    float y;
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
LONGBOW_FN float exp_fast(float x) { return __expf(x); }
LONGBOW_FN float inverse_sqrt(float x) { return rsqrtf(x); }

// The bits of x (a whole number above 0) as an f32, rounded towards zero.
LONGBOW_FN int32_t float_bits_down(int32_t x) { return __float_as_int(__int2float_rz(x)); }
LONGBOW_FN int32_t float_bits_down(int64_t x) { return __float_as_int(__ll2float_rz(x)); }
LONGBOW_FN int32_t bits_of(float x) { return __float_as_int(x); }
LONGBOW_FN float float_of(uint32_t bits) { return __uint_as_float(bits); }

// Two bf16, `low` in the low half.
LONGBOW_FN uint32_t pack_bf16(float low, float high) {
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

// c += a b for a 16 x 16 and b 16 x 8, in the fragment layout of PTX.
LONGBOW_FN void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8.
LONGBOW_FN void load_matrices(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
LONGBOW_FN void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Copies to shared memory in the background; where `valid` is false, 16 zero bytes are written.
LONGBOW_FN void copy_16(void* to, const void* from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(valid ? 16 : 0)
                 : "memory");
}
LONGBOW_FN void copy_8(void* to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
LONGBOW_FN void copy_4(void* to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
LONGBOW_FN void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT>
LONGBOW_FN void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

}  // namespace longbow
#endif

namespace longbow {

constexpr int kPage = LONGBOW_PAGE_ROWS;
constexpr int kTile = LONGBOW_TILE_ROWS;
constexpr int kGroup = LONGBOW_GROUP_WIDTH;

LONGBOW_FN int smaller(int a, int b) { return a < b ? a : b; }
LONGBOW_FN int larger(int a, int b) { return a > b ? a : b; }
LONGBOW_FN int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
LONGBOW_FN int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
LONGBOW_FN float low_half(uint32_t pair) { return float_of(pair << 16); }
LONGBOW_FN float high_half(uint32_t pair) { return float_of(pair & 0xffff0000u); }

// silu(2 h) = 2 h sigmoid(2 h) = h + h tanh(h).
LONGBOW_FN float silu_of_half(float h) { return h + h * tanh_fast(h); }

// To rounding, where the error of `silu_of_half` would be kept.
LONGBOW_FN float sigmoid(float x) { return divide_fast(1.0f, 1.0f + exp_fast(-x)); }
LONGBOW_FN float silu(float x) { return x * sigmoid(x); }

// Sums over the warp, the same in every lane and in a fixed order.
LONGBOW_FN float warp_sum(float v) {
    LONGBOW_UNROLL
    for (int mask = 16; mask > 0; mask >>= 1) v += shuffle_xor(v, mask);
    return v;
}

}  // namespace longbow
