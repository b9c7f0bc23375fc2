#pragma once

#include "io/formats/gguf.h"
#include "spec/model_config.h"

namespace qshard {

/// A GGUF file's metadata (and, for what metadata does not say, its tensors) as a ModelConfig.
/// UserError if the architecture is not one of the families table, a value is out of range, or the
/// file is an adapter, a split or a mixture of experts.
ModelConfig model_config_from_gguf(const GgufFile& file);
/// A tensor that holds part of the configuration, not a weight.
bool is_rope_tensor(std::string_view name);

}  // namespace qshard
