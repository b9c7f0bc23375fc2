#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "golden_files.h"
#include "io/tokenizer/to_gguf.h"
#include "io/tokenizer/to_json.h"
#include "io/tokenizer/tokenizer.h"

/// Tokenizers from GGUF metadata: the same ids as the tokenizer.json of the same model.
namespace qshard {
namespace {

// The metadata a converter would write for a byte-level or SentencePiece-like tokenizer.json.
GgufTokenizerData converted(const boost::json::value& spec, const std::string& model,
                            const std::string& pre) {
    GgufTokenizerData data;
    data.model = model;
    data.pre = pre;
    const auto place = [&data](std::int64_t id, const std::string& token, std::int32_t type) {
        const auto at = static_cast<std::size_t>(id);
        if (data.tokens.size() <= at) {
            data.tokens.resize(at + 1);
            data.token_types.resize(at + 1, 1);
        }
        data.tokens[at] = token;
        data.token_types[at] = type;
    };
    for (const auto& member : spec.at("model").at("vocab").as_object()) {
        const std::string token(member.key());
        place(member.value().as_int64(), token,
              token.size() == 6 && token.starts_with("<0x") ? 6 : 1);
    }
    for (const auto& token : spec.at("added_tokens").as_array()) {
        place(token.at("id").as_int64(), golden::string(token.at("content")),
              token.at("special").as_bool() ? 3 : 4);
    }
    for (const auto& merge : spec.at("model").at("merges").as_array()) {
        data.merges.push_back(golden::string(merge.at(0)) + " " + golden::string(merge.at(1)));
    }
    return data;
}

void expect_golden(const Tokenizer& tokenizer, const std::string& name) {
    const boost::json::value cases = golden::json("cases.json"),
                             golden = golden::json(name + ".golden.json");
    for (std::size_t i = 0; i < cases.as_array().size(); ++i) {
        const std::string text = golden::string(cases.at(i));
        const std::vector<std::int32_t> ids = golden::ids(golden.at("ids").at(i));
        EXPECT_EQ(tokenizer.encode(text, false), ids) << text;
        const auto& decoded = golden.at("texts").at(i);
        EXPECT_EQ(tokenizer.decode(ids, false), decoded.is_null() ? text : golden::string(decoded));
    }
}

TEST(Gguf, ByteLevel) {
    auto data = converted(golden::json("smollm.json"), "gpt2", "smollm");
    expect_golden(Tokenizer::from_gguf(data), "smollm");
    data = converted(golden::json("llama3.json"), "gpt2", "llama-bpe");
    data.bos = 7;
    const Tokenizer llama = Tokenizer::from_gguf(data);
    expect_golden(llama, "llama3");
    EXPECT_EQ(llama.encode("", true), std::vector<std::int32_t>{7});  // the default of this row
    data.add_bos = false;
    data.eos = 8;
    data.add_eos = true;
    EXPECT_EQ(Tokenizer::from_gguf(data).encode("", true), std::vector<std::int32_t>{8});
    EXPECT_NE(Tokenizer::from_gguf(data).sha256(), llama.sha256());
}

TEST(Gguf, Deepseek) {
    const boost::json::value spec = golden::json("deepseek.json");
    expect_golden(Tokenizer::from_gguf(converted(spec, "gpt2", "deepseek-llm")), "deepseek");
    const auto data = gguf_tokenizer_of(boost::json::serialize(spec), "deepseek.json", 0);
    EXPECT_EQ(data.pre, "deepseek-llm");
    expect_golden(Tokenizer::from_gguf(data), "deepseek");
}

// Scores that fall with the merge rank make SentencePiece's rule the BPE of the file.
GgufTokenizerData sentence_piece() {
    const boost::json::value spec = golden::json("spm.json");
    auto data = converted(spec, "llama", "default");
    data.merges.clear();
    data.scores.assign(data.tokens.size(), 0.0f);
    std::map<std::string, std::size_t> ids;
    for (std::size_t i = 0; i < data.tokens.size(); ++i) ids[data.tokens[i]] = i;
    float score = 0.0f;
    for (const auto& merge : spec.at("model").at("merges").as_array()) {
        data.scores[ids.at(golden::string(merge.at(0)) + golden::string(merge.at(1)))] = score -=
            1.0f;
    }
    data.bos = 1;
    return data;
}

TEST(Gguf, SentencePiece) {
    GgufTokenizerData data = sentence_piece();
    const Tokenizer tokenizer = Tokenizer::from_gguf(data);
    EXPECT_EQ(tokenizer.encode("", true), std::vector<std::int32_t>{1});
    for (const char* text : {"The quick brown fox", "  two  spaces", "naïve café\n",
                             "日本語 한국어", "a</s> b", "1984"}) {
        const auto reference = Tokenizer::from_json_file(golden::path("spm.json"));
        EXPECT_EQ(tokenizer.encode(text, false), reference.encode(text, false)) << text;
        EXPECT_EQ(tokenizer.decode(tokenizer.encode(text, false), false),
                  reference.decode(reference.encode(text, false), false));
    }
    data.add_space_prefix = false;
    EXPECT_EQ(
        Tokenizer::from_gguf(data).decode(Tokenizer::from_gguf(data).encode(" The", false), false),
        " The");
}

TEST(Gguf, SentencePieceGoesToJson) {
    for (const bool spaced : {true, false}) {
        GgufTokenizerData data = sentence_piece();
        data.add_space_prefix = spaced;
        const Tokenizer before = Tokenizer::from_gguf(data),
                        after = Tokenizer::from_json_text(tokenizer_json_of(data), "made");
        for (const char* text : {"The quick brown fox", "  two  spaces", "naïve café\n", "",
                                 "日本語 한국어 \x01", "a</s> b<s>c", "1984"}) {
            const std::vector<std::int32_t> ids = before.encode(text, true);
            EXPECT_EQ(after.encode(text, true), ids) << text;
            EXPECT_EQ(after.decode(ids, false), before.decode(ids, false)) << text;
            EXPECT_EQ(after.decode(ids, true), before.decode(ids, true)) << text;
        }
    }
}

// The same as what llama.cpp makes of Phi-3's vocabulary, and of its tokenizer.json `tokenizers`.
TEST(Gguf, Phi3sSpecialsTakeTheWhiteSpaceBehindThem) {
    GgufTokenizerData data = sentence_piece();
    const Tokenizer plain = Tokenizer::from_gguf(data);
    data.specials_strip_right = true;
    const Tokenizer phi3 = Tokenizer::from_gguf(data),
                    json = Tokenizer::from_json_text(tokenizer_json_of(data), "made");
    const auto bare = plain.encode("a</s>b</s>", false);
    EXPECT_NE(plain.encode("a</s>\n b</s> ", false), bare);
    EXPECT_EQ(phi3.encode("a</s>\n b</s> ", false), bare);
    EXPECT_EQ(json.encode("a</s>\n b</s> ", false), bare);
    EXPECT_EQ(phi3.encode("<s> b", false), plain.encode("<s> b", false));
    EXPECT_NE(phi3.sha256(), plain.sha256());
}

TEST(Gguf, MalformedMetadata) {
    const auto refused = [](auto change, const std::string& reason) {
        auto data = converted(golden::json("smollm.json"), "gpt2", "smollm");
        change(data);
        try {
            Tokenizer::from_gguf(data);
            ADD_FAILURE() << "accepted; expected: " << reason;
        } catch (const UserError& error) {
            EXPECT_NE(std::string(error.what()).find(reason), std::string::npos) << error.what();
        }
    };
    using Data = GgufTokenizerData;
    refused([](Data& d) { d.tokens.clear(); }, "no tokens");
    refused([](Data& d) { d.model = "t5"; }, "\"t5\" is not supported");
    refused([](Data& d) { d.pre = "new-model"; }, "\"new-model\"");
    refused([](Data& d) { d.merges.push_back("zz qq"); }, "not in the vocabulary");
    refused([](Data& d) { d.merges.push_back(""); }, "not two tokens");
    refused([](Data& d) { d.merges.push_back("a"); }, "not two tokens");
    refused([](Data& d) { d.token_types.pop_back(); }, "token_type has");
    refused([](Data& d) { d.model = "llama"; }, "needs scores");
    refused([](Data& d) { d.scores.assign(d.tokens.size(), std::nanf("")); }, "not a number");
    refused(
        [](Data& d) {
            d.add_bos = true;
            d.bos = 1 << 28;
        },
        "bos_token_id");
}

// Just enough of GGUF v3 to reach the tokenizer's keys of a good file.
class MetadataReader {
  public:
    explicit MetadataReader(const char* path) : file_(path, std::ios::binary) {
        read<std::uint64_t>();  // magic, version
        read<std::uint64_t>();  // tensors
        keys_ = read<std::uint64_t>();
    }

    GgufTokenizerData tokenizer() {
        GgufTokenizerData data;
        for (std::uint64_t i = 0; i < keys_; ++i) {
            const std::string key = string();
            value(key, data, read<std::uint32_t>());
        }
        return data;
    }

  private:
    template <class T>
    T read() {
        T value{};
        file_.read(reinterpret_cast<char*>(&value), sizeof value);
        return value;
    }
    std::string string() {
        std::string text(read<std::uint64_t>(), '\0');
        file_.read(text.data(), static_cast<std::streamsize>(text.size()));
        return text;
    }
    void value(const std::string& key, GgufTokenizerData& data, std::uint32_t type) {
        static constexpr std::uint32_t kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
        if (type == 8) {
            const std::string text = string();
            if (key == "tokenizer.ggml.model") data.model = text;
            if (key == "tokenizer.ggml.pre") data.pre = text;
        } else if (type == 9) {
            const auto item = read<std::uint32_t>();
            for (auto n = read<std::uint64_t>(); n > 0; --n) {
                if (key == "tokenizer.ggml.tokens") {
                    data.tokens.push_back(string());
                } else if (key == "tokenizer.ggml.merges") {
                    data.merges.push_back(string());
                } else if (key == "tokenizer.ggml.token_type") {
                    data.token_types.push_back(read<std::int32_t>());
                } else {
                    value("", data, item);
                }
            }
        } else {
            file_.ignore(kBytes[type]);
        }
    }

    std::ifstream file_;
    std::uint64_t keys_ = 0;
};

TEST(Gguf, SmolLm2) {
    const char* model = std::getenv("QSHARD_TEST_MODEL");
    if (model == nullptr)
        GTEST_SKIP() << "set QSHARD_TEST_MODEL to a SmolLM2 GGUF file to run this test";
    const GgufTokenizerData data = MetadataReader(model).tokenizer();
    ASSERT_EQ(data.tokens.size(), 49152u);
    expect_golden(Tokenizer::from_gguf(data), "smollm2");
}

}  // namespace
}  // namespace qshard
