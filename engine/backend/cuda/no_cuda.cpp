#include "backend/cuda/cuda.h"

namespace qshard {

CudaPlatform cuda_platform() {
    return {{}, "this qshard was built without CUDA"};
}

std::string cuda_build() {
    return "without CUDA";
}

std::unique_ptr<Backend> make_cuda_backend(const CudaOptions&) {
    throw UserError(ExitCode::kUnavailable,
                    "placement.backend is cuda, but this qshard was built without CUDA. Build it "
                    "with cmake -DQSHARD_CUDA=ON, or use backend cpu.");
}

}  // namespace qshard
