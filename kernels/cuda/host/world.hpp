// Random inputs of attention and the plain f64 sums they must give.
#pragma once
#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "../params.h"
#include "shim.hpp"

namespace world {

using longbow::shim::bf16;
using longbow::shim::to_bf16;

// kEdges: differences to the time of the request lie on the edges of buckets, and one beside them.
enum class Times { kSteady, kBursts, kUnsorted, kAges, kEdges, kWrap };
constexpr int kTimes = 6;

struct Form {
    int head_dim = 64;
    int heads = 2;  // a multiple of 128 / head_dim
    bool bias = true;
    bool causal = true;
    bool hopper = false;
    Times times = Times::kSteady;
    int layers = 2;
    int layer = 1;
};

struct Job {
    int keys;      // rows of the history
    int rows;      // query rows: causal, the last `rows` of the history; else candidates
    int64_t query_time;
    std::vector<int64_t> times;
    int table;
    int q_row;
};

// The bucket of a difference, by the formula of the public code in f32.
inline int bucket(int64_t d) {
    const auto magnitude = static_cast<uint64_t>(d < 0 ? -d : d);
    const float quotient = std::log(static_cast<float>(std::max<uint64_t>(magnitude, 1))) / 0.301f;
    return std::min(static_cast<int>(quotient), static_cast<int>(LONGBOW_BUCKETS));
}

// The smallest difference in low..=high at which the bucket is above that of `low`.
inline int64_t next_edge(int64_t low, int64_t high) {
    const int at = bucket(low);
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        (bucket(middle) > at ? high : low) = middle;
    }
    return high;
}

inline LongbowTimeBias time_bias(const std::vector<float>& weights) {
    LongbowTimeBias t{};
    t.edges[0] = 0;
    for (int b = 1; b <= LONGBOW_BUCKETS; ++b) {
        int64_t low = std::max<int64_t>(t.edges[b - 1], 1), high = int64_t{1} << 62;
        if (bucket(low) >= b) {
            t.edges[b] = low;
            continue;
        }
        while (high - low > 1) {
            const int64_t middle = low + (high - low) / 2;
            (bucket(middle) >= b ? high : low) = middle;
        }
        t.edges[b] = high;
    }
    t.edges[LONGBOW_BUCKETS + 1] = INT64_MAX;
    for (int b = 0; b <= LONGBOW_BUCKETS; ++b) t.weights[b] = weights[b] / 2;
    for (int c = 0; c < LONGBOW_CELLS; ++c) {
        const double start = std::ldexp(1.0 + c % 4 / 4.0, c / 4), end = std::ldexp(1.0 + (c % 4 + 1) / 4.0, c / 4);
        const auto first = static_cast<int64_t>(std::ceil(std::min(start, 4e18)));
        const auto last = static_cast<int64_t>(std::ceil(std::min(end, 4e18))) - 1;
        const int low = bucket(first), high = bucket(std::max(first, last));
        t.buckets[c] = static_cast<uint8_t>(low);
        t.cells[c] = {INT64_MAX, weights[low] / 2, weights[high] / 2};
        if (high > low) t.cells[c].edge = next_edge(first, last);
    }
    return t;
}

class World {
  public:
    World(const Form& form, const std::vector<Job>& jobs, uint32_t seed) : form_(form), jobs_(jobs), random_(seed) {
        int keys_max = 1, rows = 0, pages = 0;
        for (const Job& job : jobs) {
            keys_max = std::max(keys_max, job.keys);
            rows += job.rows;
            pages += (job.keys + LONGBOW_PAGE_ROWS - 1) / LONGBOW_PAGE_ROWS;
        }
        max_len = keys_max + 3;
        width = form.heads * form.head_dim;
        page_stride = int64_t{2} * form.layers * LONGBOW_PAGE_ROWS * width;
        page_count = pages + 3;
        fill(q, static_cast<size_t>(rows) * width);
        // Rows of a page that no job holds are not zero either: nothing may depend on them.
        fill(pool, page_count * page_stride);
        times.assign(page_count * LONGBOW_PAGE_ROWS, -77'000'000'000);
        pos_w = floats(2 * max_len - 1, 1.0);
        ts_w = floats(LONGBOW_BUCKETS + 1, 1.0);
        make_jobs();
        for (float& w : pos_w) halved.push_back(w / 2);
        bias = time_bias(ts_w);
    }

    // Cuts every job into work items at random, with the sums of each range apart.
    void cut(bool split) {
        work.clear();
        sums.assign(q.size() / width, {0, 0, 1, 0});
        out_rows = 0;
        const int groups = width / LONGBOW_GROUP_WIDTH;
        for (const Job& job : jobs_) {
            for (int first = 0; first < job.rows; first += LONGBOW_TILE_ROWS) {
                const int rows = std::min<int>(LONGBOW_TILE_ROWS, job.rows - first);
                const int position = form_.causal ? job.keys - job.rows + first : job.keys;
                const int keys = form_.causal ? position + rows : job.keys;
                const int pages = (keys + LONGBOW_PAGE_ROWS - 1) / LONGBOW_PAGE_ROWS;
                const int ranges = split ? 1 + static_cast<int>(random_() % std::min(pages, 5)) : 1;
                for (int r = 0; r < ranges; ++r) {
                    const int begin = pages * r / ranges * LONGBOW_PAGE_ROWS;
                    const int end = std::min(keys, pages * (r + 1) / ranges * LONGBOW_PAGE_ROWS);
                    for (int g = 0; g < groups; ++g) {
                        work.push_back({job.q_row + first, rows, position, begin, end, job.table,
                                        out_rows + r * rows, g});
                    }
                }
                for (int i = 0; i < rows; ++i) sums[job.q_row + first + i] = {out_rows + i, rows, ranges, 0};
                out_rows += rows * ranges;
            }
        }
        std::stable_sort(work.begin(), work.end(), [](const LongbowWork& a, const LongbowWork& b) {
            return a.key_end - a.key_begin > b.key_end - b.key_begin;
        });
        out.assign(static_cast<size_t>(out_rows) * width, std::nanf(""));
    }

    LongbowAttend params() {
        LongbowAttend p{};
        p.work = work.data();
        p.q = q.data();
        p.next_times = next_times.data();
        p.pool = pool.data();
        p.times = times.data();
        p.tables = tables.data();
        p.pos_w = halved.data();
        p.time_bias = &bias;
        p.out = out.data();
        p.q_stride = p.out_stride = width;
        p.page_stride = page_stride;
        p.layer_offset = int64_t{2} * form_.layer * LONGBOW_PAGE_ROWS * width;
        p.v_offset = int64_t{LONGBOW_PAGE_ROWS} * width;
        p.work_count = static_cast<int32_t>(work.size());
        p.max_len = max_len;
        p.layer_rows = static_cast<int32_t>(p.layer_offset / form_.head_dim);
        p.page_rows = static_cast<int32_t>(page_stride / form_.head_dim);
        p.v_rows = static_cast<int32_t>(p.v_offset / form_.head_dim);
        p.half_alpha = alpha / 2;
        p.scale = 1.0f / static_cast<float>(max_len);
        return p;
    }

    // The largest error over all outputs, and that of a plain computation which rounds to bf16 at each step.
    void errors(double& found, double& naive) const {
        found = naive = 0.0;
        for (const Job& job : jobs_) {
            for (int r = 0; r < job.rows; ++r) {
                for (int h = 0; h < form_.heads; ++h) compare(job, r, h, found, naive);
            }
        }
    }

    Form form_;
    std::vector<Job> jobs_;
    std::mt19937 random_;
    int max_len = 0, width = 0, out_rows = 0;
    int64_t page_stride = 0, page_count = 0;
    float alpha = 1.0f;
    std::vector<uint16_t> q, pool;
    std::vector<int64_t> times, next_times;
    std::vector<int32_t> tables;
    std::vector<float> pos_w, halved, ts_w, out;
    std::vector<LongbowWork> work;
    std::vector<LongbowSums> sums;
    LongbowTimeBias bias{};

  private:
    void fill(std::vector<uint16_t>& to, size_t count) {
        std::normal_distribution<float> normal(0.0f, 0.5f);
        to.resize(count);
        for (auto& x : to) x = to_bf16(normal(random_));
    }

    std::vector<float> floats(int count, double size) {
        std::normal_distribution<float> normal(0.0f, static_cast<float>(size));
        std::vector<float> v(count);
        for (auto& x : v) x = normal(random_);
        return v;
    }

    void make_jobs() {
        std::vector<int32_t> free(page_count);
        for (size_t i = 0; i < free.size(); ++i) free[i] = static_cast<int32_t>(i);
        std::shuffle(free.begin(), free.end(), random_);
        int q_row = 0;
        for (Job& job : jobs_) {
            job.q_row = q_row;
            job.table = static_cast<int>(tables.size());
            make_times(job);
            for (int i = 0; i < job.keys; ++i) {
                if (i % LONGBOW_PAGE_ROWS == 0) {
                    tables.push_back(free.back());
                    free.pop_back();
                }
                times[int64_t{tables.back()} * LONGBOW_PAGE_ROWS + i % LONGBOW_PAGE_ROWS] = job.times[i];
            }
            for (int r = 0; r < job.rows; ++r) {
                const int i = job.keys - job.rows + r + 1;
                next_times.push_back(form_.causal && i < job.keys ? job.times[i] : job.query_time);
            }
            q_row += job.rows;
        }
    }

    void make_times(Job& job) {
        // Once across 2^31, where times no longer fit 32 bits, though their differences do.
        int64_t t = form_.times == Times::kWrap ? (int64_t{1} << 31) - 40 * job.keys : 1'700'000'000;
        for (int i = 0; i < job.keys; ++i) {
            const auto draw = static_cast<int64_t>(random_() % 1000);
            switch (form_.times) {
                case Times::kSteady: t += 300 + draw; break;
                case Times::kWrap: t += draw % 80; break;
                case Times::kBursts: t += draw < 950 ? draw % 3 : draw * 400; break;
                case Times::kUnsorted: t += (draw - 480) * 60; break;
                case Times::kEdges: {
                    // A page's keys lie around one edge, each a second from the next; edges fall from page to page.
                    const int edge = std::max(8, 50 - i / LONGBOW_PAGE_ROWS);
                    t = 1'900'000'000 - next_edge_of(edge) + i % LONGBOW_PAGE_ROWS - LONGBOW_PAGE_ROWS / 2;
                    break;
                }
                case Times::kAges: t += draw < 990 ? draw : int64_t{1} << (20 + draw % 30); break;
            }
            job.times.push_back(t);
        }
        job.query_time = t + 5 + static_cast<int64_t>(random_() % 100'000);
        if (form_.times == Times::kEdges) job.query_time = 1'900'000'000;
    }

    // The smallest difference of a bucket.
    static int64_t next_edge_of(int at) {
        static const LongbowTimeBias table = time_bias(std::vector<float>(LONGBOW_BUCKETS + 1, 0.0f));
        return table.edges[at];
    }

    float at(const Job& job, int key, int head, int column, bool value) const {
        const int64_t page = tables[job.table + key / LONGBOW_PAGE_ROWS];
        const int64_t from = page * page_stride + int64_t{2 * form_.layer + (value ? 1 : 0)} * LONGBOW_PAGE_ROWS * width;
        return bf16(pool[from + (int64_t{head} * LONGBOW_PAGE_ROWS + key % LONGBOW_PAGE_ROWS) * form_.head_dim + column]);
    }

    void compare(const Job& job, int r, int h, double& found, double& naive) const {
        const int hd = form_.head_dim, row = job.q_row + r;
        const int position = form_.causal ? job.keys - job.rows + r : job.keys;
        const int keys = form_.causal ? position + 1 : job.keys;
        std::vector<double> exact(hd, 0.0);
        std::vector<float> rounded(hd, 0.0f);
        for (int j = 0; j < keys; ++j) {
            double s = 0.0;
            float plain = 0.0f;
            for (int c = 0; c < hd; ++c) {
                const float a = bf16(q[int64_t{row} * width + h * hd + c]), b = at(job, j, h, c, false);
                s += double{a} * b;
                plain += a * b;
            }
            double add = 0.0;
            if (form_.bias) add = double{pos_w[max_len - 1 + j - position]} + ts_w[bucket(next_times[row] - job.times[j])];
            s = s * alpha + add;
            plain = bf16(to_bf16(bf16(to_bf16(plain * alpha)) + bf16(to_bf16(static_cast<float>(add)))));
            const double weight = s / (1.0 + std::exp(-s));
            const float rough = bf16(to_bf16(plain / (1.0f + std::exp(-plain))));
            for (int c = 0; c < hd; ++c) {
                const float v = at(job, j, h, c, true);
                exact[c] += weight * v;
                rounded[c] += rough * v;
            }
        }
        for (int c = 0; c < hd; ++c) {
            double got = 0.0;
            for (int i = 0; i < sums[row].ranges; ++i) {
                got += out[int64_t{sums[row].first + i * sums[row].stride} * width + h * hd + c];
            }
            const double want = exact[c] / max_len;
            const double error = std::abs(got - want);
            found = std::max(found, std::isnan(error) ? INFINITY : error);
            naive = std::max(naive, std::abs(bf16(to_bf16(rounded[c] / static_cast<float>(max_len))) - want));
        }
    }
};

}  // namespace world
