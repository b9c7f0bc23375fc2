#include "io/peft/expert_tensors.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "io/peft/adapter_folder.h"
#include "io/peft/tensor_names.h"
#include "spec/adapter.h"
#include "spec/mixture_adapter.h"

namespace qshard {
namespace {

constexpr std::string_view kExperts = ".mlp.experts", kNested = ".base_layer";
constexpr std::string_view kGateUp = ".gate_up_proj", kDown = ".down_proj";
constexpr std::string_view kRouter = ".mlp.gate", kWeight = ".weight";

/// "base_model...mlp.experts.down_proj" and ".lora_A.weight".
std::pair<std::string, std::string> split(const std::string& name) {
    const std::size_t at = name.rfind(".lora_");
    if (at == std::string::npos) return {name, ""};
    return {name.substr(0, at), name.substr(at)};
}

bool drop_end(std::string& text, std::string_view end) {
    if (!text.ends_with(end)) return false;
    text.resize(text.size() - end.size());
    return true;
}

/// [out, r*E] from [E, out, r].
std::vector<float> joined(const LooseTensor& b) {
    const std::int64_t experts = b.shape[0], out = b.shape[1], r = b.shape[2];
    std::vector<float> values(b.values.size());
    for (std::int64_t e = 0, from = 0; e < experts; ++e) {
        for (std::int64_t o = 0; o < out; ++o) {
            for (std::int64_t k = 0; k < r; ++k, ++from)
                values[static_cast<std::size_t>((o * r + k) * experts + e)] =
                    b.values[static_cast<std::size_t>(from)];
        }
    }
    return values;
}

/// [E, out, r] from [out, r*E].
std::vector<float> divided(const LooseTensor& b, std::int64_t r) {
    const std::int64_t out = b.shape[0], experts = b.shape[1] / r;
    std::vector<float> values(b.values.size());
    for (std::int64_t e = 0, to = 0; e < experts; ++e) {
        for (std::int64_t o = 0; o < out; ++o) {
            for (std::int64_t k = 0; k < r; ++k, ++to)
                values[static_cast<std::size_t>(to)] =
                    b.values[static_cast<std::size_t>((o * r + k) * experts + e)];
        }
    }
    return values;
}

bool names(const std::vector<std::string>& list, const std::string& path) {
    return std::any_of(list.begin(), list.end(),
                       [&](const std::string& name) { return path_ends_in(path, name); });
}

std::string without_prefix(const std::string& module) {
    return module.starts_with(kPeftPrefix) ? module.substr(kPeftPrefix.size()) : module;
}

}  // namespace

LooseTensors peft_tensors(const std::vector<NamedTensor>& tensors, std::span<const float> values) {
    LooseTensors made;
    for (const NamedTensor& tensor : tensors) {
        const auto part = values.subspan(static_cast<std::size_t>(tensor.offset),
                                         static_cast<std::size_t>(tensor.count()));
        LooseTensor loose{tensor.shape, {part.begin(), part.end()}};
        auto [module, ending] = split(tensor.name);
        const bool gate_up = drop_end(module, kGateUp);
        if (tensor.shape.size() != 3 || !(gate_up || drop_end(module, kDown))) {
            made.emplace(tensor.name, std::move(loose));
            continue;
        }
        const std::int64_t experts = tensor.shape[0], rows = tensor.shape[1],
                           cols = tensor.shape[2];
        if (ending.starts_with(".lora_A")) {
            loose.shape = {experts * rows, cols};
        } else {
            loose.values = joined(loose);
            loose.shape = {rows, cols * experts};
        }
        const std::string outer = module + std::string(kDown) + ending;
        const bool nested = gate_up && std::any_of(tensors.begin(), tensors.end(),
                                                   [&](const auto& t) { return t.name == outer; });
        made.emplace(module + std::string(nested ? kNested : "") + ending, std::move(loose));
    }
    return made;
}

LooseTensors checkpoint_tensors(LooseTensors& tensors, const PeftConfig& config,
                                const std::string& file) {
    const ModuleScales scales(adapter_options(config, {}));
    LooseTensors made;
    for (auto& [name, tensor] : tensors) {
        auto [module, ending] = split(name);
        const bool inner = drop_end(module, kNested);
        if (!module.ends_with(kExperts)) {
            made.emplace(name, std::move(tensor));
            continue;
        }
        const bool down = !inner && (tensors.contains(module + std::string(kNested) + ending) ||
                                     names(config.target_parameters,
                                           without_prefix(module) + std::string(kDown)));
        module += down ? kDown : kGateUp;
        const std::int64_t r = scales.of(without_prefix(module)).r;
        const bool is_a = ending.starts_with(".lora_A");
        if (tensor.shape.size() != 2 || tensor.shape[is_a ? 0 : 1] % r != 0) {
            throw UserError(fmt::format(
                "{}: {} is no matrix of pairs of rank {}, which adapter_config.json says by r and "
                "rank_pattern",
                file, name, r));
        }
        if (is_a) {
            tensor.shape = {tensor.shape[0] / r, r, tensor.shape[1]};
        } else {
            tensor.values = divided(tensor, r);
            tensor.shape = {tensor.shape[1] / r, tensor.shape[0], r};
        }
        made.emplace(module + ending, std::move(tensor));
    }
    return made;
}

std::string parameter_path(const std::string& module, const PeftConfig& config) {
    const std::string path = module + std::string(kWeight);
    return module.ends_with(kRouter) && names(config.target_parameters, path) ? path : module;
}

bool is_parameter_path(const std::string& path) {
    const std::string experts(kExperts);
    return path.ends_with(experts + std::string(kGateUp)) ||
           path.ends_with(experts + std::string(kDown)) ||
           path.ends_with(std::string(kRouter) + std::string(kWeight));
}

}  // namespace qshard
