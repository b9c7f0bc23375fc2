#pragma once

#include <cstddef>

#include "backend/backend.h"

namespace qshard {

/// Memory of a backend for as long as the object lives; not initialised.
class DeviceBuffer {
  public:
    DeviceBuffer(Backend& backend, std::size_t bytes)
        : backend_(backend), data_(backend.allocate(bytes)) {}
    ~DeviceBuffer() { backend_.release(data_); }
    DeviceBuffer(const DeviceBuffer&) = delete;
    DeviceBuffer& operator=(const DeviceBuffer&) = delete;
    void* get() const { return data_; }

  private:
    Backend& backend_;
    void* data_;
};

}  // namespace qshard
