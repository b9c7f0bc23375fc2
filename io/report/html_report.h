#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "io/report/svg_chart.h"

namespace qshard {

/// What report.html shows; empty parts are left out.
struct Report {
    using Facts = std::vector<std::pair<std::string, std::string>>;
    struct Chart {
        std::string title;
        std::vector<Series> series;
    };
    struct Example {
        std::string prompt, expected, before, after;
    };

    std::string title;
    std::string verdict;  ///< one sentence: what came of the run
    Facts summary;        ///< model, data, steps, time, final loss...
    std::vector<Chart> charts;
    std::vector<std::vector<std::string>> evaluation;  ///< head, then rows: metric, before, after
    std::vector<Example> examples;
    Facts memory;
    std::string how_to_use;  ///< a command
    std::string run_yaml;
};

/// Loss, evaluation loss, learning rate, gradient norm and tokens/s of a metrics.jsonl; malformed
/// lines are skipped.
std::vector<Report::Chart> charts_of_metrics(const std::filesystem::path& metrics_jsonl);

/// One HTML file without scripts; its own policy forbids every request, so it opens the same
/// anywhere.
std::string html_report(const Report& report);

}  // namespace qshard
