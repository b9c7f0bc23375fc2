#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/error.h"
#include "golden_files.h"
#include "io/tokenizer/tokenizer.h"
#include "tests/temp_folder.h"

/// Broken and hostile input ends in a UserError that says what is wrong.
namespace qshard {
namespace {

void expect_refused(const std::string& json, const std::string& reason) {
    try {
        Tokenizer::from_json_text(json, "test.json");
        FAIL() << "accepted; expected: " << reason;
    } catch (const UserError& error) {
        EXPECT_NE(std::string(error.what()).find(reason), std::string::npos) << error.what();
        EXPECT_NE(std::string(error.what()).find("test.json"), std::string::npos) << error.what();
    }
}

const char* const kModel =
    R"("model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]})";

std::string with(const std::string& members) {
    return "{" + members + "," + kModel + "}";
}

std::string with_model(const std::string& members) {
    return R"({"model":{"type":"BPE",)" + members + "}}";
}

TEST(Malformed, EveryTruncationIsRefused) {
    const std::string whole = golden::text("llama3.json");
    for (std::size_t bytes = 0; bytes + 2 < whole.size(); bytes += 97) {
        EXPECT_THROW(Tokenizer::from_json_text(whole.substr(0, bytes), "cut"), UserError) << bytes;
    }
}

TEST(Malformed, Json) {
    expect_refused("", "not valid JSON");
    expect_refused("[]", "expected an object");
    expect_refused("{}", "no model");
    expect_refused(std::string(40, '[') + std::string(40, ']'), "not valid JSON");
    expect_refused(with(R"("version":"2.0")"), "expected \"1.0\"");
    expect_refused(with(R"("version":"1.0","version":"1.0")"), "twice");
    expect_refused(with_model(R"("vocab":{"a":0,"a":1},"merges":[])"), "twice");
    expect_refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"\xff\":0},\"merges\":[]}}",
                   "not valid JSON");
}

TEST(Malformed, Vocabulary) {
    expect_refused(with_model(R"("merges":[])"), "model.vocab: expected an object");
    expect_refused(with_model(R"("vocab":{"a":0.5},"merges":[])"), "integer id");
    expect_refused(with_model(R"("vocab":{"a":-1},"merges":[])"), "outside 0..1048575");
    expect_refused(with_model(R"("vocab":{"a":1048576},"merges":[])"), "outside 0..1048575");
    expect_refused(with_model(R"("vocab":{"a":0,"b":0},"merges":[])"), "belongs to both");
    expect_refused(with_model(R"("vocab":{")" + std::string(70000, 'x') + R"(":0},"merges":[])"),
                   "70000 bytes");
    expect_refused(with_model(R"("vocab":{"a":0},"merges":[],"unk_token":"?")"),
                   "not in the vocabulary");
    expect_refused(with_model(R"("vocab":{"a":0},"merges":[],"dropout":0.1)"), "dropout");
}

TEST(Malformed, Merges) {
    const std::string vocabulary = R"("vocab":{"a":0,"b":1},"merges":)";
    expect_refused(with_model(vocabulary + R"(["a c"])"), "refers to \"c\"");
    expect_refused(with_model(vocabulary + R"([["a","b"]])"), "refers to \"ab\"");
    expect_refused(with_model(vocabulary + R"(["ab"])"), "two tokens and a space");
    expect_refused(with_model(vocabulary + R"(["a b c"])"), "two tokens and a space");
    expect_refused(with_model(vocabulary + R"([["a"]])"), "merges[0]: expected two tokens");
    expect_refused(with_model(vocabulary + R"([1])"), "expected a string");
}

TEST(Malformed, UnknownComponentsAreNamed) {
    expect_refused(with(R"("normalizer":{"type":"Precompiled"})"), "normalizer \"Precompiled\"");
    expect_refused(with(R"("pre_tokenizer":{"type":"UnicodeScripts"})"),
                   "pre-tokenizer \"UnicodeScripts\"");
    expect_refused(with(R"("post_processor":{"type":"Magic"})"), "post-processor \"Magic\"");
    expect_refused(with(R"("decoder":{"type":"CTC"})"), "decoder \"CTC\"");
    expect_refused(R"({"model":{"type":"WordPiece","vocab":{}}})", "model \"WordPiece\"");
    expect_refused(
        with(R"("pre_tokenizer":{"type":"Split","pattern":{"String":"x"},"behavior":"Odd"})"),
        "\"Odd\"");
    expect_refused(with(R"("decoder":{"type":"Strip","content":"ab","start":0,"stop":0})"),
                   "one character");
}

TEST(Malformed, AddedTokensAndTemplates) {
    expect_refused(with(R"("added_tokens":[{"id":1,"content":"x"}])"), "belongs to both");
    expect_refused(with(R"("added_tokens":[{"id":99999999,"content":"x"}])"), "outside");
    expect_refused(with(R"("added_tokens":[{"id":"3","content":"x"}])"), "expected an integer");
    const std::string single =
        R"("post_processor":{"type":"TemplateProcessing","special_tokens":{"<s>":{"ids":[7]}},"single":)";
    expect_refused(with(single + R"([{"SpecialToken":{"id":"<s>"}},{"Sequence":{"id":"A"}}]})"),
                   "no token has the id 7");
    expect_refused(with(single + R"([{"Sequence":{"id":"A"}},{"Sequence":{"id":"A"}}]})"),
                   "A once");
    expect_refused(with(single + R"([]})"), "leaves out the text");
}

TEST(Malformed, Patterns) {
    const auto split = [](const std::string& regex) {
        return with(
            R"("pre_tokenizer":{"type":"Split","behavior":"Isolated","pattern":{"Regex":")" +
            regex + R"("}})");
    };
    expect_refused(split("(a"), "regular expression");
    expect_refused(split("[a-z&&[^b]]"), "class intersection");
    expect_refused(split("[a[b]]"), "nested");
    expect_refused(split("a{1,3}+"), "after an interval");
    expect_refused(split("\\\\y"), "\\y");
    expect_refused(split("[\\\\W]"), "\\W in a character class");
}

// A pattern that would take exponential time runs into a limit.
TEST(Malformed, CatastrophicPattern) {
    const auto tokenizer = Tokenizer::from_json_text(
        with(
            R"("pre_tokenizer":{"type":"Split","behavior":"Isolated","pattern":{"Regex":"(?:(?:a|aa)+)+$"}})"),
        "test.json");
    EXPECT_THROW(tokenizer.encode(std::string(200, 'a') + "b", false), UserError);
}

TEST(Malformed, Text) {
    const auto tokenizer = Tokenizer::from_json_file(golden::path("smollm.json"));
    for (const char* text : {"\xff", "a\x80", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                             "\xe2\x82", "\xf0\x9f\x98"}) {
        EXPECT_THROW(tokenizer.encode(text, false), UserError) << text;
        EXPECT_THROW(tokenizer.encode_with_offsets(text, false), UserError) << text;
    }
    EXPECT_EQ(tokenizer.decode(std::vector<std::int32_t>{-1, 1 << 30, 2147483647}, false), "");
    EXPECT_EQ(tokenizer.id_to_token(-5), "");
    EXPECT_FALSE(tokenizer.is_special(-5));
}

TEST(Malformed, Files) {
    EXPECT_THROW(Tokenizer::from_json_file("/nonexistent/tokenizer.json"), UserError);
    const test::TempFolder folder;
    const auto path = folder.write("tokenizer.json", "");
    std::filesystem::resize_file(path, (std::uintmax_t{256} << 20) + 1);  // sparse
    EXPECT_THROW(Tokenizer::from_json_file(path), UserError);
}

}  // namespace
}  // namespace qshard
