#include "main/init_adapter.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string>

#include "base/error.h"
#include "io/peft/peft_config.h"
#include "io/run/run_changes.h"
#include "main/adapter_file.h"

namespace qshard {
namespace {

RunFile::Adapter adapter_of(const PeftConfig& config) {
    RunFile::Adapter adapter;
    adapter.r = config.r;
    adapter.alpha = config.alpha;
    adapter.dropout = config.dropout;
    adapter.use_rslora = config.use_rslora;
    adapter.use_dora = config.use_dora;
    adapter.target_modules = config.target_modules;
    adapter.target_pattern = config.target_pattern;
    if (config.target_pattern == "all-linear") {
        adapter.target_modules = {config.target_pattern};
        adapter.target_pattern.clear();
    }
    adapter.target_parameters = config.target_parameters;
    adapter.exclude_modules = config.exclude_modules;
    adapter.exclude_pattern = config.exclude_pattern;
    if (!config.layers_to_transform.empty()) adapter.layers.clear();
    for (const std::int64_t layer : config.layers_to_transform)
        adapter.layers.push_back(fmt::format("{}", layer));
    adapter.rank_pattern = config.rank_pattern;
    adapter.alpha_pattern = config.alpha_pattern;
    std::ranges::sort(adapter.rank_pattern);
    std::ranges::sort(adapter.alpha_pattern);
    adapter.modules_to_save = config.modules_to_save;
    adapter.bias = config.bias;
    return adapter;
}

}  // namespace

void take_initial_adapter(RunFile& run) {
    if (!run.adapter.init_from) return;
    const AdapterFile file = read_adapter_file(*run.adapter.init_from);
    const PeftConfig config = parse_peft_config(file.state.adapter_config_json, file.path.string());
    const RunFile::Adapter theirs = adapter_of(config);
    RunFile::Adapter& mine = run.adapter;
    std::set<std::string> differing;
    const auto take = [&](const char* key, auto RunFile::Adapter::*member, bool shape = true) {
        if (!run.given.contains(key)) {
            mine.*member = theirs.*member;
        } else if (shape && mine.*member != theirs.*member) {
            differing.insert(key);
        }
    };
    take("adapter.r", &RunFile::Adapter::r);
    take("adapter.alpha", &RunFile::Adapter::alpha);
    take("adapter.dropout", &RunFile::Adapter::dropout, false);
    take("adapter.use_rslora", &RunFile::Adapter::use_rslora);
    take("adapter.use_dora", &RunFile::Adapter::use_dora);
    take("adapter.rank_pattern", &RunFile::Adapter::rank_pattern);
    take("adapter.alpha_pattern", &RunFile::Adapter::alpha_pattern);
    take("adapter.modules_to_save", &RunFile::Adapter::modules_to_save);
    take("adapter.bias", &RunFile::Adapter::bias);
    // Which modules are meant can be said in many ways: those that a run file with some of these
    // keys chooses are compared with the adapter's where its values are loaded.
    const auto choose = [&](const char* key, auto RunFile::Adapter::*member) {
        if (!run.given.contains(key)) mine.*member = theirs.*member;
    };
    choose("adapter.target_modules", &RunFile::Adapter::target_modules);
    choose("adapter.target_modules", &RunFile::Adapter::target_pattern);
    choose("adapter.target_parameters", &RunFile::Adapter::target_parameters);
    choose("adapter.exclude_modules", &RunFile::Adapter::exclude_modules);
    choose("adapter.exclude_modules", &RunFile::Adapter::exclude_pattern);
    choose("adapter.layers", &RunFile::Adapter::layers);
    if (differing.empty()) return;
    RunFile other = run;
    other.adapter = theirs;
    std::string values;
    for (const ChangedKey& key : changed_keys(other, run)) {
        if (differing.contains(key.path))
            values += fmt::format("\n        {}: {} there, {} here", key.path, key.there, key.here);
    }
    throw UserError(
        ExitCode::kUsage,
        fmt::format("the adapter {} (adapter.init_from) has another shape than the run file "
                    "says:{}\n        Leave these keys out to take the adapter's.",
                    file.path.string(), values));
}

}  // namespace qshard
