#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "io/report/html_report.h"
#include "io/run/run_file.h"
#include "main/run_data.h"
#include "train/trainer.h"

namespace qshard {

/// What the report of a finished run tells.
struct ReportFacts {
    const RunFile* run = nullptr;
    const RunInputs* inputs = nullptr;
    const Trainer* trainer = nullptr;
    const Backend* backend = nullptr;
    const Communicator* group = nullptr;
    EvalResult before, after;      ///< of the validation rows; without tokens if there are none
    std::int64_t first_step = 0;   ///< of this start: more than 0 after a resume
    std::int64_t steps = 0;        ///< done, of inputs->total_steps
    double seconds = 0, loss = 0;  ///< of this start; of the last step
    std::string adapter_sha256;    ///< of the adapter folder's values
    std::string which_adapter;  ///< which step's values that folder has, with early stopping; or ""
    std::span<const Report::Example> examples;
};
/// report.html of the output folder; its curves are those of metrics.jsonl there.
std::string report_html(const ReportFacts& facts);

}  // namespace qshard
