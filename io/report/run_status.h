#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace qshard {

/// Why a run ended: the first failure, not what followed from it. Launchers lose exit codes, so
/// this is what job scripts and people read.
struct RunCause {
    int rank = -1;  ///< -1: unknown or not one rank's
    std::string host;
    std::int64_t pid = 0;
    int signal = 0;       ///< that ended the rank, or 0
    std::string section;  ///< load, gather, forward, reduce, save...
    std::string message;

    bool operator==(const RunCause&) const = default;
};

/// run_status.json of an output folder.
struct RunStatus {
    std::string state = "running";  ///< running | finished | failed | preempted
    std::int64_t step = 0, total_steps = 0;
    int exit_code = 0;
    std::int64_t starts_without_progress = 0;  ///< three in a row end with exit code 93
    std::int64_t saved_step = 0;  ///< of the newest checkpoint that this folder has or had; 0: none
    std::string updated;          ///< UTC; written by write_run_status() if empty
    std::optional<RunCause> cause;

    bool operator==(const RunStatus&) const = default;
};

/// Replaces the file atomically and durably.
void write_run_status(const std::filesystem::path& file, RunStatus status);

/// Nothing if there is no such file; UserError if it is malformed.
std::optional<RunStatus> read_run_status(const std::filesystem::path& file);

}  // namespace qshard
