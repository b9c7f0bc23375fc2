#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace qshard {

/// When a run must be over.
struct TimeLimit {
    std::optional<double> seconds;  ///< from now; absent: no limit
    std::string name;               ///< who says it: "checkpoint.time_limit", "SLURM_JOB_END_TIME"
    std::string warning;            ///< what was not honoured, or ""
};

/// `chosen` is checkpoint.time_limit in seconds; without it the time (seconds since 1970) in
/// `slurm_end`, the value of SLURM_JOB_END_TIME or null. One that is over already is of a job that
/// ended (a shell or a tmux that was begun in it), and ignored with a warning, as what is no time
/// is.
TimeLimit time_limit_of(std::optional<std::int64_t> chosen, const char* slurm_end,
                        std::int64_t now);

}  // namespace qshard
