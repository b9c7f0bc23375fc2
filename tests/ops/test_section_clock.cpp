#include <chrono>
#include <numeric>

#include "ops.h"

namespace qshard::ops {
namespace {

class SectionClocks : public Ops {};
QSHARD_OPS_SUITE(SectionClocks);

/// Counts sections of work on a backend, and all the time that passed meanwhile.
class Clocked {
  public:
    explicit Clocked(Backend& backend, int sections)
        : backend_(backend), memory_(backend), clock_(backend.make_section_clock(sections)) {}

    void work() { sum_ += backend_.sum_of_squares(x_); }
    void work_in(int section) {
        const InSection in(*clock_, section);
        work();
    }
    SectionClock& clock() { return *clock_; }
    /// All that was counted so far is in the time since the last call.
    std::vector<double> take() {
        std::vector<double> seconds = clock_->take();
        const auto now = std::chrono::steady_clock::now();
        const double passed = std::chrono::duration<double>(now - begin_).count();
        // A device's clock may run a little faster than the host's.
        EXPECT_LE(std::accumulate(seconds.begin(), seconds.end(), 0.0), 1.01 * passed + 1e-5);
        begin_ = now;
        return seconds;
    }

  private:
    Backend& backend_;
    Memory memory_;
    const Tensor x_ = memory_.put(random(1, {20000}));
    std::unique_ptr<SectionClock> clock_;
    double sum_ = 0;
    std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

TEST_P(SectionClocks, SectionsGetTheirOwnTime) {
    const auto backend = make(1);
    Clocked clocked(*backend, 3);
    EXPECT_EQ(clocked.take(), std::vector<double>(3, 0.0)) << "nothing was entered";
    clocked.work_in(0);
    clocked.work();
    clocked.work_in(2);
    const std::vector<double> seconds = clocked.take();
    EXPECT_GT(seconds.at(0), 0);
    EXPECT_EQ(seconds.at(1), 0);
    EXPECT_GT(seconds.at(2), 0);
    EXPECT_EQ(clocked.take(), std::vector<double>(3, 0.0)) << "taken before";
}

TEST_P(SectionClocks, ATakenSectionGoesOn) {
    const auto backend = make(1);
    Clocked clocked(*backend, 2);
    clocked.clock().enter(1);
    for (int i = 0; i < 2; ++i) {
        clocked.work();
        const std::vector<double> seconds = clocked.take();
        EXPECT_EQ(seconds.at(0), 0);
        EXPECT_GT(seconds.at(1), 0);
    }
}

TEST_P(SectionClocks, MoreSectionsThanADeviceHasEventsFor) {
    const auto backend = make(1);
    Clocked one(*backend, 1), many(*backend, 1);
    one.work_in(0);
    const double alone = one.take().at(0);
    constexpr int kTimes = 5000;
    for (int i = 0; i < kTimes; ++i) many.work_in(0);
    // A first call may be slower than all others, but none is counted as nothing.
    EXPECT_GT(many.take().at(0), std::min(alone, 1e-6) * kTimes / 10);
}

TEST_P(SectionClocks, TakenMemoryIsTheDevices) {
    const auto backend = make(1);
    Memory memory(*backend);
    const std::size_t before = backend->taken_bytes();
    constexpr std::size_t kBytes = std::size_t{64} << 20;
    memory.raw(kBytes);
    if (backend->host_accessible()) {
        EXPECT_EQ(backend->taken_bytes(), 0u);
    } else {
        EXPECT_GE(before, backend->workspace_bytes());
        EXPECT_GE(backend->taken_bytes(), before + kBytes);
    }
}

}  // namespace
}  // namespace qshard::ops
