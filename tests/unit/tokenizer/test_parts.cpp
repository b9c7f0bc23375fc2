#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "golden_files.h"
#include "io/tokenizer/bpe.h"
#include "io/tokenizer/regex.h"
#include "io/tokenizer/tokenizer.h"
#include "io/tokenizer/unicode.h"
#include "io/tokenizer/word_pattern.h"

namespace qshard {
namespace {

std::vector<std::pair<std::uint32_t, std::uint32_t>> ranges(const tok::Matcher& matcher,
                                                            const std::string& text) {
    std::vector<tok::Range> found;
    matcher.find(text, found);
    std::vector<std::pair<std::uint32_t, std::uint32_t>> out;
    for (const tok::Range& r : found) out.emplace_back(r.begin, r.end);
    return out;
}

std::string random_text(std::mt19937& random) {
    static const std::vector<std::string> atoms = {
        "a",      "B",      "é", "ſ",  "日", "'",      "'s",     "'LL",  "'re",
        "1",      "٣",      "½", " ",  " ",  "\t",     "\n",     "\r\n", "\u00a0",
        "\u3000", "\u180e", ".", "!?", "€",  "\u0301", "\u200d", "😀",    "_"};
    std::string text;
    for (std::uint32_t n = random() % 24; n > 0; --n) text += atoms[random() % atoms.size()];
    return text;
}

// Two engines, one language: the matchers written by hand against PCRE2.
TEST(WordPattern, AgreesWithTheRegexEngine) {
    std::mt19937 random(1);
    for (const std::string_view pattern :
         {tok::kGpt2Pattern, tok::kLlama3Pattern, tok::kQwen2Pattern}) {
        const auto by_hand = tok::make_pattern(pattern), by_engine = tok::make_regex(pattern);
        for (int i = 0; i < 3000; ++i) {
            const std::string text = random_text(random);
            ASSERT_EQ(ranges(*by_hand, text), ranges(*by_engine, text)) << text;
        }
    }
}

TEST(WordPattern, LongRunsTakeLinearTime) {
    const auto pattern = tok::make_pattern(tok::kLlama3Pattern);
    for (const char* unit : {" ", "\n", " \n", "a", "1", "'", "\u3000", "!"}) {
        std::string text;
        while (text.size() < (4u << 20)) text += unit;
        const auto found = ranges(*pattern, text);
        EXPECT_EQ(found.back().second, text.size());
    }
}

// The rule in its plainest form: look for the best pair, join it, start again.
std::vector<std::int32_t> merge_naively(const std::vector<tok::Merge>& merges,
                                        std::vector<std::int32_t> symbols) {
    while (true) {
        const tok::Merge* best = nullptr;
        std::size_t place = 0;
        for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
            for (const tok::Merge& m : merges) {
                if (m.left == symbols[i] && m.right == symbols[i + 1] &&
                    (best == nullptr || m.rank < best->rank)) {
                    best = &m;
                    place = i;
                }
            }
        }
        if (best == nullptr) return symbols;
        symbols[place] = best->merged;
        symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(place) + 1);
    }
}

TEST(Bpe, ShortAndLongWordsMergeByTheRule) {
    std::mt19937 random(2);
    tok::BpeDefinition definition;
    std::vector<std::string> tokens = {"a", "b", "c"};
    for (std::size_t i = 0; i < tokens.size(); ++i)
        definition.vocabulary.insert(static_cast<std::int64_t>(i), tokens[i]);
    while (tokens.size() < 60) {
        const std::int32_t left = static_cast<std::int32_t>(random() % tokens.size());
        const std::int32_t right = static_cast<std::int32_t>(random() % tokens.size());
        const std::string merged = tokens[left] + tokens[right];
        std::int32_t id = definition.vocabulary.find(merged);
        if (id < 0) {
            id = static_cast<std::int32_t>(tokens.size());
            tokens.push_back(merged);
            definition.vocabulary.insert(id, merged);
        }
        bool known = false;
        for (const tok::Merge& m : definition.merges)
            known = known || (m.left == left && m.right == right);
        const auto rank =
            static_cast<std::int32_t>(definition.merges.size() / 2);  // some ranks are equal
        if (!known) definition.merges.push_back({left, right, rank, id});
    }
    const std::vector<tok::Merge> merges = definition.merges;
    const tok::Bpe bpe(std::move(definition));
    for (int i = 0; i < 400; ++i) {
        std::string word;
        std::vector<std::int32_t> symbols;
        for (std::uint32_t n = 1 + random() % 150; n > 0; --n) {
            symbols.push_back(static_cast<std::int32_t>(random() % 3));
            word += tokens[symbols.back()];
        }
        std::vector<tok::ModelToken> out;
        bpe.encode(word, out);
        std::vector<std::int32_t> ids;
        for (const tok::ModelToken& token : out) ids.push_back(token.id);
        ASSERT_EQ(ids, merge_naively(merges, symbols)) << word;
    }
}

// A token with a marker in its midst (Gemma 3's ">▁</") forbids cuts within itself alone.
TEST(Bpe, WordsAreCutWhereNoTokenLiesAcross) {
    const std::vector<std::string> tokens = {"▁",    "a",  ">",  "<",   "/",  "</", "▁</",
                                             ">▁</", "▁a", "a▁", "a▁>", "▁▁", ">>"};
    const std::vector<std::pair<int, int>> pairs = {{3, 4}, {0, 5}, {2, 6}, {0, 1},
                                                    {1, 0}, {9, 2}, {0, 0}, {2, 2}};
    const std::vector<int> merged = {5, 6, 7, 8, 9, 10, 11, 12};
    tok::BpeDefinition definition;
    std::string vocabulary, merges;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
        definition.vocabulary.insert(static_cast<std::int64_t>(i), tokens[i]);
        vocabulary += (i > 0 ? ",\"" : "\"") + tokens[i] + "\":" + std::to_string(i);
    }
    for (std::size_t i = 0; i < pairs.size(); ++i) {
        const auto [left, right] = pairs[i];
        definition.merges.push_back({left, right, static_cast<std::int32_t>(i), merged[i]});
        merges += (i > 0 ? ",[\"" : "[\"") + tokens[static_cast<std::size_t>(left)] + "\",\"" +
                  tokens[static_cast<std::size_t>(right)] + "\"]";
    }
    const tok::Bpe bpe(definition);
    EXPECT_EQ(bpe.tokens_across("▁"), (std::vector<std::string>{">▁</", "a▁", "a▁>"}));
    const Tokenizer tokenizer = Tokenizer::from_json_text(
        R"({"model":{"type":"BPE","vocab":{)" + vocabulary + R"(},"merges":[)" + merges + "]}}",
        "made");
    std::mt19937 random(3);
    for (int trial = 0; trial < 2000; ++trial) {
        std::string text;
        for (std::uint32_t n = random() % 16; n > 0; --n) text += tokens[random() % 5];
        std::vector<tok::ModelToken> whole;
        bpe.encode(text, whole);
        std::vector<std::int32_t> want;
        for (const tok::ModelToken& token : whole) want.push_back(token.id);
        EXPECT_EQ(tokenizer.encode(text, false), want) << text;
    }
}

TEST(Unicode, LossyDecodingReplacesMaximalSubparts) {
    EXPECT_EQ(tok::to_valid_utf8("a\xff"
                                 "b"),
              "a\uFFFD"
              "b");
    EXPECT_EQ(tok::to_valid_utf8("\xe2\x82"), "\uFFFD");
    EXPECT_EQ(tok::to_valid_utf8("\xf0\x9f\x98"
                                 "x"),
              "\uFFFDx");
    EXPECT_EQ(tok::to_valid_utf8("\xed\xa0\x80"), "\uFFFD\uFFFD\uFFFD");
    EXPECT_EQ(tok::to_valid_utf8("\xc0\xaf"), "\uFFFD\uFFFD");
    EXPECT_EQ(tok::to_valid_utf8("é日😀"), "é日😀");
}

TEST(Tokenizer, OffsetsFollowNormalization) {
    const auto qwen = Tokenizer::from_json_file(golden::path("qwen.json"));
    std::int64_t end = 0;
    for (const TokenSpan& span : qwen.encode_with_offsets("xe\u0301y", false)) end = span.end;
    EXPECT_EQ(end, 5);
    const auto first = qwen.encode_with_offsets("<|im_start|>a", false);
    ASSERT_EQ(first.size(), 2u);
    EXPECT_EQ(first[0], (TokenSpan{*qwen.token_to_id("<|im_start|>"), 0, 12}));
    EXPECT_EQ(first[1], (TokenSpan{*qwen.token_to_id("a"), 12, 13}));
    // The marker that SentencePiece puts in front stands for nothing.
    const auto spm = Tokenizer::from_json_file(golden::path("spm.json"));
    const auto spans = spm.encode_with_offsets("\x01", true);
    ASSERT_EQ(spans.size(), 4u);
    EXPECT_EQ(spans[0], (TokenSpan{1, 0, 0}));
    EXPECT_EQ(spans[1], (TokenSpan{*spm.token_to_id("\u2581"), 0, 0}));
    EXPECT_EQ(spans[2], (TokenSpan{*spm.token_to_id("<0x01>"), 0, 1}));
    EXPECT_EQ(spans[3], (TokenSpan{2, 1, 1}));
}

TEST(Tokenizer, SpecialsInTextCanBeSplit) {
    const auto tokenizer = Tokenizer::from_json_file(golden::path("qwen.json"));
    const std::int32_t special = *tokenizer.token_to_id("<|im_start|>"),
                       think = *tokenizer.token_to_id("<think>");
    EXPECT_TRUE(tokenizer.is_special(special));
    EXPECT_FALSE(tokenizer.is_special(think));
    const std::string text = "<|im_start|><think>";
    EXPECT_EQ(tokenizer.encode(text, false), (std::vector<std::int32_t>{special, think}));
    const auto split = tokenizer.encode(text, false, SpecialsInText::kSplit);
    EXPECT_GT(split.size(), 3u);
    EXPECT_EQ(split.back(), think);
    EXPECT_EQ(tokenizer.decode(split, true), text);
}

TEST(Tokenizer, DigestSeesContentNotFormatting) {
    const std::string text = golden::text("qwen.json");
    const auto digest = [](const std::string& json) {
        return Tokenizer::from_json_text(json, "x").sha256();
    };
    std::string changed = text;
    changed.replace(changed.find("NFC"), 3, "NFD");
    EXPECT_EQ(digest(text), digest(boost::json::serialize(boost::json::parse(text)) + "\n\n"));
    EXPECT_NE(digest(text), digest(changed));
    EXPECT_EQ(digest(text).size(), 64u);
}

}  // namespace
}  // namespace qshard
