// The dense layers by mma.sync: a block holds 64 whole rows in shared memory, made there by what comes before the product
// (norms, gate, sums of attention), and runs `tiles` times 64 columns over them; the weights stream through three stages.
// What comes after (SiLU, bias, residual, K and V to their pages) is done on the accumulators. A row's result depends
// neither on the other rows nor on `tiles`.
#pragma once
#include "device.cuh"

namespace longbow {

constexpr int kDenseThreads = 256;
constexpr int kDenseRows = 64;
constexpr int kDenseStages = 3;
constexpr int kStageBytes = 64 * 64 * 2;

enum class Layer { kProject, kOutput, kHeads };

// 16-byte piece of a row of `pieces` pieces; pieces change places inside each 128 bytes.
LONGBOW_FN unsigned char* piece_at(unsigned char* base, int pieces, int row, int piece) {
    return base + (row * pieces + (piece ^ (row & 7))) * 16;
}

// CHUNKS: most blocks of 64 columns of k; a lane holds two columns of each.
template <Layer LAYER, int CHUNKS>
struct Dense {
    const LongbowDense& p;
    unsigned char* a;       // [64, k]
    unsigned char* stages;  // [3][64 columns, 64 k]
    int thread, lane, warp, first_row;

    LONGBOW_FN bool counts(int column) const {
        return column < p.k && column % p.block < p.block_true && column / p.block * p.block_true < p.k_true;
    }

    // The inputs of a row's norm: two columns of each chunk.
    LONGBOW_FN void row_values(float (&v)[CHUNKS][2], int row) {
        LONGBOW_UNROLL
        for (int c = 0; c < CHUNKS; ++c) {
            const int column = 64 * c + 2 * lane;
            v[c][0] = v[c][1] = 0.0f;
            if (64 * c >= p.k) continue;
            if (LAYER == Layer::kOutput) {
                const LongbowSums s = p.rows_sums[row];
                for (int i = 0; i < s.ranges; ++i) {
                    const float* from = p.sums + static_cast<int64_t>(s.first + i * s.stride) * p.width + column;
                    v[c][0] += from[0];
                    v[c][1] += from[1];
                }
            } else {
                const float* from = p.x + static_cast<int64_t>(row) * p.x_stride + column;
                if (counts(column)) v[c][0] = from[0];
                if (counts(column + 1)) v[c][1] = from[1];
            }
        }
        if (LAYER == Layer::kOutput && p.rows_sums[row].own) add_own(v, row);
    }

    // Adds the row's own key and value.
    LONGBOW_FN void add_own(float (&v)[CHUNKS][2], int row) {
        const uint16_t* packed = p.packed + static_cast<int64_t>(row) * 4 * p.width;
        float dots[CHUNKS];
        LONGBOW_UNROLL
        for (int c = 0; c < CHUNKS; ++c) {
            dots[c] = 0.0f;
            if (64 * c >= p.k) continue;
            const int column = 64 * c + 2 * lane;
            const uint32_t q = *reinterpret_cast<const uint32_t*>(packed + 2 * p.width + column);
            const uint32_t k = *reinterpret_cast<const uint32_t*>(packed + 3 * p.width + column);
            float dot = low_half(q) * low_half(k) + high_half(q) * high_half(k);
            if (p.head_dim >= 64) dot += shuffle_xor(dot, 16);
            LONGBOW_UNROLL
            for (int mask = 8; mask > 0; mask >>= 1) dot += shuffle_xor(dot, mask);
            dots[c] = dot;
        }
        LONGBOW_UNROLL
        for (int c = 0; c < CHUNKS; ++c) {
            if (64 * c >= p.k) continue;
            // Heads of 128 columns lie in two chunks.
            const float dot = p.head_dim == 128 ? dots[c & ~1] + dots[(c | 1) < CHUNKS ? c | 1 : c] : dots[c];
            const float weight = silu(2.0f * (p.half_alpha * dot + p.own_bias)) * p.scale;
            const uint32_t value = *reinterpret_cast<const uint32_t*>(packed + p.width + 64 * c + 2 * lane);
            v[c][0] += weight * low_half(value);
            v[c][1] += weight * high_half(value);
        }
    }

    // Two columns of one chunk after the norm.
    LONGBOW_FN uint32_t finish(float left, float right, int row, int column) {
        if (LAYER == Layer::kOutput) {
            const uint32_t u = *reinterpret_cast<const uint32_t*>(p.packed + static_cast<int64_t>(row) * 4 * p.width + column);
            left *= low_half(u);
            right *= high_half(u);
        }
        if (LAYER == Layer::kHeads) {
            const float* item = p.item_table + static_cast<int64_t>(p.items[row]) * p.item_dim;
            if (counts(column)) left *= item[column];
            if (counts(column + 1)) right *= item[column + 1];
        }
        return pack_bf16(counts(column) ? left : 0.0f, counts(column + 1) ? right : 0.0f);
    }

    // Fills the block's rows of A.
    LONGBOW_FN void make_rows() {
        for (int r = warp; r < kDenseRows; r += kDenseThreads / 32) {
            const int row = first_row + r;
            float v[CHUNKS][2];
            float sum = 0.0f, squares = 0.0f, mean = 0.0f, factor = 0.0f;
            if (row < p.rows) {
                row_values(v, row);
                LONGBOW_UNROLL
                for (int c = 0; c < CHUNKS; ++c) sum += v[c][0] + v[c][1];
                const float inverse = 1.0f / static_cast<float>(p.k_true);
                mean = warp_sum(sum) * inverse;
                LONGBOW_UNROLL
                for (int c = 0; c < CHUNKS; ++c) {
                    LONGBOW_UNROLL
                    for (int e = 0; e < 2; ++e) {
                        const float d = counts(64 * c + 2 * lane + e) ? v[c][e] - mean : 0.0f;
                        squares += d * d;
                    }
                }
                factor = inverse_sqrt(warp_sum(squares) * inverse + p.epsilon);
            }
            LONGBOW_UNROLL
            for (int c = 0; c < CHUNKS; ++c) {
                if (64 * c >= p.k) continue;
                const int column = 64 * c + 2 * lane;
                uint32_t pair = 0;
                if (row < p.rows) pair = finish((v[c][0] - mean) * factor, (v[c][1] - mean) * factor, row, column);
                unsigned char* to = piece_at(a, p.k / 8, r, 8 * c + lane / 4) + lane % 4 * 4;
                *reinterpret_cast<uint32_t*>(to) = pair;
            }
        }
    }

    // Starts the copy of step `step` of the block's (tile, chunk) pairs; an empty group past the end.
    LONGBOW_FN void load(int step, int steps, int first_tile) {
        if (step < steps) {
            const int chunks = p.k / 64, tile = first_tile + step / chunks, chunk = step % chunks;
            unsigned char* to = stages + step % kDenseStages * kStageBytes;
            LONGBOW_UNROLL
            for (int i = 0; i < 2; ++i) {
                const int row = (thread + i * kDenseThreads) / 8, piece = thread % 8;
                copy_16(piece_at(to, 8, row, piece), p.b + static_cast<int64_t>(64 * tile + row) * p.k + 64 * chunk + 8 * piece, true);
            }
        }
        copy_commit();
    }

    // One chunk of k: this warp's 16 rows x 32 columns.
    LONGBOW_FN void multiply(float (&acc)[4][4], int chunk, const unsigned char* stage) {
        LONGBOW_UNROLL
        for (int step = 0; step < 4; ++step) {
            uint32_t x[4];
            const int row = warp % 4 * 16 + lane / 8 % 2 * 8 + lane % 8;
            load_matrices(x, piece_at(a, p.k / 8, row, 8 * chunk + 2 * step + lane / 16));
            LONGBOW_UNROLL
            for (int pair = 0; pair < 2; ++pair) {
                uint32_t b[4];
                const int column = warp / 4 * 32 + 16 * pair + 8 * (lane / 16) + lane % 8;
                load_matrices(b, piece_at(const_cast<unsigned char*>(stage), 8, column, 2 * step + lane / 8 % 2));
                mma(acc[2 * pair], x, b[0], b[1]);
                mma(acc[2 * pair + 1], x, b[2], b[3]);
            }
        }
    }

    // K and V of a row with a slot go to its page, everything else to the packed row.
    LONGBOW_FN uint16_t* packed_target(int row, int column) {
        const int part = column / p.width, inside = column % p.width;
        const int slot = part == 1 || part == 3 ? p.slots[row] : -1;
        if (slot < 0) return p.out_packed + static_cast<int64_t>(row) * 4 * p.width + column;
        const int head = inside / p.head_dim;
        return p.pool + slot / kPage * p.page_stride + p.layer_offset + (part == 1 ? p.v_offset : 0) +
               (static_cast<int64_t>(head) * kPage + slot % kPage) * p.head_dim + inside % p.head_dim;
    }

    // Finite whatever comes: a page outlives its user, and rows of it that do not count are multiplied by 0.
    LONGBOW_FN static float bounded(float x) { return x > 3e38f ? 3e38f : (x > -3e38f ? x : (x == x ? -3e38f : 0.0f)); }

    LONGBOW_FN void store(const float (&acc)[4][4], int tile) {
        LONGBOW_UNROLL
        for (int half = 0; half < 2; ++half) {
            const int row = first_row + warp % 4 * 16 + lane / 4 + 8 * half;
            if (row >= p.rows) continue;
            LONGBOW_UNROLL
            for (int n = 0; n < 4; ++n) {
                const int column = 64 * tile + warp / 4 * 32 + 8 * n + 2 * (lane % 4);
                if (column >= p.n) continue;
                const float left = acc[n][2 * half], right = acc[n][2 * half + 1];
                if (LAYER == Layer::kProject) {
                    *reinterpret_cast<uint32_t*>(packed_target(row, column)) =
                        pack_bf16(bounded(silu(left)), bounded(silu(right)));
                } else {
                    float* to = p.out + static_cast<int64_t>(row) * p.out_stride + column;
                    const float* from = p.x + static_cast<int64_t>(row) * p.x_stride + column;
                    const bool residual = LAYER == Layer::kOutput;
                    to[0] = (residual ? from[0] : 0.0f) + (left + p.bias[column]);
                    to[1] = (residual ? from[1] : 0.0f) + (right + p.bias[column + 1]);
                }
            }
        }
    }

    LONGBOW_FN void run() {
        const int chunks = p.k / 64, first_tile = block_index_y() * p.tiles;
        const int tiles = smaller(p.tiles, (p.n + 63) / 64 - first_tile), steps = tiles * chunks;
        for (int i = 0; i < kDenseStages - 1; ++i) load(i, steps, first_tile);
        make_rows();
        int step = 0;
        for (int t = 0; t < tiles; ++t) {
            float acc[4][4] = {};
            for (int chunk = 0; chunk < chunks; ++chunk, ++step) {
                copy_wait<kDenseStages - 2>();
                sync_block();  // the stage has arrived, A stands, and the stage before is free
                load(step + kDenseStages - 1, steps, first_tile);
                multiply(acc, chunk, stages + step % kDenseStages * kStageBytes);
            }
            store(acc, first_tile + t);
        }
    }
};

template <Layer LAYER, int CHUNKS>
LONGBOW_FN void dense(const LongbowDense& p, unsigned char* memory) {
    const int thread = thread_index();
    unsigned char* stages = memory + kDenseRows * p.k * 2;
    Dense<LAYER, CHUNKS>{p, memory, stages, thread, thread % 32, thread / 32, block_index() * kDenseRows}.run();
}

}  // namespace longbow
