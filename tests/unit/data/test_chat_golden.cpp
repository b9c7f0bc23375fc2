#include <fstream>
#include <sstream>

#include "data_test.h"
#include "io/data/encode.h"
#include "io/tokenizer/tokenizer.h"

using namespace qshard;
namespace json = boost::json;

namespace {

std::string text_of(const std::string& name) {
    std::ifstream file(QSHARD_TEST_DATA "/golden/" + name, std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
}

class RealEncoder final : public TextEncoder {
  public:
    RealEncoder()
        : tokenizer_(Tokenizer::from_json_file(QSHARD_TEST_DATA "/golden/tokenizer/qwen.json")) {}
    std::vector<std::int32_t> encode(std::string_view text, bool special) const override {
        return tokenizer_.encode(text, special);
    }
    std::vector<TokenSpan> encode_with_offsets(std::string_view text, bool special) const override {
        return tokenizer_.encode_with_offsets(text, special);
    }

  private:
    Tokenizer tokenizer_;
};

/// [begin, end) runs of tokens with loss.
json::array runs_of(const std::vector<std::int32_t>& labels) {
    json::array runs;
    for (std::size_t i = 0; i < labels.size(); ++i) {
        if (labels[i] == -100) continue;
        if (!runs.empty() && runs.back().at(1) == i) {
            runs.back().as_array()[1] = i + 1;
        } else {
            runs.push_back({i, i + 1});
        }
    }
    return runs;
}

}  // namespace

// rows.json: made by tests/golden/chat/make_rows.py with transformers and TRL.
TEST(ChatGolden, RowsHaveTheIdsAndMasksOfTransformersAndTrl) {
    const RealEncoder tokenizer;
    EncodeOptions options;
    options.max_length = 1 << 20;
    options.chat_variables = {{"eos_token", "<|im_end|>"}};
    const json::value golden = json::parse(text_of("chat/rows.json"));
    std::size_t ids = 0, masks = 0, refused = 0;
    for (const json::value& one : golden.at("cases").as_array()) {
        const std::string name(one.at("template").as_string());
        const auto chat = ChatTemplate::parse(text_of("chat/templates/" + name + ".jinja"), name);
        const DataRow row{one.at("row").as_object(), "rows.jsonl:1"};
        SCOPED_TRACE(fmt::format("{} {}", name, json::serialize(one.at("row"))));
        const RowEncoder encoder(tokenizer, &chat, options);
        if (one.as_object().contains("error")) {
            EXPECT_NE(test::error_of([&] { encoder.encode(row); }), "no error");
            ++refused;
            continue;
        }
        const EncodedRow made = *encoder.encode(row).row;
        EXPECT_EQ(json::value_from(made.ids), one.at("ids"));
        ++ids;
        if (one.at("trained").is_null()) continue;
        EXPECT_EQ(json::serialize(runs_of(made.labels)), json::serialize(one.at("trained")));
        ++masks;
    }
    EXPECT_GE(ids, 70u);
    EXPECT_GE(masks, 25u);
    EXPECT_GE(refused, 3u);
}
