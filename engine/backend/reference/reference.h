#pragma once

#include "backend/backend.h"

namespace qshard::reference {

/// Element access to a tensor of any float dtype, rounding on write.
inline float load(const Tensor& t, std::int64_t i) {
    return t.dtype() == DType::kF32 ? static_cast<const float*>(t.data())[i]
                                    : to_float(static_cast<const bf16*>(t.data())[i]);
}
inline void store(const Tensor& t, std::int64_t i, float value) {
    if (t.dtype() == DType::kF32) {
        static_cast<float*>(t.data())[i] = value;
    } else {
        static_cast<bf16*>(t.data())[i] = to_bf16(value);
    }
}
/// The value as a product in `dtype` sees it.
inline float rounded(float value, DType dtype) {
    return dtype == DType::kBF16 ? to_float(to_bf16(value)) : value;
}

void attention(const AttentionShape& shape, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse);
void attention_backward(const AttentionShape& shape, Tensor q, Tensor k, Tensor v, Tensor lse,
                        Tensor dout, Tensor dq, Tensor dk, Tensor dv);

}  // namespace qshard::reference
