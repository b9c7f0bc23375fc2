#pragma once

#include "spec/families.h"
#include "spec/json_keys.h"
#include "spec/model_config.h"

namespace qshard {

/// Sets config.ropes (index 1: that of sliding layers, if the family has one) from
/// "rope_parameters" (transformers 5) or "rope_theta", "rope_scaling", "rope_local_base_freq",
/// "partial_rotary_factor" (transformers 4). Needs head_width and max_positions.
void parse_ropes(JsonKeys& keys, const Family& family, ModelConfig& config);

}  // namespace qshard
