#include "io/export/hf_config.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>
#include <cmath>
#include <map>

#include "base/error.h"
#include "io/export/same_model.h"
#include "spec/config_json.h"
#include "spec/families.h"
#include "spec/rope.h"

namespace qshard {
namespace {

namespace json = boost::json;

}  // namespace

std::string_view class_name(std::string_view model_type) {
    static const std::map<std::string_view, std::string_view> names = {
        {"llama", "LlamaForCausalLM"},        {"mistral", "MistralForCausalLM"},
        {"qwen2", "Qwen2ForCausalLM"},        {"qwen3", "Qwen3ForCausalLM"},
        {"gemma", "GemmaForCausalLM"},        {"gemma2", "Gemma2ForCausalLM"},
        {"gemma3_text", "Gemma3ForCausalLM"}, {"smollm3", "SmolLM3ForCausalLM"},
        {"granite", "GraniteForCausalLM"},    {"starcoder2", "Starcoder2ForCausalLM"},
        {"phi3", "Phi3ForCausalLM"},          {"olmo2", "Olmo2ForCausalLM"},
        {"gpt2", "GPT2LMHeadModel"},          {"mixtral", "MixtralForCausalLM"},
        {"qwen3_moe", "Qwen3MoeForCausalLM"}};
    const auto found = names.find(model_type);
    if (found == names.end()) {
        throw UserError(fmt::format(
            "config.json of a \"{}\" model cannot be made from a GGUF file; give its Hugging Face "
            "folder as --model",
            model_type));
    }
    return found->second;
}

namespace {

/// The decimal that is nearest to the fp32 number, not its binary neighbour: 1e-05.
double plain(float value) {
    return std::stod(fmt::format("{}", value));
}

/// GGUF has divisors where config.json has Llama 3's parameters; those of the published models.
json::value llama3_scaling(const RopeConfig& rope) {
    const std::vector<float> want = make_rope(rope, 1).inverse_frequencies;
    for (const double factor : {8.0, 32.0}) {
        RopeConfig known = rope;
        known.kind = RopeKind::kLlama3;
        known.frequency_divisors.clear();
        known.factor = factor;
        known.original_max_positions = 8192;
        const std::vector<float> have = make_rope(known, 1).inverse_frequencies;
        const bool same = std::equal(have.begin(), have.end(), want.begin(),
                                     [](float a, float b) { return std::abs(a - b) <= 1e-6f * b; });
        if (!same) continue;
        return {{"rope_type", "llama3"},
                {"factor", factor},
                {"low_freq_factor", 1.0},
                {"high_freq_factor", 4.0},
                {"original_max_position_embeddings", 8192}};
    }
    return nullptr;  // and difference_of() will tell
}

json::value rope_scaling(const RopeConfig& rope) {
    if (!rope.frequency_divisors.empty()) return llama3_scaling(rope);
    if (rope.kind == RopeKind::kLongrope) {
        json::object longrope = {
            {"rope_type", "longrope"},
            {"short_factor", json::array(rope.short_factor.begin(), rope.short_factor.end())},
            {"long_factor", json::array(rope.long_factor.begin(), rope.long_factor.end())}};
        if (rope.attention_factor) longrope["attention_factor"] = *rope.attention_factor;
        return longrope;
    }
    if (rope.kind == RopeKind::kLinear) return {{"rope_type", "linear"}, {"factor", rope.factor}};
    if (rope.kind != RopeKind::kYarn) return nullptr;
    json::object yarn = {{"rope_type", "yarn"},
                         {"factor", rope.factor},
                         {"original_max_position_embeddings", rope.original_max_positions}};
    if (rope.attention_factor) yarn["attention_factor"] = *rope.attention_factor;
    return yarn;
}

void add_switches(json::object& object, const Family& family, const ModelConfig& config) {
    const char* activation = config.activation == Activation::kGeluTanh  ? "gelu_pytorch_tanh"
                             : config.activation == Activation::kGeluErf ? "gelu"
                             : config.activation == Activation::kRelu    ? "relu"
                                                                         : "silu";
    object[family.keys.activation] = activation;
    if (family.fixed_activation) object["hidden_activation"] = activation;
    object[family.eps_key] = plain(config.norm_eps);
    object["tie_word_embeddings"] = config.tied_head;
    if (!family.qkv_bias_key.empty()) object[family.qkv_bias_key] = config.qkv_bias;
    if (!family.mlp_bias_key.empty()) object[family.mlp_bias_key] = config.mlp_bias;
    if (family.scalar_scale) {
        object["query_pre_attn_scalar"] =  // transformers takes whole numbers only
            std::llround(1.0 / std::pow(static_cast<double>(config.attention_scale), 2));
    }
    if (family.soft_caps) {
        const auto cap = [](float value) { return value > 0 ? json::value(value) : json::value(); };
        object["attn_logit_softcapping"] = cap(config.attention_softcap);
        object["final_logit_softcapping"] = cap(config.logit_softcap);
    }
    if (family.multipliers) {
        object["embedding_multiplier"] = plain(config.embed_scale);
        object["residual_multiplier"] = plain(config.residual_scale);
        object["logits_scaling"] = plain(1.0f / config.logit_scale);
        object["attention_multiplier"] = plain(config.attention_scale);
    }
}

void add_layers(json::object& object, const Family& family, const ModelConfig& config) {
    std::int64_t window = 0;
    json::array types, rotates;
    for (const LayerConfig& layer : config.layer) {
        window = std::max(window, layer.window);
        types.push_back(layer.window > 0 ? "sliding_attention" : "full_attention");
        rotates.push_back(layer.rope ? 1 : 0);
    }
    if (family.window != WindowRule::kNone) {
        object["sliding_window"] = window > 0 ? json::value(window) : json::value();
        if (family.window == WindowRule::kPattern) object["layer_types"] = types;
        if (family.window == WindowRule::kSwitched) object["use_sliding_window"] = window > 0;
    }
    if (family.nope_interval > 0) object["no_rope_layers"] = rotates;
    if (config.ropes.empty()) return;
    const RopeConfig& rope = config.ropes[0];
    object["rope_theta"] = rope.theta;
    object["rope_scaling"] = rope_scaling(rope);
    if (rope.kind == RopeKind::kLongrope)
        object["original_max_position_embeddings"] = rope.original_max_positions;
    if (rope.rotary_width < config.head_width) {
        object["partial_rotary_factor"] =
            static_cast<double>(rope.rotary_width) / static_cast<double>(config.head_width);
    }
    if (config.ropes.size() > 1) object["rope_local_base_freq"] = config.ropes[1].theta;
}

void add_experts(json::object& object, const Family& family, const ModelConfig& config) {
    if (config.experts == 0) return;
    const bool keyed = family.mixture == MixtureRule::kKeyed;
    object[keyed ? "num_experts" : "num_local_experts"] = config.experts;
    object["num_experts_per_tok"] = config.experts_per_token;
    if (!keyed) return;
    object["moe_intermediate_size"] = config.expert_width;
    object["norm_topk_prob"] = config.normalized_experts;
    json::array dense;
    for (std::size_t l = 0; l < config.layer.size(); ++l) {
        if (!config.layer[l].experts) dense.push_back(static_cast<std::int64_t>(l));
    }
    object["mlp_only_layers"] = dense;
}

void add_tokens(json::object& object, const ModelConfig& config) {
    if (config.bos_id) object["bos_token_id"] = *config.bos_id;
    if (config.pad_id) object["pad_token_id"] = *config.pad_id;
    if (config.eos_ids.size() == 1) object["eos_token_id"] = config.eos_ids[0];
    if (config.eos_ids.size() > 1) {
        object["eos_token_id"] = json::array(config.eos_ids.begin(), config.eos_ids.end());
    }
}

}  // namespace

json::object hf_config_of(const ModelConfig& config, DType dtype) {
    const bool windowed = !config.layer.empty() && config.layer[0].window > 0;
    // GGUF files of Mistral say "llama", and have a window.
    const Family& family = family_named(
        config.family == "llama" && windowed ? "mistral" : std::string_view(config.family));
    const std::string_view model_type = family.model_types.front();
    const DimensionKeys& keys = family.keys;
    json::object object = {{"model_type", model_type},
                           {"architectures", json::array{json::value(class_name(model_type))}},
                           {"torch_dtype", name_of(dtype)},
                           {keys.width, config.width},
                           {keys.layers, config.layers},
                           {keys.heads, config.heads},
                           {"num_key_value_heads", config.kv_heads},
                           {"head_dim", config.head_width},
                           {keys.ffn_width, config.ffn_width},
                           {"vocab_size", config.vocabulary},
                           {keys.max_positions, config.max_positions},
                           {"attention_dropout", 0.0},
                           {"initializer_range", 0.02},
                           {"use_cache", true}};
    add_switches(object, family, config);
    add_layers(object, family, config);
    add_experts(object, family, config);
    add_tokens(object, config);
    const ModelConfig again = model_config_from_json(json::serialize(object), "config.json");
    const std::string difference = difference_of(config, again);
    if (!difference.empty()) {
        throw UserError(fmt::format(
            "config.json cannot express this GGUF model's {}; export --to merged-gguf, or give its "
            "Hugging Face folder as --model",
            difference));
    }
    return object;
}

}  // namespace qshard
