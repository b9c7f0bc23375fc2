#include <gtest/gtest.h>

#include "backend/cuda/cuda.h"
#include "base/error.h"
#include "comm/nccl_communicator.h"

/// What every build says about GPUs: with CUDA and without, with a driver and without. In a build
/// with CUDA this program links all of the backend and of the transport.
namespace qshard {
namespace {

TEST(CudaPlatform, ThereAreDevicesOrAReason) {
    const CudaPlatform platform = cuda_platform();
    EXPECT_TRUE(!platform.devices.empty() || !platform.problem.empty());
    for (const CudaDevice& device : platform.devices) {
        EXPECT_GE(device.major * 10 + device.minor, 75) << device.name;
        EXPECT_GT(device.total_bytes, 0u) << device.name;
    }
}

TEST(CudaPlatform, ADeviceThatIsNotThereIsRefused) {
    CudaOptions options;
    options.device = 1000;
    try {
        make_cuda_backend(options);
        FAIL() << "there is no device 1000";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::kUnavailable) << error.what();
    }
}

TEST(CudaPlatform, BackendAndTransportAreBuiltTogether) {
    EXPECT_EQ(nccl_build().empty(), cuda_build() == "without CUDA");
    if (nccl_build().empty()) {
        EXPECT_THROW(make_nccl_id(), UserError);
    }
    EXPECT_LE(cuda_platform().devices.size(), nccl_devices().size());
}

}  // namespace
}  // namespace qshard
