#include "main/train_run.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "comm/agree.h"
#include "comm/signals.h"
#include "io/checkpoint/atomic_file.h"
#include "io/peft/adapter_folder.h"
#include "main/train_examples.h"
#include "main/train_screen.h"

namespace qshard {
namespace {

constexpr SectionKind kLoad{"load", 0};
constexpr SectionKind kStep{"step", 0};
constexpr SectionKind kEvaluate{"evaluate", 0};
constexpr std::int64_t kMaxNonfinite = 5;   ///< in a row
constexpr double kSaveReserveSeconds = 20;  ///< a full save fits in this

double since(std::chrono::steady_clock::time_point begin) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// As TRL, which trains no supervised objective on pairs: what to learn from them is the user's
/// choice.
void refuse_pairs(const Split& split) {
    if (split.pairs.empty()) return;
    throw UserError(fmt::format(
        "{}: the row is a preference pair (chosen, rejected), which objective.type sft does not "
        "train on.\nTo train on the chosen answers, rename \"chosen\" to \"completion\", or set "
        "data.template and data.completion_column: chosen. As data.test, pairs are measured by "
        "qshard eval --split test.",
        split.pairs.front().chosen.place));
}

}  // namespace

TrainRun::TrainRun(const TrainArguments& arguments, RunFile run, Communicator& group,
                   int local_ranks, const Launch* launch)
    : arguments_(arguments),
      run_(std::move(run)),
      group_(group),
      local_ranks_(local_ranks),
      launch_(launch),
      style_(TerminalStyle::of_stderr(run_.log.color)) {}

TrainRun::~TrainRun() = default;

void TrainRun::execute() {
    try {
        open();
        plan();
        if (speaks()) print_start();
        if (arguments_.dry_run) return;
        prepare_output();
        load_model();
        resume();
        train_loop();
        finish();
    } catch (const Error& error) {
        const bool agreed = dynamic_cast<const AgreedError*>(&error) != nullptr;
        if (output_ready_ && (speaks() || !agreed)) {
            const bool preempted = error.code() == ExitCode::kPreempted;
            RunCause cause;
            cause.rank = agreed ? -1 : group_.rank();
            cause.host = launch_ != nullptr ? launch_->host() : "";
            cause.pid = getpid();
            cause.message = error.what();
            if (watchdog_) cause.section = watchdog_->section().name;
            write_status(preempted ? "preempted" : "failed", static_cast<int>(error.code()), cause);
        }
        throw;
    }
}

AdapterOptions TrainRun::adapter_options() const {
    AdapterOptions options;
    options.r = run_.adapter.r;
    options.alpha = run_.adapter.alpha;
    options.dropout = run_.adapter.dropout;
    options.use_rslora = run_.adapter.use_rslora;
    options.use_dora = run_.adapter.use_dora;
    const std::string& init = run_.adapter.init_lora_weights;
    options.init = init == "gaussian" ? AdapterInit::kGaussian
                   : init == "false"  ? AdapterInit::kRandom
                                      : AdapterInit::kDefault;
    options.target_modules = run_.adapter.target_modules;
    options.target_pattern = run_.adapter.target_pattern;
    options.target_parameters = run_.adapter.target_parameters;
    options.exclude_modules = run_.adapter.exclude_modules;
    options.exclude_pattern = run_.adapter.exclude_pattern;
    options.layers = parse_layers(run_.adapter.layers);
    options.rank_pattern = run_.adapter.rank_pattern;
    options.alpha_pattern = run_.adapter.alpha_pattern;
    options.modules_to_save = run_.adapter.modules_to_save;
    options.bias = bias_named(run_.adapter.bias);
    return options;
}

TrainerOptions TrainRun::trainer_options(PlacementMode mode) const {
    TrainerOptions options;
    options.compute = dtype_named(run_.model.compute_dtype).value();
    options.placement = mode;
    options.recompute = recompute_named(run_.train.recompute);
    options.memory_limit = memory_limit_;
    options.max_slot_tokens = run_.train.micro_batch_size * run_.data.max_length;
    options.max_step_slots = run_.train.global_batch_size / run_.train.micro_batch_size;
    options.optimizer.kind = run_.train.optimizer == "sgd"       ? OptimizerKind::kSgd
                             : run_.train.optimizer == "rmsprop" ? OptimizerKind::kRmsProp
                                                                 : OptimizerKind::kAdamW;
    options.optimizer.beta1 = run_.train.betas[0];
    options.optimizer.beta2 = run_.train.betas[1];
    options.optimizer.weight_decay = run_.train.weight_decay;
    const std::string& scheduler = run_.train.lr_scheduler_type;
    options.schedule.kind = scheduler == "constant"               ? LrScheduler::kConstant
                            : scheduler == "linear"               ? LrScheduler::kLinear
                            : scheduler == "constant_with_warmup" ? LrScheduler::kConstantWithWarmup
                                                                  : LrScheduler::kCosine;
    options.schedule.learning_rate = run_.train.learning_rate;
    options.schedule.total_steps = total_steps_;
    options.schedule.warmup_steps = run_.train.warmup_steps.value_or(static_cast<std::int64_t>(
        std::ceil(run_.train.warmup_ratio * static_cast<double>(total_steps_))));
    options.max_grad_norm = run_.train.max_grad_norm;
    options.seed = run_.train.seed;
    options.saves = true;
    return options;
}

void TrainRun::open() {
    agree(group_, "reading model and data", [this] {
        model_ = open_text_model(run_.model.base, run_.model.tokenizer);
        resolve_quantization(run_.model, *model_.source.weights);
        encoder_ = std::make_unique<ModelEncoder>(model_, run_.data);
        if (run_.data.max_length > model_.config().max_positions &&
            model_.config().max_positions > 0) {
            throw UserError(
                ExitCode::kUsage,
                fmt::format(
                    "data.max_length is {}, but the model was made for {} positions. Try {}.",
                    run_.data.max_length, model_.config().max_positions,
                    model_.config().max_positions));
        }
        Dataset dataset = load_dataset(dataset_options(run_), encoder_->rows());
        refuse_pairs(dataset.train);
        refuse_pairs(dataset.validation);
        std::vector<EncodedRow>& rows = dataset.validation.rows;
        if (run_.eval.max_rows > 0 && static_cast<std::int64_t>(rows.size()) > run_.eval.max_rows) {
            rows.resize(static_cast<std::size_t>(run_.eval.max_rows));
        }
        validation_rows_ = static_cast<std::int64_t>(rows.size());
        example_rows_ = choose_examples(rows);
        validation_ = evaluation_slots(rows, run_.train.micro_batch_size * run_.data.max_length);
        data_ = std::make_unique<TrainingSet>(std::move(dataset.train), batch_options(run_));
        total_steps_ = run_.train.max_steps.value_or(static_cast<std::int64_t>(
            std::ceil(run_.train.epochs * static_cast<double>(data_->steps_per_epoch()))));
    });
    for (const std::string& other : group_.all_gather_strings(data_->sha256())) {
        if (other == data_->sha256()) continue;
        throw AgreedError(
            ExitCode::kRanksDisagree,
            "the ranks read different training data. Put the data on a file system that every node "
            "sees the same.");
    }
}

void TrainRun::plan() {
    const bool alone = group_.count() == 1;
    backend_ = make_agreed_backend({run_.placement.backend, run_.placement.cpu_isa,
                                    run_.placement.threads, run_.placement.ranks_per_gpu},
                                   group_, local_ranks_);
    memory_limit_ = static_cast<std::size_t>(run_.placement.memory_limit.value_or(
        static_cast<std::int64_t>(default_memory_limit(*backend_, local_ranks_))));
    std::size_t smallest = memory_limit_;
    for (std::size_t limit : group_.all_gather_value(memory_limit_))
        smallest = std::min(smallest, limit);
    memory_limit_ = smallest;  // the plan must be one for all ranks
    auto make = [&](PlacementMode mode) {
        agree(group_, "planning the memory", [&] {
            const LayoutOptions layout = layout_options_for(
                *model_.source.weights, quantization_named(run_.model.quantization),
                run_.model.double_quant, dtype_named(run_.model.compute_dtype).value());
            trainer_ = std::make_unique<Trainer>(*backend_, group_, model_.config(), layout,
                                                 adapter_options(), trainer_options(mode));
        });
    };
    if (run_.placement.mode == "gathered") {
        why_placement_ = "gathered, as asked for";
        return make(PlacementMode::kGathered);
    }
    if (run_.placement.mode == "replicated" || alone) {
        why_placement_ = alone ? "one rank" : "replicated, as asked for";
        return make(PlacementMode::kReplicated);
    }
    try {
        make(PlacementMode::kReplicated);
        why_placement_ = "replicated: the base fits on every rank";
    } catch (const Error&) {
        make(PlacementMode::kGathered);
        why_placement_ = "gathered: the base does not fit on every rank";
    }
}

void TrainRun::print_start() const {
    StartScreen screen;
    screen.run = &run_;
    screen.model = &model_;
    screen.data = data_.get();
    screen.validation_rows = validation_rows_;
    screen.trainer = trainer_.get();
    screen.backend = backend_.get();
    screen.group = &group_;
    screen.why_placement = why_placement_;
    screen.memory_limit = memory_limit_;
    screen.total_steps = total_steps_;
    std::fputs(start_screen(screen).c_str(), stdout);
    if (arguments_.dry_run) std::fputs(run_.to_yaml().c_str(), stdout);
    std::fflush(stdout);
}

void TrainRun::lost(const Culprit& culprit) {
    RunCause cause;
    cause.rank = culprit.rank;
    cause.host = culprit.host;
    cause.pid = culprit.pid;
    cause.section = culprit.section;
    cause.message = culprit.message();
    write_status("failed", static_cast<int>(ExitCode::kPeerLost), cause);
    std::fprintf(stderr, "qshard: %s\n", culprit.message().c_str());
    std::fflush(stderr);
    launch_->abort(static_cast<int>(ExitCode::kPeerLost));
}

void TrainRun::load_model() {
    const Section section(watchdog_.get(), kLoad, 0);
    const bool quantizes =
        run_.model.quantization != "none" && !quantized_form_of(*model_.source.weights);
    ProgressBar bar(quantizes ? "quantizing" : "loading   ", 100, style_, speaks());
    agree(group_, "loading the model", [&] {
        trainer_->load(
            *model_.source.weights, backend_->threads(),
            [&](std::int64_t done, std::int64_t total) {
                bar.update(done * 100 / std::max<std::int64_t>(total, 1),
                           fmt::format("{:.0f} M weights a rank", static_cast<double>(done) / 1e6));
            });
    });
    bar.finish();
    base_fingerprint_ = trainer_->base_fingerprint();
}

void TrainRun::train_loop() {
    ProgressBar bar("training  ", total_steps_, style_, speaks());
    bar.start_at(first_step_);
    for (std::int64_t step = first_step_; step < total_steps_; ++step) {
        StepResult result;
        {
            const Section section(watchdog_.get(), kStep, step);
            result = trainer_->step(*data_, step, step, watchdog_.get());
        }
        nonfinite_in_a_row_ = result.finite ? 0 : nonfinite_in_a_row_ + 1;
        nonfinite_steps_ += result.finite ? 0 : 1;
        after_step(result, step, bar);
        if (nonfinite_in_a_row_ >= kMaxNonfinite) {
            throw AgreedError(
                ExitCode::kBug,
                fmt::format(
                    "loss or gradient was not finite in {} steps in a row (now step {}): the "
                    "adapter was not changed by them. Try a smaller train.learning_rate.",
                    kMaxNonfinite, step + 1));
        }
        const bool last = step + 1 == total_steps_;
        const bool stop = !last && stop_requested(result.seconds.total);
        const bool due = run_.checkpoint.every > 0 && (step + 1) % run_.checkpoint.every == 0;
        if (due || last || stop || stop_early_) save(step + 1, result.loss);
        if (stop) {
            bar.finish();
            throw AgreedError(
                ExitCode::kPreempted,
                fmt::format(
                    "saved step {} of {} as asked (signal or time limit); start again to go on",
                    step + 1, total_steps_));
        }
        if (stop_early_) {
            bar.message(fmt::format("stopping early: no better evaluation in {} evaluations",
                                    *run_.eval.early_stop));
            break;
        }
    }
}

void TrainRun::after_step(const StepResult& result, std::int64_t step, ProgressBar& bar) {
    last_loss_ = result.loss;
    slowest_step_ = std::max(slowest_step_, result.seconds.total);
    status_step_ = step + 1;
    if (speaks()) {
        if (!result.finite)
            bar.message(fmt::format("step {}: loss or gradient is not finite; skipped", step + 1));
        if ((step + 1) % run_.log.every == 0 || step + 1 == total_steps_) log_step(result, step);
        const double rate =
            static_cast<double>(result.info.tokens) / std::max(1e-9, result.seconds.total);
        bar.update(step + 1, fmt::format("step {}/{}  loss {:.4f}  {:.0f} tokens/s", step + 1,
                                         total_steps_, result.loss, rate));
    }
    if (validation_.empty() || run_.eval.every == 0 || (step + 1) % run_.eval.every != 0 ||
        step + 1 == total_steps_) {
        return;
    }
    const EvalResult eval = evaluate_validation();
    if (speaks()) {
        metrics_->append(fmt::format(R"({{"step":{},"eval_loss":{},"eval_tokens":{}}})", step + 1,
                                     json_number(eval.loss), eval.supervised_tokens));
        if (events_) events_->scalar("eval/loss", step + 1, eval.loss);
        bar.message(fmt::format("step {}: validation loss {:.4f}", step + 1, eval.loss));
    }
    const bool better = !evaluated_ || eval.loss < best_loss_;
    if (better) best_loss_ = eval.loss;
    evaluated_ = true;
    evaluations_without_gain_ = better ? 0 : evaluations_without_gain_ + 1;
    stop_early_ = run_.eval.early_stop && evaluations_without_gain_ >= *run_.eval.early_stop;
}

void TrainRun::log_step(const StepResult& result, std::int64_t step) {
    metrics_->append(metrics_line(result, step + 1));
    if (!events_) return;
    const double rate =
        static_cast<double>(result.info.tokens) / std::max(1e-9, result.seconds.total);
    events_->scalar("train/loss", step + 1, result.loss);
    events_->scalar("train/grad_norm", step + 1, result.grad_norm);
    events_->scalar("train/learning_rate", step + 1, result.learning_rate);
    events_->scalar("train/tokens_per_second", step + 1, rate);
}

/// All ranks act on the strongest request of any of them, so that they save the same step.
bool TrainRun::stop_requested(double step_seconds) {
    int wish = run_.checkpoint.on_signal ? static_cast<int>(signal_request()) : 0;
    std::optional<double> limit;
    if (run_.checkpoint.time_limit) {
        limit = static_cast<double>(*run_.checkpoint.time_limit);
    } else if (const char* end = std::getenv("SLURM_JOB_END_TIME")) {
        limit = std::strtod(end, nullptr) - static_cast<double>(std::time(nullptr)) + since(begin_);
    }
    if (limit &&
        since(begin_) + 2 * std::max(step_seconds, slowest_step_) + kSaveReserveSeconds > *limit) {
        wish = std::max(wish, static_cast<int>(SignalRequest::kSave));
    }
    for (int other : group_.all_gather_value(wish)) wish = std::max(wish, other);
    return wish > 0;
}

EvalResult TrainRun::evaluate_validation() {
    const Section section(watchdog_.get(), kEvaluate, status_step_);
    return trainer_->evaluate(validation_);
}

void TrainRun::write_status(const std::string& state, int exit_code,
                            std::optional<RunCause> cause) {
    RunStatus status;
    status.state = state;
    status.step = status_step_;
    status.total_steps = total_steps_;
    status.exit_code = exit_code;
    status.starts_without_progress = starts_without_progress_;
    status.cause = std::move(cause);
    write_run_status(std::filesystem::path(run_.output) / "run_status.json", status);
}

void TrainRun::finish() {
    EvalResult before, after;
    if (!validation_.empty()) {
        after = evaluate_validation();
        const std::vector<float> trained = trainer_->adapter();
        std::vector<float> none(trained.size(), 0.0f);
        {
            const Section section(watchdog_.get(), kEvaluate, status_step_);
            trainer_->fill_from_base(none);
        }
        trainer_->set_adapter(none);
        before = evaluate_validation();
        trainer_->set_adapter(trained);
    }
    std::vector<Report::Example> examples;
    {
        const Section section(watchdog_.get(), kEvaluate, status_step_);
        examples = answer_examples(*trainer_, *backend_, group_, model_, example_rows_,
                                   run_.eval.generate_max_new_tokens, memory_limit_);
    }
    agree(group_, "writing the results", [&] {
        if (!speaks()) return;
        const std::filesystem::path output = run_.output;
        CheckpointState state =
            make_state(status_step_ == 0 ? first_step_ : status_step_, last_loss_);
        if (!validation_.empty()) {
            metrics_->append(fmt::format(
                R"({{"step":{},"eval_loss":{},"eval_loss_base":{},"eval_tokens":{}}})", state.step,
                json_number(after.loss), json_number(before.loss), after.supervised_tokens));
            metrics_->sync();
        }
        write_peft_adapter(output / "adapter", state);
        write_report(before, after, examples);
        write_status("finished", 0, std::nullopt);
        EndScreen screen;
        screen.run = &run_;
        screen.before = before;
        screen.after = after;
        screen.validation_rows = validation_rows_;
        screen.adapter_sha256 = adapter_sha256(state);
        screen.steps = state.step;
        screen.seconds = since(begin_);
        screen.examples = examples;
        std::fputs(end_screen(screen).c_str(), stdout);
        std::fflush(stdout);
    });
    if (watchdog_) watchdog_->stop();
}

void TrainRun::write_report(const EvalResult& before, const EvalResult& after,
                            std::span<const Report::Example> examples) {
    ReportFacts facts;
    facts.run = &run_;
    facts.model = &model_;
    facts.trainer = trainer_.get();
    facts.before = before;
    facts.after = after;
    facts.validation_rows = validation_rows_;
    facts.steps = status_step_;
    facts.seconds = since(begin_);
    facts.loss = last_loss_;
    facts.backend = backend_.get();
    facts.ranks = group_.count();
    facts.examples = examples;
    write_file_atomic(std::filesystem::path(run_.output) / "report.html",
                      std::string_view(report_html(facts)));
}

}  // namespace qshard
