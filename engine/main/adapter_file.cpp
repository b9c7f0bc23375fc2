#include "main/adapter_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <span>

#include "base/error.h"
#include "io/checkpoint/foreign.h"
#include "io/checkpoint/store.h"
#include "io/formats/hub_cache.h"
#include "io/peft/adapter_folder.h"
#include "main/early_stop.h"

namespace qshard {
namespace {

namespace fs = std::filesystem;

/// The run file at `path`, or nothing if there is none that is one of ours.
std::optional<RunFile> run_beside(const fs::path& path) {
    if (!fs::exists(path)) return std::nullopt;
    try {
        return load_run_file(path, {});
    } catch (const UserError&) {
        return std::nullopt;
    }
}

AdapterFile of_checkpoint(CheckpointState state, const fs::path& file) {
    AdapterFile adapter;
    adapter.path = file;
    adapter.state = std::move(state);
    adapter.options = adapter_options(
        parse_peft_config(adapter.state.adapter_config_json, file.string()), adapter.state.tensors);
    if (!adapter.state.run_yaml.empty()) {
        try {
            adapter.run = parse_run_file(adapter.state.run_yaml, file, {});
        } catch (const UserError&) {  // of a version with other keys: only its defaults are lost
            adapter.run.reset();
        }
    }
    return adapter;
}

AdapterFile of_file(const fs::path& file) {
    if (fs::exists(file.string() + ".json"))
        return of_checkpoint(CheckpointStore::load(file), file);
    return of_checkpoint(load_foreign_checkpoint(file), file);
}

AdapterFile of_peft(const fs::path& folder) {
    PeftAdapter peft = read_peft_adapter(folder);
    AdapterFile adapter;
    adapter.path = folder;
    adapter.options = adapter_options(peft.config, peft.tensors);
    adapter.state.tensors = std::move(peft.tensors);
    adapter.state.adapter = std::move(peft.values);
    adapter.state.adapter_config_json = std::move(peft.config_json);
    adapter.copies = std::move(peft.copies);
    adapter.run = run_beside(fs::absolute(folder).lexically_normal() / "../run.yaml");
    return adapter;
}

/// Whether the PEFT folder holds the values of the state.
bool holds(const fs::path& peft_folder, const CheckpointState& state) {
    if (!fs::exists(peft_folder / "adapter_config.json")) return false;
    const PeftAdapter peft = read_peft_adapter(peft_folder);
    const auto values_of = [](const auto& adapter, const NamedTensor& tensor) {
        return std::span(adapter).subspan(static_cast<std::size_t>(tensor.offset),
                                          static_cast<std::size_t>(tensor.count()));
    };
    return std::ranges::all_of(state.tensors, [&](const NamedTensor& mine) {
        const auto theirs = std::ranges::find(peft.tensors, mine.name, &NamedTensor::name);
        return theirs != peft.tensors.end() && theirs->shape == mine.shape &&
               std::ranges::equal(values_of(peft.values, *theirs), values_of(state.adapter, mine));
    });
}

/// With early stopping the best checkpoint stands for the run, as in adapter/, unless that holds
/// the newest.
LoadedCheckpoint best_or_newest(LoadedCheckpoint newest, const CheckpointStore& store,
                                const fs::path& output) {
    const std::int64_t best_step = best_step_of(newest.state.counters);
    if (best_step == 0 || best_step == newest.state.step ||
        holds(output / "adapter", newest.state)) {
        return newest;
    }
    auto best = store.load_step(best_step);
    if (!best) return newest;
    fmt::print(stderr, "taking step {}, whose evaluation is the best; the newest is step {}\n",
               best_step, newest.state.step);
    return std::move(*best);
}

std::optional<AdapterFile> newest_checkpoint(const fs::path& folder) {
    for (const fs::path& candidate : {folder / "checkpoints", folder}) {
        if (!fs::is_directory(candidate) || CheckpointStore(candidate).list().empty()) continue;
        const CheckpointStore store(candidate);
        auto loaded = store.load_newest([](const fs::path& file, const std::string& reason) {
            std::fprintf(stderr, "qshard: passed over %s: %s\n", file.c_str(), reason.c_str());
        });
        if (!loaded) continue;
        LoadedCheckpoint chosen = best_or_newest(std::move(*loaded), store, candidate / "..");
        return of_checkpoint(std::move(chosen.state), chosen.file);
    }
    return std::nullopt;
}

std::optional<AdapterFile> peft_inside(const fs::path& folder) {
    for (const fs::path& candidate : {folder, folder / "adapter"}) {
        if (fs::exists(candidate / "adapter_config.json")) return of_peft(candidate);
    }
    return std::nullopt;
}

AdapterFile read(const fs::path& path, bool checkpoint_first) {
    if (!fs::exists(path)) {
        throw UserError(fmt::format("cannot open the adapter {}: no such file or folder{}",
                                    path.string(), advice_on_missing(path)));
    }
    if (!fs::is_directory(path)) return of_file(path);
    auto found = checkpoint_first ? newest_checkpoint(path) : peft_inside(path);
    if (!found) found = checkpoint_first ? peft_inside(path) : newest_checkpoint(path);
    if (found) return std::move(*found);
    throw UserError(fmt::format(
        "{} holds no adapter; expected a PEFT folder (adapter_config.json), a checkpoint "
        "(step-*.h5) or the output folder of a run",
        path.string()));
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
    return fmt::format("[{}]", fmt::join(shape, ", "));
}

/// UserError if its configuration chooses modules of the model that it has no tensors for.
void refuse_missing_modules(const AdapterFile& adapter, const ModelConfig& config) {
    const PeftConfig peft =
        parse_peft_config(adapter.state.adapter_config_json, adapter.path.string());
    const std::set<std::string> chosen = chosen_modules(peft, config);
    std::vector<std::string> missing;
    for (const std::string& module : chosen) {
        if (std::ranges::count(adapter.options.target_modules, module) == 0)
            missing.push_back(module);
    }
    std::vector<std::string> extra;
    for (const std::string& module : adapter.options.target_modules) {
        if (!chosen.empty() && !chosen.contains(module)) extra.push_back(module);
    }
    if (missing.empty() && !extra.empty()) {
        throw UserError(fmt::format(
            "{} has {} module{} that its adapter_config.json does not choose in this model, such "
            "as {}: PEFT would leave them out.\nMake target_modules, exclude_modules and "
            "layers_to_transform say what the file has, or take the modules out of it.",
            adapter.path.string(), extra.size(), extra.size() == 1 ? "" : "s", extra.front()));
    }
    if (missing.empty()) return;
    const std::size_t shown = std::min<std::size_t>(missing.size(), 3);
    throw UserError(fmt::format(
        "{} lacks {} of the {} modules that its adapter_config.json chooses in this model: "
        "{}{}\nThe "
        "file is incomplete, or was made for another model. To use what it has, name just that in "
        "target_modules (and layers_to_transform) of adapter_config.json.",
        adapter.path.string(), missing.size(), chosen.size(),
        fmt::join(std::span(missing).first(shown), ", "), shown < missing.size() ? ", ..." : ""));
}

}  // namespace

AdapterFile read_adapter_file(const fs::path& path) {
    return read(path, false);
}

AdapterFile read_newest_checkpoint(const fs::path& path) {
    return read(path, true);
}

AdapterLayout fit_adapter(const AdapterFile& adapter, const WeightReader& model) {
    AdapterLayout layout;
    // A model that also takes images as a folder, its text part alone as GGUF: one adapter fits
    // both, under the names that it has.
    ModelConfig config = model.config();
    config.wrapped =
        std::ranges::any_of(adapter.state.tensors, is_wrapped_name, &NamedTensor::name);
    try {
        layout = make_adapter_layout(config, adapter.options);
    } catch (const UserError& error) {
        throw UserError(
            fmt::format("{} was made for another model: {}", adapter.path.string(), error.what()));
    }
    std::map<std::string, const NamedTensor*> by_name;
    for (const NamedTensor& tensor : adapter.state.tensors) by_name[tensor.name] = &tensor;
    std::size_t matched = 0;
    for (const AdapterTensor& expected : tensors_of(layout)) {
        const auto found = by_name.find(expected.name);
        if (found == by_name.end()) {
            throw UserError(fmt::format(
                "{} has no tensor \"{}\", which its configuration and the others ask for",
                adapter.path.string(), expected.name));
        }
        if (found->second->shape != expected.shape) {
            throw UserError(
                fmt::format("{} was made for another model: its {} is {}, this model needs {}",
                            adapter.path.string(), expected.name, shape_text(found->second->shape),
                            shape_text(expected.shape)));
        }
        ++matched;
    }
    if (matched != adapter.state.tensors.size()) {
        throw UserError(fmt::format(
            "{} was made for another model: it has {} tensors, of which this model can use {}",
            adapter.path.string(), adapter.state.tensors.size(), matched));
    }
    refuse_missing_modules(adapter, config);
    check_embedding_copies(adapter.copies, model);
    const auto base = adapter.state.identity.find("base_sha256");
    if (base != adapter.state.identity.end() && !model.has_sha256(base->second)) {
        const auto name = adapter.state.identity.find("base_name");
        throw UserError(fmt::format(
            "{} was trained on another base:\n        base_sha256: {} there{}, {} here\n        "
            "To use it with this base all the same, export it: qshard export {} --to peft FOLDER",
            adapter.path.string(), base->second,
            name == adapter.state.identity.end() ? "" : " (" + name->second + ")", model.sha256(),
            adapter.path.string()));
    }
    return layout;
}

std::vector<float> flat_values(const AdapterFile& adapter, const AdapterLayout& layout) {
    std::map<std::string, const NamedTensor*> by_name;
    for (const NamedTensor& tensor : adapter.state.tensors) by_name[tensor.name] = &tensor;
    std::vector<float> flat(static_cast<std::size_t>(layout.count));
    for (const AdapterTensor& mine : tensors_of(layout)) {
        const auto values = std::span(adapter.state.adapter)
                                .subspan(static_cast<std::size_t>(by_name.at(mine.name)->offset),
                                         static_cast<std::size_t>(mine.count()));
        if (!std::ranges::all_of(values, [](float value) { return std::isfinite(value); })) {
            throw UserError(fmt::format("{}: {} has values that are not finite (NaN or infinity)",
                                        adapter.path.string(), mine.name));
        }
        std::ranges::copy(values, flat.begin() + mine.offset);
    }
    return flat;
}

}  // namespace qshard
