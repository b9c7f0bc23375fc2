#include <cuda_runtime.h>
#include <fmt/format.h>

#include "backend/cuda/cuda.h"

namespace qshard {
namespace {

std::string version(int number) {
    return fmt::format("{}.{}", number / 1000, number % 1000 / 10);
}

std::string problem_of(cudaError_t error) {
    int driver = 0;
    cudaDriverGetVersion(&driver);
    if (driver == 0) return "there is no NVIDIA driver";
    if (error == cudaErrorInsufficientDriver) {
        return fmt::format("the NVIDIA driver is too old: it knows CUDA {}, this qshard needs {}",
                           version(driver), version(CUDART_VERSION));
    }
    if (error == cudaErrorNoDevice) return "the NVIDIA driver sees no device";
    return fmt::format("the NVIDIA driver answers: {}", cudaGetErrorString(error));
}

}  // namespace

CudaPlatform cuda_platform() {
    CudaPlatform platform;
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess) {
        cudaGetLastError();
        platform.problem = problem_of(error);
        return platform;
    }
    for (int i = 0; i < count; ++i) {
        cudaDeviceProp properties;
        if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) {
            cudaGetLastError();  // or the next launch would report it
            continue;
        }
        CudaDevice device;
        device.index = i;
        device.name = properties.name;
        device.major = properties.major;
        device.minor = properties.minor;
        device.multiprocessors = properties.multiProcessorCount;
        device.total_bytes = properties.totalGlobalMem;
        for (const char byte : properties.uuid.bytes)
            device.uuid += fmt::format("{:02x}", static_cast<unsigned char>(byte));
        if (device.major * 10 + device.minor >= 75) {
            platform.devices.push_back(device);
        } else {
            platform.problem = fmt::format("{} has compute capability {}.{}; 7.5 is needed",
                                           device.name, device.major, device.minor);
        }
    }
    if (platform.devices.empty() && platform.problem.empty())
        platform.problem = "the NVIDIA driver sees no device";
    return platform;
}

std::string cuda_build() {
    return "CUDA " + version(CUDART_VERSION);
}

}  // namespace qshard
