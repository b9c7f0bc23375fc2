#pragma once

#include <cstdint>
#include <span>

/// Row-wise 8-bit integers as bitsandbytes' Linear8bitLt stores weights, bit-equal to it. (Dettmers
/// et al., "LLM.int8()", 2022; the weights' half of it: activations are not quantized)
namespace qshard {

/// fp32(1 / 127), which the product of code and absmax is multiplied by.
inline constexpr float kInt8Step = 0x1.020408p-7f;

/// Codes of one row and its absmax (bitsandbytes' SCB): code = value * (1 / absmax * 127) to the
/// nearest, ties to even. The values are rounded to fp16 first, in place, as bitsandbytes does. A
/// row of zeros has codes 0 and absmax 0.
void quantize_int8_row(std::span<float> row, std::int8_t* codes, float* absmax);

/// Elements [first, first + out.size()) of a quantized matrix of `cols` columns: code * absmax of
/// its row * (1 / 127), two roundings.
void dequantize_int8(const std::int8_t* codes, const float* absmax, std::int64_t cols,
                     std::int64_t first, std::span<float> out);

}  // namespace qshard
