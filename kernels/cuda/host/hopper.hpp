// A model of Hopper's instructions: barriers with transaction counts, tensor copies with their swizzle, and wgmma reading
// its operands through matrix descriptors. It holds what PTX says of layouts; that the hardware agrees is for a GPU to show.
#pragma once
#include "shim.hpp"

namespace longbow {

// What a stand-in for `cuTensorMapEncodeTiled` writes: a matrix of bf16 and the box that is copied from it.
struct alignas(64) TensorMap {
    const uint16_t* base;
    int64_t columns, rows, stride;  // numbers
    int32_t box_columns, box_rows, swizzle;
    unsigned char rest[128 - 44];
};
static_assert(sizeof(TensorMap) == 128, "as CUtensorMap");

namespace shim {

struct PhaseBarrier {
    uint16_t count : 15;
    uint16_t phase : 1;
    int16_t pending;
    int32_t bytes;
};
static_assert(sizeof(PhaseBarrier) == 8, "fits the 64 bits of an mbarrier");

inline void settle_phase(PhaseBarrier& b) {
    if (b.pending != 0 || b.bytes != 0) return;
    b.phase = b.phase ^ 1;
    b.pending = static_cast<int16_t>(b.count);
}

template <class Change>
void change(uint64_t* bar, Change with) {
    lock();
    PhaseBarrier b;
    std::memcpy(&b, bar, 8);
    with(b);
    settle_phase(b);
    std::memcpy(bar, &b, 8);
    unlock();
}

// Bits of an address that a swizzle changes: pieces of 16 bytes by the 128-byte line.
inline uint32_t swizzled(uint32_t address, int swizzle) {
    const uint32_t mask = swizzle == 1 ? 7 : (swizzle == 2 ? 3 : 0);
    return address ^ ((address >> 7 & mask) << 4);
}

inline float shared_number(uint32_t address) {
    Block& block = *self().block;
    if (address + 2 > block.shared_bytes) {
        std::fprintf(stderr, "wgmma reads past the shared memory\n");
        std::abort();
    }
    uint16_t bits;
    std::memcpy(&bits, block.shared + address, 2);
    return bf16(bits);
}

// Entry (i, k) of an operand of 16 columns k: `i` counts rows of A or columns of B. Canonical layouts of PTX: atoms of 8
// lines; with k contiguous a line is one `i` and atoms lie `stride` apart; with `i` contiguous a line is one `k`, and
// `lead` is the step to the next swizzle width of `i`.
inline float operand(uint64_t descriptor, int i, int k, bool i_contiguous) {
    const auto start = static_cast<uint32_t>(descriptor & 0x3fff) << 4;
    const auto lead = static_cast<uint32_t>(descriptor >> 16 & 0x3fff) << 4;
    const auto stride = static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4;
    const int swizzle = static_cast<int>(descriptor >> 62);
    const int width = swizzle == 1 ? 64 : 32;  // numbers of one line
    uint32_t address;
    if (i_contiguous) {
        address = start + i / width * lead + k / 8 * stride + k % 8 * width * 2 + i % width * 2;
    } else {
        address = start + i / 8 * stride + i % 8 * width * 2 + k * 2;
    }
    return shared_number(swizzled(address, swizzle));
}

inline void perform(const Product& p, int row) {
    for (int n = 0; n < p.columns; ++n) {
        const int t = self().lane() % 4;
        if (n % 8 / 2 != t) continue;
        for (int half = 0; half < 2; ++half) {
            float sum = 0.0f;
            for (int k = 0; k < 16; ++k) {
                const float a = p.a_shared ? operand(p.a_descriptor, row + 8 * half, k, false) : p.a[half][k];
                sum += a * operand(p.b_descriptor, n, k, p.b_transposed);
            }
            float& d = p.d[n / 8 * 4 + 2 * half + n % 2];
            d = p.add ? d + sum : sum;
        }
    }
}

inline void start(Product product, const uint32_t* a) {
    Thread& me = self();
    if (a) {
        const int g = me.lane() / 4;
        exchange([a](Slot& s) { std::memcpy(s.words, a, 16); },
                 [&](Slot* s) {
                     for (int k = 0; k < 16; ++k) {
                         const Slot& from = s[4 * g + k % 8 / 2];
                         product.a[0][k] = half_of(from.words[2 * (k / 8)], k % 2);
                         product.a[1][k] = half_of(from.words[2 * (k / 8) + 1], k % 2);
                     }
                     return 0;
                 });
    }
    me.open_products.push_back(product);
}

}  // namespace shim

inline void barrier_init(uint64_t* bar, int count) {
    const shim::PhaseBarrier b{static_cast<uint16_t>(count), 0, static_cast<int16_t>(count), 0};
    std::memcpy(bar, &b, 8);
}
inline void barriers_visible() {}
inline void barrier_arrive(uint64_t* bar) {
    shim::change(bar, [](shim::PhaseBarrier& b) { --b.pending; });
}
inline void barrier_arrive_expecting(uint64_t* bar, int bytes) {
    shim::change(bar, [bytes](shim::PhaseBarrier& b) {
        b.bytes += bytes;
        --b.pending;
    });
}
inline void barrier_wait(uint64_t* bar, int parity) {
    for (;;) {
        shim::PhaseBarrier b;
        shim::lock();
        std::memcpy(&b, bar, 8);
        shim::unlock();
        if (b.phase != static_cast<unsigned>(parity)) return;
        shim::yield();
    }
}

inline void tensor_load(void* to, const TensorMap* map, uint64_t* bar, int x, int y) {
    shim::Block& block = *shim::self().block;
    const auto base = static_cast<uint32_t>(static_cast<unsigned char*>(to) - block.shared);
    if (base % 128 || map->box_columns * 2 > (map->swizzle == 1 ? 128 : 64)) {
        std::fprintf(stderr, "a tensor copy to an address that is not aligned, or a box wider than its swizzle\n");
        std::abort();
    }
    for (int r = 0; r < map->box_rows; ++r) {
        for (int c = 0; c < map->box_columns; ++c) {
            const bool inside = x + c >= 0 && x + c < map->columns && y + r >= 0 && y + r < map->rows;
            const uint16_t value = inside ? map->base[(y + r) * map->stride + x + c] : 0;
            const uint32_t at = base + static_cast<uint32_t>(r * map->box_columns + c) * 2;
            std::memcpy(block.shared + shim::swizzled(at, map->swizzle), &value, 2);
        }
    }
    shim::change(bar, [map](shim::PhaseBarrier& b) { b.bytes -= map->box_rows * map->box_columns * 2; });
}
inline void tensor_prefetch(const TensorMap*) {}

inline uint64_t matrix_descriptor(const void* start, int lead, int stride, Swizzle swizzle) {
    const auto address = static_cast<uint64_t>(static_cast<const unsigned char*>(start) - shim::self().block->shared);
    return address >> 4 | static_cast<uint64_t>(lead >> 4) << 16 | static_cast<uint64_t>(stride >> 4) << 32 |
           static_cast<uint64_t>(swizzle) << 62;
}

inline void wgmma_fence() {}
inline void wgmma_commit() {
    shim::Thread& me = shim::self();
    me.products.push_back(std::move(me.open_products));
    me.open_products.clear();
}
template <int LEFT>
inline void wgmma_wait() {
    shim::Thread& me = shim::self();
    const int row = me.index % 128 / 32 * 16 + me.lane() / 4;
    while (me.products.size() > LEFT) {
        for (const shim::Product& p : me.products.front()) shim::perform(p, row);
        me.products.erase(me.products.begin());
    }
}
template <int COUNT>
inline void settle(float (&)[COUNT]) {}

inline void wgmma_scores(float (&d)[32], uint64_t a, uint64_t b, bool add) {
    shim::start({d, 64, add, false, true, a, b, {}}, nullptr);
}
template <int COUNT>
inline void wgmma_values(float (&d)[COUNT], const uint32_t* a, uint64_t b) {
    shim::start({d, 2 * COUNT, true, true, false, 0, b, {}}, a);
}

template <int COUNT>
inline void registers_up() {}
template <int COUNT>
inline void registers_down() {}

}  // namespace longbow
