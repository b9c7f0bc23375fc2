#include "io/peft/peft_config.h"

#include <array>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <cmath>

#include "base/error.h"
#include "io/checkpoint/json_text.h"
#include "spec/json.h"
#include "spec/json_keys.h"

namespace qshard {
namespace {

namespace json = boost::json;

constexpr std::int64_t kMaxRank = 65536;
constexpr std::int64_t kMaxLayers = 100000;

/// Keys that change nothing in the mathematics, or only together with a feature that is refused
/// below.
constexpr std::array<std::string_view, 10> kHarmless = {
    "auto_mapping", "inference_mode", "peft_version", "megatron_core", "megatron_config",
    "qalora_group_size", "runtime_config",
    // Of initialisations: they mattered before the first step.
    "eva_config", "corda_config", "lora_ga_config"};

bool is_off(const json::value& value) {
    if (const json::object* object = value.if_object()) return object->empty();
    if (const json::array* array = value.if_array()) return array->empty();
    return value.is_null() || (value.is_bool() && !value.get_bool());
}

/// Initialisations that leave the base as it is; the others make the adapter valid only for a
/// changed base.
bool keeps_base(const json::value& init) {
    if (init.is_null() || init.is_bool()) return true;
    const json::string* name = init.if_string();
    return name != nullptr && (*name == "gaussian" || *name == "orthogonal" || *name == "eva");
}

std::vector<std::string> strings(const json::value* value, const std::string& what) {
    std::vector<std::string> found;
    if (value == nullptr) return found;
    if (const json::string* one = value->if_string()) return {std::string(*one)};
    if (const json::array* array = value->if_array()) {
        for (const json::value& item : *array) {
            if (!item.is_string()) throw UserError(what + " must be a list of strings");
            found.emplace_back(item.get_string());
        }
        return found;
    }
    throw UserError(what + " must be a string or a list of strings");
}

std::vector<std::int64_t> layer_numbers(const json::value* value, const std::string& what) {
    std::vector<std::int64_t> layers;
    if (value == nullptr) return layers;
    const json::array one = {*value};
    for (const json::value& item : value->is_array() ? value->get_array() : one) {
        if (!item.is_int64() || item.get_int64() < 0 || item.get_int64() >= kMaxLayers) {
            throw UserError(what + " must be layer numbers");
        }
        layers.push_back(item.get_int64());
    }
    return layers;
}

void refuse_unsupported(const json::object& object, JsonKeys& keys, const std::string& origin) {
    const std::string type = keys.text("peft_type").value_or("LORA");
    if (type != "LORA") {
        throw UserError(fmt::format("{}: peft_type {} is not supported, only LORA", origin, type));
    }
    const std::string bias = keys.text("bias").value_or("none");
    if (bias != "none" && bias != "all" && bias != "lora_only") {
        throw UserError(
            fmt::format("{}: bias is \"{}\", expected none, all or lora_only", origin, bias));
    }
    const json::value* init = keys.find("init_lora_weights");
    if (init != nullptr && !keeps_base(*init)) {
        throw UserError(fmt::format(
            "{}: init_lora_weights {} changes the base model, so the adapter does not fit the "
            "unchanged one.\nExport it from PEFT with path_initial_model_for_weight_conversion.",
            origin, json::serialize(*init)));
    }
    keys.ignore(kHarmless);
    for (const auto& [key, value] : object) {
        static constexpr std::array<std::string_view, 19> kRead = {"r",
                                                                   "target_parameters",
                                                                   "fan_in_fan_out",
                                                                   "lora_alpha",
                                                                   "lora_dropout",
                                                                   "use_rslora",
                                                                   "use_dora",
                                                                   "target_modules",
                                                                   "peft_type",
                                                                   "bias",
                                                                   "modules_to_save",
                                                                   "exclude_modules",
                                                                   "layers_to_transform",
                                                                   "layers_pattern",
                                                                   "rank_pattern",
                                                                   "alpha_pattern",
                                                                   "revision",
                                                                   "task_type",
                                                                   "init_lora_weights"};
        const std::string_view name = key;
        const auto in = [name](const auto& list) {
            return std::find(list.begin(), list.end(), name) != list.end();
        };
        if (name != "base_model_name_or_path" && !in(kRead) && !in(kHarmless) && !is_off(value)) {
            throw UserError(fmt::format("{}: \"{}\": {} is not supported", origin, name,
                                        json::serialize(value).substr(0, 80)));
        }
    }
}

void read_patterns(JsonKeys& keys, PeftConfig& config) {
    if (const json::object* ranks = keys.object("rank_pattern")) {
        for (const auto& [key, value] : *ranks) {
            if (!value.is_int64() || value.get_int64() < 1 || value.get_int64() > kMaxRank) {
                keys.fail("rank_pattern", "an object of ranks");
            }
            config.rank_pattern.emplace_back(key, value.get_int64());
        }
    }
    if (const json::object* alphas = keys.object("alpha_pattern")) {
        for (const auto& [key, value] : *alphas) {
            if (!value.is_number()) keys.fail("alpha_pattern", "an object of numbers");
            config.alpha_pattern.emplace_back(key, value.to_number<double>());
        }
    }
}

json::value number(double value) {
    if (value == std::floor(value) && std::abs(value) < 1e15)
        return static_cast<std::int64_t>(value);
    return value;
}

template <class Items>
json::value list_or_null(const Items& items) {
    if (items.empty()) return nullptr;
    return json::array(items.begin(), items.end());
}

json::value init_value(const std::string& init) {
    if (init == "true" || init == "false") return init == "true";
    return json::string(init);
}

json::value text_or_null(const std::string& text) {
    if (text.empty()) return nullptr;
    return json::string(text);
}

}  // namespace

PeftConfig parse_peft_config(std::string_view text, const std::string& origin) {
    const json::value document = parse_strict_json(text, origin);
    const json::object* object = document.if_object();
    if (object == nullptr) throw UserError(origin + ": expected a JSON object");
    JsonKeys keys(*object, origin);
    refuse_unsupported(*object, keys, origin);

    PeftConfig config;
    config.r = keys.integer("r", 1, kMaxRank).value_or(config.r);
    config.alpha = keys.number("lora_alpha").value_or(config.alpha);
    config.dropout = keys.number("lora_dropout").value_or(0);
    config.use_rslora = keys.boolean("use_rslora").value_or(false);
    config.use_dora = keys.boolean("use_dora").value_or(false);
    config.fan_in_fan_out = keys.boolean("fan_in_fan_out").value_or(false);
    const json::value* targets = keys.find("target_modules");
    if (targets != nullptr && targets->is_string()) {
        config.target_pattern = targets->get_string();
    } else {
        config.target_modules = strings(targets, origin + ": target_modules");
    }
    config.target_parameters =
        strings(keys.find("target_parameters"), origin + ": target_parameters");
    const json::value* excluded = keys.find("exclude_modules");
    if (excluded != nullptr && excluded->is_string()) {
        config.exclude_pattern = excluded->get_string();
    } else {
        config.exclude_modules = strings(excluded, origin + ": exclude_modules");
    }
    config.modules_to_save = strings(keys.find("modules_to_save"), origin + ": modules_to_save");
    config.bias = keys.text("bias").value_or("none");
    const json::value* init = keys.find("init_lora_weights");
    if (init != nullptr && init->is_string()) config.init_lora_weights = init->get_string();
    if (init != nullptr && init->is_bool()) {
        config.init_lora_weights = init->get_bool() ? "true" : "false";
    }
    config.layers_to_transform =
        layer_numbers(keys.find("layers_to_transform"), origin + ": layers_to_transform");
    config.layers_pattern = strings(keys.find("layers_pattern"), origin + ": layers_pattern");
    read_patterns(keys, config);
    config.base_model = keys.text("base_model_name_or_path").value_or("");
    config.revision = keys.text("revision").value_or("");
    config.task_type = keys.text("task_type").value_or("");
    return config;
}

std::string peft_config_text(const PeftConfig& config) {
    json::object ranks, alphas;
    for (const auto& [key, value] : config.rank_pattern) ranks[key] = value;
    for (const auto& [key, value] : config.alpha_pattern) alphas[key] = number(value);
    json::value targets = config.target_pattern.empty() ? list_or_null(config.target_modules)
                                                        : text_or_null(config.target_pattern);
    // PEFT would take null for its own choice of modules.
    if (targets.is_null() && !config.target_parameters.empty()) targets = json::array();
    json::object object = {{"alpha_pattern", alphas},
                           {"auto_mapping", nullptr},
                           {"base_model_name_or_path", text_or_null(config.base_model)},
                           {"bias", config.bias},
                           {"fan_in_fan_out", config.fan_in_fan_out},
                           {"inference_mode", true},
                           {"init_lora_weights", init_value(config.init_lora_weights)},
                           {"layers_pattern", list_or_null(config.layers_pattern)},
                           {"layers_to_transform", list_or_null(config.layers_to_transform)},
                           {"lora_alpha", number(config.alpha)},
                           {"lora_dropout", config.dropout},
                           {"modules_to_save", list_or_null(config.modules_to_save)},
                           {"peft_type", "LORA"},
                           {"r", config.r},
                           {"rank_pattern", ranks},
                           {"revision", text_or_null(config.revision)},
                           {"target_modules", targets},
                           {"task_type", text_or_null(config.task_type)}};
    // Only where they matter: PEFT before 0.7 stops at keys it does not know.
    if (config.use_rslora) object["use_rslora"] = true;
    if (config.use_dora) object["use_dora"] = true;
    if (!config.target_parameters.empty())
        object["target_parameters"] = list_or_null(config.target_parameters);
    if (!config.exclude_pattern.empty()) {
        object["exclude_modules"] = config.exclude_pattern;
    } else if (!config.exclude_modules.empty()) {
        object["exclude_modules"] = list_or_null(config.exclude_modules);
    }
    return python_json(object);
}

}  // namespace qshard
