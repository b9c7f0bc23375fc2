#include <algorithm>
#include <cstdio>

#include "base/hash.h"
#include "comm/agree.h"
#include "comm/signals.h"
#include "io/checkpoint/atomic_file.h"
#include "io/peft/peft_config.h"
#include "main/adapter_file.h"
#include "main/train_run.h"
#include "main/train_screen.h"
#include "main/version.h"

/// The part of TrainRun that writes into the output folder while it trains.
namespace qshard {
namespace {

constexpr SectionKind kStart{"start", 0};
constexpr SectionKind kSave{"save", 600};
constexpr double kSilenceSeconds = 60;

/// What makes PEFT choose the modules of `layout`. It has no layers beside a pattern or all-linear,
/// names alone would choose modules of a wrapped model's vision part too, and of a pattern it keeps
/// only the names on a mixture.
void set_targets(PeftConfig& config, const RunFile::Adapter& adapter, const AdapterLayout& layout,
                 const ModelConfig& model) {
    config.exclude_modules = adapter.exclude_modules;
    config.exclude_pattern = adapter.exclude_pattern;
    config.layers_to_transform = parse_layers(adapter.layers);
    const bool everywhere = config.layers_to_transform.empty();
    if (everywhere) config.target_parameters = layout.options.target_parameters;
    for (const AdapterTarget& target : layout.targets) {
        // PEFT has no layers for parameters.
        if (target.is_parameter() && !everywhere) config.target_parameters.push_back(target.path());
    }
    if (adapter.target_pattern.empty() && !model.wrapped) {
        const std::vector<std::string>& names = layout.options.target_modules;
        const bool all = names == std::vector<std::string>{"all-linear"};
        config.target_modules = all ? target_names(layout) : names;
    } else if (everywhere && !model.wrapped && model.experts == 0) {
        config.target_pattern = adapter.target_pattern;
    } else {
        config.layers_to_transform.clear();
        for (const AdapterTarget& target : layout.targets) {
            if (!target.is_parameter()) config.target_modules.push_back(target.module);
        }
    }
}

}  // namespace

void TrainRun::prepare_output() {
    const std::filesystem::path output = run_.output;
    agree(group_, "preparing the output folder", [&] {
        if (!speaks()) return;
        store_ = std::make_unique<CheckpointStore>(output / "checkpoints");
        const CheckpointState* resumed = found_.checkpoint ? &found_.checkpoint->state : nullptr;
        if (found_.chosen) go_back();
        status_step_ = durable_step_ = resumed != nullptr ? resumed->step : 0;
        starts_without_progress_ = found_.status ? found_.status->starts_without_progress + 1 : 1;
        metrics_ = std::make_unique<MetricsLog>(output / "metrics.jsonl",
                                                resumed != nullptr ? resumed->metrics_bytes : 0,
                                                resumed != nullptr ? resumed->metrics_sha256 : "");
        if (!metrics_->warning().empty())
            std::fprintf(stderr, "warning: %s\n", metrics_->warning().c_str());
        write_file_atomic(output / "run.yaml", std::string_view(run_.to_yaml_inside()));
        forget_events_after(output / "tensorboard", status_step_);
        if (run_.log.tensorboard) {
            events_ = std::make_unique<EventWriter>(output / "tensorboard", status_step_ + 1);
        }
        write_status("running", 0, std::nullopt);
    });
    // Any rank may have to write the status of the end.
    starts_without_progress_ = group_.all_gather_value(starts_without_progress_)[0];
    durable_step_ = group_.all_gather_value(durable_step_)[0];
    output_ready_ = true;
    start_watchdog();
    if (!run_.checkpoint.on_signal) return;
    install_signal_flags();
    if (speaks()) interrupts_ = std::make_unique<InterruptWatch>([this] { end_at_once(); });
}

/// The checkpoint that --resume named becomes the newest, and what its run did after it is set
/// aside. Rank 0 only.
void TrainRun::go_back() {
    const LoadedCheckpoint& chosen = *found_.checkpoint;
    const auto aside = store_->go_back_to(chosen.state, chosen.file,
                                          std::filesystem::path(run_.output) / "metrics.jsonl");
    branched_from_ = lineage_name(chosen.state);
    if (!aside) return;
    std::fprintf(stderr,
                 "going back to step %lld: the checkpoints after it, and metrics.jsonl, are now in "
                 "%s; remove that folder when you do not need them\n",
                 static_cast<long long>(chosen.state.step), aside->c_str());
}

void TrainRun::start_watchdog() {
    if (group_.count() == 1 || launch_ == nullptr) return;
    watchdog_ = std::make_unique<Watchdog>(group_, Watchdog::Options{kSilenceSeconds, 5},
                                           [this](const Culprit& culprit) { lost(culprit); });
    if (watchdog_->unheard() > 0 && speaks()) {
        std::fprintf(stderr,
                     "warning: heartbeats of %d ranks do not arrive (UDP blocked?); a silent "
                     "rank will not "
                     "be noticed\n",
                     watchdog_->unheard());
    }
    watchdog_->enter(kStart, 0);
}

CheckpointState TrainRun::make_state(std::int64_t step, double loss) const {
    CheckpointState state;
    state.step = state.data_step = step;
    state.epoch = static_cast<double>(step) /
                  static_cast<double>(std::max<std::int64_t>(1, inputs_->data->steps_per_epoch()));
    state.seed = run_.train.seed;
    state.nonfinite_steps = nonfinite_steps_;
    state.nonfinite_in_a_row = nonfinite_in_a_row_;
    state.counters[kEvaluatedStep] = static_cast<double>(evaluated_step_);
    const AdapterLayout& layout = trainer_->adapter_layout();
    for (AdapterTensor& tensor : tensors_of(layout))
        state.tensors.push_back({std::move(tensor.name), tensor.shape, tensor.offset});
    state.adapter = trainer_->adapter();
    state.optimizer_name = run_.train.optimizer;
    state.optimizer = trainer_->optimizer().state();
    PeftConfig config;
    config.r = run_.adapter.r;
    config.alpha = run_.adapter.alpha;
    config.dropout = run_.adapter.dropout;
    config.use_rslora = run_.adapter.use_rslora;
    config.use_dora = run_.adapter.use_dora;
    config.fan_in_fan_out = inputs_->model.config().conv1d;
    config.init_lora_weights = run_.adapter.init_lora_weights;
    config.rank_pattern = layout.options.rank_pattern;
    config.alpha_pattern = layout.options.alpha_pattern;
    config.modules_to_save = run_.adapter.modules_to_save;
    config.bias = run_.adapter.bias;
    set_targets(config, run_.adapter, layout, inputs_->model.config());
    config.base_model = run_.model.base;
    state.adapter_config_json = peft_config_text(config);
    state.counters["data.rows"] = static_cast<double>(inputs_->data->stats().rows);
    state.run_yaml = run_.to_yaml();
    state.identity = identity_of(facts());
    if (!branched_from_.empty()) state.identity["branched_from"] = branched_from_;
    early_.write(state.counters);
    state.metrics_bytes = metrics_->bytes();
    state.metrics_sha256 = metrics_->sha256();
    state.loss = loss;
    state.created = utc_now();
    fill_update_norms(state, initial_adapter_);
    return state;
}

/// Silent divergence ends the run before it reaches a file.
void TrainRun::check_agreement(const std::string& sha256) {
    const std::vector<std::string> all = group_.all_gather_strings(sha256);
    for (std::size_t r = 1; r < all.size(); ++r) {
        if (all[r] == all[0]) continue;
        throw AgreedError(ExitCode::kRanksDisagree,
                          fmt::format("the adapters of rank 0 and rank {} differ after step "
                                      "{}: memory or processor of a "
                                      "node is at fault. The last checkpoint is good.",
                                      r, status_step_));
    }
}

void TrainRun::save(std::int64_t step, double loss) {
    const Section section(watchdog_.get(), kSave, step);
    const std::string sha256 = adapter_sha256(trainer_->adapter());
    check_agreement(sha256);
    agree(group_, "saving the checkpoint", [&] {
        if (!speaks() || step == saved_step_) return;
        lock_->check_held();
        metrics_->append(
            fmt::format(R"({{"step":{},"adapter_sha256":"{}"}})", step, sha256.substr(0, 16)));
        metrics_->sync();
        store_->save(make_state(step, loss), static_cast<int>(run_.checkpoint.keep),
                     early_.best_step());
        saved_step_ = durable_step_ = step;
        starts_without_progress_ = 0;
        write_status("running", 0, std::nullopt);
    });
    durable_step_ = step;
    starts_without_progress_ = 0;
}

}  // namespace qshard
