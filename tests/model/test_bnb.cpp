#include <gtest/gtest.h>

#include <cstring>

#include "backend/device_arena.h"
#include "comm/threads.h"
#include "golden_files.h"
#include "io/formats/model_reader.h"
#include "place/import.h"
#include "place/weight_sources.h"
#include "synthetic.h"
#include "train/inference.h"

/// Folders that transformers and bitsandbytes saved quantized: taken byte for byte whatever the
/// number of ranks, and computed with as bitsandbytes computes.
namespace qshard {
namespace {

std::string folder_of(const std::string& kind) {
    return std::string(QSHARD_TEST_DATA "/golden/bnb/") + kind;
}

/// Units of a model imported by `ranks` ranks, put together again.
struct Imported {
    std::unique_ptr<WeightReader> reader;
    ModelLayout layout;
    std::vector<std::vector<std::byte>> units;

    Imported(const std::string& kind, int ranks, DType plain_dtype) {
        reader = open_model(folder_of(kind));
        const LayoutOptions options =
            layout_options_for(*reader, quantization_named(kind), true, plain_dtype);
        layout = make_layout(reader->config(), options);
        for (const UnitLayout& unit : layout.units)
            units.emplace_back(unit.shard_bytes(ranks) * static_cast<std::size_t>(ranks));
        run_threads(ranks, [&](Communicator& group) {
            for (std::size_t u = 0; u < units.size(); ++u) {
                const std::size_t bytes = layout.units[u].shard_bytes(ranks);
                const std::size_t begin = bytes * static_cast<std::size_t>(group.rank());
                import_unit(*reader, layout.units[u], options, group, 2,
                            std::span(units[u]).subspan(begin, bytes));
            }
        });
    }
};

class Bnb : public testing::TestWithParam<std::string> {};

/// Name in the file of a part of a weight.
std::string file_name(const Field& field, StoredPart part) {
    const std::string& name = field.weight.name;
    if (part == StoredPart::kData) return name;
    if (part == StoredPart::kAbsmax2) return name + ".nested_absmax";
    return field.storage == Storage::kInt8 ? std::string(field.weight.module()) + ".SCB"
                                           : name + ".absmax";
}

TEST_P(Bnb, TheBytesAreTheFilesOnAnyNumberOfRanks) {
    const SafetensorsFile file{InputFile(folder_of(GetParam()) + "/model.safetensors")};
    for (const int ranks : {1, 2, 3, 8}) {
        const Imported model(GetParam(), ranks, DType::kBF16);
        int compared = 0;
        for (std::size_t u = 0; u < model.units.size(); ++u) {
            for (const Field& field : model.layout.units[u].fields) {
                if (!field.taken) continue;
                EXPECT_EQ(field.storage, storage_of(quantization_named(GetParam())));
                EXPECT_EQ(field.double_quant, GetParam() == "nf4");
                for (const FieldPart& part : parts_of(field)) {
                    if (part.part == StoredPart::kOffset) continue;
                    const SafetensorsTensor* tensor = file.find(file_name(field, part.part));
                    ASSERT_NE(tensor, nullptr);
                    ASSERT_EQ(tensor->bytes, part.bytes);
                    std::vector<std::byte> bytes(part.bytes);
                    file.file().read(tensor->offset, bytes.data(), bytes.size());
                    EXPECT_EQ(
                        std::memcmp(bytes.data(), model.units[u].data() + part.begin, part.bytes),
                        0)
                        << field.weight.name << ", " << ranks << " ranks";
                    ++compared;
                }
            }
        }
        EXPECT_EQ(compared, GetParam() == "nf4" ? 13 * 3 : 14 * 2);
    }
}

TEST_P(Bnb, LogitsEqualBitsandbytes) {
    Imported model(GetParam(), 1, DType::kF32);
    const auto backend = test::make_backend(2);
    const auto golden = test::read_json(folder_of(GetParam()) + "/golden.json");
    const std::vector<float> want =
        test::read_floats(folder_of(GetParam()) + "/golden.safetensors").at("logits");
    DeviceArena arena(*backend);
    Inference inference(*backend, model.reader->config(), model.layout, nullptr,
                        {DType::kF32, 1, 32, 5}, arena);
    arena.commit();
    std::vector<const std::byte*> units;
    for (const auto& unit : model.units) units.push_back(unit.data());
    ResidentSource source(units);
    inference.start(source, nullptr);
    float largest = 0, worst = 0;
    for (float value : want) largest = std::max(largest, std::abs(value));
    const auto width = static_cast<std::size_t>(model.reader->config().vocabulary);
    std::size_t first = 0;
    for (const auto& document : golden.at("documents").as_array()) {
        const std::vector<std::int32_t> ids = test::int_list(document.at("input_ids"));
        inference.score(ids, [&](std::int64_t position, std::span<const float> logits) {
            for (std::size_t v = 0; v < width; ++v) {
                const std::size_t at = (first + static_cast<std::size_t>(position)) * width + v;
                worst = std::max(worst, std::abs(logits[v] - want[at]));
            }
        });
        first += ids.size();
    }
    EXPECT_LE(worst, 1e-4f * largest);
}

/// What parts expand to is what `quantization: none` reads.
TEST_P(Bnb, ReadingGivesTheExpandedValues) {
    const Imported model(GetParam(), 1, DType::kF32);
    const auto backend = make_reference_backend();
    const std::size_t unit = model.layout.layer_unit(1);
    for (const Field& field : model.layout.units[unit].fields) {
        if (!field.weight.linear) continue;
        const std::int64_t count = field.weight.count();
        std::vector<std::byte> packed(backend->packed_bytes(field.weight.rows, field.weight.cols,
                                                            Orientation::kForward, DType::kF32));
        backend->pack(view_of(field, model.units[unit].data()), Orientation::kForward, DType::kF32,
                      packed.data());
        const auto* expanded = reinterpret_cast<const float*>(packed.data() + 16);
        for (const std::int64_t first :
             {std::int64_t{0}, std::int64_t{1}, std::int64_t{63}, std::int64_t{130}, count - 5}) {
            std::vector<float> values(static_cast<std::size_t>(std::min(count - first, count / 2)));
            model.reader->read(field.weight, first, values);
            for (std::size_t i = 0; i < values.size(); ++i)
                ASSERT_EQ(values[i], expanded[first + static_cast<std::int64_t>(i)])
                    << field.weight.name << " " << first << " + " << i;
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Kinds, Bnb, testing::Values("nf4", "fp4", "int8"),
                         [](const auto& kind) { return kind.param; });

TEST(BnbFolder, AnotherQuantizationIsRefusedByName) {
    const auto reader = open_model(folder_of("nf4"));
    EXPECT_EQ(*quantized_form_of(*reader), (WeightForm{Storage::kNf4, true}));
    EXPECT_TRUE(layout_options_for(*reader, Quantization::kNone, true, DType::kBF16).taken.empty());
    try {
        layout_options_for(*reader, Quantization::kInt8, true, DType::kBF16);
        FAIL() << "int8 of an NF4 folder was accepted";
    } catch (const UserError& error) {
        const std::string message = error.what();
        EXPECT_NE(message.find("nf4 + double quantization, but quantization int8"),
                  std::string::npos)
            << message;
    }
}

}  // namespace
}  // namespace qshard
