#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "train/metrics/text_metrics.h"

namespace qshard {
namespace {

MaskScores score(std::string_view prediction, std::string_view reference) {
    MaskScores scores;
    add_mask_scores(prediction, reference, scores);
    return scores;
}

void expect_counts(const MaskCount& count, std::int64_t hits, std::int64_t misses,
                   std::int64_t false_alarms) {
    EXPECT_EQ(count.hits, hits);
    EXPECT_EQ(count.misses, misses);
    EXPECT_EQ(count.false_alarms, false_alarms);
}

TEST(ExactMatch, ForgivesOnlyBlanksAtTheEnds) {
    EXPECT_TRUE(exact_match("Hi [NAME].", "Hi [NAME]."));
    EXPECT_TRUE(exact_match(" Hi [NAME].\n", "Hi [NAME]."));
    EXPECT_TRUE(exact_match(" \n", ""));
    EXPECT_FALSE(exact_match("Hi  [NAME].", "Hi [NAME]."));
    EXPECT_FALSE(exact_match("Hi [NAME]", "Hi [NAME]."));
    EXPECT_FALSE(exact_match("hi [NAME].", "Hi [NAME]."));
}

TEST(MaskScores, EqualTextsAreAllHits) {
    const std::string text = "Call [NAME] at [PHONE], or [NAME] <[EMAIL]>.";
    const MaskScores scores = score(text, text);
    ASSERT_EQ(scores.size(), 3u);
    expect_counts(scores.at("NAME"), 2, 0, 0);
    expect_counts(scores.at("PHONE"), 1, 0, 0);
    expect_counts(scores.at("EMAIL"), 1, 0, 0);
    EXPECT_EQ(total(scores).f1(), 1.0);
}

TEST(MaskScores, UnmaskedValueIsAMiss) {
    const MaskScores scores = score("Call Anna Novak at [PHONE].", "Call [NAME] at [PHONE].");
    expect_counts(scores.at("NAME"), 0, 1, 0);
    expect_counts(scores.at("PHONE"), 1, 0, 0);
}

TEST(MaskScores, MaskedLookAlikeIsAFalseAlarm) {
    const MaskScores scores = score("Order [CARD] left [ADDRESS].", "Order 48213 left Leeds.");
    expect_counts(scores.at("CARD"), 0, 0, 1);
    expect_counts(scores.at("ADDRESS"), 0, 0, 1);
    EXPECT_EQ(total(scores).precision(), 0.0);
    EXPECT_EQ(total(scores).recall(), 1.0);
}

TEST(MaskScores, WrongKindIsAMissAndAFalseAlarm) {
    const MaskScores scores = score("Pay from [CARD] now", "Pay from [ACCOUNT] now");
    expect_counts(scores.at("ACCOUNT"), 0, 1, 0);
    expect_counts(scores.at("CARD"), 0, 0, 1);
}

TEST(MaskScores, TagInAnotherPlaceIsNoHit) {
    const MaskScores scores =
        score("[NAME] called about Anna in Rome", "Leeds called about [NAME] in Rome");
    expect_counts(scores.at("NAME"), 0, 1, 1);
}

TEST(MaskScores, TagsSplitFromPunctuationAndEachOther) {
    expect_counts(score("([NAME][NAME])", "([NAME],[NAME])").at("NAME"), 2, 0, 0);
    // Not tags: lower case, empty, unclosed, blank inside.
    EXPECT_TRUE(score("[name] [] [NAME [MY NAME] [1A]", "").empty());
    expect_counts(score("[[ID_2]]", "").at("ID_2"), 0, 0, 1);
}

TEST(MaskScores, AmongLongestAlignmentsTheOneWithMostTags) {
    // Both "x" and "[NAME]" alone are common subsequences of length one.
    expect_counts(score("[NAME] x", "x [NAME]").at("NAME"), 1, 0, 0);
    expect_counts(score("x [NAME]", "[NAME] x").at("NAME"), 1, 0, 0);
}

TEST(MaskScores, EmptyTextsCountNothing) {
    EXPECT_TRUE(score("", "").empty());
    EXPECT_EQ(total(score("", "")).f1(), 1.0);
    expect_counts(score("", "[NAME] [NAME]").at("NAME"), 0, 2, 0);
}

TEST(MaskScores, CountsAddUpOverRows) {
    MaskScores scores;
    add_mask_scores("[NAME]", "[NAME]", scores);
    add_mask_scores("Anna", "[NAME]", scores);
    add_mask_scores("[NAME]", "Leeds", scores);
    expect_counts(scores.at("NAME"), 1, 1, 1);
    EXPECT_DOUBLE_EQ(scores.at("NAME").recall(), 0.5);
    EXPECT_DOUBLE_EQ(scores.at("NAME").precision(), 0.5);
    EXPECT_DOUBLE_EQ(scores.at("NAME").f1(), 0.5);
}

/// Hits of the best alignment by trying every subset of the shorter text's tokens.
std::pair<std::int64_t, std::int64_t> best_by_trial(const std::vector<std::string>& left,
                                                    const std::vector<std::string>& right) {
    std::pair<std::int64_t, std::int64_t> best = {0, 0};
    for (unsigned subset = 0; subset < 1u << left.size(); ++subset) {
        std::int64_t length = 0, tags = 0;
        std::size_t at = 0;
        bool fits = true;
        for (std::size_t i = 0; i < left.size() && fits; ++i) {
            if (!(subset >> i & 1)) continue;
            while (at < right.size() && right[at] != left[i]) ++at;
            fits = at++ < right.size();
            ++length;
            tags += left[i][0] == '[';
        }
        if (fits) best = std::max(best, {length, tags});
    }
    return best;
}

TEST(MaskScores, HitsEqualThoseOfEveryAlignmentTried) {
    std::mt19937 random(7);
    const std::vector<std::string> words = {"a", "b", "[NAME]", "[CARD]"};
    for (int trial = 0; trial < 2000; ++trial) {
        std::vector<std::string> texts[2];
        std::string joined[2];
        std::int64_t tags[2] = {0, 0};
        for (int side = 0; side < 2; ++side) {
            for (unsigned i = random() % 9; i > 0; --i) {
                texts[side].push_back(words[random() % words.size()]);
                joined[side] += texts[side].back() + " ";
                tags[side] += texts[side].back()[0] == '[';
            }
        }
        const std::int64_t hits = best_by_trial(texts[0], texts[1]).second;
        const MaskCount count = total(score(joined[0], joined[1]));
        ASSERT_EQ(count.hits, hits) << joined[0] << "| " << joined[1];
        ASSERT_EQ(count.false_alarms, tags[0] - hits);
        ASSERT_EQ(count.misses, tags[1] - hits);
    }
}

}  // namespace
}  // namespace qshard
