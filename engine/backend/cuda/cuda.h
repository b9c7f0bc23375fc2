#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"

/// NVIDIA GPUs. In a build without CUDA the same functions say that there are none (no_cuda.cpp).
namespace qshard {

struct CudaDevice {
    int index = 0;             ///< the driver's number of it
    std::string name;          ///< "NVIDIA H100 80GB HBM3"
    int major = 0, minor = 0;  ///< compute capability
    int multiprocessors = 0;
    std::size_t total_bytes = 0;
    std::string uuid;  ///< the same device in every process
};

struct CudaPlatform {
    std::vector<CudaDevice> devices;  ///< those of compute capability 7.5 or newer
    std::string problem;  ///< why there are none: "built without CUDA", "no NVIDIA driver", ...
};
/// Asks the driver; takes no memory on a device.
CudaPlatform cuda_platform();

/// "CUDA 13.0", or "without CUDA".
std::string cuda_build();

struct CudaOptions {
    int device = 0;        ///< place in CudaPlatform::devices
    int sharing = 1;       ///< ranks that share the device, and so its memory
    int host_threads = 1;  ///< for what the host does beside, such as quantizing
};
/// Takes the device and its workspace. SystemError(kUnavailable) if there is no driver, it is too
/// old, the device does not exist, or its memory does not suffice.
std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& options);

/// The sizes of that backend, for plans where there is no GPU. Its operations are BugErrors. In
/// every build.
std::unique_ptr<Backend> make_planned_cuda_backend();

}  // namespace qshard
