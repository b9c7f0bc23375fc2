#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "spec/model_config.h"
#include "spec/weights.h"

/// LoRA adapters: which modules have one, and where its numbers lie in the flat trainable vector.
namespace qshard {

struct AdapterOptions {
    std::int64_t r = 16;
    double alpha = 32;
    double dropout = 0;
    bool use_rslora = false;
    std::vector<std::string>
        target_modules;                ///< "all-linear" alone, or module names or path suffixes
    std::vector<std::int64_t> layers;  ///< layers that are adapted; empty = all
};

/// One adapted linear: y += scale * B (A x), A[r, in] and B[out, r] row-major fp32 inside the flat
/// vector.
struct AdapterTarget {
    std::int64_t layer = 0;
    Role role = Role::kQ;
    std::string module;  ///< "model.layers.0.self_attn.q_proj"
    std::int64_t in = 0, out = 0, r = 0;
    float scale = 1.0f;         ///< alpha / r, or alpha / sqrt(r) (rsLoRA)
    std::int64_t a = 0, b = 0;  ///< element offsets of A and B
};

/// Targets in the order layer, then (q, k, v, o, gate, up, down), A before B: one layer is one
/// contiguous range.
struct AdapterLayout {
    AdapterOptions options;
    std::vector<AdapterTarget> targets;
    std::int64_t count = 0;                 ///< elements of the flat vector
    std::vector<std::int64_t> layer_begin;  ///< [L + 1] first element of each layer's range

    const AdapterTarget* find(std::int64_t layer, Role role) const;
    std::int64_t layer_count(std::int64_t layer) const {
        return layer_begin[static_cast<std::size_t>(layer) + 1] -
               layer_begin[static_cast<std::size_t>(layer)];
    }
    std::int64_t largest_layer_count() const;
};

/// UserError if a target module matches nothing (the message lists the model's modules) or a layer
/// does not exist.
AdapterLayout make_adapter_layout(const ModelConfig& config, const AdapterOptions& options);

/// PEFT's default initialisation: A uniform in [-1/sqrt(in), 1/sqrt(in)) (kaiming_uniform with a =
/// sqrt 5), B zero. Element i of target t is Philox(seed, kInit, t).uniform(i), so it depends on
/// nothing else.
void initialize_adapter(const AdapterLayout& layout, std::uint64_t seed, std::span<float> flat);

/// PEFT's name of a target's A or B in adapter_model.safetensors.
std::string peft_key(const AdapterTarget& target, bool is_a);

}  // namespace qshard
