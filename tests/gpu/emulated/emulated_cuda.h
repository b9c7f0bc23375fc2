#pragma once

#include "backend/cuda/cuda.h"

namespace qshard {

/// The CUDA backend with its kernels run by the emulator. Device 0: bf16 on tensor cores, device 1:
/// without.
std::unique_ptr<Backend> make_emulated_cuda_backend(const CudaOptions& options);

}  // namespace qshard
