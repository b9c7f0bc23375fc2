#pragma once

#include <memory>

#include "main/run_data.h"
#include "train/trainer.h"

/// Where a run computes and the memory that takes, decided in the same way before and at training.
namespace qshard {

/// A trainer in one placement. AgreedError if that does not fit in memory_limit (bytes of a rank,
/// 0 = none). Collective.
std::unique_ptr<Trainer> plan_trainer(const RunFile& run, const RunInputs& inputs, Backend& backend,
                                      Communicator& group, std::size_t memory_limit,
                                      PlacementMode mode);

struct PlacedTrainer {
    std::unique_ptr<Trainer> trainer;
    PlacementMode mode = PlacementMode::kReplicated;
    std::string why;  ///< "gathered: the base does not fit on every rank"
};
/// In the placement that the run file asks for, or the first that fits. AgreedError if none does.
/// Collective.
PlacedTrainer place_trainer(const RunFile& run, const RunInputs& inputs, Backend& backend,
                            Communicator& group, std::size_t memory_limit);

}  // namespace qshard
