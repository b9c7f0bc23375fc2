#pragma once

#include <optional>

#include "main/run_plan.h"

namespace qshard {

/// Ranks that are not there yet.
struct Cluster {
    int nodes = 1, ranks_per_node = 1;
    std::size_t memory = 0;     ///< bytes of a rank, 0 = no limit
    double flops = 0;           ///< useful operations of a rank's steps in a second, 0 = unknown
    double bandwidth = 1.25e9;  ///< bytes a second into a node

    int ranks() const { return nodes * ranks_per_node; }
};

/// What training takes in one placement.
struct RunEstimate {
    PlacementMode mode = PlacementMode::kReplicated;
    bool fits = false;
    std::size_t bytes = 0;  ///< of the rank with most; if that does not fit, the least it can be
    std::size_t host_bytes = 0;  ///< of the host's memory beside them
    std::int64_t recomputed_layers = 0;
    double step_flops = 0;       ///< useful ones of all ranks
    StepTraffic received;        ///< by that rank, in a step
    double node_bytes = 0;       ///< into a node from others, in a step
    double network_seconds = 0;  ///< in a step, hidden or not
    /// Nothing if the cluster's flops are unknown; compute_seconds are of the rank with most work,
    /// in a step.
    std::optional<double> compute_seconds, step_seconds, run_seconds;
};

/// Memory and traffic are planned as training plans them; time comes from the useful operations of
/// the first steps. The backend is that of a rank of a full node.
RunEstimate estimate_run(const RunFile& run, const RunInputs& inputs, Backend& backend,
                         Communicator& group, const Cluster& cluster, PlacementMode mode);

/// The group of the ranks to come, as the rank that needs most memory.
std::unique_ptr<Communicator> make_group_to_come(const RunFile& run, const Cluster& cluster);

}  // namespace qshard
