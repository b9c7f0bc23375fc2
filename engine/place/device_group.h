#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "comm/communicator.h"

namespace qshard {

/// Whether what lies in the backend's memory must be copied to the host for the group to move it.
inline bool needs_staging(const Backend& backend, const Communicator& group) {
    return !backend.host_accessible() && !group.takes_device_memory();
}

/// Blocking collectives over a backend's memory: straight where the group can read it, else by
/// copies in `staging`, which grows to what they need and stays. Same rules as the Communicator's.
class DeviceGroup {
  public:
    DeviceGroup(Backend& backend, Communicator& group, std::vector<std::byte>& staging)
        : backend_(backend), group_(group), staging_(staging) {}

    void exchange(std::vector<SendPiece> sends, std::vector<RecvPiece> receives);
    void all_gather(std::span<const std::byte> mine, std::span<std::byte> all);

  private:
    Backend& backend_;
    Communicator& group_;
    std::vector<std::byte>& staging_;
};

}  // namespace qshard
