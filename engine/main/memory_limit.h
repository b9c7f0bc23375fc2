#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

/// How much memory the ranks of this host may take when the run file does not say.
namespace qshard {

/// Where the system says it; tests have one of their own.
struct MemorySources {
    std::filesystem::path proc = "/proc", cgroups = "/sys/fs/cgroup";
    /// A variable of the environment, or null.
    std::function<const char*(const char*)> variable;
    std::int64_t address_space = -1;  ///< RLIMIT_AS and RLIMIT_DATA, the smaller; -1: none

    /// This process's.
    static MemorySources of_this_process();
};

/// 80 % of the least of what a rank may have: its share of the memory that the machine has free, of
/// the limits of its control group and of all groups around it (versions 1 and 2), and of what
/// Slurm gave the job on this node (SLURM_MEM_PER_NODE, SLURM_MEM_PER_CPU, SLURM_MEM_PER_GPU); and
/// the address space that is left to it alone (ulimit -v). 0 if nothing says.
std::size_t host_memory_limit(const MemorySources& sources, int local_ranks);
inline std::size_t host_memory_limit(int local_ranks) {
    return host_memory_limit(MemorySources::of_this_process(), local_ranks);
}

}  // namespace qshard
