#include "main/run_plan.h"

#include <cmath>

#include "comm/agree.h"

namespace qshard {
namespace {

LayoutOptions layout_options(const RunFile& run, const RunInputs& inputs) {
    return layout_options_for(*inputs.model.source.weights,
                              quantization_named(run.model.quantization), run.model.double_quant,
                              dtype_named(run.model.compute_dtype).value());
}

AdapterOptions adapter_options(const RunFile& run) {
    AdapterOptions options;
    options.r = run.adapter.r;
    options.alpha = run.adapter.alpha;
    options.dropout = run.adapter.dropout;
    options.use_rslora = run.adapter.use_rslora;
    options.use_dora = run.adapter.use_dora;
    options.init = meaning(kAdapterInitWords, run.adapter.init_lora_weights);
    options.target_modules = run.adapter.target_modules;
    options.target_pattern = run.adapter.target_pattern;
    options.target_parameters = run.adapter.target_parameters;
    options.exclude_modules = run.adapter.exclude_modules;
    options.exclude_pattern = run.adapter.exclude_pattern;
    options.layers = parse_layers(run.adapter.layers);
    options.rank_pattern = run.adapter.rank_pattern;
    options.alpha_pattern = run.adapter.alpha_pattern;
    options.modules_to_save = run.adapter.modules_to_save;
    options.bias = meaning(kAdapterBiasWords, run.adapter.bias);
    return options;
}

TrainerOptions trainer_options(const RunFile& run, const RunInputs& inputs, PlacementMode mode,
                               const MemoryLimits& limits) {
    TrainerOptions options;
    options.compute = dtype_named(run.model.compute_dtype).value();
    options.placement = mode;
    options.recompute = meaning(kRecomputeWords, run.train.recompute);
    options.memory_limit = limits.rank;
    options.host_memory_limit = limits.host;
    options.max_slot_tokens = run.train.micro_batch_size * run.data.max_length;
    options.max_step_slots = slots_of_step(run);
    options.optimizer.kind = meaning(kOptimizerWords, run.train.optimizer);
    options.optimizer.beta1 = run.train.betas[0];
    options.optimizer.beta2 = run.train.betas[1];
    options.optimizer.weight_decay = run.train.weight_decay;
    options.schedule.kind = meaning(kLrSchedulerWords, run.train.lr_scheduler_type);
    options.schedule.learning_rate = run.train.learning_rate;
    options.schedule.total_steps = inputs.total_steps;
    options.schedule.warmup_steps = run.train.warmup_steps.value_or(static_cast<std::int64_t>(
        std::ceil(run.train.warmup_ratio * static_cast<double>(inputs.total_steps))));
    options.max_grad_norm = run.train.max_grad_norm;
    options.seed = run.train.seed;
    options.saves = true;
    return options;
}

}  // namespace

std::unique_ptr<Trainer> plan_trainer(const RunFile& run, const RunInputs& inputs, Backend& backend,
                                      Communicator& group, const MemoryLimits& limits,
                                      PlacementMode mode) {
    std::unique_ptr<Trainer> trainer;
    agree(group, "planning the memory", [&] {
        trainer = std::make_unique<Trainer>(backend, group, inputs.model.config(),
                                            layout_options(run, inputs), adapter_options(run),
                                            trainer_options(run, inputs, mode, limits));
    });
    return trainer;
}

PlacedTrainer place_trainer(const RunFile& run, const RunInputs& inputs, Backend& backend,
                            Communicator& group, const MemoryLimits& limits) {
    const auto planned = [&](PlacementMode mode, const std::string& why) {
        return PlacedTrainer{plan_trainer(run, inputs, backend, group, limits, mode), mode, why};
    };
    const bool alone = group.count() == 1;
    if (run.placement.mode != "auto")
        return planned(meaning(kPlacementWords, run.placement.mode),
                       run.placement.mode + ", as asked for");
    if (alone && backend.host_accessible()) return planned(PlacementMode::kReplicated, "one rank");
    try {
        return planned(PlacementMode::kReplicated,
                       alone ? "one rank" : "replicated: the base fits on every rank");
    } catch (const AgreedError&) {
        if (alone)
            return planned(PlacementMode::kHostStreamed,
                           "host_streamed: the base does not fit on the GPU");
        return planned(PlacementMode::kGathered, "gathered: the base does not fit on every rank");
    }
}

}  // namespace qshard
