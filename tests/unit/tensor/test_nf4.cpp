#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "tensor/int8.h"
#include "tensor/nf4.h"

namespace qshard {
namespace {

template <class T>
std::string crc_of(const T* data, std::size_t count) {
    const auto value =
        crc32(0, reinterpret_cast<const Bytef*>(data), static_cast<uInt>(count * sizeof(T)));
    char text[9];
    std::snprintf(text, sizeof text, "%08lx", value);
    return text;
}

template <class T>
std::string crc_of(const std::vector<T>& values) {
    return crc_of(values.data(), values.size());
}

std::string hex_bits(float value) {
    char text[9];
    std::snprintf(text, sizeof text, "%08x", std::bit_cast<std::uint32_t>(value));
    return text;
}

float round_bf16(float x) {
    return to_float(to_bf16(x));
}

/// The generator G of the golden files, rounded to bf16.
std::vector<float> generate(std::size_t count, std::uint32_t seed) {
    std::vector<float> x(count);
    std::uint32_t s = seed;
    for (float& value : x) {
        s = s * 1664525u + 1013904223u;
        const double unit = (static_cast<double>(s >> 8) - 8388608.0) / 8388608.0;
        value = round_bf16(static_cast<float>(unit) * 0.05f);
    }
    return x;
}

struct Quantized {
    std::vector<std::uint8_t> codes, q;
    std::vector<float> absmax, absmax2, rebuilt;
    float offset = 0;
};

Quantized quantize(const std::vector<float>& x, const FourBitCode& code = kNf4Code) {
    Quantized r;
    const std::size_t blocks = (x.size() + 63) / 64;
    r.codes.resize((x.size() + 1) / 2);
    r.absmax.resize(blocks);
    quantize_four_bit(code, x, r.codes.data(), r.absmax.data());
    r.q.resize(blocks);
    r.absmax2.resize((blocks + 255) / 256);
    r.offset = mean_absmax(r.absmax);
    double_quantize(r.absmax, r.offset, r.q.data(), r.absmax2.data());
    r.rebuilt.resize(blocks);
    reconstruct_absmax(r.q, r.absmax2.data(), r.offset, r.rebuilt.data());
    return r;
}

std::vector<float> dequantize(const Quantized& r, const std::vector<float>& absmax,
                              std::size_t count, const FourBitCode& code = kNf4Code) {
    std::vector<float> values(count);
    dequantize_four_bit(code, r.codes.data(), absmax.data(), 0, values);
    return values;
}

std::vector<std::uint16_t> bf16_bits(const std::vector<float>& x) {
    std::vector<std::uint16_t> bits;
    for (float value : x) bits.push_back(to_bf16(value).bits);
    return bits;
}

TEST(Nf4, ConstantsHaveTheirChecksums) {
    EXPECT_EQ(crc_of(kNf4Table.data(), 16), "c471f81a");
    EXPECT_EQ(crc_of(kDynamicMap.data(), 256), "1b137aeb");
    for (std::size_t i = 0; i + 1 < 16; ++i) {
        EXPECT_EQ(kNf4Code.thresholds[i], (kNf4Table[i] + kNf4Table[i + 1]) / 2) << i;
    }
}

TEST(Nf4, ValueOnThresholdTakesLowerCode) {
    std::vector<float> x(64, 0.0f);
    x[0] = 1.0f;
    for (std::size_t t = 0; t < 15; ++t) {
        x[1 + 2 * t] = kNf4Code.thresholds[t];
        x[2 + 2 * t] = std::nextafter(kNf4Code.thresholds[t], 2.0f);
    }
    const Quantized r = quantize(x);
    for (std::size_t t = 0; t < 15; ++t) {
        EXPECT_EQ(r.codes[t] & 15u, t);
        EXPECT_EQ(r.codes[t + 1] >> 4, static_cast<int>(t + 1));
    }
}

/// Values of blocks of every magnitude: around the thresholds, subnormal, infinite, NaN, -0.
std::vector<bf16> hard_values(const FourBitCode& code) {
    std::vector<bf16> values;
    std::uint32_t s = 1;
    const auto random = [&s] { return (s = s * 1664525u + 1013904223u) >> 8; };
    const auto bits = [](std::uint32_t b) { return bf16{static_cast<std::uint16_t>(b)}; };
    for (std::uint32_t block = 0; block < 20000; ++block) {
        const std::uint32_t largest = block < 0x4000 ? 2 * block : random() % 0x8000;
        for (std::size_t i = 0; i < 60; ++i) {
            const std::uint32_t near =
                to_bf16(code.thresholds[i / 4] * to_float(bits(largest))).bits;
            values.push_back(bits(near + static_cast<std::uint32_t>(i % 4) - 2));
        }
        values.push_back(bits(largest));
        values.push_back(bits(block % 2 == 0 ? 0x8000 : 0));
        values.push_back(bits(random()));
        values.push_back(bits(random() % 0x80));
        std::rotate(values.end() - 64, values.end() - 64 + random() % 64, values.end());
        if (block % 2 == 0) {  // nothing greater than `largest`
            for (auto value = values.end() - 64; value != values.end(); ++value) {
                if ((value->bits & 0x7fffu) > largest) *value = bits(0);
            }
        }
    }
    values.resize(values.size() - 37);
    return values;
}

TEST(Nf4, CodesOfBf16AreThoseOfFloats) {
    for (const FourBitCode& code : {kNf4Code, kFp4Code}) {
        const std::vector<bf16> x = hard_values(code);
        std::vector<float> floats;
        for (bf16 value : x) floats.push_back(to_float(value));
        const std::size_t blocks = (x.size() + 63) / 64;
        std::vector<std::uint8_t> want((x.size() + 1) / 2), codes(want.size());
        std::vector<float> want_absmax(blocks), absmax(blocks);
        quantize_four_bit(code, floats, want.data(), want_absmax.data());
        quantize_four_bit(code, x, codes.data(), absmax.data());
        EXPECT_EQ(crc_of(absmax), crc_of(want_absmax));
        for (std::size_t i = 0; i < codes.size(); ++i)
            ASSERT_EQ(codes[i], want[i]) << "at " << 2 * i << ", absmax " << absmax[i / 32];
    }
}

/// The rule of bitsandbytes' CUDA kernel, value by value.
std::uint8_t nearest_of_map(float x) {
    int pivot = 127, lower = 0, upper = 255;
    for (int step = 64; step > 0; step /= 2) {
        const bool above = x > kDynamicMap[static_cast<std::size_t>(pivot)];
        (above ? lower : upper) = pivot;
        pivot += above ? step : -step;
    }
    const float value = kDynamicMap[static_cast<std::size_t>(pivot)];
    const auto middle = [value](int other) {
        return (kDynamicMap[static_cast<std::size_t>(other)] + value) * 0.5f;
    };
    if (x > value) return static_cast<std::uint8_t>(x > middle(upper) ? upper : pivot);
    return static_cast<std::uint8_t>(x < middle(lower) ? lower : pivot);
}

TEST(Nf4, SecondLevelTakesTheNearestEntry) {
    std::vector<float> x;
    for (std::size_t i = 0; i < 255; ++i) {
        const float middle = (kDynamicMap[i] + kDynamicMap[i + 1]) * 0.5f;
        for (const float value : {kDynamicMap[i], middle}) {
            const float below = std::nextafter(value, -2.0f), above = std::nextafter(value, 2.0f);
            x.insert(x.end(), {std::nextafter(below, -2.0f), below, value, above,
                               std::nextafter(above, 2.0f)});
        }
    }
    for (std::uint32_t bits = 0; bits <= 0x3f800000; bits += 4099) {
        x.push_back(std::bit_cast<float>(bits));
        x.push_back(-x.back());
    }
    x.resize(x.size() / 255 * 255);
    std::vector<float> values;  // in blocks of scale 1
    for (std::size_t i = 0; i < x.size(); ++i) {
        if (i % 255 == 0) values.push_back(1.0f);
        values.push_back(std::fabs(x[i]) <= 1 ? x[i] : 0.0f);
    }
    std::vector<std::uint8_t> codes(values.size());
    std::vector<float> absmax2(values.size() / 256);
    double_quantize(values, 0.0f, codes.data(), absmax2.data());
    EXPECT_EQ(absmax2, std::vector<float>(absmax2.size(), 1.0f));
    for (std::size_t i = 0; i < values.size(); ++i)
        ASSERT_EQ(codes[i], nearest_of_map(values[i])) << values[i];
}

TEST(Nf4, SecondLevelOfEqualValuesIsZero) {
    const std::vector<float> equal(300, 0.25f);
    std::vector<std::uint8_t> codes(300, 9);
    std::vector<float> absmax2(2, 9);
    double_quantize(equal, 0.25f, codes.data(), absmax2.data());
    EXPECT_EQ(codes, std::vector<std::uint8_t>(300, 0));
    EXPECT_EQ(absmax2, std::vector<float>(2, 0));
}

TEST(Nf4, VectorOfTwoAndAHalfBlocks) {
    const std::vector<float> x = generate(160, 12345);
    const Quantized r = quantize(x);
    EXPECT_EQ(hex_bits(r.absmax[0]), "3d4a0000");
    EXPECT_EQ(hex_bits(r.absmax[2]), "3d440000");
    EXPECT_EQ(crc_of(r.codes), "b700a92e");
    EXPECT_EQ(crc_of(bf16_bits(dequantize(r, r.absmax, 160))), "9a3739fb");
}

TEST(Nf4, DoubleQuantizationOfThreeHundredBlocks) {
    std::vector<float> x = generate(19200, 777);
    for (std::size_t i = 0; i < x.size(); ++i) {
        const auto k = static_cast<float>(1 + static_cast<double>((i / 64 * 7919) % 97) / 97.0);
        x[i] = round_bf16(x[i] * k);
    }
    const Quantized r = quantize(x);
    EXPECT_EQ(crc_of(r.codes), "12799f7c");
    EXPECT_EQ(crc_of(r.absmax), "ee2383d1");
    EXPECT_EQ(hex_bits(r.offset), "3d9691ec");
    EXPECT_EQ(crc_of(r.q), "21c365f0");
    EXPECT_EQ(hex_bits(r.absmax2[0]), "3cd1b850");
    EXPECT_EQ(hex_bits(r.absmax2[1]), "3cc447b0");
    EXPECT_EQ(crc_of(r.rebuilt), "f6314aec");
}

std::string crc(const boost::json::value& array) {
    return std::string(array.at("crc32").as_string());
}

void expect_four_bit(const boost::json::value& golden, const FourBitCode& code,
                     const std::vector<float>& x) {
    const auto& nested = golden.at("double");
    const Quantized r = quantize(x, code);
    EXPECT_EQ(crc_of(r.codes), crc(golden.at("packed")));
    EXPECT_EQ(crc_of(r.absmax), crc(golden.at("absmax")));
    EXPECT_EQ(crc_of(bf16_bits(dequantize(r, r.absmax, x.size(), code))),
              crc(golden.at("dequantized_bf16")));
    EXPECT_EQ(hex_bits(r.offset), nested.at("offset_from_double_mean").as_string());
    EXPECT_EQ(crc_of(r.q), crc(nested.at("codes")));
    EXPECT_EQ(crc_of(r.absmax2), crc(nested.at("absmax2")));
    EXPECT_EQ(crc_of(r.rebuilt), crc(nested.at("rebuilt_absmax")));
    EXPECT_EQ(crc_of(dequantize(r, r.rebuilt, x.size(), code)), crc(nested.at("dequantized_f32")));
}

void expect_int8(const boost::json::value& golden, const std::vector<float>& x, std::size_t cols) {
    std::vector<float> values = x, scb(x.size() / cols);
    std::vector<std::int8_t> codes(x.size());
    for (std::size_t row = 0; row < scb.size(); ++row) {
        const std::span<float> line(values.data() + row * cols, cols);
        quantize_int8_row(line, codes.data() + row * cols, &scb[row]);
    }
    EXPECT_EQ(crc_of(codes), crc(golden.at("codes")));
    EXPECT_EQ(crc_of(scb), crc(golden.at("scb")));
    dequantize_int8(codes.data(), scb.data(), static_cast<std::int64_t>(cols), 0, values);
    EXPECT_EQ(crc_of(values), crc(golden.at("dequantized_f32")));
}

TEST(Int8, OddValuesStayInRange) {
    std::vector<float> row = {0.0f, -0.0f, 0.0f};
    std::vector<std::int8_t> codes(3, 5);
    float absmax = 1;
    quantize_int8_row(row, codes.data(), &absmax);
    EXPECT_EQ(absmax, 0.0f);
    EXPECT_EQ(codes, std::vector<std::int8_t>(3, 0));
    row = {1.0f, -1.0f, 0.5f / 127, 1.5f / 127, -0.49f / 127};
    codes.resize(5);
    quantize_int8_row(row, codes.data(), &absmax);
    EXPECT_EQ(codes[0], 127);
    EXPECT_EQ(codes[1], -127);
    EXPECT_EQ(codes[4], 0);
}

/// Every case of tests/golden/nf4/nf4.json: inputs regenerated, arrays compared by CRC-32.
TEST(Codecs, MatchBitsandbytes) {
    std::ifstream file(QSHARD_TEST_DATA "/golden/nf4/nf4.json");
    ASSERT_TRUE(file) << "tests/golden/nf4/nf4.json is missing";
    std::stringstream text;
    text << file.rdbuf();
    const boost::json::value golden = boost::json::parse(text.str());
    for (const auto& item : golden.at("cases").as_array()) {
        SCOPED_TRACE(std::string(item.at("name").as_string()));
        const auto count =
            static_cast<std::size_t>(item.at("rows").as_int64() * item.at("cols").as_int64());
        std::vector<float> x =
            generate(count, static_cast<std::uint32_t>(item.at("seed").as_int64()));
        const int exponent = static_cast<int>(item.at("exponent").as_int64());
        for (std::size_t i = 0; i < count; ++i) {
            if (item.at("block_scale").as_bool()) {
                const auto k =
                    static_cast<float>(1 + static_cast<double>((i / 64 * 7919) % 97) / 97.0);
                x[i] = round_bf16(x[i] * k);
            }
            x[i] = std::ldexp(x[i], exponent);
            for (const auto& block : item.at("zero_blocks").as_array()) {
                if (static_cast<std::int64_t>(i / 64) == block.as_int64()) x[i] = 0;
            }
        }
        ASSERT_EQ(crc_of(bf16_bits(x)), crc(item.at("input_bf16")));
        expect_four_bit(item.at("nf4"), kNf4Code, x);
        if (const auto* fp4 = item.as_object().if_contains("fp4"))
            expect_four_bit(*fp4, kFp4Code, x);
        if (const auto* int8 = item.as_object().if_contains("int8")) {
            expect_int8(*int8, x, static_cast<std::size_t>(item.at("cols").as_int64()));
        }
    }
}

}  // namespace
}  // namespace qshard
