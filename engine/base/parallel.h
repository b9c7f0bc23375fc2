#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace qshard {

/// Runs body(i) for i in [0, count) on up to `threads` threads, the caller among them; rethrows the
/// first exception. For coarse tasks (a millisecond and more) outside the training step; kernels
/// have their own pool.
inline void parallel_for(int threads, std::int64_t count,
                         const std::function<void(std::int64_t)>& body) {
    std::atomic<std::int64_t> next{0};
    std::exception_ptr error;
    std::mutex mutex;
    auto work = [&] {
        for (std::int64_t i = next++; i < count; i = next++) {
            try {
                body(i);
            } catch (...) {
                const std::lock_guard lock(mutex);
                if (!error) error = std::current_exception();
                next = count;
            }
        }
    };
    {
        std::vector<std::jthread> others;
        try {
            for (std::int64_t t = 1; t < std::min<std::int64_t>(threads, count); ++t)
                others.emplace_back(work);
        } catch (const std::system_error&) {
            // Fewer do: the system gives no more.
        }
        work();
    }
    if (error) std::rethrow_exception(error);
}

}  // namespace qshard
