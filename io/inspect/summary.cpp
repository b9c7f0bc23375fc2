#include <fmt/format.h>

#include <boost/json/array.hpp>

#include "io/checkpoint/json_text.h"
#include "io/inspect/charts.h"
#include "io/inspect/reports.h"
#include "io/inspect/run_folder.h"
#include "io/inspect/store_report.h"
#include "io/inspect/subject.h"
#include "io/peft/peft_config.h"

/// The one screen about a file or folder.
namespace qshard::inspect {
namespace {

namespace json = boost::json;
using Rows = std::vector<std::vector<std::string>>;

constexpr std::size_t kShownCheckpoints = 5;

PeftConfig config_of(const Subject& subject) {
    return parse_peft_config(subject.state.adapter_config_json,
                             subject.path.string() + ": adapter_config.json");
}

template <class Value>
json::object map_json(const std::map<std::string, Value>& map) {
    json::object object;
    for (const auto& [key, value] : map) object[key] = value;
    return object;
}

json::object summary_json(const Subject& subject, const std::optional<RunFolder>& run) {
    const CheckpointState& state = subject.state;
    const PeftConfig config = config_of(subject);
    json::object object = {
        {"path", subject.path.string()},
        {"kind", subject.kind_text()},
        {"verified", subject.kind == Kind::kCheckpoint},
        {"bytes", subject.bytes},
        {"sha256", subject.sha256},
        {"adapter_sha256", adapter_sha256(state)},
        {"r", config.r},
        {"alpha", config.alpha},
        {"use_rslora", config.use_rslora},
        {"use_dora", config.use_dora},
        {"base", config.base_model},
        {"tensors", state.tensors.size()},
        {"parameters", state.adapter.size()},
        {"rejected", json::array(subject.rejected.begin(), subject.rejected.end())}};
    if (subject.kind != Kind::kPeftFolder) {
        object["step"] = state.step;
        object["epoch"] = state.epoch;
        object["loss"] = state.loss;
        object["seed"] = state.seed;
        object["data_step"] = state.data_step;
        object["optimizer"] = state.optimizer_name;
        object["created"] = state.created;
        object["nonfinite_steps"] = state.nonfinite_steps;
        object["counters"] = map_json(state.counters);
        object["identity"] = map_json(state.identity);
    }
    if (run) object["run"] = run->json();
    return object;
}

/// Adds a row a line, the name beside the first.
void add_lines(Rows& rows, std::string name, const std::string& text) {
    for (std::size_t begin = 0; begin <= text.size();) {
        const std::size_t end = std::min(text.find('\n', begin), text.size());
        rows.push_back({std::exchange(name, ""), text.substr(begin, end - begin)});
        begin = end + 1;
    }
}

/// How the run stands, what it saved, and which of it the adapter folder has.
void print_run(const RunFolder& run, const std::filesystem::path& shown) {
    Rows rows;
    add_lines(rows, "  run", run.state_text());
    if (run.has_adapter) {
        const std::string from = run.adapter_from();
        add_lines(rows, "  adapter/",
                  !run.adapter_problem.empty() ? run.adapter_problem
                  : from.empty()
                      ? "SHA-256 of its values as of no checkpoint here:\n" + run.adapter_sha256
                      : fmt::format("has the values of {}:\n{}", from, run.adapter_sha256));
    } else {
        rows.push_back({"  adapter/", "none yet"});
    }
    std::string name = "  checkpoints";
    for (std::size_t i = 0; i < run.checkpoints.size(); ++i) {
        const RunFolder::Checkpoint& one = run.checkpoints[i];
        const bool last = i + 1 >= kShownCheckpoints && i + 1 < run.checkpoints.size();
        rows.push_back({std::exchange(name, ""),
                        last ? fmt::format("and {} more", run.checkpoints.size() - i)
                             : fmt::format("{}  {}{}", one.file.filename().string(),
                                           one.problem.empty() ? one.adapter_sha256.substr(0, 16)
                                                               : one.problem,
                                           one.file == shown ? "  (below)" : "")});
        if (last) break;
    }
    fmt::print("{}\n{}", run.path.string(), table(rows));
}

int print_bare_run(const RunFolder& run, bool as_json) {
    if (as_json) {
        fmt::print("{}\n", python_json(json::object{{"path", run.path.string()},
                                                    {"kind", "output folder without checkpoints"},
                                                    {"run", run.json()}}));
    } else {
        print_run(run, "");
        fmt::print("  checkpoints  none yet\n");
    }
    return 0;
}

void add_training(Rows& rows, const CheckpointState& state) {
    rows.push_back({"  step", fmt::format("{} (epoch {:.3g})", state.step, state.epoch)});
    rows.push_back({"  loss", fmt::format("{:.6g}", state.loss)});
    rows.push_back({"  optimizer", state.optimizer_name});
    rows.push_back({"  seed", fmt::format("{}", state.seed)});
    rows.push_back({"  skipped steps", fmt::format("{}", state.nonfinite_steps)});
    rows.push_back({"  saved", state.created});
    for (const auto& [key, value] : state.counters)
        rows.push_back({"  " + key, fmt::format("{:.8g}", value)});
    for (const auto& [key, value] : state.identity) rows.push_back({"  " + key, value});
}

}  // namespace

int print_summary(const Options& options) {
    if (is_weight_store(options.path)) return print_store_summary(options);
    const std::optional<RunFolder> run = read_run_folder(options.path);
    if (run && run->bare() && run->status) return print_bare_run(*run, options.json);
    const Subject subject = load_subject(options.path);
    if (options.json) {
        fmt::print("{}\n", python_json(summary_json(subject, run)));
        return 0;
    }
    if (run) print_run(*run, subject.path);
    const CheckpointState& state = subject.state;
    const PeftConfig config = config_of(subject);
    fmt::print("{}\n  {}, {}\n", subject.path.string(), subject.kind_text(),
               readable_bytes(static_cast<double>(subject.bytes)));
    for (const std::string& reason : subject.rejected) fmt::print("  passed over: {}\n", reason);
    Rows rows = {{"  file SHA-256", subject.sha256},
                 {"  adapter SHA-256", adapter_sha256(state)},
                 {"", "of the values alone: the same in checkpoint, adapter/ and exports"},
                 {config.use_dora ? "  DoRA" : "  LoRA",
                  fmt::format("r {}, alpha {}{}, base {}", config.r, config.alpha,
                              config.use_rslora ? ", rsLoRA" : "",
                              config.base_model.empty() ? "(unnamed)" : config.base_model)},
                 {"  adapter", fmt::format("{} tensors, {} parameters", state.tensors.size(),
                                           state.adapter.size())}};
    if (config.bias != "none") rows.push_back({"  trained biases", config.bias});
    if (!config.modules_to_save.empty()) {
        rows.push_back(
            {"  trained whole", fmt::format("{}", fmt::join(config.modules_to_save, ", "))});
    }
    if (subject.kind != Kind::kPeftFolder) add_training(rows, state);
    fmt::print("{}", table(rows));
    return 0;
}

}  // namespace qshard::inspect
