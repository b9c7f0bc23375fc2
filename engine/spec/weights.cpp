#include "spec/weights.h"

#include <memory>

#include "base/error.h"
#include "spec/families.h"
#include "tensor/rounding.h"

namespace qshard {
namespace {

/// Collects the weights of one unit.
class UnitWeights {
  public:
    UnitWeights(const ModelConfig& config, std::int64_t layer)
        : family_(family_named(config.family)), layer_(layer) {}

    WeightSpec& linear(Role role, std::int64_t rows, std::int64_t cols, std::int64_t expert = 0) {
        return add(role, rows, cols, true, expert);
    }
    void fused(Role role, std::vector<WeightPart> parts, std::int64_t cols) {
        std::int64_t rows = 0;
        for (const WeightPart& part : parts) rows += part.rows;
        linear(role, rows, cols).parts = std::move(parts);
    }
    void matrix(Role role, std::int64_t rows, std::int64_t cols) {
        add(role, rows, cols, false, 0);
    }
    void vector(bool present, Role role, std::int64_t cols) {
        if (present) add(role, 1, cols, false, 0);
    }
    std::vector<WeightSpec> take() { return std::move(weights_); }

  private:
    WeightSpec& add(Role role, std::int64_t rows, std::int64_t cols, bool is_linear,
                    std::int64_t expert) {
        WeightSpec& weight = weights_.emplace_back();
        weight.role = role;
        weight.name = hugging_face_name(family_, role, layer_, expert);
        weight.rows = rows;
        weight.cols = cols;
        weight.linear = is_linear;
        weight.expert = expert;
        weight.transposed = is_linear && family_.conv1d;
        return weight;
    }

    const Family& family_;
    std::int64_t layer_;
    std::vector<WeightSpec> weights_;
};

void add_final_norm(UnitWeights& unit, const ModelConfig& config) {
    unit.vector(true, Role::kFinalNorm, config.width);
    unit.vector(config.norm == NormKind::kLayer, Role::kFinalNormBias, config.width);
}

void add_experts(UnitWeights& unit, const ModelConfig& config) {
    const std::int64_t c = config.width, f = config.expert_width;
    for (const Role role : {Role::kExpertGate, Role::kExpertUp, Role::kExpertDown}) {
        const bool down = role == Role::kExpertDown;
        for (std::int64_t e = 0; e < config.experts; ++e)
            unit.linear(role, down ? c : f, down ? f : c, e);
    }
    unit.matrix(Role::kRouter, config.experts, config.width);
}

void add_vectors(UnitWeights& unit, const ModelConfig& config, bool experts) {
    const std::int64_t c = config.width, q = config.q_width(), kv = config.kv_width(),
                       f = config.ffn_width;
    const bool biased_norms = config.pre_norms && config.norm == NormKind::kLayer;
    const bool split_bias = config.qkv_bias && !config.fused_qkv;
    const bool mlp_bias = config.mlp_bias && !experts;
    unit.vector(config.pre_norms, Role::kNorm1, c);
    unit.vector(biased_norms, Role::kNorm1Bias, c);
    unit.vector(config.qk_norm, Role::kQNorm, config.qk_norm_wide ? q : config.head_width);
    unit.vector(config.qk_norm, Role::kKNorm, config.qk_norm_wide ? kv : config.head_width);
    unit.vector(config.post_norms, Role::kPostAttentionNorm, c);
    unit.vector(config.pre_norms, Role::kNorm2, c);
    unit.vector(biased_norms, Role::kNorm2Bias, c);
    unit.vector(config.post_norms, Role::kPostFfnNorm, c);
    unit.vector(config.qkv_bias && config.fused_qkv, Role::kQkvBias, q + 2 * kv);
    unit.vector(split_bias, Role::kQBias, q);
    unit.vector(split_bias, Role::kKBias, kv);
    unit.vector(split_bias, Role::kVBias, kv);
    unit.vector(config.o_bias, Role::kOBias, c);
    unit.vector(mlp_bias && config.gated_mlp, Role::kGateBias, f);
    unit.vector(mlp_bias, Role::kUpBias, f);
    unit.vector(mlp_bias, Role::kDownBias, c);
}

}  // namespace

void WeightReader::check_inside(const WeightSpec& weight, std::int64_t first, std::size_t count) {
    check(first >= 0 && first <= weight.count() &&
              static_cast<std::int64_t>(count) <= weight.count() - first,
          "a read lies inside its weight");
}

void WeightReader::read_bf16(const WeightSpec& weight, std::int64_t first,
                             std::span<bf16> out) const {
    const auto room = std::make_unique_for_overwrite<float[]>(out.size());
    const std::span<float> values(room.get(), out.size());
    read(weight, first, values);
    convert_to_bf16(values, out.data());
}

void WeightReader::read_part(const WeightSpec&, StoredPart, std::size_t,
                             std::span<std::byte>) const {
    throw BugError("sections are read of quantized weights only");
}

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
    const bool experts = config.layer[static_cast<std::size_t>(layer)].experts;
    UnitWeights unit(config, layer);
    for (const Role role : linear_roles(config)) {
        switch (role) {
            case Role::kQkv:
                unit.fused(role, {{Role::kQ, q}, {Role::kK, kv}, {Role::kV, kv}}, c);
                break;
            case Role::kQ:
                unit.linear(role, q, c);
                break;
            case Role::kK:
            case Role::kV:
                unit.linear(role, kv, c);
                break;
            case Role::kO:
                unit.linear(role, c, q);
                break;
            case Role::kGateUp:
                if (!experts) unit.fused(role, {{Role::kGate, f}, {Role::kUp, f}}, c);
                break;
            case Role::kDown:
                if (!experts) unit.linear(role, c, f);
                break;
            default:
                if (!experts) unit.linear(role, f, c);
        }
    }
    if (experts) add_experts(unit, config);
    add_vectors(unit, config, experts);
    return unit.take();
}

std::vector<Role> linear_roles(const ModelConfig& config) {
    std::vector<Role> roles;
    if (config.fused_qkv) {
        roles = {Role::kQkv};
    } else {
        roles = {Role::kQ, Role::kK, Role::kV};
    }
    roles.push_back(Role::kO);
    if (config.fused_gate_up) {
        roles.push_back(Role::kGateUp);
    } else {
        if (config.gated_mlp) roles.push_back(Role::kGate);
        roles.push_back(Role::kUp);
    }
    roles.push_back(Role::kDown);
    return roles;
}

bool is_bias(Role role) {
    switch (role) {
        case Role::kFinalNormBias:
        case Role::kNorm1Bias:
        case Role::kNorm2Bias:
        case Role::kQkvBias:
        case Role::kQBias:
        case Role::kKBias:
        case Role::kVBias:
        case Role::kOBias:
        case Role::kGateBias:
        case Role::kUpBias:
        case Role::kDownBias:
            return true;
        default:
            return false;
    }
}

bool is_expert(Role linear) {
    return linear == Role::kExpertGate || linear == Role::kExpertUp || linear == Role::kExpertDown;
}

std::vector<WeightSpec> head_weights(const ModelConfig& config) {
    if (config.tied_head) return {};
    UnitWeights unit(config, 0);
    unit.matrix(Role::kHead, config.vocabulary, config.width);
    add_final_norm(unit, config);
    return unit.take();
}

bool rounds_on_import(const WeightReader& reader, const WeightSpec& weight, DType plain_dtype) {
    const bool rounded = plain_dtype != DType::kF32 || reader.source_dtype(weight) == DType::kBF16;
    return rounded && !reader.reads_bf16(weight);
}

}  // namespace qshard
