#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "main/token_scores.h"

namespace qshard {
namespace {

TEST(LogSoftmax, NormalizesAndOrders) {
    const std::vector<float> logits{1, 3, 3, -200, 2};
    const LogSoftmax logprob(logits);
    const double sum = std::log(std::exp(1.0) + 2 * std::exp(3.0) + std::exp(2.0));
    EXPECT_NEAR(logprob[0], 1 - sum, 1e-12);
    EXPECT_NEAR(logprob[3], -200 - sum, 1e-12);
    EXPECT_EQ(logprob.top(3), (std::vector<std::int32_t>{1, 2, 4}));
    EXPECT_EQ(logprob.top(9).size(), 5u);
}

TEST(LogSoftmax, LargeLogitsDoNotOverflow) {
    const std::vector<float> logits{3e38f, 3e38f};
    EXPECT_NEAR(LogSoftmax(logits)[1], -std::log(2.0), 1e-12);
}

TEST(ScoreLine, IsJsonWhoseNumbersReadBackExactly) {
    const std::vector<std::int32_t> ids{7, 8, 9};
    const float odd = -0.1f / 3;
    TokenScores scores;
    scores.logprobs = {static_cast<double>(odd), -1e-30};
    scores.top = {{{8, static_cast<double>(odd)}, {2, -4.5}}, {{9, -1e-30}}};
    const auto line = boost::json::parse(score_line(ids, scores, 2)).as_object();
    EXPECT_EQ(line.at("input_ids"), (boost::json::array{7, 8, 9}));
    const auto& logprobs = line.at("logprobs").as_array();
    ASSERT_EQ(logprobs.size(), 3u);
    EXPECT_TRUE(logprobs[0].is_null());
    EXPECT_EQ(static_cast<float>(logprobs[1].to_number<double>()), odd);
    EXPECT_EQ(static_cast<float>(logprobs[2].to_number<double>()), -1e-30f);
    const auto& top = line.at("top").as_array();
    ASSERT_EQ(top.size(), 3u);
    EXPECT_TRUE(top[0].as_array().empty());
    EXPECT_EQ(top[1].as_array()[1].as_array()[0], 2);
    EXPECT_FALSE(boost::json::parse(score_line(ids, scores, 0)).as_object().contains("top"));
}

TEST(ScoreLine, RefusesWhatJsonCannotSay) {
    TokenScores scores;
    scores.logprobs = {std::numeric_limits<double>::quiet_NaN()};
    try {
        score_line(std::vector<std::int32_t>{1, 2}, scores, 0);
        ADD_FAILURE() << "a line without a number";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::kBug);
        EXPECT_NE(std::string(error.what()).find("not finite"), std::string::npos);
    }
}

}  // namespace
}  // namespace qshard
