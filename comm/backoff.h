#pragma once

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <thread>

namespace qshard {

/// Waiting without burning the core that a computing thread or another rank needs: a few yields,
/// then growing sleeps.
class Backoff {
  public:
    void reset() {
        polls_ = 0;
        sleep_ = kShortest;
    }
    void pause() {
        if (++polls_ <= kYields) {
            sched_yield();
            return;
        }
        std::this_thread::sleep_for(sleep_);
        sleep_ = std::min(sleep_ + sleep_ / 4, kLongest);
    }

  private:
    static constexpr int kYields = 32;
    static constexpr std::chrono::nanoseconds kShortest{4'000};
    static constexpr std::chrono::nanoseconds kLongest{400'000};
    int polls_ = 0;
    std::chrono::nanoseconds sleep_ = kShortest;
};

}  // namespace qshard
