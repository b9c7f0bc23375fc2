#pragma once

#include <cstddef>

#include "backend/cuda/kernels.h"

struct CUevent_st;

namespace qshard::cuda {

/// Copies from the host's memory that run beside the stream, on one of their own: the two meet at
/// events, the host waits for neither.
class Uploads {
  public:
    explicit Uploads(Stream stream);
    ~Uploads();
    Uploads(const Uploads&) = delete;
    Uploads& operator=(const Uploads&) = delete;

    /// Backend::start_upload and finish_upload.
    void start(void* device, const void* host, std::size_t bytes);
    void finish();
    /// Waits for all copies.
    void drain();

  private:
    const Stream stream_;
    Stream copies_ = nullptr;
    CUevent_st* issued_ = nullptr;
    CUevent_st* done_[2] = {};  ///< of the copies in turn
    std::size_t started_ = 0, finished_ = 0;
};

}  // namespace qshard::cuda
