#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "synthetic.h"
#include "train/trainer.h"

/// Some steps of training on synthetic data, to compare what comes out of one way to do them with
/// what comes out of another.
namespace qshard::test {

struct Variant {
    int ranks = 1;
    int threads = 1;
    PlacementMode placement = PlacementMode::kReplicated;
    Recompute recompute = Recompute::kNever;
    std::string_view backend = {};
    double dropout = 0;
    std::uint64_t seed = 42;
    bool dora = false;
    std::vector<std::string> modules_to_save = {};
    AdapterBias bias = AdapterBias::kNone;
    std::size_t memory_limit = 0;
};

struct Outcome {
    std::string adapter_sha256, base;
    std::vector<double> losses;
    std::uint64_t gathers = 0, exchanges = 0;
    std::size_t resident = 0, planned = 0, beside = 0;
    std::int64_t group_slots = 0, batch_slots = 0;
    std::uint64_t received = 0;  ///< of the base, in the last step
    double evaluated = 0;
};

/// Trains, evaluates and checks on the way what holds for every run.
Outcome run(const Variant& variant, int steps, DType compute = DType::kBF16,
            OptimizerKind optimizer = OptimizerKind::kAdamW,
            Quantization quantization = Quantization::kNf4,
            const ModelConfig& config = small_config());

/// A GPU where that is under test, else its emulation.
std::string_view gpu();
/// The CPU's backend where the host cannot touch its memory, with the CPU's bits; under test is
/// another, that one.
std::string_view guarded();

}  // namespace qshard::test
