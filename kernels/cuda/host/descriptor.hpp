// A second reading of wgmma's matrix descriptors, written from the canonical layouts and not from the model of `hopper.hpp`:
// fields by name as bits, addresses by layout algebra. Every descriptor that a kernel uses is read both ways.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace longbow::shim {

struct DescriptorBits {
    uint64_t start : 14;  // all addresses and offsets in units of 16 bytes
    uint64_t zero0 : 2;
    uint64_t lead : 14;
    uint64_t zero1 : 2;
    uint64_t stride : 14;
    uint64_t zero2 : 3;
    uint64_t base : 3;  // where the start is off the swizzle's own alignment
    uint64_t zero3 : 10;
    uint64_t swizzle : 2;
};
static_assert(sizeof(DescriptorBits) == 8, "a matrix descriptor");

// Numbers of one mode of a layout: coordinate and byte stride, from the innermost on.
struct Mode {
    int extent;  // 0: the rest
    uint32_t stride;
};

template <int COUNT>
uint32_t laid(int coordinate, const Mode (&modes)[COUNT]) {
    uint32_t at = 0;
    for (const Mode& mode : modes) {
        at += static_cast<uint32_t>(mode.extent ? coordinate % mode.extent : coordinate) * mode.stride;
        if (mode.extent) coordinate /= mode.extent;
    }
    return at;
}

// Byte address of entry (i, k) of an operand of 2-byte numbers, k below 16: pieces of T = 8 numbers, S pieces a swizzled line.
//   k contiguous: ((8, m), (T, 2)) : ((S T, stride), (1, T))
//   i contiguous: ((T, S, m), (8, k)) : ((1, T, lead), (S T, stride))
// and the swizzle exchanges log2(S) bits of the address from bit 4 on with those from bit 7 on.
inline uint32_t canonical_address(uint64_t raw, int i, int k, bool i_contiguous) {
    DescriptorBits d;
    std::memcpy(&d, &raw, 8);
    const int log = d.swizzle == 0 ? 0 : 4 - static_cast<int>(d.swizzle);
    const int pieces = 1 << log;
    const uint32_t piece = 16, line = piece << log, lead = static_cast<uint32_t>(d.lead) << 4,
                   stride = static_cast<uint32_t>(d.stride) << 4;
    uint32_t at = static_cast<uint32_t>(d.start) << 4;
    if (i_contiguous) {
        at += laid(i, {{8, 2}, {pieces, piece}, {0, lead}}) + laid(k, {{8, line}, {0, stride}});
    } else {
        at += laid(i, {{8, line}, {0, stride}}) + laid(k, {{8, 2}, {0, piece}});
    }
    const uint32_t mask = static_cast<uint32_t>(pieces - 1);
    return at ^ ((at >> 7 & mask) << 4);
}

[[noreturn]] inline void broken(const char* what) {
    std::fprintf(stderr, "on a GPU: %s\n", what);
    std::abort();
}

// What the hardware takes without a word and reads wrongly.
inline void check_descriptor(uint64_t raw, int columns, bool i_contiguous, uint32_t shared_bytes) {
    DescriptorBits d;
    std::memcpy(&d, &raw, 8);
    if (d.zero0 | d.zero1 | d.zero2 | d.zero3) broken("bits of a matrix descriptor that must be zero are not");
    if (d.swizzle == 0) broken("a matrix descriptor without swizzle, which no kernel here means");
    const uint32_t line = 16u << (4 - d.swizzle), pattern = 8 * line;
    // A step inside a line leaves the lines where they are; anything else must start a pattern, or say by `base` how far off.
    if ((static_cast<uint32_t>(d.start) << 4) % pattern >= line || d.base) broken("a matrix that does not start with its swizzle's pattern");
    if ((static_cast<uint32_t>(d.stride) << 4) % pattern) broken("8 lines of a matrix that are not a whole number of patterns apart");
    if (i_contiguous && columns * 2 > static_cast<int>(line) && (static_cast<uint32_t>(d.lead) << 4) % pattern) {
        broken("columns of a matrix that are not a whole number of patterns apart");
    }
    for (int i = 0; i < columns; ++i) {
        for (int k = 0; k < 16; ++k) {
            if (canonical_address(raw, i, k, i_contiguous) + 2 > shared_bytes) broken("wgmma reads past the shared memory");
        }
    }
}

}  // namespace longbow::shim
