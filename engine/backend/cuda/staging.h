#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "backend/cuda/kernels.h"
#include "backend/cuda/sizes.h"

struct CUevent_st;

namespace qshard::cuda {

/// SystemError(kUnavailable, for memory; kIo otherwise) if a CUDA call failed.
void require(int cuda_error, const char* doing);
/// The same for the launches since the last call.
void require_launched(const char* operation);

/// Pinned host memory in pieces that are used in turn, each with memory of the device beside it.
class Ring {
  public:
    Ring(std::size_t pieces, std::size_t piece_bytes);
    ~Ring();
    Ring(const Ring&) = delete;
    Ring& operator=(const Ring&) = delete;

    /// The next piece, once the device is done with it; it will hold a list of that many bytes (0:
    /// none).
    std::size_t next(std::size_t listed);
    /// The device's copy of a list that one of the last pieces (half of them) still holds, or null.
    const void* find(const void* list, std::size_t bytes) const;
    std::size_t piece_bytes() const { return piece_bytes_; }
    std::byte* host(std::size_t piece) const { return host_ + piece * piece_bytes_; }
    std::byte* device(std::size_t piece) const { return device_ + piece * piece_bytes_; }
    /// To be recorded after what uses the piece.
    CUevent_st* done(std::size_t piece) const { return pieces_[piece].done; }

  private:
    struct Piece {
        CUevent_st* done = nullptr;
        std::size_t listed = 0;
    };
    const std::size_t piece_bytes_;
    std::vector<Piece> pieces_;
    std::byte *host_ = nullptr, *device_ = nullptr;
    std::size_t next_ = 0;
};

/// The way between the host and the stream. Copies are asynchronous; a piece of a ring is used
/// again once the device is done with it, so nothing ever waits for the whole device.
class Staging {
  public:
    explicit Staging(Stream stream) : stream_(stream) {}

    /// A copy of `values` on the device, readable by what is issued on the stream before half a
    /// ring of other lists has come. At most kPieceBytes. What is still there is not copied again:
    /// every layer of a slot wants the same positions and tiles, and small copies would queue
    /// behind a base that is being uploaded.
    const void* put_bytes(const void* values, std::size_t bytes);
    template <class T>
    const T* put(std::span<const T> values) {
        return static_cast<const T*>(put_bytes(values.data(), values.size_bytes()));
    }
    void upload(void* device, const void* host, std::size_t bytes);
    /// Waits for what was issued before.
    void download(void* host, const void* device, std::size_t bytes);

  private:
    const Stream stream_;
    Ring bulk_{kPieces, kPieceBytes}, lists_{kLists, kListBytes};
};

}  // namespace qshard::cuda
