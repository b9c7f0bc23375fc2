#include "io/formats/gguf_dequant.h"

#include <array>
#include <bit>
#include <cstring>

#include "base/clones.h"
#include "base/dtype.h"
#include "base/error.h"

namespace qshard {
namespace {

std::uint16_t load_u16(const std::uint8_t* bytes) {
    return static_cast<std::uint16_t>(bytes[0] | bytes[1] << 8);
}
std::uint32_t load_u32(const std::uint8_t* bytes) {
    return std::uint32_t{load_u16(bytes)} | std::uint32_t{load_u16(bytes + 2)} << 16;
}
float load_half(const std::uint8_t* bytes) {
    return half_to_float(load_u16(bytes));
}
const std::uint8_t* bytes_at(const std::byte* data) {
    return reinterpret_cast<const std::uint8_t*>(data);
}

void copy_f32(const std::byte* data, std::int64_t blocks, float* out) {
    std::memcpy(out, data, static_cast<std::size_t>(blocks) * sizeof(float));
}

QSHARD_CLONES void expand_bf16(const std::byte* data, std::int64_t blocks, float* out) {
    const std::uint8_t* in = bytes_at(data);
    for (std::int64_t i = 0; i < blocks; ++i) {
        std::uint16_t bits;
        std::memcpy(&bits, in + 2 * i, 2);
        const std::uint32_t word = std::uint32_t{bits} << 16;
        std::memcpy(out + i, &word, 4);
    }
}

/// half_to_float by masks instead of branches, for the vectorizer.
QSHARD_CLONES void expand_f16(const std::byte* data, std::int64_t blocks, float* out) {
    const std::uint8_t* in = bytes_at(data);
    for (std::int64_t i = 0; i < blocks; ++i) {
        std::uint16_t bits;
        std::memcpy(&bits, in + 2 * i, 2);
        const std::uint32_t magnitude = std::uint32_t{bits} & 0x7fffu;
        const float scaled =
            static_cast<float>(static_cast<std::int32_t>(magnitude & 0x3ffu)) * 0x1p-24f;
        const std::uint32_t subnormal = 0u - static_cast<std::uint32_t>(magnitude < 0x400u);
        const std::uint32_t special = 0u - static_cast<std::uint32_t>(magnitude > 0x7bffu);
        const std::uint32_t word = (std::uint32_t{bits} & 0x8000u) << 16 |
                                   (subnormal & std::bit_cast<std::uint32_t>(scaled)) |
                                   (~subnormal & ((magnitude << 13) + 0x38000000u)) |
                                   (special & 0x7f800000u);
        std::memcpy(out + i, &word, 4);
    }
}

QSHARD_CLONES void dequantize_q4_0(const std::byte* data, std::int64_t blocks, float* out) {
    const std::uint8_t* in = bytes_at(data);
    for (std::int64_t b = 0; b < blocks; ++b, in += 18, out += 32) {
        const float d = load_half(in);
        for (int j = 0; j < 16; ++j) {
            out[j] = static_cast<float>((in[2 + j] & 15) - 8) * d;
            out[j + 16] = static_cast<float>((in[2 + j] >> 4) - 8) * d;
        }
    }
}

QSHARD_CLONES void dequantize_q4_1(const std::byte* data, std::int64_t blocks, float* out) {
    const std::uint8_t* in = bytes_at(data);
    for (std::int64_t b = 0; b < blocks; ++b, in += 20, out += 32) {
        const float d = load_half(in), m = load_half(in + 2);
        for (int j = 0; j < 16; ++j) {
            out[j] = static_cast<float>(in[4 + j] & 15) * d + m;
            out[j + 16] = static_cast<float>(in[4 + j] >> 4) * d + m;
        }
    }
}

QSHARD_CLONES void dequantize_q5_0(const std::byte* data, std::int64_t blocks, float* out) {
    const std::uint8_t* in = bytes_at(data);
    for (std::int64_t b = 0; b < blocks; ++b, in += 22, out += 32) {
        const float d = load_half(in);
        const std::uint32_t high = load_u32(in + 2);
        for (int j = 0; j < 16; ++j) {
            const auto h0 = static_cast<int>((high >> j & 1u) << 4),
                       h1 = static_cast<int>((high >> (j + 16) & 1u) << 4);
            out[j] = static_cast<float>(((in[6 + j] & 15) | h0) - 16) * d;
            out[j + 16] = static_cast<float>(((in[6 + j] >> 4) | h1) - 16) * d;
        }
    }
}

QSHARD_CLONES void dequantize_q5_1(const std::byte* data, std::int64_t blocks, float* out) {
    const std::uint8_t* in = bytes_at(data);
    for (std::int64_t b = 0; b < blocks; ++b, in += 24, out += 32) {
        const float d = load_half(in), m = load_half(in + 2);
        const std::uint32_t high = load_u32(in + 4);
        for (int j = 0; j < 16; ++j) {
            const auto h0 = static_cast<int>((high >> j & 1u) << 4),
                       h1 = static_cast<int>((high >> (j + 16) & 1u) << 4);
            out[j] = static_cast<float>((in[8 + j] & 15) | h0) * d + m;
            out[j + 16] = static_cast<float>((in[8 + j] >> 4) | h1) * d + m;
        }
    }
}

QSHARD_CLONES void dequantize_q8_0(const std::byte* data, std::int64_t blocks, float* out) {
    const std::uint8_t* in = bytes_at(data);
    for (std::int64_t b = 0; b < blocks; ++b, in += 34, out += 32) {
        const float d = load_half(in);
        for (int j = 0; j < 32; ++j)
            out[j] = static_cast<float>(static_cast<std::int8_t>(in[2 + j])) * d;
    }
}

QSHARD_CLONES void dequantize_q2_k(const std::byte* data, std::int64_t blocks, float* out) {
    const std::uint8_t* in = bytes_at(data);
    for (std::int64_t b = 0; b < blocks; ++b, in += 84) {
        const float d = load_half(in + 80), dmin = load_half(in + 82);
        for (int g = 0; g < 16; ++g, out += 16) {  // of 16 elements that share a scale
            const float scale = d * static_cast<float>(in[g] & 15),
                        min = dmin * static_cast<float>(in[g] >> 4);
            const std::uint8_t* q = in + 16 + 32 * (g / 8) + 16 * (g % 2);
            const int shift = 2 * (g / 2 % 4);
            for (int l = 0; l < 16; ++l)
                out[l] = scale * static_cast<float>(q[l] >> shift & 3) - min;
        }
    }
}

/// Six-bit scale number `j` of sixteen, from the 12 bytes `s`: low halves in the first eight bytes,
/// high pairs of bits in the last four.
int six_bit_scale(int j, const std::uint8_t* s) {
    return (s[j % 8] >> (4 * (j / 8)) & 15) | (s[8 + j % 4] >> (2 * (j / 4)) & 3) << 4;
}

QSHARD_CLONES void dequantize_q3_k(const std::byte* data, std::int64_t blocks, float* out) {
    const std::uint8_t* in = bytes_at(data);
    for (std::int64_t b = 0; b < blocks; ++b, in += 110) {
        const float d = load_half(in + 108);
        for (int g = 0; g < 16; ++g, out += 16) {
            const float scale = d * static_cast<float>(six_bit_scale(g, in + 96) - 32);
            const std::uint8_t *high = in + 16 * (g % 2),
                               *q = in + 32 + 32 * (g / 8) + 16 * (g % 2);
            const int shift = 2 * (g / 2 % 4), bit = g / 2;
            for (int l = 0; l < 16; ++l) {
                const int value = (q[l] >> shift & 3) | (high[l] >> bit & 1) << 2;
                out[l] = scale * static_cast<float>(value - 4);
            }
        }
    }
}

/// Six-bit scale and minimum number `j` of eight, from the 12 bytes `s`.
struct ScaleMin {
    int scale, min;
};
ScaleMin scale_min(int j, const std::uint8_t* s) {
    if (j < 4) return {s[j] & 63, s[j + 4] & 63};
    return {(s[j + 4] & 15) | (s[j - 4] >> 6) << 4, (s[j + 4] >> 4) | (s[j] >> 6) << 4};
}

QSHARD_CLONES void dequantize_q4_k(const std::byte* data, std::int64_t blocks, float* out) {
    const std::uint8_t* in = bytes_at(data);
    for (std::int64_t b = 0; b < blocks; ++b, in += 144) {
        const float d = load_half(in), dmin = load_half(in + 2);
        for (int c = 0; c < 4; ++c, out += 64) {
            const ScaleMin low = scale_min(2 * c, in + 4), high = scale_min(2 * c + 1, in + 4);
            const float d0 = d * static_cast<float>(low.scale),
                        m0 = dmin * static_cast<float>(low.min);
            const float d1 = d * static_cast<float>(high.scale),
                        m1 = dmin * static_cast<float>(high.min);
            const std::uint8_t* q = in + 16 + 32 * c;
            for (int l = 0; l < 32; ++l) {
                out[l] = d0 * static_cast<float>(q[l] & 15) - m0;
                out[l + 32] = d1 * static_cast<float>(q[l] >> 4) - m1;
            }
        }
    }
}

QSHARD_CLONES void dequantize_q5_k(const std::byte* data, std::int64_t blocks, float* out) {
    const std::uint8_t* in = bytes_at(data);
    for (std::int64_t b = 0; b < blocks; ++b, in += 176) {
        const float d = load_half(in), dmin = load_half(in + 2);
        const std::uint8_t* h = in + 16;
        for (int c = 0; c < 4; ++c, out += 64) {
            const ScaleMin low = scale_min(2 * c, in + 4), high = scale_min(2 * c + 1, in + 4);
            const float d0 = d * static_cast<float>(low.scale),
                        m0 = dmin * static_cast<float>(low.min);
            const float d1 = d * static_cast<float>(high.scale),
                        m1 = dmin * static_cast<float>(high.min);
            const std::uint8_t* q = in + 48 + 32 * c;
            for (int l = 0; l < 32; ++l) {
                out[l] = d0 * static_cast<float>((q[l] & 15) + (h[l] >> (2 * c) & 1) * 16) - m0;
                out[l + 32] =
                    d1 * static_cast<float>((q[l] >> 4) + (h[l] >> (2 * c + 1) & 1) * 16) - m1;
            }
        }
    }
}

QSHARD_CLONES void dequantize_q6_k(const std::byte* data, std::int64_t blocks, float* out) {
    const std::uint8_t* in = bytes_at(data);
    for (std::int64_t b = 0; b < blocks; ++b, in += 210) {
        const float d = load_half(in + 208);
        for (int half = 0; half < 2; ++half, out += 128) {
            const std::uint8_t *low = in + 64 * half, *high = in + 128 + 32 * half,
                               *scales = in + 192 + 8 * half;
            for (int part = 0; part < 2; ++part) {  // the 16 columns that share a scale
                float s[4];
                for (int g = 0; g < 4; ++g) {
                    s[g] = d * static_cast<float>(static_cast<std::int8_t>(scales[2 * g + part]));
                }
                for (int l = 16 * part; l < 16 * part + 16; ++l) {
                    const int h = high[l];
                    out[l] = s[0] * static_cast<float>(((low[l] & 15) | (h & 3) << 4) - 32);
                    out[l + 32] =
                        s[1] * static_cast<float>(((low[l + 32] & 15) | (h >> 2 & 3) << 4) - 32);
                    out[l + 64] =
                        s[2] * static_cast<float>(((low[l] >> 4) | (h >> 4 & 3) << 4) - 32);
                    out[l + 96] =
                        s[3] * static_cast<float>(((low[l + 32] >> 4) | (h >> 6) << 4) - 32);
                }
            }
        }
    }
}

constexpr std::array<float, 16> kIq4Values = {-127, -104, -83, -65, -49, -35, -22, -10,
                                              1,    13,   25,  38,  53,  69,  89,  113};

void dequantize_iq4_nl(const std::byte* data, std::int64_t blocks, float* out) {
    const std::uint8_t* in = bytes_at(data);
    for (std::int64_t b = 0; b < blocks; ++b, in += 18, out += 32) {
        const float d = load_half(in);
        for (int j = 0; j < 16; ++j) {
            out[j] = d * kIq4Values[in[2 + j] & 15];
            out[j + 16] = d * kIq4Values[in[2 + j] >> 4];
        }
    }
}

void dequantize_iq4_xs(const std::byte* data, std::int64_t blocks, float* out) {
    const std::uint8_t* in = bytes_at(data);
    for (std::int64_t b = 0; b < blocks; ++b, in += 136) {
        const float d = load_half(in);
        const int high = load_u16(in + 2);
        for (int g = 0; g < 8; ++g, out += 32) {
            const int scale = (in[4 + g / 2] >> (4 * (g % 2)) & 15) | (high >> (2 * g) & 3) << 4;
            const float dl = d * static_cast<float>(scale - 32);
            const std::uint8_t* q = in + 8 + 16 * g;
            for (int j = 0; j < 16; ++j) {
                out[j] = dl * kIq4Values[q[j] & 15];
                out[j + 16] = dl * kIq4Values[q[j] >> 4];
            }
        }
    }
}

constexpr std::array<GgmlTraits, 30> kTraits = {{
    {GgmlType::kF32, "F32", 1, 4, copy_f32},
    {GgmlType::kF16, "F16", 1, 2, expand_f16},
    {GgmlType::kBF16, "BF16", 1, 2, expand_bf16},
    {GgmlType::kQ4_0, "Q4_0", 32, 18, dequantize_q4_0},
    {GgmlType::kQ4_1, "Q4_1", 32, 20, dequantize_q4_1},
    {GgmlType::kQ5_0, "Q5_0", 32, 22, dequantize_q5_0},
    {GgmlType::kQ5_1, "Q5_1", 32, 24, dequantize_q5_1},
    {GgmlType::kQ8_0, "Q8_0", 32, 34, dequantize_q8_0},
    {GgmlType::kQ2_K, "Q2_K", 256, 84, dequantize_q2_k},
    {GgmlType::kQ3_K, "Q3_K", 256, 110, dequantize_q3_k},
    {GgmlType::kQ4_K, "Q4_K", 256, 144, dequantize_q4_k},
    {GgmlType::kQ5_K, "Q5_K", 256, 176, dequantize_q5_k},
    {GgmlType::kQ6_K, "Q6_K", 256, 210, dequantize_q6_k},
    {GgmlType::kIQ4_NL, "IQ4_NL", 32, 18, dequantize_iq4_nl},
    {GgmlType::kIQ4_XS, "IQ4_XS", 256, 136, dequantize_iq4_xs},
    {GgmlType::kIQ2_XXS, "IQ2_XXS", 256, 66, nullptr},
    {GgmlType::kIQ2_XS, "IQ2_XS", 256, 74, nullptr},
    {GgmlType::kIQ3_XXS, "IQ3_XXS", 256, 98, nullptr},
    {GgmlType::kIQ1_S, "IQ1_S", 256, 50, nullptr},
    {GgmlType::kIQ3_S, "IQ3_S", 256, 110, nullptr},
    {GgmlType::kIQ2_S, "IQ2_S", 256, 82, nullptr},
    {GgmlType::kIQ1_M, "IQ1_M", 256, 56, nullptr},
    {GgmlType::kTQ1_0, "TQ1_0", 256, 54, nullptr},
    {GgmlType::kTQ2_0, "TQ2_0", 256, 66, nullptr},
    {GgmlType::kMXFP4, "MXFP4", 32, 17, nullptr},
    {GgmlType::kI8, "I8", 1, 1, nullptr},
    {GgmlType::kI16, "I16", 1, 2, nullptr},
    {GgmlType::kI32, "I32", 1, 4, nullptr},
    {GgmlType::kI64, "I64", 1, 8, nullptr},
    {GgmlType::kF64, "F64", 1, 8, nullptr},
}};

}  // namespace

std::optional<GgmlType> ggml_type(std::uint32_t number) {
    for (const GgmlTraits& traits : kTraits) {
        if (static_cast<std::uint32_t>(traits.type) == number) return traits.type;
    }
    return std::nullopt;
}

const GgmlTraits& traits_of(GgmlType type) {
    for (const GgmlTraits& traits : kTraits) {
        if (traits.type == type) return traits;
    }
    throw BugError("a ggml type has no traits");
}

std::string supported_ggml_types() {
    std::string names;
    for (const GgmlTraits& traits : kTraits) {
        if (traits.dequantize == nullptr) continue;
        if (!names.empty()) names += ", ";
        names += traits.name;
    }
    return names;
}

}  // namespace qshard
