#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "gguf_builder.h"
#include "io/formats/gguf_files.h"
#include "io/formats/model_reader.h"

using namespace qshard;
using namespace qshard::testing;

namespace {

class GgufFiles : public ::testing::Test {
  protected:
    std::filesystem::path path(int number, int count) const {
        return folder_.path() / fmt::format("tiny model-{:05}-of-{:05}.gguf", number, count);
    }
    /// The first file's path.
    std::filesystem::path write(const std::vector<GgufBuilder>& parts) const {
        const auto count = static_cast<int>(parts.size());
        for (int i = 0; i < count; ++i)
            folder_.write(path(i + 1, count).filename(),
                          parts[static_cast<std::size_t>(i)].bytes());
        return path(1, count);
    }

    TempFolder folder_;
};

void expect_equal_weights(const WeightReader& a, const WeightReader& b) {
    std::size_t compared = 0;
    for (const auto& list :
         {embedding_weights(a.config()), layer_weights(a.config(), 0), head_weights(a.config())}) {
        for (const WeightSpec& weight : list) {
            std::vector<float> x(static_cast<std::size_t>(weight.count())), y(x.size());
            a.read(weight, 0, x);
            b.read(weight, 0, y);
            EXPECT_EQ(x, y) << weight.name;
            ++compared;
        }
    }
    EXPECT_GE(compared, 11u);
}

}  // namespace

TEST_F(GgufFiles, AModelInSeveralIsTheModelInOne) {
    for (const std::uint32_t type : {0u, 3u, 30u}) {
        const GgufBuilder whole = tiny_llama(type);
        const auto one = open_model(folder_.write("one.gguf", whole.bytes()));
        for (const int count : {2, 3, 11}) {
            const auto several = open_model(write(split_gguf(whole, count)));
            expect_equal_weights(*one, *several);
            EXPECT_NE(several->sha256(), one->sha256());
            std::int64_t bytes = 0;
            for (int i = 1; i <= count; ++i)
                bytes += static_cast<std::int64_t>(std::filesystem::file_size(path(i, count)));
            EXPECT_EQ(several->file_bytes(), bytes);
        }
    }
}

TEST_F(GgufFiles, TheFirstMayHoldMetadataOnly) {
    GgufBuilder whole = tiny_llama(3);
    std::vector<GgufBuilder> parts = split_gguf(whole, 1);
    parts[0].infos = parts[0].data = "";
    parts[0].tensor_count = 0;
    parts[0].keys = whole.keys;
    parts[0].key_count = whole.key_count;
    mark_split(parts[0], 1, 2, static_cast<int>(whole.tensor_count));
    whole.keys = "";
    whole.key_count = 0;
    mark_split(whole, 2, 2, static_cast<int>(whole.tensor_count));
    parts.push_back(whole);
    expect_equal_weights(*open_model(write(parts)),
                         *open_model(folder_.write("one.gguf", tiny_llama(3).bytes())));
}

TEST_F(GgufFiles, EveryHeaderIsPartOfTheSum) {
    std::vector<GgufBuilder> parts = split_gguf(tiny_llama(), 3);
    const std::string sum = open_model(write(parts))->sha256();
    parts[2].text("other.key", "x");
    EXPECT_NE(open_model(write(parts))->sha256(), sum);
}

TEST_F(GgufFiles, AStoreKeepsWhatItReadOfEach) {
    const std::filesystem::path first = write(split_gguf(tiny_llama(3), 3));
    const auto log = std::make_shared<ReadLog>();
    const ModelSource source = open_model_source(first, log);
    std::vector<std::string> names;
    for (const auto& [name, file] : log->files()) {
        names.push_back(name);
        EXPECT_FALSE(file.pieces.empty()) << name;
    }
    EXPECT_EQ(names, (std::vector<std::string>{"model-00002-of-00003.gguf",
                                               "model-00003-of-00003.gguf", "model.gguf"}));
}

TEST_F(GgufFiles, ThoseThatDoNotBelongTogetherAreRefused) {
    using Parts = std::vector<GgufBuilder>;
    struct Case {
        const char* what;
        const char* message;
        std::function<void(Parts&)> spoil;
    };
    const Case cases[] = {
        {"files in another order", "says that it is file 3 of 3",
         [](Parts& parts) { std::swap(parts[1], parts[2]); }},
        {"a file that is no part", "says that it is file 1 of 1 of a split model, expected 2 of 3",
         [](Parts& parts) { parts[1] = tiny_llama(); }},
        {"a part of another cut", "says that it is file 2 of 4",
         [](Parts& parts) { parts[1] = split_gguf(tiny_llama(), 4)[1]; }},
        {"a tensor in two files", "twice",
         [](Parts& parts) { parts[2].ramp("output_norm.weight", {64}); }},
        {"a tensor too many", "tensors, expected 11",
         [](Parts& parts) { parts[2].ramp("more.weight", {64}); }},
        {"a number of another type", "must be an integer",
         [](Parts& parts) {
             parts[1].keys.clear();
             parts[1].key_count = 0;
             parts[1].text("split.no", "1");
         }},
        {"too many files", "expected at most 512",
         [](Parts& parts) {
             parts[0] = tiny_llama();
             mark_split(parts[0], 1, 513, 11);
         }},
        {"a cut file", "is it truncated?",
         [](Parts& parts) { parts[2].data.resize(parts[2].data.size() - 1); }},
        {"the second as the first", "file 2 of 3", [](Parts& parts) { parts[0] = parts[1]; }},
    };
    for (const Case& c : cases) {
        Parts parts = split_gguf(tiny_llama(), 3);
        c.spoil(parts);
        const std::filesystem::path first = write(parts);
        expect_refused([&] { open_model(first); }, c.message, c.what);
    }
}

TEST_F(GgufFiles, MessagesNameTheFileToGiveOrToFetch) {
    const std::filesystem::path first = write(split_gguf(tiny_llama(), 3));
    expect_refused([&] { open_model(path(2, 3)); }, "-00001-of-00003.gguf", "the second one");
    const std::filesystem::path renamed = folder_.path() / "renamed.gguf";
    std::filesystem::copy(first, renamed);
    expect_refused([&] { open_model(renamed); }, "must end in -00001-of-00003.gguf", "renamed");
    expect_refused([&] { open_model(folder_.path()); },
                   "give the path of one: renamed.gguf, tiny model-00001-of-00003.gguf, tiny",
                   "their folder");
    std::filesystem::remove(path(3, 3));
    expect_refused([&] { open_model(first); },
                   "in 3 files, and tiny model-00003-of-00003.gguf is missing", "two of three");
}
