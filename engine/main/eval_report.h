#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/report/html_report.h"
#include "train/metrics/text_metrics.h"

/// What `qshard eval` found, and how it is told. Pure functions.
namespace qshard {

/// A row as text.
struct EvalExample {
    std::string prompt, expected;
};

/// What one subject did with one row.
struct EvalAnswer {
    double loss = 0;  ///< summed over the supervised tokens
    std::int64_t tokens = 0;
    std::optional<std::string> text;  ///< nothing where there was no prompt to answer
};

/// The base, or the base with one adapter; answers in the order of the rows.
struct EvalSubject {
    std::string name;
    std::vector<EvalAnswer> answers;
};

struct EvalSummary {
    double loss = 0;  ///< mean over the supervised tokens
    std::int64_t tokens = 0, answered = 0, exact = 0;
    MaskScores masks;  ///< empty unless asked for

    double exact_share() const;
};
EvalSummary summarize(std::span<const EvalExample> examples, const EvalSubject& subject,
                      bool masks);

/// Side by side: loss, exact match, masks by kind, and three examples.
std::string eval_table(const std::string& split, std::span<const EvalExample> examples,
                       std::span<const EvalSubject> subjects, bool masks);
boost::json::object eval_json(const std::string& split, std::span<const EvalExample> examples,
                              std::span<const EvalSubject> subjects, bool masks);
/// The same figures of the base and one adapter for report.html: loss and metrics, then masks by
/// kind.
std::vector<Report::Table> report_tables(std::span<const EvalExample> examples,
                                         std::span<const EvalSubject> subjects, bool masks);
/// One JSON line a row: prompt, expected, and each subject's answer under its key.
std::string eval_lines(std::span<const EvalExample> examples,
                       std::span<const EvalSubject> subjects);

/// Text beside a label, as eval_table's examples have it: further lines are indented, the note ends
/// the last one.
std::string labelled_text(const std::string& label, const std::string& text, const char* note = "");

/// A line of a table: a name, then cells of one width.
std::string table_row(const std::string& name, const std::vector<std::string>& cells);
/// A subject's name in the width of a cell.
std::string table_name(const std::string& name);
std::string percent(double share);

/// Which rows are shown as examples: at most three, evenly spread.
std::vector<std::size_t> shown_rows(std::size_t count);

/// The objects of JSON lines, one each.
std::vector<boost::json::object> objects_of(const std::string& lines);

/// "base", "tuned", "tuned_2"...: keys of the subjects in files.
std::string subject_key(std::size_t index);

}  // namespace qshard
