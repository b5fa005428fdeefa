// What Hopper adds, each behind a function: barriers with transaction counts, the tensor copy engine, wgmma, and moving
// registers between warpgroups. `host/hopper.hpp` holds a model of the same functions.
#pragma once
#include "device.cuh"

namespace longbow {

// How 16-byte pieces of a row are permuted in shared memory, as in the matrix descriptor.
enum class Swizzle : uint32_t { k128 = 1, k64 = 2 };

}  // namespace longbow

#ifdef LONGBOW_HOST
#include "host/hopper.hpp"
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)

namespace longbow {

// The engine wants 64 bytes of alignment; CUDA 13's own type has 128.
struct alignas(128) TensorMap {
    unsigned char opaque[128];
};

LONGBOW_FN void barrier_init(uint64_t* bar, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(count) : "memory");
}
LONGBOW_FN void barriers_visible() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
LONGBOW_FN void barrier_arrive(uint64_t* bar) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(bar)) : "memory");
}
LONGBOW_FN void barrier_arrive_expecting(uint64_t* bar, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(bar)), "r"(bytes)
                 : "memory");
}
// Waits until the phase of this parity is over.
LONGBOW_FN void barrier_wait(uint64_t* bar, int parity) {
    asm volatile(
        "{\n.reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n}" ::"r"(shared_address(bar)),
        "r"(parity)
        : "memory");
}

LONGBOW_FN void tensor_load(void* to, const TensorMap* map, uint64_t* bar, int x, int y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::
            "r"(shared_address(to)),
        "l"(map), "r"(x), "r"(y), "r"(shared_address(bar))
        : "memory");
}
LONGBOW_FN void tensor_prefetch(const TensorMap* map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// A matrix in shared memory: `lead` and `stride` are the two byte offsets between its 8-row atoms (PTX, "matrix descriptor").
LONGBOW_FN uint64_t matrix_descriptor(const void* start, int lead, int stride, Swizzle swizzle) {
    return static_cast<uint64_t>((shared_address(start) & 0x3ffff) >> 4) | static_cast<uint64_t>(lead >> 4) << 16 |
           static_cast<uint64_t>(stride >> 4) << 32 | static_cast<uint64_t>(swizzle) << 62;
}

LONGBOW_FN void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
LONGBOW_FN void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT>
LONGBOW_FN void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

// Keeps the compiler from reading a result before the wait that makes it one.
template <int COUNT>
LONGBOW_FN void settle(float (&d)[COUNT]) {
    LONGBOW_UNROLL
    for (int i = 0; i < COUNT; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
// Keeps the compiler from using the registers of an operand for anything else before the wait that ends its product.
template <int COUNT>
LONGBOW_FN void settle(uint32_t (&a)[COUNT]) {
    LONGBOW_UNROLL
    for (int i = 0; i < COUNT; ++i) asm volatile("" : "+r"(a[i])::"memory");
}

#define LONGBOW_F4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define LONGBOW_F16(d, i) LONGBOW_F4(d, i), LONGBOW_F4(d, i + 4), LONGBOW_F4(d, i + 8), LONGBOW_F4(d, i + 12)
#define LONGBOW_R16_0 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define LONGBOW_R16_1 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define LONGBOW_R16_2 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define LONGBOW_R16_3 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"

// d (+)= a b^T: 64 x 64 x 16, both operands in shared memory with k contiguous.
LONGBOW_FN void wgmma_scores(float (&d)[32], uint64_t a, uint64_t b, bool add) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" LONGBOW_R16_0 "," LONGBOW_R16_1
        "}, %32, %33, add, 1, 1, 0, 0;\n}"
        : LONGBOW_F16(d, 0), LONGBOW_F16(d, 16)
        : "l"(a), "l"(b), "r"(add ? 1 : 0));
}

// d += a b: 64 x N x 16, a in registers, b in shared memory with its N columns contiguous.
LONGBOW_FN void wgmma_values(float (&d)[16], const uint32_t* a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {" LONGBOW_R16_0
                 "}, {%16,%17,%18,%19}, %20, 1, 1, 1, 1;"
                 : LONGBOW_F16(d, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
LONGBOW_FN void wgmma_values(float (&d)[32], const uint32_t* a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" LONGBOW_R16_0 "," LONGBOW_R16_1
                 "}, {%32,%33,%34,%35}, %36, 1, 1, 1, 1;"
                 : LONGBOW_F16(d, 0), LONGBOW_F16(d, 16)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
LONGBOW_FN void wgmma_values(float (&d)[64], const uint32_t* a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" LONGBOW_R16_0 "," LONGBOW_R16_1
                 "," LONGBOW_R16_2 "," LONGBOW_R16_3 "}, {%64,%65,%66,%67}, %68, 1, 1, 1, 1;"
                 : LONGBOW_F16(d, 0), LONGBOW_F16(d, 16), LONGBOW_F16(d, 32), LONGBOW_F16(d, 48)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

template <int COUNT>
LONGBOW_FN void registers_up() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT>
LONGBOW_FN void registers_down() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

}  // namespace longbow
#endif
