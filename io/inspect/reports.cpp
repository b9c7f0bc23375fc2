#include "io/inspect/reports.h"

#include <fmt/format.h>

#include <boost/json/array.hpp>
#include <cmath>
#include <map>

#include "base/error.h"
#include "io/checkpoint/json_text.h"
#include "io/checkpoint/result_file.h"
#include "io/checkpoint/store.h"
#include "io/inspect/charts.h"
#include "io/inspect/metrics_file.h"
#include "io/inspect/store_report.h"
#include "io/inspect/subject.h"
#include "io/peft/adapter_folder.h"

namespace qshard::inspect {
namespace {

namespace json = boost::json;
using Rows = std::vector<std::vector<std::string>>;

void print_json(const json::value& value) {
    fmt::print("{}\n", python_json(value));
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
    return fmt::format("[{}]", fmt::join(shape, ", "));
}

double norm_of(const CheckpointState& state, const NamedTensor& tensor) {
    double sum = 0;
    for (std::int64_t i = tensor.offset; i < tensor.offset + tensor.count(); ++i) {
        const double value = state.adapter[static_cast<std::size_t>(i)];
        sum += value * value;
    }
    return std::sqrt(sum);
}

/// Squared norms gathered under a key.
struct Gathered {
    double norm = 0, update = 0;
    std::int64_t count = 0;

    void add(double tensor_norm, const NamedTensor& tensor) {
        norm += tensor_norm * tensor_norm;
        update += tensor.update_norm * tensor.update_norm;
        count += tensor.count();
    }
};

template <class Key>
void print_bars(const char* title, const std::map<Key, Gathered>& groups, bool updates) {
    const Style style = style_of_stdout();
    const auto size_of = [&](const Gathered& g) { return std::sqrt(updates ? g.update : g.norm); };
    double largest = 0;
    for (const auto& [key, group] : groups) largest = std::max(largest, size_of(group));
    fmt::print("\n{} by {}\n", updates ? "size of the update" : "norm", title);
    for (const auto& [key, group] : groups) {
        fmt::print("{:>20}  {:<10.4g} {}\n", key, size_of(group),
                   bar(size_of(group), largest, style.columns - 36, style));
    }
}

struct Verdict {
    std::filesystem::path file;
    std::string problem;
};

/// What is wrong with one file or folder, or "".
std::string problem_of_path(const std::filesystem::path& path) {
    try {
        if (std::filesystem::is_directory(path)) {
            read_peft_adapter(path);
        } else if (is_weight_store(path)) {
            return problem_of_store(path);
        } else {
            CheckpointStore::load(path);
        }
    } catch (const Error& error) {
        return error.what();
    }
    return "";
}

std::vector<Verdict> verify_all(const std::filesystem::path& path) {
    std::vector<std::filesystem::path> files;
    if (const auto folder = checkpoints_folder(path)) {
        for (const Generation& generation : CheckpointStore(*folder).list())
            files.push_back(generation.file);
        if (std::filesystem::exists(path / "adapter" / "adapter_config.json"))
            files.push_back(path / "adapter");
    } else {
        files.push_back(adapter_folder_of(path));
    }
    std::vector<Verdict> verdicts;
    for (const auto& file : files) {
        const std::string problem = problem_of_path(file);
        verdicts.push_back({file, problem.empty() ? "" : naming(file, problem)});
    }
    return verdicts;
}

std::string cell(const json::object& line, const char* key, const char* format) {
    const json::value* value = line.if_contains(key);
    if (value == nullptr || !value->is_number()) return "";
    return fmt::format(fmt::runtime(format), value->to_number<double>());
}

}  // namespace

int print_tree(const Options& options) {
    const Subject subject = load_subject(options.path);
    std::map<std::int64_t, std::map<std::string, std::vector<std::string>>> layers;
    for (const NamedTensor& tensor : subject.state.tensors) {
        const TensorPlace place = place_of(tensor.name);
        const char* part = tensor.name.ends_with("lora_A.weight")   ? "A"
                           : tensor.name.ends_with("lora_B.weight") ? "B"
                           : tensor.name.ends_with(".weight")       ? "weight"
                           : tensor.name.ends_with(".bias")         ? "bias"
                                                                    : "magnitude";
        layers[place.layer][place.target].push_back(
            fmt::format("{} {}", part, shape_text(tensor.shape)));
    }
    json::object object;
    for (const auto& [layer, targets] : layers) {
        const std::string name = layer < 0 ? "outside the layers" : fmt::format("layer {}", layer);
        if (!options.json) fmt::print("{}\n", name);
        json::object inner;
        for (const auto& [target, parts] : targets) {
            if (!options.json) fmt::print("  {:<20} {}\n", target, fmt::join(parts, "  "));
            inner[target] = json::array(parts.begin(), parts.end());
        }
        object[name] = inner;
    }
    for (const auto& [name, values] : subject.state.optimizer) {
        if (!options.json) fmt::print("optimizer {}: {} values\n", name, values.size());
        object["optimizer " + name] = values.size();
    }
    if (options.json) print_json(object);
    return 0;
}

int print_tensors(const Options& options) {
    const Subject subject = load_subject(options.path);
    Rows rows = {{"name", "shape", "offset", "norm"}};
    json::array array;
    for (const NamedTensor& tensor : subject.state.tensors) {
        const double norm = norm_of(subject.state, tensor);
        rows.push_back({tensor.name, shape_text(tensor.shape), fmt::format("{}", tensor.offset),
                        fmt::format("{:.6g}", norm)});
        array.push_back(
            json::object{{"name", tensor.name},
                         {"shape", json::array(tensor.shape.begin(), tensor.shape.end())},
                         {"offset", tensor.offset},
                         {"norm", norm},
                         {"initial_norm", tensor.initial_norm},
                         {"update_norm", tensor.update_norm}});
    }
    if (options.json) return print_json(array), 0;
    fmt::print("{}", table(rows));
    return 0;
}

int print_stats(const Options& options) {
    const Subject subject = load_subject(options.path);
    std::map<std::int64_t, Gathered> layers;
    std::map<std::string, Gathered> targets;
    Gathered all;
    for (const NamedTensor& tensor : subject.state.tensors) {
        const double norm = norm_of(subject.state, tensor);
        const TensorPlace place = place_of(tensor.name);
        layers[place.layer].add(norm, tensor);
        targets[place.target].add(norm, tensor);
        all.add(norm, tensor);
    }
    if (options.json) {
        json::object by_layer, by_target;
        const auto object = [](const Gathered& g) {
            return json::object{{"parameters", g.count},
                                {"norm", std::sqrt(g.norm)},
                                {"update_norm", std::sqrt(g.update)}};
        };
        for (const auto& [layer, group] : layers)
            by_layer[fmt::format("{}", layer)] = object(group);
        for (const auto& [target, group] : targets) by_target[target] = object(group);
        return print_json(json::object{
                   {"all", object(all)}, {"layers", by_layer}, {"targets", by_target}}),
               0;
    }
    fmt::print("{} parameters, norm {:.6g}, size of the update {:.6g}\n", all.count,
               std::sqrt(all.norm), std::sqrt(all.update));
    const bool updates = all.update > 0;  // a PEFT folder does not know what it started from
    print_bars("layer", layers, updates);
    print_bars("target", targets, updates);
    return 0;
}

int print_verify(const Options& options) {
    const std::vector<Verdict> verdicts = verify_all(options.path);
    bool all_good = true;
    json::array array;
    for (const Verdict& verdict : verdicts) {
        all_good = all_good && verdict.problem.empty();
        array.push_back(json::object{{"file", verdict.file.string()},
                                     {"verified", verdict.problem.empty()},
                                     {"problem", verdict.problem}});
        if (!options.json) {
            fmt::print("{}  {}\n", verdict.problem.empty() ? "ok     " : "DAMAGED",
                       verdict.problem.empty() ? verdict.file.string() : verdict.problem);
        }
    }
    if (options.json) print_json(array);
    return all_good ? 0 : static_cast<int>(ExitCode::kBadInput);
}

int print_log(const Options& options) {
    const std::vector<json::object> lines = read_metrics(options.path);
    if (options.json) {
        print_json(json::array(lines.begin(), lines.end()));
        return 0;
    }
    constexpr std::size_t kShownLines = 20;
    Rows rows = {{"step", "epoch", "loss", "grad_norm", "learning_rate", "tokens/s"}};
    std::vector<double> losses;
    const std::size_t stride = lines.size() / kShownLines + 1;
    for (std::size_t i = 0; i < lines.size(); ++i) {
        const json::value* loss = lines[i].if_contains("loss");
        if (loss == nullptr || !loss->is_number()) continue;
        losses.push_back(loss->to_number<double>());
        if (i % stride != 0 && i + 1 != lines.size()) continue;
        rows.push_back({cell(lines[i], "step", "{:.0f}"), cell(lines[i], "epoch", "{:.2f}"),
                        cell(lines[i], "loss", "{:.4f}"), cell(lines[i], "grad_norm", "{:.4g}"),
                        cell(lines[i], "learning_rate", "{:.3g}"),
                        cell(lines[i], "tokens_per_second", "{:.0f}")});
    }
    fmt::print("{}\nloss\n{}", table(rows), line_chart(losses, 8, style_of_stdout()));
    return 0;
}

int export_peft(const Options& options) {
    const Subject subject = load_subject(options.path);
    check_result_folder(options.other);
    write_peft_adapter(options.other, subject.state);
    fmt::print("{}: PEFT adapter of step {}\n", options.other.string(), subject.state.step);
    return 0;
}

}  // namespace qshard::inspect
