#pragma once

#include "spec/adapter.h"
#include "tensor/tensor.h"

namespace qshard {

/// A trained weight inside the flat vector (its values, or their gradient) on the backend, of which
/// `memory` has the elements from `first` on: fp32 in the shape of its tensor; empty if `adapter`
/// is null or trains no such weight.
inline Tensor trained_weight(const AdapterLayout* adapter, std::size_t range, Role role,
                             const float* memory, std::int64_t first = 0) {
    const TrainedWeight* weight = adapter == nullptr ? nullptr : adapter->find_weight(range, role);
    if (weight == nullptr) return {};
    auto* data = const_cast<float*>(memory + (weight->tensor.offset - first));
    const std::vector<std::int64_t>& shape = weight->tensor.shape;
    if (shape.size() == 1) return {data, DType::kF32, {shape[0]}};
    return {data, DType::kF32, {shape[0], shape[1]}};
}
inline Tensor trained_embedding(const AdapterLayout* adapter, const float* memory,
                                std::int64_t first = 0) {
    return trained_weight(adapter, AdapterLayout::kEmbedRange, Role::kEmbed, memory, first);
}
/// Of the head's range.
inline Tensor trained_in_head(const AdapterLayout* adapter, Role role, const float* memory,
                              std::int64_t first = 0) {
    if (adapter == nullptr) return {};
    return trained_weight(adapter, adapter->head_range(), role, memory, first);
}

}  // namespace qshard
