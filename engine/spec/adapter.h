#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "spec/model_config.h"
#include "spec/module_pattern.h"
#include "spec/weights.h"
#include "spec/words.h"

/// LoRA adapters: which modules have one, and where its numbers lie in the flat trainable vector.
namespace qshard {

/// PEFT's LoraConfig, by its names and with its meaning.
struct AdapterOptions {
    std::int64_t r = 16;
    double alpha = 32;
    double dropout = 0;
    bool use_rslora = false;
    bool use_dora = false;
    AdapterInit init = AdapterInit::kDefault;
    std::vector<std::string>
        target_modules;          ///< "all-linear" alone, or module names or path suffixes
    std::string target_pattern;  ///< instead: a regular expression over whole module paths
    /// Names or path suffixes of a mixture's parameters, as transformers 5 fuses them:
    /// mlp.experts.gate_up_proj, mlp.experts.down_proj, mlp.gate.weight (the router).
    std::vector<std::string> target_parameters;
    std::vector<std::string> exclude_modules;  ///< likewise; wins over targets
    std::string exclude_pattern;
    std::vector<std::int64_t> layers;  ///< layers that are adapted; empty = all
    /// Rank and alpha of modules whose path ends in a match of the key (a regular expression); the
    /// first hit wins, r and alpha are for the others.
    std::vector<std::pair<std::string, std::int64_t>> rank_pattern;
    std::vector<std::pair<std::string, double>> alpha_pattern;
    std::vector<std::string> modules_to_save;  ///< names or path suffixes of embedding and head
    AdapterBias bias = AdapterBias::kNone;
};

/// r and the factor of one module: alpha / r, or alpha / sqrt(r) (rsLoRA).
struct ModuleScale {
    std::int64_t r = 0;
    double scale = 0;
};
/// By the patterns of `options`, compiled once.
class ModuleScales {
  public:
    explicit ModuleScales(const AdapterOptions& options);
    ModuleScale of(std::string_view module) const;

  private:
    std::int64_t r_;
    double alpha_;
    bool use_rslora_;
    std::vector<std::pair<ModulePattern, std::int64_t>> ranks_;
    std::vector<std::pair<ModulePattern, double>> alphas_;
};

/// One adapted linear: y = (W + scale * B A) x + bias, A[r, in] and B[out, r] row-major fp32 inside
/// the flat vector. With DoRA row o of W + scale * B A is scaled to the length magnitude[o].
/// Experts have a pair each, of the rows of gate and then up, or of down.
struct AdapterTarget {
    std::int64_t layer = 0;
    Role role = Role::kQ;
    std::string module;  ///< "model.layers.0.self_attn.q_proj", "...mlp.experts.down_proj"
    std::int64_t in = 0, out = 0, r = 0;
    float scale = 1.0f;           ///< alpha / r, or alpha / sqrt(r) (rsLoRA)
    std::int64_t a = 0, b = 0;    ///< element offsets of A and B
    std::int64_t magnitude = -1;  ///< DoRA: element offset of the magnitudes [out]; -1 without
    std::int64_t first_row = 0;   ///< DoRA: of this target's rows, among those of all targets
    std::int64_t experts = 0;     ///< of a mixture: A [experts, r, in], B [experts, out, r]

    bool has_magnitudes() const { return magnitude >= 0; }
    /// Of a mixture, which PEFT adapts as a parameter (target_parameters).
    bool is_parameter() const { return experts > 0 || role == Role::kRouter; }
    /// What rank_pattern, alpha_pattern and target_parameters are matched with.
    std::string path() const { return role == Role::kRouter ? module + ".weight" : module; }
    std::int64_t pairs() const { return experts > 0 ? experts : 1; }
    std::int64_t a_of(std::int64_t expert) const { return a + expert * r * in; }
    std::int64_t b_of_row(std::int64_t row) const { return b + row * r; }
};

/// The target that a weight of the base belongs to, or null; and where in it.
struct AdapterPart {
    const AdapterTarget* target = nullptr;
    std::int64_t expert = 0;     ///< whose A it reads
    std::int64_t first_row = 0;  ///< of B, counted over all experts
};

/// A, B or the magnitudes of a target, as checkpoints and PEFT's adapter_model.safetensors name
/// them.
struct AdapterTensor {
    std::string name;
    std::vector<std::int64_t> shape;
    std::int64_t offset = 0;  ///< of its first element in the flat vector

    std::int64_t count() const;
};
std::vector<AdapterTensor> tensors_of(const AdapterTarget& target);

/// A weight of the base that is trained itself: the flat vector has its values, fp32 [rows, cols]
/// (biases: [cols]), which are computed with instead of the base's.
struct TrainedWeight {
    std::size_t range = 0;  ///< of AdapterLayout
    Role role = Role::kEmbed;
    std::string weight;  ///< WeightSpec::name
    AdapterTensor tensor;
};

/// The flat vector is cut into ranges, each trained at its own time of a step: the embedding's, the
/// layers', the head's. Targets lie in the order layer, then (q, k, v, o, gate, up, down), or after
/// o the experts' (gate and up, down) and the router, A before B before magnitudes; trained weights
/// follow the targets of their range.
struct AdapterLayout {
    AdapterOptions options;
    std::vector<AdapterTarget> targets;
    std::vector<TrainedWeight> weights;
    std::int64_t count = 0;                 ///< elements of the flat vector
    std::int64_t rows = 0;                  ///< DoRA: rows of all targets; 0 without
    std::vector<std::int64_t> range_begin;  ///< [L + 3] first element of each range

    static constexpr std::size_t kEmbedRange = 0;
    static std::size_t layer_range(std::int64_t layer) {
        return static_cast<std::size_t>(layer) + 1;
    }
    std::size_t head_range() const { return range_begin.size() - 2; }
    std::int64_t range_count(std::size_t range) const {
        return range_begin[range + 1] - range_begin[range];
    }
    std::int64_t largest_range_count() const;

    const AdapterTarget* find(std::int64_t layer, Role role) const;
    AdapterPart part_of(std::int64_t layer, const WeightSpec& weight) const;
    /// Null unless that weight is trained.
    const TrainedWeight* find_weight(std::size_t range, Role role) const;
    bool trains_embedding() const { return find_weight(kEmbedRange, Role::kEmbed) != nullptr; }
    bool trains_head() const { return find_weight(head_range(), Role::kHead) != nullptr; }
    std::int64_t lora_count() const;  ///< elements that are not of trained weights
    std::int64_t bias_count() const;  ///< elements of trained biases
};

/// All tensors, in the order of the flat vector.
std::vector<AdapterTensor> tensors_of(const AdapterLayout& layout);

/// A linear's path in the model that PEFT loads: that of its weight, but "model.language_model."
/// for "model." in a wrapped model.
std::string adapter_path(const ModelConfig& config, const WeightSpec& weight);
/// Whether a path or a tensor's name is a wrapped model's; and as it is in the text part alone.
bool is_wrapped_name(std::string_view name);
std::string unwrapped_name(std::string_view name);

/// Of a mixture, the names of linears that are parameters since transformers 5 (all-linear: all of
/// them) become target_parameters in the layout's options, as in PEFT: w1 and w3 are gate_up_proj
/// with twice the rank and alpha. UserError if a target module, pattern or parameter matches
/// nothing (the message lists the model's), a layer does not exist, parameters meet dropout or
/// DoRA, or a module to save is neither embedding nor head. Those of a tied head are two modules,
/// as in PEFT: each that is named has its own values from then on.
AdapterLayout make_adapter_layout(const ModelConfig& config, const AdapterOptions& options);

/// The values before training, as options.init says. Element i of A of target t is made of
/// Philox(seed, kInit, t).uniform(i), of B of Philox(seed, kInit, t, 1), so they depend on nothing
/// else. Magnitudes and trained weights are left zero: they come from the base
/// (Trainer::fill_from_base).
void initialize_adapter(const AdapterLayout& layout, std::uint64_t seed, std::span<float> flat);

}  // namespace qshard
