// Streams of the stand-in driver, as free as a driver's: what a stream was given runs in order, when somebody waits for it
// and no sooner, and another stream only as far as an event demands. So a copy that nothing waits for has not taken place,
// and a kernel that reads too early reads what was there before. With LONGBOW_STAND_IN_SEED=n streams run on by drawn
// numbers of steps at every call, so that some are early, too: a copy that overwrites what is still read then shows.
#pragma once
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <vector>

namespace longbow::streams {

struct Stream;

struct Event {
    uint64_t asked = 0;  // times recorded
    uint64_t done = 0;   // the latest of these that has been reached
    Stream* on = nullptr;
    bool timed = true;
    std::chrono::steady_clock::time_point at;
};

// Steps hold their events: one may be given back while a stream still has to reach it.
struct Step {
    std::function<void()> run;
    std::shared_ptr<const Event> waits;
    uint64_t until = 0;
};

struct Stream {
    std::deque<Step> steps;
    bool running = false;
};

// One thing at a time: the fibres of a launch share their state.
inline std::recursive_mutex one;
using Lock = std::lock_guard<std::recursive_mutex>;
inline std::vector<Stream*> all;

// Runs the first step of a stream, after what it waits for.
inline void step(Stream& s) {
    if (s.running) {
        std::fputs("the stand-in driver: streams wait for each other\n", stderr);
        std::abort();
    }
    s.running = true;
    const Step first = std::move(s.steps.front());
    s.steps.pop_front();
    while (first.waits && first.waits->done < first.until) step(*first.waits->on);
    if (first.run) first.run();
    s.running = false;
}

inline bool ready(const Stream& s) {
    return !s.running && !s.steps.empty() && (!s.steps.front().waits || s.steps.front().waits->done >= s.steps.front().until);
}

// Some streams run on a little, where that is asked for.
inline void drift() {
    static const char* seed = std::getenv("LONGBOW_STAND_IN_SEED");
    if (!seed) return;
    static std::mt19937 draw(static_cast<uint32_t>(std::atoi(seed)));
    Stream& s = *all[draw() % all.size()];
    for (auto left = draw() % 8; left > 0 && ready(s); --left) step(s);
}

inline Stream* make() {
    const Lock lock(one);
    all.push_back(new Stream);
    return all.back();
}

inline void run(Stream& s) {
    const Lock lock(one);
    while (!s.steps.empty()) step(s);
}

inline bool idle() {
    const Lock lock(one);
    return std::all_of(all.begin(), all.end(), [](const Stream* s) { return s->steps.empty() && !s->running; });
}

inline void drop(Stream* s) {
    const Lock lock(one);
    run(*s);
    std::erase(all, s);
    delete s;
}

inline void give(Stream& s, std::function<void()> run) {
    const Lock lock(one);
    s.steps.push_back({std::move(run), nullptr});
    drift();
}

inline void record(Stream& s, const std::shared_ptr<Event>& e) {
    const Lock lock(one);
    e->on = &s;
    const uint64_t ticket = ++e->asked;
    s.steps.push_back({[e, ticket] {
                           e->done = ticket;
                           e->at = std::chrono::steady_clock::now();
                       },
                       nullptr});
    drift();
}

// What the stream is given from here on waits for the event as it was recorded last; one that was not is no wait.
inline void wait_for(Stream& s, const std::shared_ptr<Event>& e) {
    const Lock lock(one);
    s.steps.push_back({nullptr, e, e->asked});
}

inline void run_to(const Event& e) {
    const Lock lock(one);
    for (const uint64_t until = e.asked; e.done < until;) step(*e.on);
}

}  // namespace longbow::streams
