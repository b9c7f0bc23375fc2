#pragma once

#include <span>

#include "base/dtype.h"

namespace qshard {

/// Each value to the nearest bfloat16 or half, ties to even, and back.
void round_to_bf16(std::span<float> values);
void round_to_half(std::span<float> values);

/// out[i] = in[i] rounded to the nearest bfloat16; out has in.size() elements.
void convert_to_bf16(std::span<const float> in, bf16* out);

/// Whether no value is NaN or infinite.
bool all_finite(std::span<const float> values);
bool all_finite(std::span<const bf16> values);

}  // namespace qshard
