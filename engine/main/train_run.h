#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/launch.h"
#include "comm/signals.h"
#include "comm/watchdog.h"
#include "io/checkpoint/folder_lock.h"
#include "io/checkpoint/store.h"
#include "io/report/html_report.h"
#include "io/report/metrics_log.h"
#include "io/report/run_status.h"
#include "io/report/tensorboard.h"
#include "main/early_stop.h"
#include "main/output_folder.h"
#include "main/progress.h"
#include "main/run_data.h"
#include "main/run_identity.h"
#include "main/session.h"
#include "main/time_limit.h"
#include "train/trainer.h"

namespace qshard {

struct TrainArguments {
    std::string run_file;
    std::vector<std::string> overrides;
    std::string resume = "auto";  ///< auto | never | a checkpoint file | a folder with some
    bool dry_run = false;
    int ranks = 1;  ///< as threads of this process
};

/// One rank of `qshard train`, from the run file to the adapter. Rank 0 alone speaks and writes.
class TrainRun {
  public:
    TrainRun(const TrainArguments& arguments, RunFile run, Communicator& group, int local_ranks,
             const Launch* launch);
    ~TrainRun();
    /// Runs to the end. Throws Error; kPreempted after a save that a signal or the time limit asked
    /// for.
    void execute();

  private:
    void check_settings() const;
    void claim_output();
    void share_template_date();
    void open();
    void plan();
    void print_start() const;
    std::string finished_adapter() const;
    void check_base(const CheckpointState& state) const;
    bool nothing_to_do();
    void check_resumed();
    void prepare_output();
    void go_back();
    void start_watchdog();
    void load_model();
    void resume();
    void start_from(const std::string& path);
    void share(CheckpointState& state);
    void train_loop();
    void after_step(const StepResult& result, std::int64_t step, ProgressBar& bar);
    void log_step(const StepResult& result, std::int64_t step);
    std::string why_stop(double step_seconds);
    bool evaluation_due(std::int64_t step) const;
    void evaluate_after(std::int64_t step, ProgressBar& bar);
    void end_at_once();
    EvalResult evaluate_validation();
    void save(std::int64_t step, double loss);
    void check_agreement(const std::string& sha256);
    void finish();
    std::optional<CheckpointState> take_best(EvalResult& after);
    void evaluate_base(EvalResult& before);
    void write_report(const EvalResult& before, const EvalResult& after,
                      std::span<const Report::Example> examples, const std::string& which_adapter);
    void write_status(const std::string& state, int exit_code, std::optional<RunCause> cause);
    void lost(const Culprit& culprit);
    CheckpointState make_state(std::int64_t step, double loss) const;
    RunFacts facts() const;
    bool speaks() const { return group_.rank() == 0; }

    const TrainArguments arguments_;
    RunFile run_;  ///< what it leaves to the model is resolved by open()
    Communicator& group_;
    const int local_ranks_;
    const Launch* launch_;
    const TerminalStyle style_;
    std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
    const TimeLimit time_limit_;

    std::string template_date_;  ///< of a chat template that asks for one, the same on every rank
    std::unique_ptr<RunInputs> inputs_;
    std::unique_ptr<Backend> backend_;
    std::unique_ptr<Trainer> trainer_;
    std::size_t memory_limit_ = 0;
    std::string why_placement_;
    std::int64_t first_step_ = 0;
    std::string base_fingerprint_;
    std::vector<float> initial_adapter_;
    FoundRun found_;             ///< rank 0 only
    std::string branched_from_;  ///< lineage_name() of where this branch began, or ""
    std::int64_t nonfinite_steps_ = 0, nonfinite_in_a_row_ = 0;
    EarlyStop early_;
    bool is_best_ = false;  ///< the last evaluation is the best so far
    double slowest_step_ = 0, last_loss_ = 0;
    std::int64_t saved_step_ = -1;
    /// Of the newest evaluation; in checkpoints under this name.
    std::int64_t evaluated_step_ = 0;
    static constexpr const char* kEvaluatedStep = "evaluated_step";

    std::unique_ptr<FolderLock> lock_;  ///< rank 0 only, like the rest
    std::unique_ptr<CheckpointStore> store_;
    std::unique_ptr<MetricsLog> metrics_;
    std::unique_ptr<EventWriter> events_;
    bool output_ready_ = false;
    std::int64_t status_step_ = 0, starts_without_progress_ = 0;
    std::int64_t durable_step_ = 0;  ///< of the newest checkpoint; 0: none
    std::unique_ptr<Watchdog> watchdog_;
    std::unique_ptr<InterruptWatch> interrupts_;  ///< rank 0 only
};

}  // namespace qshard
