#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "io/report/html_report.h"
#include "io/run/run_file.h"
#include "main/run_data.h"
#include "main/session.h"
#include "train/trainer.h"

/// What `qshard train` says: the screen at the start, metrics lines, the screen at the end.
namespace qshard {

struct StartScreen {
    const RunFile* run = nullptr;
    const RunInputs* inputs = nullptr;
    const Trainer* trainer = nullptr;
    const Backend* backend = nullptr;
    const Communicator* group = nullptr;
    std::string why_placement;
    std::size_t memory_limit = 0;
    int width = 0;  ///< of the terminal; 0: lines are not wrapped
};
std::string start_screen(const StartScreen& screen);

struct EndScreen {
    const RunFile* run = nullptr;
    EvalResult before, after;
    std::int64_t validation_rows = 0;
    std::string adapter_sha256;
    std::string which_adapter;  ///< with early stopping: of which step adapter/ is
    std::int64_t steps = 0;
    double seconds = 0;
    std::span<const Report::Example> examples;
    int width = 0;  ///< of the terminal; 0: lines are not wrapped
};
std::string end_screen(const EndScreen& screen);
/// The line of adapter/ in the folder `output`.
std::string adapter_row(const std::string& output, const std::string& adapter_sha256);

/// The line of metrics.jsonl for one step.
std::string metrics_line(const StepResult& result, std::int64_t step);
/// 1234567 -> "1,234,567".
std::string grouped(std::int64_t value);
/// A number as JSON has it; null if it is not finite.
std::string json_number(double value);

/// Total parameters of a model.
std::int64_t parameter_count(const ModelConfig& config);
/// Last components of the adapted modules, each once: PEFT's target_modules without all-linear.
std::vector<std::string> target_names(const AdapterLayout& layout);

}  // namespace qshard
