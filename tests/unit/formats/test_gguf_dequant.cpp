#include <gtest/gtest.h>

#include <cmath>

#include "base/dtype.h"
#include "files.h"
#include "io/formats/gguf_dequant.h"

using namespace qshard;
using namespace qshard::testing;

namespace {

struct Case {
    GgmlType type;
    std::uint32_t bytes_crc, values_crc;
    float y0, y1, y17, y33;
    std::size_t d, second;  // offsets of the f16 fields; 0 = none
    bool negative_second;
};

void PrintTo(const Case& c, std::ostream* out) {
    *out << traits_of(c.type).name;
}

// 2048 elements of random blocks and ggml's values of them: tests/golden/gguf/make.py.
const Case kCases[] = {
    {GgmlType::kQ4_0, 0x59d0efbb, 0x70956649, 0.0234375f, -0.015625f, 0.0078125f, -0.0242843628f, 0,
     0, false},
    {GgmlType::kQ4_1, 0x6d31c3b3, 0xfab2730e, 0.109291077f, 0.0936660767f, 0.109291077f,
     0.0970535278f, 0, 2, true},
    {GgmlType::kQ5_0, 0x952c15e2, 0x284c87b4, 0.0234375f, 0.1171875f, 0.109375f, -0.113327026f, 0,
     0, false},
    {GgmlType::kQ5_1, 0xc9bdb4fa, 0x1397eaac, 0.156166077f, 0.203041077f, 0.218666077f,
     0.0484848022f, 0, 2, true},
    {GgmlType::kQ8_0, 0x2878a6ee, 0xb6a40ba3, -0.6640625f, -0.828125f, 0.9765625f, -0.20236969f, 0,
     0, false},
    {GgmlType::kQ2_K, 0x424a5290, 0x9dcb0e53, 0.0390625f, 0.1171875f, 0.1785965f, -0.07896423f, 80,
     82, false},
    {GgmlType::kQ3_K, 0x3f82179a, 0xb37004af, 0.078125f, -0.078125f, -0.0f, 0.5625f, 108, 0, false},
    {GgmlType::kQ4_K, 0x192c024b, 0xa2b17d2f, -0.174980164f, 0.0593948364f, 0.528144836f,
     0.26335907f, 0, 2, false},
    {GgmlType::kQ5_K, 0x8589fc3d, 0x96c78f16, 3.10626984f, 1.58283234f, 1.70001984f, 8.84148407f, 0,
     2, false},
    {GgmlType::kQ6_K, 0x244dd439, 0x11997315, 8.765625f, -9.5625f, 1.359375f, -22.4609375f, 208, 0,
     false},
    {GgmlType::kIQ4_NL, 0x59d0efbb, 0xa696bd87, 0.296875f, -0.171875f, 0.1015625f, -0.28331757f, 0,
     0, false},
    {GgmlType::kIQ4_XS, 0x3518c337, 0x802de9cf, -8.4765625f, 9.203125f, 16.710938f, 2.15625f, 0, 0,
     false},
};

std::vector<std::uint8_t> golden_blocks(const Case& c) {
    const GgmlTraits& traits = traits_of(c.type);
    const auto blocks = static_cast<std::size_t>(2048 / traits.block_count);
    std::vector<std::uint8_t> bytes(blocks * traits.block_bytes);
    Lcg random{2024};
    for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random.next() >> 24);
    const auto put = [&](std::size_t at, std::size_t value) {
        bytes[at] = static_cast<std::uint8_t>(value & 255u);
        bytes[at + 1] = static_cast<std::uint8_t>(value >> 8);
    };
    for (std::size_t k = 0; k < blocks; ++k) {
        put(k * traits.block_bytes + c.d, 0x2000 + 37 * k % 1024);
        if (c.second > 0) {
            put(k * traits.block_bytes + c.second,
                (0x2000 + (37 * k + 11) % 1024) | (c.negative_second ? 0x8000u : 0u));
        }
    }
    return bytes;
}

class Dequantize : public ::testing::TestWithParam<Case> {};

TEST_P(Dequantize, GivesGgmlsBits) {
    const Case& c = GetParam();
    const GgmlTraits& traits = traits_of(c.type);
    const std::vector<std::uint8_t> bytes = golden_blocks(c);
    ASSERT_EQ(crc_of<std::uint8_t>(bytes), c.bytes_crc);
    std::vector<float> y(2048);
    traits.dequantize(reinterpret_cast<const std::byte*>(bytes.data()), 2048 / traits.block_count,
                      y.data());
    EXPECT_EQ(y[0], c.y0);
    EXPECT_EQ(y[1], c.y1);
    EXPECT_EQ(y[17], c.y17);
    EXPECT_EQ(y[33], c.y33);
    EXPECT_EQ(crc_of<float>(y), c.values_crc);
}

INSTANTIATE_TEST_SUITE_P(Types, Dequantize, ::testing::ValuesIn(kCases), [](const auto& test) {
    return std::string(traits_of(test.param.type).name);
});

}  // namespace

TEST(DequantizePlain, EveryHalfAndEveryBf16) {
    std::vector<std::uint16_t> bits(65536);
    for (std::size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<std::uint16_t>(i);
    std::vector<float> half(65536), brain(65536);
    const auto* data = reinterpret_cast<const std::byte*>(bits.data());
    traits_of(GgmlType::kF16).dequantize(data, 65536, half.data());
    traits_of(GgmlType::kBF16).dequantize(data, 65536, brain.data());
    for (std::size_t i = 0; i < bits.size(); ++i) {
        const float wanted = half_to_float(bits[i]);
        ASSERT_EQ(std::bit_cast<std::uint32_t>(half[i]), std::bit_cast<std::uint32_t>(wanted)) << i;
        ASSERT_EQ(std::bit_cast<std::uint32_t>(brain[i]), static_cast<std::uint32_t>(i) << 16);
    }
}

TEST(DequantizeIq4, FollowsItsTable) {
    // d = 0.5; nibbles 0 and 15 are -127 and 113.
    std::vector<std::uint8_t> block(18, 0xf0);
    block[0] = 0x00;
    block[1] = 0x38;
    std::vector<float> y(32);
    traits_of(GgmlType::kIQ4_NL)
        .dequantize(reinterpret_cast<const std::byte*>(block.data()), 1, y.data());
    EXPECT_EQ(y[0], -63.5f);
    EXPECT_EQ(y[31], 56.5f);

    // Group 3 has the scale (low 0xa, high 2) = 42, minus 32: 10.
    std::vector<std::uint8_t> super(136, 0);
    super[1] = 0x38;
    super[2] = 2 << 6;
    super[4 + 1] = 0xa0;
    super[8 + 3 * 16] = 0x79;
    std::vector<float> z(256);
    traits_of(GgmlType::kIQ4_XS)
        .dequantize(reinterpret_cast<const std::byte*>(super.data()), 1, z.data());
    EXPECT_EQ(z[96], 0.5f * 10.0f * 13.0f);
    EXPECT_EQ(z[112], 0.5f * 10.0f * -10.0f);
    EXPECT_EQ(z[0], 0.5f * -32.0f * -127.0f);
}
