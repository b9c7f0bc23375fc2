#include "tensor/int8.h"

#include <algorithm>
#include <bit>

#include "tensor/rounding.h"

namespace qshard {
void quantize_int8_row(std::span<float> row, std::int8_t* codes, float* absmax) {
    round_to_half(row);
    std::uint32_t largest = 0;  // magnitudes compare as their bits do, without a branch
    for (float value : row)
        largest = std::max(largest, std::bit_cast<std::uint32_t>(value) & 0x7fffffffu);
    *absmax = std::bit_cast<float>(largest);
    const float scale = *absmax > 0 ? 1.0f / *absmax * 127.0f : 0.0f;
    for (std::size_t i = 0; i < row.size(); ++i) {
        // 1.5 * 2^23 leaves no bits for fractions: the sum's rounding is to the nearest integer.
        const float shifted = row[i] * scale + 0x1.8p23f;
        codes[i] = static_cast<std::int8_t>(std::bit_cast<std::uint32_t>(shifted));
    }
}

void dequantize_int8(const std::int8_t* codes, const float* absmax, std::int64_t cols,
                     std::int64_t first, std::span<float> out) {
    const std::int64_t end = first + static_cast<std::int64_t>(out.size());
    for (std::int64_t i = first; i < end;) {
        const std::int64_t row = i / cols, stop = std::min(end, (row + 1) * cols);
        for (; i < stop; ++i) {
            out[static_cast<std::size_t>(i - first)] =
                static_cast<float>(codes[i]) * absmax[row] * kInt8Step;
        }
    }
}

}  // namespace qshard
