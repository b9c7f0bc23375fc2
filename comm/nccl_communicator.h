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
struct NcclDevice {
    int index = 0;     ///< the driver's number of it
    std::string uuid;  ///< the same text in every process
};
/// The GPUs that the driver shows this process and that qshard computes on (compute capability 7.5
/// or newer), in the order of cuda_platform(): ranks take the same ones for both.
std::vector<NcclDevice> nccl_devices();

/// A new id of a group, to be given to all its ranks. SystemError(kUnavailable) without NCCL.
std::string make_nccl_id();
/// The group of `count` ranks with this id; this one computes on the GPU that the driver numbers
/// `device`. Collective; waits at most a minute for the others, then SystemError(kUnavailable).
/// Buffers may be the device's or the host's, which go through memory of the device.
std::unique_ptr<Communicator> make_nccl_communicator(const std::string& id, int rank, int count,
                                                     int device);
/// Ends a running NCCL operation of this process, because the process is about to end. Waits a
/// second at most; from any thread.
void abandon_nccl() noexcept;

}  // namespace qshard
