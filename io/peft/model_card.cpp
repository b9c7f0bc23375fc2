#include <fmt/format.h>

#include <filesystem>

#include "base/error.h"
#include "io/checkpoint/json_text.h"
#include "io/peft/adapter_folder.h"
#include "io/peft/base_model.h"
#include "io/run/run_file.h"

namespace qshard {
namespace {

using Kind = BaseModel::Kind;

std::string identity_of(const CheckpointState& state, const std::string& key) {
    const auto found = state.identity.find(key);
    return found == state.identity.end() ? "" : found->second;
}

/// Text in a cell of a table, as it is but for what would end the cell.
std::string cell(const std::string& text) {
    std::string out;
    for (char c : text) {
        if (c == '|') out += '\\';
        out += c == '`' ? '\'' : c == '\n' ? ' ' : c;
    }
    return "`" + out + "`";
}

/// What the Hub reads. Only a name on the Hub is one to it: a path would be a broken link.
std::string front_matter(const BaseModel& base, const PeftConfig& config,
                         const std::string& quantization) {
    std::string text = "---\n";
    if (!base.hub_id.empty()) text += fmt::format("base_model: {}\n", json_quoted(base.hub_id));
    text += "library_name: peft\npipeline_tag: text-generation\ntags:\n- lora\n";
    if (config.use_dora) text += "- dora\n";
    if (!quantization.empty() && !quantization.starts_with("none")) text += "- qlora\n";
    if (base.kind == Kind::kGguf) text += "- gguf\n";
    return text + "- qshard\n---\n";
}

std::string described(const BaseModel& base) {
    const std::string name = fmt::format("`{}`", base.hub_id.empty() ? base.path : base.hub_id);
    switch (base.kind) {
        case Kind::kUnknown:
            return "a base model that is not recorded";
        case Kind::kGguf:
            return fmt::format("the GGUF file `{}`{}", base.file_name(),
                               base.hub_id.empty() ? "" : " of " + name);
        case Kind::kStore:
            return fmt::format("the weight store `{}`{}", base.file_name(),
                               base.made_from.empty()
                                   ? ""
                                   : fmt::format(", which was made from `{}`", base.made_from));
        case Kind::kFolder:
            break;
    }
    return base.quantized.empty() ? name : fmt::format("{} ({})", name, base.quantized);
}

/// Of transformers' from_pretrained(); every base has the modules that the adapter names.
std::string load_arguments(const BaseModel& base) {
    if (base.kind == Kind::kGguf) {
        return fmt::format("{}, gguf_file={}",
                           json_quoted(base.hub_id.empty() ? base.folder() : base.hub_id),
                           json_quoted(base.file_name()));
    }
    if (base.kind == Kind::kStore) {
        if (base.made_from.empty()) return json_quoted("MODEL_THE_STORE_WAS_MADE_FROM");
        return load_arguments(describe_base_model(base.made_from));
    }
    if (base.kind == Kind::kUnknown) return json_quoted("BASE_MODEL");
    return json_quoted(base.hub_id.empty() ? base.path : base.hub_id);
}

std::string how_to_load(const BaseModel& base) {
    std::string text = fmt::format(
        "## Use it\n\n```python\nfrom peft import PeftModel\nfrom transformers import "
        "AutoModelForCausalLM\n\n"
        "base = AutoModelForCausalLM.from_pretrained({})\n"
        "model = PeftModel.from_pretrained(base, \"path/of/this/folder\")\n```\n",
        load_arguments(base));
    const std::string model = base.kind == Kind::kUnknown ? "BASE_MODEL" : base.path;
    text += fmt::format(
        "\n```sh\nqshard generate --model {} --adapter path/of/this/folder --chat '...'\n", model);
    const bool gguf = base.kind == Kind::kGguf;
    text += fmt::format(
        "# for llama.cpp\nqshard export path/of/this/folder --to gguf --model {} adapter.gguf\n"
        "llama-cli -m {} --lora adapter.gguf\n```\n",
        model, gguf ? model : "the-base.gguf");
    return text;
}

std::string name_of(const std::string& path) {
    return std::filesystem::path(path).filename().string();
}

using Rows = std::vector<std::pair<std::string, std::string>>;

/// What the run file says that people ask about first. Nothing if it is of another version.
void add_settings(Rows& rows, const CheckpointState& state) {
    if (state.run_yaml.empty()) return;
    RunFile run;
    try {
        run = parse_run_file(state.run_yaml, "run.yaml", {});
    } catch (const UserError&) {
        return;
    }
    std::string data;
    for (const DataFile& file : run.data.train) {
        data += fmt::format("{}{}", data.empty() ? "" : ", ", name_of(file.path));
        if (file.weight != 1) data += fmt::format(" (weight {})", file.weight);
    }
    if (run.data.validation_file) data += "; validation: " + name_of(*run.data.validation_file);
    if (run.data.validation_fraction)
        data += fmt::format("; validation: {} of it", *run.data.validation_fraction);
    const auto count = state.counters.find("data.rows");
    if (count != state.counters.end()) data += fmt::format("; {} rows to train on", count->second);
    rows.emplace_back("data", data);
    rows.emplace_back("batch size",
                      fmt::format("{} rows of at most {} tokens{}", run.train.global_batch_size,
                                  run.data.max_length, run.data.packing ? ", packed" : ""));
    rows.emplace_back(
        "learning rate",
        fmt::format("{}, {}, warmup {}", run.train.learning_rate, run.train.lr_scheduler_type,
                    run.train.warmup_steps
                        ? fmt::format("{} steps", *run.train.warmup_steps)
                        : fmt::format("{} of the steps", run.train.warmup_ratio)));
}

/// Nothing for an adapter that was only converted.
std::string training_section(const CheckpointState& state) {
    Rows rows;
    if (!state.created.empty()) {
        rows = {{"steps", fmt::format("{}", state.step)},
                {"epochs", fmt::format("{:.3g}", state.epoch)},
                {"loss of the last step", fmt::format("{:.4f}", state.loss)},
                {"optimizer", state.optimizer_name},
                {"seed", fmt::format("{}", state.seed)},
                {"saved", state.created}};
    }
    add_settings(rows, state);
    rows.emplace_back("trained parameters", fmt::format("{}", state.adapter.size()));
    rows.emplace_back("SHA-256 of the adapter's values", adapter_sha256(state));
    for (const auto& [key, value] : state.identity) {
        const bool told = key == "seed" || key == "optimizer" || value.empty();
        if (!told) rows.emplace_back(key, value);
    }
    std::string text = "\n## Training\n\n| | |\n| --- | --- |\n";
    for (const auto& [name, value] : rows) text += fmt::format("| {} | {} |\n", name, cell(value));
    return text + "\n`qshard-inspect path/of/this/folder` prints that SHA-256 of the files.\n";
}

}  // namespace

std::string model_card(const CheckpointState& state, const PeftConfig& config) {
    const BaseModel base = describe_base_model(config.base_model);
    const std::string quantization = identity_of(state, "quantization");
    const char* kind = config.use_dora ? "DoRA" : "LoRA";
    const std::string version = identity_of(state, "engine_version");
    std::string card = front_matter(base, config, quantization);
    card += fmt::format(
        "\n# {} adapter\n\nA {} adapter (r {}, alpha {}{}) for {}, trained by qshard{}.\n\n{}",
        kind, kind, config.r, config.alpha, config.use_rslora ? ", rsLoRA" : "", described(base),
        version.empty() ? "" : " " + version, how_to_load(base));
    card += training_section(state);
    if (!state.run_yaml.empty()) {
        card += fmt::format("\nThe resolved run file:\n\n```yaml\n{}\n```\n", state.run_yaml);
    }
    return card;
}

}  // namespace qshard
