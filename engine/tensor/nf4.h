#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

/// The 4-bit NormalFloat codec and its double quantization, bit-equal to bitsandbytes. (Dettmers et
/// al., "QLoRA", 2023)
namespace qshard {

constexpr std::int64_t kNf4BlockWeights = 64;
constexpr std::int64_t kNestedBlockValues = 256;

constexpr std::array<float, 16> bits_to_floats(const std::array<std::uint32_t, 16>& bits) {
    std::array<float, 16> values{};
    for (std::size_t i = 0; i < 16; ++i) values[i] = std::bit_cast<float>(bits[i]);
    return values;
}

/// Value of each code.
inline constexpr std::array<float, 16> kNf4Table =
    bits_to_floats({0xbf800000, 0xbf3239b1, 0xbf066b30, 0xbeca32a0, 0xbe91a24d, 0xbe3d353f,
                    0xbdba7871, 0x00000000, 0x3da2faff, 0x3e24cae3, 0x3e7c04dd, 0x3ead033a,
                    0x3ee1a4b8, 0x3f1007ab, 0x3f3913b3, 0x3f800000});
/// A value's code is the number of thresholds below it; entry 15 is NaN, below nothing.
inline constexpr std::array<float, 16> kNf4Thresholds =
    bits_to_floats({0xbf591cd8, 0xbf1c5270, 0xbeeb8480, 0xbeadea76, 0xbe703cec, 0xbe0d38bc,
                    0xbd3a7871, 0x3d22faff, 0x3df64862, 0x3e5067e0, 0x3e9582d4, 0x3ec753f9,
                    0x3f006d04, 0x3f248daf, 0x3f5c89da, 0x7fc00000});

/// The signed dynamic 8-bit map, ascending (canonical constants, CRC-32 1b137aeb).
extern const std::array<float, 256> kDynamicMap;

/// Codes and absmax of x, in blocks of 64; the last block may be partial. codes gets
/// ceil(x.size() / 2) bytes, the even element in the high nibble; an odd count ends in code 7.
/// An all-zero block has codes 7 and absmax 0.
void nf4_quantize(std::span<const float> x, std::uint8_t* codes, float* absmax);

/// Values [first, first + out.size()) of a quantized vector: table value times absmax in fp32.
void nf4_dequantize(const std::uint8_t* codes, const float* absmax, std::int64_t first,
                    std::span<float> out);

/// Second level: absmax minus its mean, in blocks of 256, by the dynamic map. q[absmax.size()],
/// absmax2[ceil(size / 256)], offset[1]. The mean is summed in double; torch's fp32 mean can differ
/// in the last bit.
void double_quantize(std::span<const float> absmax, std::uint8_t* q, float* absmax2, float* offset);

/// map[q] * absmax2 + offset, two roundings.
void reconstruct_absmax(std::span<const std::uint8_t> q, const float* absmax2, float offset,
                        float* absmax);

}  // namespace qshard
