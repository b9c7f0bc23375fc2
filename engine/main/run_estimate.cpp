#include "main/run_estimate.h"

#include <algorithm>

#include "comm/agree.h"
#include "train/flops.h"

namespace qshard {
namespace {

constexpr std::int64_t kSampledSteps = 8;
constexpr double kUploadRate = 20e9;  ///< bytes a second over PCIe 4.0 x16

struct StepWork {
    double flops = 0;    ///< of all ranks
    double slowest = 0;  ///< of the rank that has most
};

/// The mean over the first steps.
StepWork work_of(const TrainingSet& data, std::int64_t total_steps, const UsefulFlops& flops,
                 int ranks) {
    StepWork work;
    const std::int64_t steps = std::clamp<std::int64_t>(total_steps, 1, kSampledSteps);
    for (std::int64_t s = 0; s < steps; ++s) {
        const std::int64_t slots = data.step(s).slot_count;
        double slowest = 0;
        for (int rank = 0; rank < ranks; ++rank) {
            const SlotRange range = slots_of(rank, ranks, slots);
            double mine = 0;
            for (std::int64_t i = range.begin; i < range.end; ++i) {
                const Slot slot = data.slot(s, i);
                mine += flops.of({&slot, 1});
            }
            slowest = std::max(slowest, mine);
            work.flops += mine / static_cast<double>(steps);
        }
        work.slowest += slowest / static_cast<double>(steps);
    }
    return work;
}

}  // namespace

std::unique_ptr<Communicator> make_group_to_come(const RunFile& run, const Cluster& cluster) {
    const std::int64_t slots = slots_of_step(run);
    int largest = 0;
    for (int rank = 1; rank < cluster.ranks(); ++rank) {
        if (SlotTree::max_roots(rank, cluster.ranks(), slots) >
            SlotTree::max_roots(largest, cluster.ranks(), slots))
            largest = rank;
    }
    return make_planning_communicator(largest, cluster.ranks());
}

RunEstimate estimate_run(const RunFile& run, const RunInputs& inputs, Backend& backend,
                         Communicator& group, const Cluster& cluster, PlacementMode mode) {
    RunEstimate estimate;
    estimate.mode = mode;
    std::unique_ptr<Trainer> trainer;
    try {
        trainer = plan_trainer(run, inputs, backend, group, {cluster.memory, 0}, mode);
        estimate.fits = true;
    } catch (const AgreedError&) {
        RunFile least = run;
        if (run.train.recompute == "auto") least.train.recompute = "always";
        trainer = plan_trainer(least, inputs, backend, group, {}, mode);
    }
    estimate.bytes = trainer->planned_bytes();
    estimate.host_bytes = trainer->host_bytes();
    estimate.recomputed_layers = trainer->recomputed_layers();
    estimate.received = trainer->planned_traffic(slots_of_step(run));

    // What a rank gets from the ranks of its own node stays there.
    const double ranks = cluster.ranks(), local = cluster.ranks_per_node;
    const double into_node = ranks > 1 ? local * (ranks - local) / (ranks - 1) : 0;
    const bool streamed = mode == PlacementMode::kHostStreamed;
    const auto base = static_cast<double>(estimate.received.gather);
    const double gather = streamed ? 0 : into_node * base,
                 reduce = into_node * static_cast<double>(estimate.received.reduce);
    estimate.node_bytes = gather + reduce;
    estimate.network_seconds = estimate.node_bytes / cluster.bandwidth;

    const ModelConfig& config = inputs.model.config();
    const UsefulFlops flops = useful_flops(config, &trainer->adapter_layout());
    const StepWork work = work_of(*inputs.data, inputs.total_steps, flops, cluster.ranks());
    estimate.step_flops = work.flops;
    // Forward is half of what a layer costs: the frozen base has no gradient of weights.
    if (cluster.flops == 0) return estimate;
    const double again =
        0.5 * static_cast<double>(estimate.recomputed_layers) / static_cast<double>(config.layers);
    const double computing = work.slowest * (1 + again) / cluster.flops;
    estimate.compute_seconds = computing;
    // Layers travel while others are computed, gradients when all are done.
    const double travel = streamed ? base / kUploadRate : gather / cluster.bandwidth;
    const double step = std::max(computing, travel) + reduce / cluster.bandwidth;
    estimate.step_seconds = step;
    const std::int64_t between =
        run.eval.every > 0 ? std::max<std::int64_t>(0, inputs.total_steps - 1) / run.eval.every : 0;
    const double evaluation = 0.5 * flops.of(inputs.validation) / (cluster.flops * ranks);
    estimate.run_seconds = static_cast<double>(inputs.total_steps) * step +
                           static_cast<double>(between + 2) * evaluation;
    return estimate;
}

}  // namespace qshard
