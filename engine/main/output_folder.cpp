#include "main/output_folder.h"

#include <fmt/format.h>

#include <cstdlib>
#include <fstream>
#include <vector>

#include "base/error.h"
#include "io/checkpoint/atomic_file.h"

namespace qshard {
namespace {

namespace fs = std::filesystem;
using Say = std::function<void(const std::string&)>;

/// It only says how often a start made no progress, so damage to it stops nothing.
std::optional<RunStatus> status_of(const fs::path& output, const Say& say) {
    const fs::path file = output / "run_status.json";
    try {
        return read_run_status(file);
    } catch (const Error& error) {
        say(fmt::format("warning: {} is damaged and will be written anew ({})", file.string(),
                        error.what()));
        return std::nullopt;
    }
}

bool contains(const fs::path& file, const std::string& text) {
    std::ifstream lines(file);
    for (std::string line; std::getline(lines, line);) {
        if (line.find(text) != std::string::npos) return true;
    }
    return false;
}

/// What a fresh start would overwrite, for people; "" if nothing.
std::string results_in(const fs::path& output, const std::optional<RunStatus>& status) {
    std::vector<std::string> found;
    if (fs::exists(output / "adapter/adapter_model.safetensors") ||
        fs::exists(output / "adapter/adapter_config.json")) {
        found.emplace_back("adapter/");
    }
    if (fs::exists(output / "report.html")) found.emplace_back("report.html");
    // The line is written before its checkpoint; the status, which is written after it, knows
    // better.
    const bool has_saved = contains(output / "metrics.jsonl", "\"adapter_sha256\"");
    if (status && status->saved_step > 0) {
        found.push_back(fmt::format("run_status.json with a saved step {}", status->saved_step));
    } else if (status && status->state == "finished") {
        found.emplace_back("run_status.json of a finished run");
    } else if (has_saved && (!status || status->starts_without_progress == 0)) {
        found.emplace_back("metrics.jsonl with saved steps");
    }
    return fmt::format("{}", fmt::join(found, ", "));
}

void refuse_to_overwrite(const fs::path& output, const std::optional<RunStatus>& status) {
    const std::string results = results_in(output, status);
    if (results.empty()) return;
    std::string hint;
    if (fs::exists(output / "adapter/adapter_config.json")) {
        hint = fmt::format(
            "\n        To train its adapter further: adapter.init_from: {} and another output.",
            (output / "adapter").string());
    }
    throw UserError(
        ExitCode::kUsage,
        fmt::format("{} holds results of a run ({}) and no checkpoint to go on from; a fresh start "
                    "would overwrite them.\n        Choose another output folder, or remove this "
                    "one.{}",
                    output.string(), results, hint));
}

std::optional<LoadedCheckpoint> newest_in(const fs::path& folder, const Say& say) {
    return CheckpointStore(folder).load_newest(
        [&](const fs::path& file, const std::string& reason) {
            say(fmt::format("refused {}: {}; trying the one before", file.string(), reason));
        });
}

/// The folder of checkpoints that `path` means: itself, or checkpoints/ in an output folder.
fs::path checkpoints_of(const fs::path& path) {
    return fs::is_directory(path / "checkpoints") ? path / "checkpoints" : path;
}

bool same_path(const fs::path& a, const fs::path& b) {
    std::error_code missing;
    return fs::equivalent(a, b, missing);
}

LoadedCheckpoint load_chosen(const fs::path& path, const Say& say) {
    if (!fs::exists(path)) {
        throw UserError(ExitCode::kUsage,
                        fmt::format("--resume {}: no such file or folder; expected auto, never, a "
                                    "checkpoint (step-*.h5) or a folder with some",
                                    path.string()));
    }
    if (!fs::is_directory(path)) return {CheckpointStore::load(path), path};
    auto newest = newest_in(checkpoints_of(path), say);
    if (!newest) {
        throw UserError(ExitCode::kUsage,
                        fmt::format("--resume {}: the folder holds no checkpoints (step-*.h5). To "
                                    "start from an adapter, set adapter.init_from",
                                    path.string()));
    }
    return std::move(*newest);
}

/// Whether a scheduler started this very command before.
bool is_requeued() {
    const char* count = std::getenv("SLURM_RESTART_COUNT");
    return count != nullptr && std::atoi(count) > 0;
}

void find_chosen(FoundRun& found, const fs::path& output, const fs::path& path, const Say& say) {
    const fs::path checkpoints = output / "checkpoints";
    found.checkpoint = load_chosen(path, say);
    found.chosen = !(fs::is_directory(path) && same_path(checkpoints_of(path), checkpoints));
    if (!found.chosen) return;
    const bool inside = same_path(found.checkpoint->file.parent_path(), checkpoints);
    if (inside && !is_requeued()) return;
    found.own = newest_in(checkpoints, say);
    if (!found.own || !is_requeued()) return;
    const auto parent = found.own->state.identity.find("branched_from");
    if (parent == found.own->state.identity.end() ||
        parent->second != lineage_name(found.checkpoint->state)) {
        return;
    }
    say(fmt::format("the job was requeued: going on with the branch that --resume {} began",
                    path.string()));
    found.checkpoint = std::move(found.own);
    found.own.reset();
    found.chosen = false;
}

}  // namespace

FoundRun find_run(const fs::path& output, const std::string& resume, const Say& say) {
    for (const fs::path& folder : {output, output / "adapter", output / "checkpoints"})
        remove_temporaries(folder);
    FoundRun found;
    found.status = status_of(output, say);
    CheckpointStore store(output / "checkpoints");
    if (const auto aside = store.finish_going_back())
        say(fmt::format("the going back that was interrupted is done: see {}", aside->string()));
    const bool has_checkpoints = !store.list().empty();
    if (resume == "never" && has_checkpoints) {
        throw UserError(
            ExitCode::kUsage,
            fmt::format("{} holds checkpoints and --resume never was given. Choose another output "
                        "folder, or remove it.",
                        output.string()));
    }
    if (resume != "auto" && resume != "never") {
        find_chosen(found, output, resume, say);
        const bool from_here =
            !fs::relative(found.checkpoint->file, output).string().starts_with("..");
        if (!has_checkpoints && !from_here) refuse_to_overwrite(output, found.status);
        return found;
    }
    if (has_checkpoints) found.checkpoint = newest_in(output / "checkpoints", say);
    if (!found.checkpoint) refuse_to_overwrite(output, found.status);
    return found;
}

std::string lineage_name(const CheckpointState& state) {
    return fmt::format("step {}, adapter {}", state.step, adapter_sha256(state).substr(0, 16));
}

}  // namespace qshard
