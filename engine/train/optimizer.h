#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "spec/words.h"
#include "tensor/arena.h"

namespace qshard {

struct OptimizerOptions {
    OptimizerKind kind = OptimizerKind::kAdamW;
    double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
    double momentum = 0.9;  ///< SGD
    double alpha = 0.99;    ///< RMSprop
    double weight_decay = 0;
};

struct ScheduleOptions {
    LrScheduler kind = LrScheduler::kCosine;
    double learning_rate = 2e-4;
    std::int64_t warmup_steps = 0, total_steps = 1;
};

/// Learning rate of the update that follows `completed` optimizer steps, as transformers' LambdaLR
/// schedules (the first update of a warm-up has rate 0).
double learning_rate(const ScheduleOptions& options, std::int64_t completed);

/// Elements [begin, begin + count) of the flat vector.
struct Stretch {
    std::int64_t begin = 0, count = 0;
    bool decays = true;  ///< weight_decay is for it
};

/// Updates the flat fp32 vector, all of `stretches`. Its state is one or two flat vectors, named as
/// torch names them.
class Optimizer {
  public:
    Optimizer(Backend& backend, const OptimizerOptions& options, std::vector<Stretch> stretches,
              Arena& arena);
    /// Zeroes the state; once, after the arena is allocated.
    void start();
    /// step_number counts from 1.
    void step(Tensor parameter, Tensor gradient, double rate, std::int64_t step_number);

    std::size_t state_bytes() const {
        return moments_.size() * static_cast<std::size_t>(count_) * sizeof(float);
    }
    std::map<std::string, std::vector<float>> state() const;
    std::vector<std::string> state_names() const;
    /// UserError if the names or lengths are another optimizer's.
    void load(const std::map<std::string, std::vector<float>>& state);

  private:
    struct Moment {
        std::string name;
        Arena::Handle handle;
    };
    Tensor moment(std::size_t index) const;
    void update(const Stretch& stretch, Tensor parameter, Tensor gradient, double rate,
                std::int64_t step_number);

    Backend& backend_;
    const OptimizerOptions options_;
    const std::vector<Stretch> stretches_;
    const std::int64_t count_;
    Arena& arena_;
    std::vector<Moment> moments_;
};

}  // namespace qshard
