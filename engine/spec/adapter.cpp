#include "spec/adapter.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/error.h"
#include "base/philox.h"

namespace qshard {
namespace {

bool matches(std::string_view module, std::string_view target) {
    if (module == target) return true;
    return module.size() > target.size() && module.ends_with(target) &&
           module[module.size() - target.size() - 1] == '.';
}

std::string last_component(std::string_view module) {
    return std::string(module.substr(module.rfind('.') + 1));
}

[[noreturn]] void refuse_expert(std::string_view target, std::string_view module) {
    throw UserError(
        ExitCode::kUsage,
        fmt::format("adapter.target_modules names \"{}\", which is an expert of a mixture ({}). "
                    "Experts are frozen: PEFT adapts them as fused parameters, which is not "
                    "supported yet. Use q_proj, k_proj, v_proj, o_proj, or all-linear.",
                    target, module));
}

}  // namespace

const AdapterTarget* AdapterLayout::find(std::int64_t layer, Role role) const {
    for (const AdapterTarget& target : targets) {
        if (target.layer == layer && target.role == role) return &target;
    }
    return nullptr;
}

std::int64_t AdapterLayout::largest_layer_count() const {
    std::int64_t largest = 0;
    for (std::size_t l = 0; l + 1 < layer_begin.size(); ++l) {
        largest = std::max(largest, layer_begin[l + 1] - layer_begin[l]);
    }
    return largest;
}

AdapterLayout make_adapter_layout(const ModelConfig& config, const AdapterOptions& options) {
    AdapterLayout layout;
    layout.options = options;
    const bool all =
        options.target_modules.size() == 1 && options.target_modules[0] == "all-linear";
    for (std::int64_t layer : options.layers) {
        if (layer < 0 || layer >= config.layers) {
            throw UserError(
                ExitCode::kUsage,
                fmt::format("adapter.layers names layer {}; the model has layers 0 to {}", layer,
                            config.layers - 1));
        }
    }
    const double scale = options.use_rslora
                             ? options.alpha / std::sqrt(static_cast<double>(options.r))
                             : options.alpha / static_cast<double>(options.r);
    std::set<std::string> used, modules;
    for (std::int64_t l = 0; l < config.layers; ++l) {
        layout.layer_begin.push_back(layout.count);
        const bool wanted_layer =
            options.layers.empty() ||
            std::find(options.layers.begin(), options.layers.end(), l) != options.layers.end();
        for (const WeightSpec& weight : layer_weights(config, l)) {
            if (!weight.linear) continue;
            const bool can = adaptable(weight.role);
            if (can) modules.insert(last_component(weight.module()));
            bool wanted = all && can;
            for (const std::string& target : options.target_modules) {
                if (!all && matches(weight.module(), target)) {
                    if (!can) refuse_expert(target, weight.module());
                    wanted = true;
                    used.insert(target);
                }
            }
            if (!wanted || !wanted_layer) continue;
            AdapterTarget target{l,
                                 weight.role,
                                 std::string(weight.module()),
                                 weight.cols,
                                 weight.rows,
                                 options.r,
                                 static_cast<float>(scale),
                                 layout.count,
                                 0};
            target.b = target.a + target.r * target.in;
            layout.count = target.b + target.out * target.r;
            layout.targets.push_back(std::move(target));
        }
    }
    layout.layer_begin.push_back(layout.count);
    for (const std::string& target : options.target_modules) {
        if (!all && !used.contains(target)) {
            throw UserError(
                ExitCode::kUsage,
                fmt::format(
                    "adapter.target_modules names \"{}\", which is no linear module of this model "
                    "(found: {}). Use some of these, or all-linear.",
                    target, fmt::join(modules, ", ")));
        }
    }
    return layout;
}

void initialize_adapter(const AdapterLayout& layout, std::uint64_t seed, std::span<float> flat) {
    check(static_cast<std::int64_t>(flat.size()) == layout.count,
          "the flat vector has the layout's length");
    std::fill(flat.begin(), flat.end(), 0.0f);
    for (std::size_t t = 0; t < layout.targets.size(); ++t) {
        const AdapterTarget& target = layout.targets[t];
        const Philox random(seed, Purpose::kInit, static_cast<std::uint32_t>(t));
        const auto bound = static_cast<float>(1.0 / std::sqrt(static_cast<double>(target.in)));
        for (std::int64_t i = 0; i < target.r * target.in; ++i) {
            const float u = 2.0f * random.uniform(static_cast<std::uint64_t>(i)) - 1.0f;
            flat[static_cast<std::size_t>(target.a + i)] = bound * u;
        }
    }
}

std::string peft_key(const AdapterTarget& target, bool is_a) {
    return fmt::format("base_model.model.{}.lora_{}.weight", target.module, is_a ? 'A' : 'B');
}

}  // namespace qshard
