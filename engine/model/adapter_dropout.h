#pragma once

#include <cstddef>

#include "backend/backend.h"
#include "spec/adapter.h"

/// Dropout of what adapters read (PEFT's lora_dropout), in training only: one mask a module and
/// slot.
namespace qshard {

struct AdapterDropout {
    DropoutMask mask;             ///< of the slot; `target` is set per module
    std::byte* memory = nullptr;  ///< dropout_bytes() for the slot's tokens
    std::size_t input_bytes = 0;  ///< of it: the first tensor below

    DropoutMask mask_of(const AdapterTarget& target) const;
    /// [N, in] of the compute dtype: the dropped input of one module.
    Tensor input(const Tensor& like) const {
        return {memory, like.dtype(), {like.rows(), like.cols()}};
    }
    /// fp32 [N, in]: a derivative by it.
    Tensor derivative(std::int64_t rows, std::int64_t cols) const {
        return {memory + input_bytes, DType::kF32, {rows, cols}};
    }
};

/// The memory, and how much of it is the first tensor.
struct DropoutBytes {
    std::size_t input = 0, derivative = 0;
    std::size_t total() const { return input + derivative; }
};
DropoutBytes dropout_bytes(const ModelConfig& config, std::int64_t tokens, DType compute);

}  // namespace qshard
