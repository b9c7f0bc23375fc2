#include <gtest/gtest.h>

#include "main/progress.h"
#include "main/row_view.h"

namespace qshard {
namespace {

/// Every id is a byte of text.
std::string decode(std::span<const std::int32_t> ids) {
    return {ids.begin(), ids.end()};
}

EncodedRow row_of(const std::string& prompt, const std::string& answer) {
    EncodedRow row;
    for (const char c : prompt) row.labels.push_back(-100), row.ids.push_back(c);
    for (const char c : answer) row.labels.push_back(c), row.ids.push_back(c);
    return row;
}

TEST(RowView, WhatIsLearntStandsInBrackets) {
    EXPECT_EQ(row_view(row_of("ab", "cd"), decode, {}), "  | ab[cd]\n");
    EXPECT_EQ(row_view(row_of("", "cd"), decode, {}), "  | c[d]\n");  // nothing predicts the first
}

TEST(RowView, TextCannotBeTakenForMarks) {
    EXPECT_EQ(row_view(row_of("[a]", "b\t\x1b"), decode, {}), "  | \\[a\\][b\\t\\x1b]\n");
}

TEST(RowView, WhatATerminalObeysIsSpeltOut) {
    // U+009B begins an escape sequence; U+202E turns the direction of what follows.
    EXPECT_EQ(row_view(row_of("a\xc2\x9b", "\xe2\x80\xae\xc3\xa9\xe2\x82\xac"), decode, {}),
              "  | a\\x9b[\\u202e\xc3\xa9\xe2\x82\xac]\n");
    EXPECT_EQ(row_view(row_of("\\n", "b\\"), decode, {}), "  | \\\\n[b\\\\]\n");
}

TEST(RowView, LineBreaksThatAreLearntAreSeen) {
    EXPECT_EQ(row_view(row_of("a\n", "b\n"), decode, {}), "  | a\n  | [b\\n\n  | ]\n");
}

TEST(RowView, ColourTakesThePlaceOfBrackets) {
    EXPECT_EQ(row_view(row_of("a[", "b\nc"), decode, {.color = true}),
              "  | a[\x1b[32mb\\n\x1b[0m\n  | \x1b[32mc\x1b[0m\n");
}

TEST(RowView, IdsAreMarkedAlike) {
    EXPECT_EQ(row_view(row_of("AB", "CD"), decode, {.ids = true}), "  | 65 66 [67 68]\n");
}

TEST(RowView, DecodersThatTreatTheBeginningOtherwiseAreAsked) {
    // As SentencePiece's: the space before the first word is not printed.
    const auto sentence_piece = [](std::span<const std::int32_t> ids) {
        std::string text = decode(ids);
        if (text.starts_with(' ')) text.erase(0, 1);
        return text;
    };
    EXPECT_EQ(row_view(row_of(" a", " b"), sentence_piece, {}), "  | a[ b]\n");
}

TEST(Wrapped, LinesBreakAtSpacesAndGoOnIndented) {
    EXPECT_EQ(wrapped("one two three\n", 8, 2), "one two\n  three\n");
    EXPECT_EQ(wrapped("one two three", 0, 2), "one two three");
    EXPECT_EQ(wrapped("a-very-long-word b\nc\n", 6, 2), "a-very-long-word\n  b\nc\n");
    EXPECT_EQ(wrapped("name        value of it\n", 18, 12), "name        value\n         of it\n");
}

TEST(Wrapped, CharactersCountNotBytes) {
    EXPECT_EQ(wrapped("\xc3\xa9\xc3\xa9\xc3\xa9 \xc3\xa9\xc3\xa9", 6, 0),
              "\xc3\xa9\xc3\xa9\xc3\xa9 \xc3\xa9\xc3\xa9");
}

}  // namespace
}  // namespace qshard
