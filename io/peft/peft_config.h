#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace qshard {

/// PEFT's LoraConfig, as far as it is supported.
struct PeftConfig {
    std::int64_t r = 8;
    double alpha = 8;
    double dropout = 0;
    bool use_rslora = false;
    bool use_dora = false;
    bool fan_in_fan_out = false;  ///< the base's linears are Conv1D; A and B are as elsewhere
    std::vector<std::string>
        target_modules;          ///< names or path suffixes; empty if there is a pattern
    std::string target_pattern;  ///< a regular expression, or "all-linear"
    std::vector<std::string> target_parameters;  ///< names or path suffixes, of mixtures
    std::vector<std::string> exclude_modules;
    std::string exclude_pattern;                    ///< a regular expression instead
    std::vector<std::int64_t> layers_to_transform;  ///< empty: all
    std::vector<std::string> layers_pattern;
    std::vector<std::pair<std::string, std::int64_t>>
        rank_pattern;  ///< in the order of the file; the first hit wins
    std::vector<std::pair<std::string, double>> alpha_pattern;
    std::vector<std::string> modules_to_save;  ///< names or path suffixes
    std::string bias = "none";                 ///< none, all or lora_only
    std::string init_lora_weights = "true";    ///< true, false or a name
    std::string base_model;                    ///< base_model_name_or_path
    std::string revision;
    std::string task_type = "CAUSAL_LM";
};

/// Reads adapter_config.json. UserError names every feature it asks for that is not supported
/// (biases of lora_B, LoRA on embeddings, initialisations that change the base, other PEFT
/// types...) rather than dropping it.
PeftConfig parse_peft_config(std::string_view text, const std::string& origin);

/// adapter_config.json as PEFT writes it, restricted to the keys that every PEFT since 0.5 knows.
std::string peft_config_text(const PeftConfig& config);

}  // namespace qshard
