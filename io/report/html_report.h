#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "io/report/svg_chart.h"

namespace qshard {

/// What report.html shows; empty parts are left out.
struct Report {
    using Facts = std::vector<std::pair<std::string, std::string>>;
    using Table = std::vector<std::vector<std::string>>;  ///< head, then rows
    struct Chart {
        std::string title;
        std::vector<Series> series;
    };
    struct Example {
        std::string prompt, expected, before, after;
    };
    struct Group {
        std::string title;
        Facts facts;
    };

    std::string title;
    std::string verdict;  ///< one sentence: what came of the run
    Facts summary;        ///< the few figures that are looked for first
    std::vector<Group> settings;
    std::vector<Chart> charts;
    Table evaluation;             ///< metric, before, after
    std::string evaluation_note;  ///< below it
    std::vector<Example> examples;
    Facts memory;
    std::string how_to_use;  ///< commands
    std::string run_yaml;
};

/// Loss, evaluation loss, learning rate, gradient norm and tokens/s of a metrics.jsonl; malformed
/// lines are skipped.
std::vector<Report::Chart> charts_of_metrics(const std::filesystem::path& metrics_jsonl);

/// One HTML file without scripts; its own policy forbids every request, so it opens the same
/// anywhere.
std::string html_report(const Report& report);

/// What an evaluation that came later found.
struct LaterEvaluation {
    std::string key;      ///< of the split: a later one of the same key takes its place
    std::string caption;  ///< what was evaluated, on what, when
    std::vector<Report::Table> tables;
};

/// A report with that evaluation behind its own; nothing if `html` was not made by html_report().
std::optional<std::string> with_evaluation(const std::string& html,
                                           const LaterEvaluation& evaluation);

}  // namespace qshard
