#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "io/report/run_status.h"

namespace qshard::inspect {

/// What an output folder holds beside the checkpoint that its summary is about. What cannot be read
/// is a sentence instead of an error: the rest is still worth showing.
struct RunFolder {
    struct Checkpoint {
        std::filesystem::path file;
        std::int64_t step = 0;
        std::string adapter_sha256;  ///< by its manifest; "" without a readable one
        std::string problem;         ///< of the manifest, or ""
    };

    std::filesystem::path path;
    std::optional<RunStatus> status;  ///< nothing without run_status.json
    std::string status_problem;
    std::vector<Checkpoint> checkpoints;  ///< newest first
    bool has_adapter = false;             ///< the folder adapter/
    std::string adapter_sha256, adapter_problem;

    /// Whether it has neither checkpoints nor an adapter: the run has just begun, or failed early.
    bool bare() const { return checkpoints.empty() && !has_adapter; }
    /// "finished: step 20 of 20 at 2026-01-31T12:00:00Z", with the cause if it failed.
    std::string state_text() const;
    /// File name of the newest checkpoint with the adapter folder's values, or "".
    std::string adapter_from() const;
    boost::json::object json() const;
};

/// Nothing if the path is no output folder: no run_status.json, checkpoints/ or adapter/ in it.
std::optional<RunFolder> read_run_folder(const std::filesystem::path& path);

}  // namespace qshard::inspect
