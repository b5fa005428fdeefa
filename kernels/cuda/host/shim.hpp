// Runs a kernel on the host: every CUDA thread is a fibre of one OS thread (fast, and the order of the fibres is drawn
// from a seed), or an OS thread of its own (LONGBOW_THREADS: for the thread sanitizer). Warp instructions exchange
// their operands through slots of the warp, in the fragment layouts of PTX. Background copies take place at their wait.
#pragma once
#include <algorithm>
#include <atomic>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#define LONGBOW_KERNEL extern "C"
#define LONGBOW_BOUNDS(threads, blocks)
#define LONGBOW_PARAM const
#define LONGBOW_FN inline
#define LONGBOW_UNROLL
#define LONGBOW_SHARED(name) unsigned char* name = longbow::shim::self().block->shared

namespace longbow {
namespace shim {

struct Barrier {
    std::atomic<int> arrived{0};
    std::atomic<uint32_t> generation{0};
    int size = 0;
};

// What one lane shows the others of its warp.
struct Slot {
    uint32_t words[8];
    int64_t number;
    const void* address;
};

struct Warp {
    Barrier barrier;
    Slot slots[32];
};

struct Copy {
    void* to;
    const void* from;
    int bytes;
    bool valid;
};

// A product that `wgmma` has started; its A rows are gathered, B is read when the product is waited for.
struct Product {
    float* d;
    int columns;
    bool add;
    bool b_transposed;  // columns contiguous
    uint64_t a_descriptor;
    uint64_t b_descriptor;
    const uint32_t* a_registers = nullptr;  // none: A lies in shared memory
    uint32_t a_words[4] = {};               // what they held at the start
    float a[2][16] = {};
};

// The sums of one register array while products have it.
struct Held {
    std::vector<float> numbers;
    int products = 0;
};

// The 64 bits of a barrier of the copy engine.
struct PhaseBarrier {
    uint16_t count : 15;
    uint16_t phase : 1;
    int16_t pending;
    int32_t bytes;
};
static_assert(sizeof(PhaseBarrier) == 8, "fits an mbarrier");

// What is known of it beside them.
struct Watch {
    bool visible = false;
    int phases = 0;  // that are over
};

struct Block {
    int index = 0, index_y = 0, grid = 1, threads = 0;
    unsigned char* shared = nullptr;
    unsigned char* proxied = nullptr;  // the shared memory as copy engine and wgmma see it
    size_t shared_bytes = 0;
    std::map<uint64_t*, Watch> barriers;
    std::vector<std::function<void()>> tensor_copies;  // started, not yet there
    uint32_t drawn = 1;
    Barrier all;
    std::vector<std::unique_ptr<Warp>> warps;
};

struct Thread {
    int index = 0;
    Block* block = nullptr;
    std::vector<std::vector<Copy>> copies;      // committed groups, oldest first
    std::vector<Copy> open_copies;
    std::vector<std::vector<Product>> products; // likewise
    std::vector<Product> open_products;
    bool fenced = false;                               // registers are in order for products
    std::map<float*, Held> held;                       // sums that products have
    std::map<uint64_t*, int> waits;                    // next phase to wait for
    std::set<std::pair<uint64_t, int>> descriptors;    // that were looked at
    Warp& warp() { return *block->warps[index / 32]; }
    int lane() const { return index % 32; }
};

Thread& self();
// Lets other threads of the block run.
void yield();
// Waits for all of the barrier's threads.
void wait(Barrier& barrier);
// Held while a barrier of the tensor copy engine changes.
void lock();
void unlock();

// Runs `body` for every thread of every block; `shared` bytes are poisoned with 0xff at the start of each.
void launch(int grid, int grid_y, int threads, size_t shared, uint32_t seed, const std::function<void()>& body);

inline float bf16(uint16_t bits) {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float f;
    std::memcpy(&f, &wide, 4);
    return f;
}

inline uint16_t to_bf16(float f) {
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    if (std::isnan(f)) return 0x7fff;
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float half_of(uint32_t pair, int which) { return bf16(static_cast<uint16_t>(which ? pair >> 16 : pair)); }

}  // namespace shim

inline void require(bool holds) {
    if (!holds) std::abort();
}
inline uintptr_t shared_address(const void* p) { return reinterpret_cast<uintptr_t>(p); }
inline int thread_index() { return shim::self().index; }
inline int block_index() { return shim::self().block->index; }
inline int block_index_y() { return shim::self().block->index_y; }
inline int grid_size() { return shim::self().block->grid; }
inline void sync_block() { shim::wait(shim::self().block->all); }
inline void sync_warp() { shim::wait(shim::self().warp().barrier); }

namespace shim {

// Every lane writes its slot with `put`, then every lane reads with `get`.
template <class Put, class Get>
auto exchange(Put put, Get get) {
    Thread& me = self();
    Warp& warp = me.warp();
    put(warp.slots[me.lane()]);
    wait(warp.barrier);
    const auto result = get(warp.slots);
    wait(warp.barrier);
    return result;
}

}  // namespace shim

inline int64_t shuffle_xor(int64_t v, int mask) {
    const int from = shim::self().lane() ^ mask;
    return shim::exchange([v](shim::Slot& s) { s.number = v; }, [from](shim::Slot* s) { return s[from].number; });
}
inline int32_t shuffle_xor(int32_t v, int mask) { return static_cast<int32_t>(shuffle_xor(int64_t{v}, mask)); }
inline float shuffle_xor(float v, int mask) {
    int32_t bits;
    std::memcpy(&bits, &v, 4);
    bits = shuffle_xor(bits, mask);
    std::memcpy(&v, &bits, 4);
    return v;
}
inline int uniform(int v) {
    return shim::exchange([v](shim::Slot& s) { s.number = v; },
                          [](shim::Slot* s) { return static_cast<int>(s[0].number); });
}
inline uint32_t ballot(bool v) {
    return shim::exchange([v](shim::Slot& s) { s.number = v; },
                          [](shim::Slot* s) {
                              uint32_t bits = 0;
                              for (int i = 0; i < 32; ++i) bits |= static_cast<uint32_t>(s[i].number != 0) << i;
                              return bits;
                          });
}
inline uint32_t atomic_add_shared(uint32_t* p, uint32_t v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
inline uint32_t atomic_add(uint32_t* p, uint32_t v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
inline float divide_fast(float a, float b) { return a / b; }
struct uint4 {
    uint32_t x, y, z, w;
};
inline uint4 load_streaming(const void* p) {
    uint4 v;
    std::memcpy(&v, p, 16);
    return v;
}
inline int count_bits(uint32_t v) { return __builtin_popcount(v); }
inline int nearest(float x) { return static_cast<int>(std::nearbyint(x)); }
inline int32_t dot4(uint32_t a, uint32_t b, int32_t c) {
    for (int i = 0; i < 32; i += 8) c += static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i);
    return c;
}

// As coarse as the device's: 11 bits after the point.
inline float tanh_fast(float x) {
    int exponent;
    const float mantissa = std::frexp(std::tanh(x), &exponent);
    return std::ldexp(std::round(mantissa * 2048.0f) / 2048.0f, exponent);
}
inline float exp_fast(float x) { return std::exp(x); }
inline float inverse_sqrt(float x) { return 1.0f / std::sqrt(x); }

inline int32_t bits_of(float x) {
    int32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}
inline float float_of(uint32_t bits) {
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}
inline int32_t float_bits_down(int64_t x) {
    float f = static_cast<float>(x);
    if (static_cast<double>(f) > static_cast<double>(x)) f = std::nextafter(f, 0.0f);
    return bits_of(f);
}
inline int32_t float_bits_down(int32_t x) { return float_bits_down(int64_t{x}); }
inline uint32_t pack_bf16(float low, float high) {
    return shim::to_bf16(low) | static_cast<uint32_t>(shim::to_bf16(high)) << 16;
}

inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const int lane = shim::self().lane(), g = lane / 4, t = lane % 4;
    shim::exchange(
        [&](shim::Slot& s) {
            for (int i = 0; i < 4; ++i) s.words[i] = a[i];
            s.words[4] = b0;
            s.words[5] = b1;
        },
        [&](shim::Slot* s) {
            for (int k = 0; k < 16; ++k) {
                // Column k of A's row g lies with lane 4 g + (k % 8) / 2; row k of B's column n with lane 4 n + (k % 8) / 2.
                const int from = k % 8 / 2, right = k / 8;
                for (int e = 0; e < 2; ++e) {
                    const float b = shim::half_of(s[4 * (2 * t + e) + from].words[4 + right], k % 2);
                    c[e] += shim::half_of(s[4 * g + from].words[2 * right], k % 2) * b;
                    c[2 + e] += shim::half_of(s[4 * g + from].words[2 * right + 1], k % 2) * b;
                }
            }
            return 0;
        });
}

namespace shim {
inline void load_matrices(uint32_t (&r)[4], const void* row, bool transposed) {
    const int lane = self().lane();
    exchange([row](Slot& s) { s.address = row; },
             [&](Slot* s) {
                 for (int m = 0; m < 4; ++m) {
                     uint16_t pair[2];
                     for (int e = 0; e < 2; ++e) {
                         const int i = lane / 4, j = 2 * (lane % 4) + e;
                         const auto* from = static_cast<const uint16_t*>(s[8 * m + (transposed ? j : i)].address);
                         pair[e] = from[transposed ? i : j];
                     }
                     r[m] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
                 }
                 return 0;
             });
}
}  // namespace shim

inline void load_matrices(uint32_t (&r)[4], const void* row) { shim::load_matrices(r, row, false); }
inline void load_matrices_transposed(uint32_t (&r)[4], const void* row) { shim::load_matrices(r, row, true); }

inline void copy_16(void* to, const void* from, bool valid) { shim::self().open_copies.push_back({to, from, 16, valid}); }
inline void copy_8(void* to, const void* from) { shim::self().open_copies.push_back({to, from, 8, true}); }
inline void copy_4(void* to, const void* from) { shim::self().open_copies.push_back({to, from, 4, true}); }
inline void copy_commit() {
    shim::Thread& me = shim::self();
    me.copies.push_back(std::move(me.open_copies));
    me.open_copies.clear();
}
template <int LEFT>
inline void copy_wait() {
    auto& groups = shim::self().copies;
    while (groups.size() > LEFT) {
        for (const shim::Copy& c : groups.front()) {
            if (reinterpret_cast<uintptr_t>(c.to) % c.bytes || reinterpret_cast<uintptr_t>(c.from) % c.bytes) {
                std::fprintf(stderr, "a copy of %d bytes is not aligned\n", c.bytes);
                std::abort();
            }
            if (c.valid) std::memcpy(c.to, c.from, c.bytes);
            else std::memset(c.to, 0, c.bytes);
        }
        groups.erase(groups.begin());
    }
}

}  // namespace longbow
