#include "spec/mixture_adapter.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace qshard {

bool path_ends_in(std::string_view path, std::string_view name) {
    if (path == name) return true;
    return path.size() > name.size() && path.ends_with(name) &&
           path[path.size() - name.size() - 1] == '.';
}

std::string last_component(std::string_view path) {
    return std::string(path.substr(path.rfind('.') + 1));
}

bool is_module(const ModelConfig& config, Role linear) {
    const bool attention = linear == Role::kQkv || linear == Role::kQ || linear == Role::kK ||
                           linear == Role::kV || linear == Role::kO;
    return attention || config.experts == 0;
}

namespace {

constexpr const char* kGateUpParameter = "gate_up_proj";
constexpr const char* kDownParameter = "down_proj";
constexpr const char* kRouterParameter = "gate.weight";

/// Last components of the names that a mixture's linears had before transformers fused them.
struct MixtureNames {
    std::vector<std::string> attention;
    std::string gate, up, down, router;

    explicit MixtureNames(const ModelConfig& config) {
        for (std::int64_t l = 0; l < config.layers; ++l) {
            for (const WeightSpec& weight : layer_weights(config, l)) {
                const std::string name = last_component(weight.module());
                if (weight.role == Role::kExpertGate) gate = name;
                if (weight.role == Role::kExpertUp) up = name;
                if (weight.role == Role::kExpertDown) down = name;
                if (weight.role == Role::kRouter) router = name;
                const bool listed =
                    std::find(attention.begin(), attention.end(), name) != attention.end();
                if (weight.linear && is_module(config, weight.role) && !listed)
                    attention.push_back(name);
            }
        }
    }
};

/// Replaces the value of a key, or adds it in the order that PEFT reads patterns back: by key.
template <class Value>
void set_pattern(std::vector<std::pair<std::string, Value>>& pattern, const std::string& key,
                 Value value) {
    std::erase_if(pattern, [&](const auto& one) { return one.first == key; });
    pattern.emplace_back(key, value);
    std::sort(pattern.begin(), pattern.end());
}

}  // namespace

AdapterOptions with_parameters(const ModelConfig& config, AdapterOptions options) {
    if (config.experts == 0) return options;
    const MixtureNames known(config);
    std::vector<std::string> names = std::exchange(options.target_modules, {});
    if (names == std::vector<std::string>{"all-linear"}) {
        names = known.attention;
        names.insert(names.end(), {known.gate, known.up, known.down, known.router});
    }
    bool gate = false, up = false;
    const auto add = [&](const char* parameter) {
        auto& list = options.target_parameters;
        if (std::find(list.begin(), list.end(), parameter) == list.end())
            list.emplace_back(parameter);
    };
    for (const std::string& name : names) {
        const bool is_gate = path_ends_in(name, known.gate), is_up = path_ends_in(name, known.up);
        gate |= is_gate;
        up |= is_up;
        if (path_ends_in(name, known.down)) {
            add(kDownParameter);
        } else if (path_ends_in(name, known.router)) {
            add(kRouterParameter);
        } else if (!is_gate && !is_up) {
            options.target_modules.push_back(name);
        }
    }
    if (gate != up) {
        throw UserError(
            ExitCode::kUsage,
            fmt::format("adapter.target_modules names {} without {}, but in a model with experts "
                        "they are one parameter, {}. Name both, or adapter.target_parameters: "
                        "mlp.experts.{}.",
                        gate ? known.gate : known.up, gate ? known.up : known.gate,
                        kGateUpParameter, kGateUpParameter));
    }
    if (gate) {
        add(kGateUpParameter);
        const std::string key = fmt::format(".*\\.{}", kGateUpParameter);
        set_pattern(options.rank_pattern, key, 2 * options.r);
        set_pattern(options.alpha_pattern, key, 2 * options.alpha);
    }
    return options;
}

std::optional<AdapterTarget> parameter_target(const ModelConfig& config, std::int64_t layer,
                                              const WeightSpec& weight) {
    AdapterTarget target;
    target.layer = layer;
    target.in = weight.cols;
    target.out = weight.rows;
    const std::string mlp = fmt::format("model.layers.{}.mlp.", layer);
    if (weight.role == Role::kRouter) {
        target.role = Role::kRouter;
        target.module = mlp + "gate";
        return target;
    }
    if (!is_expert(weight.role) || weight.role == Role::kExpertUp || weight.expert > 0) return {};
    target.experts = config.experts;
    const bool down = weight.role == Role::kExpertDown;
    target.role = down ? Role::kExpertDown : Role::kExpertGateUp;
    target.module = mlp + "experts." + (down ? kDownParameter : kGateUpParameter);
    if (!down) target.out *= 2;
    return target;
}

void check_parameters(const AdapterLayout& layout) {
    const AdapterOptions& options = layout.options;
    if (options.dropout == 0 && !options.use_dora) return;
    for (const AdapterTarget& target : layout.targets) {
        if (!target.is_parameter()) continue;
        throw UserError(
            ExitCode::kUsage,
            fmt::format("adapter.{} does not go with LoRA on experts and routers ({}), in PEFT "
                        "neither. Turn it off, or name only attention in adapter.target_modules: "
                        "q_proj, k_proj, v_proj, o_proj.",
                        options.use_dora ? "use_dora" : "dropout", target.path()));
    }
}

}  // namespace qshard
