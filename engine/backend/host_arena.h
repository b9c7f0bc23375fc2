#pragma once

#include "backend/backend.h"
#include "tensor/arena.h"

namespace qshard {

/// An arena in the host's memory, pinned for a backend's uploads where the host allows it.
class HostArena : public Arena {
  public:
    explicit HostArena(Backend& backend) : backend_(backend) {}
    ~HostArena();
    HostArena(const HostArena&) = delete;
    HostArena& operator=(const HostArena&) = delete;
    /// Takes zeroed memory, if any is reserved; SystemError(kUnavailable) if there is not enough.
    void commit();
    /// Pins it, once it is full: the threads that fill it take its pages in parallel, each near its
    /// own core.
    void pin();
    /// After pin(): false if the host refused to lock the memory, so that uploads are slower.
    bool pinned() const { return data() == nullptr || pinned_; }

  private:
    Backend& backend_;
    bool pinned_ = false;
};

}  // namespace qshard
