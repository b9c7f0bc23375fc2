#include "../formats/files.h"
#include "io/formats/gguf.h"
#include "io/formats/gguf_writer.h"
#include "io/formats/safetensors_writer.h"

namespace qshard {
namespace {

using testing::memory_file;

TEST(GgufHeader, EveryKindOfValueReadsBack) {
    GgufHeader header;
    header.text("general.architecture", "llama");
    header.u32("a.count", 4000000000u);
    header.f32("a.number", 1e-5f);
    header.boolean("a.flag", true);
    header.texts("a.texts", std::vector<std::string>{"x", "", "\xC4\xA0y"});
    header.i32s("a.whole", std::vector<std::int32_t>{-1, 7});
    header.f32s("a.floats", std::vector<float>{0.5f, -2.0f});
    const GgufFile first{memory_file(header.bytes())};
    EXPECT_EQ(*first.text("general.architecture"), "llama");
    EXPECT_EQ(first.integer("a.count"), 4000000000);
    EXPECT_EQ(static_cast<float>(*first.number("a.number")), 1e-5f);
    EXPECT_EQ(first.boolean("a.flag"), true);
    EXPECT_EQ(*first.texts("a.texts"), (std::vector<std::string>{"x", "", "\xC4\xA0y"}));
    EXPECT_EQ(*first.integers("a.whole"), (std::vector<std::int64_t>{-1, 7}));
    EXPECT_EQ(*first.numbers("a.floats"), (std::vector<double>{0.5, -2.0}));

    GgufHeader copy;
    for (const auto& [key, value] : first.metadata()) copy.raw(key, first.raw_value(key));
    const GgufFile second{memory_file(copy.bytes())};
    EXPECT_EQ(second.metadata(), first.metadata());
}

TEST(GgufHeader, TensorsFollowEachOtherAtWholeAlignments) {
    GgufHeader header;
    header.tensor("one", std::array<std::int64_t, 2>{3, 5}, GgmlType::kF32);
    header.tensor("two", std::array<std::int64_t, 1>{7}, GgmlType::kBF16);
    std::string file = header.bytes();
    ASSERT_EQ(file.size() % GgufHeader::kAlignment, 0u);
    const std::size_t data = file.size();
    file.resize(data + GgufHeader::padded(60) + GgufHeader::padded(14));
    const GgufFile read{memory_file(file)};
    EXPECT_EQ(read.find("one")->extents, (std::vector<std::int64_t>{3, 5}));
    EXPECT_EQ(read.find("one")->offset, data);
    EXPECT_EQ(read.find("two")->offset, data + 64);
    EXPECT_EQ(read.find("two")->type, GgmlType::kBF16);
    EXPECT_THROW(
        header.tensor(std::string(64, 'x'), std::array<std::int64_t, 1>{1}, GgmlType::kF32),
        BugError);
    EXPECT_THROW(header.tensor("rows", std::array<std::int64_t, 2>{33, 2}, GgmlType::kQ8_0),
                 BugError);
}

TEST(SafetensorsHeader, DescribesWhatFollows) {
    std::vector<SafetensorsEntry> entries = {{"b", SafetensorsType::kBF16, {2, 3}},
                                             {"z", SafetensorsType::kF32, {}},
                                             {"a", SafetensorsType::kBF16, {4}}};
    sort_as_reference(entries);
    EXPECT_EQ(entries[0].name + entries[1].name + entries[2].name, "zab");
    std::string file = safetensors_header(entries);
    EXPECT_EQ(file.size() % 8, 0u);
    const std::size_t data = file.size();
    file.resize(data + 4 + 8 + 12);
    const SafetensorsFile read{memory_file(file)};
    EXPECT_EQ(read.find("b")->offset, data + 12);
    EXPECT_EQ(read.find("b")->shape, (std::vector<std::int64_t>{2, 3}));
    EXPECT_EQ(read.metadata().at("format"), "pt");
}

}  // namespace
}  // namespace qshard
