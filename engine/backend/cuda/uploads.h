#pragma once

#include <cstddef>
#include <vector>

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

    /// Backend::start_upload, finish_upload and take_upload_wait.
    void start(void* device, const void* host, std::size_t bytes);
    void finish();
    double take_wait();
    /// Waits for all copies.
    void drain();

  private:
    /// Of one copy, used again kRemembered copies later.
    struct Times {
        CUevent_st *wanted = nullptr, *done = nullptr;  ///< on the stream, on the copies'
        bool counted = true;
    };
    void count(Times& times);

    static constexpr std::size_t kRemembered = 64;
    const Stream stream_;
    Stream copies_ = nullptr;
    CUevent_st* issued_ = nullptr;
    std::vector<Times> times_;
    std::size_t started_ = 0, finished_ = 0;
    double wait_seconds_ = 0;
};

}  // namespace qshard::cuda
