#include <gtest/gtest.h>

#include "files.h"
#include "io/formats/safetensors.h"

using namespace qshard;
using namespace qshard::testing;

namespace {

std::string container(const std::string& header, const std::string& data) {
    return bytes_of_value<std::uint64_t>(header.size()) + header + data;
}

const std::string kSound =
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
    R"("a":{"dtype":"BF16","shape":[],"data_offsets":[24,26]},"none":{"dtype":"I64","shape":[0,7],"data_offsets":[26,26]}})";

}  // namespace

TEST(Safetensors, ReadsWhatTheFormatAllows) {
    const SafetensorsFile file(memory_file(container(kSound, std::string(26, 'x'))));
    EXPECT_EQ(file.tensors().size(), 3u);
    EXPECT_EQ(file.metadata().at("format"), "pt");
    const SafetensorsTensor* b = file.find("b");
    ASSERT_NE(b, nullptr);
    EXPECT_EQ(b->type, SafetensorsType::kF32);
    EXPECT_EQ(b->shape, (std::vector<std::int64_t>{2, 3}));
    EXPECT_EQ(b->count(), 6);
    EXPECT_EQ(b->offset, 8 + kSound.size());
    EXPECT_EQ(file.find("a")->count(), 1);
    EXPECT_EQ(file.find("none")->count(), 0);
    EXPECT_EQ(file.find("absent"), nullptr);
}

TEST(Safetensors, TruncationAtEveryByteIsRefused) {
    const std::string bytes = container(kSound, std::string(26, 'x'));
    for (std::size_t length = 0; length < bytes.size(); ++length) {
        EXPECT_THROW(SafetensorsFile(memory_file(bytes.substr(0, length))), UserError) << length;
    }
}

TEST(Safetensors, HostileFilesAreRefused) {
    const auto one = [](const std::string& body) { return "{\"t\":{" + body + "}}"; };
    struct Hostile {
        const char* what;
        const char* message;
        std::string bytes;
    };
    const std::string four(4, 'x');
    const Hostile cases[] = {
        {"an endless header", "header", bytes_of_value<std::uint64_t>(~0ull) + "{}"},
        {"a header above the limit", "header",
         bytes_of_value<std::uint64_t>(40 << 20) + std::string(41 << 20, ' ')},
        {"a leading blank", "JSON object", container(" {}", "")},
        {"a list", "JSON object", container("[]", "")},
        {"broken JSON", "JSON", container("{\"t\":", "")},
        {"text after the header", "after the document", container("{}{}", "")},
        {"trailing bytes", "tensors use", container("{}", "x")},
        {"a duplicate tensor", "twice",
         container(
             R"({"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
             four)},
        {"a duplicate field", "twice",
         container(one(R"("dtype":"U8","dtype":"I8","shape":[4],"data_offsets":[0,4])"), four)},
        {"an unknown field", "unknown",
         container(one(R"("dtype":"U8","shape":[4],"data_offsets":[0,4],"x":1)"), four)},
        {"an unknown dtype", "dtype",
         container(one(R"("dtype":"Q4","shape":[4],"data_offsets":[0,4])"), four)},
        {"no dtype", "dtype", container(one(R"("shape":[4],"data_offsets":[0,4])"), four)},
        {"no shape", "shape", container(one(R"("dtype":"U8","data_offsets":[0,4])"), four)},
        {"one offset", "data_offsets",
         container(one(R"("dtype":"U8","shape":[4],"data_offsets":[0])"), four)},
        {"a size that contradicts the shape", "do not fit",
         container(one(R"("dtype":"U8","shape":[3],"data_offsets":[0,4])"), four)},
        {"an end before the begin", "do not fit",
         container(one(R"("dtype":"U8","shape":[0],"data_offsets":[4,0])"), four)},
        {"a negative extent", "whole number",
         container(one(R"("dtype":"U8","shape":[-4],"data_offsets":[0,4])"), four)},
        {"a fractional extent", "whole number",
         container(one(R"("dtype":"U8","shape":[4.0],"data_offsets":[0,4])"), four)},
        {"an overflowing shape", "too large",
         container(one(R"("dtype":"U8","shape":[4294967296,4294967296,4],"data_offsets":[0,4])"),
                   four)},
        {"nine dimensions", "dimensions",
         container(one(R"("dtype":"U8","shape":[1,1,1,1,1,1,1,1,4],"data_offsets":[0,4])"), four)},
        {"half a byte", "do not fit",
         container(one(R"("dtype":"F4","shape":[7],"data_offsets":[0,4])"), four)},
        {"a hole at the start", "hole",
         container(one(R"("dtype":"U8","shape":[3],"data_offsets":[1,4])"), four)},
        {"an overlap", "overlap",
         container(
             R"({"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"u":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}})",
             four)},
        {"data past the end", "truncated",
         container(one(R"("dtype":"U8","shape":[5],"data_offsets":[0,5])"), four)},
        {"metadata that is a list", "not an object", container(R"({"__metadata__":[]})", "")},
        {"metadata that is no text", "strings", container(R"({"__metadata__":{"a":1}})", "")},
        {"a long name", "longer", container("{\"" + std::string(513, 'n') + "\":{}}", "")},
        {"deep nesting", "JSON",
         container("{\"t\":" + std::string(100, '[') + std::string(100, ']') + "}", "")},
        {"bad UTF-8", "JSON", container("{\"\xff\":{}}", "")},
    };
    for (const Hostile& c : cases) {
        expect_refused([&] { SafetensorsFile file(memory_file(c.bytes)); }, c.message, c.what);
    }
}

TEST(Safetensors, MetadataMayBeNull) {
    const SafetensorsFile file(memory_file(container(
        R"({"__metadata__":null,"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "x")));
    EXPECT_TRUE(file.metadata().empty());
    EXPECT_NE(file.find("a"), nullptr);
}
