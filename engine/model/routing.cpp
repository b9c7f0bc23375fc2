#include "model/routing.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace qshard {
namespace {

std::vector<float> softmax(std::span<const float> logits) {
    const float top = *std::max_element(logits.begin(), logits.end());
    std::vector<float> p(logits.size());
    double sum = 0;
    for (std::size_t e = 0; e < p.size(); ++e) {
        p[e] = static_cast<float>(std::exp(double{logits[e]} - double{top}));
        sum += double{p[e]};
    }
    for (float& value : p) value = static_cast<float>(double{value} / sum);
    return p;
}

/// The k most probable experts, ascending.
std::vector<std::size_t> choose(std::span<const float> p, std::int64_t k) {
    std::vector<std::size_t> experts(p.size());
    std::iota(experts.begin(), experts.end(), std::size_t{0});
    std::stable_sort(experts.begin(), experts.end(),
                     [&](std::size_t a, std::size_t b) { return p[a] > p[b]; });
    experts.resize(static_cast<std::size_t>(k));
    std::sort(experts.begin(), experts.end());
    return experts;
}

}  // namespace

Routing route(const ModelConfig& config, std::span<const float> logits) {
    const auto experts = static_cast<std::size_t>(config.experts);
    const std::size_t tokens = logits.size() / experts;
    std::vector<std::vector<std::int32_t>> rows(experts);
    std::vector<std::vector<float>> weights(experts);
    for (std::size_t n = 0; n < tokens; ++n) {
        const std::vector<float> p = softmax(logits.subspan(n * experts, experts));
        const std::vector<std::size_t> chosen = choose(p, config.experts_per_token);
        float sum = 0;
        for (std::size_t e : chosen) sum += p[e];
        for (std::size_t e : chosen) {
            rows[e].push_back(static_cast<std::int32_t>(n));
            weights[e].push_back(config.normalized_experts ? p[e] / sum : p[e]);
        }
    }
    Routing routing;
    for (std::size_t e = 0; e < experts; ++e) {
        routing.begin.push_back(std::ssize(routing.rows));
        routing.rows.insert(routing.rows.end(), rows[e].begin(), rows[e].end());
        routing.weights.insert(routing.weights.end(), weights[e].begin(), weights[e].end());
    }
    routing.begin.push_back(std::ssize(routing.rows));
    return routing;
}

std::vector<float> route_backward(const ModelConfig& config, std::span<const float> logits,
                                  const Routing& routing, std::span<const float> dweights) {
    const auto experts = static_cast<std::size_t>(config.experts);
    // First the derivative by the probabilities, zero where the expert was not chosen.
    std::vector<float> d(logits.size(), 0.0f);
    std::vector<bool> chosen(logits.size(), false);
    for (std::size_t e = 0; e < experts; ++e) {
        for (auto i = static_cast<std::size_t>(routing.begin[e]);
             i < static_cast<std::size_t>(routing.begin[e + 1]); ++i) {
            const std::size_t at = static_cast<std::size_t>(routing.rows[i]) * experts + e;
            d[at] = dweights[i];
            chosen[at] = true;
        }
    }
    for (std::size_t first = 0; first < logits.size(); first += experts) {
        const std::vector<float> p = softmax(logits.subspan(first, experts));
        if (config.normalized_experts) {
            // w = p / s with s the chosen ones' sum: dp = (dw - sum(dw * w)) / s.
            float s = 0, mean = 0;
            for (std::size_t e = 0; e < experts; ++e) {
                if (chosen[first + e]) s += p[e];
                mean += d[first + e] * p[e];
            }
            for (std::size_t e = 0; e < experts; ++e) {
                if (chosen[first + e]) d[first + e] = (d[first + e] - mean / s) / s;
            }
        }
        float mean = 0;
        for (std::size_t e = 0; e < experts; ++e) mean += d[first + e] * p[e];
        for (std::size_t e = 0; e < experts; ++e) d[first + e] = p[e] * (d[first + e] - mean);
    }
    return d;
}

}  // namespace qshard
