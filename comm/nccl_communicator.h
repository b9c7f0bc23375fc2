#pragma once

#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"

/// The transport for the memory of NVIDIA GPUs. In a build without CUDA the same functions say that
/// there is none (no_nccl.cpp).
namespace qshard {

/// "NCCL 2.28.9", or empty.
std::string nccl_build();
/// The GPUs that the driver shows this process, each by a text that is the same in every process.
std::vector<std::string> nccl_devices();

/// A new id of a group, to be given to all its ranks. SystemError(kUnavailable) without NCCL.
std::string make_nccl_id();
/// The group of `count` ranks with this id; this one computes on GPU `device`. Collective; waits at
/// most a minute for the others, then SystemError(kUnavailable). Buffers may be the device's or the
/// host's, which go through memory of the device.
std::unique_ptr<Communicator> make_nccl_communicator(const std::string& id, int rank, int count,
                                                     int device);
/// Ends a running NCCL operation of this process, because the process is about to end. Waits a
/// second at most; from any thread.
void abandon_nccl() noexcept;

}  // namespace qshard
