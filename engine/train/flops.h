#pragma once

#include <cstdint>
#include <span>

#include "spec/adapter.h"
#include "spec/batch.h"
#include "spec/model_config.h"

namespace qshard {

/// Floating-point operations that training must do (2 per multiply-add): frozen linears and head
/// forward and by the input, LoRA also by its weights, attention's causal half forward and
/// backward. Work done again is not counted.
struct UsefulFlops {
    double per_token = 0;           ///< 4 P_lin + 6 P_lora
    double per_supervised = 0;      ///< 4 P_head (6 where it is trained), of rows with a target
    double attention_per_pair = 0;  ///< per (token, attended token): 3 * 4 * H * D * L
    double of(std::span<const Slot> slots) const;
};
UsefulFlops useful_flops(const ModelConfig& config, const AdapterLayout* adapter);

}  // namespace qshard
