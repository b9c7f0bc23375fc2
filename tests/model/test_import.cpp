#include <gtest/gtest.h>

#include <cstring>
#include <mutex>

#include "comm/agree.h"
#include "comm/threads.h"
#include "place/import.h"
#include "synthetic.h"
#include "tensor/int8.h"
#include "tensor/rounding.h"

/// What ranks import together is what one loop makes of whole matrices, whatever was in the memory.
namespace qshard {
namespace {

struct Case {
    Quantization quantization;
    bool double_quant;
    DType plain_dtype, source_dtype;
};

/// Matrices of several tasks, one of an odd number of half blocks.
ModelConfig config() {
    ModelConfig c = test::small_config();
    c.layers = 1;
    c.layer.resize(1);
    c.width = 96;
    c.ffn_width = 1001;
    return c;
}

/// Values that bf16 does not hold, said to be of any dtype.
class Source final : public WeightReader {
  public:
    explicit Source(DType dtype, bool broken = false) : dtype_(dtype), broken_(broken) {}
    /// Element `at` of one weight is not finite.
    Source(DType dtype, std::string weight, std::int64_t at)
        : dtype_(dtype), weight_(std::move(weight)), at_(at) {}
    const ModelConfig& config() const override { return bf16_.config(); }
    DType source_dtype(const WeightSpec&) const override { return dtype_; }
    void read(const WeightSpec& weight, std::int64_t first, std::span<float> out) const override {
        if (broken_) throw SystemError(ExitCode::kIo, "the disk is broken");
        bf16_.read(weight, first, out);
        for (float& value : out) value *= 1.0078f;
        if (weight.name == weight_ && at_ >= first && at_ < first + std::ssize(out)) {
            out[static_cast<std::size_t>(at_ - first)] =
                at_ % 4 == 0 ? std::numeric_limits<float>::quiet_NaN()
                             : -std::numeric_limits<float>::infinity();
        }
    }
    std::string sha256() const override { return "source"; }
    std::int64_t file_bytes() const override { return 0; }

  private:
    test::SyntheticReader bf16_{qshard::config()};
    DType dtype_;
    bool broken_ = false;
    std::string weight_;
    std::int64_t at_ = 0;
};

template <class T>
void put(std::vector<std::byte>& unit, std::size_t begin, const std::vector<T>& values) {
    std::memcpy(unit.data() + begin, values.data(), values.size() * sizeof(T));
}

void expect_field(const Field& field, const WeightReader& reader, DType plain_dtype,
                  std::vector<std::byte>& unit) {
    std::vector<float> values(static_cast<std::size_t>(field.weight.count()));
    reader.read(field.weight, 0, values);
    const bool vector = field.weight.rows == 1;
    if (!vector && rounds_on_import(reader, field.weight, plain_dtype)) round_to_bf16(values);
    std::vector<float> absmax(static_cast<std::size_t>(field.blocks));
    if (field.storage == Storage::kPlain && field.dtype == DType::kF32) {
        put(unit, field.data, values);
    } else if (field.storage == Storage::kPlain) {
        std::vector<bf16> rounded(values.size());
        convert_to_bf16(values, rounded.data());
        put(unit, field.data, rounded);
    } else if (field.storage == Storage::kInt8) {
        std::vector<std::int8_t> codes(values.size());
        const auto cols = static_cast<std::size_t>(field.weight.cols);
        for (std::size_t row = 0; row < absmax.size(); ++row)
            quantize_int8_row(std::span(values).subspan(row * cols, cols),
                              codes.data() + row * cols, &absmax[row]);
        put(unit, field.data, codes);
        put(unit, field.absmax, absmax);
    } else {
        std::vector<std::uint8_t> codes((values.size() + 1) / 2);
        quantize_four_bit(four_bit_code(field.storage), std::span<const float>(values),
                          codes.data(), absmax.data());
        put(unit, field.data, codes);
        if (!field.double_quant) return put(unit, field.absmax, absmax);
        const float mean = mean_absmax(absmax);
        std::vector<std::uint8_t> nested(absmax.size());
        std::vector<float> absmax2((absmax.size() + kNestedBlock - 1) / kNestedBlock);
        double_quantize(absmax, mean, nested.data(), absmax2.data());
        put(unit, field.absmax, nested);
        put(unit, field.absmax2, absmax2);
        put(unit, field.offset, std::vector<float>{mean});
    }
}

class Import : public testing::TestWithParam<Case> {};

TEST_P(Import, IsOneLoopOverWholeMatricesOnAnyNumberOfRanks) {
    const Case& c = GetParam();
    const Source source(c.source_dtype);
    const LayoutOptions options{c.quantization, c.double_quant, c.plain_dtype, {}};
    for (const UnitLayout& unit : make_layout(source.config(), options).units) {
        std::vector<std::byte> want(unit.bytes);
        for (const Field& field : unit.fields) expect_field(field, source, c.plain_dtype, want);
        for (const int ranks : {1, 2, 3, 8}) {
            const std::size_t bytes = unit.shard_bytes(ranks);
            std::vector<std::byte> got(bytes * static_cast<std::size_t>(ranks), std::byte{0xa5});
            want.resize(got.size());
            run_threads(ranks, [&](Communicator& group) {
                const std::size_t begin = bytes * static_cast<std::size_t>(group.rank());
                import_unit(source, unit, options, group, ranks,
                            std::span(got).subspan(begin, bytes));
            });
            EXPECT_TRUE(got == want) << unit.name << " on " << ranks << " ranks";
            want.resize(unit.bytes);
        }
    }
}

TEST_P(Import, WhatOneRankCannotReadEndsAllWithItsMessage) {
    const Case& c = GetParam();
    const LayoutOptions options{c.quantization, c.double_quant, c.plain_dtype, {}};
    const ModelLayout layout = make_layout(config(), options);
    const UnitLayout& unit = layout.units[layout.layer_unit(0)];
    int ended = 0;
    std::mutex mutex;
    run_threads(3, [&](Communicator& group) {
        const Source source(c.source_dtype, group.rank() == 1);
        std::vector<std::byte> shard(unit.shard_bytes(3));
        try {
            import_unit(source, unit, options, group, 2, shard);
        } catch (const AgreedError& error) {
            EXPECT_EQ(error.code(), ExitCode::kIo);
            EXPECT_NE(std::string(error.what()).find(": the disk is broken"), std::string::npos);
            EXPECT_EQ(std::string(error.what()).find("rank 1 on "), 0u);
            const std::lock_guard lock(mutex);
            ++ended;
        }
        EXPECT_EQ(group.all_gather_value(group.rank()), (std::vector<int>{0, 1, 2}));
    });
    EXPECT_EQ(ended, 3);
}

TEST_P(Import, AValueThatIsNotFiniteIsNamed) {
    const Case& c = GetParam();
    const LayoutOptions options{c.quantization, c.double_quant, c.plain_dtype, {}};
    const ModelLayout layout = make_layout(config(), options);
    const UnitLayout& unit = layout.units[layout.layer_unit(0)];
    for (const Field& field : unit.fields) {
        const std::int64_t at = field.weight.count() - 2;
        const Source source(c.source_dtype, field.weight.name, at);
        std::string message;
        run_threads(2, [&](Communicator& group) {
            std::vector<std::byte> shard(unit.shard_bytes(2));
            try {
                import_unit(source, unit, options, group, 2, shard);
            } catch (const AgreedError& error) {
                EXPECT_EQ(error.code(), ExitCode::kBadInput);
                if (group.rank() == 0) message = error.what();
            }
        });
        EXPECT_NE(message.find(fmt::format("\"{}\" has the value", field.weight.name)),
                  std::string::npos)
            << field.weight.name << ": " << message;
        EXPECT_NE(message.find(fmt::format("row {}, column {};", at / field.weight.cols,
                                           at % field.weight.cols)),
                  std::string::npos)
            << message;
    }
}

INSTANTIATE_TEST_SUITE_P(
    All, Import,
    testing::Values(Case{Quantization::kNf4, true, DType::kBF16, DType::kBF16},
                    Case{Quantization::kNf4, true, DType::kF32, DType::kF32},
                    Case{Quantization::kNf4, false, DType::kBF16, DType::kF16},
                    Case{Quantization::kFp4, true, DType::kF32, DType::kBF16},
                    Case{Quantization::kFp4, false, DType::kF32, DType::kF16},
                    Case{Quantization::kInt8, false, DType::kBF16, DType::kBF16},
                    Case{Quantization::kInt8, false, DType::kF32, DType::kF32},
                    Case{Quantization::kNone, false, DType::kBF16, DType::kBF16},
                    Case{Quantization::kNone, false, DType::kF32, DType::kF32}));

}  // namespace
}  // namespace qshard
