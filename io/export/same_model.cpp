#include "io/export/same_model.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "spec/rope.h"

namespace qshard {
namespace {

bool near(float a, float b) {
    return std::abs(a - b) <= 1e-6f * std::max(std::abs(a), std::abs(b));
}

bool same_rope(const RopeConfig& a, const RopeConfig& b, std::int64_t length) {
    const RopeTable x = make_rope(a, length), y = make_rope(b, length);
    if (x.inverse_frequencies.size() != y.inverse_frequencies.size()) return false;
    for (std::size_t i = 0; i < x.inverse_frequencies.size(); ++i) {
        if (!near(x.inverse_frequencies[i], y.inverse_frequencies[i])) return false;
    }
    return near(x.attention_factor, y.attention_factor);
}

/// For documents of any length: each changes beyond its original length, if at all.
bool same_rope(const RopeConfig& a, const RopeConfig& b) {
    const std::int64_t x = a.original_max_positions, y = b.original_max_positions;
    return std::ranges::all_of(std::array{x, y, x + 1, y + 1, 2 * x},
                               [&](std::int64_t length) { return same_rope(a, b, length); });
}

std::string layer_difference(const ModelConfig& a, const ModelConfig& b) {
    if (a.layer.size() != b.layer.size()) return "layers";
    for (std::size_t l = 0; l < a.layer.size(); ++l) {
        const LayerConfig &x = a.layer[l], &y = b.layer[l];
        if (x.window != y.window) return "sliding window";
        if (x.experts != y.experts) return "layers with experts";
        if (x.rope != y.rope) return "layers without rotary positions";
        const bool rotates = x.rope && !a.ropes.empty() && !b.ropes.empty();
        if (rotates && !same_rope(a.ropes.at(static_cast<std::size_t>(x.rope_index)),
                                  b.ropes.at(static_cast<std::size_t>(y.rope_index)))) {
            return "rotary positions";
        }
    }
    return "";
}

}  // namespace

std::string difference_of(const ModelConfig& a, const ModelConfig& b) {
    const auto differ = [&](auto... members) { return ((a.*members != b.*members) || ...); };
    const auto far = [&](auto... members) { return (!near(a.*members, b.*members) || ...); };
    using M = ModelConfig;
    if (differ(&M::layers, &M::width, &M::heads, &M::kv_heads, &M::head_width, &M::ffn_width,
               &M::vocabulary)) {
        return "dimensions";
    }
    if (differ(&M::norm, &M::norm_offset, &M::qk_norm, &M::qk_norm_wide, &M::pre_norms,
               &M::post_norms))
        return "norms";
    if (differ(&M::experts, &M::experts_per_token, &M::expert_width, &M::normalized_experts))
        return "experts";
    if (far(&M::norm_eps)) return "norm_eps";
    if (differ(&M::qkv_bias, &M::o_bias, &M::mlp_bias)) return "biases";
    if (differ(&M::gated_mlp, &M::activation)) return "activation";
    if (differ(&M::tied_head, &M::learned_positions)) return "embeddings";
    if (far(&M::embed_scale, &M::residual_scale, &M::logit_scale)) return "multipliers";
    if (far(&M::attention_scale, &M::attention_softcap, &M::logit_softcap))
        return "attention scale";
    if (a.ropes.empty() != b.ropes.empty()) return "rotary positions";
    return layer_difference(a, b);
}

}  // namespace qshard
