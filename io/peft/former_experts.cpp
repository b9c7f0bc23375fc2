#include "io/peft/former_experts.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "base/error.h"
#include "io/peft/adapter_folder.h"
#include "io/peft/tensor_names.h"
#include "spec/adapter.h"

namespace qshard {
namespace {

constexpr std::string_view kExperts = ".experts.";
constexpr std::string_view kFormerModule = ".block_sparse_moe.", kModule = ".mlp.";
constexpr std::string_view kRouter = ".mlp.gate";
constexpr std::size_t kMaxExperts = 4096;

/// The matrices of an expert, and what families called them.
enum Part : std::uint8_t { kGate, kUp, kDown };
constexpr std::array<std::array<std::string_view, 2>, 3> kNames = {
    {{"w1", "gate_proj"}, {"w3", "up_proj"}, {"w2", "down_proj"}}};

/// What "base_model.model.model.layers.0.mlp.experts.3.w1.lora_A.weight" is.
struct ExpertFactor {
    std::string experts;  ///< "base_model.model.model.layers.0.mlp.experts"
    std::size_t expert = 0;
    Part part = kGate;
    bool is_a = false;
};

std::optional<ExpertFactor> expert_factor(const std::string& name) {
    ExpertFactor factor;
    factor.is_a = name.ends_with(kLoraA);
    const std::size_t at = name.find(kExperts);
    if (at == std::string::npos || !(factor.is_a || name.ends_with(kLoraB))) return std::nullopt;
    const char* end = name.data() + name.size() - kLoraA.size();
    const char* number = name.data() + at + kExperts.size();
    if (number >= end) return std::nullopt;
    const auto [after, error] = std::from_chars(number, end, factor.expert);
    if (error != std::errc() || after == end || *after != '.') return std::nullopt;
    factor.experts = name.substr(0, at + kExperts.size() - 1);
    const std::string_view last(after + 1, end);
    for (const Part part : {kGate, kUp, kDown}) {
        factor.part = part;
        if (std::ranges::find(kNames[part], last) != kNames[part].end()) return factor;
    }
    return std::nullopt;
}

std::string today(std::string name) {
    if (const std::size_t at = name.find(kFormerModule); at != std::string::npos)
        name.replace(at, kFormerModule.size(), kModule);
    return name;
}

/// The experts of a layer: B and A of each matrix, by part and expert.
struct Layer {
    std::array<std::array<std::vector<LooseTensor>, 2>, 3> factors;

    const std::vector<LooseTensor>& b(Part part) const { return factors[part][0]; }
    const std::vector<LooseTensor>& a(Part part) const { return factors[part][1]; }
    bool has(Part part) const { return !a(part).empty() || !b(part).empty(); }
};
using Layers = std::map<std::string, Layer>;  ///< by "...mlp.experts"

Layers take_experts(LooseTensors& tensors, const PeftConfig& config, const std::string& file) {
    AdapterOptions options = adapter_options(config, {});
    const ModuleScales scales(options);
    options.rank_pattern.clear();
    options.alpha_pattern.clear();
    const ModuleScale usual = ModuleScales(options).of("");
    Layers layers;
    for (auto it = tensors.begin(); it != tensors.end();) {
        const std::optional<ExpertFactor> factor = expert_factor(it->first);
        if (!factor) {
            ++it;
            continue;
        }
        const ModuleScale scale = scales.of(lora_module(it->first));
        if (scale.r != usual.r || scale.scale != usual.scale || factor->expert >= kMaxExperts) {
            throw UserError(fmt::format(
                "{}: {} has a rank or alpha of its own, or is of expert {} or beyond. Experts are "
                "one parameter today, with one rank.",
                file, it->first, kMaxExperts));
        }
        auto& list = layers[today(factor->experts)].factors[factor->part][factor->is_a ? 1 : 0];
        if (list.size() <= factor->expert) list.resize(factor->expert + 1);
        list[factor->expert] = std::move(it->second);
        it = tensors.erase(it);
    }
    return layers;
}

/// Number of experts, which all have the same matrices, of the same shapes and of rank r.
std::size_t check_layer(const Layer& layer, const std::string& experts, std::int64_t r,
                        const std::string& file) {
    std::size_t count = 0;
    for (const Part part : {kGate, kUp, kDown})
        count = std::max({count, layer.a(part).size(), layer.b(part).size()});
    const auto good = [&](const std::vector<LooseTensor>& some,
                          const std::vector<LooseTensor>& like, std::size_t rank_at) {
        return some.size() == count && like.size() == count &&
               std::ranges::all_of(some, [&](const LooseTensor& tensor) {
                   return tensor.shape.size() == 2 && tensor.shape == like.front().shape &&
                          tensor.shape[rank_at] == r;
               });
    };
    const bool gated = layer.has(kGate) || layer.has(kUp);
    for (const Part part : {kGate, kUp, kDown}) {
        if (part == kDown ? !layer.has(kDown) : !gated) continue;
        const Part like = part == kUp ? kGate : part;
        if (good(layer.a(part), layer.a(like), 0) && good(layer.b(part), layer.b(like), 1))
            continue;
        throw UserError(fmt::format(
            "{}: {} of {} is missing for some of {} experts, or not of rank {} and of one shape. "
            "Experts are one parameter today, so is {} with {}: all are adapted or none.",
            file, fmt::join(kNames[part], " or "), experts.substr(kPeftPrefix.size()), count, r,
            fmt::join(kNames[kGate], " or "), fmt::join(kNames[kUp], " or ")));
    }
    return count;
}

void append(std::vector<float>& values, const LooseTensor& tensor, std::int64_t row) {
    const std::int64_t cols = tensor.shape[1];
    values.insert(values.end(), tensor.values.begin() + row * cols,
                  tensor.values.begin() + (row + 1) * cols);
}

/// A [E, 2r, in] and B [E, 2F, 2r] of gate and up.
std::pair<LooseTensor, LooseTensor> fused(const Layer& layer, std::size_t count) {
    const std::int64_t r = layer.a(kGate).front().shape[0], in = layer.a(kGate).front().shape[1],
                       rows = layer.b(kGate).front().shape[0];
    const auto experts = static_cast<std::int64_t>(count);
    LooseTensor a{{experts, 2 * r, in}, {}}, b{{experts, 2 * rows, 2 * r}, {}};
    const auto zeros = static_cast<std::size_t>(r);
    for (std::size_t e = 0; e < count; ++e) {
        for (const Part part : {kGate, kUp}) {
            const std::vector<float>& one = layer.a(part)[e].values;
            a.values.insert(a.values.end(), one.begin(), one.end());
            for (std::int64_t row = 0; row < rows; ++row) {
                if (part == kUp) b.values.resize(b.values.size() + zeros);
                append(b.values, layer.b(part)[e], row);
                if (part == kGate) b.values.resize(b.values.size() + zeros);
            }
        }
    }
    return {std::move(a), std::move(b)};
}

/// [E, rows, cols] of one matrix of each expert.
LooseTensor stacked(const std::vector<LooseTensor>& matrices) {
    LooseTensor all{{std::ssize(matrices), matrices.front().shape[0], matrices.front().shape[1]},
                    {}};
    for (const LooseTensor& one : matrices)
        all.values.insert(all.values.end(), one.values.begin(), one.values.end());
    return all;
}

bool is_router(const std::string& name) {
    return is_lora(name) && lora_module(name).ends_with(kRouter);
}

bool is_former(const LooseTensors& tensors, const PeftConfig& config) {
    return std::ranges::any_of(tensors, [&](const auto& entry) {
        const std::string& name = entry.first;
        if (name.find(kFormerModule) != std::string::npos || expert_factor(name)) return true;
        return is_router(name) && parameter_path(lora_module(name), config) == lora_module(name);
    });
}

/// Names what is adapted by its path.
void set_targets(PeftConfig& config, const LooseTensors& tensors) {
    config.target_modules.clear();
    config.target_pattern.clear();
    config.layers_to_transform.clear();
    config.layers_pattern.clear();
    config.exclude_modules.clear();
    config.exclude_pattern.clear();
    for (const auto& [name, tensor] : tensors) {
        if (!name.ends_with(kLoraA)) continue;
        const std::string module = lora_module(name);
        if (is_router(name)) {
            config.target_parameters.push_back(module + ".weight");
        } else if (is_parameter_path(module)) {
            config.target_parameters.push_back(module);
        } else {
            config.target_modules.push_back(module);
        }
    }
}

}  // namespace

bool fuse_former_experts(LooseTensors& tensors, PeftConfig& config, const std::string& file) {
    if (!is_former(tensors, config)) return false;
    const Layers layers = take_experts(tensors, config, file);
    LooseTensors made;
    for (auto& [name, tensor] : tensors) made.emplace(today(name), std::move(tensor));
    bool gated = false;
    for (const auto& [experts, layer] : layers) {
        const std::size_t count = check_layer(layer, experts, config.r, file);
        if (layer.has(kGate)) {
            gated = true;
            auto [a, b] = fused(layer, count);
            made.emplace(experts + ".gate_up_proj" + std::string(kLoraA), std::move(a));
            made.emplace(experts + ".gate_up_proj" + std::string(kLoraB), std::move(b));
        }
        if (layer.has(kDown)) {
            made.emplace(experts + ".down_proj" + std::string(kLoraA), stacked(layer.a(kDown)));
            made.emplace(experts + ".down_proj" + std::string(kLoraB), stacked(layer.b(kDown)));
        }
    }
    tensors = std::move(made);
    set_targets(config, tensors);
    config.dropout = 0;  // parameters have none
    if (!gated) return true;
    const std::string key = ".*\\.gate_up_proj";
    const auto is_old = [&](const auto& pattern) { return pattern.first == key; };
    std::erase_if(config.rank_pattern, is_old);
    std::erase_if(config.alpha_pattern, is_old);
    config.rank_pattern.emplace(config.rank_pattern.begin(), key, 2 * config.r);
    config.alpha_pattern.emplace(config.alpha_pattern.begin(), key,
                                 (config.use_rslora ? std::sqrt(2.0) : 2.0) * config.alpha);
    return true;
}

}  // namespace qshard
