#pragma once

#include <filesystem>
#include <span>

#include "spec/adapter.h"

namespace qshard {

/// Writes the adapter as a GGUF file for llama.cpp (--lora), beside any GGUF of the same base
/// model: fp32 tensors NAME.lora_a and NAME.lora_b, rows of q's and k's B in the file's order where
/// the architecture permutes them. Those of experts have a third dimension, [experts, r, in] and
/// [experts, out, r]; gate and up, one target here, have a tensor each there, with the same A.
/// llama.cpp scales by alpha / (rank of the tensor); what differs from that (rsLoRA, alpha_pattern,
/// rank_pattern) is multiplied into B. UserError for DoRA and for trained weights of the base,
/// which llama.cpp does not know.
void write_gguf_adapter(const std::filesystem::path& file, const ModelConfig& config,
                        const AdapterLayout& layout, std::span<const float> values);

}  // namespace qshard
