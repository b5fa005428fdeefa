// A model of Hopper's instructions: barriers with transaction counts, tensor copies with their swizzle, and wgmma reading
// its operands through matrix descriptors. It holds what PTX says of layouts and of order; that the hardware agrees is for a
// GPU to show. What a GPU would take without a word and compute wrongly stops the check here: a wait for the wrong phase,
// bytes that nobody expects, ordinary stores that wgmma reads without a fence between the proxies, registers that change or
// are read while a product has them, a product without its fence, descriptors with stray bits.
#pragma once
#include "descriptor.hpp"
#include "shim.hpp"

namespace longbow {

// What a stand-in for `cuTensorMapEncodeTiled` writes: a matrix of bf16 and the box that is copied from it.
struct alignas(128) TensorMap {
    const uint16_t* base;
    int64_t columns, rows, stride;  // numbers
    int32_t box_columns, box_rows, swizzle;
    unsigned char rest[128 - 44];
};
static_assert(sizeof(TensorMap) == 128, "as CUtensorMap");

namespace shim {

constexpr int kBytesMax = (1 << 20) - 1;  // of one phase

inline PhaseBarrier barrier_at(uint64_t* bar) {
    const auto found = self().block->barriers.find(bar);
    if (found == self().block->barriers.end()) broken("a barrier is used that nobody has made");
    if (!found->second.visible) broken("a barrier is used before its making is made visible to the copy engine");
    PhaseBarrier b;
    std::memcpy(&b, bar, 8);
    return b;
}

template <class Change>
void change_locked(uint64_t* bar, Change with) {
    PhaseBarrier b = barrier_at(bar);
    with(b);
    if (b.pending < 0) broken("more threads arrive at a barrier than its phase counts");
    if (b.bytes < 0) broken("more bytes arrive at a barrier than its phase expects");
    if (b.bytes > kBytesMax) broken("a phase of a barrier expects more bytes than it can count");
    if (b.pending == 0 && b.bytes == 0) {
        b.phase = b.phase ^ 1;
        b.pending = static_cast<int16_t>(b.count);
        ++self().block->barriers[bar].phases;
    }
    std::memcpy(bar, &b, 8);
}

template <class Change>
void change(uint64_t* bar, Change with) {
    lock();
    change_locked(bar, with);
    unlock();
}

// Bits of an address that a swizzle changes: pieces of 16 bytes by the 128-byte line.
inline uint32_t swizzled(uint32_t address, int swizzle) {
    const uint32_t mask = swizzle == 1 ? 7 : (swizzle == 2 ? 3 : 0);
    return address ^ ((address >> 7 & mask) << 4);
}

// wgmma reads through the asynchronous proxy: what ordinary stores wrote is not there before a fence.
inline float shared_number(uint32_t address) {
    Block& block = *self().block;
    if (address + 2 > block.shared_bytes) broken("wgmma reads past the shared memory");
    uint16_t bits;
    std::memcpy(&bits, block.proxied + address, 2);
    return bf16(bits);
}

// Entry (i, k) of an operand of 16 columns k: `i` counts rows of A or columns of B. Canonical layouts of PTX: atoms of 8
// lines; with k contiguous a line is one `i` and atoms lie `stride` apart; with `i` contiguous a line is one `k`, and
// `lead` is the step to the next swizzle width of `i`.
inline uint32_t operand_address(uint64_t descriptor, int i, int k, bool i_contiguous) {
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
    return swizzled(address, swizzle);
}

inline float operand(uint64_t descriptor, int i, int k, bool i_contiguous) {
    return shared_number(operand_address(descriptor, i, k, i_contiguous));
}

// Both readings of a descriptor, once for each.
inline void agree(uint64_t descriptor, int columns, bool i_contiguous) {
    Thread& me = self();
    if (!me.descriptors.insert({descriptor, columns}).second || me.lane() != 0) return;
    check_descriptor(descriptor, columns, i_contiguous, static_cast<uint32_t>(me.block->shared_bytes));
    for (int i = 0; i < columns; ++i) {
        for (int k = 0; k < 16; ++k) {
            if (canonical_address(descriptor, i, k, i_contiguous) != operand_address(descriptor, i, k, i_contiguous)) {
                broken("two readings of a matrix descriptor differ");
            }
        }
    }
}

// What a register holds while a product has it.
inline float taken() {
    const uint32_t bits = 0x7fdeadbe;
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}

inline void perform(const Product& p, int row) {
    Thread& me = self();
    if (p.a_registers && std::memcmp(p.a_registers, p.a_words, sizeof(p.a_words)) != 0) {
        broken("registers change while a product reads them");
    }
    Held& held = me.held[p.d];
    for (int n = 0; n < p.columns; ++n) {
        const int t = me.lane() % 4;
        if (n % 8 / 2 != t) continue;
        for (int half = 0; half < 2; ++half) {
            float sum = 0.0f;
            for (int k = 0; k < 16; ++k) {
                const float a = p.a_registers ? p.a[half][k] : operand(p.a_descriptor, row + 8 * half, k, false);
                sum += a * operand(p.b_descriptor, n, k, p.b_transposed);
            }
            float& d = held.numbers[n / 8 * 4 + 2 * half + n % 2];
            d = p.add ? d + sum : sum;
        }
    }
    if (--held.products > 0) return;
    const float mark = taken();
    for (size_t i = 0; i < held.numbers.size(); ++i) {
        if (std::memcmp(&p.d[i], &mark, 4) != 0) broken("registers of a sum are written while a product has them");
    }
    std::memcpy(p.d, held.numbers.data(), held.numbers.size() * 4);
    me.held.erase(p.d);
}

inline void start(Product product, const uint32_t* a) {
    Thread& me = self();
    if (!me.fenced) broken("a group of products without its wgmma.fence");
    agree(product.b_descriptor, product.columns, product.b_transposed);
    if (a) {
        product.a_registers = a;
        std::memcpy(product.a_words, a, sizeof(product.a_words));
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
    } else {
        agree(product.a_descriptor, 64, false);
    }
    Held& held = me.held[product.d];
    if (held.products++ == 0) {
        // The sums are out of reach until the product has ended: whoever reads them too early reads this.
        held.numbers.assign(product.d, product.d + product.columns / 2);
        std::fill_n(product.d, product.columns / 2, taken());
    }
    me.open_products.push_back(product);
}

// A copy that has been started and takes place while somebody waits for it.
inline void tensor_copy(unsigned char* to, const TensorMap& map, uint64_t* bar, int x, int y) {
    Block& block = *self().block;
    const auto base = static_cast<uint32_t>(to - block.shared);
    for (int r = 0; r < map.box_rows; ++r) {
        for (int c = 0; c < map.box_columns; ++c) {
            const bool inside = x + c >= 0 && x + c < map.columns && y + r >= 0 && y + r < map.rows;
            const uint16_t value = inside ? map.base[(y + r) * map.stride + x + c] : 0;
            const uint32_t at = swizzled(base + static_cast<uint32_t>(r * map.box_columns + c) * 2, map.swizzle);
            std::memcpy(block.shared + at, &value, 2);
            std::memcpy(block.proxied + at, &value, 2);
        }
    }
    change_locked(bar, [&map](PhaseBarrier& b) { b.bytes -= map.box_rows * map.box_columns * 2; });
}

}  // namespace shim

inline void barrier_init(uint64_t* bar, int count) {
    if (reinterpret_cast<uintptr_t>(bar) % 8) shim::broken("a barrier that is not aligned");
    const shim::PhaseBarrier b{static_cast<uint16_t>(count), 0, static_cast<int16_t>(count), 0};
    std::memcpy(bar, &b, 8);
    shim::lock();
    if (!shim::self().block->barriers.insert({bar, {}}).second) shim::broken("a barrier is made twice");
    shim::unlock();
}
inline void barriers_visible() {
    shim::lock();
    for (auto& [bar, watch] : shim::self().block->barriers) watch.visible = true;
    shim::unlock();
}
inline void barrier_arrive(uint64_t* bar) {
    shim::change(bar, [](shim::PhaseBarrier& b) { --b.pending; });
}
inline void barrier_arrive_expecting(uint64_t* bar, int bytes) {
    shim::change(bar, [bytes](shim::PhaseBarrier& b) {
        b.bytes += bytes;
        --b.pending;
    });
}
// A parity tells two phases apart and no more: the n-th wait of a thread must be for the n-th phase (or the one before the
// first), and must find neither an earlier nor a later one.
inline void barrier_wait(uint64_t* bar, int parity) {
    shim::Thread& me = shim::self();
    const auto [waits, first] = me.waits.insert({bar, parity == 1 ? -1 : 0});
    const int phase = waits->second++;
    if ((phase & 1) != parity) shim::broken("a thread waits for another phase than its next one");
    for (;;) {
        shim::lock();
        const shim::PhaseBarrier b = shim::barrier_at(bar);
        const int over = me.block->barriers[bar].phases;
        const bool passed = b.phase != static_cast<unsigned>(parity);
        if (passed && over != phase + 1) shim::broken("a parity stands for two phases: a thread is a whole turn behind or ahead");
        auto& copies = me.block->tensor_copies;
        if (!passed && !copies.empty()) {
            // In any order, as late as possible.
            const size_t at = static_cast<size_t>(me.block->drawn = me.block->drawn * 1664525u + 1013904223u) % copies.size();
            const auto copy = std::move(copies[at]);
            copies.erase(copies.begin() + static_cast<std::ptrdiff_t>(at));
            copy();
        }
        shim::unlock();
        if (passed) return;
        shim::yield();
    }
}

inline void tensor_load(void* to, const TensorMap* map, uint64_t* bar, int x, int y) {
    shim::Block& block = *shim::self().block;
    auto* start = static_cast<unsigned char*>(to);
    const auto base = static_cast<size_t>(start - block.shared);
    const int line = map->swizzle == 1 ? 128 : 64;
    if (base % 128 || map->box_columns * 2 != line) {
        shim::broken("a tensor copy to an address that is not aligned, or of a box that is not as wide as its swizzle");
    }
    if (base + static_cast<size_t>(map->box_rows) * line > block.shared_bytes) shim::broken("a tensor copy past the shared memory");
    if (reinterpret_cast<uintptr_t>(map) % 64) shim::broken("a tensor map that is not aligned");
    shim::lock();
    // A kernel's parameters outlive its threads; here they are those of the thread.
    block.tensor_copies.push_back([start, map = *map, bar, x, y] { shim::tensor_copy(start, map, bar, x, y); });
    shim::unlock();
}
inline void tensor_prefetch(const TensorMap*) {}

inline uint64_t matrix_descriptor(const void* start, int lead, int stride, Swizzle swizzle) {
    const auto address = static_cast<uint64_t>(static_cast<const unsigned char*>(start) - shim::self().block->shared);
    return address >> 4 | static_cast<uint64_t>(lead >> 4) << 16 | static_cast<uint64_t>(stride >> 4) << 32 |
           static_cast<uint64_t>(swizzle) << 62;
}

inline void wgmma_fence() { shim::self().fenced = true; }
inline void wgmma_commit() {
    shim::Thread& me = shim::self();
    me.fenced = false;
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
template <int COUNT>
inline void settle(uint32_t (&)[COUNT]) {}

inline void wgmma_scores(float (&d)[32], uint64_t a, uint64_t b, bool add) {
    shim::start({d, 64, add, false, a, b}, nullptr);
}
template <int COUNT>
inline void wgmma_values(float (&d)[COUNT], const uint32_t* a, uint64_t b) {
    shim::start({d, 2 * COUNT, true, true, 0, b}, a);
}

template <int COUNT>
inline void registers_up() {
    static_assert(COUNT % 8 == 0 && COUNT >= 24 && COUNT <= 256, "as setmaxnreg takes it");
}
template <int COUNT>
inline void registers_down() {
    static_assert(COUNT % 8 == 0 && COUNT >= 24 && COUNT <= 256, "as setmaxnreg takes it");
}

}  // namespace longbow
