#include <fmt/format.h>

#include "io/checkpoint/json_text.h"
#include "io/peft/adapter_folder.h"

namespace qshard {

std::string model_card(const CheckpointState& state, const PeftConfig& config) {
    const std::string base = config.base_model.empty() ? "BASE_MODEL" : config.base_model;
    const char* kind = config.use_dora ? "DoRA" : "LoRA";
    std::string card = fmt::format(
        "---\nbase_model: {}\nlibrary_name: peft\npipeline_tag: text-generation\n"
        "tags:\n- lora\n- qlora\n- qshard\n---\n\n# {} adapter\n\n"
        "A {} adapter (r {}, alpha {}) for `{}`, trained by qshard {}.\n\n"
        "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
        "base = AutoModelForCausalLM.from_pretrained({})\n"
        "model = PeftModel.from_pretrained(base, \"path/of/this/folder\")\n```\n\n## Training\n\n"
        "| | |\n| --- | --- |\n| steps | {} |\n| epochs | {:.3g} |\n| loss of the last step | "
        "{:.4f} |\n"
        "| optimizer | {} |\n| seed | {} |\n| trained parameters | {} |\n| adapter SHA-256 | `{}` "
        "|\n"
        "| saved | {} |\n",
        json_quoted(base), kind, kind, config.r, config.alpha, base,
        state.identity.contains("engine_version") ? state.identity.at("engine_version") : "",
        json_quoted(base), state.step, state.epoch, state.loss, state.optimizer_name, state.seed,
        state.adapter.size(), adapter_sha256(state), state.created);
    for (const auto& [key, value] : state.identity) {
        if (!value.empty()) card += fmt::format("| {} | `{}` |\n", key, value);
    }
    if (!state.run_yaml.empty()) {
        card += fmt::format("\nThe resolved run file:\n\n```yaml\n{}\n```\n", state.run_yaml);
    }
    return card;
}

}  // namespace qshard
