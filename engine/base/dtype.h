#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

/// Element types and their exact conversions.
namespace qshard {

enum class DType : std::uint8_t { kF32, kBF16, kF16, kU8, kI8, kI32, kI64, kF64 };

constexpr std::size_t bytes_of(DType dtype) {
    switch (dtype) {
        case DType::kF32:
        case DType::kI32:
            return 4;
        case DType::kBF16:
        case DType::kF16:
            return 2;
        case DType::kU8:
        case DType::kI8:
            return 1;
        case DType::kI64:
        case DType::kF64:
            return 8;
    }
    return 0;
}

constexpr std::string_view name_of(DType dtype) {
    switch (dtype) {
        case DType::kF32:
            return "float32";
        case DType::kBF16:
            return "bfloat16";
        case DType::kF16:
            return "float16";
        case DType::kU8:
            return "uint8";
        case DType::kI8:
            return "int8";
        case DType::kI32:
            return "int32";
        case DType::kI64:
            return "int64";
        case DType::kF64:
            return "float64";
    }
    return "unknown";
}

/// The type with that name_of(), or none.
constexpr std::optional<DType> dtype_named(std::string_view name) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kU8, DType::kI8,
                              DType::kI32, DType::kI64, DType::kF64})
        if (name_of(dtype) == name) return dtype;
    return std::nullopt;
}

/// bfloat16 as its bit pattern; arithmetic happens in float.
struct bf16 {
    std::uint16_t bits;
};

constexpr float to_float(bf16 value) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16);
}
constexpr float to_float(float value) {
    return value;
}

/// Round to nearest even; NaN stays NaN (quieted).
constexpr bf16 to_bf16(float value) {
    const auto u = std::bit_cast<std::uint32_t>(value);
    if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<std::uint16_t>((u >> 16) | 0x40u)};
    return {static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

/// IEEE half to float, exact, subnormals included.
constexpr float half_to_float(std::uint16_t h) {
    const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000u) << 16;
    const std::uint32_t exponent = (h >> 10) & 31u;
    const std::uint32_t mantissa = h & 0x3ffu;
    if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
    if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24, exact in float
        const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
        return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
    }
    return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

/// Float to IEEE half, round to nearest even; overflow gives infinity, NaN stays NaN.
constexpr std::uint16_t float_to_half(float value) {
    const auto u = std::bit_cast<std::uint32_t>(value);
    const auto sign = static_cast<std::uint16_t>((u >> 16) & 0x8000u);
    const std::uint32_t a = u & 0x7fffffffu;
    if (a > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u | ((a >> 13) & 0x3ffu));
    if (a >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);
    if (a < 0x38800000u) {  // subnormal half or zero: adding 0.5 aligns the mantissa, in round to
                            // nearest even
        const float shifted = std::bit_cast<float>(a) + 0.5f;
        return static_cast<std::uint16_t>(sign |
                                          (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u));
    }
    return static_cast<std::uint16_t>(sign | ((a - 0x38000000u + 0xfffu + ((a >> 13) & 1u)) >> 13));
}

}  // namespace qshard
