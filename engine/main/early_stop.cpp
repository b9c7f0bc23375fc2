#include "main/early_stop.h"

#include <cmath>

namespace qshard {
namespace {

constexpr const char* kBestStep = "early_stop.best_step";
constexpr const char* kBestLoss = "early_stop.best_loss";
constexpr const char* kWithoutGain = "early_stop.evaluations_without_gain";

double counter(const std::map<std::string, double>& counters, const char* name) {
    const auto found = counters.find(name);
    return found == counters.end() ? 0 : found->second;
}

}  // namespace

bool EarlyStop::add(std::int64_t step, double loss) {
    const bool better = std::isfinite(loss) && (facts_.best_step == 0 || loss < facts_.best_loss);
    facts_.without_gain = better ? 0 : facts_.without_gain + 1;
    if (!better) return false;
    facts_.best_step = step;
    facts_.best_loss = loss;
    return true;
}

void EarlyStop::write(std::map<std::string, double>& counters) const {
    if (!on()) return;
    counters[kBestStep] = static_cast<double>(facts_.best_step);
    counters[kBestLoss] = facts_.best_loss;
    counters[kWithoutGain] = static_cast<double>(facts_.without_gain);
}

void EarlyStop::read(const std::map<std::string, double>& counters) {
    if (!on()) return;
    facts_.best_step = best_step_of(counters);
    facts_.best_loss = counter(counters, kBestLoss);
    facts_.without_gain = static_cast<std::int64_t>(counter(counters, kWithoutGain));
}

std::int64_t best_step_of(const std::map<std::string, double>& counters) {
    return static_cast<std::int64_t>(counter(counters, kBestStep));
}

}  // namespace qshard
