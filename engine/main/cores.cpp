#include "main/cores.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <string_view>
#include <thread>

namespace qshard {
namespace {

/// '1' for each core that process `pid` (0: this one) may run on.
std::string affinity(pid_t pid) {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(pid, sizeof set, &set) != 0)  // more cores than a cpu_set_t has
        return std::string(std::max(1u, std::thread::hardware_concurrency()), '1');
    std::string cores;
    for (std::size_t i = 0; i < CPU_SETSIZE; ++i) {
        if (!CPU_ISSET(i, &set)) continue;
        cores.resize(i, '0');
        cores += '1';
    }
    return cores;
}

int count_of(std::string_view cores) {
    return static_cast<int>(std::count(cores.begin(), cores.end(), '1'));
}

bool overlap(std::string_view a, std::string_view b) {
    for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
        if (a[i] == '1' && b[i] == '1') return true;
    }
    return false;
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
    const std::string launcher = affinity(getppid());
    if (count_of(affinity(0)) >= count_of(launcher) / local_ranks) return;
    cpu_set_t set;
    CPU_ZERO(&set);
    for (std::size_t i = 0; i < launcher.size(); ++i) {
        if (launcher[i] == '1') CPU_SET(i, &set);
    }
    (void)sched_setaffinity(0, sizeof set, &set);  // if refused, it has one thread on its core
}

int usable_cores() {
    return limited(count_of(affinity(0)), 1);
}

int usable_cores(Communicator& group, int local_ranks) {
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    const std::string mine = std::string(host) + ' ' + affinity(0);
    return limited(share_of_cores(group.all_gather_strings(mine), mine), std::max(1, local_ranks));
}

int share_of_cores(std::span<const std::string> ranks, const std::string& mine) {
    const auto split = [](std::string_view text) {
        const std::size_t space = text.find(' ');
        return std::pair(text.substr(0, space), text.substr(space + 1));
    };
    const auto [host, cores] = split(mine);
    int sharing = 0;
    for (const std::string& rank : ranks) {
        const auto [its_host, its_cores] = split(rank);
        if (its_host == host && overlap(its_cores, cores)) ++sharing;
    }
    return std::max(1, count_of(cores) / std::max(1, sharing));
}

}  // namespace qshard
