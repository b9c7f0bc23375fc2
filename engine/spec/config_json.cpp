#include "spec/config_json.h"

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <cmath>
#include <map>

#include "base/error.h"
#include "spec/families.h"
#include "spec/json.h"
#include "spec/json_keys.h"
#include "spec/rope_json.h"

namespace qshard {
namespace {

constexpr std::int64_t kMaxToken = (std::int64_t{1} << 31) - 1;

// Keys of real files that do not change what a fine-tuning step computes. Dropout of the
// pre-training is among them: as in PEFT's examples, only the adapter's own dropout is applied.
// "rms_norm_eps" stands in StarCoder2-15B's file, whose norms are LayerNorms; families with RMSNorm
// have read it before this list is asked.
constexpr std::string_view kHarmless[] = {"_attn_implementation",
                                          "_attn_implementation_autoset",
                                          "_attn_implementation_internal",
                                          "_commit_hash",
                                          "_experts_implementation",
                                          "_flash_attn_2_enabled",
                                          "_model_name_or_path",
                                          "_name_or_path",
                                          "_num_labels",
                                          "architectures",
                                          "attention_dropout",
                                          "attn_implementation",
                                          "attn_pdrop",
                                          "auto_map",
                                          "bad_words_ids",
                                          "begin_suppress_tokens",
                                          "cache_implementation",
                                          "chunk_size_feed_forward",
                                          "cross_attention_hidden_size",
                                          "decoder_start_token_id",
                                          "diversity_penalty",
                                          "do_sample",
                                          "dtype",
                                          "early_stopping",
                                          "embd_pdrop",
                                          "embedding_dropout",
                                          "encoder_no_repeat_ngram_size",
                                          "eos_token_ids",
                                          "exponential_decay_length_penalty",
                                          "finetuning_task",
                                          "forced_bos_token_id",
                                          "forced_eos_token_id",
                                          "gradient_checkpointing",
                                          "id2label",
                                          "image_token_index",
                                          "initializer_range",
                                          "is_decoder",
                                          "is_encoder_decoder",
                                          "is_llama_config",
                                          "label2id",
                                          "length_penalty",
                                          "max_length",
                                          "max_seq_length",
                                          "max_sequence_length",
                                          "min_length",
                                          "model_max_length",
                                          "n_ctx",
                                          "n_special",
                                          "no_repeat_ngram_size",
                                          "num_beam_groups",
                                          "num_beams",
                                          "num_return_sequences",
                                          "output_attentions",
                                          "output_hidden_states",
                                          "output_past",
                                          "output_router_logits",
                                          "output_scores",
                                          "predict_special_tokens",
                                          "prefix",
                                          "pretraining_tp",
                                          "problem_type",
                                          "pruned_heads",
                                          "remove_invalid_values",
                                          "reorder_and_upcast_attn",
                                          "repetition_penalty",
                                          "resid_pdrop",
                                          "residual_dropout",
                                          "return_dict",
                                          "return_dict_in_generate",
                                          "rms_norm_eps",
                                          "router_aux_loss_coef",
                                          "sep_token_id",
                                          "seq_length",
                                          "summary_activation",
                                          "summary_first_dropout",
                                          "summary_proj_to_labels",
                                          "summary_type",
                                          "summary_use_proj",
                                          "suppress_tokens",
                                          "task_specific_params",
                                          "temperature",
                                          "tf_legacy_loss",
                                          "tie_encoder_decoder",
                                          "tokenizer_class",
                                          "top_k",
                                          "top_p",
                                          "torch_dtype",
                                          "torchscript",
                                          "transformers.js_config",
                                          "transformers_version",
                                          "typical_p",
                                          "unk_token_id",
                                          "unsloth_fixed",
                                          "unsloth_version",
                                          "use_bfloat16",
                                          "use_cache",
                                          "use_flash_attention_2",
                                          "use_flash_attn",
                                          "use_return_dict",
                                          "use_sdpa",
                                          "xla_device"};

bool is_decisive(std::string_view key) {
    if (key == "bos_token_id" || key == "eos_token_id" || key == "pad_token_id") return false;
    return key == "rms_norm_eps" || std::ranges::find(kHarmless, key) == std::end(kHarmless);
}

/// `value` with the members of its objects sorted, and those left out that decide nothing.
std::string sorted_text(const boost::json::value& value) {
    if (const auto* array = value.if_array()) {
        std::string text = "[";
        for (const boost::json::value& item : *array) text += sorted_text(item) + ",";
        return text + "]";
    }
    const auto* object = value.if_object();
    if (object == nullptr) return boost::json::serialize(value);
    std::map<std::string, std::string> members;
    for (const auto& item : *object) {
        const std::string key(item.key());
        if (is_decisive(key)) members[key] = sorted_text(item.value());
    }
    std::string text = "{";
    for (const auto& [key, member] : members)
        text += boost::json::serialize(boost::json::string(key)) + ":" + member + ",";
    return text + "}";
}

std::int64_t dimension(JsonKeys& keys, std::string_view key, std::int64_t high,
                       std::int64_t absent) {
    const std::int64_t value = keys.integer(key, 1, high).value_or(absent);
    if (value == 0) keys.fail(key, fmt::format("an integer from 1 to {}", high));
    return value;
}

void parse_dimensions(JsonKeys& keys, const Family& family, ModelConfig& config) {
    const Family::Defaults& d = family.defaults;
    const DimensionKeys& k = family.keys;
    config.layers = dimension(keys, k.layers, 4096, d.layers);
    config.width = dimension(keys, k.width, 1 << 20, d.width);
    config.heads = dimension(keys, k.heads, 1 << 16, d.heads);
    config.kv_heads =
        dimension(keys, "num_key_value_heads", 1 << 16, d.kv_heads > 0 ? d.kv_heads : config.heads);
    const std::int64_t head_width = d.head_width > 0 ? d.head_width : config.width / config.heads;
    config.head_width = dimension(keys, "head_dim", 1 << 16, head_width);
    config.ffn_width = dimension(keys, k.ffn_width, 1 << 24,
                                 d.ffn_factor > 0 ? d.ffn_factor * config.width : d.ffn_width);
    config.vocabulary = dimension(keys, "vocab_size", 1 << 24, d.vocabulary);
    config.max_positions = dimension(keys, k.max_positions, 1 << 30, d.max_positions);
    if (config.heads % config.kv_heads != 0)
        keys.fail("num_key_value_heads", "a divisor of num_attention_heads");
    if (config.head_width % 2 != 0) keys.fail("head_dim", "even");
}

Activation parse_activation(JsonKeys& keys, const Family& family) {
    const std::optional<std::string> hidden_activation = keys.text("hidden_activation");
    const std::string_view key = family.keys.activation;
    const std::string name = keys.text(key).value_or(hidden_activation.value_or(""));
    if (name.empty() || family.fixed_activation) return family.activation;
    if (name == "silu" || name == "swish") return Activation::kSilu;
    if (name == "gelu_pytorch_tanh" || name == "gelu_new") return Activation::kGeluTanh;
    if (name == "gelu") return Activation::kGeluErf;
    if (name == "relu") return Activation::kRelu;
    keys.fail(key, "silu, gelu, gelu_new, gelu_pytorch_tanh or relu");
}

bool parse_switch(JsonKeys& keys, std::string_view key, bool absent) {
    return key.empty() ? false : keys.boolean(key).value_or(absent);
}

float parse_softcap(JsonKeys& keys, std::string_view key, const boost::json::object& object,
                    double absent) {
    if (!object.contains(key)) return static_cast<float>(absent);
    const double cap = keys.number(key).value_or(0);  // null: none
    if (cap < 0) keys.fail(key, "positive or null");
    return static_cast<float>(cap);
}

void parse_switches(JsonKeys& keys, const Family& family, const boost::json::object& object,
                    ModelConfig& config) {
    config.norm_eps = static_cast<float>(keys.number(family.eps_key).value_or(family.eps));
    if (!(config.norm_eps >= 0)) keys.fail(family.eps_key, "not negative");
    config.activation = parse_activation(keys, family);
    config.qkv_bias =
        family.qkv_bias || parse_switch(keys, family.qkv_bias_key, family.bias_default);
    config.o_bias = family.o_bias || parse_switch(keys, family.o_bias_key, family.bias_default);
    config.mlp_bias =
        family.mlp_bias || parse_switch(keys, family.mlp_bias_key, family.bias_default);
    config.tied_head = keys.boolean("tie_word_embeddings").value_or(family.tied);

    double scale = 1.0 / std::sqrt(static_cast<double>(config.head_width));
    if (family.scalar_scale)
        scale = 1.0 / std::sqrt(keys.number("query_pre_attn_scalar").value_or(256.0));
    if (family.soft_caps) {
        config.attention_softcap =
            parse_softcap(keys, "attn_logit_softcapping", object, family.attention_softcap);
        config.logit_softcap =
            parse_softcap(keys, "final_logit_softcapping", object, family.logit_softcap);
    }
    if (family.multipliers) {
        config.embed_scale = static_cast<float>(keys.number("embedding_multiplier").value_or(1.0));
        config.residual_scale =
            static_cast<float>(keys.number("residual_multiplier").value_or(1.0));
        const double divisor = keys.number("logits_scaling").value_or(1.0);
        if (!(divisor > 0)) keys.fail("logits_scaling", "positive");
        config.logit_scale = static_cast<float>(1.0 / divisor);
        scale = keys.number("attention_multiplier").value_or(1.0);
    }
    if (!(scale > 0) || !std::isfinite(scale))
        throw UserError(keys.origin() + ": the attention scale is not positive");
    config.attention_scale = static_cast<float>(scale);
}

/// Whether layer `i` attends to a window, without "layer_types".
bool slides(const Family& family, std::int64_t i, std::int64_t first_sliding,
            std::int64_t pattern) {
    switch (family.window) {
        case WindowRule::kNone:
            return false;
        case WindowRule::kAll:
            return true;
        case WindowRule::kSwitched:
            return i >= first_sliding;
        case WindowRule::kPattern:
            return (i + 1) % pattern != 0;
    }
    return false;
}

/// The list `key` if there is one; UserError unless it has one item per layer.
const boost::json::array* layer_list(JsonKeys& keys, std::string_view key, std::int64_t layers) {
    const boost::json::array* list = keys.array(key);
    if (list != nullptr && static_cast<std::int64_t>(list->size()) != layers) {
        keys.fail(key, fmt::format("a list of {} items, one per layer", layers));
    }
    return list;
}

void parse_windows(JsonKeys& keys, const Family& family, const boost::json::object& object,
                   ModelConfig& config) {
    std::int64_t window = 0, first_sliding = 0, pattern = family.window_pattern;
    if (family.window != WindowRule::kNone) {
        window = keys.integer("sliding_window", 0, 1 << 30).value_or(0);
        if (!object.contains("sliding_window")) window = family.defaults.window;
    }
    if (family.window == WindowRule::kSwitched) {
        if (!keys.boolean("use_sliding_window").value_or(false)) window = 0;
        first_sliding = keys.integer("max_window_layers", 0, 1 << 20).value_or(28);
    }
    if (family.window == WindowRule::kPattern) {
        const std::optional<std::int64_t> old_key =
            keys.integer("_sliding_window_pattern", 1, 4096);
        pattern =
            keys.integer("sliding_window_pattern", 1, 4096).value_or(old_key.value_or(pattern));
    }
    const boost::json::array* types = layer_list(keys, "layer_types", config.layers);
    for (std::int64_t i = 0; i < config.layers; ++i) {
        bool sliding = window > 0 && slides(family, i, first_sliding, pattern);
        if (types != nullptr) {
            const boost::json::value& type = (*types)[static_cast<std::size_t>(i)];
            sliding = type == "sliding_attention";
            if (!sliding && type != "full_attention")
                keys.fail("layer_types", "full_attention or sliding_attention");
            if (sliding && window == 0)
                keys.fail("sliding_window", "a positive number, as layer_types asks for it");
        }
        LayerConfig& layer = config.layer.emplace_back();
        layer.window = sliding ? window : 0;
        layer.rope_index = sliding && family.local_theta > 0 ? 1 : 0;
    }
}

void parse_nope(JsonKeys& keys, const Family& family, ModelConfig& config) {
    if (family.nope_interval == 0) return;
    const std::int64_t interval =
        keys.integer("no_rope_layer_interval", 1, 4096).value_or(family.nope_interval);
    const boost::json::array* list = layer_list(keys, "no_rope_layers", config.layers);
    for (std::int64_t i = 0; i < config.layers; ++i) {
        bool rope = (i + 1) % interval != 0;
        if (list != nullptr) {
            const boost::json::value& item = (*list)[static_cast<std::size_t>(i)];
            if (item != 0 && item != 1) keys.fail("no_rope_layers", "a list of 0 and 1");
            rope = item == 1;
        }
        config.layer[static_cast<std::size_t>(i)].rope = rope;
    }
}

/// Whether each layer is a mixture, by the keys of Qwen.
void parse_sparse_layers(JsonKeys& keys, ModelConfig& config) {
    const std::int64_t step = keys.integer("decoder_sparse_step", 1, 4096).value_or(1);
    for (std::int64_t i = 0; i < config.layers; ++i)
        config.layer[static_cast<std::size_t>(i)].experts = (i + 1) % step == 0;
    const boost::json::array* dense = keys.array("mlp_only_layers");
    if (dense == nullptr) return;
    for (const boost::json::value& item : *dense) {
        if (!item.is_int64() || item.get_int64() < 0 || item.get_int64() >= config.layers)
            keys.fail("mlp_only_layers", "a list of layers");
        config.layer[static_cast<std::size_t>(item.get_int64())].experts = false;
    }
}

void parse_experts(JsonKeys& keys, const Family& family, ModelConfig& config) {
    if (family.mixture == MixtureRule::kNone) return;
    // Transformers 5 writes Qwen's under Mixtral's name.
    const std::optional<std::int64_t> local = keys.integer("num_local_experts", 1, 4096);
    config.experts = keys.integer("num_experts", 1, 4096).value_or(local.value_or(0));
    if (config.experts == 0 || config.experts != local.value_or(config.experts))
        keys.fail("num_experts", "from 1 to 4096, and not another number of num_local_experts");
    config.experts_per_token = dimension(keys, "num_experts_per_tok", config.experts, 0);
    if (keys.number("router_jitter_noise").value_or(0) != 0) keys.fail("router_jitter_noise", "0");
    if (keys.boolean("output_router_logits").value_or(false))
        keys.fail("output_router_logits", "false: the router's auxiliary loss is not computed");
    if (family.mixture == MixtureRule::kAll) {
        config.expert_width = config.ffn_width;
        config.normalized_experts = true;
        for (LayerConfig& layer : config.layer) layer.experts = true;
        return;
    }
    config.expert_width = dimension(keys, "moe_intermediate_size", 1 << 24, 0);
    config.normalized_experts = keys.boolean("norm_topk_prob").value_or(false);
    parse_sparse_layers(keys, config);
}

void parse_tokens(JsonKeys& keys, ModelConfig& config) {
    SpecialIds ids = special_ids(keys, config.vocabulary);
    config.bos_id = ids.bos;
    config.pad_id = ids.pad;
    config.eos_ids = std::move(ids.eos);
}

/// Which weights bitsandbytes quantized, and how, the tensors tell.
void refuse_other_quantizers(JsonKeys& keys) {
    const boost::json::object* quantization = keys.object("quantization_config");
    const auto is_null = [](const auto& member) { return member.value().is_null(); };
    if (quantization == nullptr || std::ranges::all_of(*quantization, is_null)) return;
    JsonKeys inner(*quantization, keys.origin() + ": \"quantization_config\"");
    const std::string method = inner.text("quant_method").value_or("");
    if (method == "bitsandbytes") return;
    // Before transformers 4.32 the method had no name, but these keys.
    if (method.empty() &&
        (quantization->contains("load_in_4bit") || quantization->contains("load_in_8bit")))
        return;
    throw UserError(fmt::format(
        "{}: the checkpoint is already quantized ({}), which is not supported\n"
        "Use the original model (it is quantized when it is loaded), or one that "
        "bitsandbytes quantized.",
        keys.origin(), method.empty() ? "by a method that quant_method does not name" : method));
}

/// Keys of published files that say what the family does anyway. Transformers' classes do not read
/// them, but with another value the file means another model.
void refuse_odd_switches(JsonKeys& keys, const ModelConfig& config) {
    const auto require = [&keys](std::string_view key, const boost::json::value& expected) {
        if (keys.asked(key)) return;  // a switch of this family
        const boost::json::value* found = keys.find(key);
        if (found != nullptr && *found != expected)
            keys.fail(key, boost::json::serialize(expected));
    };
    for (const char* key :
         {"add_cross_attention", "attention_bias", "lm_head_bias", "mlp_bias", "rope_interleaved",
          "scale_attn_by_inverse_layer_idx", "use_bidirectional_attention", "use_mrope"}) {
        require(key, false);
    }
    require("scale_attn_weights", true);
    require("qkv_bias", config.qkv_bias);
    require("use_qk_norm", config.qk_norm);
    require("norm_type", config.norm == NormKind::kLayer ? "layer_norm" : "rms_norm");
    require("mlp_type", config.gated_mlp ? "gated" : "default");
    const bool swiglu = config.gated_mlp && config.activation == Activation::kSilu;
    require("activation", swiglu ? boost::json::value("swiglu") : nullptr);
    require("full_attn_mod", 1);  // Phi-4-mini
    require("interpolate_factor", 1);
    require("shared_expert_intermediate_size", 0);
    std::int64_t window = 0;
    for (const LayerConfig& layer : config.layer) window = std::max(window, layer.window);
    require("sliding_window_size", window);
}

ModelConfig parse(const boost::json::object& object, const std::string& origin) {
    JsonKeys keys(object, origin);
    refuse_other_quantizers(keys);
    const std::string model_type = keys.text("model_type").value_or("");
    if (const boost::json::object* text_config = keys.object("text_config")) {
        JsonKeys inner(*text_config, origin + ": \"text_config\"");
        const std::string inner_type = inner.text("model_type").value_or("");
        if (family_of_model_type(inner_type) != nullptr) {
            ModelConfig config = parse(*text_config, origin + ": \"text_config\"");
            if (config.eos_ids.empty()) parse_tokens(keys, config);
            // Before transformers 5 the text part said it, and where it says nothing its default
            // does not count.
            const std::optional<bool> tied = keys.boolean("tie_word_embeddings");
            const bool said = inner.find("tie_word_embeddings") != nullptr;
            if (tied) config.tied_head = *tied || (said && config.tied_head);
            config.wrapped = true;
            return config;
        }
    }
    const Family* family = family_of_model_type(model_type);
    if (family == nullptr) {
        throw UserError(fmt::format("{}: models of type \"{}\" are not supported\nSupported: {}",
                                    origin, model_type, known_model_types()));
    }
    ModelConfig config;
    config.model_type = model_type;
    config.name = keys.text("_name_or_path").value_or("");
    parse_dimensions(keys, *family, config);
    set_family_switches(*family, config);
    parse_switches(keys, *family, object, config);
    parse_windows(keys, *family, object, config);
    parse_nope(keys, *family, config);
    parse_experts(keys, *family, config);
    if (!config.learned_positions) parse_ropes(keys, *family, config);
    parse_tokens(keys, config);
    refuse_odd_switches(keys, config);
    keys.ignore(kHarmless);
    keys.refuse_others(fmt::format(
        "a \"{}\" model with it may compute something else than this program does", family->name));
    return config;
}

}  // namespace

SpecialIds special_ids(JsonKeys& keys, std::int64_t vocabulary) {
    const auto checked = [&](std::string_view key, const boost::json::value& value) {
        if (!value.is_int64() || value.get_int64() < 0 || value.get_int64() > kMaxToken)
            keys.fail(key, "a token id or a list of them");
        if (value.get_int64() >= vocabulary) {
            throw UserError(fmt::format(
                "{}: \"{}\" is {}, but the embedding has {} rows (ids 0 to {})\nGive the model "
                "whose embedding was resized for that token, or correct the id.",
                keys.origin(), key, value.get_int64(), vocabulary, vocabulary - 1));
        }
        return static_cast<std::int32_t>(value.get_int64());
    };
    const auto one = [&](std::string_view key) -> std::optional<std::int32_t> {
        const boost::json::value* value = keys.find(key);
        if (value == nullptr || *value == -1) return std::nullopt;  // "none" in some files
        return checked(key, *value);
    };
    SpecialIds ids;
    ids.bos = one("bos_token_id");
    ids.pad = one("pad_token_id");
    const boost::json::value* eos = keys.find("eos_token_id");
    if (eos != nullptr && eos->is_array()) {
        for (const boost::json::value& id : eos->get_array())
            ids.eos.push_back(checked("eos_token_id", id));
    } else if (const std::optional<std::int32_t> id = one("eos_token_id")) {
        ids.eos.push_back(*id);
    }
    return ids;
}

ModelConfig model_config_from_json(std::string_view text, const std::string& origin) {
    const boost::json::value document = parse_strict_json(text, origin, {.non_finite = true});
    if (!document.is_object()) throw UserError(origin + ": expected a JSON object");
    return parse(document.get_object(), origin);
}

std::string decisive_config(std::string_view text, const std::string& origin) {
    return sorted_text(parse_strict_json(text, origin, {.non_finite = true}));
}

}  // namespace qshard
