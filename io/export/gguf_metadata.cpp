#include "io/export/gguf_metadata.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "spec/families.h"
#include "spec/rope.h"

namespace qshard {
namespace {

constexpr std::array<const char*, 3> kEnds = {
    "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};

bool says_how_it_is_stored(std::string_view key) {
    return key == "general.file_type" || key == "general.quantization_version" ||
           key == "general.alignment" || key.starts_with("split.") ||
           key.starts_with("quantize.imatrix.");
}

/// Writes keys below an architecture's name.
class Keys {
  public:
    Keys(GgufHeader& header, std::string prefix) : header_(header), prefix_(std::move(prefix)) {}
    void count(const char* key, std::int64_t value) {
        header_.u32(prefix_ + key, static_cast<std::uint32_t>(value));
    }
    void number(const char* key, double value) {
        header_.f32(prefix_ + key, static_cast<float>(value));
    }
    void text(const char* key, std::string_view value) { header_.text(prefix_ + key, value); }

  private:
    GgufHeader& header_;
    std::string prefix_;
};

void add_dimensions(Keys& keys, const ModelConfig& config) {
    keys.count("context_length", config.max_positions);
    keys.count("embedding_length", config.width);
    keys.count("block_count", config.layers);
    keys.count("feed_forward_length", config.ffn_width);
    keys.count("vocab_size", config.vocabulary);
    keys.count("attention.head_count", config.heads);
    keys.count("attention.head_count_kv", config.kv_heads);
    keys.count("attention.key_length", config.head_width);
    keys.count("attention.value_length", config.head_width);
    keys.number(config.norm == NormKind::kRms ? "attention.layer_norm_rms_epsilon"
                                              : "attention.layer_norm_epsilon",
                config.norm_eps);
    for (const LayerConfig& layer : config.layer) {
        if (layer.window == 0) continue;
        keys.count("attention.sliding_window", layer.window);
        break;
    }
}

void add_experts(Keys& keys, const ModelConfig& config) {
    if (config.experts == 0) return;
    if (!config.normalized_experts) {
        throw UserError(
            "GGUF cannot express experts whose probabilities are not normalized (norm_topk_prob "
            "false); export --to merged-hf instead");
    }
    keys.count("expert_count", config.experts);
    keys.count("expert_used_count", config.experts_per_token);
    if (config.expert_width != config.ffn_width)
        keys.count("expert_feed_forward_length", config.expert_width);
}

void add_switches(Keys& keys, const Family& family, const ModelConfig& config) {
    if (config.attention_softcap > 0)
        keys.number("attn_logit_softcapping", config.attention_softcap);
    if (config.logit_softcap > 0) keys.number("final_logit_softcapping", config.logit_softcap);
    if (!family.multipliers) return;
    keys.number("embedding_scale", config.embed_scale);
    keys.number("residual_scale", config.residual_scale);
    keys.number("logit_scale", 1.0 / static_cast<double>(config.logit_scale));
    keys.number("attention.scale", config.attention_scale);
}

/// Llama 3's and Phi-3's stretched positions are tensors of divisors in GGUF, which
/// write_gguf_model() adds.
void add_rope(Keys& keys, const ModelConfig& config) {
    if (config.ropes.empty()) return;
    const RopeConfig& rope = config.ropes[0];
    keys.number("rope.freq_base", rope.theta);
    keys.count("rope.dimension_count", rope.rotary_width);
    if (config.ropes.size() > 1) keys.number("rope.freq_base_swa", config.ropes[1].theta);
    switch (rope.kind) {
        case RopeKind::kNone:
        case RopeKind::kDefault:
        case RopeKind::kLlama3:
            return;
        case RopeKind::kLinear:
            keys.text("rope.scaling.type", "linear");
            keys.number("rope.scaling.factor", rope.factor);
            return;
        case RopeKind::kYarn:
            keys.text("rope.scaling.type", "yarn");
            keys.number("rope.scaling.factor", rope.factor);
            keys.count("rope.scaling.original_context_length", rope.original_max_positions);
            if (rope.attention_factor)
                keys.number("rope.scaling.attn_factor", *rope.attention_factor);
            keys.number("rope.scaling.yarn_beta_fast", rope.beta_fast);
            keys.number("rope.scaling.yarn_beta_slow", rope.beta_slow);
            return;
        case RopeKind::kLongrope:  // and the two tensors of divisors
            keys.count("rope.scaling.original_context_length", rope.original_max_positions);
            keys.number("rope.scaling.attn_factor", make_rope(rope, 1).attention_factor);
            return;
        case RopeKind::kDynamic:
            throw UserError(fmt::format(
                "GGUF cannot express the dynamic rotary positions of this {} model; export --to "
                "merged-hf and convert that with llama.cpp's convert_hf_to_gguf.py",
                config.model_type));
    }
}

}  // namespace

GgufHeader gguf_metadata_like(const GgufFile& like) {
    GgufHeader header;
    for (const auto& [key, value] : like.metadata()) {
        if (!says_how_it_is_stored(key)) header.raw(key, like.raw_value(key));
    }
    return header;
}

GgufHeader gguf_metadata_of(const ModelConfig& config) {
    const Family& family = gguf_family(family_named(config.family));
    GgufHeader header;
    header.text("general.architecture", family.architectures.front());
    header.text("general.type", "model");
    if (!config.name.empty()) header.text("general.name", config.name);
    Keys keys(header, std::string(family.architectures.front()) + ".");
    add_dimensions(keys, config);
    add_experts(keys, config);
    add_switches(keys, family, config);
    add_rope(keys, config);
    return header;
}

namespace {

void add_chat_templates(GgufHeader& header, const std::map<std::string, std::string>& templates) {
    std::vector<std::string> names;
    for (const auto& [given, text] : templates) {
        if (given == "default") continue;
        std::string name = given;
        for (char& c : name) {
            const bool plain =
                (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
            if (!plain) c = '_';
        }
        header.text("tokenizer.chat_template." + name, text);
        names.push_back(name);
    }
    if (!names.empty()) header.texts("tokenizer.chat_templates", names);
    if (const auto it = templates.find("default"); it != templates.end())
        header.text("tokenizer.chat_template", it->second);
}

}  // namespace

void add_gguf_tokenizer(GgufHeader& header, const GgufTokenizerData& data,
                        const ModelConfig& config,
                        const std::map<std::string, std::string>& chat_templates) {
    header.text("tokenizer.ggml.model", data.model);
    header.text("tokenizer.ggml.pre", data.pre);
    header.texts("tokenizer.ggml.tokens", data.tokens);
    header.i32s("tokenizer.ggml.token_type", data.token_types);
    if (data.scores.empty()) {
        header.texts("tokenizer.ggml.merges", data.merges);
    } else {
        header.f32s("tokenizer.ggml.scores", data.scores);
    }
    const auto id = [&](const char* key, std::int32_t value) {
        header.u32(key, static_cast<std::uint32_t>(value));
    };
    if (const auto bos = data.bos ? data.bos : config.bos_id)
        id("tokenizer.ggml.bos_token_id", *bos);
    // What else ends an answer goes under the names of its two other kinds of ends.
    std::vector<std::int32_t> ends = config.eos_ids;
    if (data.eos) {
        std::erase(ends, *data.eos);
        ends.insert(ends.begin(), *data.eos);
    }
    for (std::size_t i = 0; i < std::min(ends.size(), kEnds.size()); ++i) id(kEnds[i], ends[i]);
    if (config.pad_id) id("tokenizer.ggml.padding_token_id", *config.pad_id);
    if (data.unk) id("tokenizer.ggml.unknown_token_id", *data.unk);
    if (data.add_bos) header.boolean("tokenizer.ggml.add_bos_token", *data.add_bos);
    if (data.add_space_prefix)
        header.boolean("tokenizer.ggml.add_space_prefix", *data.add_space_prefix);
    add_chat_templates(header, chat_templates);
}

}  // namespace qshard
