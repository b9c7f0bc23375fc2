#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/launch.h"
#include "comm/watchdog.h"
#include "io/checkpoint/store.h"
#include "io/report/html_report.h"
#include "io/report/metrics_log.h"
#include "io/report/run_status.h"
#include "io/report/tensorboard.h"
#include "main/progress.h"
#include "main/run_data.h"
#include "main/session.h"
#include "train/trainer.h"

namespace qshard {

struct TrainArguments {
    std::string run_file;
    std::vector<std::string> overrides;
    std::string resume = "auto";  ///< auto | never | a checkpoint file
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
    void open();
    void plan();
    void print_start() const;
    void prepare_output();
    void load_model();
    void resume();
    void start_from(const std::string& path);
    void share(CheckpointState& state);
    void train_loop();
    void after_step(const StepResult& result, std::int64_t step, ProgressBar& bar);
    void log_step(const StepResult& result, std::int64_t step);
    bool stop_requested(double step_seconds);
    EvalResult evaluate_validation();
    void save(std::int64_t step, double loss);
    void check_agreement(const std::string& sha256);
    void finish();
    void write_report(const EvalResult& before, const EvalResult& after,
                      std::span<const Report::Example> examples);
    void write_status(const std::string& state, int exit_code, std::optional<RunCause> cause);
    void lost(const Culprit& culprit);
    CheckpointState make_state(std::int64_t step, double loss) const;
    std::map<std::string, std::string> identity() const;
    void check_identity(const CheckpointState& state) const;
    std::string checkpoint_name() const;
    bool speaks() const { return group_.rank() == 0; }

    const TrainArguments arguments_;
    RunFile run_;  ///< what it leaves to the model is resolved by open()
    Communicator& group_;
    const int local_ranks_;
    const Launch* launch_;
    const TerminalStyle style_;
    std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();

    std::unique_ptr<RunInputs> inputs_;
    std::unique_ptr<Backend> backend_;
    std::unique_ptr<Trainer> trainer_;
    std::size_t memory_limit_ = 0;
    std::string why_placement_;
    std::int64_t first_step_ = 0;
    std::string base_fingerprint_;
    std::vector<float> initial_adapter_;
    std::optional<CheckpointState> resumed_;  ///< rank 0 only
    std::int64_t nonfinite_steps_ = 0, nonfinite_in_a_row_ = 0;
    double best_loss_ = 0;
    std::int64_t evaluations_without_gain_ = 0;
    bool evaluated_ = false, stop_early_ = false;
    double slowest_step_ = 0, last_loss_ = 0;
    std::int64_t saved_step_ = -1;

    std::unique_ptr<CheckpointStore> store_;  ///< rank 0 only, like the rest
    std::unique_ptr<MetricsLog> metrics_;
    std::unique_ptr<EventWriter> events_;
    bool output_ready_ = false;
    std::int64_t status_step_ = 0, starts_without_progress_ = 0;
    std::unique_ptr<Watchdog> watchdog_;
};

}  // namespace qshard
