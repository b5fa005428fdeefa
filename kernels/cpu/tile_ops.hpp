// The eight AMX tiles behind six functions. With LONGBOW_TILE_MODEL they are a model in plain code, after the architecture
// manual's description of LDTILECFG, TILEZERO, TILELOADD, TILESTORED and TDPBF16PS: it proves indices, strides and shapes on a
// machine without tiles. The tiles' numbers are template arguments, as the instructions take constants only.
#pragma once
#include <cstdint>
#include <cstring>

namespace {

// The operand of LDTILECFG, palette 1.
struct alignas(64) TileConfig {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t bytes_per_row[16] = {};
    uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64, "as LDTILECFG reads it");

#ifdef LONGBOW_TILE_MODEL

struct TileFile {
    TileConfig config;
    bool ready = false;
    uint8_t data[8][16][64];
};
thread_local TileFile tiles;

// A fault that the hardware would raise.
inline void tile_fault(bool wrong) {
    if (wrong) __builtin_trap();
}

inline void tiles_open(const TileConfig& config) {
    tile_fault(config.palette != 1);
    for (int t = 0; t < 8; ++t) tile_fault(config.rows[t] > 16 || config.bytes_per_row[t] > 64);
    tiles.config = config;
    tiles.ready = true;
    std::memset(tiles.data, 0, sizeof(tiles.data));
}
inline void tiles_close() { tiles.ready = false; }
template <int T>
void tile_zero() {
    tile_fault(!tiles.ready);
    std::memset(tiles.data[T], 0, sizeof(tiles.data[T]));
}
template <int T>
void tile_load(const void* from, int64_t stride) {
    tile_fault(!tiles.ready);
    std::memset(tiles.data[T], 0, sizeof(tiles.data[T]));
    for (int r = 0; r < tiles.config.rows[T]; ++r) {
        std::memcpy(tiles.data[T][r], static_cast<const uint8_t*>(from) + r * stride, tiles.config.bytes_per_row[T]);
    }
}
template <int T>
void tile_store(void* to, int64_t stride) {
    tile_fault(!tiles.ready);
    for (int r = 0; r < tiles.config.rows[T]; ++r) {
        std::memcpy(static_cast<uint8_t*>(to) + r * stride, tiles.data[T][r], tiles.config.bytes_per_row[T]);
    }
}
inline float tile_float(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
// c[m][n] += sum over k of a[m][k] . b[k][n], where each entry of a and b is a pair of bf16.
template <int C, int A, int B>
void tile_dot() {
    const TileConfig& f = tiles.config;
    tile_fault(!tiles.ready || f.rows[A] != f.rows[C] || f.bytes_per_row[B] != f.bytes_per_row[C]);
    tile_fault(f.rows[B] * 4 != f.bytes_per_row[A]);
    for (int m = 0; m < f.rows[C]; ++m) {
        for (int k = 0; k < f.bytes_per_row[A] / 4; ++k) {
            uint32_t a;
            std::memcpy(&a, tiles.data[A][m] + 4 * k, 4);
            for (int n = 0; n < f.bytes_per_row[C] / 4; ++n) {
                uint32_t b;
                float c;
                std::memcpy(&b, tiles.data[B][k] + 4 * n, 4);
                std::memcpy(&c, tiles.data[C][m] + 4 * n, 4);
                c += tile_float(a << 16) * tile_float(b << 16);
                c += tile_float(a & 0xffff0000u) * tile_float(b & 0xffff0000u);
                std::memcpy(tiles.data[C][m] + 4 * n, &c, 4);
            }
        }
    }
}

#else

inline void tiles_open(const TileConfig& config) { asm volatile("ldtilecfg %0" ::"m"(config) : "memory"); }
inline void tiles_close() { asm volatile("tilerelease" ::: "memory"); }
template <int T>
void tile_zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(T));
}
template <int T>
void tile_load(const void* from, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(T) : "memory");
}
template <int T>
void tile_store(void* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(T) : "memory");
}
template <int C, int A, int B>
void tile_dot() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}

#endif

}  // namespace
