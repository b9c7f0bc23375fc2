#include <gtest/gtest.h>

#include "main/eval_pairs.h"

namespace qshard {
namespace {

const std::vector<PairExample> kPairs{{"Sky?", " blue", " green"}, {"Sun?", " up high", " sea"}};
/// The base is wrong about the first pair; about the second only by the sum, not by the mean.
const std::vector<PairSubject> kSubjects{{"base", {{-6, -4, 2, 2}, {-4, -3, 4, 1}}},
                                         {"out/adapter", {{-2, -5, 2, 2}, {-4.5, -3, 4, 1}}}};

TEST(EvalPairs, Summarizes) {
    const PairSummary base = summarize_pairs(kSubjects[0], kSubjects[0]);
    EXPECT_DOUBLE_EQ(base.chosen, -5);
    EXPECT_DOUBLE_EQ(base.rejected, -3.5);
    EXPECT_EQ(base.correct, 0);
    EXPECT_EQ(base.correct_by_token, 1);
    EXPECT_EQ(base.rewarded, 0);
    const PairSummary tuned = summarize_pairs(kSubjects[1], kSubjects[0]);
    EXPECT_EQ(tuned.correct, 1);
    EXPECT_EQ(tuned.correct_by_token, 2);
    EXPECT_DOUBLE_EQ(tuned.reward_margin, (5 - 0.5) / 2);
    EXPECT_EQ(tuned.rewarded, 1);
}

TEST(EvalPairs, TableJsonAndLinesCarryTheSameFigures) {
    const std::string table = pair_table("test", kPairs, kSubjects);
    for (const char* part :
         {"test, 2 pairs", "out/adapter", "-5.0000", "-3.2500", "50.0 %", "1 of 2", "0 of 2",
          "2.2500", "-6.00 against -4.00   (prefers", "-2.00 against -5.00\n"})
        EXPECT_NE(table.find(part), std::string::npos) << part << " in\n" << table;
    const auto json = pair_json("test", kSubjects);
    EXPECT_EQ(json.at("pairs"), 2);
    const auto& subjects = json.at("subjects").as_array();
    EXPECT_FALSE(subjects[0].as_object().contains("reward_margin"));
    EXPECT_EQ(subjects[1].at("accuracy"), 0.5);
    EXPECT_EQ(subjects[1].at("accuracy_by_token"), 1.0);
    EXPECT_EQ(subjects[1].at("reward_accuracy"), 0.5);
    const std::string lines = pair_lines(kPairs, kSubjects);
    const auto first = boost::json::parse(lines.substr(0, lines.find('\n'))).as_object();
    EXPECT_EQ(first.at("rejected"), " green");
    EXPECT_EQ(first.at("tuned").at("chosen_logp"), -2.0);
}

TEST(EvalPairs, ScoresTravelExactly) {
    const std::vector<PairScore> scores{{-1.0 / 3, -2e-17, 5, 7}, {0, -123456.789, 0, 1}};
    const auto back = pair_scores_of(lines_of(scores));
    ASSERT_EQ(back.size(), 2u);
    EXPECT_EQ(back[0].chosen, scores[0].chosen);
    EXPECT_EQ(back[0].rejected, scores[0].rejected);
    EXPECT_EQ(back[1].rejected, scores[1].rejected);
    EXPECT_EQ(back[0].rejected_tokens, 7);
}

}  // namespace
}  // namespace qshard
