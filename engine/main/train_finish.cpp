#include <unistd.h>

#include <cmath>
#include <cstdio>

#include "comm/agree.h"
#include "io/checkpoint/atomic_file.h"
#include "io/peft/adapter_folder.h"
#include "main/train_examples.h"
#include "main/train_report.h"
#include "main/train_run.h"
#include "main/train_screen.h"

/// The part of TrainRun that ends a run: the last evaluation, which adapter it hands over, the
/// report.
namespace qshard {
namespace {

constexpr SectionKind kEvaluate{"evaluate", 0};

}  // namespace

/// With early stopping: the best checkpoint in the place of the last step, whose evaluation is
/// `after`, unless that is better. Returns it on rank 0. Collective.
std::optional<CheckpointState> TrainRun::take_best(EvalResult& after) {
    const std::int64_t best_step = early_.best_step();
    if (best_step == 0 || best_step == status_step_ || after.loss < early_.best_loss()) return {};
    std::optional<CheckpointState> best;
    agree(group_, "loading the best checkpoint", [&] {
        if (!speaks()) return;
        if (auto loaded = store_->load_step(best_step)) best = std::move(loaded->state);
        if (best) return;
        std::fprintf(stderr,
                     "warning: the checkpoint of the best evaluation (step %lld) is not there any "
                     "more: adapter/ is of the last step\n",
                     static_cast<long long>(best_step));
    });
    if (group_.all_gather_value<int>(best ? 1 : 0)[0] == 0) return {};
    std::vector<float> values = best ? best->adapter : trainer_->adapter();
    group_.broadcast(std::as_writable_bytes(std::span(values)), 0).wait();
    trainer_->set_adapter(values);
    after = evaluate_validation();
    return best;
}

void TrainRun::evaluate_base(EvalResult& before) {
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

void TrainRun::finish() {
    EvalResult before, after;
    std::optional<CheckpointState> best;
    if (!inputs_->validation.empty()) {
        after = evaluate_validation();
        if (early_.on()) best = take_best(after);
        evaluate_base(before);
    }
    std::vector<Report::Example> examples;
    {
        const Section section(watchdog_.get(), kEvaluate, status_step_);
        examples = answer_examples(*trainer_, *backend_, group_, inputs_->model, inputs_->examples,
                                   run_.eval.generate_max_new_tokens, memory_limit_);
    }
    agree(group_, "writing the results", [&] {
        if (!speaks()) return;
        const std::filesystem::path output = run_.output;
        CheckpointState state = best ? std::move(*best) : make_state(status_step_, last_loss_);
        state.optimizer.clear();  // no part of the adapter's folder
        if (!inputs_->validation.empty()) {
            metrics_->append(fmt::format(
                R"({{"step":{},"eval_loss":{},"eval_loss_base":{},"eval_tokens":{}}})", state.step,
                json_number(after.loss), json_number(before.loss), after.supervised_tokens));
            metrics_->sync();
        }
        write_peft_adapter(output / "adapter", state);
        std::string which;
        if (early_.on() && early_.best_step() > 0) {
            which =
                state.step == status_step_
                    ? fmt::format("of the last step, {}, whose evaluation is the best",
                                  status_step_)
                    : fmt::format("of step {}, whose evaluation is the best; the last step is {}",
                                  state.step, status_step_);
        }
        write_report(before, after, examples, which);
        write_status("finished", 0, std::nullopt);
        EndScreen screen;
        screen.run = &run_;
        screen.before = before;
        screen.after = after;
        screen.validation_rows = inputs_->validation_rows;
        screen.width = terminal_width(STDOUT_FILENO);
        screen.adapter_sha256 = adapter_sha256(state);
        screen.steps = status_step_;
        screen.which_adapter = which;
        screen.seconds =
            std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
        screen.examples = examples;
        std::fputs(end_screen(screen).c_str(), stdout);
        std::fflush(stdout);
    });
    if (watchdog_) watchdog_->stop();
}

void TrainRun::write_report(const EvalResult& before, const EvalResult& after,
                            std::span<const Report::Example> examples,
                            const std::string& which_adapter) {
    ReportFacts facts;
    facts.run = &run_;
    facts.inputs = inputs_.get();
    facts.trainer = trainer_.get();
    facts.backend = backend_.get();
    facts.group = &group_;
    facts.before = before;
    facts.after = after;
    facts.first_step = first_step_;
    facts.steps = status_step_;
    facts.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
    facts.loss = last_loss_;
    facts.adapter_sha256 = adapter_sha256(trainer_->adapter());
    facts.which_adapter = which_adapter;
    facts.examples = examples;
    write_file_atomic(std::filesystem::path(run_.output) / "report.html",
                      std::string_view(report_html(facts)));
}

}  // namespace qshard
