#include "tensor/rounding.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <bit>

#include "base/clones.h"

namespace qshard {
namespace {

QSHARD_CLONES void round_bf16(float* values, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) values[i] = to_float(to_bf16(values[i]));
}

QSHARD_CLONES void convert_bf16(const float* in, std::size_t count, bf16* out) {
    for (std::size_t i = 0; i < count; ++i) out[i] = to_bf16(in[i]);
}

/// Exponents of ones only.
QSHARD_CLONES bool finite_floats(const float* values, std::size_t count) {
    std::uint32_t found = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const auto exponent = std::bit_cast<std::uint32_t>(values[i]) & 0x7f800000u;
        found |= exponent == 0x7f800000u ? 1u : 0u;
    }
    return found == 0;
}

QSHARD_CLONES bool finite_bf16(const bf16* values, std::size_t count) {
    std::uint16_t found = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const auto exponent = static_cast<std::uint16_t>(values[i].bits & 0x7f80u);
        found = static_cast<std::uint16_t>(found | (exponent == 0x7f80u ? 1u : 0u));
    }
    return found == 0;
}

void round_half(std::span<float> values) {
    for (float& value : values) value = half_to_float(float_to_half(value));
}

#if defined(__x86_64__)
__attribute__((target("avx,f16c"))) void round_half_f16c(std::span<float> values) {
    std::size_t i = 0;
    for (; i + 8 <= values.size(); i += 8) {
        float* at = values.data() + i;
        const __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(at), _MM_FROUND_TO_NEAREST_INT);
        _mm256_storeu_ps(at, _mm256_cvtph_ps(half));
    }
    round_half(values.subspan(i));
}
#endif

using RoundHalf = void (*)(std::span<float>);

RoundHalf best_round_half() {
#if defined(__x86_64__)
    // Every processor with AVX2 has F16C, which clang 14 cannot ask for.
    if (__builtin_cpu_supports("avx2")) return round_half_f16c;
#endif
    return round_half;
}

}  // namespace

void round_to_bf16(std::span<float> values) {
    round_bf16(values.data(), values.size());
}

void convert_to_bf16(std::span<const float> in, bf16* out) {
    convert_bf16(in.data(), in.size(), out);
}

bool all_finite(std::span<const float> values) {
    return finite_floats(values.data(), values.size());
}
bool all_finite(std::span<const bf16> values) {
    return finite_bf16(values.data(), values.size());
}

void round_to_half(std::span<float> values) {
    static const RoundHalf round = best_round_half();
    round(values);
}

}  // namespace qshard
