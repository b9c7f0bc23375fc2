#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "base/philox.h"
#include "model/routing.h"

/// The router's choice and its derivative, without a decoder around it.
namespace qshard {
namespace {

ModelConfig mixture(std::int64_t experts, std::int64_t chosen, bool normalized) {
    ModelConfig config;
    config.experts = experts;
    config.experts_per_token = chosen;
    config.normalized_experts = normalized;
    return config;
}

TEST(Routing, TokensOfAnExpertAscendAndTiesGoToTheLowerIndex) {
    const std::vector<float> logits = {0, 0, 0, 0, 1, 0, 2, 0, -1, 3, 3, 3};
    const Routing routing = route(mixture(4, 2, true), logits);
    EXPECT_EQ(routing.begin, (std::vector<std::int64_t>{0, 2, 4, 6, 6}));
    EXPECT_EQ(routing.rows, (std::vector<std::int32_t>{0, 1, 0, 2, 1, 2}));
    EXPECT_FLOAT_EQ(routing.weights[0], 0.5f);
    EXPECT_FLOAT_EQ(routing.weights[1], 1.0f / (1.0f + std::exp(1.0f)));
    EXPECT_FLOAT_EQ(routing.weights[3], 0.5f);
}

TEST(Routing, ATokenIsRoutedAloneAsAmongOthers) {
    const ModelConfig config = mixture(5, 3, false);
    const Philox random(3, Purpose::kTestData);
    std::vector<float> logits(5 * 7);
    for (std::size_t i = 0; i < logits.size(); ++i) logits[i] = 4.0f * random.uniform(i);
    const Routing all = route(config, logits);
    for (std::size_t n = 0; n < 7; ++n) {
        const Routing one = route(config, std::span(logits).subspan(5 * n, 5));
        for (std::size_t e = 0; e < 5; ++e) {
            for (auto i = all.begin[e]; i < all.begin[e + 1]; ++i) {
                const auto at = static_cast<std::size_t>(i);
                if (all.rows[at] != static_cast<std::int32_t>(n)) continue;
                ASSERT_EQ(one.begin[e + 1] - one.begin[e], 1);
                EXPECT_EQ(all.weights[at], one.weights[static_cast<std::size_t>(one.begin[e])]);
            }
        }
    }
}

TEST(Routing, DerivativeAgreesWithDifferences) {
    for (const bool normalized : {false, true}) {
        const ModelConfig config = mixture(5, 2, normalized);
        std::vector<float> logits = {0.5f, -1.0f, 2.0f, 0.1f, 1.0f, 3.0f, 0.0f, 1.0f, -2.0f, 2.0f};
        const Routing routing = route(config, logits);
        const std::vector<float> dweights = {0.7f, -1.1f, 0.4f, 0.9f};
        const auto loss = [&](const std::vector<float>& at) {
            const Routing moved = route(config, at);
            EXPECT_EQ(moved.rows, routing.rows) << "no choice changes in this neighbourhood";
            return std::inner_product(moved.weights.begin(), moved.weights.end(), dweights.begin(),
                                      0.0);
        };
        const std::vector<float> d = route_backward(config, logits, routing, dweights);
        for (std::size_t i = 0; i < logits.size(); ++i) {
            std::vector<float> up = logits, down = logits;
            up[i] += 0.01f;
            down[i] -= 0.01f;
            EXPECT_NEAR(d[i], (loss(up) - loss(down)) / 0.02, 1e-4) << i << " " << normalized;
        }
    }
}

}  // namespace
}  // namespace qshard
