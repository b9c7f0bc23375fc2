#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>
#include <cmath>
#include <map>

#include "base/hash.h"
#include "io/checkpoint/json_text.h"
#include "io/inspect/charts.h"
#include "io/inspect/reports.h"
#include "io/inspect/subject.h"
#include "io/peft/peft_config.h"
#include "spec/json.h"

/// What differs between two adapters, or two checkpoints.
namespace qshard::inspect {
namespace {

namespace json = boost::json;
using Rows = std::vector<std::vector<std::string>>;

template <class Value>
void compare(Rows& rows, const std::string& name, const Value& x, const Value& y) {
    if (x != y) rows.push_back({name, fmt::format("{}", x), fmt::format("{}", y)});
}

/// The configuration without what PEFT writes in any order or leaves out.
json::object normal_config(const Subject& subject) {
    PeftConfig config = parse_peft_config(subject.state.adapter_config_json,
                                          subject.path.string() + ": adapter_config.json");
    for (auto* list : {&config.target_modules, &config.target_parameters, &config.exclude_modules,
                       &config.modules_to_save})
        std::ranges::sort(*list);
    return parse_strict_json(peft_config_text(config), "adapter_config.json").as_object();
}

/// Keys of adapter_config.json that mean something else in A than in B.
void compare_configs(Rows& rows, const Subject& a, const Subject& b) {
    const json::object in_a = normal_config(a), in_b = normal_config(b);
    json::object keys = in_a;
    for (const auto& member : in_b) keys.emplace(member.key(), nullptr);
    for (const auto& member : keys) {
        const auto text = [&](const json::object& object) {
            const json::value* value = object.if_contains(member.key());
            return value == nullptr ? std::string("(absent)") : json::serialize(*value);
        };
        compare(rows, std::string(member.key()), text(in_a), text(in_b));
    }
}

/// What only checkpoints have.
void compare_training(Rows& rows, const CheckpointState& a, const CheckpointState& b) {
    compare(rows, "step", a.step, b.step);
    compare(rows, "epoch", a.epoch, b.epoch);
    compare(rows, "data_step", a.data_step, b.data_step);
    compare(rows, "seed", a.seed, b.seed);
    compare(rows, "loss", a.loss, b.loss);
    compare(rows, "optimizer", a.optimizer_name, b.optimizer_name);
    compare(rows, "metrics_sha256", a.metrics_sha256, b.metrics_sha256);
    compare(rows, "run.yaml (SHA-256)", sha256_hex(a.run_yaml), sha256_hex(b.run_yaml));
    const auto by_key = [&](const auto& in_a, const auto& in_b) {
        auto keys = in_a;
        keys.insert(in_b.begin(), in_b.end());
        for (const auto& [key, value] : keys) {
            const auto text = [&, &key = key](const auto& map) {
                const auto found = map.find(key);
                return found == map.end() ? "(absent)" : fmt::format("{}", found->second);
            };
            compare(rows, key, text(in_a), text(in_b));
        }
    };
    by_key(a.counters, b.counters);
    by_key(a.identity, b.identity);
    for (const auto& [name, values] : a.optimizer) {
        const auto twin = b.optimizer.find(name);
        compare(rows, "optimizer " + name + " (SHA-256)", adapter_sha256(values),
                twin == b.optimizer.end() ? "(absent)" : adapter_sha256(twin->second));
    }
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
        double change = 0, norm = 0;
        bool same = true;
        for (std::int64_t i = 0; i < tensor.count(); ++i) {
            const float x = a.adapter[static_cast<std::size_t>(tensor.offset + i)];
            const float y = b.adapter[static_cast<std::size_t>(other->offset + i)];
            same = same && std::bit_cast<std::uint32_t>(x) == std::bit_cast<std::uint32_t>(y);
            const double d = static_cast<double>(x) - y;
            difference.largest = std::max(difference.largest, std::abs(d));
            change += d * d;
            norm += static_cast<double>(x) * x;
        }
        if (same) continue;
        difference.relative = std::sqrt(change) / std::max(std::sqrt(norm), 1e-30);
        found.push_back(difference);
    }
    for (const auto& [name, tensor] : others) found.push_back({name, "only in B"});
    return found;
}

void print_as_json(const Rows& fields, const std::vector<TensorDifference>& tensors,
                   const Subject& a, const Subject& b) {
    json::object object_fields;
    for (const auto& row : fields) object_fields[row[0]] = json::array{row[1], row[2]};
    json::array object_tensors;
    for (const TensorDifference& d : tensors) {
        object_tensors.push_back(json::object{
            {"name", d.name}, {"note", d.note}, {"largest", d.largest}, {"relative", d.relative}});
    }
    fmt::print("{}\n",
               python_json(json::object{{"adapter_sha256", json::array{adapter_sha256(a.state),
                                                                       adapter_sha256(b.state)}},
                                        {"fields", object_fields},
                                        {"tensors", object_tensors}}));
}

}  // namespace

int print_diff(const Options& options) {
    const Subject a = load_subject(options.path), b = load_subject(options.other);
    const bool whole = a.kind != Kind::kPeftFolder && b.kind != Kind::kPeftFolder;
    Rows fields;
    compare(fields, "adapter (SHA-256)", adapter_sha256(a.state), adapter_sha256(b.state));
    compare_configs(fields, a, b);
    if (whole) compare_training(fields, a.state, b.state);
    const std::vector<TensorDifference> tensors = differing_tensors(a.state, b.state);
    if (options.json) {
        print_as_json(fields, tensors, a, b);
    } else if (fields.empty() && tensors.empty()) {
        fmt::print("no difference: same {}, bit for bit\n", whole ? "state" : "adapter");
    } else {
        fmt::print("A  {}\nB  {}\n{}", a.path.string(), b.path.string(), table(fields));
        if (tensors.empty()) {
            fmt::print("the adapter's values are the same, bit for bit (SHA-256 {})\n",
                       adapter_sha256(a.state).substr(0, 16));
        } else {
            Rows rows = {{"tensor", "largest difference", "relative"}};
            for (const TensorDifference& d : tensors) {
                rows.push_back({d.name, d.note.empty() ? fmt::format("{:.3g}", d.largest) : d.note,
                                d.note.empty() ? fmt::format("{:.3g}", d.relative) : ""});
            }
            fmt::print("{} of {} tensors differ\n{}", tensors.size(), a.state.tensors.size(),
                       table(rows));
        }
    }
    return fields.empty() && tensors.empty() ? 0 : 1;
}

}  // namespace qshard::inspect
