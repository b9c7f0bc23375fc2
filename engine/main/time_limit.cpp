#include "main/time_limit.h"

#include <fmt/format.h>

#include <charconv>
#include <string_view>

namespace qshard {

TimeLimit time_limit_of(std::optional<std::int64_t> chosen, const char* slurm_end,
                        std::int64_t now) {
    if (chosen) return {static_cast<double>(*chosen), "checkpoint.time_limit", ""};
    if (slurm_end == nullptr) return {};
    const std::string_view text(slurm_end);
    std::int64_t end = 0;
    const auto [stop, problem] = std::from_chars(text.data(), text.data() + text.size(), end);
    const bool whole = problem == std::errc() && stop == text.data() + text.size();
    if (whole && end > now) return {static_cast<double>(end - now), "SLURM_JOB_END_TIME", ""};
    const std::string why = !whole || end <= 0
                                ? "is no time"
                                : fmt::format("was {} s ago, so it is another job's", now - end);
    return {{},
            "",
            fmt::format("SLURM_JOB_END_TIME \"{}\" {}: ignored. checkpoint.time_limit says how "
                        "long this start may take.",
                        text, why)};
}

}  // namespace qshard
