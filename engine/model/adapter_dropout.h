#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "backend/backend.h"
#include "spec/adapter.h"

/// Dropout of what adapters read (PEFT's lora_dropout), in training only: one mask a module and
/// slot.
namespace qshard {

/// Of the tensors that the dropout of a call works in.
struct DropoutBytes {
    std::size_t input = 0, derivative = 0, product = 0;
    std::size_t total() const { return input + derivative + product; }
};
DropoutBytes dropout_bytes(const ModelConfig& config, const AdapterLayout& adapter,
                           std::int64_t tokens, DType compute);

struct AdapterDropout {
    DropoutMask mask;             ///< of the first slot; `target` is set per module
    std::byte* memory = nullptr;  ///< bytes.total(): the tensors below, one after the other
    DropoutBytes bytes;

    /// Backend::dropout() of what the module reads, each slot's rows by its own mask. Rows as in
    /// TokenContext::slot_begin.
    void apply(Backend& backend, const AdapterTarget& target,
               std::span<const std::int64_t> slot_begin, Tensor x, bool accumulate, Tensor y) const;
    /// [N, in] of the compute dtype: the dropped input of one module.
    Tensor input(const Tensor& like) const {
        return {memory, like.dtype(), {like.rows(), like.cols()}};
    }
    /// fp32 [N, in]: a derivative by it.
    Tensor derivative(std::int64_t rows, std::int64_t cols) const {
        return {memory + bytes.input, DType::kF32, {rows, cols}};
    }
    /// fp32 [N, out] or [N, in], with DoRA only: one of the products that are added in fp32.
    Tensor product(std::int64_t rows, std::int64_t cols) const {
        return {memory + bytes.input + bytes.derivative, DType::kF32, {rows, cols}};
    }
};

}  // namespace qshard
