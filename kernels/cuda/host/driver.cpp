// A stand-in for libcuda.so.1 that runs the kernels of this folder on the host, so that the whole GPU path (launches,
// pages, copies, graphs) is tested where there is no GPU: the same program, another driver. A device pointer is a host
// pointer. Streams are as free as a driver's (`streams.hpp`), and it refuses what a driver refuses: calls in a thread without
// the context, calls that a capture does not take, copies past the end of memory, more shared memory than was asked for.
//   LONGBOW_STAND_IN_CAPABILITY   90 (the default), 80, 120, ..: what the device is, and so the kernels' form
//   LONGBOW_STAND_IN_DRIVER       13000: what the driver is for
//   LONGBOW_STAND_IN_DEVICES      1, or 0: no device is visible
//   LONGBOW_STAND_IN_FAIL=n       the n-th launch fails as an illegal address would, and everything after it; so does
//   LONGBOW_STAND_IN_FAIL_FILE    once there is a file of that name
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <unistd.h>

#include "../hopper.cuh"
#include "entries_attention.hpp"
#include "entries_layers.hpp"
#include "memory.hpp"
#include "streams.hpp"

using longbow::TensorMap;

namespace {

using Result = int;
constexpr Result kSuccess = 0, kInvalidValue = 1, kOutOfMemory = 2, kNotInitialized = 3, kNoDevice = 100, kInvalidImage = 200,
                 kInvalidContext = 201, kNoBinary = 209, kInvalidHandle = 400, kNotFound = 500, kNotReady = 600,
                 kIllegalAddress = 700, kOutOfResources = 701, kCaptureUnsupported = 900, kCaptureInvalidated = 901;

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

using longbow::streams::Event;
using longbow::streams::Lock;
using longbow::streams::one;
using longbow::streams::Stream;
namespace memory = longbow::memory;

std::atomic<bool> initialised{false};
int the_context = 0;
thread_local bool current = false;  // whether this thread has the context
// A capture is of the thread that began it, and of one stream.
thread_local Graph* capturing = nullptr;
thread_local const Stream* captured = nullptr;
thread_local bool spoilt = false;
int launches = 0;
std::atomic<bool> poisoned{false};
std::map<Event*, std::shared_ptr<Event>> events;
std::map<Graph*, std::shared_ptr<Graph>> graphs;
std::map<const Named*, int> most_shared;

int setting(const char* name, int otherwise) {
    const char* text = std::getenv(name);
    return text ? std::atoi(text) : otherwise;
}
int capability() { return setting("LONGBOW_STAND_IN_CAPABILITY", 90); }

// Shared memory that a block may ask for: of the table in the programming guide, "compute capabilities".
int shared_max() {
    switch (capability()) {
        case 75: return 64 << 10;
        case 80: case 87: return 163 << 10;
        case 86: case 89: case 120: case 121: return 99 << 10;
        default: return 227 << 10;
    }
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

// Of every call that needs the context.
Result here() { return !initialised ? kNotInitialized : current ? kSuccess : kInvalidContext; }

// Of calls that a capture in this thread does not take: they spoil it.
Result outside_capture() {
    if (!capturing) return here();
    spoilt = true;
    return kCaptureUnsupported;
}

Result allocate(void** to, size_t bytes, bool on_device) {
    const Lock lock(one);
    if (const Result wrong = outside_capture()) return wrong;
    if (poisoned) return kIllegalAddress;
    if (bytes == 0) return kInvalidValue;
    *to = memory::take(bytes, on_device);
    return *to ? kSuccess : kOutOfMemory;
}

Result release(void* p, bool on_device) {
    const Lock lock(one);
    if (const Result wrong = outside_capture()) return wrong;
    return memory::give_back(p, on_device) ? state() : kInvalidValue;
}

// Written down, or given to the stream; nothing runs once the device is poisoned.
Result give(Stream* stream, std::function<void()> step) {
    const Lock lock(one);
    if (const Result wrong = here()) return wrong;
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

// A fat binary: a header, then entries of machine code (kind 2) or PTX (kind 1) with the number of their architecture. Whether
// one of them runs on a device: code of the same major number and no later minor one, code of 9.0a on 9.0 alone (every
// kernel file here has that), PTX of no later one.
Result code_in(const unsigned char* image) {
    auto number = [&](size_t at, size_t bytes) {
        uint64_t n = 0;
        std::memcpy(&n, image + at, bytes);
        return n;
    };
    if (reinterpret_cast<uintptr_t>(image) % 8 || number(0, 4) != 0xba55ed50) return kInvalidImage;
    const size_t end = number(6, 2) + number(8, 8);
    const auto wanted = static_cast<unsigned>(capability());
    for (size_t at = number(6, 2); at < end; at += number(at + 4, 4) + number(at + 8, 8)) {
        const auto kind = number(at, 2);
        const auto made_for = static_cast<unsigned>(number(at + 28, 4));
        if (kind == 1 && made_for <= wanted) return kSuccess;
        if (kind == 2 && (made_for == wanted || (made_for / 10 == wanted / 10 && made_for < wanted && made_for != 90))) return kSuccess;
    }
    return kNoBinary;
}

// Bytes of each argument, by the kernel's name: a graph copies them.
std::vector<size_t> argument_sizes(const std::string& name) {
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

// Threads that a kernel's launch bounds allow.
unsigned threads_max(const std::string& name) {
    return name.find("_sm90_") != std::string::npos ? 384 : name.find("longbow_top") == 0 ? 512 : 256;
}

std::shared_ptr<Event> event(Event* e) {
    const auto found = events.find(e);
    return found == events.end() ? nullptr : found->second;
}

}  // namespace

#define API extern "C" __attribute__((visibility("default"))) Result

API cuInit(unsigned) {
    if (setting("LONGBOW_STAND_IN_DEVICES", 1) == 0) return kNoDevice;
    initialised = true;
    return kSuccess;
}
API cuDriverGetVersion(int* v) { return *v = setting("LONGBOW_STAND_IN_DRIVER", 13000), kSuccess; }
API cuDeviceGetCount(int* n) { return *n = 1, initialised ? kSuccess : kNotInitialized; }
API cuDeviceGet(int* d, int ordinal) { return *d = ordinal, ordinal == 0 ? kSuccess : kInvalidValue; }
API cuDeviceGetName(char* to, int len, int) { return std::snprintf(to, static_cast<size_t>(len), "stand-in on the host"), kSuccess; }
API cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = memory::kTotal, kSuccess; }
API cuDeviceGetAttribute(int* to, int what, int) {
    switch (what) {
        case 75: *to = capability() / 10; break;
        case 76: *to = capability() % 10; break;
        case 16: *to = 3; break;  // multiprocessors
        case 97: *to = shared_max(); break;
        default: *to = 0;
    }
    return kSuccess;
}
API cuDevicePrimaryCtxRetain(void** c, int) { return *c = &the_context, initialised ? kSuccess : kNotInitialized; }
API cuDevicePrimaryCtxRelease_v2(int) { return kSuccess; }
API cuCtxSetCurrent(void* c) { return current = c == &the_context, kSuccess; }
API cuStreamCreate(Stream** s, unsigned) {
    if (const Result wrong = here()) return wrong;
    return *s = longbow::streams::make(), kSuccess;
}
API cuStreamDestroy_v2(Stream* s) { return longbow::streams::drop(s), kSuccess; }
API cuStreamSynchronize(Stream* s) {
    if (const Result wrong = s == captured ? outside_capture() : here()) return wrong;
    return longbow::streams::run(*s), state();
}
API cuStreamWaitEvent(Stream* s, Event* e, unsigned) {
    const Lock lock(one);
    if (s == captured) return outside_capture();
    const auto held = event(e);
    return held ? longbow::streams::wait_for(*s, held), state() : kInvalidHandle;
}
API cuMemGetInfo_v2(size_t* free, size_t* total) {
    return *free = memory::kTotal - memory::held, *total = memory::kTotal, here();
}
API cuMemAlloc_v2(uint64_t* p, size_t bytes) { return allocate(reinterpret_cast<void**>(p), bytes, true); }
API cuMemFree_v2(uint64_t p) { return release(pointer(p), true); }
API cuMemHostAlloc(void** p, size_t bytes, unsigned) { return allocate(p, bytes, false); }
API cuMemFreeHost(void* p) { return release(p, false); }
API cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, Stream* s) {
    const Lock lock(one);
    if (bytes == 0 || !memory::on_device(pointer(to), bytes)) return kInvalidValue;
    if (memory::page_locked(from, bytes)) return move(pointer(to), from, bytes, s);
    // Memory that is not page-locked is read at once, through the driver's own; a capture does not take it.
    if (s == captured) return outside_capture();
    const auto* first = static_cast<const unsigned char*>(from);
    return give(s, [=, kept = std::vector<unsigned char>(first, first + bytes)] { std::memcpy(pointer(to), kept.data(), bytes); });
}
API cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, Stream* s) {
    const Lock lock(one);
    if (bytes == 0 || !memory::on_device(pointer(from), bytes) || !memory::page_locked(to, bytes)) return kInvalidValue;
    return move(to, pointer(from), bytes, s);
}
API cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, Stream* s) {
    const Lock lock(one);
    if (bytes == 0 || !memory::on_device(pointer(to), bytes) || !memory::on_device(pointer(from), bytes)) return kInvalidValue;
    return move(pointer(to), pointer(from), bytes, s);
}
API cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, Stream* s) {
    const Lock lock(one);
    if (bytes == 0 || !memory::on_device(pointer(to), bytes)) return kInvalidValue;
    return give(s, [=] { std::memset(pointer(to), value, bytes); });
}
API cuModuleLoadData(void** m, const void* image) {
    if (const Result wrong = outside_capture()) return wrong;
    return *m = &the_context, code_in(static_cast<const unsigned char*>(image));
}
API cuModuleUnload(void*) { return here(); }
API cuModuleGetFunction(const void** f, void*, const char* name) {
    // Code of 9.0a alone has these.
    if (capability() != 90 && std::strstr(name, "_sm90_")) return kNotFound;
    for (const Named& named : kernels) {
        if (std::strcmp(named.name, name) == 0) return *f = &named, here();
    }
    return kNotFound;
}
API cuFuncSetAttribute(const Named* f, int what, int value) {
    const Lock lock(one);
    if (what != 8 || value > shared_max()) return kInvalidValue;
    return most_shared[f] = value, here();
}
API cuLaunchKernel(const Named* f, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y, unsigned threads_z,
                   unsigned shared, Stream* stream, void** args, void**) {
    const Lock lock(one);
    if (x == 0 || y == 0 || y > 65535 || z != 1 || threads == 0 || threads_y != 1 || threads_z != 1) return kInvalidValue;
    if (threads > threads_max(f->name)) return kOutOfResources;
    if (shared > static_cast<unsigned>(std::max(48 << 10, most_shared[f]))) return kInvalidValue;
    std::vector<std::vector<unsigned char>> kept;
    for (const size_t bytes : argument_sizes(f->name)) {
        const auto* from = static_cast<unsigned char*>(args[kept.size()]);
        kept.emplace_back(from, from + bytes);
    }
    return give(stream, [=] {
        std::vector<void*> list;
        for (const auto& bytes : kept) {
            auto* copy = static_cast<unsigned char*>(std::aligned_alloc(128, (bytes.size() + 127) / 128 * 128));
            std::memcpy(copy, bytes.data(), bytes.size());
            list.push_back(copy);
        }
        launch(*f, x, y, threads, shared, list.data());
        for (void* copy : list) std::free(copy);
    });
}
// The rules of the driver's reference, for what is asked for here: a matrix of bf16, swizzled.
API cuTensorMapEncodeTiled(TensorMap* to, int type, unsigned rank, void* base, const uint64_t* dims, const uint64_t* strides,
                           const uint32_t* box, const uint32_t* steps, int interleave, int swizzle, int, int fill) {
    const Lock lock(one);
    if (type != 9 || rank != 2 || interleave != 0 || fill != 0 || (swizzle != 2 && swizzle != 3)) return kInvalidValue;
    if (reinterpret_cast<uintptr_t>(to) % 64 || reinterpret_cast<uintptr_t>(base) % 16) return kInvalidValue;
    if (strides[0] % 16 || strides[0] >= uint64_t{1} << 40 || strides[0] < dims[0] * 2) return kInvalidValue;
    for (int i = 0; i < 2; ++i) {
        if (dims[i] == 0 || dims[i] > uint64_t{1} << 32 || box[i] == 0 || box[i] > 256 || steps[i] != 1) return kInvalidValue;
    }
    if (box[0] * 2 % 16 || box[0] * 2 > (swizzle == 3 ? 128u : 64u)) return kInvalidValue;
    // A driver writes this down unseen; the copies would then read what is not the matrix.
    if (!memory::on_device(base, (dims[1] - 1) * strides[0] + dims[0] * 2)) return kInvalidValue;
    const TensorMap map{static_cast<uint16_t*>(base), static_cast<int64_t>(dims[0]), static_cast<int64_t>(dims[1]),
                        static_cast<int64_t>(strides[0] / 2), static_cast<int32_t>(box[0]), static_cast<int32_t>(box[1]),
                        swizzle == 3 ? 1 : 2, {}};
    std::memcpy(static_cast<void*>(to), &map, sizeof(map));
    return here();
}
API cuStreamBeginCapture_v2(Stream* s, int) {
    if (capturing) return kInvalidValue;
    return capturing = new Graph, captured = s, spoilt = false, here();
}
API cuStreamEndCapture(Stream* s, Graph** g) {
    const Lock lock(one);
    if (!capturing || s != captured) return kInvalidValue;
    Graph* made = capturing;
    capturing = nullptr;
    captured = nullptr;
    if (spoilt) return delete made, *g = nullptr, kCaptureInvalidated;
    graphs[made] = std::shared_ptr<Graph>(made);
    return *g = made, kSuccess;
}
API cuGraphInstantiateWithFlags(Graph** exec, Graph* g, uint64_t) {
    const Lock lock(one);
    auto made = std::make_shared<Graph>(*g);
    *exec = made.get();
    graphs[made.get()] = made;
    return here();
}
API cuGraphDestroy(Graph* g) {
    const Lock lock(one);
    return graphs.erase(g) ? kSuccess : kInvalidHandle;
}
// One that runs goes on, and is gone at its end.
API cuGraphExecDestroy(Graph* g) { return cuGraphDestroy(g); }
API cuGraphLaunch(Graph* g, Stream* s) {
    const Lock lock(one);
    const auto found = graphs.find(g);
    if (found == graphs.end()) return kInvalidHandle;
    return give(s, [graph = found->second] {
        for (const auto& step : graph->steps) step();
    });
}
API cuEventCreate(Event** e, unsigned flags) {
    const Lock lock(one);
    auto made = std::make_shared<Event>();
    made->timed = !(flags & 2);
    *e = made.get();
    events[made.get()] = made;
    return here();
}
API cuEventDestroy_v2(Event* e) {
    const Lock lock(one);
    return events.erase(e) ? kSuccess : kInvalidHandle;
}
API cuEventRecord(Event* e, Stream* s) {
    const Lock lock(one);
    if (const Result wrong = here()) return wrong;
    const auto held = event(e);
    return held ? longbow::streams::record(*s, held), state() : kInvalidHandle;
}
API cuEventSynchronize(Event* e) {
    const Lock lock(one);
    if (const Result wrong = here()) return wrong;
    const auto held = event(e);
    return held ? longbow::streams::run_to(*held), state() : kInvalidHandle;
}
API cuEventElapsedTime_v2(float* ms, Event* a, Event* b) {
    if (!a->timed || !b->timed) return kInvalidHandle;
    if (a->done < a->asked || b->done < b->asked) return kNotReady;
    return *ms = std::chrono::duration<float, std::milli>(b->at - a->at).count(), kSuccess;
}
API cuEventElapsedTime(float* ms, Event* a, Event* b) { return cuEventElapsedTime_v2(ms, a, b); }
API cuGetErrorName(int code, const char** text) { return *text = code == kIllegalAddress ? "illegal address" : "error", kSuccess; }
API cuGetErrorString(int code, const char** text) { return cuGetErrorName(code, text); }
