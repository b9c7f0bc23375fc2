#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "backend/cuda/kernels.h"

struct CUevent_st;

namespace qshard::cuda {

/// SystemError(kUnavailable, for memory; kIo otherwise) if a CUDA call failed.
void require(int cuda_error, const char* doing);
/// The same for the launches since the last call.
void require_launched(const char* operation);

/// The way between the host and the stream: a ring of pinned host memory, each piece with memory of
/// the device beside it. Copies are asynchronous; a piece is used again once the device is done
/// with it, so nothing ever waits for the whole device.
class Staging {
  public:
    explicit Staging(Stream stream);
    ~Staging();
    Staging(const Staging&) = delete;
    Staging& operator=(const Staging&) = delete;

    /// A copy of `values` on the device, readable by what is issued on the stream before half the
    /// ring has gone round (kPieces / 2 more calls). At most kPieceBytes. What one of the last
    /// calls copied is not copied again: every layer of a slot wants the same positions and tiles.
    const void* put_bytes(const void* values, std::size_t bytes);
    template <class T>
    const T* put(std::span<const T> values) {
        return static_cast<const T*>(put_bytes(values.data(), values.size_bytes()));
    }
    void upload(void* device, const void* host, std::size_t bytes);
    /// Waits for what was issued before.
    void download(void* host, const void* device, std::size_t bytes);

    static constexpr std::size_t kPieceBytes = std::size_t{512} << 10;
    static constexpr std::size_t kPieces = 64;
    static constexpr std::size_t kDeviceBytes = kPieceBytes * kPieces;

  private:
    /// The next piece, once the device is done with it; it will hold a list of that many bytes.
    std::size_t next_piece(std::size_t listed);
    std::byte* host(std::size_t piece) const { return host_ + piece * kPieceBytes; }

    const Stream stream_;
    std::byte *host_ = nullptr, *device_ = nullptr;
    std::vector<CUevent_st*> done_;
    std::vector<std::size_t> listed_;  ///< bytes of the list that a piece holds, 0 if none
    std::size_t next_ = 0;
};

}  // namespace qshard::cuda
