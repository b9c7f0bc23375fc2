#pragma once

#include <string>
#include <string_view>

/// How PEFT names the tensors of an adapter: prefix, path of the module, ending.
namespace qshard {

inline constexpr std::string_view kPeftPrefix = "base_model.model.";
inline constexpr std::string_view kLoraA = ".lora_A.weight", kLoraB = ".lora_B.weight";
inline constexpr std::string_view kMagnitude = ".lora_magnitude_vector";

/// Whether it is one of LoRA's, magnitudes included.
inline bool is_lora(std::string_view name) {
    return name.find(".lora_") != std::string_view::npos;
}

/// Path of the module that a tensor of LoRA, with the prefix, belongs to.
inline std::string lora_module(std::string_view name) {
    return std::string(name.substr(kPeftPrefix.size(), name.rfind(".lora_") - kPeftPrefix.size()));
}

}  // namespace qshard
