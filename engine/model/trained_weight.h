#pragma once

#include "spec/adapter.h"
#include "tensor/tensor.h"

namespace qshard {

/// A trained weight inside the flat vector (its values, or their gradient) on the backend, of which
/// `memory` has the elements from `first` on: fp32 [rows, cols]; empty if `adapter` is null or
/// trains no such weight.
inline Tensor trained_weight(const AdapterLayout* adapter, std::size_t range, Role role,
                             const float* memory, std::int64_t first = 0) {
    const TrainedWeight* weight = adapter == nullptr ? nullptr : adapter->find_weight(range, role);
    if (weight == nullptr) return {};
    const AdapterTensor& tensor = weight->tensor;
    return {const_cast<float*>(memory + (tensor.offset - first)),
            DType::kF32,
            {tensor.shape[0], tensor.shape[1]}};
}
inline Tensor trained_embedding(const AdapterLayout* adapter, const float* memory,
                                std::int64_t first = 0) {
    return trained_weight(adapter, AdapterLayout::kEmbedRange, Role::kEmbed, memory, first);
}
inline Tensor trained_head(const AdapterLayout* adapter, const float* memory,
                           std::int64_t first = 0) {
    if (adapter == nullptr) return {};
    return trained_weight(adapter, adapter->head_range(), Role::kHead, memory, first);
}

}  // namespace qshard
