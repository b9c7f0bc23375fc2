#include "main/memory_limit.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>

namespace qshard {
namespace {

namespace fs = std::filesystem;

/// The least of the limits that are known.
class Least {
  public:
    void add(std::optional<std::int64_t> bytes) {
        if (bytes && *bytes > 0) least_ = std::min(least_.value_or(*bytes), *bytes);
    }
    const std::optional<std::int64_t>& value() const { return least_; }

  private:
    std::optional<std::int64_t> least_;
};

/// The number that a file begins with; nothing if there is none ("max").
std::optional<std::int64_t> number_in(const fs::path& file) {
    std::ifstream stream(file);
    std::int64_t value = 0;
    return stream >> value ? std::optional(value) : std::nullopt;
}

std::optional<std::int64_t> free_bytes(const fs::path& meminfo) {
    std::ifstream stream(meminfo);
    for (std::string line; std::getline(stream, line);) {
        if (line.starts_with("MemAvailable:"))
            return std::strtoll(line.c_str() + 13, nullptr, 10) << 10;
    }
    return std::nullopt;
}

/// The limits of the group `path` beneath `root` and of the groups it lies in. What a container
/// does not see of them has no file.
void add_groups(const fs::path& root, const fs::path& path, const char* file, Least& least) {
    fs::path group = root / path.relative_path();
    for (;;) {
        least.add(number_in(group / file));
        if (group == root || !group.has_relative_path()) return;
        group = group.parent_path();
    }
}

/// Lines "4:memory:/job_12/step_0" (version 1) and "0::/job_12/step_0" (version 2).
void add_control_groups(const MemorySources& sources, Least& least) {
    add_groups(sources.cgroups, "/", "memory.max", least);
    add_groups(sources.cgroups / "memory", "/", "memory.limit_in_bytes", least);
    std::ifstream lines(sources.proc / "self" / "cgroup");
    for (std::string line; std::getline(lines, line);) {
        const std::size_t first = line.find(':'), second = line.find(':', first + 1);
        if (second == std::string::npos) continue;
        const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
        const fs::path path = line.substr(second + 1);
        if (controllers == ",,") {
            add_groups(sources.cgroups, path, "memory.max", least);
            add_groups(sources.cgroups / "unified", path, "memory.max", least);
        } else if (controllers.find(",memory,") != std::string::npos) {
            add_groups(sources.cgroups / "memory", path, "memory.limit_in_bytes", least);
        }
    }
}

/// A whole number of the environment, 0 if there is none.
std::int64_t whole_number(const MemorySources& sources, const char* name) {
    const char* text = sources.variable(name);
    return text == nullptr ? 0 : std::strtoll(text, nullptr, 10);
}

/// Slurm's limits are in MiB. A job has one of them.
void add_slurm(const MemorySources& sources, int ranks, Least& least) {
    least.add(whole_number(sources, "SLURM_MEM_PER_NODE") << 20);
    std::int64_t cores = whole_number(sources, "SLURM_CPUS_ON_NODE");
    if (cores < 1)
        cores = ranks * std::max<std::int64_t>(1, whole_number(sources, "SLURM_CPUS_PER_TASK"));
    least.add((whole_number(sources, "SLURM_MEM_PER_CPU") * cores) << 20);
    least.add(
        (whole_number(sources, "SLURM_MEM_PER_GPU") * whole_number(sources, "SLURM_GPUS_ON_NODE"))
        << 20);
}

/// What is left of the address space.
std::optional<std::int64_t> free_addresses(const MemorySources& sources) {
    if (sources.address_space < 0) return std::nullopt;
    const std::int64_t pages = number_in(sources.proc / "self" / "statm").value_or(0);
    return std::max<std::int64_t>(1, sources.address_space - pages * sysconf(_SC_PAGESIZE));
}

}  // namespace

MemorySources MemorySources::of_this_process() {
    MemorySources sources;
    sources.variable = [](const char* name) -> const char* { return std::getenv(name); };
    for (const int kind : {RLIMIT_AS, RLIMIT_DATA}) {
        rlimit limit{};
        if (getrlimit(static_cast<__rlimit_resource>(kind), &limit) != 0 ||
            limit.rlim_cur == RLIM_INFINITY) {
            continue;
        }
        const auto bytes = static_cast<std::int64_t>(std::min<rlim_t>(limit.rlim_cur, INT64_MAX));
        sources.address_space =
            sources.address_space < 0 ? bytes : std::min(sources.address_space, bytes);
    }
    return sources;
}

std::size_t host_memory_limit(const MemorySources& sources, int local_ranks) {
    const int ranks = std::max(1, local_ranks);
    Least shared;
    shared.add(free_bytes(sources.proc / "meminfo"));
    add_control_groups(sources, shared);
    add_slurm(sources, ranks, shared);
    Least mine;
    if (shared.value()) mine.add(*shared.value() / ranks);
    mine.add(free_addresses(sources));
    return static_cast<std::size_t>(mine.value().value_or(0) / 10 * 8);
}

}  // namespace qshard
