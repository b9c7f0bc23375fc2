#include "tensor/int8.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <bit>

#include "base/dtype.h"

namespace qshard {
namespace {

void round_to_half_baseline(std::span<float> values) {
    for (float& value : values) value = half_to_float(float_to_half(value));
}

#if defined(__x86_64__)
__attribute__((target("avx,f16c"))) void round_to_half_f16c(std::span<float> values) {
    std::size_t i = 0;
    for (; i + 8 <= values.size(); i += 8) {
        float* at = values.data() + i;
        const __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(at), _MM_FROUND_TO_NEAREST_INT);
        _mm256_storeu_ps(at, _mm256_cvtph_ps(half));
    }
    round_to_half_baseline(values.subspan(i));
}
#endif

using RoundToHalf = void (*)(std::span<float>);

RoundToHalf best_round_to_half() {
#if defined(__x86_64__)
    // Every processor with AVX2 has F16C, which clang 14 cannot ask for.
    if (__builtin_cpu_supports("avx2")) return round_to_half_f16c;
#endif
    return round_to_half_baseline;
}

}  // namespace

void quantize_int8_row(std::span<float> row, std::int8_t* codes, float* absmax) {
    static const RoundToHalf round_to_half = best_round_to_half();
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
