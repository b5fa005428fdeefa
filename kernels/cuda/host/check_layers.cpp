// The dense layers, the kernels over rows and the top-k on the host against plain f64. Arguments: random cases, seed.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "entries_layers.hpp"

using longbow::shim::bf16;
using longbow::shim::launch;
using longbow::shim::to_bf16;

namespace {

std::mt19937 random_bits;
int draw(int below) { return static_cast<int>(random_bits() % static_cast<uint32_t>(below)); }
float normal() { return std::normal_distribution<float>()(random_bits); }
int padded(int n, int to) { return (n + to - 1) / to * to; }

bool failed = false;

void check(bool pass, const std::string& what) {
    if (!pass) failed = true;
    std::printf("%s %s\n", pass ? "ok  " : "FAIL", what.c_str());
}

std::vector<float> normals(size_t count, float size = 1.0f) {
    std::vector<float> v(count);
    for (auto& x : v) x = normal() * size;
    return v;
}

std::vector<uint16_t> rounded(const std::vector<float>& from) {
    std::vector<uint16_t> to(from.size());
    std::transform(from.begin(), from.end(), to.begin(), to_bf16);
    return to;
}

// A dense case: shapes, inputs, and the f64 rows that go into the product.
struct Case {
    int rows, head_dim, true_dim, heads, heads_true, width, d, d_true, n;
    LongbowDense p{};
    std::vector<float> x, bias, sums, items, out;
    std::vector<uint16_t> b, packed, out_packed, pool;
    std::vector<LongbowSums> rows_sums;
    std::vector<uint32_t> item_rows;
    std::vector<int32_t> slots;

    Case() {
        rows = 1 + draw(150);
        head_dim = 32 << draw(3);
        true_dim = 1 + draw(head_dim);
        heads = 128 / head_dim * (1 + draw(2));
        heads_true = 1 + draw(heads);
        width = heads * head_dim;
        d_true = 2 + draw(300);
        d = padded(d_true, 64);
    }

    // The weights: zero wherever a row or column is padding.
    void weights(int n_padded, int n_true, int k) {
        n = n_padded;
        auto w = normals(static_cast<size_t>(padded(n, 64)) * k, 0.2f);
        for (int i = n_true; i < padded(n, 64); ++i) std::fill_n(w.begin() + int64_t{i} * k, k, 0.0f);
        b = rounded(w);
        bias = normals(n);
        p.b = b.data();
        p.bias = bias.data();
        p.rows = rows;
        p.n = n;
        p.k = k;
        p.width = width;
        p.head_dim = head_dim;
        p.epsilon = 1e-6f;
        p.tiles = 1 + draw(4);
    }

    bool counts(int c) const { return c % p.block < p.block_true && c / p.block * p.block_true < p.k_true; }

    // norm(v) over the columns that count.
    std::vector<double> norm(const std::vector<double>& v) const {
        double mean = 0, variance = 0;
        for (int c = 0; c < p.k; ++c) mean += counts(c) ? v[c] / p.k_true : 0;
        for (int c = 0; c < p.k; ++c) variance += counts(c) ? (v[c] - mean) * (v[c] - mean) / p.k_true : 0;
        std::vector<double> out(p.k, 0.0);
        for (int c = 0; c < p.k; ++c) out[c] = counts(c) ? (v[c] - mean) / std::sqrt(variance + p.epsilon) : 0;
        return out;
    }

    // Compares output (row, column) given the row of A; `got` and an epilogue on the exact product.
    template <class Epilogue>
    double excess(const std::vector<double>& a, int column, double got, double coarse, Epilogue then) const {
        double sum = 0, size = 0;
        for (int c = 0; c < p.k; ++c) {
            const double term = a[c] * bf16(b[int64_t{column} * p.k + c]);
            sum += term;
            size += std::abs(term);
        }
        const double want = then(sum);
        const double allowed = size / 256 + coarse * std::abs(want) + 1e-5;
        return std::isnan(got) ? INFINITY : std::abs(got - want) / allowed;
    }
};

using Kernel = void (*)(LongbowDense);

void run_dense(const LongbowDense& p, Kernel k256, Kernel k512, Kernel k1024) {
    const Kernel kernel = p.k <= 256 ? k256 : p.k <= 512 ? k512 : k1024;
    const int tiles = (p.n + 63) / 64;
    launch((p.rows + 63) / 64, (tiles + p.tiles - 1) / p.tiles, 256, size_t(64) * p.k * 2 + 3 * 8192, random_bits(),
           [&] { kernel(p); });
}

double silu(double x) { return x / (1 + std::exp(-x)); }

void project() {
    Case c;
    c.weights(4 * c.width, 4 * c.width, c.d);
    c.x = normals(size_t(c.rows) * c.d);
    for (int r = 0; r < c.rows; ++r) std::fill_n(c.x.begin() + r * c.d + c.d_true, c.d - c.d_true, 0.0f);
    c.out_packed.assign(size_t(c.rows) * 4 * c.width, 0x7fff);
    const int pages = 6, layers = 2, layer = draw(2);
    c.p.page_stride = int64_t{2} * layers * 64 * c.width;
    c.p.layer_offset = int64_t{2} * layer * 64 * c.width;
    c.p.v_offset = int64_t{64} * c.width;
    c.pool.assign(pages * c.p.page_stride, 0x7fff);
    std::vector<int32_t> free(pages * 64);
    for (int i = 0; i < pages * 64; ++i) free[i] = i;
    std::shuffle(free.begin(), free.end(), random_bits);
    for (int r = 0; r < c.rows; ++r) c.slots.push_back(draw(3) ? free[r] : -1);
    c.p.x = c.x.data();
    c.p.x_stride = c.d;
    c.p.k_true = c.p.block_true = c.d_true;
    c.p.block = c.d;
    c.p.out_packed = c.out_packed.data();
    c.p.pool = c.pool.data();
    c.p.slots = c.slots.data();
    run_dense(c.p, longbow_project_256, longbow_project_512, longbow_project_1024);
    double worst = 0;
    for (int r = 0; r < c.rows; ++r) {
        const auto a = c.norm({c.x.begin() + r * c.d, c.x.begin() + (r + 1) * c.d});
        for (int col = 0; col < c.n; ++col) {
            const int part = col / c.width, inside = col % c.width;
            uint16_t got = c.out_packed[int64_t{r} * 4 * c.width + col];
            if (c.slots[r] >= 0 && part % 2 == 1) {
                got = c.pool[c.slots[r] / 64 * c.p.page_stride + c.p.layer_offset + (part == 1 ? c.p.v_offset : 0) +
                             (int64_t{inside / c.head_dim} * 64 + c.slots[r] % 64) * c.head_dim + inside % c.head_dim];
            }
            worst = std::max(worst, c.excess(a, col, bf16(got), 1.0 / 256, silu));
        }
    }
    const auto written = std::count_if(c.pool.begin(), c.pool.end(), [](uint16_t x) { return x != 0x7fff; });
    const auto kept = std::count_if(c.slots.begin(), c.slots.end(), [](int s) { return s >= 0; });
    check(worst <= 1 && written == int64_t{kept} * 2 * c.width,
          "project: " + std::to_string(c.rows) + " rows, d " + std::to_string(c.d_true) + ", error " + std::to_string(worst) +
              " of what bf16 may lose");
}

void output() {
    Case c;
    const bool own = draw(2);
    c.weights(c.d, c.d_true, c.width);
    std::fill(c.bias.begin() + c.d_true, c.bias.end(), 0.0f);
    c.p.block = c.head_dim;
    c.p.block_true = c.true_dim;
    c.p.k_true = c.heads_true * c.true_dim;
    c.packed = rounded(normals(size_t(c.rows) * 4 * c.width));
    for (size_t i = 0; i < c.packed.size(); ++i) {
        if (!c.counts(static_cast<int>(i) % c.width)) c.packed[i] = 0;
    }
    int total = 0;
    for (int r = 0; r < c.rows; ++r) {
        const int ranges = 1 + draw(4);
        c.rows_sums.push_back({total, 1, ranges, own});
        total += ranges;
    }
    c.sums = normals(size_t(total) * c.width, 0.3f);
    for (size_t i = 0; i < c.sums.size(); ++i) {
        if (!c.counts(static_cast<int>(i) % c.width)) c.sums[i] = 0;
    }
    c.x = normals(size_t(c.rows) * c.d);
    c.out.assign(c.x.size(), std::nanf(""));
    c.p.packed = c.packed.data();
    c.p.sums = c.sums.data();
    c.p.rows_sums = c.rows_sums.data();
    c.p.x = c.x.data();
    c.p.x_stride = c.p.out_stride = c.d;
    c.p.out = c.out.data();
    c.p.half_alpha = 0.15f;
    c.p.own_bias = -0.3f;
    c.p.scale = 0.25f;
    run_dense(c.p, longbow_output_256, longbow_output_512, longbow_output_1024);
    double worst = 0;
    for (int r = 0; r < c.rows; ++r) {
        std::vector<double> v(c.width, 0.0);
        const uint16_t* packed = &c.packed[size_t(r) * 4 * c.width];
        for (int i = 0; i < c.rows_sums[r].ranges; ++i) {
            for (int k = 0; k < c.width; ++k) v[k] += c.sums[int64_t{c.rows_sums[r].first + i} * c.width + k];
        }
        for (int h = 0; own && h < c.heads; ++h) {
            double dot = 0;
            for (int k = h * c.head_dim; k < (h + 1) * c.head_dim; ++k) {
                dot += double{bf16(packed[2 * c.width + k])} * bf16(packed[3 * c.width + k]);
            }
            const double weight = silu(2 * (double{c.p.half_alpha} * dot + c.p.own_bias)) * c.p.scale;
            for (int k = h * c.head_dim; k < (h + 1) * c.head_dim; ++k) v[k] += weight * bf16(packed[c.width + k]);
        }
        auto a = c.norm(v);
        for (int k = 0; k < c.width; ++k) a[k] *= bf16(packed[k]);
        for (int col = 0; col < c.n; ++col) {
            const double before = c.x[int64_t{r} * c.d + col];
            worst = std::max(worst, c.excess(a, col, c.out[int64_t{r} * c.d + col], 1e-6,
                                             [&](double s) { return before + s + c.bias[col]; }));
        }
    }
    check(worst <= 1, "output: " + std::to_string(c.rows) + " rows, heads of " + std::to_string(c.head_dim) +
                          (own ? ", own keys" : "") + ", error " + std::to_string(worst) + " of what bf16 may lose");
}

void heads() {
    Case c;
    const int item_dim = 1 + draw(c.d_true), k = padded(item_dim, 64), hidden = 1 + draw(200), items = 20, tasks = 1 + draw(4);
    c.weights(padded(hidden, 64), hidden, k);
    c.x = normals(size_t(c.rows) * c.d);
    c.items = normals(size_t(items) * item_dim);
    for (int r = 0; r < c.rows; ++r) c.item_rows.push_back(static_cast<uint32_t>(draw(items)));
    c.out.assign(size_t(c.rows) * c.n, std::nanf(""));
    c.p.x = c.x.data();
    c.p.x_stride = c.d;
    c.p.block = k;
    c.p.block_true = c.p.k_true = c.p.item_dim = item_dim;
    c.p.item_table = c.items.data();
    c.p.items = c.item_rows.data();
    c.p.out = c.out.data();
    c.p.out_stride = c.n;
    run_dense(c.p, longbow_heads_256, longbow_heads_512, longbow_heads_1024);
    double worst = 0;
    for (int r = 0; r < c.rows; ++r) {
        std::vector<double> v(k, 0.0);
        for (int i = 0; i < item_dim; ++i) v[i] = c.x[int64_t{r} * c.d + i];
        auto a = c.norm(v);
        for (int i = 0; i < item_dim; ++i) a[i] *= c.items[c.item_rows[r] * item_dim + i];
        for (int col = 0; col < hidden; ++col) {
            worst = std::max(worst, c.excess(a, col, c.out[int64_t{r} * c.n + col], 1e-6,
                                             [&](double s) { return s + c.bias[col]; }));
        }
    }
    const auto norm = normals(hidden), norm_bias = normals(hidden), weight = normals(size_t(tasks) * hidden, 0.1f), bias = normals(tasks);
    std::vector<float> probs(size_t(c.rows) * tasks, std::nanf(""));
    const LongbowHeads p{c.out.data(), norm.data(), norm_bias.data(), weight.data(), bias.data(), probs.data(),
                         c.rows, hidden, c.n, tasks};
    launch((c.rows + 7) / 8, 1, 256, 0, random_bits(), [&] { longbow_heads_output(p); });
    double off = 0;
    for (int r = 0; r < c.rows; ++r) {
        const float* h = &c.out[size_t(r) * c.n];
        double mean = 0, variance = 0;
        for (int i = 0; i < hidden; ++i) mean += double{h[i]} / hidden;
        for (int i = 0; i < hidden; ++i) variance += (h[i] - mean) * (h[i] - mean) / hidden;
        for (int t = 0; t < tasks; ++t) {
            double logit = bias[t];
            for (int i = 0; i < hidden; ++i) {
                const double g = (h[i] - mean) / std::sqrt(variance + 1e-5) * norm[i] + norm_bias[i];
                logit += h[i] / (1 + std::exp(-g)) * weight[size_t(t) * hidden + i];
            }
            const double error = std::abs(probs[size_t(r) * tasks + t] - 1 / (1 + std::exp(-logit)));
            off = std::max(off, std::isnan(error) ? INFINITY : error);
        }
    }
    check(worst <= 1 && off < 1e-5, "heads: " + std::to_string(c.rows) + " rows, error " + std::to_string(worst) +
                                        " of what bf16 may lose, probabilities off by " + std::to_string(off));
}

void rows() {
    const int item_dim = 1 + draw(100), action_dim = draw(2) * draw(30), full = item_dim + action_dim, width = padded(full, 64);
    const int count = 1 + draw(40), items = 30, actions = 5, positions = 50;
    const auto item = normals(size_t(items) * item_dim), action = normals(size_t(actions) * action_dim + 1),
               position = normals(size_t(positions) * full);
    std::vector<uint32_t> of_item;
    std::vector<uint16_t> of_action;
    std::vector<int32_t> of_position, slots;
    std::vector<int64_t> times, page_times(4 * 64, -1);
    for (int r = 0; r < count; ++r) {
        of_item.push_back(static_cast<uint32_t>(draw(items)));
        of_action.push_back(static_cast<uint16_t>(draw(actions)));
        of_position.push_back(draw(positions));
        slots.push_back(draw(3) ? 3 * r : -1);
        times.push_back(1'000'000'000'000 + r);
    }
    std::vector<float> x(size_t(count) * width, std::nanf(""));
    LongbowEmbed p{of_item.data(), of_action.data(), of_position.data(), slots.data(), times.data(), item.data(), action.data(),
                   position.data(), x.data(), page_times.data(), count, item_dim, action_dim, width, 3.5f, 0};
    launch((count + 7) / 8, 1, 256, 0, random_bits(), [&] { longbow_embed(p); });
    bool same = true;
    for (int r = 0; r < count; ++r) {
        for (int c = 0; c < width; ++c) {
            const float part = c < item_dim ? item[of_item[r] * item_dim + c] : c < full ? action[of_action[r] * action_dim + c - item_dim] : 0;
            const float want = c < full ? part * 3.5f + position[of_position[r] * full + c] : 0.0f;
            same = same && std::abs(x[size_t(r) * width + c] - want) <= 1e-5f;
        }
        if (slots[r] >= 0) same = same && page_times[slots[r]] == times[r];
    }
    check(same, "embed: " + std::to_string(count) + " rows of " + std::to_string(full));
    const int head_dim = 32 << draw(3), page_stride = 2 * 2 * 64 * 128;
    auto pool = rounded(normals(4 * size_t(page_stride)));
    const auto before = pool;
    const auto times_before = page_times;
    const LongbowCopy copies[2] = {{0, 2, draw(65), 0}, {1, 3, draw(65), 0}};
    launch(2, 1, 256, 0, random_bits(), [&] { longbow_copy_rows(copies, pool.data(), page_times.data(), page_stride, head_dim); });
    bool right = true;
    for (const auto& copy : copies) {
        for (int i = 0; i < page_stride; ++i) {
            const bool moved = i / head_dim % 64 < copy.rows;
            right = right && pool[copy.to * page_stride + i] == before[(moved ? copy.from : copy.to) * page_stride + i];
        }
        for (int r = 0; r < 64; ++r) {
            right = right && page_times[copy.to * 64 + r] == times_before[(r < copy.rows ? copy.from : copy.to) * 64 + r];
        }
    }
    check(right, "copy of pages, heads of " + std::to_string(head_dim));
}

#include "check_topk.hpp"

}  // namespace

int main(int argc, char** argv) {
    const int cases = argc > 1 ? std::atoi(argv[1]) : 2;
    random_bits.seed(static_cast<uint32_t>(argc > 2 ? std::atoi(argv[2]) : 1));
    for (int i = 0; i < cases; ++i) {
        project();
        output();
        heads();
        rows();
        top_k(false);
        top_k(true);
    }
    return failed ? 1 : 0;
}
