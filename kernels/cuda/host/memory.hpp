// Memory of the stand-in driver: what was given out, so that no copy reaches past it; and memory that was given back while
// streams still had work, which such work then finds poisoned, as on a device where it may belong to somebody else by then.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

#include "streams.hpp"

namespace longbow::memory {

constexpr size_t kTotal = size_t{2} << 30;

struct Piece {
    size_t bytes;
    bool on_device;
};

inline std::map<uintptr_t, Piece> pieces;
inline std::vector<void*> given_back;
inline size_t held = 0;

inline void* take(size_t bytes, bool on_device) {
    if (held + bytes > kTotal) return nullptr;
    void* p = std::aligned_alloc(1024, (bytes + 1023) / 1024 * 1024);
    // Memory is never clean on a device.
    std::memset(p, 0xff, bytes);
    pieces[reinterpret_cast<uintptr_t>(p)] = {bytes, on_device};
    held += bytes;
    return p;
}

// False where it was not given out, or as the other kind.
inline bool give_back(void* p, bool on_device) {
    const auto found = pieces.find(reinterpret_cast<uintptr_t>(p));
    if (found == pieces.end() || found->second.on_device != on_device) return false;
    // Nothing waits here: whoever gives memory back has waited for the work that uses it.
    std::memset(p, 0xff, found->second.bytes);
    held -= found->second.bytes;
    pieces.erase(found);
    given_back.push_back(p);
    if (streams::idle()) {
        for (void* q : given_back) std::free(q);
        given_back.clear();
    }
    return true;
}

// The piece that holds all of `bytes` bytes at `p`.
inline const Piece* around(const void* p, size_t bytes) {
    const auto at = reinterpret_cast<uintptr_t>(p);
    auto found = pieces.upper_bound(at);
    if (found == pieces.begin()) return nullptr;
    --found;
    return at - found->first + bytes <= found->second.bytes ? &found->second : nullptr;
}

inline bool on_device(const void* p, size_t bytes) {
    const Piece* piece = around(p, bytes);
    return piece && piece->on_device;
}
inline bool page_locked(const void* p, size_t bytes) {
    const Piece* piece = around(p, bytes);
    return piece && !piece->on_device;
}

}  // namespace longbow::memory
