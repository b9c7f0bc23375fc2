#include "backend/cpu/thread_pool.h"

#include <algorithm>

#include "base/threads.h"

namespace qshard::cpu {
namespace {

constexpr int kSpins = 4000;  // about 40 us at 35 cycles a pause

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

constexpr std::uint64_t kMembers = 0xffff, kOpen = 0x10000, kLoop = 0x20000;

}  // namespace

ThreadPool::ThreadPool(int threads) {
    others_.reserve(static_cast<std::size_t>(std::max(0, threads - 1)));
    try {
        for (int i = 1; i < threads; ++i) {
            others_.push_back(start_thread<std::jthread>(
                fmt::format("({} of {} for computing)", i + 1, threads), [this, i] { serve(i); }));
        }
    } catch (...) {
        end_threads();  // or joining those that were started would wait for ever
        throw;
    }
}

ThreadPool::~ThreadPool() {
    end_threads();
}

void ThreadPool::end_threads() {
    stop_ = true;
    loops_.fetch_add(1, std::memory_order_release);
    loops_.notify_all();
}

void ThreadPool::run_shared(std::int64_t tasks, const void* body, Call call) {
    body_ = body;
    call_ = call;
    tasks_ = tasks;
    next_.store(0, std::memory_order_relaxed);
    state_.store((state_.load(std::memory_order_relaxed) | kOpen) + kLoop,
                 std::memory_order_release);
    loops_.fetch_add(1, std::memory_order_release);
    loops_.notify_all();
    take_tasks(0);
    std::uint64_t state = state_.fetch_and(~kOpen, std::memory_order_acquire) & ~kOpen;
    for (int spins = 0; (state & kMembers) != 0; ++spins) {
        if (spins < kSpins) {
            pause();
        } else {
            state_.wait(state, std::memory_order_acquire);
        }
        state = state_.load(std::memory_order_acquire);
    }
}

void ThreadPool::take_tasks(int thread) {
    for (std::int64_t task; (task = next_.fetch_add(1, std::memory_order_relaxed)) < tasks_;) {
        call_(body_, task, thread);
    }
}

void ThreadPool::serve(int thread) {
    for (std::uint32_t seen = 0;;) {
        for (int spins = 0; loops_.load(std::memory_order_acquire) == seen; ++spins) {
            if (spins < kSpins) {
                pause();
            } else {
                loops_.wait(seen, std::memory_order_acquire);
            }
        }
        seen = loops_.load(std::memory_order_acquire);
        if (stop_) return;
        std::uint64_t state = state_.load(std::memory_order_acquire);
        while ((state & kOpen) != 0) {
            if (!state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire))
                continue;
            take_tasks(thread);
            state_.fetch_sub(1, std::memory_order_release);
            state_.notify_one();
            break;
        }
    }
}

}  // namespace qshard::cpu
