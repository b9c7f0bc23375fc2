#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace qshard::cpu {

/// A fixed number of threads that run the tasks of one loop at a time. The caller is one of them;
/// the others spin for some microseconds after a loop, then block. A loop ends when its tasks are
/// done: the caller never waits for a thread that had not joined it yet, so that a busy machine
/// costs no more than the threads it withholds.
class ThreadPool {
  public:
    /// SystemError(kUnavailable) if the system does not give that many.
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int threads() const { return static_cast<int>(others_.size()) + 1; }

    /// Runs body(task, thread) for every task in [0, tasks), each once, tasks handed out in order;
    /// returns when all are done. body must not throw.
    template <class F>
    void run(std::int64_t tasks, const F& body) {
        if (tasks <= 1 || others_.empty()) {
            for (std::int64_t task = 0; task < tasks; ++task) body(task, 0);
            return;
        }
        run_shared(tasks, &body, [](const void* f, std::int64_t task, int thread) {
            (*static_cast<const F*>(f))(task, thread);
        });
    }

  private:
    using Call = void (*)(const void*, std::int64_t, int);

    void run_shared(std::int64_t tasks, const void* body, Call call);
    void take_tasks(int thread);
    void serve(int thread);
    void end_threads();

    const void* body_ = nullptr;
    Call call_ = nullptr;
    std::int64_t tasks_ = 0;
    std::atomic<bool> stop_{false};
    alignas(64) std::atomic<std::int64_t> next_{0};
    alignas(64) std::atomic<std::uint32_t> loops_{0};  ///< a change wakes the others
    /// Threads in the loop (bits 0..15), whether it may be joined (bit 16), its number (above).
    alignas(64) std::atomic<std::uint64_t> state_{0};
    std::vector<std::jthread> others_;  ///< last: joined before the rest is gone
};

}  // namespace qshard::cpu
