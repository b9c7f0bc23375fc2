#pragma once

#include "backend/backend.h"
#include "tensor/arena.h"

namespace qshard {

/// An arena in a backend's memory, which it gives back.
class DeviceArena : public Arena {
  public:
    explicit DeviceArena(Backend& backend) : backend_(backend) {}
    ~DeviceArena() {
        if (data() != nullptr) backend_.release(data());
    }
    DeviceArena(const DeviceArena&) = delete;
    DeviceArena& operator=(const DeviceArena&) = delete;
    void commit() {
        Arena::commit([this](std::size_t bytes) { return backend_.allocate(bytes); });
    }

  private:
    Backend& backend_;
};

}  // namespace qshard
