#include "io/inspect/run_folder.h"

#include <fmt/format.h>

#include <boost/json/array.hpp>

#include "base/error.h"
#include "io/checkpoint/atomic_file.h"
#include "io/checkpoint/manifest.h"
#include "io/checkpoint/store.h"
#include "io/inspect/subject.h"

namespace qshard::inspect {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr std::size_t kMaxManifestBytes = std::size_t{1} << 20;

RunFolder::Checkpoint describe(const Generation& generation) {
    RunFolder::Checkpoint checkpoint{generation.file, generation.step, "", ""};
    if (!generation.has_manifest) {
        checkpoint.problem = "no manifest";
        return checkpoint;
    }
    try {
        const std::vector<std::byte> text = read_file(generation.manifest(), kMaxManifestBytes);
        checkpoint.adapter_sha256 =
            parse_manifest({reinterpret_cast<const char*>(text.data()), text.size()})
                .adapter_sha256;
    } catch (const Error& error) {
        checkpoint.problem = error.what();
    }
    return checkpoint;
}

json::value text_or_null(const std::string& text) {
    return text.empty() ? json::value(nullptr) : json::value(text);
}

}  // namespace

std::string RunFolder::state_text() const {
    if (!status_problem.empty()) return status_problem;
    if (!status) return "unknown: there is no run_status.json";
    std::string text = fmt::format("{}: step {} of {} at {}", status->state, status->step,
                                   status->total_steps, status->updated);
    if (status->exit_code != 0) text += fmt::format(", exit code {}", status->exit_code);
    if (status->cause && !status->cause->message.empty()) text += "\n" + status->cause->message;
    return text;
}

std::string RunFolder::adapter_from() const {
    for (const Checkpoint& checkpoint : checkpoints) {
        if (!adapter_sha256.empty() && checkpoint.adapter_sha256 == adapter_sha256)
            return checkpoint.file.filename().string();
    }
    return "";
}

json::object RunFolder::json() const {
    json::object run = {{"path", path.string()}, {"state", nullptr}};
    if (status) {
        run["state"] = status->state;
        run["step"] = status->step;
        run["total_steps"] = status->total_steps;
        run["exit_code"] = status->exit_code;
        run["updated"] = status->updated;
        run["cause"] = text_or_null(status->cause ? status->cause->message : "");
    }
    json::array files;
    for (const Checkpoint& checkpoint : checkpoints) {
        files.push_back(json::object{{"file", checkpoint.file.string()},
                                     {"step", checkpoint.step},
                                     {"adapter_sha256", text_or_null(checkpoint.adapter_sha256)},
                                     {"problem", text_or_null(checkpoint.problem)}});
    }
    run["checkpoints"] = std::move(files);
    run["adapter"] = nullptr;
    if (has_adapter) {
        run["adapter"] = json::object{{"path", (path / "adapter").string()},
                                      {"adapter_sha256", text_or_null(adapter_sha256)},
                                      {"checkpoint", text_or_null(adapter_from())},
                                      {"problem", text_or_null(adapter_problem)}};
    }
    return run;
}

std::optional<RunFolder> read_run_folder(const fs::path& path) {
    RunFolder run;
    run.path = path;
    run.has_adapter = fs::exists(path / "adapter" / "adapter_config.json");
    const bool has_status = fs::exists(path / "run_status.json");
    if (!fs::is_directory(path / "checkpoints") && !run.has_adapter && !has_status) return {};
    try {
        run.status = read_run_status(path / "run_status.json");
    } catch (const Error& error) {
        run.status_problem = error.what();
    }
    for (const Generation& generation : CheckpointStore(path / "checkpoints").list())
        run.checkpoints.push_back(describe(generation));
    if (!run.has_adapter) return run;
    try {
        run.adapter_sha256 = adapter_sha256(load_subject(path / "adapter").state);
    } catch (const Error& error) {
        run.adapter_problem = error.what();
    }
    return run;
}

}  // namespace qshard::inspect
