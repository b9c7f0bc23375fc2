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

/// LoRA adapters: which modules have one, and where its numbers lie in the flat trainable vector.
namespace qshard {

/// PEFT's init_lora_weights, of those that leave the base as it is.
enum class AdapterInit : std::uint8_t {
    kDefault,   ///< true: A uniform in [-1/sqrt(in), 1/sqrt(in)) (kaiming_uniform, a = sqrt 5), B
                ///< zero
    kGaussian,  ///< A normal with deviation 1/r, B zero
    kRandom,  ///< false: B uniform in [-1/sqrt(r), 1/sqrt(r)) too; the adapter changes the model at
              ///< once
};

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
    std::vector<std::string> exclude_modules;  ///< likewise; wins over targets
    std::string exclude_pattern;
    std::vector<std::int64_t> layers;  ///< layers that are adapted; empty = all
    /// Rank and alpha of modules whose path ends in a match of the key (a regular expression); the
    /// first hit wins, r and alpha are for the others.
    std::vector<std::pair<std::string, std::int64_t>> rank_pattern;
    std::vector<std::pair<std::string, double>> alpha_pattern;
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
struct AdapterTarget {
    std::int64_t layer = 0;
    Role role = Role::kQ;
    std::string module;  ///< "model.layers.0.self_attn.q_proj"
    std::int64_t in = 0, out = 0, r = 0;
    float scale = 1.0f;           ///< alpha / r, or alpha / sqrt(r) (rsLoRA)
    std::int64_t a = 0, b = 0;    ///< element offsets of A and B
    std::int64_t magnitude = -1;  ///< DoRA: element offset of the magnitudes [out]; -1 without
    std::int64_t first_row = 0;   ///< DoRA: of this target's rows, among those of all targets

    bool has_magnitudes() const { return magnitude >= 0; }
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

/// Targets in the order layer, then (q, k, v, o, gate, up, down), A before B before magnitudes: one
/// layer is one contiguous range.
struct AdapterLayout {
    AdapterOptions options;
    std::vector<AdapterTarget> targets;
    std::int64_t count = 0;                 ///< elements of the flat vector
    std::int64_t rows = 0;                  ///< DoRA: rows of all targets; 0 without
    std::vector<std::int64_t> layer_begin;  ///< [L + 1] first element of each layer's range

    const AdapterTarget* find(std::int64_t layer, Role role) const;
    std::int64_t layer_count(std::int64_t layer) const {
        return layer_begin[static_cast<std::size_t>(layer) + 1] -
               layer_begin[static_cast<std::size_t>(layer)];
    }
    std::int64_t largest_layer_count() const;
    std::int64_t largest_r() const;  ///< of all targets
};

/// A linear's path in the model that PEFT loads: that of its weight, but "model.language_model."
/// for "model." in a wrapped model.
std::string adapter_path(const ModelConfig& config, const WeightSpec& weight);

/// UserError if a target module or pattern matches nothing (the message lists the model's modules)
/// or a layer does not exist.
AdapterLayout make_adapter_layout(const ModelConfig& config, const AdapterOptions& options);

/// The values before training, as options.init says. Element i of A of target t is made of
/// Philox(seed, kInit, t).uniform(i), of B of Philox(seed, kInit, t, 1), so they depend on nothing
/// else. Magnitudes are left zero: they are the base's row norms (Trainer::fill_magnitudes).
void initialize_adapter(const AdapterLayout& layout, std::uint64_t seed, std::span<float> flat);

}  // namespace qshard
