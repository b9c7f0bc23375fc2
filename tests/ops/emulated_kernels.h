#pragma once

#include "backend/cpu/kernels.h"

namespace qshard::cpu {

/// Kernel sets of wider processors, with their instructions done one lane at a time: the same
/// packing, indexing and tiling, on any machine.
const Kernels& emulated_avx512_kernels();
const Kernels& emulated_avx512_bf16_kernels();
const Kernels& emulated_amx_bf16_kernels();

}  // namespace qshard::cpu
