#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "train/inference.h"

namespace qshard {

/// log softmax(logits), fp32 logits summed in double.
class LogSoftmax {
  public:
    explicit LogSoftmax(std::span<const float> logits);
    double operator[](std::size_t id) const {
        return (static_cast<double>(logits_[id]) - largest_) - log_sum_;
    }
    /// The k likeliest ids, likeliest first; the lower id first of equals.
    std::vector<std::int32_t> top(std::int64_t k) const;

  private:
    std::span<const float> logits_;
    double largest_ = 0;
    double log_sum_ = 0;  ///< of exp(logit - largest)
};

using TopTable = std::vector<std::pair<std::int32_t, double>>;  ///< (id, log-probability)

/// Of tokens 1, 2, ... of a text: nothing predicts the first.
struct TokenScores {
    std::vector<double> logprobs;
    std::vector<TopTable> top;
};

/// Scores tokens `first` (>= 1) to the last, with the `top` likeliest candidates of each.
TokenScores score_tokens(Inference& inference, std::span<const std::int32_t> ids, std::int64_t top,
                         std::int64_t first = 1);

/// One line of `qshard score`, without its end: {"input_ids": [...], "logprobs": [null, ...]} and,
/// if top > 0, "top": [[], [[id, logprob], ...], ...]. Numbers are the shortest that read back as
/// the same float. BugError (numerical) if one is not finite.
std::string score_line(std::span<const std::int32_t> ids, const TokenScores& scores,
                       std::int64_t top);

}  // namespace qshard
