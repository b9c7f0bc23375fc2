#include "backend/cuda/uploads.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <utility>

#include "backend/cuda/staging.h"
#include "base/error.h"

namespace qshard::cuda {

Uploads::Uploads(Stream stream) : stream_(stream), times_(kRemembered) {
    require(cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking), "making a stream");
    require(cudaEventCreateWithFlags(&issued_, cudaEventDisableTiming), "making an event");
    for (Times& times : times_) {
        require(cudaEventCreateWithFlags(&times.wanted, cudaEventBlockingSync), "making an event");
        require(cudaEventCreateWithFlags(&times.done, cudaEventBlockingSync), "making an event");
    }
}

Uploads::~Uploads() {
    cudaStreamSynchronize(copies_);
    for (const Times& times : times_) {
        cudaEventDestroy(times.wanted);
        cudaEventDestroy(times.done);
    }
    cudaEventDestroy(issued_);
    cudaStreamDestroy(copies_);
}

void Uploads::start(void* device, const void* host, std::size_t bytes) {
    check(started_ - finished_ < 2, "at most two uploads are on their way");
    Times& times = times_[started_++ % kRemembered];
    count(times);
    require(cudaEventRecord(issued_, stream_), "recording an event");
    require(cudaStreamWaitEvent(copies_, issued_, 0), "waiting for an event");
    require(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, copies_),
            "copying to the device");
    require(cudaEventRecord(times.done, copies_), "recording an event");
}

void Uploads::finish() {
    check(finished_ < started_, "an upload that is finished was started");
    Times& times = times_[finished_++ % kRemembered];
    require(cudaEventRecord(times.wanted, stream_), "recording an event");
    require(cudaStreamWaitEvent(stream_, times.done, 0), "waiting for an event");
    times.counted = false;
}

/// The stream waited from where it wanted the copy until that was done, if it was not done before.
void Uploads::count(Times& times) {
    if (times.counted) return;
    require(cudaEventSynchronize(times.wanted), "waiting for the device");
    require(cudaEventSynchronize(times.done), "waiting for a copy");
    float milliseconds = 0;
    require(cudaEventElapsedTime(&milliseconds, times.wanted, times.done), "timing a copy");
    wait_seconds_ += std::max(0.0, double{milliseconds} / 1000);
    times.counted = true;
}

double Uploads::take_wait() {
    for (Times& times : times_) count(times);
    return std::exchange(wait_seconds_, 0.0);
}

void Uploads::drain() {
    cudaStreamSynchronize(copies_);
}

}  // namespace qshard::cuda
