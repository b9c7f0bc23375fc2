#include "main/token_scores.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace qshard {
namespace {

std::string number(double value) {
    if (!std::isfinite(value)) {
        throw Error(ExitCode::kBug,
                    "log-probabilities are not finite: the model overflows. Try --compute-dtype "
                    "float32.");
    }
    return fmt::format("{}", static_cast<float>(value));
}

}  // namespace

LogSoftmax::LogSoftmax(std::span<const float> logits)
    : logits_(logits),
      largest_(static_cast<double>(*std::max_element(logits.begin(), logits.end()))) {
    double sum = 0;
    for (float logit : logits) sum += std::exp(static_cast<double>(logit) - largest_);
    log_sum_ = std::log(sum);
}

std::vector<std::int32_t> LogSoftmax::top(std::int64_t k) const {
    std::vector<std::int32_t> ids(logits_.size());
    std::iota(ids.begin(), ids.end(), 0);
    const auto middle = ids.begin() + std::min<std::ptrdiff_t>(k, std::ssize(ids));
    std::partial_sort(ids.begin(), middle, ids.end(), [&](std::int32_t a, std::int32_t b) {
        const float x = logits_[static_cast<std::size_t>(a)],
                    y = logits_[static_cast<std::size_t>(b)];
        return x != y ? x > y : a < b;
    });
    ids.erase(middle, ids.end());
    return ids;
}

TokenScores score_tokens(Inference& inference, std::span<const std::int32_t> ids, std::int64_t top,
                         std::int64_t first) {
    TokenScores scores;
    inference.score(
        ids,
        [&](std::int64_t position, std::span<const float> logits) {
            const LogSoftmax logprob(logits);
            const std::int32_t next = ids[static_cast<std::size_t>(position) + 1];
            scores.logprobs.push_back(logprob[static_cast<std::size_t>(next)]);
            if (top <= 0) return;
            scores.top.emplace_back();
            for (std::int32_t id : logprob.top(top))
                scores.top.back().emplace_back(id, logprob[static_cast<std::size_t>(id)]);
        },
        first - 1);
    return scores;
}

std::string score_line(std::span<const std::int32_t> ids, const TokenScores& scores,
                       std::int64_t top) {
    std::string line = fmt::format("{{\"input_ids\":[{}],\"logprobs\":[null", fmt::join(ids, ","));
    for (double value : scores.logprobs) line += "," + number(value);
    line += "]";
    if (top > 0) {
        line += ",\"top\":[[]";
        for (const TopTable& table : scores.top) {
            line += ",[";
            for (std::size_t i = 0; i < table.size(); ++i) {
                line += fmt::format("{}[{},{}]", i == 0 ? "" : ",", table[i].first,
                                    number(table[i].second));
            }
            line += "]";
        }
        line += "]";
    }
    return line + "}";
}

}  // namespace qshard
