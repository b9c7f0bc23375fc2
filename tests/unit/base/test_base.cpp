#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>

#include "base/dtype.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/nearest.h"
#include "base/philox.h"

using namespace qshard;

TEST(Dtype, Bf16RoundsToNearestEvenAgainstDoubleArithmetic) {
    for (std::uint32_t i = 0; i < 200000; ++i) {
        const std::uint32_t u = i * 21523u;  // spread over the positive floats
        const float x = std::bit_cast<float>(u & 0x7fffffffu);
        if (!std::isfinite(x)) continue;
        const float lower =
            to_float(bf16{static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x) >> 16)});
        const float upper =
            to_float(bf16{static_cast<std::uint16_t>((std::bit_cast<std::uint32_t>(x) >> 16) + 1)});
        const float got = to_float(to_bf16(x));
        if (!std::isfinite(upper)) continue;
        const double below = double{x} - double{lower}, above = double{upper} - double{x};
        const bool even_is_lower = ((std::bit_cast<std::uint32_t>(x) >> 16) & 1u) == 0;
        const float want = below < above   ? lower
                           : above < below ? upper
                           : even_is_lower ? lower
                                           : upper;
        ASSERT_EQ(got, want) << x;
    }
    EXPECT_TRUE(std::isnan(to_float(to_bf16(std::nanf("")))));
    EXPECT_EQ(to_bf16(INFINITY).bits, 0x7f80);
}

TEST(Dtype, EveryHalfSurvivesTheRoundTrip) {
    for (std::uint32_t h = 0; h < 65536; ++h) {
        const float x = half_to_float(static_cast<std::uint16_t>(h));
        if (std::isnan(x)) {
            EXPECT_TRUE(std::isnan(half_to_float(float_to_half(x))));
        } else {
            ASSERT_EQ(float_to_half(x), h) << h;
        }
    }
    EXPECT_EQ(float_to_half(65519.0f), 0x7bff);
    EXPECT_EQ(float_to_half(65520.0f), 0x7c00);
    EXPECT_EQ(float_to_half(0x1p-25f), 0);  // tie to even
    EXPECT_EQ(float_to_half(0x1.8p-25f), 1);
}

TEST(Philox, KnownAnswersOfTheRandom123Distribution) {
    EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
              (PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
    EXPECT_EQ(
        philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
        (PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
    EXPECT_EQ(
        philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
        (PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Hash, Sha256OfAbc) {
    EXPECT_EQ(sha256_hex(std::string("abc")),
              "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Error, CheckNamesThePlaceAndCodesAreCarried) {
    try {
        check(false, "the sky is green");
        FAIL();
    } catch (const BugError& error) {
        EXPECT_NE(std::string(error.what()).find("test_base.cpp"), std::string::npos);
        EXPECT_EQ(error.code(), ExitCode::kBug);
    }
    EXPECT_THROW(narrow<std::int32_t>(std::int64_t{1} << 40), BugError);
    EXPECT_EQ(narrow<std::int32_t>(std::int64_t{7}), 7);
}

TEST(Nearest, OnlyWordsThatAreNear) {
    EXPECT_EQ(edit_distance("trian", "train"), 1u) << "neighbours swapped";
    EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
    const std::vector<std::string> words{"train", "eval", "--max-new-tokens", "r"};
    EXPECT_EQ(nearest("trian", words), "train");
    EXPECT_EQ(nearest("--Max_New_Token", words), "--max-new-tokens");
    for (const char* far : {"lr", "x", "", "generate", "trainer_of_models"})
        EXPECT_FALSE(nearest(far, words)) << far;
    EXPECT_EQ(did_you_mean("evall", words), "; did you mean eval?");
    EXPECT_EQ(did_you_mean("quux", words), "");
}
