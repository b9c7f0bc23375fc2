#pragma once

#include <memory>

#include "main/run_data.h"
#include "train/trainer.h"

/// Where a run computes and the memory that takes, decided in the same way before and at training.
namespace qshard {

/// Bytes that a rank may take, 0 = no limit.
struct MemoryLimits {
    std::size_t rank = 0;  ///< where it computes
    std::size_t host = 0;  ///< of the host's memory beside a GPU's
};

/// A trainer in one placement. AgreedError if that does not fit. Collective.
std::unique_ptr<Trainer> plan_trainer(const RunFile& run, const RunInputs& inputs, Backend& backend,
                                      Communicator& group, const MemoryLimits& limits,
                                      PlacementMode mode);

struct PlacedTrainer {
    std::unique_ptr<Trainer> trainer;
    PlacementMode mode = PlacementMode::kReplicated;
    std::string why;  ///< "gathered: the base does not fit on every rank"
};
/// In the placement that the run file asks for, or the first that fits. AgreedError if none does.
/// Collective.
PlacedTrainer place_trainer(const RunFile& run, const RunInputs& inputs, Backend& backend,
                            Communicator& group, const MemoryLimits& limits);

}  // namespace qshard
