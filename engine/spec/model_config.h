#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

/// What a model is: numbers and switches. A family is a row of switches (families.h), never a class
/// of its own.
namespace qshard {

enum class NormKind : std::uint8_t { kRms, kLayer };
enum class Activation : std::uint8_t { kSilu, kGeluTanh, kGeluErf, kRelu };
enum class RopeKind : std::uint8_t {
    kNone,
    kDefault,
    kLinear,
    kDynamic,
    kLlama3,
    kYarn,
    kLongrope
};

/// Parameters of rotary positions as config.json or GGUF gives them (formula: rope.h).
struct RopeConfig {
    RopeKind kind = RopeKind::kDefault;
    double theta = 10000.0;
    std::int64_t rotary_width =
        0;  ///< rotated dimensions of a head (head_width * partial_rotary_factor)
    double factor = 1.0;
    double low_freq_factor = 1.0, high_freq_factor = 4.0;  ///< llama3
    std::int64_t original_max_positions = 0;
    double beta_fast = 32.0, beta_slow = 1.0;  ///< yarn
    std::optional<double> attention_factor, mscale, mscale_all_dim;
    bool truncate = true;
    std::vector<double> short_factor, long_factor;  ///< longrope
    /// Per-frequency divisors that replace the formula (GGUF's rope_freqs.weight), or empty.
    std::vector<float> frequency_divisors;
};

/// What may differ from layer to layer.
struct LayerConfig {
    std::int64_t window = 0;  ///< attended tokens including self; 0 = all
    bool rope = true;
    int rope_index = 0;    ///< index into ModelConfig::ropes
    bool experts = false;  ///< the MLP is a mixture of experts
};

/// Numbers and switches of one decoder-only model. Dimension letters as in the glossary of
/// engine/README.md.
struct ModelConfig {
    std::string family;      ///< row of the families table, e.g. "llama"
    std::string model_type;  ///< as the source calls it
    std::string name;        ///< what the source calls the model, or empty
    bool wrapped = false;    ///< the text part of a model that also takes images

    std::int64_t layers = 0;      ///< L
    std::int64_t width = 0;       ///< C
    std::int64_t heads = 0;       ///< H
    std::int64_t kv_heads = 0;    ///< K
    std::int64_t head_width = 0;  ///< D
    std::int64_t ffn_width = 0;   ///< F
    std::int64_t vocabulary = 0;  ///< V
    std::int64_t max_positions = 0;

    NormKind norm = NormKind::kRms;
    float norm_eps = 1e-5f;
    bool norm_offset = false;   ///< gain is 1 + w (Gemma)
    bool qk_norm = false;       ///< RMSNorm of every head of q and k before RoPE
    bool qk_norm_wide = false;  ///< of all heads at once instead (OLMo 2)
    bool qkv_bias = false, o_bias = false, mlp_bias = false;
    bool pre_norms = true;    ///< norms before attention and before the MLP
    bool post_norms = false;  ///< norms after them, before the residual sum (Gemma 2 and 3, OLMo 2)
    bool gated_mlp = true;
    bool fused_qkv = false;      ///< one matrix of q's, k's and v's rows (Phi-3, GPT-2)
    bool fused_gate_up = false;  ///< one matrix of gate's and up's rows (Phi-3)
    bool conv1d =
        false;  ///< Hugging Face stores linears as [in, out] (GPT-2); PEFT's fan_in_fan_out
    Activation activation = Activation::kSilu;
    bool learned_positions = false;  ///< GPT-2's wpe
    bool renews_keys =
        false;  ///< an answer that outgrows longrope's original length has its cached
                ///< keys rotated again (Phi-3); else they stay as they were made
    bool tied_head = false;

    std::int64_t experts = 0;            ///< of a layer that has them
    std::int64_t experts_per_token = 0;  ///< the most probable ones
    std::int64_t expert_width = 0;       ///< feed-forward width of one expert
    bool normalized_experts = false;     ///< the chosen experts' probabilities are made to sum to 1

    float embed_scale = 1.0f;        ///< rounded to the embedding's dtype where it is applied
    float attention_scale = 0.0f;    ///< multiplies q.k; always set by the loaders
    float attention_softcap = 0.0f;  ///< 0 = none
    float logit_softcap = 0.0f;      ///< 0 = none
    float residual_scale = 1.0f;     ///< Granite
    float logit_scale = 1.0f;        ///< multiplies the logits (Granite: 1 / logits_scaling)

    std::vector<RopeConfig> ropes;
    std::vector<LayerConfig> layer;  ///< one per layer

    std::vector<std::int32_t> eos_ids;
    std::optional<std::int32_t> bos_id, pad_id;

    std::int64_t q_width() const { return heads * head_width; }
    std::int64_t kv_width() const { return kv_heads * head_width; }
};

}  // namespace qshard
