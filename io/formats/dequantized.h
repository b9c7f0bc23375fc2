#pragma once

#include <cstdint>
#include <span>

#include "spec/weights.h"

namespace qshard {

/// Elements [first, first + out.size()) of a weight that `reader` holds quantized, expanded in fp32
/// from its parts.
void read_dequantized(const WeightReader& reader, const WeightSpec& weight, std::int64_t first,
                      std::span<float> out);

}  // namespace qshard
