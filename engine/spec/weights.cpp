#include "spec/weights.h"

#include "base/error.h"
#include "spec/families.h"

namespace qshard {
namespace {

/// Collects the weights of one unit.
class UnitWeights {
  public:
    UnitWeights(const ModelConfig& config, std::int64_t layer)
        : family_(family_named(config.family)), layer_(layer) {}

    void linear(Role role, std::int64_t rows, std::int64_t cols) { add(role, rows, cols, true); }
    void matrix(Role role, std::int64_t rows, std::int64_t cols) { add(role, rows, cols, false); }
    void vector(bool present, Role role, std::int64_t cols) {
        if (present) add(role, 1, cols, false);
    }
    std::vector<WeightSpec> take() { return std::move(weights_); }

  private:
    void add(Role role, std::int64_t rows, std::int64_t cols, bool is_linear) {
        weights_.push_back({role, hugging_face_name(family_, role, layer_), rows, cols, is_linear});
    }

    const Family& family_;
    std::int64_t layer_;
    std::vector<WeightSpec> weights_;
};

void add_final_norm(UnitWeights& unit, const ModelConfig& config) {
    unit.vector(true, Role::kFinalNorm, config.width);
    unit.vector(config.norm == NormKind::kLayer, Role::kFinalNormBias, config.width);
}

}  // namespace

std::vector<WeightSpec> embedding_weights(const ModelConfig& config) {
    UnitWeights unit(config, 0);
    unit.matrix(Role::kEmbed, config.vocabulary, config.width);
    if (config.learned_positions) unit.matrix(Role::kPositions, config.max_positions, config.width);
    if (config.tied_head) add_final_norm(unit, config);
    return unit.take();
}

std::vector<WeightSpec> layer_weights(const ModelConfig& config, std::int64_t layer) {
    const std::int64_t c = config.width, q = config.q_width(), kv = config.kv_width(),
                       f = config.ffn_width;
    const bool layer_norm = config.norm == NormKind::kLayer;
    UnitWeights unit(config, layer);
    unit.linear(Role::kQ, q, c);
    unit.linear(Role::kK, kv, c);
    unit.linear(Role::kV, kv, c);
    unit.linear(Role::kO, c, q);
    if (config.gated_mlp) unit.linear(Role::kGate, f, c);
    unit.linear(Role::kUp, f, c);
    unit.linear(Role::kDown, c, f);
    unit.vector(true, Role::kNorm1, c);
    unit.vector(layer_norm, Role::kNorm1Bias, c);
    unit.vector(config.qk_norm, Role::kQNorm, config.head_width);
    unit.vector(config.qk_norm, Role::kKNorm, config.head_width);
    unit.vector(config.sandwich_norms, Role::kPostAttentionNorm, c);
    unit.vector(true, Role::kNorm2, c);
    unit.vector(layer_norm, Role::kNorm2Bias, c);
    unit.vector(config.sandwich_norms, Role::kPostFfnNorm, c);
    unit.vector(config.qkv_bias, Role::kQBias, q);
    unit.vector(config.qkv_bias, Role::kKBias, kv);
    unit.vector(config.qkv_bias, Role::kVBias, kv);
    unit.vector(config.o_bias, Role::kOBias, c);
    unit.vector(config.mlp_bias, Role::kUpBias, f);
    unit.vector(config.mlp_bias, Role::kDownBias, c);
    return unit.take();
}

std::vector<WeightSpec> head_weights(const ModelConfig& config) {
    if (config.tied_head) return {};
    UnitWeights unit(config, 0);
    unit.matrix(Role::kHead, config.vocabulary, config.width);
    add_final_norm(unit, config);
    return unit.take();
}

}  // namespace qshard
