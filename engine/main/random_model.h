#pragma once

#include <cstdint>
#include <string>

#include "spec/batch.h"
#include "spec/weights.h"

/// Models and data made of random numbers, for benchmarks: speed does not depend on values.
namespace qshard {

/// The shape of SmolLM2-135M, Llama-3.2-1B, Llama-3-8B or 70B ("135m", "1b", "8b", "70b"), whole.
ModelConfig config_of_shape(const std::string& shape);

/// Weights of a shape: small, of zero mean, and a function of (name, position) alone.
class RandomWeights final : public WeightReader {
  public:
    explicit RandomWeights(ModelConfig config) : config_(std::move(config)) {}
    const ModelConfig& config() const override { return config_; }
    DType source_dtype(const WeightSpec&) const override { return DType::kBF16; }
    void read(const WeightSpec& weight, std::int64_t first, std::span<float> out) const override;
    std::string sha256() const override { return "random weights"; }
    std::int64_t file_bytes() const override { return 0; }

  private:
    ModelConfig config_;
};

/// Slots of `documents` documents of `length` random tokens, every position supervised.
class RandomBatches final : public BatchSource {
  public:
    RandomBatches(std::int64_t vocabulary, std::int64_t slots, std::int64_t documents,
                  std::int64_t length)
        : vocabulary_(vocabulary), slots_(slots), documents_(documents), length_(length) {}
    std::int64_t steps_per_epoch() const override { return 1; }
    StepInfo step(std::int64_t step) const override;
    Slot slot(std::int64_t step, std::int64_t index) const override;
    std::string sha256() const override { return "random tokens"; }

  private:
    std::int64_t vocabulary_, slots_, documents_, length_;
};

}  // namespace qshard
