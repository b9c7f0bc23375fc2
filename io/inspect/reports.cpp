#include "io/inspect/reports.h"

#include <fmt/format.h>

#include <boost/json/array.hpp>
#include <cmath>
#include <map>

#include "base/error.h"
#include "base/hash.h"
#include "io/checkpoint/atomic_file.h"
#include "io/checkpoint/json_text.h"
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

json::object map_json(const std::map<std::string, std::string>& map) {
    json::object object;
    for (const auto& [key, value] : map) object[key] = value;
    return object;
}

json::object summary_json(const Subject& subject) {
    const CheckpointState& state = subject.state;
    json::object object = {
        {"path", subject.path.string()},
        {"kind", subject.kind_text()},
        {"verified", subject.kind == Kind::kCheckpoint},
        {"bytes", subject.bytes},
        {"sha256", subject.sha256},
        {"adapter_sha256", adapter_sha256(state)},
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
        object["identity"] = map_json(state.identity);
    }
    return object;
}

struct Verdict {
    std::filesystem::path file;
    std::string problem;
};

std::vector<Verdict> verify_all(const std::filesystem::path& path) {
    std::vector<std::filesystem::path> files;
    if (const auto folder = checkpoints_folder(path)) {
        for (const Generation& generation : CheckpointStore(*folder).list()) {
            files.push_back(generation.file);
        }
    } else {
        files.push_back(path);
    }
    std::vector<Verdict> verdicts;
    for (const auto& file : files) {
        Verdict verdict{file, ""};
        try {
            if (std::filesystem::is_directory(file)) {
                read_peft_adapter(file);
            } else if (is_weight_store(file)) {
                verdict.problem = problem_of_store(file);
            } else {
                CheckpointStore::load(file);
            }
        } catch (const Error& error) {
            verdict.problem = error.what();
        }
        verdicts.push_back(verdict);
    }
    return verdicts;
}

/// Fields that differ, as name, value in A, value in B.
Rows differing_fields(const CheckpointState& a, const CheckpointState& b) {
    Rows rows;
    const auto compare = [&](const std::string& name, const auto& x, const auto& y) {
        if (x != y) rows.push_back({name, fmt::format("{}", x), fmt::format("{}", y)});
    };
    compare("step", a.step, b.step);
    compare("epoch", a.epoch, b.epoch);
    compare("data_step", a.data_step, b.data_step);
    compare("seed", a.seed, b.seed);
    compare("loss", a.loss, b.loss);
    compare("optimizer", a.optimizer_name, b.optimizer_name);
    compare("metrics_sha256", a.metrics_sha256, b.metrics_sha256);
    compare("run.yaml (SHA-256)", sha256_hex(a.run_yaml), sha256_hex(b.run_yaml));
    compare("adapter_config.json (SHA-256)", sha256_hex(a.adapter_config_json),
            sha256_hex(b.adapter_config_json));
    compare("adapter (SHA-256)", adapter_sha256(a), adapter_sha256(b));
    std::map<std::string, std::string> keys = a.identity;
    keys.insert(b.identity.begin(), b.identity.end());
    for (const auto& [key, value] : keys) {
        const auto in_a = a.identity.find(key), in_b = b.identity.find(key);
        compare(key, in_a == a.identity.end() ? std::string("(absent)") : in_a->second,
                in_b == b.identity.end() ? std::string("(absent)") : in_b->second);
    }
    for (const auto& [name, values] : a.optimizer) {
        const auto twin = b.optimizer.find(name);
        const std::string other =
            twin == b.optimizer.end() ? "(absent)" : adapter_sha256(twin->second);
        compare("optimizer " + name + " (SHA-256)", adapter_sha256(values), other);
    }
    return rows;
}

struct TensorDifference {
    std::string name;
    std::string note;  ///< why the values can't be compared, or ""
    double largest = 0, relative = 0;
};

std::vector<TensorDifference> differing_tensors(const CheckpointState& a,
                                                const CheckpointState& b) {
    std::map<std::string, const NamedTensor*> others;
    for (const NamedTensor& tensor : b.tensors) others[tensor.name] = &tensor;
    std::vector<TensorDifference> found;
    for (const NamedTensor& tensor : a.tensors) {
        const auto at = others.find(tensor.name);
        const NamedTensor* other = at == others.end() ? nullptr : at->second;
        if (other != nullptr) others.erase(at);
        if (other == nullptr || other->shape != tensor.shape) {
            found.push_back({tensor.name, other == nullptr ? "only in A" : "other shape"});
            continue;
        }
        TensorDifference difference{tensor.name, ""};
        double change = 0;
        bool same = true;
        for (std::int64_t i = 0; i < tensor.count(); ++i) {
            const float x = a.adapter[static_cast<std::size_t>(tensor.offset + i)];
            const float y = b.adapter[static_cast<std::size_t>(other->offset + i)];
            same = same && std::bit_cast<std::uint32_t>(x) == std::bit_cast<std::uint32_t>(y);
            const double d = static_cast<double>(x) - y;
            difference.largest = std::max(difference.largest, std::abs(d));
            change += d * d;
        }
        if (same) continue;
        difference.relative = std::sqrt(change) / std::max(norm_of(a, tensor), 1e-30);
        found.push_back(difference);
    }
    for (const auto& [name, tensor] : others) found.push_back({name, "only in B"});
    return found;
}

std::string cell(const json::object& line, const char* key, const char* format) {
    const json::value* value = line.if_contains(key);
    if (value == nullptr || !value->is_number()) return "";
    return fmt::format(fmt::runtime(format), value->to_number<double>());
}

}  // namespace

int print_summary(const Options& options) {
    if (is_weight_store(options.path)) return print_store_summary(options);
    const Subject subject = load_subject(options.path);
    const CheckpointState& state = subject.state;
    if (options.json) return print_json(summary_json(subject)), 0;
    fmt::print("{}\n  {}, {}\n", subject.path.string(), subject.kind_text(),
               readable_bytes(static_cast<double>(subject.bytes)));
    for (const std::string& reason : subject.rejected) fmt::print("  passed over: {}\n", reason);
    Rows rows = {{"  file SHA-256", subject.sha256},
                 {"  adapter SHA-256", adapter_sha256(state)},
                 {"  adapter", fmt::format("{} tensors, {} parameters", state.tensors.size(),
                                           state.adapter.size())}};
    if (subject.kind != Kind::kPeftFolder) {
        rows.push_back({"  step", fmt::format("{} (epoch {:.3g})", state.step, state.epoch)});
        rows.push_back({"  loss", fmt::format("{:.6g}", state.loss)});
        rows.push_back({"  optimizer", state.optimizer_name});
        rows.push_back({"  seed", fmt::format("{}", state.seed)});
        rows.push_back({"  skipped steps", fmt::format("{}", state.nonfinite_steps)});
        rows.push_back({"  saved", state.created});
        for (const auto& [key, value] : state.identity) rows.push_back({"  " + key, value});
    }
    const PeftConfig config = parse_peft_config(state.adapter_config_json, "adapter_config.json");
    rows.push_back({config.use_dora ? "  DoRA" : "  LoRA",
                    fmt::format("r {}, alpha {}, base {}", config.r, config.alpha,
                                config.base_model.empty() ? "(unnamed)" : config.base_model)});
    if (config.bias != "none") rows.push_back({"  trained biases", config.bias});
    if (!config.modules_to_save.empty())
        rows.push_back(
            {"  trained whole", fmt::format("{}", fmt::join(config.modules_to_save, ", "))});
    fmt::print("{}", table(rows));
    return 0;
}

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

int print_diff(const Options& options) {
    const Subject a = load_subject(options.path), b = load_subject(options.other);
    const Rows fields = differing_fields(a.state, b.state);
    const std::vector<TensorDifference> tensors = differing_tensors(a.state, b.state);
    if (options.json) {
        json::object object_fields;
        for (const auto& row : fields) object_fields[row[0]] = json::array{row[1], row[2]};
        json::array object_tensors;
        for (const TensorDifference& d : tensors) {
            object_tensors.push_back(json::object{{"name", d.name},
                                                  {"note", d.note},
                                                  {"largest", d.largest},
                                                  {"relative", d.relative}});
        }
        print_json(json::object{{"fields", object_fields}, {"tensors", object_tensors}});
    } else if (fields.empty() && tensors.empty()) {
        fmt::print("no difference: same state, bit for bit\n");
    } else {
        fmt::print("{}", table(fields));
        Rows rows = {{"tensor", "largest difference", "relative"}};
        for (const TensorDifference& d : tensors) {
            rows.push_back({d.name, d.note.empty() ? fmt::format("{:.3g}", d.largest) : d.note,
                            d.note.empty() ? fmt::format("{:.3g}", d.relative) : ""});
        }
        fmt::print("{} of {} tensors differ\n", tensors.size(), a.state.tensors.size());
        if (!tensors.empty()) fmt::print("{}", table(rows));
    }
    return fields.empty() && tensors.empty() ? 0 : 1;
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
    write_peft_adapter(options.other, subject.state);
    fmt::print("{}: PEFT adapter of step {}\n", options.other.string(), subject.state.step);
    return 0;
}

}  // namespace qshard::inspect
