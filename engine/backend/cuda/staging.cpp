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

Ring::Ring(std::size_t pieces, std::size_t piece_bytes)
    : piece_bytes_(piece_bytes), pieces_(pieces) {
    void* pointer = nullptr;
    require(cudaMallocHost(&pointer, pieces * piece_bytes), "pinning host memory");
    host_ = static_cast<std::byte*>(pointer);
    require(cudaMalloc(&pointer, pieces * piece_bytes), "taking staging memory");
    device_ = static_cast<std::byte*>(pointer);
    for (Piece& piece : pieces_) {
        require(
            cudaEventCreateWithFlags(&piece.done, cudaEventDisableTiming | cudaEventBlockingSync),
            "making an event");
    }
}

Ring::~Ring() {
    for (const Piece& piece : pieces_) cudaEventDestroy(piece.done);
    cudaFree(device_);
    cudaFreeHost(host_);
}

std::size_t Ring::next(std::size_t listed) {
    const std::size_t piece = next_++ % pieces_.size();
    require(cudaEventSynchronize(pieces_[piece].done), "waiting for a copy");
    pieces_[piece].listed = listed;
    return piece;
}

const void* Ring::find(const void* list, std::size_t bytes) const {
    for (std::size_t back = 1; bytes > 0 && back <= std::min(next_, pieces_.size() / 2); ++back) {
        const std::size_t piece = (next_ - back) % pieces_.size();
        if (pieces_[piece].listed == bytes && std::memcmp(host(piece), list, bytes) == 0)
            return device(piece);
    }
    return nullptr;
}

const void* Staging::put_bytes(const void* values, std::size_t bytes) {
    check(bytes <= kPieceBytes, "a list of an operation fits its piece of staging memory");
    Ring& ring = bytes <= kListBytes ? lists_ : bulk_;
    if (const void* found = ring.find(values, bytes)) return found;
    const std::size_t piece = ring.next(bytes);
    if (bytes > 0) std::memcpy(ring.host(piece), values, bytes);
    require(cudaMemcpyAsync(ring.device(piece), ring.host(piece), bytes, cudaMemcpyHostToDevice,
                            stream_),
            "copying to the device");
    require(cudaEventRecord(ring.done(piece), stream_), "recording an event");
    return ring.device(piece);
}

void Staging::upload(void* device, const void* host_bytes, std::size_t bytes) {
    for (std::size_t at = 0; at < bytes; at += kPieceBytes) {
        const std::size_t count = std::min(kPieceBytes, bytes - at), piece = bulk_.next(0);
        std::memcpy(bulk_.host(piece), static_cast<const std::byte*>(host_bytes) + at, count);
        require(cudaMemcpyAsync(static_cast<std::byte*>(device) + at, bulk_.host(piece), count,
                                cudaMemcpyHostToDevice, stream_),
                "copying to the device");
        require(cudaEventRecord(bulk_.done(piece), stream_), "recording an event");
    }
}

void Staging::download(void* host_bytes, const void* device, std::size_t bytes) {
    for (std::size_t at = 0; at < bytes; at += kPieceBytes) {
        const std::size_t count = std::min(kPieceBytes, bytes - at), piece = bulk_.next(0);
        require(cudaMemcpyAsync(bulk_.host(piece), static_cast<const std::byte*>(device) + at,
                                count, cudaMemcpyDeviceToHost, stream_),
                "copying from the device");
        require(cudaEventRecord(bulk_.done(piece), stream_), "recording an event");
        require(cudaEventSynchronize(bulk_.done(piece)), "copying from the device");
        std::memcpy(static_cast<std::byte*>(host_bytes) + at, bulk_.host(piece), count);
    }
}

}  // namespace qshard::cuda
