#include "io/peft/tensor_keys.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>

#include "base/error.h"
#include "io/peft/tensor_names.h"

namespace qshard {
namespace {

/// Removes a part of a dotted name wherever it stands.
void remove_part(std::string& name, std::string_view part) {
    const std::string inside = fmt::format(".{}.", part);
    for (std::size_t at; (at = name.find(inside)) != std::string::npos;)
        name.erase(at, inside.size() - 1);
    if (name.starts_with(inside.substr(1))) name.erase(0, inside.size() - 1);
}

/// The adapter's name between `begin` and the ending, which is taken out.
std::string take_adapter(std::string& name, std::size_t begin, std::string_view ending) {
    if (name.size() < begin + ending.size() || !name.ends_with(ending)) return "";
    const std::size_t length = name.size() - ending.size() - begin;
    if (length == 0) return "";
    const std::string adapter = name.substr(begin + 1, length - 1);
    name.erase(begin, length);
    return adapter;
}

/// lora_A, lora_B and magnitudes: "lora_A.default.weight", "lora_magnitude_vector.default".
std::string normalize_lora(std::string& name) {
    const std::size_t lora = name.rfind(".lora_");
    const std::size_t end = name.find('.', lora + 1);
    if (end == std::string::npos) return "";
    if (name.substr(lora, end - lora) != kMagnitude) return take_adapter(name, end, ".weight");
    if (name.ends_with(".weight")) name.resize(name.size() - std::string_view(".weight").size());
    return take_adapter(name, end, "");
}

}  // namespace

TensorKey tensor_key(std::string_view key) {
    TensorKey made{std::string(key), "", false};
    std::string& name = made.name;
    for (const std::string_view wrapper :
         {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}) {
        remove_part(name, wrapper);
    }
    if (name.starts_with("module.")) name.erase(0, std::string_view("module.").size());
    const bool known = name.starts_with("model.") || name.starts_with("transformer.") ||
                       name.starts_with("language_model.") || name.starts_with("lm_head.");
    if (known) name.insert(0, kPeftPrefix);
    if (name.find(".original_module.") != std::string::npos) made.copy_of_base = true;
    constexpr std::string_view kSaved = ".modules_to_save";
    if (is_lora(name)) {
        made.adapter = normalize_lora(name);
    } else if (const std::size_t at = name.find(kSaved); at != std::string::npos) {
        const std::string_view ending = std::string_view(name).substr(name.rfind('.'));
        name.erase(at, kSaved.size());
        made.adapter = take_adapter(name, at, std::string(ending));
    }
    return made;
}

void refuse_several_adapters(const std::set<std::string>& adapters, const std::string& file) {
    if (adapters.size() < 2) return;
    throw UserError(fmt::format(
        "{}: the tensors are of several adapters ({}), expected one\nSave one alone, in PEFT: "
        "save_pretrained(folder, selected_adapters=[NAME]).",
        file, fmt::join(adapters, ", ")));
}

}  // namespace qshard
