#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "spec/model_config.h"
#include "spec/weights.h"

/// The table of model families: what a family's name implies beyond the numbers in its config file.
/// To add a family, add a row to families.cpp and a golden config to tests/unit/spec.
namespace qshard {

/// A weight's names: whole for the weights outside the layers, after "model.layers.N." (or the
/// family's own) and "blk.N." inside them. "{}" stands for the number of an expert; GGUF keeps all
/// experts in one tensor.
struct WeightName {
    Role role;
    std::string_view hugging_face;
    std::string_view gguf;
};

/// Which layers attend to a window only, where config.json has no "layer_types".
enum class WindowRule : std::uint8_t {
    kNone,
    kAll,       ///< every layer, if "sliding_window" is set
    kSwitched,  ///< layers from "max_window_layers" on, if "use_sliding_window"
    kPattern,   ///< all but every window_pattern-th layer
};

/// Which layers have a mixture of experts in place of the MLP.
enum class MixtureRule : std::uint8_t {
    kNone,
    kAll,    ///< every layer, of "intermediate_size", probabilities normalized (Mixtral)
    kKeyed,  ///< "decoder_sparse_step", "mlp_only_layers", "moe_intermediate_size",
             ///< "norm_topk_prob" (Qwen)
};

/// Names of the numbers in config.json.
struct DimensionKeys {
    std::string_view layers = "num_hidden_layers", width = "hidden_size",
                     heads = "num_attention_heads", ffn_width = "intermediate_size",
                     max_positions = "max_position_embeddings", activation = "hidden_act";
};

/// One row. Keys are those of config.json; an empty key means that the family has no such switch.
struct Family {
    std::string_view name;
    std::vector<std::string_view> model_types;    ///< of config.json
    std::vector<std::string_view> architectures;  ///< of GGUF
    std::span<const WeightName> names;  ///< entries that replace those of the common table
    std::string_view layer_prefix = "model.layers.";  ///< of Hugging Face's names
    DimensionKeys keys;

    NormKind norm = NormKind::kRms;
    std::string_view eps_key = "rms_norm_eps";
    double eps = 1e-6;  ///< if the key is absent
    bool norm_offset = false, qk_norm = false, qk_norm_wide = false;
    bool pre_norms = true, post_norms = false, gated_mlp = true;
    bool fused_qkv = false, fused_gate_up = false, conv1d = false, learned_positions = false;
    bool renews_keys = false;

    bool qkv_bias = false, o_bias = false, mlp_bias = false;  ///< always
    std::string_view qkv_bias_key, o_bias_key, mlp_bias_key;
    bool bias_default = false;  ///< value of an absent bias key

    Activation activation = Activation::kSilu;
    bool fixed_activation = false;  ///< whatever the file says (Gemma)
    bool scaled_embedding = false;  ///< by sqrt(C) rounded to bf16 (Gemma)
    bool scalar_scale = false;      ///< attention scale is query_pre_attn_scalar^-0.5
    bool soft_caps = false;         ///< attn_logit_softcapping, final_logit_softcapping
    double attention_softcap = 0, logit_softcap = 0;  ///< if those keys are absent (not null)
    bool multipliers = false;                         ///< Granite's four multipliers
    bool tied = false;                                ///< if "tie_word_embeddings" is absent

    double theta = 10000.0;
    double local_theta = 0;  ///< > 0: sliding layers have their own rope with this theta
    std::int64_t nope_interval =
        0;  ///< every n-th layer without rope, if "no_rope_layers" is absent
    WindowRule window = WindowRule::kNone;
    std::int64_t window_pattern = 0;

    MixtureRule mixture = MixtureRule::kNone;
    std::string_view gguf_mixture;  ///< the family of GGUF files like this one's that have experts

    bool permuted_gguf = false;    ///< rows of q and k are interleaved in GGUF files
    std::string_view gguf_family;  ///< whose GGUF files this family's are, if not its own

    /// Values of absent keys; 0 = the key is required (head_width: C / H; kv_heads: H).
    struct Defaults {
        std::int64_t layers = 0, width = 0, heads = 0, kv_heads = 0, head_width = 0, ffn_width = 0,
                     vocabulary = 0;
        std::int64_t max_positions = 2048, window = 0;
        std::int64_t original_max_positions = 0;  ///< of rotary positions; 0: max_positions
        std::int64_t ffn_factor = 0;  ///< > 0: an absent ffn_width is so many times the width
    } defaults;
};

std::span<const Family> families();
/// The switches that the family alone decides, whatever the format of the file.
void set_family_switches(const Family& family, ModelConfig& config);
/// BugError if there is no such row.
const Family& family_named(std::string_view name);
/// Null if unknown.
const Family* family_of_model_type(std::string_view model_type);
const Family* family_of_architecture(std::string_view architecture);
/// The row by which GGUF files of this family are written: Mistral's are Llama's.
const Family& gguf_family(const Family& family);
/// "gemma, gemma2, ...", for messages.
std::string known_model_types();
std::string known_architectures();

/// Full names; `layer` is ignored for weights outside the layers.
std::string hugging_face_name(const Family& family, Role role, std::int64_t layer,
                              std::int64_t expert = 0);
std::string gguf_name(const Family& family, Role role, std::int64_t layer);

}  // namespace qshard
