#include "spec/families.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace qshard {
namespace {

constexpr WeightName kCommonNames[] = {
    {Role::kEmbed, "model.embed_tokens.weight", "token_embd.weight"},
    {Role::kFinalNorm, "model.norm.weight", "output_norm.weight"},
    {Role::kFinalNormBias, "model.norm.bias", "output_norm.bias"},
    {Role::kHead, "lm_head.weight", "output.weight"},
    {Role::kNorm1, "input_layernorm.weight", "attn_norm.weight"},
    {Role::kNorm1Bias, "input_layernorm.bias", "attn_norm.bias"},
    {Role::kQkv, "self_attn.qkv_proj.weight", "attn_qkv.weight"},
    {Role::kQkvBias, "self_attn.qkv_proj.bias", "attn_qkv.bias"},
    {Role::kQ, "self_attn.q_proj.weight", "attn_q.weight"},
    {Role::kQBias, "self_attn.q_proj.bias", "attn_q.bias"},
    {Role::kK, "self_attn.k_proj.weight", "attn_k.weight"},
    {Role::kKBias, "self_attn.k_proj.bias", "attn_k.bias"},
    {Role::kV, "self_attn.v_proj.weight", "attn_v.weight"},
    {Role::kVBias, "self_attn.v_proj.bias", "attn_v.bias"},
    {Role::kO, "self_attn.o_proj.weight", "attn_output.weight"},
    {Role::kOBias, "self_attn.o_proj.bias", "attn_output.bias"},
    {Role::kQNorm, "self_attn.q_norm.weight", "attn_q_norm.weight"},
    {Role::kKNorm, "self_attn.k_norm.weight", "attn_k_norm.weight"},
    {Role::kNorm2, "post_attention_layernorm.weight", "ffn_norm.weight"},
    {Role::kNorm2Bias, "post_attention_layernorm.bias", "ffn_norm.bias"},
    {Role::kGateUp, "mlp.gate_up_proj.weight", "ffn_up.weight"},
    {Role::kGate, "mlp.gate_proj.weight", "ffn_gate.weight"},
    {Role::kGateBias, "mlp.gate_proj.bias", "ffn_gate.bias"},
    {Role::kUp, "mlp.up_proj.weight", "ffn_up.weight"},
    {Role::kUpBias, "mlp.up_proj.bias", "ffn_up.bias"},
    {Role::kDown, "mlp.down_proj.weight", "ffn_down.weight"},
    {Role::kDownBias, "mlp.down_proj.bias", "ffn_down.bias"},
    {Role::kRouter, "mlp.gate.weight", "ffn_gate_inp.weight"},
    {Role::kExpertGate, "mlp.experts.{}.gate_proj.weight", "ffn_gate_exps.weight"},
    {Role::kExpertUp, "mlp.experts.{}.up_proj.weight", "ffn_up_exps.weight"},
    {Role::kExpertDown, "mlp.experts.{}.down_proj.weight", "ffn_down_exps.weight"},
};

// The name that means the norm before the MLP elsewhere is the one after attention here.
constexpr WeightName kSandwichNames[] = {
    {Role::kPostAttentionNorm, "post_attention_layernorm.weight", "post_attention_norm.weight"},
    {Role::kNorm2, "pre_feedforward_layernorm.weight", "ffn_norm.weight"},
    {Role::kPostFfnNorm, "post_feedforward_layernorm.weight", "post_ffw_norm.weight"},
};

constexpr WeightName kStarcoder2Names[] = {
    {Role::kUp, "mlp.c_fc.weight", "ffn_up.weight"},
    {Role::kUpBias, "mlp.c_fc.bias", "ffn_up.bias"},
    {Role::kDown, "mlp.c_proj.weight", "ffn_down.weight"},
    {Role::kDownBias, "mlp.c_proj.bias", "ffn_down.bias"},
};

constexpr WeightName kGpt2Names[] = {
    {Role::kEmbed, "transformer.wte.weight", "token_embd.weight"},
    {Role::kPositions, "transformer.wpe.weight", "position_embd.weight"},
    {Role::kFinalNorm, "transformer.ln_f.weight", "output_norm.weight"},
    {Role::kFinalNormBias, "transformer.ln_f.bias", "output_norm.bias"},
    {Role::kNorm1, "ln_1.weight", "attn_norm.weight"},
    {Role::kNorm1Bias, "ln_1.bias", "attn_norm.bias"},
    {Role::kQkv, "attn.c_attn.weight", "attn_qkv.weight"},
    {Role::kQkvBias, "attn.c_attn.bias", "attn_qkv.bias"},
    {Role::kO, "attn.c_proj.weight", "attn_output.weight"},
    {Role::kOBias, "attn.c_proj.bias", "attn_output.bias"},
    {Role::kNorm2, "ln_2.weight", "ffn_norm.weight"},
    {Role::kNorm2Bias, "ln_2.bias", "ffn_norm.bias"},
    {Role::kUp, "mlp.c_fc.weight", "ffn_up.weight"},
    {Role::kUpBias, "mlp.c_fc.bias", "ffn_up.bias"},
    {Role::kDown, "mlp.c_proj.weight", "ffn_down.weight"},
    {Role::kDownBias, "mlp.c_proj.bias", "ffn_down.bias"},
};

constexpr WeightName kMixtralNames[] = {
    {Role::kRouter, "block_sparse_moe.gate.weight", "ffn_gate_inp.weight"},
    {Role::kExpertGate, "block_sparse_moe.experts.{}.w1.weight", "ffn_gate_exps.weight"},
    {Role::kExpertUp, "block_sparse_moe.experts.{}.w3.weight", "ffn_up_exps.weight"},
    {Role::kExpertDown, "block_sparse_moe.experts.{}.w2.weight", "ffn_down_exps.weight"},
};

/// Gemma 1, which the later Gemmas vary.
Family gemma() {
    Family f;
    f.name = "gemma";
    f.model_types = f.architectures = {"gemma"};
    f.norm_offset = true;
    f.qkv_bias_key = f.o_bias_key = "attention_bias";
    f.activation = Activation::kGeluTanh;
    f.fixed_activation = true;
    f.scaled_embedding = true;
    f.tied = true;
    f.defaults.head_width = 256;
    f.defaults.max_positions = 8192;
    return f;
}

Family gemma2() {
    Family f = gemma();
    f.name = "gemma2";
    f.model_types = f.architectures = {"gemma2"};
    f.names = kSandwichNames;
    f.post_norms = true;
    f.scalar_scale = true;
    f.soft_caps = true;
    f.attention_softcap = 50.0;
    f.logit_softcap = 30.0;
    f.window = WindowRule::kPattern;
    f.window_pattern = 2;
    f.defaults.window = 4096;
    return f;
}

Family gemma3() {
    Family f = gemma2();
    f.name = "gemma3_text";
    f.model_types = {"gemma3_text"};
    f.architectures = {"gemma3"};
    f.qk_norm = true;
    f.attention_softcap = f.logit_softcap = 0;
    f.theta = 1e6;
    f.local_theta = 1e4;
    f.window_pattern = 6;
    // The text_config of multimodal files omits what equals the class default.
    f.defaults = {.layers = 26,
                  .width = 2304,
                  .heads = 8,
                  .kv_heads = 4,
                  .head_width = 256,
                  .ffn_width = 9216,
                  .vocabulary = 262208,
                  .max_positions = 131072,
                  .window = 4096};
    return f;
}

Family llama() {
    Family f;
    f.name = "llama";  // Llama 1, 2, 3, SmolLM 1 and 2, Yi, and what else calls itself so
    f.model_types = f.architectures = {"llama"};
    f.qkv_bias_key = f.o_bias_key = "attention_bias";
    f.mlp_bias_key = "mlp_bias";
    f.permuted_gguf = true;
    f.gguf_mixture = "mixtral";
    return f;
}

Family mistral() {
    Family f;
    f.name = "mistral";  // GGUF files of Mistral say "llama"
    f.model_types = {"mistral"};
    f.gguf_family = "llama";
    f.window = WindowRule::kAll;
    f.defaults.window = 4096;
    f.defaults.max_positions = 131072;
    return f;
}

Family mixtral() {
    Family f;
    f.name = "mixtral";
    f.model_types = {"mixtral"};
    f.gguf_family = "llama";
    f.names = kMixtralNames;
    f.eps = 1e-5;
    f.theta = 1e6;
    f.window = WindowRule::kAll;
    f.mixture = MixtureRule::kAll;
    f.defaults.max_positions = 131072;
    return f;
}

Family qwen2() {
    Family f;
    f.name = "qwen2";  // and Qwen2.5
    f.model_types = f.architectures = {"qwen2"};
    f.qkv_bias = true;
    f.window = WindowRule::kSwitched;
    f.defaults.max_positions = 32768;
    return f;
}

Family qwen3() {
    Family f = qwen2();
    f.name = "qwen3";
    f.model_types = f.architectures = {"qwen3"};
    f.qkv_bias = false;
    f.qkv_bias_key = f.o_bias_key = "attention_bias";
    f.qk_norm = true;
    f.defaults.head_width = 128;
    return f;
}

Family qwen3_moe() {
    Family f = qwen3();
    f.name = "qwen3_moe";
    f.model_types = {"qwen3_moe"};
    f.architectures = {"qwen3moe"};
    f.mixture = MixtureRule::kKeyed;
    f.defaults.head_width = 0;
    return f;
}

Family smollm3() {
    Family f = llama();
    f.name = "smollm3";
    f.model_types = f.architectures = {"smollm3"};
    f.tied = true;
    f.theta = 2e6;
    f.nope_interval = 4;
    f.window = WindowRule::kSwitched;
    f.defaults.max_positions = 32768;
    return f;
}

Family granite() {
    Family f = llama();
    f.name = "granite";
    f.model_types = f.architectures = {"granite"};
    f.multipliers = true;
    return f;
}

Family starcoder2() {
    Family f;
    f.name = "starcoder2";
    f.model_types = f.architectures = {"starcoder2"};
    f.names = kStarcoder2Names;
    f.norm = NormKind::kLayer;
    f.eps_key = "norm_epsilon";
    f.eps = 1e-5;
    f.gated_mlp = false;
    f.qkv_bias_key = f.o_bias_key = f.mlp_bias_key = "use_bias";
    f.bias_default = true;
    f.activation = Activation::kGeluTanh;
    f.tied = true;
    f.window = WindowRule::kAll;
    f.defaults.max_positions = 4096;
    return f;
}

Family phi3() {
    Family f;
    f.name = "phi3";  // Phi-3, Phi-3.5, Phi-4 and its mini
    f.model_types = f.architectures = {"phi3"};
    f.eps = 1e-5;
    f.fused_qkv = f.fused_gate_up = true;
    f.window = WindowRule::kAll;
    f.renews_keys = true;
    f.defaults.max_positions = f.defaults.original_max_positions = 4096;
    return f;
}

Family olmo2() {
    Family f;
    f.name = "olmo2";
    f.model_types = f.architectures = {"olmo2"};
    f.names = kSandwichNames;
    f.eps = 1e-5;
    f.pre_norms = false;
    f.post_norms = true;
    f.qk_norm = f.qk_norm_wide = true;
    f.qkv_bias_key = f.o_bias_key = "attention_bias";
    return f;
}

Family gpt2() {
    Family f;
    f.name = "gpt2";
    f.model_types = f.architectures = {"gpt2"};
    f.names = kGpt2Names;
    f.layer_prefix = "transformer.h.";
    f.keys = {.layers = "n_layer",
              .width = "n_embd",
              .heads = "n_head",
              .ffn_width = "n_inner",
              .max_positions = "n_positions",
              .activation = "activation_function"};
    f.norm = NormKind::kLayer;
    f.eps_key = "layer_norm_epsilon";
    f.eps = 1e-5;
    f.gated_mlp = false;
    f.fused_qkv = f.conv1d = f.learned_positions = true;
    f.qkv_bias = f.o_bias = f.mlp_bias = true;
    f.activation = Activation::kGeluTanh;
    f.tied = true;
    f.defaults.max_positions = 1024;
    f.defaults.ffn_factor = 4;
    return f;
}

std::string_view name_in(std::span<const WeightName> names, Role role, bool gguf) {
    const auto it = std::find_if(names.begin(), names.end(),
                                 [role](const WeightName& n) { return n.role == role; });
    if (it == names.end()) return {};
    return gguf ? it->gguf : it->hugging_face;
}

std::string full_name(const Family& family, Role role, std::int64_t layer, std::int64_t expert,
                      bool gguf) {
    std::string_view name = name_in(family.names, role, gguf);
    if (name.empty()) name = name_in(kCommonNames, role, gguf);
    check(!name.empty(), "the family names every weight it has");
    if (role < Role::kNorm1) return std::string(name);
    const std::string numbered = fmt::format(fmt::runtime(name), expert);
    return fmt::format("{}{}.{}", gguf ? "blk." : family.layer_prefix, layer, numbered);
}

const Family* find_by(std::vector<std::string_view> Family::*list, std::string_view name) {
    for (const Family& family : families()) {
        const auto& names = family.*list;
        if (std::find(names.begin(), names.end(), name) != names.end()) return &family;
    }
    return nullptr;
}

std::string joined(std::vector<std::string_view> Family::*list) {
    std::vector<std::string_view> names;
    for (const Family& family : families()) {
        names.insert(names.end(), (family.*list).begin(), (family.*list).end());
    }
    std::sort(names.begin(), names.end());
    return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

std::span<const Family> families() {
    static const std::vector<Family> rows = {
        llama(),   mistral(),    qwen2(), qwen3(), gemma(), gemma2(),  gemma3(),   smollm3(),
        granite(), starcoder2(), phi3(),  olmo2(), gpt2(),  mixtral(), qwen3_moe()};
    return rows;
}

void set_family_switches(const Family& family, ModelConfig& config) {
    config.family = family.name;
    config.norm = family.norm;
    config.norm_offset = family.norm_offset;
    config.qk_norm = family.qk_norm;
    config.qk_norm_wide = family.qk_norm_wide;
    config.pre_norms = family.pre_norms;
    config.post_norms = family.post_norms;
    config.gated_mlp = family.gated_mlp;
    config.activation = family.activation;
    config.fused_qkv = family.fused_qkv;
    config.fused_gate_up = family.fused_gate_up;
    config.conv1d = family.conv1d;
    config.learned_positions = family.learned_positions;
    config.renews_keys = family.renews_keys;
    if (family.scaled_embedding)
        config.embed_scale = static_cast<float>(std::sqrt(static_cast<double>(config.width)));
}

const Family& family_named(std::string_view name) {
    for (const Family& family : families()) {
        if (family.name == name) return family;
    }
    throw BugError(fmt::format("no family is called \"{}\"", name));
}

const Family* family_of_model_type(std::string_view model_type) {
    return find_by(&Family::model_types, model_type);
}
const Family* family_of_architecture(std::string_view architecture) {
    return find_by(&Family::architectures, architecture);
}
const Family& gguf_family(const Family& family) {
    return family.gguf_family.empty() ? family : family_named(family.gguf_family);
}
std::string known_model_types() {
    return joined(&Family::model_types);
}
std::string known_architectures() {
    return joined(&Family::architectures);
}

std::string hugging_face_name(const Family& family, Role role, std::int64_t layer,
                              std::int64_t expert) {
    return full_name(family, role, layer, expert, false);
}
std::string gguf_name(const Family& family, Role role, std::int64_t layer) {
    return full_name(family, role, layer, 0, true);
}

}  // namespace qshard
