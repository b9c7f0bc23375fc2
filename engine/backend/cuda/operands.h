#pragma once

#include "backend/backend.h"
#include "backend/cuda/kernels.h"

namespace qshard::cuda {

inline bool is_bf16(const Tensor& x) {
    check(x.dtype() == DType::kF32 || x.dtype() == DType::kBF16, "an operand is fp32 or bf16");
    return x.dtype() == DType::kBF16;
}
inline In in_of(const Tensor& x) {
    return {x.data(), is_bf16(x)};
}
inline Out out_of(const Tensor& x) {
    return {x.data(), is_bf16(x)};
}

}  // namespace qshard::cuda
