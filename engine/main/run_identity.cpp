#include "main/run_identity.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/hash.h"
#include "io/run/run_changes.h"
#include "main/version.h"

namespace qshard {
namespace {

std::string recorded(const CheckpointFacts& checkpoint, const std::string& name) {
    const auto found = checkpoint.identity.find(name);
    return found == checkpoint.identity.end() ? "(absent)" : found->second;
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
    return fmt::format("[{}]", fmt::join(shape, ", "));
}

/// The first tensor that is another one there than here, or "".
std::string differing_tensor(const std::vector<NamedTensor>& there,
                             const std::vector<AdapterTensor>& here) {
    for (std::size_t i = 0; i < std::max(there.size(), here.size()); ++i) {
        const auto side = [i](const auto& tensors) {
            return i < tensors.size()
                       ? fmt::format("{} {}", tensors[i].name, shape_text(tensors[i].shape))
                       : std::string("none");
        };
        if (side(there) != side(here))
            return fmt::format("{} there, {} here", side(there), side(here));
    }
    return "";
}

/// An adapter in a line, for people who compare two.
std::string adapter_text(const RunFile::Adapter& adapter) {
    std::string text =
        fmt::format("{} r={} alpha={} dropout={}", adapter.use_dora ? "dora" : "lora", adapter.r,
                    adapter.alpha, adapter.dropout);
    for (const std::string& name : adapter.modules_to_save) text += " saved=" + name;
    if (adapter.bias != "none") text += " bias=" + adapter.bias;
    return text;
}

/// What the checkpoint and this run differ in.
struct Differences {
    std::vector<std::string> refused;  ///< lines: another run
    std::vector<std::string> changed;  ///< "train.learning_rate 0.0002 -> 1e-05"
};

Differences differences(const CheckpointFacts& checkpoint, const RunFile& there,
                        const RunFacts& mine) {
    Differences found;
    const std::string tensors = differing_tensor(checkpoint.tensors, tensors_of(*mine.adapter));
    const std::string data = recorded(checkpoint, "data_sha256");
    const bool other_data = data != mine.data_sha256;
    const std::string base = recorded(checkpoint, "base_sha256");
    const auto differs = [&](const std::string& shown_by) {
        return shown_by == "tensors"       ? !tensors.empty()
               : shown_by == "data_sha256" ? other_data
                                           : true;
    };
    if (!mine.base->has_sha256(base)) {
        found.refused.push_back(
            fmt::format("model.base, by its files (base_sha256): {} there ({}), {} here", base,
                        recorded(checkpoint, "base_name"), mine.base->sha256()));
    }
    bool other_adapter = false, other_tensors = false;
    for (const ChangedKey& key : changed_keys(there, *mine.run)) {
        if (!key.fixed || !differs(key.shown_by)) {
            found.changed.push_back(fmt::format("{} {} -> {}", key.path, key.there, key.here));
            continue;
        }
        found.refused.push_back(
            fmt::format("{}: {} there, {} here", key.path, key.there, key.here));
        other_adapter |= key.path.starts_with("adapter.");
        other_tensors |= key.path.starts_with("adapter.");
    }
    if (!tensors.empty() && !other_tensors)
        found.refused.push_back("the adapter's tensors: " + tensors);
    const std::string tokenizer = recorded(checkpoint, "tokenizer_sha256");
    if (other_data && tokenizer != mine.tokenizer_sha256) {
        found.refused.push_back(fmt::format("the tokenizer (tokenizer_sha256): {} there, {} here",
                                            tokenizer, mine.tokenizer_sha256));
    }
    // Seed, batch sizes and the keys of data are in this digest, too.
    if (other_data && found.refused.empty()) {
        found.refused.push_back(fmt::format(
            "the rows of data.train (data_sha256): {} there, {} here", data, mine.data_sha256));
    }
    // Checkpoints of earlier versions do not record it.
    const auto validation = checkpoint.identity.find("validation_sha256");
    if (validation != checkpoint.identity.end() && validation->second != mine.validation_sha256) {
        if (mine.run->eval.early_stop) {
            found.refused.push_back(
                fmt::format("the rows that are evaluated, by whose loss eval.early_stop stops "
                            "(validation_sha256): {} there, {} here",
                            validation->second, mine.validation_sha256));
        } else {
            found.changed.emplace_back("the rows of data.validation");
        }
    }
    if (other_adapter)
        found.refused.push_back("(the checkpoint's adapter: " + adapter_text(there.adapter) + ")");
    return found;
}

}  // namespace

std::map<std::string, std::string> identity_of(const RunFacts& facts) {
    return {{"base_sha256", facts.base->sha256()},
            {"data_sha256", facts.data_sha256},
            {"validation_sha256", facts.validation_sha256},
            {"tokenizer_sha256", facts.tokenizer_sha256},
            {"kernels", facts.kernels},
            {"run_sha256", sha256_hex(facts.run->identity_yaml())},
            {"base_name", facts.run->model.base},
            {"base_fingerprint", facts.base_fingerprint},
            {"engine_version", engine_version()}};
}

std::vector<std::string> check_same_run(const CheckpointFacts& checkpoint,
                                        const std::string& checkpoint_name, const RunFacts& mine) {
    RecordedRun there;
    try {
        there = parse_recorded_run(checkpoint.run_yaml);
    } catch (const UserError& error) {
        throw UserError(fmt::format("{}: {}", checkpoint_name, error.what()));
    }
    const Differences found = differences(checkpoint, there.run, mine);
    if (!found.refused.empty()) {
        throw UserError(fmt::format(
            "{} is a checkpoint of another run:\n        {}\n        Choose another output folder, "
            "or set these as they were.",
            checkpoint_name, fmt::join(found.refused, "\n        ")));
    }
    std::vector<std::string> notes;
    if (recorded(checkpoint, "kernels") != mine.kernels) {
        notes.push_back(
            fmt::format("warning: the checkpoint was made with kernels \"{}\", this run has "
                        "\"{}\": it goes on, "
                        "but its bits may differ from an uninterrupted run's",
                        recorded(checkpoint, "kernels"), mine.kernels));
    }
    if (!found.changed.empty()) {
        notes.push_back(fmt::format("note: settings differ from the checkpoint's: {}",
                                    fmt::join(found.changed, ", ")));
    }
    const auto sets_length = [](const std::string& change) {
        return change.starts_with("train.max_steps ") || change.starts_with("train.epochs ");
    };
    if (std::ranges::any_of(found.changed, sets_length) &&
        mine.run->train.lr_scheduler_type.find("constant") == std::string::npos) {
        notes.push_back(fmt::format(
            "note: with another number of steps the {} schedule gives other learning rates",
            mine.run->train.lr_scheduler_type));
    }
    if (!there.unknown.empty()) {
        notes.push_back(fmt::format(
            "note: the checkpoint's run file has keys that this version does not know: {}",
            fmt::join(there.unknown, ", ")));
    }
    return notes;
}

}  // namespace qshard
