#pragma once

#include <cstddef>
#include <vector>

#include "backend/cuda/kernels.h"
#include "backend/section_clock.h"

struct CUevent_st;

namespace qshard::cuda {

/// By the device's clock: events on the stream where sections change. A section's time is that
/// between two of them, so it holds what the stream waited in it for uploads and for the host. What
/// lies between two sections counts to the second, which saves every other event: they take time
/// themselves, and the layers of a small model are done in some ten times that.
class StreamClock final : public SectionClock {
  public:
    StreamClock(Stream stream, int sections);
    ~StreamClock() override;
    StreamClock(const StreamClock&) = delete;
    StreamClock& operator=(const StreamClock&) = delete;

    void enter(int section) override;
    std::vector<double> take() override;

  private:
    struct Mark {
        CUevent_st* event = nullptr;
        int section = kNone;  ///< that begins here
    };
    /// Counts what lies between the marks; the last one stays, as the first.
    void count();

    const Stream stream_;
    std::vector<Mark> marks_;
    std::size_t used_ = 0;
    std::vector<double> seconds_;
};

}  // namespace qshard::cuda
