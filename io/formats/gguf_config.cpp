#include "io/formats/gguf_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "base/error.h"
#include "io/tokenizer/gguf_vocabulary.h"
#include "spec/families.h"

namespace qshard {
namespace {

/// Whether a key that llama.cpp's converter writes for these architectures changes nothing with
/// this value: what is switched off, what is never read, what equals the value of an absent key.
bool is_harmless(std::string_view key, const GgufValue& value) {
    constexpr std::array<std::string_view, 4> kNeverRead = {"vocab_size", "tensor_data_layout",
                                                            "rope.scaling.finetuned",
                                                            "attention.layer_norm_epsilon"};
    constexpr std::array<std::string_view, 4> kOne = {
        "expert_weights_scale", "rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor",
        "rope.scaling.yarn_ext_factor"};
    const auto in = [key](const auto& list) {
        return std::find(list.begin(), list.end(), key) != list.end();
    };
    if (key == "attention.causal" || key == "expert_weights_norm") return value == GgufValue(true);
    if (value == GgufValue(std::int64_t{0}) || value == GgufValue(0.0) || value == GgufValue(false))
        return true;
    if (key == "expert_gating_func") return value == GgufValue(std::int64_t{1});  // softmax
    return in(kNeverRead) || (in(kOne) && value == GgufValue(1.0));
}

/// Access to the keys of one architecture, which remembers what was asked for so that the rest can
/// be refused.
class Keys {
  public:
    Keys(const GgufFile& file, std::string architecture)
        : file_(file), architecture_(std::move(architecture)) {}

    std::string full(std::string_view key) const {
        return fmt::format("{}.{}", architecture_, key);
    }
    [[noreturn]] void fail(std::string_view key, const std::string& expected) const {
        throw UserError(fmt::format("{}: \"{}\" must be {}", file_.name(), full(key), expected));
    }
    std::optional<std::int64_t> integer(std::string_view key, std::int64_t low,
                                        std::int64_t high) const {
        const std::string name = asked(key);
        std::optional<std::int64_t> value;
        const auto it = file_.metadata().find(name);
        if (it != file_.metadata().end() &&
            std::holds_alternative<std::vector<std::int64_t>>(it->second)) {
            // One value per layer.
            const std::vector<std::int64_t>& list = *file_.integers(name);
            if (list.empty() ||
                std::any_of(list.begin(), list.end(), [&](auto v) { return v != list[0]; })) {
                fail(key, "the same for every layer: models whose layers differ are not supported");
            }
            value = list[0];
        } else {
            value = file_.integer(name);
        }
        if (value && (*value < low || *value > high))
            fail(key, fmt::format("from {} to {}", low, high));
        return value;
    }
    std::int64_t required(std::string_view key, std::int64_t high) const {
        const std::optional<std::int64_t> value = integer(key, 1, high);
        if (!value) fail(key, "given");
        return *value;
    }
    std::optional<double> number(std::string_view key) const { return file_.number(asked(key)); }
    std::string text(std::string_view key, const std::string& absent) const {
        const std::string* value = file_.text(asked(key));
        return value == nullptr ? absent : *value;
    }
    /// UserError if the architecture has a key that nobody asked for and that is not harmless: the
    /// model may compute something else.
    void refuse_others() const {
        const std::string prefix = full("");
        for (const auto& [name, value] : file_.metadata()) {
            if (!name.starts_with(prefix) || asked_.contains(name)) continue;
            if (is_harmless(std::string_view(name).substr(prefix.size()), value)) continue;
            throw UserError(
                fmt::format("{}: unknown \"{}\": a model with it may compute something else than "
                            "this program does",
                            file_.name(), name));
        }
    }

  private:
    std::string asked(std::string_view key) const { return *asked_.insert(full(key)).first; }

    const GgufFile& file_;
    std::string architecture_;
    mutable std::set<std::string> asked_;
};

const Family& check_kind(const GgufFile& file) {
    const std::string& name = file.name();
    const std::string* type = file.text("general.type");
    if (type != nullptr && *type != "model") {
        throw UserError(
            fmt::format("{}: a GGUF file of type \"{}\", expected a model", name, *type));
    }
    const std::string* architecture = file.text("general.architecture");
    if (architecture == nullptr) throw UserError(name + ": \"general.architecture\" is missing");
    const Family* family = family_of_architecture(*architecture);
    if (family == nullptr) {
        throw UserError(
            fmt::format("{}: models of architecture \"{}\" are not supported\nSupported: {}", name,
                        *architecture, known_architectures()));
    }
    const std::string experts = *architecture + ".expert_count";
    if (!family->gguf_mixture.empty() && file.integer(experts).value_or(0) > 0)
        return family_named(family->gguf_mixture);
    return *family;
}

void set_dimensions(const GgufFile& file, const Keys& keys, const Family& family,
                    ModelConfig& config) {
    config.layers = keys.required("block_count", 4096);
    config.width = keys.required("embedding_length", 1 << 20);
    config.heads = keys.required("attention.head_count", 1 << 16);
    config.kv_heads = keys.integer("attention.head_count_kv", 1, 1 << 16).value_or(config.heads);
    config.head_width = keys.integer("attention.key_length", 1, 1 << 16)
                            .value_or(std::max<std::int64_t>(1, config.width / config.heads));
    if (keys.integer("attention.value_length", 1, 1 << 16).value_or(config.head_width) !=
        config.head_width) {
        keys.fail("attention.value_length", "equal to attention.key_length");
    }
    config.ffn_width = keys.required("feed_forward_length", 1 << 24);
    config.max_positions =
        keys.integer("context_length", 1, 1 << 30).value_or(family.defaults.max_positions);
    config.experts = keys.integer("expert_count", 0, 4096).value_or(0);
    if (config.experts > 0 && family.mixture == MixtureRule::kNone)
        keys.fail("expert_count", "0: this architecture is not supported with experts");
    if (config.heads % config.kv_heads != 0)
        keys.fail("attention.head_count_kv", "a divisor of head_count");
    if (config.head_width % 2 != 0) keys.fail("attention.key_length", "even");
    const GgufTensor* embedding = file.find(gguf_name(family, Role::kEmbed, 0));
    if (embedding == nullptr || embedding->extents.size() != 2 || embedding->extents[1] > 1 << 24) {
        throw UserError(file.name() + ": token_embd.weight is missing or has an impossible shape");
    }
    config.vocabulary = embedding->extents[1];
}

/// Whether layer 0 has this weight: GGUF has no keys for biases.
bool has(const GgufFile& file, const Family& family, Role role) {
    return file.find(gguf_name(family, role, 0)) != nullptr;
}

void set_switches(const GgufFile& file, const Keys& keys, const Family& family,
                  ModelConfig& config) {
    const std::string_view eps_key = family.norm == NormKind::kRms
                                         ? "attention.layer_norm_rms_epsilon"
                                         : "attention.layer_norm_epsilon";
    config.norm_eps = static_cast<float>(keys.number(eps_key).value_or(family.eps));
    if (!(config.norm_eps >= 0)) keys.fail(eps_key, "not negative");
    config.qkv_bias = has(file, family, config.fused_qkv ? Role::kQkvBias : Role::kQBias);
    config.o_bias = has(file, family, Role::kOBias);
    config.mlp_bias = has(file, family, Role::kDownBias);
    config.tied_head = file.find(gguf_name(family, Role::kHead, 0)) == nullptr;
    if (family.soft_caps) {
        config.attention_softcap = static_cast<float>(
            keys.number("attn_logit_softcapping").value_or(family.attention_softcap));
        config.logit_softcap = static_cast<float>(
            keys.number("final_logit_softcapping").value_or(family.logit_softcap));
        if (config.attention_softcap < 0 || config.logit_softcap < 0)
            keys.fail("..._softcapping", "positive");
    }
    double scale_width = static_cast<double>(config.head_width);
    // The largest Gemma 2 and 3 scale by C / H; GGUF does not say so, llama.cpp too goes by the
    // number of layers.
    const std::int64_t largest = family.name == "gemma2" ? 46 : 62;
    if (family.scalar_scale && config.layers == largest) {
        scale_width = static_cast<double>(config.width) / static_cast<double>(config.heads);
    }
    double scale = 1.0 / std::sqrt(scale_width);
    if (family.multipliers) {
        config.embed_scale = static_cast<float>(keys.number("embedding_scale").value_or(1.0));
        config.residual_scale = static_cast<float>(keys.number("residual_scale").value_or(1.0));
        const double divisor = keys.number("logit_scale").value_or(1.0);
        if (!(divisor > 0)) keys.fail("logit_scale", "positive");
        config.logit_scale = static_cast<float>(1.0 / divisor);
        scale = keys.number("attention.scale").value_or(scale);
        if (!(scale > 0)) keys.fail("attention.scale", "positive");
    }
    config.attention_scale = static_cast<float>(scale);
}

/// Values of a tensor of rotary divisors, or nothing if there is none.
std::vector<float> divisors_of(const GgufFile& file, const char* name, std::int64_t count) {
    const GgufTensor* tensor = file.find(name);
    if (tensor == nullptr) return {};
    if (tensor->type != GgmlType::kF32 || tensor->count() != count) {
        throw UserError(
            fmt::format("{}: {} must be {} values of type F32", file.name(), name, count));
    }
    std::vector<float> divisors(static_cast<std::size_t>(count));
    file.read(*tensor, 0, divisors.data(), divisors.size() * sizeof(float));
    if (std::any_of(divisors.begin(), divisors.end(),
                    [](float d) { return !(d > 0) || !std::isfinite(d); })) {
        throw UserError(
            fmt::format("{}: {} holds a value that is not positive", file.name(), name));
    }
    return divisors;
}

/// Long contexts of Phi-3, which has no scaling type, and of those that name it: a tensor of
/// divisors for each range of lengths.
void set_longrope(const GgufFile& file, const Keys& keys, const ModelConfig& config,
                  RopeConfig& rope) {
    const std::vector<float> shorts = divisors_of(file, kRopeShortFactors, rope.rotary_width / 2);
    const std::vector<float> longs = divisors_of(file, kRopeLongFactors, rope.rotary_width / 2);
    const bool named = keys.text("rope.scaling.type", "none") == "longrope";
    if (shorts.empty() && longs.empty() && !named) return;
    if (shorts.empty() || longs.empty() || rope.kind != RopeKind::kDefault) {
        throw UserError(fmt::format("{}: expected both {} and {}, and no other scaling",
                                    file.name(), kRopeShortFactors, kRopeLongFactors));
    }
    rope.kind = RopeKind::kLongrope;
    rope.short_factor.assign(shorts.begin(), shorts.end());
    rope.long_factor.assign(longs.begin(), longs.end());
    rope.factor = static_cast<double>(config.max_positions) /
                  static_cast<double>(rope.original_max_positions);
    rope.attention_factor = keys.number("rope.scaling.attn_factor");
}

void set_ropes(const GgufFile& file, const Keys& keys, const Family& family, ModelConfig& config) {
    RopeConfig rope;
    rope.theta = keys.number("rope.freq_base").value_or(family.theta);
    if (!(rope.theta > 1)) keys.fail("rope.freq_base", "greater than 1");
    rope.rotary_width =
        keys.integer("rope.dimension_count", 2, config.head_width).value_or(config.head_width);
    if (rope.rotary_width % 2 != 0) keys.fail("rope.dimension_count", "even");
    rope.original_max_positions = keys.integer("rope.scaling.original_context_length", 1, 1 << 30)
                                      .value_or(config.max_positions);
    RopeConfig local = rope;
    local.theta = keys.number("rope.freq_base_swa").value_or(family.local_theta);
    const std::string scaling = keys.text("rope.scaling.type", "none");
    rope.factor = keys.number("rope.scaling.factor").value_or(1.0);
    if (!(rope.factor > 0)) keys.fail("rope.scaling.factor", "positive");
    if (scaling == "linear") {
        rope.kind = RopeKind::kLinear;
    } else if (scaling == "yarn") {
        rope.kind = RopeKind::kYarn;
        rope.attention_factor = keys.number("rope.scaling.attn_factor");
        rope.beta_fast = keys.number("rope.scaling.yarn_beta_fast").value_or(rope.beta_fast);
        rope.beta_slow = keys.number("rope.scaling.yarn_beta_slow").value_or(rope.beta_slow);
    } else if (scaling != "none" && scaling != "longrope") {
        keys.fail("rope.scaling.type", "none, linear, yarn or longrope");
    }
    rope.frequency_divisors = divisors_of(file, kRopeFrequencies, rope.rotary_width / 2);
    set_longrope(file, keys, config, rope);
    config.ropes.push_back(rope);
    if (family.local_theta > 0) config.ropes.push_back(local);
}

void set_layers(const Keys& keys, const Family& family, ModelConfig& config) {
    // The pattern is Gemma's; elsewhere the key is present only if every layer has the window
    // (Mistral, as "llama"), or if there is one that is switched off (Qwen). OLMo 3, which calls
    // itself "olmo2", has another pattern: there nobody asks for the key.
    std::int64_t window = family.defaults.window;
    if (family.window != WindowRule::kNone || family.name == "llama")
        window = keys.integer("attention.sliding_window", 0, 1 << 30).value_or(window);
    if (family.window == WindowRule::kSwitched) window = 0;
    if (family.window_pattern > 0 &&
        keys.integer("attention.sliding_window_pattern", 1, 4096).value_or(family.window_pattern) !=
            family.window_pattern) {
        keys.fail("attention.sliding_window_pattern", fmt::format("{}", family.window_pattern));
    }
    for (std::int64_t i = 0; i < config.layers; ++i) {
        LayerConfig& layer = config.layer.emplace_back();
        const bool sliding =
            window > 0 && (family.window_pattern == 0 || (i + 1) % family.window_pattern != 0);
        layer.window = sliding ? window : 0;
        layer.rope = family.nope_interval == 0 || (i + 1) % family.nope_interval != 0;
        layer.rope_index = sliding && family.local_theta > 0 ? 1 : 0;
    }
}

void set_experts(const GgufFile& file, const Keys& keys, const Family& family,
                 ModelConfig& config) {
    if (config.experts == 0) return;
    config.experts_per_token = keys.required("expert_used_count", config.experts);
    config.expert_width =
        keys.integer("expert_feed_forward_length", 1, 1 << 24).value_or(config.ffn_width);
    config.normalized_experts = true;  // as llama.cpp does for these architectures
    for (std::int64_t i = 0; i < config.layers; ++i) {
        config.layer[static_cast<std::size_t>(i)].experts =
            file.find(gguf_name(family, Role::kExpertGate, i)) != nullptr;
    }
}

/// Control tokens that end an answer, in the order of the vocabulary. Many files name one end in
/// their keys, and chats end with another: Phi-3's with <|end|>, Gemma's with <end_of_turn>.
/// transformers has the list in generation_config.json; llama.cpp goes by these names, too.
std::vector<std::int32_t> named_ends(const GgufFile& file, std::int64_t vocabulary) {
    static constexpr std::array<std::string_view, 8> kNames = {
        "<|im_end|>",    "<|eot_id|>",    "<|eom_id|>",      "<|end|>",
        "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>"};
    std::vector<std::int32_t> ends;
    const auto* tokens = file.texts("tokenizer.ggml.tokens");
    const auto* types = file.integers("tokenizer.ggml.token_type");
    if (tokens == nullptr || types == nullptr) return ends;
    const auto count =
        std::min({tokens->size(), types->size(), static_cast<std::size_t>(vocabulary)});
    for (std::size_t id = 0; id < count; ++id) {
        if ((*types)[id] == tok::kControl && std::ranges::count(kNames, (*tokens)[id]) > 0)
            ends.push_back(static_cast<std::int32_t>(id));
    }
    return ends;
}

void set_tokens(const GgufFile& file, ModelConfig& config) {
    const auto token = [&](const char* key) -> std::optional<std::int32_t> {
        const std::optional<std::int64_t> id = file.integer(key);
        if (!id || *id < 0 || *id >= config.vocabulary) return std::nullopt;
        return static_cast<std::int32_t>(*id);
    };
    for (const char* key : {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"}) {
        const std::optional<std::int64_t> id = file.integer(key);
        if (!id || *id < config.vocabulary || *id >= std::int64_t{0xFFFFFFFF}) continue;
        throw UserError(fmt::format("{}: \"{}\" is {}, but the embedding has {} rows (ids 0 to {})",
                                    file.name(), key, *id, config.vocabulary,
                                    config.vocabulary - 1));
    }
    config.bos_id = token("tokenizer.ggml.bos_token_id");
    config.pad_id = token("tokenizer.ggml.padding_token_id");
    std::vector<std::int32_t> ends;
    for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                            "tokenizer.ggml.eom_token_id"}) {
        if (const std::optional<std::int32_t> id = token(key)) ends.push_back(*id);
    }
    const std::vector<std::int32_t> named = named_ends(file, config.vocabulary);
    ends.insert(ends.end(), named.begin(), named.end());
    for (const std::int32_t id : ends)
        if (std::ranges::count(config.eos_ids, id) == 0) config.eos_ids.push_back(id);
}

}  // namespace

bool is_rope_tensor(std::string_view name) {
    return name == kRopeFrequencies || name == kRopeShortFactors || name == kRopeLongFactors;
}

ModelConfig model_config_from_gguf(const GgufFile& file) {
    const Family& family = check_kind(file);
    const Keys keys(file, *file.text("general.architecture"));
    ModelConfig config;
    config.model_type = *file.text("general.architecture");
    set_dimensions(file, keys, family, config);
    set_family_switches(family, config);
    set_switches(file, keys, family, config);
    if (!config.learned_positions) set_ropes(file, keys, family, config);
    set_layers(keys, family, config);
    set_experts(file, keys, family, config);
    set_tokens(file, config);
    keys.refuse_others();
    return config;
}

}  // namespace qshard
