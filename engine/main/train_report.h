#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "io/report/html_report.h"
#include "io/run/run_file.h"
#include "main/session.h"
#include "train/trainer.h"

namespace qshard {

/// What the report of a finished run tells.
struct ReportFacts {
    const RunFile* run = nullptr;
    const TextModel* model = nullptr;
    const Trainer* trainer = nullptr;
    const Backend* backend = nullptr;
    EvalResult before, after;
    std::int64_t validation_rows = 0, steps = 0;
    int ranks = 1;
    double seconds = 0, loss = 0;
    std::span<const Report::Example> examples;
};
/// report.html of the output folder; its curves are those of metrics.jsonl there.
std::string report_html(const ReportFacts& facts);

}  // namespace qshard
