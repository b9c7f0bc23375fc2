#include "train/optimizer.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace qshard {

double learning_rate(const ScheduleOptions& options, std::int64_t completed) {
    const auto s = static_cast<double>(completed), w = static_cast<double>(options.warmup_steps);
    const auto t = static_cast<double>(options.total_steps);
    double factor = 1;
    if (options.kind != LrScheduler::kConstant && completed < options.warmup_steps) {
        factor = s / std::max(1.0, w);
    } else if (options.kind == LrScheduler::kLinear) {
        factor = std::max(0.0, (t - s) / std::max(1.0, t - w));
    } else if (options.kind == LrScheduler::kCosine) {
        const double progress = (s - w) / std::max(1.0, t - w);
        factor = std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * progress)));
    }
    return options.learning_rate * factor;
}

Optimizer::Optimizer(Backend& backend, const OptimizerOptions& options,
                     std::vector<Stretch> stretches, Arena& arena)
    : backend_(backend),
      options_(options),
      stretches_(std::move(stretches)),
      count_(stretches_.empty() ? 0 : stretches_.back().begin + stretches_.back().count),
      arena_(arena) {
    std::vector<std::string> names;
    switch (options.kind) {
        case OptimizerKind::kAdamW:
            names = {"exp_avg", "exp_avg_sq"};
            break;
        case OptimizerKind::kSgd:
            names = {"momentum_buffer"};
            break;
        case OptimizerKind::kRmsProp:
            names = {"square_avg"};
            break;
    }
    for (const std::string& name : names) {
        moments_.push_back({name, arena.reserve("optimizer " + name,
                                                static_cast<std::size_t>(count_) * sizeof(float))});
    }
}

Tensor Optimizer::moment(std::size_t index) const {
    return arena_.tensor(moments_.at(index).handle, DType::kF32, {count_});
}

void Optimizer::start() {
    for (std::size_t i = 0; i < moments_.size(); ++i) backend_.fill_zero(moment(i));
}

void Optimizer::step(Tensor parameter, Tensor gradient, double rate, std::int64_t step_number) {
    for (const Stretch& stretch : stretches_)
        update(stretch, parameter, gradient, rate, step_number);
}

void Optimizer::update(const Stretch& stretch, Tensor parameter, Tensor gradient, double rate,
                       std::int64_t step_number) {
    const auto part = [&stretch](const Tensor& flat) {
        return Tensor(flat.as<float>() + stretch.begin, DType::kF32, {stretch.count});
    };
    const auto lr = static_cast<float>(rate);
    const auto decay = stretch.decays ? static_cast<float>(options_.weight_decay) : 0.0f;
    switch (options_.kind) {
        case OptimizerKind::kAdamW:
            backend_.adamw(
                {lr, static_cast<float>(options_.beta1), static_cast<float>(options_.beta2),
                 static_cast<float>(options_.epsilon), decay, step_number},
                part(parameter), part(gradient), part(moment(0)), part(moment(1)));
            break;
        case OptimizerKind::kSgd:
            backend_.sgd({lr, static_cast<float>(options_.momentum), decay, step_number},
                         part(parameter), part(gradient), part(moment(0)));
            break;
        case OptimizerKind::kRmsProp:
            backend_.rmsprop({lr, static_cast<float>(options_.alpha),
                              static_cast<float>(options_.epsilon), decay, 0},
                             part(parameter), part(gradient), part(moment(0)), Tensor());
            break;
    }
}

std::vector<std::string> Optimizer::state_names() const {
    std::vector<std::string> names;
    for (const Moment& one : moments_) names.push_back(one.name);
    return names;
}

std::map<std::string, std::vector<float>> Optimizer::state() const {
    std::map<std::string, std::vector<float>> state;
    for (std::size_t i = 0; i < moments_.size(); ++i) {
        std::vector<float>& values = state[moments_[i].name];
        values.resize(static_cast<std::size_t>(count_));
        backend_.download(values.data(), moment(i).data(), moment(i).bytes());
    }
    return state;
}

void Optimizer::load(const std::map<std::string, std::vector<float>>& state) {
    for (std::size_t i = 0; i < moments_.size(); ++i) {
        const auto it = state.find(moments_[i].name);
        if (it == state.end() || static_cast<std::int64_t>(it->second.size()) != count_) {
            throw UserError(fmt::format(
                "the checkpoint has no optimizer state \"{}\" of {} values: it was made with "
                "another optimizer or adapter",
                moments_[i].name, count_));
        }
        backend_.upload(moment(i).data(), it->second.data(), moment(i).bytes());
    }
}

}  // namespace qshard
