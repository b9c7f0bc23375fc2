#pragma once

#include <sched.h>

#include <span>

#include "comm/communicator.h"

/// The processor cores of this process. Counts are of what the system schedules on: hardware
/// threads where the machine has several to a core.
namespace qshard {

/// mpirun binds each of one or two ranks to one core, with all threads they start, unless it is
/// told otherwise. A rank bound so goes back to the cores that mpirun itself has, if its fair share
/// of them is more; any other binding stays. To be called before the process starts threads.
void leave_default_binding();

/// Cores this process may use, at least one: its affinity, at most the CPU quota of its container
/// and, in a Slurm job, what was asked for a task.
int usable_cores();

/// The same for a rank, whose `local_ranks` of the same host share cores and quota. Collective.
int usable_cores(Communicator& group, int local_ranks);

/// Where a rank may run.
struct RankCores {
    char host[256];
    cpu_set_t cores;
};
/// What is left of a rank's cores, at least one, if those of `ranks` that may use them, too, share
/// them evenly.
int share_of_cores(std::span<const RankCores> ranks, const RankCores& mine);

}  // namespace qshard
