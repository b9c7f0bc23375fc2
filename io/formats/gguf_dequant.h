#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

/// Values of ggml's element types, bit for bit those of ggml's dequantize_row_* (ggml-quants.c).
namespace qshard {

/// With ggml's numbers.
enum class GgmlType : std::uint8_t {
    kF32 = 0,
    kF16 = 1,
    kQ4_0 = 2,
    kQ4_1 = 3,
    kQ5_0 = 6,
    kQ5_1 = 7,
    kQ8_0 = 8,
    kQ2_K = 10,
    kQ3_K = 11,
    kQ4_K = 12,
    kQ5_K = 13,
    kQ6_K = 14,
    kIQ2_XXS = 16,
    kIQ2_XS = 17,
    kIQ3_XXS = 18,
    kIQ1_S = 19,
    kIQ4_NL = 20,
    kIQ3_S = 21,
    kIQ2_S = 22,
    kIQ4_XS = 23,
    kI8 = 24,
    kI16 = 25,
    kI32 = 26,
    kI64 = 27,
    kF64 = 28,
    kIQ1_M = 29,
    kBF16 = 30,
    kTQ1_0 = 34,
    kTQ2_0 = 35,
    kMXFP4 = 39
};

struct GgmlTraits {
    GgmlType type;
    std::string_view name;
    std::int64_t block_count;  ///< elements of a block
    std::uint64_t block_bytes;
    /// Elements of `blocks` consecutive blocks as fp32; null if the type is not supported.
    void (*dequantize)(const std::byte* data, std::int64_t blocks, float* out);
};

/// Nothing if the number is unknown.
std::optional<GgmlType> ggml_type(std::uint32_t number);
const GgmlTraits& traits_of(GgmlType type);
/// "F32, F16, ...": the types that have values here.
std::string supported_ggml_types();

}  // namespace qshard
