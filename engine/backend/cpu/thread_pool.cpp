#include "backend/cpu/thread_pool.h"

namespace qshard::cpu {
namespace {

constexpr int kSpins = 4000;  // about 40 us at 35 cycles a pause

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/// Waits until `value` is no longer `old`.
void wait_for_change(const std::atomic<std::uint32_t>& value, std::uint32_t old) {
    for (int i = 0; i < kSpins; ++i) {
        if (value.load(std::memory_order_acquire) != old) return;
        pause();
    }
    value.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
    for (int i = 1; i < threads; ++i) {
        others_.emplace_back([this, i] { serve(i); });
    }
}

ThreadPool::~ThreadPool() {
    stop_ = true;
    loop_.fetch_add(1, std::memory_order_release);
    loop_.notify_all();
}

void ThreadPool::run_shared(std::int64_t tasks, const void* body, Call call) {
    body_ = body;
    call_ = call;
    tasks_ = tasks;
    next_.store(0, std::memory_order_relaxed);
    busy_.store(static_cast<std::uint32_t>(others_.size()), std::memory_order_relaxed);
    loop_.fetch_add(1, std::memory_order_release);
    loop_.notify_all();
    take_tasks(0);
    for (std::uint32_t left; (left = busy_.load(std::memory_order_acquire)) != 0;) {
        wait_for_change(busy_, left);
    }
}

void ThreadPool::take_tasks(int thread) {
    for (std::int64_t task; (task = next_.fetch_add(1, std::memory_order_relaxed)) < tasks_;) {
        call_(body_, task, thread);
    }
}

void ThreadPool::serve(int thread) {
    for (std::uint32_t seen = 0;;) {
        wait_for_change(loop_, seen);
        seen = loop_.load(std::memory_order_acquire);
        if (stop_) return;
        take_tasks(thread);
        if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
    }
}

}  // namespace qshard::cpu
