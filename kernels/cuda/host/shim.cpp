// The schedulers behind shim.hpp.
#include "shim.hpp"

#ifdef LONGBOW_THREADS
#include <mutex>
#include <thread>
#endif

namespace longbow::shim {

namespace {

void make_block(Block& block, int threads, size_t shared, int grid) {
    block.threads = threads;
    block.grid = grid;
    block.all.size = threads;
    block.shared_bytes = shared;
    block.shared = static_cast<unsigned char*>(std::aligned_alloc(1024, (shared + 1023) / 1024 * 1024 + 1024));
    block.proxied = static_cast<unsigned char*>(std::aligned_alloc(1024, (shared + 1023) / 1024 * 1024 + 1024));
    for (int i = 0; i < threads / 32; ++i) {
        block.warps.push_back(std::make_unique<Warp>());
        block.warps.back()->barrier.size = 32;
    }
}

// A block as it begins.
void begin(Block& block, int x, int y) {
    block.index = x;
    block.index_y = y;
    std::memset(block.shared, 0xff, block.shared_bytes);
    std::memset(block.proxied, 0xff, block.shared_bytes);
}

void check_done(const Thread& thread) {
    if (!thread.open_copies.empty() || !thread.open_products.empty() || !thread.products.empty()) {
        std::fprintf(stderr, "a thread ended with copies or products that it never committed, or products that it never waited for\n");
        std::abort();
    }
}

// What a block leaves behind when all its threads have ended.
void end(Block& block) {
    if (!block.tensor_copies.empty()) {
        std::fprintf(stderr, "a block ended with tensor copies that nobody waited for\n");
        std::abort();
    }
    for (const auto& [bar, watch] : block.barriers) {
        PhaseBarrier b;
        std::memcpy(&b, bar, 8);
        if (b.pending != b.count || b.bytes != 0) {
            std::fprintf(stderr, "a block ended in the middle of a barrier's phase: what it counts is not what arrives\n");
            std::abort();
        }
    }
    block.barriers.clear();
}

void free_block(Block& block) {
    std::free(block.shared);
    std::free(block.proxied);
}

}  // namespace

#ifdef LONGBOW_THREADS

namespace {
thread_local Thread* current = nullptr;
std::mutex copy_engine;
}  // namespace

Thread& self() { return *current; }
void yield() { std::this_thread::yield(); }
void lock() { copy_engine.lock(); }
void unlock() { copy_engine.unlock(); }

void wait(Barrier& barrier) {
    const uint32_t generation = barrier.generation.load();
    if (barrier.arrived.fetch_add(1) + 1 == barrier.size) {
        barrier.arrived.store(0);
        barrier.generation.fetch_add(1);
        barrier.generation.notify_all();
        return;
    }
    barrier.generation.wait(generation);
}

void launch(int grid, int grid_y, int threads, size_t shared, uint32_t seed, const std::function<void()>& body) {
    Block block;
    make_block(block, threads, shared, grid);
    block.drawn = seed;
    for (int y = 0; y < grid_y; ++y) {
        for (int x = 0; x < grid; ++x) {
            begin(block, x, y);
            std::vector<std::thread> running;
            for (int i = 0; i < threads; ++i) {
                running.emplace_back([&block, &body, i] {
                    Thread me;
                    me.index = i;
                    me.block = &block;
                    current = &me;
                    body();
                    check_done(me);
                });
            }
            for (auto& thread : running) thread.join();
            end(block);
        }
    }
    free_block(block);
}

#else

// Saves the callee's registers on the stack, exchanges stacks, and returns on the other.
extern "C" void longbow_shim_switch(void** save, void* load);
asm(R"(
.text
.globl longbow_shim_switch
longbow_shim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

namespace {

constexpr size_t kStack = 256 << 10;

struct Fibre {
    Thread thread;
    void* stack_pointer = nullptr;
    bool done = false;
    Barrier* waits_for = nullptr;
    uint32_t generation = 0;
};

Fibre* current = nullptr;
void* scheduler = nullptr;
const std::function<void()>* job = nullptr;

void enter() {
    (*job)();
    check_done(current->thread);
    current->done = true;
    longbow_shim_switch(&current->stack_pointer, scheduler);
    std::abort();
}

void prepare(Fibre& fibre, unsigned char* stack) {
    auto top = reinterpret_cast<uintptr_t>(stack + kStack) & ~uintptr_t{15};
    auto* words = reinterpret_cast<void**>(top) - 2;
    words[0] = reinterpret_cast<void*>(&enter);  // what `ret` goes to; the stack is then 8 off 16, as after a call
    words[1] = nullptr;
    fibre.stack_pointer = words - 6;
    std::memset(fibre.stack_pointer, 0, 6 * sizeof(void*));
}

void run_block(std::vector<Fibre>& fibres, uint32_t& random) {
    const int count = static_cast<int>(fibres.size());
    int left = count;
    while (left > 0) {
        random = random * 1664525u + 1013904223u;
        const int start = static_cast<int>(random >> 8) % count, step = random >> 30 & 1 ? 1 : count - 1;
        int at = start;
        for (int i = 0; i < count; ++i, at = (at + step) % count) {
            Fibre& fibre = fibres[at];
            if (fibre.done || (fibre.waits_for && fibre.waits_for->generation.load() == fibre.generation)) continue;
            fibre.waits_for = nullptr;
            current = &fibre;
            longbow_shim_switch(&scheduler, fibre.stack_pointer);
            if (fibre.done) --left;
        }
    }
}

}  // namespace

Thread& self() { return current->thread; }
void yield() { longbow_shim_switch(&current->stack_pointer, scheduler); }
void lock() {}
void unlock() {}

void wait(Barrier& barrier) {
    const uint32_t generation = barrier.generation.load();
    if (barrier.arrived.fetch_add(1) + 1 == barrier.size) {
        barrier.arrived.store(0);
        barrier.generation.fetch_add(1);
        return;
    }
    current->waits_for = &barrier;
    current->generation = generation;
    yield();
}

void launch(int grid, int grid_y, int threads, size_t shared, uint32_t seed, const std::function<void()>& body) {
    Block block;
    make_block(block, threads, shared, grid);
    block.drawn = seed;
    static std::vector<std::unique_ptr<unsigned char[]>> stacks;
    while (static_cast<int>(stacks.size()) < threads) stacks.emplace_back(new unsigned char[kStack]);
    job = &body;
    uint32_t random = seed * 2654435761u + 1;
    for (int y = 0; y < grid_y; ++y) {
        for (int x = 0; x < grid; ++x) {
            begin(block, x, y);
            std::vector<Fibre> fibres(threads);
            for (int i = 0; i < threads; ++i) {
                fibres[i].thread.index = i;
                fibres[i].thread.block = &block;
                prepare(fibres[i], stacks[i].get());
            }
            run_block(fibres, random);
            end(block);
        }
    }
    free_block(block);
}

#endif

}  // namespace longbow::shim
