#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/dtype.h"

/// The 4-bit codecs NF4 (NormalFloat) and FP4, and the double quantization of their scales,
/// bit-equal to bitsandbytes. (Dettmers et al., "QLoRA", 2023)
namespace qshard {

constexpr std::int64_t kFourBitBlockWeights = 64;
constexpr std::int64_t kNestedBlockValues = 256;

constexpr std::array<float, 16> bits_to_floats(const std::array<std::uint32_t, 16>& bits) {
    std::array<float, 16> values{};
    for (std::size_t i = 0; i < 16; ++i) values[i] = std::bit_cast<float>(bits[i]);
    return values;
}

/// One 4-bit code.
struct FourBitCode {
    std::array<float, 16> table;  ///< value of each code
    /// A value's rank is the number of thresholds below it; entry 15 is NaN, below nothing.
    std::array<float, 16> thresholds;
    std::array<std::uint8_t, 16> by_rank;  ///< code of each rank
};

/// Values of NF4's codes: ascending, so that a code is its rank.
inline constexpr std::array<float, 16> kNf4Table =
    bits_to_floats({0xbf800000, 0xbf3239b1, 0xbf066b30, 0xbeca32a0, 0xbe91a24d, 0xbe3d353f,
                    0xbdba7871, 0x00000000, 0x3da2faff, 0x3e24cae3, 0x3e7c04dd, 0x3ead033a,
                    0x3ee1a4b8, 0x3f1007ab, 0x3f3913b3, 0x3f800000});
/// Values of FP4's codes: the high bit is the sign, also of zero.
inline constexpr std::array<float, 16> kFp4Table =
    bits_to_floats({0x00000000, 0x3baaaaab, 0x3f2aaaab, 0x3f800000, 0x3eaaaaab, 0x3f000000,
                    0x3e2aaaab, 0x3e800000, 0x80000000, 0xbbaaaaab, 0xbf2aaaab, 0xbf800000,
                    0xbeaaaaab, 0xbf000000, 0xbe2aaaab, 0xbe800000});

inline constexpr FourBitCode kNf4Code = {
    kNf4Table,
    bits_to_floats({0xbf591cd8, 0xbf1c5270, 0xbeeb8480, 0xbeadea76, 0xbe703cec, 0xbe0d38bc,
                    0xbd3a7871, 0x3d22faff, 0x3df64862, 0x3e5067e0, 0x3e9582d4, 0x3ec753f9,
                    0x3f006d04, 0x3f248daf, 0x3f5c89da, 0x7fc00000}),
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}};
/// Thresholds are those of bitsandbytes on the CPU (midpoints of the sorted table); its CUDA kernel
/// differs by some ulps and breaks negative ties toward zero.
inline constexpr FourBitCode kFp4Code = {
    kFp4Table,
    bits_to_floats({0xbf555556, 0xbf155556, 0xbed55556, 0xbe955556, 0xbe555556, 0xbdb00000,
                    0xbb2aaaab, 0x00000000, 0x3b2aaaab, 0x3db00000, 0x3e555556, 0x3e955556,
                    0x3ed55556, 0x3f155556, 0x3f555556, 0x7fc00000}),
    {11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3}};

/// The signed dynamic 8-bit map, ascending (canonical constants, CRC-32 1b137aeb).
extern const std::array<float, 256> kDynamicMap;

/// Codes and absmax of x, in blocks of 64; the last block may be partial. codes gets
/// ceil(x.size() / 2) bytes, the even element in the high nibble; an odd count ends in the code of
/// zero. An all-zero block has codes of zero and absmax 0.
void quantize_four_bit(const FourBitCode& code, std::span<const float> x, std::uint8_t* codes,
                       float* absmax);
/// The same codes for values that are bf16, in half the time: they are not made floats.
void quantize_four_bit(const FourBitCode& code, std::span<const bf16> x, std::uint8_t* codes,
                       float* absmax);

/// Values [first, first + out.size()) of a quantized vector: table value times absmax in fp32.
void dequantize_four_bit(const FourBitCode& code, const std::uint8_t* codes, const float* absmax,
                         std::int64_t first, std::span<float> out);

/// The offset of the second level: the mean of all of a matrix's absmax. It is summed in double;
/// torch's fp32 mean can differ in the last bit.
float mean_absmax(std::span<const float> absmax);
/// Second level: absmax minus `mean`, in blocks of 256 from the first on, by the dynamic map.
/// q[absmax.size()], absmax2[ceil(size / 256)].
void double_quantize(std::span<const float> absmax, float mean, std::uint8_t* q, float* absmax2);

/// map[q] * absmax2 + offset, two roundings.
void reconstruct_absmax(std::span<const std::uint8_t> q, const float* absmax2, float offset,
                        float* absmax);

}  // namespace qshard
