#include "backend/cuda/uploads.h"

#include <cuda_runtime.h>

#include <algorithm>

#include "backend/cuda/staging.h"
#include "base/error.h"

namespace qshard::cuda {

Uploads::Uploads(Stream stream) : stream_(stream) {
    require(cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking), "making a stream");
    require(cudaEventCreateWithFlags(&issued_, cudaEventDisableTiming), "making an event");
    for (CUevent_st*& done : done_)
        require(cudaEventCreateWithFlags(&done, cudaEventDisableTiming), "making an event");
}

Uploads::~Uploads() {
    cudaStreamSynchronize(copies_);
    for (CUevent_st* done : done_) cudaEventDestroy(done);
    cudaEventDestroy(issued_);
    cudaStreamDestroy(copies_);
}

void Uploads::start(void* device, const void* host, std::size_t bytes) {
    check(started_ - finished_ < 2, "at most two uploads are on their way");
    require(cudaEventRecord(issued_, stream_), "recording an event");
    require(cudaStreamWaitEvent(copies_, issued_, 0), "waiting for an event");
    // In pieces: the lists that kernels want from the host wait for one of them, not for all.
    constexpr std::size_t kPiece = std::size_t{4} << 20;
    for (std::size_t at = 0; at < bytes; at += kPiece) {
        require(cudaMemcpyAsync(static_cast<std::byte*>(device) + at,
                                static_cast<const std::byte*>(host) + at,
                                std::min(kPiece, bytes - at), cudaMemcpyHostToDevice, copies_),
                "copying to the device");
    }
    require(cudaEventRecord(done_[started_++ % 2], copies_), "recording an event");
}

void Uploads::finish() {
    check(finished_ < started_, "an upload that is finished was started");
    require(cudaStreamWaitEvent(stream_, done_[finished_++ % 2], 0), "waiting for an event");
}

void Uploads::drain() {
    cudaStreamSynchronize(copies_);
}

}  // namespace qshard::cuda
