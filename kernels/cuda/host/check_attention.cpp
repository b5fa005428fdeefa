// Attention on the host against plain f64 sums. Arguments: how many random cases more than the fixed ones, a seed, and
// which of the fixed ones: every n-th (1: all).
#include <cstdio>

#include "entries_attention.hpp"
#include "hopper_types.hpp"
#include "world.hpp"

using namespace world;

namespace {

using Old = void (*)(LongbowAttend);
using New = void (*)(LongbowAttend, TensorMap, TensorMap);

#define LONGBOW_PICK(arch, hd)                                                                       \
    (form.causal ? (form.bias ? longbow_history_##arch##_##hd##_bias : longbow_history_##arch##_##hd##_plain) \
                 : (form.bias ? longbow_candidates_##arch##_##hd##_bias : longbow_candidates_##arch##_##hd##_plain))

Old old_kernel(const Form& form) {
    return form.head_dim == 32 ? LONGBOW_PICK(sm80, 32) : form.head_dim == 64 ? LONGBOW_PICK(sm80, 64) : LONGBOW_PICK(sm80, 128);
}
New new_kernel(const Form& form) {
    return form.head_dim == 32 ? LONGBOW_PICK(sm90, 32) : form.head_dim == 64 ? LONGBOW_PICK(sm90, 64) : LONGBOW_PICK(sm90, 128);
}

TensorMap map_of(const std::vector<uint16_t>& data, int64_t columns, int head_dim) {
    TensorMap map{};
    map.base = data.data();
    map.columns = map.stride = columns;
    map.rows = static_cast<int64_t>(data.size()) / columns;
    map.box_columns = std::min(head_dim, 64);
    map.box_rows = LONGBOW_PAGE_ROWS;
    map.swizzle = head_dim == 32 ? 2 : 1;
    return map;
}

bool run(const Form& form, const std::vector<Job>& jobs, bool split, uint32_t seed) {
    World w(form, jobs, seed);
    w.cut(split);
    const LongbowAttend p = w.params();
    if (form.hopper) {
        const TensorMap q = map_of(w.q, w.width, form.head_dim), kv = map_of(w.pool, form.head_dim, form.head_dim);
        const int grid = std::min<int>(p.work_count, 1 + static_cast<int>(seed % 4));
        longbow::shim::launch(grid, 1, 384, LONGBOW_SHARED90(form.head_dim), seed,
                              [&] { new_kernel(form)(p, q, kv); });
    } else {
        longbow::shim::launch(p.work_count, 1, 256, LONGBOW_SHARED80, seed, [&] { old_kernel(form)(p); });
    }
    double found, naive;
    w.errors(found, naive);
    const bool pass = found <= 2 * naive + 1e-6;
    std::printf("%s %s_%s_%d %s times %d, %zu jobs of up to %d keys, %zu items: error %.2e, plain bf16 %.2e\n",
                pass ? "ok  " : "FAIL", form.causal ? "history" : "candidates", form.hopper ? "sm90" : "sm80", form.head_dim,
                form.bias ? "bias" : "plain", static_cast<int>(form.times), jobs.size(), w.max_len - 3, w.work.size(), found, naive);
    return pass;
}

}  // namespace

int main(int argc, char** argv) {
    const int extra = argc > 1 ? std::atoi(argv[1]) : 0;
    const auto seed = static_cast<uint32_t>(argc > 2 ? std::atoi(argv[2]) : 1);
    const int every = argc > 3 ? std::atoi(argv[3]) : 1;
    std::mt19937 random(seed);
    auto draw = [&](int below) { return static_cast<int>(random() % static_cast<uint32_t>(below)); };
    bool pass = true;
    int at = 0;
    for (const bool hopper : {false, true}) {
        for (const int hd : {32, 64, 128}) {
            for (const bool bias : {true, false}) {
                for (const bool causal : {true, false}) {
                    Form form{hd, 128 / hd, bias, causal, hopper, static_cast<Times>((at + at / 4) % kTimes)};
                    std::vector<Job> jobs;
                    for (const int keys : {1, 63 + at % 3, 130, 200}) {
                        jobs.push_back({keys, causal ? std::max(1, keys - at % 5) : 3 + 40 * (at % 4), 0, {}, 0, 0});
                    }
                    if (at % every == 0) pass = run(form, jobs, at % 2 == 1, seed + static_cast<uint32_t>(at)) && pass;
                    ++at;
                }
            }
        }
    }
    for (int i = 0; i < extra; ++i) {
        const int hd = 32 << draw(3);
        Form form{hd, 128 / hd * (1 + draw(2)), draw(4) > 0, draw(2) == 0, draw(2) == 0, static_cast<Times>(draw(kTimes))};
        std::vector<Job> jobs;
        for (int j = 1 + draw(3); j > 0; --j) {
            const int keys = 1 + draw(draw(3) == 0 ? 1000 : 150);
            jobs.push_back({keys, form.causal ? 1 + draw(keys) : 1 + draw(200), 0, {}, 0, 0});
        }
        pass = run(form, jobs, draw(2) == 0, random()) && pass;
    }
    return pass ? 0 : 1;
}
