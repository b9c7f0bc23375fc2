#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace qshard {

/// eval.early_stop: which evaluation was the best, and when to stop for want of a better one. A
/// function of the evaluations alone, so every rank has the same, and a checkpoint's counters keep
/// it over a resume.
class EarlyStop {
  public:
    EarlyStop() = default;
    /// `patience`: evaluations in a row without a better one; absent: nothing is kept.
    explicit EarlyStop(std::optional<std::int64_t> patience) : patience_(patience) {}

    bool on() const { return patience_.has_value(); }
    /// The evaluation after `step` steps. True if it is the best so far; a loss that is not finite
    /// never is.
    bool add(std::int64_t step, double loss);
    bool stops() const { return patience_ && facts_.without_gain >= *patience_; }
    /// Steps of the best evaluation; 0 before the first one.
    std::int64_t best_step() const { return facts_.best_step; }
    double best_loss() const { return facts_.best_loss; }

    /// To and from the counters of a checkpoint, which may lack them.
    void write(std::map<std::string, double>& counters) const;
    void read(const std::map<std::string, double>& counters);

    /// All there is to know, for the other ranks.
    struct Facts {
        std::int64_t best_step = 0, without_gain = 0;
        double best_loss = 0;
    };
    const Facts& facts() const { return facts_; }
    void set(const Facts& facts) { facts_ = facts; }

  private:
    std::optional<std::int64_t> patience_;
    Facts facts_;
};

/// The step whose checkpoint is to be kept as the best, of a checkpoint's counters; 0: none.
std::int64_t best_step_of(const std::map<std::string, double>& counters);

}  // namespace qshard
