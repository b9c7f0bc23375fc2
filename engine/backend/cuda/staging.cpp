#include "backend/cuda/staging.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace qshard::cuda {

void require(int cuda_error, const char* doing) {
    const auto error = static_cast<cudaError_t>(cuda_error);
    if (error == cudaSuccess) return;
    cudaGetLastError();  // what was reported is not reported again
    throw SystemError(error == cudaErrorMemoryAllocation ? ExitCode::kUnavailable : ExitCode::kIo,
                      fmt::format("CUDA failed in {}: {} ({})", doing, cudaGetErrorString(error),
                                  cudaGetErrorName(error)));
}

void require_launched(const char* operation) {
    require(cudaGetLastError(), operation);
}

Staging::Staging(Stream stream) : stream_(stream), listed_(kPieces, 0) {
    void* pointer = nullptr;
    require(cudaMallocHost(&pointer, kDeviceBytes), "pinning host memory");
    host_ = static_cast<std::byte*>(pointer);
    require(cudaMalloc(&pointer, kDeviceBytes), "taking staging memory");
    device_ = static_cast<std::byte*>(pointer);
    for (std::size_t i = 0; i < kPieces; ++i) {
        cudaEvent_t event = nullptr;
        require(cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventBlockingSync),
                "making an event");
        done_.push_back(event);
    }
}

Staging::~Staging() {
    for (CUevent_st* event : done_) cudaEventDestroy(event);
    cudaFree(device_);
    cudaFreeHost(host_);
}

std::size_t Staging::next_piece(std::size_t listed) {
    const std::size_t piece = next_++ % kPieces;
    require(cudaEventSynchronize(done_[piece]), "waiting for a copy");
    listed_[piece] = listed;
    return piece;
}

const void* Staging::put_bytes(const void* values, std::size_t bytes) {
    check(bytes <= kPieceBytes, "a list of an operation fits its piece of staging memory");
    for (std::size_t back = 1; bytes > 0 && back <= std::min(next_, kPieces / 2); ++back) {
        const std::size_t piece = (next_ - back) % kPieces;
        if (listed_[piece] == bytes && std::memcmp(host(piece), values, bytes) == 0)
            return device_ + piece * kPieceBytes;
    }
    const std::size_t piece = next_piece(bytes);
    std::byte* to = device_ + piece * kPieceBytes;
    if (bytes > 0) std::memcpy(host(piece), values, bytes);
    require(cudaMemcpyAsync(to, host(piece), bytes, cudaMemcpyHostToDevice, stream_),
            "copying to the device");
    require(cudaEventRecord(done_[piece], stream_), "recording an event");
    return to;
}

void Staging::upload(void* device, const void* host_bytes, std::size_t bytes) {
    for (std::size_t at = 0; at < bytes; at += kPieceBytes) {
        const std::size_t count = std::min(kPieceBytes, bytes - at);
        const std::size_t piece = next_piece(0);
        std::memcpy(host(piece), static_cast<const std::byte*>(host_bytes) + at, count);
        require(cudaMemcpyAsync(static_cast<std::byte*>(device) + at, host(piece), count,
                                cudaMemcpyHostToDevice, stream_),
                "copying to the device");
        require(cudaEventRecord(done_[piece], stream_), "recording an event");
    }
}

void Staging::download(void* host_bytes, const void* device, std::size_t bytes) {
    for (std::size_t at = 0; at < bytes; at += kPieceBytes) {
        const std::size_t count = std::min(kPieceBytes, bytes - at);
        const std::size_t piece = next_piece(0);
        require(cudaMemcpyAsync(host(piece), static_cast<const std::byte*>(device) + at, count,
                                cudaMemcpyDeviceToHost, stream_),
                "copying from the device");
        require(cudaEventRecord(done_[piece], stream_), "recording an event");
        require(cudaEventSynchronize(done_[piece]), "copying from the device");
        std::memcpy(static_cast<std::byte*>(host_bytes) + at, host(piece), count);
    }
}

}  // namespace qshard::cuda
