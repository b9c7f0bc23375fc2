#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "golden_files.h"
#include "io/tokenizer/tokenizer.h"

/// Every id and text of the reference, for small tokenizers of each family.
namespace qshard {
namespace {

class Golden : public testing::TestWithParam<const char*> {
  protected:
    Golden()
        : tokenizer_(Tokenizer::from_json_file(golden::path(std::string(GetParam()) + ".json"))),
          golden_(golden::json(std::string(GetParam()) + ".golden.json")),
          cases_(golden::json("cases.json")) {}

    std::string text(std::size_t i) const { return golden::string(cases_.at(i)); }
    std::size_t count() const { return cases_.as_array().size(); }
    std::vector<std::int32_t> ids(std::size_t i) const {
        return golden::ids(golden_.at("ids").at(i));
    }

    Tokenizer tokenizer_;
    boost::json::value golden_, cases_;
};

TEST_P(Golden, Ids) {
    ASSERT_GT(count(), 150u);
    for (std::size_t i = 0; i < count(); ++i) {
        EXPECT_EQ(tokenizer_.encode(text(i), false), ids(i)) << "text: " << text(i);
    }
}

TEST_P(Golden, IdsWithSpecials) {
    for (std::size_t i = 0; i < 10; ++i) {
        EXPECT_EQ(tokenizer_.encode(text(20 + i), true),
                  golden::ids(golden_.at("special_ids").at(i)));
    }
}

TEST_P(Golden, Texts) {
    for (std::size_t i = 0; i < count(); ++i) {
        for (const bool skip : {false, true}) {
            const auto& expected = golden_.at(skip ? "plain_texts" : "texts").at(i);
            EXPECT_EQ(tokenizer_.decode(ids(i), skip),
                      expected.is_null() ? text(i) : golden::string(expected));
        }
    }
    for (const auto& run : golden_.at("runs").as_array()) {
        EXPECT_EQ(tokenizer_.decode(golden::ids(run.at("ids")), false),
                  golden::string(run.at("text")));
    }
}

// Offsets lie in order inside the text, and those of a tokenizer that changes nothing tile it.
TEST_P(Golden, Offsets) {
    const bool tiles = std::string(GetParam()) == "smollm";
    for (std::size_t i = 0; i < count(); ++i) {
        std::vector<std::int32_t> seen;
        std::int64_t end = 0;
        for (const TokenSpan& span : tokenizer_.encode_with_offsets(text(i), false)) {
            seen.push_back(span.id);
            EXPECT_LE(span.begin, span.end);
            EXPECT_LE(span.end, static_cast<std::int64_t>(text(i).size()));
            EXPECT_LE(end, span.end) << "text: " << text(i);
            if (tiles) {
                EXPECT_EQ(span.begin, end);
            }
            end = span.end;
        }
        EXPECT_EQ(seen, ids(i));
        if (tiles) {
            EXPECT_EQ(end, static_cast<std::int64_t>(text(i).size()));
        }
    }
}

// Threads share nothing but the immutable state: all get the ids one thread gets.
TEST_P(Golden, ManyThreads) {
    std::vector<int> wrong(4);
    std::vector<std::thread> threads;
    for (int& count_of_thread : wrong) {
        threads.emplace_back([this, &count_of_thread] {
            for (std::size_t i = 0; i < count(); ++i)
                count_of_thread += tokenizer_.encode(text(i), false) != ids(i);
        });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(wrong, std::vector<int>(4));
}

INSTANTIATE_TEST_SUITE_P(All, Golden,
                         testing::Values("llama3", "qwen", "smollm", "tekken", "spm", "metaspace",
                                         "unigram", "unigram_bytes", "deepseek"),
                         [](const auto& name) { return std::string(name.param); });

// One model whose tokens span words, and many normalizers, pre-tokenizers and decoders around it.
TEST(GoldenParts, EveryComponent) {
    const boost::json::value parts = golden::json("parts.golden.json");
    const auto& cases = parts.at("cases").as_array();
    ASSERT_GT(parts.at("configs").as_array().size(), 80u);
    for (std::size_t c = 0; c < parts.at("configs").as_array().size(); ++c) {
        boost::json::object spec = parts.at("configs").at(c).as_object();
        const std::string name = boost::json::serialize(spec);
        spec["model"] = parts.at("model");
        const auto tokenizer = Tokenizer::from_json_text(boost::json::serialize(spec), name);
        const auto& result = parts.at("results").at(c);
        for (std::size_t i = 0; i < cases.size(); ++i) {
            const std::vector<std::int32_t> ids = golden::ids(result.at("ids").at(i));
            EXPECT_EQ(tokenizer.encode(golden::string(cases[i]), false), ids)
                << name << "\ntext: " << cases[i];
            if (i < result.at("texts").as_array().size()) {
                EXPECT_EQ(tokenizer.decode(ids, true), golden::string(result.at("texts").at(i)))
                    << name;
            }
        }
    }
}

}  // namespace
}  // namespace qshard
