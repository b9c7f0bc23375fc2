#include "spec/adapter.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <optional>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/philox.h"
#include "spec/mixture_adapter.h"

namespace qshard {
namespace {

/// Modules that a list of names or a pattern selects.
class Selection {
  public:
    Selection(const std::vector<std::string>& names, const std::string& pattern, std::string key,
              const char* noun = "linear module", const char* hint = ", or all-linear")
        : names_(names), key_(std::move(key)), noun_(noun), hint_(hint) {
        if (!pattern.empty()) pattern_.emplace(pattern, key_);
        all_ = names.size() == 1 && names[0] == "all-linear";
    }

    bool selects(const std::string& module) const {
        bool selected = all_ || (pattern_ && pattern_->matches(module));
        pattern_used_ |= selected;
        for (const std::string& name : names_) {
            if (!path_ends_in(module, name)) continue;
            selected = true;
            used_.insert(name);
        }
        return selected;
    }

    /// PEFT takes a pattern that matches parts of a mixture for names in all of its layers.
    void refuse_pattern(const std::string& path) const {
        if (!pattern_ || !pattern_->matches(path)) return;
        throw UserError(
            ExitCode::kUsage,
            fmt::format("{}: the regular expression matches {}, but experts and routers are chosen "
                        "by adapter.target_parameters or by a list of names",
                        key_, path));
    }

    void refuse_unused(const std::set<std::string>& modules) const {
        const std::string found = fmt::format("{}", fmt::join(modules, ", "));
        if (pattern_ && !pattern_used_) {
            throw UserError(
                ExitCode::kUsage,
                fmt::format("{}: the regular expression matches no whole path of a linear module "
                            "such as model.layers.0.self_attn.q_proj (found: {})",
                            key_, found));
        }
        for (const std::string& name : names_) {
            if (all_ || used_.contains(name)) continue;
            throw UserError(
                ExitCode::kUsage,
                fmt::format("{} names \"{}\", which is no {} of this model (found: {}). "
                            "Use some of these{}.",
                            key_, name, noun_, found, hint_));
        }
    }

  private:
    const std::vector<std::string>& names_;
    const std::string key_;
    const char *noun_, *hint_;
    std::optional<ModulePattern> pattern_;
    bool all_ = false;
    mutable bool pattern_used_ = false;
    mutable std::set<std::string> used_;
};

/// Embedding and head, as far as options.modules_to_save name them.
std::vector<WeightSpec> saved_modules(const ModelConfig& config, const AdapterOptions& options) {
    ModelConfig untied = config;  // a tied head is a module of its own
    untied.tied_head = false;
    const std::array modules = {embedding_weights(untied).front(), head_weights(untied).front()};
    std::vector<WeightSpec> saved;
    std::set<std::string> used, paths;
    for (const WeightSpec& weight : modules) {
        const std::string path = adapter_path(config, weight);
        paths.insert(path);
        bool named = false;
        for (const std::string& name : options.modules_to_save) {
            if (!path_ends_in(path, name)) continue;
            named = true;
            used.insert(name);
        }
        if (named) saved.push_back(weight);
    }
    for (const std::string& name : options.modules_to_save) {
        if (used.contains(name)) continue;
        throw UserError(
            ExitCode::kUsage,
            fmt::format("adapter.modules_to_save names \"{}\", which is not supported; this model "
                        "can save {}",
                        name, fmt::join(paths, " and ")));
    }
    return saved;
}

bool adapts(const AdapterLayout& layout, const std::string& path) {
    return std::ranges::find(layout.targets, path, &AdapterTarget::module) != layout.targets.end();
}

/// Appends a weight to the last range.
void add_weight(AdapterLayout& layout, const ModelConfig& config, const WeightSpec& weight) {
    const std::string path = adapter_path(config, weight);
    AdapterTensor tensor;
    tensor.name =
        fmt::format("base_model.model.{}{}{}", path, adapts(layout, path) ? ".base_layer" : "",
                    is_bias(weight.role) ? ".bias" : ".weight");
    tensor.shape = {weight.rows, weight.cols};
    if (is_bias(weight.role)) tensor.shape.erase(tensor.shape.begin());
    tensor.offset = std::exchange(layout.count, layout.count + weight.count());
    layout.weights.push_back(
        {layout.range_begin.size() - 1, weight.role, weight.name, std::move(tensor)});
}

/// Appends the module of that role, if it is saved.
void add_saved(AdapterLayout& layout, const ModelConfig& config,
               const std::vector<WeightSpec>& saved, Role role) {
    for (const WeightSpec& weight : saved) {
        if (weight.role == role) add_weight(layout, config, weight);
    }
}

/// Appends the biases among the weights that options.bias asks for.
void add_biases(AdapterLayout& layout, const ModelConfig& config,
                const std::vector<WeightSpec>& weights) {
    const AdapterBias bias = layout.options.bias;
    for (const WeightSpec& weight : weights) {
        if (bias == AdapterBias::kNone || !is_bias(weight.role)) continue;
        if (bias == AdapterBias::kAll || adapts(layout, adapter_path(config, weight)))
            add_weight(layout, config, weight);
    }
}

/// torch's default of a linear layer with `inputs` inputs.
void fill_uniform(const Philox& random, std::int64_t inputs, std::span<float> out) {
    const auto bound = static_cast<float>(1.0 / std::sqrt(static_cast<double>(inputs)));
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = bound * (2.0f * random.uniform(i) - 1.0f);
}

/// Box and Muller 1958; number i uses the stream's numbers 2i and 2i + 1.
void fill_normal(const Philox& random, double deviation, std::span<float> out) {
    for (std::size_t i = 0; i < out.size(); ++i) {
        const double u = 1.0 - static_cast<double>(random.uniform(2 * i));  // in (0, 1]
        const double angle =
            2.0 * std::numbers::pi * static_cast<double>(random.uniform(2 * i + 1));
        out[i] = static_cast<float>(deviation * std::sqrt(-2.0 * std::log(u)) * std::cos(angle));
    }
}

}  // namespace

const AdapterTarget* AdapterLayout::find(std::int64_t layer, Role role) const {
    for (const AdapterTarget& target : targets) {
        if (target.layer == layer && target.role == role) return &target;
    }
    return nullptr;
}

AdapterPart AdapterLayout::part_of(std::int64_t layer, const WeightSpec& weight) const {
    const bool up = weight.role == Role::kExpertUp;
    const Role role = up || weight.role == Role::kExpertGate ? Role::kExpertGateUp : weight.role;
    AdapterPart part{find(layer, role)};
    if (part.target == nullptr || part.target->experts == 0) return part;
    part.expert = weight.expert;
    part.first_row = weight.expert * part.target->out + (up ? weight.rows : 0);
    return part;
}

const TrainedWeight* AdapterLayout::find_weight(std::size_t range, Role role) const {
    const auto found = std::ranges::find_if(
        weights, [&](const TrainedWeight& w) { return w.range == range && w.role == role; });
    return found == weights.end() ? nullptr : &*found;
}

std::int64_t AdapterLayout::largest_range_count() const {
    std::int64_t largest = 0;
    for (std::size_t range = 0; range + 1 < range_begin.size(); ++range)
        largest = std::max(largest, range_count(range));
    return largest;
}

std::int64_t AdapterLayout::bias_count() const {
    std::int64_t elements = 0;
    for (const TrainedWeight& weight : weights)
        elements += is_bias(weight.role) ? weight.tensor.count() : 0;
    return elements;
}

std::int64_t AdapterLayout::lora_count() const {
    std::int64_t elements = count;
    for (const TrainedWeight& weight : weights) elements -= weight.tensor.count();
    return elements;
}

ModuleScales::ModuleScales(const AdapterOptions& options)
    : r_(options.r), alpha_(options.alpha), use_rslora_(options.use_rslora) {
    for (const auto& [key, rank] : options.rank_pattern)
        ranks_.emplace_back(ModulePattern::at_the_end(key, "rank_pattern"), rank);
    for (const auto& [key, alpha] : options.alpha_pattern)
        alphas_.emplace_back(ModulePattern::at_the_end(key, "alpha_pattern"), alpha);
}

ModuleScale ModuleScales::of(std::string_view module) const {
    const auto first = [module](const auto& patterns, auto otherwise) {
        for (const auto& [pattern, value] : patterns) {
            if (pattern.matches(module)) return value;
        }
        return otherwise;
    };
    const std::int64_t r = first(ranks_, r_);
    const double alpha = first(alphas_, alpha_), rank = static_cast<double>(r);
    return {r, alpha / (use_rslora_ ? std::sqrt(rank) : rank)};
}

namespace {

constexpr std::string_view kRoot = "model.", kWrapped = "model.language_model.";

}  // namespace

std::string adapter_path(const ModelConfig& config, const WeightSpec& weight) {
    const std::string path(weight.module());
    if (!config.wrapped || !path.starts_with(kRoot)) return path;
    return std::string(kWrapped) + path.substr(kRoot.size());
}

bool is_wrapped_name(std::string_view name) {
    return name.find(kWrapped) != std::string_view::npos;
}

std::string unwrapped_name(std::string_view name) {
    std::string text(name);
    const std::size_t at = text.find(kWrapped);
    if (at != std::string::npos) text.replace(at, kWrapped.size(), kRoot);
    return text;
}

namespace {

void check_layers(const ModelConfig& config, const AdapterOptions& options) {
    for (std::int64_t layer : options.layers) {
        if (layer >= 0 && layer < config.layers) continue;
        throw UserError(ExitCode::kUsage,
                        fmt::format("adapter.layers names layer {}; the model has layers 0 to {}",
                                    layer, config.layers - 1));
    }
}

void append(AdapterLayout& layout, const ModuleScales& scales, AdapterTarget target) {
    const ModuleScale scale = scales.of(target.path());
    target.r = scale.r;
    target.scale = static_cast<float>(scale.scale);
    target.a = layout.count;
    target.b = target.a_of(target.pairs());
    layout.count = target.b_of_row(target.pairs() * target.out);
    if (layout.options.use_dora) {
        target.magnitude = std::exchange(layout.count, layout.count + target.out);
        target.first_row = std::exchange(layout.rows, layout.rows + target.out);
    }
    layout.targets.push_back(std::move(target));
}

}  // namespace

AdapterLayout make_adapter_layout(const ModelConfig& config, const AdapterOptions& asked) {
    AdapterLayout layout;
    layout.options = with_parameters(config, asked);
    const AdapterOptions& options = layout.options;
    const std::vector<WeightSpec> saved = saved_modules(config, options);
    layout.range_begin.push_back(layout.count);
    add_saved(layout, config, saved, Role::kEmbed);
    check_layers(config, options);
    const Selection targets(options.target_modules, options.target_pattern,
                            "adapter.target_modules");
    const Selection excluded(options.exclude_modules, options.exclude_pattern,
                             "adapter.exclude_modules");
    const Selection parameters(options.target_parameters, "", "adapter.target_parameters",
                               "parameter of experts or their router", "");
    const ModuleScales scales(options);
    std::set<std::string> modules, found_parameters;
    for (std::int64_t l = 0; l < config.layers; ++l) {
        layout.range_begin.push_back(layout.count);
        const bool wanted_layer =
            options.layers.empty() ||
            std::find(options.layers.begin(), options.layers.end(), l) != options.layers.end();
        const std::vector<WeightSpec> weights = layer_weights(config, l);
        for (const WeightSpec& weight : weights) {
            if (auto parameter = parameter_target(config, l, weight)) {
                const std::string path = parameter->path();
                found_parameters.insert(path.substr(path.find("mlp.")));
                targets.refuse_pattern(path);
                if (parameters.selects(path) && wanted_layer)
                    append(layout, scales, std::move(*parameter));
            }
            if (!weight.linear) continue;
            const std::string module = adapter_path(config, weight);
            if (!is_module(config, weight.role)) {
                targets.refuse_pattern(module);
                continue;
            }
            modules.insert(last_component(module));
            if (!targets.selects(module) || excluded.selects(module) || !wanted_layer) continue;
            append(layout, scales,
                   {.layer = l,
                    .role = weight.role,
                    .module = module,
                    .in = weight.cols,
                    .out = weight.rows});
        }
        add_biases(layout, config, weights);
    }
    layout.range_begin.push_back(layout.count);
    add_saved(layout, config, saved, Role::kHead);
    add_biases(layout, config, config.tied_head ? embedding_weights(config) : head_weights(config));
    layout.range_begin.push_back(layout.count);
    targets.refuse_unused(modules);
    parameters.refuse_unused(found_parameters);
    check_parameters(layout);
    if (layout.targets.empty()) {
        throw UserError(ExitCode::kUsage,
                        "no module is left to adapt: adapter.exclude_modules and adapter.layers "
                        "leave none of adapter.target_modules");
    }
    return layout;
}

void initialize_adapter(const AdapterLayout& layout, std::uint64_t seed, std::span<float> flat) {
    check(static_cast<std::int64_t>(flat.size()) == layout.count,
          "the flat vector has the layout's length");
    std::fill(flat.begin(), flat.end(), 0.0f);
    const AdapterInit init = layout.options.init;
    for (std::size_t t = 0; t < layout.targets.size(); ++t) {
        const AdapterTarget& target = layout.targets[t];
        const Philox random(seed, Purpose::kInit, static_cast<std::uint32_t>(t));
        const std::span<float> a = flat.subspan(static_cast<std::size_t>(target.a),
                                                static_cast<std::size_t>(target.b - target.a));
        if (init == AdapterInit::kGaussian) {
            fill_normal(random, 1.0 / static_cast<double>(target.r), a);
        } else {
            fill_uniform(random, target.in, a);
        }
        if (init == AdapterInit::kRandom) {
            // In PEFT the pairs of all experts are one linear.
            const std::int64_t pairs = target.pairs();
            fill_uniform(Philox(seed, Purpose::kInit, static_cast<std::uint32_t>(t), 1),
                         pairs * target.r,
                         flat.subspan(static_cast<std::size_t>(target.b),
                                      static_cast<std::size_t>(pairs * target.out * target.r)));
        }
    }
}

std::int64_t AdapterTensor::count() const {
    std::int64_t product = 1;
    for (std::int64_t extent : shape) product *= extent;
    return product;
}

std::vector<AdapterTensor> tensors_of(const AdapterLayout& layout) {
    std::vector<AdapterTensor> tensors;
    for (const AdapterTarget& target : layout.targets) {
        for (AdapterTensor& tensor : tensors_of(target)) tensors.push_back(std::move(tensor));
    }
    for (const TrainedWeight& weight : layout.weights) tensors.push_back(weight.tensor);
    std::ranges::sort(tensors, {}, &AdapterTensor::offset);
    return tensors;
}

std::vector<AdapterTensor> tensors_of(const AdapterTarget& target) {
    const std::string module = "base_model.model." + target.module;
    std::vector<AdapterTensor> tensors = {
        {module + ".lora_A.weight", {target.r, target.in}, target.a},
        {module + ".lora_B.weight", {target.out, target.r}, target.b}};
    if (target.experts > 0) {
        for (AdapterTensor& tensor : tensors)
            tensor.shape.insert(tensor.shape.begin(), target.experts);
    }
    if (target.has_magnitudes())
        tensors.push_back({module + ".lora_magnitude_vector", {target.out}, target.magnitude});
    return tensors;
}

}  // namespace qshard
