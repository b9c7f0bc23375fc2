#include "backend/cuda/stream_clock.h"

#include <cuda_runtime.h>

#include <utility>

#include "backend/cuda/staging.h"
#include "base/error.h"

namespace qshard::cuda {
namespace {

/// Eighty layers, forth and back, of some eight slots; the host waits for the device each time they
/// are used up.
constexpr std::size_t kMarks = 4096;

}  // namespace

StreamClock::StreamClock(Stream stream, int sections)
    : stream_(stream), marks_(kMarks), seconds_(static_cast<std::size_t>(sections), 0.0) {}

StreamClock::~StreamClock() {
    for (const Mark& mark : marks_)
        if (mark.event != nullptr) cudaEventDestroy(mark.event);
}

void StreamClock::enter(int section) {
    if (section != kNone && used_ > 0 && marks_[used_ - 1].section == kNone) {
        marks_[used_ - 1].section = section;
        return;
    }
    if (used_ == marks_.size()) count();
    Mark& mark = marks_[used_++];
    mark.section = section;
    if (mark.event == nullptr)  // most clocks are of plans that are not carried out
        require(cudaEventCreateWithFlags(&mark.event, cudaEventBlockingSync), "making an event");
    require(cudaEventRecord(mark.event, stream_), "recording an event");
}

void StreamClock::count() {
    if (used_ == 0) return;
    require(cudaEventSynchronize(marks_[used_ - 1].event), "waiting for the device");
    for (std::size_t i = 0; i + 1 < used_; ++i) {
        if (marks_[i].section == kNone) continue;
        float milliseconds = 0;
        require(cudaEventElapsedTime(&milliseconds, marks_[i].event, marks_[i + 1].event),
                "timing a section");
        seconds_[static_cast<std::size_t>(marks_[i].section)] += double{milliseconds} / 1000;
    }
    std::swap(marks_[0], marks_[used_ - 1]);
    used_ = 1;
}

std::vector<double> StreamClock::take() {
    if (used_ > 0) {
        const int open = marks_[used_ - 1].section;
        if (open != kNone) enter(open);
        count();
        if (open == kNone) used_ = 0;
    }
    return std::exchange(seconds_, std::vector<double>(seconds_.size(), 0.0));
}

}  // namespace qshard::cuda
