// HSTU attention in tiles of bfloat16 (AMX): the same sums as attention.hpp, for histories kept in bf16.
//
// Queries, keys, weights (after SiLU) and values are bf16, every sum is f32. Order of the loops: groups of up to six panels
// (384 keys); their bias; heads; blocks of 32 rows. In a block: scores of a panel in tiles 0 to 3, which begin as its bias, through
// memory to the gate in vectors, and to bf16 weights; then, once for the group, weights times values. The next panel's scores are
// made in parts between the rows of the gate: one after the other, each would wait for the other's last results. Tiles: 0-3
// results, 4-5 left, 6-7 right.
#pragma once
#include "tile_ops.hpp"
#include "blocks.hpp"
#include "bf16.hpp"
#include "bias.hpp"
#include "walk.hpp"
#include "ends.hpp"

namespace {

constexpr int64_t kGroup = 6;                  // panels
constexpr int64_t kTileRows = 32;              // rows of a block: two tiles
constexpr int64_t kWide = kGroup * kKeys;      // keys of a group
constexpr int64_t kParts = 6;                   // of a panel's scores
constexpr int64_t kTileBytes = 64;             // of a row of a tile
constexpr int64_t kTileWords = 16 * 16;

// Where everything lies in the scratch, in words of 32 bits.
struct TileLayout {
    int64_t v_width, chunks, rows, q, sums, scores, weights, values, window, bias, panel_bias, total;

    explicit TileLayout(const LongbowAttention& p) {
        int64_t at = 0;
        const auto take = [&at](int64_t words) {
            const int64_t here = at;
            at += round_up(words, 16);
            return here;
        };
        v_width = round_up(p.d_v, 16);
        chunks = round_up(p.d_qk, 32) / 32;
        rows = round_up(p.rows, kTileRows);
        q = take(p.heads * rows * chunks * 16);
        sums = take(p.heads * rows * v_width);
        scores = take(2 * kTileRows * kKeys);
        weights = take(kTileRows * kWide / 2);
        values = take(16 * v_width);
        window = take(3 * kTile) + 3 * kTile;
        take(round_up(p.key_end - p.key_begin, kKeys) + p.rows + 2 * kKeys);
        panel_bias = TileBias::panel_floats(rows);
        bias = take(kGroup * panel_bias);
        total = at;
    }
};

uint64_t tile_scratch_floats(const LongbowAttention& p) { return static_cast<uint64_t>(TileLayout(p).total); }

class TileRun {
  public:
    explicit TileRun(const LongbowAttention& p)
        : p_(p), at_(p), s_(p.scratch),
          bias_(p, s_ + at_.window, nullptr, nullptr) {
        fill(s_ + at_.q, s_ + at_.values + 16 * at_.v_width, 0.0f);
        // Left tiles of 16 rows x 32 columns, one after another: head, block of 16 rows, chunk of 32 columns.
        for (int64_t h = 0; h < p.heads; ++h) {
            for (int64_t r = 0; r < p.rows; ++r) {
                for (int64_t c = 0; c < p.d_qk; c += 16) {
                    const int64_t left = smaller(16, p.d_qk - c);
                    const __m512 x = Vec::load_first(p.q + r * p.q_stride + h * p.d_qk + c, left);
                    const __m256bh half = _mm512_cvtneps_pbh(Vec::mul(x, Vec::set1(p.alpha * kMinusLog2e)));
                    float* to = queries(h, r / 16 * 16, c / 32) + r % 16 * 16 + c % 32 / 2;
                    std::memcpy(to, &half, 32);
                }
            }
        }
        TileConfig config;
        for (int t = 0; t < 8; ++t) {
            config.rows[t] = 16;
            config.bytes_per_row[t] = kTileBytes;
        }
        tiles_open(config);
    }
    TileRun(const TileRun&) = delete;
    ~TileRun() { tiles_close(); }

    bool run() {
        Cursor cursor(p_);
        Step steps[kGroup];
        PanelBias bias[kGroup];
        int64_t first[kGroup + 1];
        first[0] = p_.key_begin;
        while (first[0] < p_.key_end) {
            int64_t panels = 0;
            for (; panels < kGroup && first[panels] < p_.key_end; ++panels) {
                if (!cursor.take(p_.key_end - first[panels], steps[panels])) return false;
                bias[panels] = bias_.panel(first[panels], steps[panels].times, s_ + at_.bias + panels * at_.panel_bias);
                first[panels + 1] = first[panels] + steps[panels].keys;
            }
            for (int64_t h = 0; h < p_.heads; ++h) {
                const int64_t from = p_.causal ? larger(0, first[0] - p_.first_position) / kTileRows * kTileRows : 0;
                for (int64_t r = from; r < p_.rows; r += kTileRows) block(h, r, {steps, bias, first, panels});
            }
            first[0] = first[panels];
        }
        const auto sums = [this](int64_t r, int64_t h) { return s_ + at_.sums + (h * at_.rows + r) * at_.v_width; };
        if (p_.own_k) add_own(p_, bias_.own(), sums);
        write(p_, sums);
        return true;
    }

  private:
    struct Group {
        const Step* steps;
        const PanelBias* bias;
        const int64_t* first;
        int64_t panels;
    };

    float* queries(int64_t h, int64_t r, int64_t chunk) const {
        return s_ + at_.q + ((h * at_.rows + r) / 16 * at_.chunks + chunk) * kTileWords;
    }

    // Keys of a panel that row r sees.
    int64_t seen(int64_t r, int64_t first, int64_t keys) const {
        return p_.causal ? smaller(keys, p_.first_position + r + 1 - first) : keys;
    }

    // One head of one block of rows against a group.
    void block(int64_t h, int64_t r, const Group& g) {
        const int64_t rows = smaller(kTileRows, p_.rows - r);
        int64_t used = 0;
        while (used < g.panels && seen(r + rows - 1, g.first[used], g.steps[used].keys) > 0) ++used;
        if (rows > 16) {
            weigh<2>(h, r, rows, g, used);
        } else {
            weigh<1>(h, r, rows, g, used);
        }
        int64_t c = 0;
        if (rows > 16) {
            for (; c + 32 <= at_.v_width; c += 32) values<2, 2>(h, r, c, g, used);
            if (c < at_.v_width) values<2, 1>(h, r, c, g, used);
        } else {
            for (; c + 32 <= at_.v_width; c += 32) values<1, 2>(h, r, c, g, used);
            if (c < at_.v_width) values<1, 1>(h, r, c, g, used);
        }
    }

    // Weights of a block against the first `used` panels of a group.
    template <int R>
    void weigh(int64_t h, int64_t r, int64_t rows, const Group& g, int64_t used) {
        for (int64_t part = 0; part < kParts; ++part) scores<R>(h, r, g, 0, part);
        for (int64_t panel = 0; panel < used; ++panel) {
            int64_t part = panel + 1 < used ? 0 : kParts;
            for (int64_t i = 0; i < rows; i += 4) {
                if (part < kParts) scores<R>(h, r, g, panel + 1, part++);
                gate(r, i, smaller(rows, i + 4), g, panel);
            }
            while (part < kParts) scores<R>(h, r, g, panel + 1, part++);
        }
    }

    // scores = bias + q k^T for R * 16 rows and a panel's keys, in kParts parts: for 32 keys the products, then their tiles to memory,
    // those of the first 16 keys and those of the others.
    template <int R>
    void scores(int64_t h, int64_t r, const Group& g, int64_t panel, int64_t part) {
        const Step& step = g.steps[panel];
        const int64_t keys = step.panel_keys, j = part / 3 * 32;
        const bool two = j + 16 < keys;
        if (j >= keys || (part % 3 == 2 && !two)) return;
        if (part % 3 == 0) {
            products<R>(h, r, step, j, g.bias[panel]);
            return;
        }
        float* to = s_ + at_.scores + panel % 2 * (kTileRows * kKeys) + j;
        if (part % 3 == 1) {
            tile_store<0>(to, kKeys * 4);
            if (R == 2) tile_store<2>(to + 16 * kKeys, kKeys * 4);
        } else {
            tile_store<1>(to + 16, kKeys * 4);
            if (R == 2) tile_store<3>(to + 16 * kKeys + 16, kKeys * 4);
        }
    }

    // The products of `scores` with the keys from `j` on, in tiles 0 to 3.
    template <int R>
    void products(int64_t h, int64_t r, const Step& step, int64_t j, const PanelBias& bias) {
        const int64_t keys = step.panel_keys;
        const bool two = j + 16 < keys;
        const HeadWords words = head_words(p_, keys);
        const uint32_t* k = step.panel + h * (words.k + words.v) + j;
        const float* from = bias.at + r / kTile * bias.tile + j;
        tile_load<0>(from, bias.row * 4);
        tile_load<1>(from + 16, bias.row * 4);
        if (R == 2) tile_load<2>(from + bias.tile, bias.row * 4);
        if (R == 2) tile_load<3>(from + bias.tile + 16, bias.row * 4);
        for (int64_t c = 0; c < at_.chunks; ++c) {
            tile_load<4>(queries(h, r, c), kTileBytes);
            if (R == 2) tile_load<5>(queries(h, r + 16, c), kTileBytes);
            tile_load<6>(k + c * 16 * keys, keys * 4);
            tile_dot<0, 4, 6>();
            if (R == 2) tile_dot<2, 5, 6>();
            if (!two) continue;
            tile_load<7>(k + c * 16 * keys + 16, keys * 4);
            tile_dot<1, 4, 7>();
            if (R == 2) tile_dot<3, 5, 7>();
        }
    }

    // weights = gate(scores) in bf16 for rows `begin` to `end` of a block; keys that a row does not see weigh nothing.
    void gate(int64_t r, int64_t begin, int64_t end, const Group& g, int64_t panel) {
        const Step& step = g.steps[panel];
        const bool whole = seen(r, g.first[panel], step.keys) == kKeys;
        for (int64_t i = begin; i < end; ++i) {
            const float* from = s_ + at_.scores + (panel % 2 * kTileRows + i) * kKeys;
            float* to = s_ + at_.weights + (i * kWide + panel * kKeys) / 2;
            __m512 z[4];
#pragma GCC unroll 4
            for (int64_t j = 0; j < 4; ++j) z[j] = _mm512_load_ps(from + 16 * j);
            gate_bf16<4>(z);
            __m512i pairs[2] = {(__m512i)_mm512_cvtne2ps_pbh(z[1], z[0]), (__m512i)_mm512_cvtne2ps_pbh(z[3], z[2])};
            if (!whole) {
                const int64_t keys = seen(r + i, g.first[panel], step.keys);
                pairs[0] = _mm512_maskz_mov_epi16(first32(keys), pairs[0]);
                pairs[1] = _mm512_maskz_mov_epi16(first32(keys - 32), pairs[1]);
            }
            _mm512_store_si512(to, pairs[0]);
            _mm512_store_si512(to + 16, pairs[1]);
        }
    }

    static __mmask32 first32(int64_t n) {
        if (n <= 0) return 0;
        return n >= 32 ? 0xffffffffu : (1u << n) - 1u;
    }

    // sums += weights v for R * 16 rows and C * 16 columns of values.
    template <int R, int C>
    void values(int64_t h, int64_t r, int64_t column, const Group& g, int64_t panels) {
        const int64_t stride = at_.v_width * 4;
        float* sums = s_ + at_.sums + (h * at_.rows + r) * at_.v_width + column;
        float* lower = sums + 16 * at_.v_width;
        tile_load<0>(sums, stride);
        if (C == 2) tile_load<1>(sums + 16, stride);
        if (R == 2) tile_load<2>(lower, stride);
        if (R == 2 && C == 2) tile_load<3>(lower + 16, stride);
        for (int64_t panel = 0; panel < panels; ++panel) {
            const Step& step = g.steps[panel];
            const HeadWords words = head_words(p_, step.panel_keys);
            const uint32_t* v = step.panel + h * (words.k + words.v) + words.k;
            for (int64_t j = 0; j < step.keys; j += 32) {
                const void* right = v + j / 2 * at_.v_width + column;
                if (step.panel_keys < 32) right = padded(v, column);
                const float* left = s_ + at_.weights + (panel * kKeys + j) / 2;
                tile_load<4>(left, kWide * 2);
                if (R == 2) tile_load<5>(left + 16 * kWide / 2, kWide * 2);
                tile_load<6>(right, stride);
                tile_dot<0, 4, 6>();
                if (R == 2) tile_dot<2, 5, 6>();
                if (C == 1) continue;
                tile_load<7>(static_cast<const uint32_t*>(right) + 16, stride);
                tile_dot<1, 4, 7>();
                if (R == 2) tile_dot<3, 5, 7>();
            }
        }
        tile_store<0>(sums, stride);
        if (C == 2) tile_store<1>(sums + 16, stride);
        if (R == 2) tile_store<2>(lower, stride);
        if (R == 2 && C == 2) tile_store<3>(lower + 16, stride);
    }

    // The 8 rows of pairs of a panel of 16 keys, where a tile has 16: the rest stays zero.
    const void* padded(const uint32_t* v, int64_t column) {
        std::memcpy(s_ + at_.values, v, static_cast<size_t>(8 * at_.v_width * 4));
        return s_ + at_.values + column;
    }

    const LongbowAttention& p_;
    const TileLayout at_;
    float* const s_;
    TileBias bias_;
};

int32_t tile_attention(const LongbowAttention& p) {
    if (p.size != sizeof(LongbowAttention)) return LONGBOW_BAD_SIZE;
    if (p.format != LONGBOW_BF16) return LONGBOW_BAD_SHAPE;
    const int32_t refused = check(p, tile_scratch_floats(p));
    if (refused != LONGBOW_OK) return refused;
    TileRun run(p);
    return run.run() ? LONGBOW_OK : LONGBOW_BAD_KEYS;
}

}  // namespace
