#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/device_arena.h"
#include "comm/communicator.h"
#include "comm/watchdog.h"
#include "place/frozen_base.h"
#include "place/slot_runner.h"
#include "spec/batch.h"
#include "train/optimizer.h"
#include "train/slot_tree.h"

namespace qshard {

struct TrainerOptions {
    DType compute = DType::kBF16;
    PlacementMode placement = PlacementMode::kReplicated;
    Recompute recompute = Recompute::kAuto;
    std::size_t memory_limit = 0;       ///< bytes of this rank, 0 = none
    std::size_t host_memory_limit = 0;  ///< of a base in host memory beside a device's; 0 = none
    std::int64_t max_slot_tokens = 0;   ///< micro_batch_size * max_length
    std::int64_t max_step_slots = 1;    ///< global_batch_size / micro_batch_size
    OptimizerOptions optimizer;
    ScheduleOptions schedule;
    double max_grad_norm = 1.0;  ///< 0 = no clipping
    std::uint64_t seed = 42;     ///< of the adapter's dropout
    bool train = true;           ///< false: evaluation only
    bool saves = false;          ///< plan for the checkpoints of what it trains
};

/// A part of the memory plan.
struct PlannedMemory {
    std::string name;
    std::size_t bytes = 0;
};

/// Bytes that one step brings to a rank.
struct StepTraffic {
    std::uint64_t gather = 0;  ///< of the base: from other ranks, host-streamed from its host
    std::uint64_t reduce = 0;  ///< of the gradient, from other ranks
};

/// Seconds of one step by section; they add up to `total`. A device that computes beside its host
/// times gather to backward itself; what it waits for the host's launches is in them.
struct StepSeconds {
    double data = 0, gather = 0, expand = 0, forward = 0, head = 0, backward = 0, reduce = 0,
           optimizer = 0, other = 0;
    double total = 0;
};

struct StepResult {
    StepInfo info;
    double loss = 0;       ///< mean over the supervised tokens of the step
    double grad_norm = 0;  ///< before clipping
    double learning_rate = 0;
    bool finite = true;       ///< false: no update was made
    double useful_flops = 0;  ///< of all ranks
    StepSeconds seconds;      ///< of this rank
    StepTraffic received;     ///< by this rank
};

struct EvalResult {
    double loss = 0;
    std::int64_t supervised_tokens = 0;
};

/// One rank of a training run: owns its memory, does one optimizer step in order, and contains
/// neither arithmetic nor file formats. All calls that compute are collective.
class Trainer {
  public:
    /// Plans the memory; allocates nothing. UserError if the plan is larger than the limit, with
    /// what would fit.
    Trainer(Backend& backend, Communicator& group, const ModelConfig& config,
            const LayoutOptions& layout_options, const AdapterOptions& adapter_options,
            const TrainerOptions& options);
    ~Trainer();
    Trainer(const Trainer&) = delete;
    Trainer& operator=(const Trainer&) = delete;

    const AdapterLayout& adapter_layout() const { return adapter_; }
    const ModelLayout& layout() const { return layout_; }
    /// Largest first; the base is one part.
    std::vector<PlannedMemory> memory_plan() const;
    std::size_t planned_bytes() const;
    std::int64_t recomputed_layers() const { return choice_.recomputed_layers; }
    /// Bytes of the frozen base that stay on this rank.
    std::size_t resident_base_bytes() const;
    /// What a training step of `slot_count` slots will receive.
    StepTraffic planned_traffic(std::int64_t slot_count) const;
    /// Memory of the host beside the plan, which is the device's: of a base that stays there.
    std::size_t host_bytes() const;
    /// False after load() if the host refused to lock that memory, so that uploads are slower.
    bool host_pinned() const;
    /// Slots that go through the layers together, and those of them that one call computes.
    std::int64_t group_slots() const { return choice_.group_slots; }
    std::int64_t batch_slots() const { return choice_.batch_slots; }

    /// Allocates and imports the base. Collective.
    void load(const WeightReader& reader, int threads, const ImportProgress& progress);
    /// FrozenBase::fingerprint(). Collective.
    std::string base_fingerprint();

    void set_adapter(std::span<const float> values);
    /// Fills in what an untrained adapter has of the base: trained weights are the base's own, and
    /// DoRA's magnitudes the norms of the rows of W + scale B A, with which the adapter does what
    /// it does without DoRA. The adapter set is then another. Collective.
    void fill_from_base(std::span<float> values);
    std::vector<float> adapter() const;
    Optimizer& optimizer();
    DType compute() const { return options_.compute; }
    /// The base, and the adapter's values on the backend, after load(): for an Inference beside it.
    WeightSource& weights();
    const float* adapter_values() const;

    /// Optimizer step number `step` (0 = first) on the source's step `data_step`.
    StepResult step(const BatchSource& source, std::int64_t step, std::int64_t data_step,
                    Watchdog* watchdog);
    /// Loss over slots, shared out over the ranks. All ranks pass the same slots.
    EvalResult evaluate(std::span<const Slot> slots);

  private:
    struct Parts;
    /// What a plan chooses so that it fits.
    struct Choice {
        std::int64_t recomputed_layers = 0, group_slots = 1, batch_slots = 1;
    };
    /// Reserves everything a rank needs in `arena`.
    std::unique_ptr<Parts> make_parts(const TrainerOptions& options, const Choice& choice,
                                      Arena& arena) const;
    std::size_t bytes_with(const TrainerOptions& options, const Choice& choice) const;
    Choice smallest(const TrainerOptions& options) const;
    bool in_host_memory() const { return backend_.memory_bytes() == 0; }
    std::size_t counted_host_bytes(const Parts& parts) const;
    std::size_t saving_bytes(const Parts& parts) const;
    std::vector<PlannedMemory> plan_of(const Arena& arena, const Parts& parts) const;
    std::size_t total_of(const Arena& arena, const Parts& parts) const;
    std::int64_t slots_of_a_rank(const TrainerOptions& options) const;
    std::int64_t most_slots(const TrainerOptions& options) const;
    void plan();
    void choose_batch();
    bool fits(const Choice& choice) const;
    std::int64_t fewest_recomputed(Choice choice) const;
    double cost(const Choice& choice) const;
    void refuse_placement() const;
    [[noreturn]] void refuse(std::size_t needed) const;
    double sum_over_slots(const std::vector<double>& mine);

    Backend& backend_;
    Communicator& group_;
    const ModelConfig& config_;
    const LayoutOptions layout_options_;
    TrainerOptions options_;
    ModelLayout layout_;
    AdapterLayout adapter_;
    std::unique_ptr<DeviceArena> arena_;
    std::unique_ptr<Parts> parts_;
    Choice choice_;
};

/// The memory plan as a table with its total and the limit, and the host's memory beside it.
std::string memory_table(const Trainer& trainer, std::size_t limit);
/// "1.4 GiB", "23.0 MiB".
std::string human_bytes(std::size_t bytes);

}  // namespace qshard
