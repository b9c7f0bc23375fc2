#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "spec/model_config.h"

/// Which tokens go to which experts of one layer, and with what weight. Decided on the host, token
/// by token, so that it depends on nothing but the token's own logits.
namespace qshard {

/// Assignments of tokens to experts: those of expert 0 first, tokens ascending within an expert.
struct Routing {
    std::vector<std::int32_t> rows;   ///< [N*k] the token of each assignment
    std::vector<float> weights;       ///< [N*k] the share of the expert's output in the sum
    std::vector<std::int64_t> begin;  ///< [E+1] first assignment of each expert
};

/// The k most probable experts of every token: softmax over all of them in fp32, the lower index on
/// a tie; the k probabilities are divided by their sum where the model says so. logits[N, E].
Routing route(const ModelConfig& config, std::span<const float> logits);

/// Derivative of the loss by the logits, [N, E], from that by the weights, [N*k] in the order of
/// `routing`. The choice itself is taken as constant, as everywhere.
std::vector<float> route_backward(const ModelConfig& config, std::span<const float> logits,
                                  const Routing& routing, std::span<const float> dweights);

}  // namespace qshard
