#include "main/cores.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>
#include <thread>

namespace qshard {
namespace {

/// The cores that process `pid` (0: this one) may run on.
cpu_set_t affinity(pid_t pid) {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(pid, sizeof set, &set) != 0) {  // more cores than a cpu_set_t has
        const std::size_t count = std::thread::hardware_concurrency();
        for (std::size_t i = 0; i < std::clamp<std::size_t>(count, 1, CPU_SETSIZE); ++i)
            CPU_SET(i, &set);
    }
    return set;
}

/// The whole number of an environment variable, 0 if there is none.
int number(const char* variable) {
    const char* text = std::getenv(variable);
    return text == nullptr ? 0 : std::atoi(text);
}

/// Cores' worth of time that the container has, rounded up; 0 if it is not limited.
int cpu_quota() {
    double quota = 0, period = 0;
    std::ifstream both("/sys/fs/cgroup/cpu.max");
    if (!(both >> quota >> period)) {  // "max" is no number: no limit
        std::ifstream first("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
        std::ifstream second("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
        if (!(first >> quota) || !(second >> period)) return 0;
    }
    return quota > 0 && period > 0 ? static_cast<int>((quota + period - 1) / period) : 0;
}

/// What the container and Slurm leave of `cores` for one of `ranks`.
int limited(int cores, int ranks) {
    if (const int quota = cpu_quota(); quota > 0) cores = std::min(cores, quota / ranks);
    if (const int asked = number("SLURM_CPUS_PER_TASK"); asked > 0) cores = std::min(cores, asked);
    return std::max(1, cores);
}

/// Was mpirun (of Open MPI 4 or 5) told how to bind?
bool binding_was_chosen() {
    for (const char* prefix : {"OMPI_MCA_", "PRTE_MCA_"}) {
        for (const char* name : {"hwloc_base_binding_policy", "hwloc_default_binding_policy",
                                 "hwloc_base_cpu_list", "hwloc_default_cpu_list",
                                 "hwloc_base_cpu_set", "orte_rankfile", "rmaps_rank_file_path"}) {
            if (std::getenv((std::string(prefix) + name).c_str()) != nullptr) return true;
        }
        for (const char* name : {"rmaps_base_mapping_policy", "rmaps_default_mapping_policy"}) {
            const char* policy = std::getenv((std::string(prefix) + name).c_str());
            if (policy == nullptr) continue;
            std::string text(policy);
            std::transform(text.begin(), text.end(), text.begin(),
                           [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
            if (text.find("pe=") != std::string::npos) return true;  // as many cores to each rank
        }
    }
    return false;
}

}  // namespace

void leave_default_binding() {
    const int local_ranks = number("OMPI_COMM_WORLD_LOCAL_SIZE");
    if (local_ranks < 1 || binding_was_chosen()) return;
    const cpu_set_t mine = affinity(0), launcher = affinity(getppid());
    if (CPU_COUNT(&mine) >= CPU_COUNT(&launcher) / local_ranks) return;
    // If that is refused, it has one thread on its core.
    (void)sched_setaffinity(0, sizeof launcher, &launcher);
}

int usable_cores() {
    const cpu_set_t mine = affinity(0);
    return limited(CPU_COUNT(&mine), 1);
}

int usable_cores(Communicator& group, int local_ranks) {
    RankCores mine{{}, affinity(0)};
    gethostname(mine.host, sizeof mine.host - 1);
    return limited(share_of_cores(group.all_gather_value(mine), mine), std::max(1, local_ranks));
}

int share_of_cores(std::span<const RankCores> ranks, const RankCores& mine) {
    const auto sharing = std::ranges::count_if(ranks, [&mine](const RankCores& rank) {
        cpu_set_t both;
        CPU_AND(&both, &rank.cores, &mine.cores);
        return std::string_view(rank.host) == mine.host && CPU_COUNT(&both) > 0;
    });
    return std::max(1, CPU_COUNT(&mine.cores) / std::max(1, static_cast<int>(sharing)));
}

}  // namespace qshard
