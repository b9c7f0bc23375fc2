#include "main/train_run.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "comm/agree.h"
#include "comm/signals.h"
#include "main/run_plan.h"
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

}  // namespace

TrainRun::TrainRun(const TrainArguments& arguments, RunFile run, Communicator& group,
                   int local_ranks, const Launch* launch)
    : arguments_(arguments),
      run_(std::move(run)),
      group_(group),
      local_ranks_(local_ranks),
      launch_(launch),
      style_(TerminalStyle::of_stderr(run_.log.color)),
      time_limit_(time_limit_of(run_.checkpoint.time_limit, std::getenv("SLURM_JOB_END_TIME"),
                                std::time(nullptr))),
      early_(run_.eval.early_stop) {}

TrainRun::~TrainRun() = default;

void TrainRun::execute() {
    try {
        check_settings();
        if (!arguments_.dry_run) claim_output();
        share_template_date();
        open();
        plan();
        if (!arguments_.dry_run) check_resumed();
        if (!arguments_.dry_run && nothing_to_do()) return;
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

/// Of the run file alone, so every rank says the same.
void TrainRun::check_settings() const {
    const auto limit = run_.checkpoint.time_limit;
    if (limit && static_cast<double>(*limit) <= kSaveReserveSeconds) {
        throw AgreedError(
            ExitCode::kUsage,
            fmt::format("checkpoint.time_limit is {} s, of which the last {:.0f} s are kept for "
                        "saving: nothing would be left to train in. Expected more than that, or "
                        "auto (Slurm's limit).",
                        *limit, kSaveReserveSeconds));
    }
}

void TrainRun::open() {
    agree(group_, "reading model and data",
          [this] { inputs_ = std::make_unique<RunInputs>(run_, template_date_); });
    for (const std::string& other : group_.all_gather_strings(inputs_->data->sha256())) {
        if (other == inputs_->data->sha256()) continue;
        throw AgreedError(
            ExitCode::kRanksDisagree,
            "the ranks read different training data. Put the data on a file system that every node "
            "sees the same.");
    }
}

void TrainRun::plan() {
    backend_ = make_agreed_backend({run_.placement.backend, run_.placement.cpu_isa,
                                    run_.placement.threads, run_.placement.ranks_per_gpu},
                                   group_, local_ranks_);
    memory_limit_ = static_cast<std::size_t>(run_.placement.memory_limit.value_or(
        static_cast<std::int64_t>(default_memory_limit(*backend_, local_ranks_))));
    std::size_t smallest = memory_limit_;
    for (std::size_t limit : group_.all_gather_value(memory_limit_))
        smallest = std::min(smallest, limit);
    memory_limit_ = smallest;  // the plan must be one for all ranks
    PlacedTrainer placed = place_trainer(run_, *inputs_, *backend_, group_,
                                         {memory_limit_, host_memory_limit(local_ranks_)});
    trainer_ = std::move(placed.trainer);
    why_placement_ = std::move(placed.why);
}

void TrainRun::print_start() const {
    StartScreen screen;
    screen.run = &run_;
    screen.inputs = inputs_.get();
    screen.width = terminal_width(STDOUT_FILENO);
    screen.trainer = trainer_.get();
    screen.backend = backend_.get();
    screen.group = &group_;
    screen.why_placement = why_placement_;
    screen.memory_limit = memory_limit_;
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
        run_.model.quantization != "none" && !quantized_form_of(*inputs_->model.source.weights);
    ProgressBar bar(quantizes ? "quantizing" : "loading   ", 100, style_, speaks());
    agree(group_, "loading the model", [&] {
        trainer_->load(
            *inputs_->model.source.weights, backend_->threads(),
            [&](std::int64_t done, std::int64_t total) {
                bar.update(done * 100 / std::max<std::int64_t>(total, 1),
                           fmt::format("{:.0f} M weights a rank", static_cast<double>(done) / 1e6));
            });
    });
    bar.finish();
    if (!trainer_->host_pinned()) {
        std::fprintf(stderr,
                     "warning: rank %d: the host locks no memory for the base, so uploads to the "
                     "GPU are slower. Try a larger ulimit -l.\n",
                     group_.rank());
    }
    base_fingerprint_ = trainer_->base_fingerprint();
}

void TrainRun::train_loop() {
    ProgressBar bar("training  ", inputs_->total_steps, style_, speaks());
    bar.start_at(first_step_);
    if (speaks() && !time_limit_.warning.empty())
        std::fprintf(stderr, "warning: %s\n", time_limit_.warning.c_str());
    // The start before this one had to save in a hurry.
    if (evaluated_step_ < first_step_ && first_step_ < inputs_->total_steps &&
        evaluation_due(first_step_))
        evaluate_after(first_step_, bar);
    for (std::int64_t step = first_step_; step < inputs_->total_steps && !early_.stops(); ++step) {
        StepResult result;
        // Not a scope: what comes between two steps is of this one.
        if (watchdog_) watchdog_->enter(kStep, step);
        result = trainer_->step(*inputs_->data, step, step, watchdog_.get());
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
        const bool last = step + 1 == inputs_->total_steps;
        std::string stop = last ? std::string() : why_stop(result.seconds.total);
        // Who is about to be killed saves first; the next start evaluates. The end evaluates
        // anyway; but a run that goes on later with more steps stops where one that never ended
        // does.
        is_best_ = false;
        if (stop.empty() && (!last || early_.on()) && evaluation_due(step + 1)) {
            evaluate_after(step + 1, bar);
            if (!last) stop = why_stop(result.seconds.total);
        }
        const bool due = run_.checkpoint.every > 0 && (step + 1) % run_.checkpoint.every == 0;
        if (due || last || !stop.empty() || early_.stops() || is_best_) save(step + 1, result.loss);
        if (!stop.empty()) {
            bar.finish();
            if (speaks() && run_.checkpoint.time_limit && step == first_step_) {
                std::fprintf(stderr,
                             "warning: checkpoint.time_limit %lld s leaves time for one step a "
                             "start\n",
                             static_cast<long long>(*run_.checkpoint.time_limit));
            }
            throw AgreedError(ExitCode::kPreempted,
                              fmt::format("saved step {} of {} because of {}; start again to go on",
                                          step + 1, inputs_->total_steps, stop));
        }
        if (early_.stops()) {
            bar.message(fmt::format("stopping early: no better evaluation in {} evaluations",
                                    *run_.eval.early_stop));
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
        if ((step + 1) % run_.log.every == 0 || step + 1 == inputs_->total_steps)
            log_step(result, step);
        const double rate =
            static_cast<double>(result.info.tokens) / std::max(1e-9, result.seconds.total);
        bar.update(step + 1, fmt::format("step {}/{}  loss {:.4f}  {:.0f} tokens/s", step + 1,
                                         inputs_->total_steps, result.loss, rate));
    }
}

bool TrainRun::evaluation_due(std::int64_t step) const {
    return !inputs_->validation.empty() && run_.eval.every > 0 && step % run_.eval.every == 0;
}

void TrainRun::evaluate_after(std::int64_t step, ProgressBar& bar) {
    const EvalResult eval = evaluate_validation();
    if (speaks()) {
        metrics_->append(fmt::format(R"({{"step":{},"eval_loss":{},"eval_tokens":{}}})", step,
                                     json_number(eval.loss), eval.supervised_tokens));
        if (events_) events_->scalar("eval/loss", step, eval.loss);
        bar.message(fmt::format("step {}: validation loss {:.4f}", step, eval.loss));
    }
    evaluated_step_ = step;
    is_best_ = early_.on() && early_.add(step, eval.loss);
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

/// What ends this start now, for the message; "" if nothing does. All ranks act on what any of them
/// got, so that they save the same step.
std::string TrainRun::why_stop(double step_seconds) {
    constexpr int kTimeLimit = 1 << 16;  // beyond all signals
    int reason = run_.checkpoint.on_signal ? requesting_signal() : 0;
    if (time_limit_.seconds &&
        since(begin_) + 2 * std::max(step_seconds, slowest_step_) + kSaveReserveSeconds >
            *time_limit_.seconds) {
        reason = std::max(reason, kTimeLimit);
    }
    for (int other : group_.all_gather_value(reason)) reason = std::max(reason, other);
    if (reason == 0) return "";
    if (reason == kTimeLimit) return "the time limit (" + time_limit_.name + ")";
    return fmt::format("SIG{}", sigabbrev_np(reason));
}

/// On a thread of its own, after a second Ctrl-C.
void TrainRun::end_at_once() {
    RunCause cause;
    cause.rank = group_.rank();
    cause.host = launch_ != nullptr ? launch_->host() : "";
    cause.pid = getpid();
    cause.signal = SIGINT;
    if (watchdog_) cause.section = watchdog_->section().name;
    cause.message = "ended at once by a second Ctrl-C; steps after the last checkpoint are lost";
    write_status("failed", 128 + SIGINT, cause);
}

EvalResult TrainRun::evaluate_validation() {
    const Section section(watchdog_.get(), kEvaluate, status_step_);
    return trainer_->evaluate(inputs_->validation);
}

void TrainRun::write_status(const std::string& state, int exit_code,
                            std::optional<RunCause> cause) {
    RunStatus status;
    status.state = state;
    status.step = status_step_;
    status.total_steps = inputs_->total_steps;
    status.exit_code = exit_code;
    status.starts_without_progress = starts_without_progress_;
    status.saved_step = durable_step_;
    status.cause = std::move(cause);
    write_run_status(std::filesystem::path(run_.output) / "run_status.json", status);
}

}  // namespace qshard
