#pragma once

#include "io/formats/gguf.h"
#include "spec/model_config.h"

namespace qshard {

/// Tensors that hold part of the configuration: divisors of the rotary frequencies; longrope has
/// one tensor for documents up to the original length and one for longer ones.
inline constexpr const char* kRopeFrequencies = "rope_freqs.weight";
inline constexpr const char* kRopeShortFactors = "rope_factors_short.weight";
inline constexpr const char* kRopeLongFactors = "rope_factors_long.weight";

/// A GGUF file's metadata (and, for what metadata does not say, its tensors) as a ModelConfig.
/// UserError if the architecture is not one of the families table, a value is out of range, or the
/// file is an adapter.
ModelConfig model_config_from_gguf(const GgufFile& file);
/// One of the three above.
bool is_rope_tensor(std::string_view name);

}  // namespace qshard
