#include "spec/families.h"

#include <algorithm>

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
    {Role::kGate, "mlp.gate_proj.weight", "ffn_gate.weight"},
    {Role::kUp, "mlp.up_proj.weight", "ffn_up.weight"},
    {Role::kUpBias, "mlp.up_proj.bias", "ffn_up.bias"},
    {Role::kDown, "mlp.down_proj.weight", "ffn_down.weight"},
    {Role::kDownBias, "mlp.down_proj.bias", "ffn_down.bias"},
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
    f.sandwich_norms = true;
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

std::string_view name_in(std::span<const WeightName> names, Role role, bool gguf) {
    const auto it = std::find_if(names.begin(), names.end(),
                                 [role](const WeightName& n) { return n.role == role; });
    if (it == names.end()) return {};
    return gguf ? it->gguf : it->hugging_face;
}

std::string full_name(const Family& family, Role role, std::int64_t layer, bool gguf) {
    std::string_view name = name_in(family.names, role, gguf);
    if (name.empty()) name = name_in(kCommonNames, role, gguf);
    check(!name.empty(), "the family names every weight it has");
    if (role < Role::kNorm1) return std::string(name);
    return fmt::format("{}{}.{}", gguf ? "blk." : "model.layers.", layer, name);
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
    static const std::vector<Family> rows = {llama(),   mistral(),   qwen2(),  qwen3(),
                                             gemma(),   gemma2(),    gemma3(), smollm3(),
                                             granite(), starcoder2()};
    return rows;
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

std::string hugging_face_name(const Family& family, Role role, std::int64_t layer) {
    return full_name(family, role, layer, false);
}
std::string gguf_name(const Family& family, Role role, std::int64_t layer) {
    return full_name(family, role, layer, true);
}

}  // namespace qshard
