// A stand-in for libcuda.so.1 that runs the kernels of this folder on the host, so that the whole GPU path (launches,
// pages, copies, graphs) is tested where there is no GPU: the same program, another driver. A device pointer is a host
// pointer. Streams are as free as a driver's (`streams.hpp`). LONGBOW_STAND_IN_CAPABILITY (90 or 80) picks the kernels'
// form; LONGBOW_STAND_IN_FAIL=n makes the n-th launch fail as an illegal address would, and everything after it, and so
// does LONGBOW_STAND_IN_FAIL_FILE=path once there is a file of that name.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <unistd.h>

#include "../hopper.cuh"
#include "entries_attention.hpp"
#include "entries_layers.hpp"
#include "streams.hpp"

using longbow::TensorMap;

namespace {

using Result = int;
constexpr Result kSuccess = 0, kInvalidValue = 1, kOutOfMemory = 2, kNotFound = 500, kIllegalAddress = 700;
constexpr size_t kMemory = size_t{2} << 30;

using Call = std::function<void(void**)>;

template <class P>
const P& at(void** args, int i) {
    return *static_cast<const P*>(args[i]);
}

template <class... P, size_t... I>
Call unpack(void (*f)(P...), std::index_sequence<I...>) {
    return [f](void** args) { f(at<P>(args, I)...); };
}
template <class... P>
Call kernel(void (*f)(P...)) {
    return unpack(f, std::index_sequence_for<P...>{});
}

}  // namespace

namespace {

#define LONGBOW_NAMED(name) {"longbow_" #name, kernel(longbow_##name)}
#define LONGBOW_ATTENTION_NAMED(hd)                                                            \
    LONGBOW_NAMED(history_sm80_##hd##_bias), LONGBOW_NAMED(history_sm80_##hd##_plain),         \
        LONGBOW_NAMED(candidates_sm80_##hd##_bias), LONGBOW_NAMED(candidates_sm80_##hd##_plain), \
        LONGBOW_NAMED(history_sm90_##hd##_bias), LONGBOW_NAMED(history_sm90_##hd##_plain),     \
        LONGBOW_NAMED(candidates_sm90_##hd##_bias), LONGBOW_NAMED(candidates_sm90_##hd##_plain)
#define LONGBOW_LAYER_NAMED(name) LONGBOW_NAMED(name##_256), LONGBOW_NAMED(name##_512), LONGBOW_NAMED(name##_1024)

struct Named {
    const char* name;
    Call call;
};
const Named kernels[] = {
    LONGBOW_ATTENTION_NAMED(32), LONGBOW_ATTENTION_NAMED(64), LONGBOW_ATTENTION_NAMED(128),
    LONGBOW_LAYER_NAMED(project), LONGBOW_LAYER_NAMED(output), LONGBOW_LAYER_NAMED(heads),
    LONGBOW_NAMED(embed), LONGBOW_NAMED(heads_output), LONGBOW_NAMED(copy_rows), LONGBOW_NAMED(top_scores_1),
    LONGBOW_NAMED(top_scores_2), LONGBOW_NAMED(top_scores_4), LONGBOW_NAMED(top_bytes_1), LONGBOW_NAMED(top_bytes_2),
    LONGBOW_NAMED(top_narrow), LONGBOW_NAMED(top_gather), LONGBOW_NAMED(top_sort), LONGBOW_NAMED(put_rows),
};

struct Graph {
    std::vector<std::function<void()>> steps;
};

std::map<void*, size_t> memory;
size_t held = 0;
using longbow::streams::Event;
using longbow::streams::Lock;
using longbow::streams::one;
using longbow::streams::Stream;
// A capture is of the thread that began it, and of one stream.
thread_local Graph* capturing = nullptr;
thread_local const Stream* captured = nullptr;
int launches = 0;
std::atomic<bool> poisoned{false};

int setting(const char* name, int otherwise) {
    const char* text = std::getenv(name);
    return text ? std::atoi(text) : otherwise;
}

// What a graph keeps of a launch: the arguments as they were.
void launch(const Named& named, unsigned x, unsigned y, unsigned threads, unsigned shared, void** args) {
    const Lock lock(one);
    ++launches;
    const char* mark = std::getenv("LONGBOW_STAND_IN_FAIL_FILE");
    if (mark && access(mark, F_OK) == 0) poisoned = true;
    if (launches == setting("LONGBOW_STAND_IN_FAIL", 0)) poisoned = true;
    if (poisoned) return;
    longbow::shim::launch(static_cast<int>(x), static_cast<int>(y), static_cast<int>(threads), shared, static_cast<uint32_t>(launches),
                          [&] { named.call(args); });
}

Result state() { return poisoned ? kIllegalAddress : kSuccess; }

Result allocate(void** to, size_t bytes) {
    const Lock lock(one);
    if (poisoned) return kIllegalAddress;
    if (bytes == 0) return kInvalidValue;
    if (held + bytes > kMemory) return kOutOfMemory;
    *to = std::aligned_alloc(1024, (bytes + 1023) / 1024 * 1024);
    // Memory is never clean on a device.
    std::memset(*to, 0xff, bytes);
    memory[*to] = bytes;
    held += bytes;
    return kSuccess;
}

Result release(void* p) {
    const Lock lock(one);
    longbow::streams::run_all();
    const auto found = memory.find(p);
    if (found == memory.end()) return kInvalidValue;
    held -= found->second;
    memory.erase(found);
    std::free(p);
    return kSuccess;
}

// Written down, or given to the stream; nothing runs once the device is poisoned.
Result give(Stream* stream, std::function<void()> step) {
    const Lock lock(one);
    if (capturing && stream == captured) {
        capturing->steps.push_back(std::move(step));
    } else {
        longbow::streams::give(*stream, [step = std::move(step)] {
            if (!poisoned) step();
        });
    }
    return state();
}

Result move(void* to, const void* from, size_t bytes, Stream* stream) {
    return give(stream, [=] { std::memmove(to, from, bytes); });
}

void* pointer(uint64_t address) { return reinterpret_cast<void*>(address); }

}  // namespace

#define API extern "C" __attribute__((visibility("default"))) Result

API cuInit(unsigned) { return kSuccess; }
API cuDriverGetVersion(int* v) { return *v = 13000, kSuccess; }
API cuDeviceGetCount(int* n) { return *n = 1, kSuccess; }
API cuDeviceGet(int* d, int ordinal) { return *d = ordinal, ordinal == 0 ? kSuccess : kInvalidValue; }
API cuDeviceGetName(char* to, int len, int) { return std::snprintf(to, static_cast<size_t>(len), "stand-in on the host"), kSuccess; }
API cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = kMemory, kSuccess; }
API cuDeviceGetAttribute(int* to, int what, int) {
    const int capability = setting("LONGBOW_STAND_IN_CAPABILITY", 90);
    switch (what) {
        case 75: *to = capability / 10; break;
        case 76: *to = capability % 10; break;
        case 16: *to = 3; break;       // multiprocessors
        case 97: *to = 232448; break;  // shared memory of a block
        default: *to = 0;
    }
    return kSuccess;
}
API cuDevicePrimaryCtxRetain(void** c, int) { return *c = &memory, kSuccess; }
API cuDevicePrimaryCtxRelease_v2(int) { return kSuccess; }
API cuCtxSetCurrent(void*) { return kSuccess; }
API cuStreamCreate(Stream** s, unsigned) { return *s = longbow::streams::make(), kSuccess; }
API cuStreamDestroy_v2(Stream* s) { return longbow::streams::drop(s), kSuccess; }
API cuStreamSynchronize(Stream* s) { return longbow::streams::run(*s), state(); }
API cuStreamWaitEvent(Stream* s, Event* e, unsigned) { return longbow::streams::wait_for(*s, *e), state(); }
API cuMemGetInfo_v2(size_t* free, size_t* total) { return *free = kMemory - held, *total = kMemory, kSuccess; }
API cuMemAlloc_v2(uint64_t* p, size_t bytes) { return allocate(reinterpret_cast<void**>(p), bytes); }
API cuMemFree_v2(uint64_t p) { return release(pointer(p)); }
API cuMemHostAlloc(void** p, size_t bytes, unsigned) { return allocate(p, bytes); }
API cuMemFreeHost(void* p) { return release(p); }
API cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, Stream* s) { return move(pointer(to), from, bytes, s); }
API cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, Stream* s) { return move(to, pointer(from), bytes, s); }
API cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, Stream* s) {
    return move(pointer(to), pointer(from), bytes, s);
}
API cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, Stream* s) {
    return give(s, [=] { std::memset(pointer(to), value, bytes); });
}
API cuModuleLoadData(void** m, const void*) { return *m = &memory, kSuccess; }
API cuModuleUnload(void*) { return kSuccess; }
API cuModuleGetFunction(const void** f, void*, const char* name) {
    for (const Named& named : kernels) {
        if (std::strcmp(named.name, name) == 0) return *f = &named, kSuccess;
    }
    return kNotFound;
}
API cuFuncSetAttribute(void*, int, int) { return kSuccess; }

// Bytes of each argument, by the kernel's name: a graph copies them.
static std::vector<size_t> argument_sizes(const std::string& name) {
    if (name.find("_sm90_") != std::string::npos) return {sizeof(LongbowAttend), sizeof(TensorMap), sizeof(TensorMap)};
    if (name.find("_sm80_") != std::string::npos) return {sizeof(LongbowAttend)};
    if (name == "longbow_embed") return {sizeof(LongbowEmbed)};
    if (name == "longbow_heads_output") return {sizeof(LongbowHeads)};
    if (name == "longbow_copy_rows") return {8, 8, 8, 8, 4};
    if (name == "longbow_put_rows") return {sizeof(LongbowPutRows)};
    if (name.find("longbow_top_scores") == 0 || name.find("longbow_top_bytes") == 0 || name == "longbow_top_narrow") {
        return {sizeof(LongbowTopK), 4};
    }
    if (name.find("longbow_top") == 0) return {sizeof(LongbowTopK)};
    return {sizeof(LongbowDense)};
}

API cuLaunchKernel(const Named* f, unsigned x, unsigned y, unsigned, unsigned threads, unsigned, unsigned, unsigned shared,
                   Stream* stream, void** args, void**) {
    if (x == 0 || y == 0 || shared > 232448) return kInvalidValue;
    std::vector<std::vector<unsigned char>> kept;
    for (const size_t bytes : argument_sizes(f->name)) {
        const auto* from = static_cast<unsigned char*>(args[kept.size()]);
        kept.emplace_back(from, from + bytes);
    }
    return give(stream, [=] {
        std::vector<void*> list;
        for (const auto& bytes : kept) {
            auto* copy = static_cast<unsigned char*>(std::aligned_alloc(64, (bytes.size() + 63) / 64 * 64));
            std::memcpy(copy, bytes.data(), bytes.size());
            list.push_back(copy);
        }
        launch(*f, x, y, threads, shared, list.data());
        for (void* copy : list) std::free(copy);
    });
}
API cuTensorMapEncodeTiled(TensorMap* to, int, unsigned rank, void* base, const uint64_t* dims, const uint64_t* strides,
                           const uint32_t* box, const uint32_t*, int, int swizzle, int, int) {
    if (rank != 2 || reinterpret_cast<uintptr_t>(base) % 16 || strides[0] % 16 || box[0] > 256 || box[1] > 256) return kInvalidValue;
    if (reinterpret_cast<uintptr_t>(to) % 64) return kInvalidValue;
    const TensorMap map{static_cast<uint16_t*>(base), static_cast<int64_t>(dims[0]), static_cast<int64_t>(dims[1]),
                        static_cast<int64_t>(strides[0] / 2), static_cast<int32_t>(box[0]), static_cast<int32_t>(box[1]),
                        swizzle == 3 ? 1 : 2, {}};
    std::memcpy(static_cast<void*>(to), &map, sizeof(map));
    return kSuccess;
}
API cuStreamBeginCapture_v2(Stream* s, int) { return capturing = new Graph, captured = s, kSuccess; }
API cuStreamEndCapture(Stream*, Graph** g) {
    *g = capturing;
    capturing = nullptr;
    captured = nullptr;
    return kSuccess;
}
API cuGraphInstantiateWithFlags(Graph** exec, Graph* g, uint64_t) { return *exec = new Graph(*g), kSuccess; }
API cuGraphDestroy(Graph* g) { return delete g, kSuccess; }
API cuGraphExecDestroy(Graph* g) { return longbow::streams::run_all(), delete g, kSuccess; }
API cuGraphLaunch(Graph* g, Stream* s) {
    return give(s, [g] {
        for (const auto& step : g->steps) step();
    });
}
API cuEventCreate(Event** e, unsigned) { return *e = new Event, kSuccess; }
API cuEventDestroy_v2(Event* e) { return longbow::streams::run_all(), delete e, kSuccess; }
API cuEventRecord(Event* e, Stream* s) { return longbow::streams::record(*s, *e), state(); }
API cuEventSynchronize(Event* e) { return longbow::streams::run_to(*e), state(); }
API cuEventElapsedTime_v2(float* ms, Event* a, Event* b) {
    return *ms = std::chrono::duration<float, std::milli>(b->at - a->at).count(), kSuccess;
}
API cuEventElapsedTime(float* ms, Event* a, Event* b) { return cuEventElapsedTime_v2(ms, a, b); }
API cuGetErrorName(int code, const char** text) { return *text = code == kIllegalAddress ? "illegal address" : "error", kSuccess; }
API cuGetErrorString(int code, const char** text) { return cuGetErrorName(code, text); }
