#include "main/eval_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "base/error.h"

namespace qshard {
namespace {

constexpr std::size_t kNameWidth = 22, kColumn = 14;

std::vector<std::string> cells_of(const std::vector<EvalSummary>& summaries, auto&& cell) {
    std::vector<std::string> cells;
    for (const EvalSummary& summary : summaries) cells.push_back(cell(summary));
    return cells;
}

/// The kinds that the texts have; answers may make up others.
std::set<std::string> kinds_of(const std::vector<EvalSummary>& summaries) {
    std::set<std::string> kinds;
    for (const EvalSummary& summary : summaries) {
        for (const auto& [kind, count] : summary.masks) {
            if (count.hits + count.misses > 0) kinds.insert(kind);
        }
    }
    return kinds;
}

/// recall / precision / false alarms of every kind that a text or an answer has.
std::string mask_table(std::span<const EvalSubject> subjects,
                       const std::vector<EvalSummary>& summaries) {
    const std::set<std::string> kinds = kinds_of(summaries);
    std::string table;
    for (std::size_t s = 0; s < subjects.size(); ++s) {
        table +=
            fmt::format("\n  {:<{}}  {:>8}  {:>9}  {:>6}  {:>12}\n", "masks, " + subject_key(s),
                        kNameWidth, "recall", "precision", "F1", "false alarms");
        auto line = [&](const std::string& name, const MaskCount& count) {
            table += fmt::format("  {:<{}}  {:>8}  {:>9}  {:>6.3f}  {:>12}\n", name, kNameWidth,
                                 percent(count.recall()), percent(count.precision()), count.f1(),
                                 count.false_alarms);
        };
        MaskCount others;
        for (const auto& [kind, count] : summaries[s].masks) {
            if (!kinds.contains(kind)) others += count;
        }
        for (const std::string& kind : kinds) {
            const auto found = summaries[s].masks.find(kind);
            line(kind, found == summaries[s].masks.end() ? MaskCount{} : found->second);
        }
        if (others.false_alarms > 0) line("(made-up kinds)", others);
        line("all", total(summaries[s].masks));
    }
    return table;
}

/// Without blank lines at its end; further lines below the first.
std::string indented(const std::string& text) {
    std::string out;
    for (char c : text.substr(0, text.find_last_not_of(" \n") + 1))
        out += c == '\n' ? "\n" + std::string(14, ' ') : std::string(1, c);
    return out;
}

std::string example_text(const EvalExample& example, std::span<const EvalSubject> subjects,
                         std::size_t index) {
    std::string text = "\n" + labelled_text("prompt", example.prompt) +
                       labelled_text("expected", example.expected);
    for (std::size_t s = 0; s < subjects.size(); ++s) {
        const auto& answer = subjects[s].answers[index].text;
        if (!answer) continue;
        text += labelled_text(subject_key(s), *answer,
                              exact_match(*answer, example.expected) ? "" : "   (differs)");
    }
    return text;
}

}  // namespace

std::string table_name(const std::string& name) {
    return name.size() <= kColumn ? name : "..." + name.substr(name.size() - (kColumn - 3));
}

std::string percent(double share) {
    return fmt::format("{:.1f} %", 100 * share);
}

std::string table_row(const std::string& name, const std::vector<std::string>& cells) {
    std::string line = fmt::format("  {:<{}}", name, kNameWidth);
    for (const std::string& cell : cells) line += fmt::format("  {:>{}}", cell, kColumn);
    return line + "\n";
}

std::vector<std::size_t> shown_rows(std::size_t count) {
    const std::size_t shown = std::min<std::size_t>(3, count);
    std::vector<std::size_t> rows;
    for (std::size_t i = 0; i < shown; ++i) rows.push_back(i * count / shown);
    return rows;
}

std::vector<boost::json::object> objects_of(const std::string& lines) {
    std::vector<boost::json::object> objects;
    for (std::size_t begin = 0; begin < lines.size();) {
        const std::size_t end = lines.find('\n', begin);
        objects.push_back(boost::json::parse(lines.substr(begin, end - begin)).as_object());
        begin = end + 1;
    }
    return objects;
}

std::string labelled_text(const std::string& label, const std::string& text, const char* note) {
    return fmt::format("  {:<10}  {}{}\n", label, indented(text), note);
}

double EvalSummary::exact_share() const {
    return answered == 0 ? 0.0 : static_cast<double>(exact) / static_cast<double>(answered);
}

std::string subject_key(std::size_t index) {
    if (index == 0) return "base";
    return index == 1 ? "tuned" : fmt::format("tuned_{}", index);
}

EvalSummary summarize(std::span<const EvalExample> examples, const EvalSubject& subject,
                      bool masks) {
    EvalSummary summary;
    for (std::size_t i = 0; i < examples.size(); ++i) {
        const EvalAnswer& answer = subject.answers[i];
        summary.loss += answer.loss;
        summary.tokens += answer.tokens;
        if (!answer.text) continue;
        ++summary.answered;
        if (exact_match(*answer.text, examples[i].expected)) ++summary.exact;
        if (masks) add_mask_scores(*answer.text, examples[i].expected, summary.masks);
    }
    summary.loss /= static_cast<double>(std::max<std::int64_t>(summary.tokens, 1));
    return summary;
}

std::string eval_table(const std::string& split, std::span<const EvalExample> examples,
                       std::span<const EvalSubject> subjects, bool masks) {
    std::vector<EvalSummary> summaries;
    std::vector<std::string> names;
    for (const EvalSubject& subject : subjects) {
        summaries.push_back(summarize(examples, subject, masks));
        names.push_back(table_name(subject.name));
    }
    std::string table = table_row(fmt::format("{}, {} rows", split, examples.size()), names);
    table += table_row("loss", cells_of(summaries, [](const EvalSummary& s) {
                           return fmt::format("{:.4f}", s.loss);
                       }));
    const bool answered = std::any_of(summaries.begin(), summaries.end(),
                                      [](const EvalSummary& s) { return s.answered > 0; });
    if (!answered) return table;
    table += table_row("exact match", cells_of(summaries, [](const EvalSummary& s) {
                           return percent(s.exact_share());
                       }));
    table += table_row("", cells_of(summaries, [](const EvalSummary& s) {
                           return fmt::format("{} of {}", s.exact, s.answered);
                       }));
    if (masks) {
        table += table_row("mask F1", cells_of(summaries, [](const EvalSummary& s) {
                               return fmt::format("{:.3f}", total(s.masks).f1());
                           }));
        table += mask_table(subjects, summaries);
    }
    for (const std::size_t index : shown_rows(examples.size())) {
        table += example_text(examples[index], subjects, index);
    }
    return table;
}

std::vector<Report::Table> report_tables(std::span<const EvalExample> examples,
                                         std::span<const EvalSubject> subjects, bool masks) {
    check(subjects.size() == 2, "a report is of the base and one adapter");
    std::vector<EvalSummary> summaries;
    for (const EvalSubject& subject : subjects)
        summaries.push_back(summarize(examples, subject, masks));
    const auto row = [&](const char* name, auto&& cell) {
        std::vector<std::string> cells = cells_of(summaries, cell);
        cells.insert(cells.begin(), name);
        return cells;
    };
    Report::Table figures = {{"", "before", "after"}};
    figures.push_back(
        row("loss", [](const EvalSummary& s) { return fmt::format("{:.4f}", s.loss); }));
    figures.push_back(row("perplexity", [](const EvalSummary& s) {
        return fmt::format("{:.2f}", std::exp(s.loss));
    }));
    if (std::ranges::any_of(summaries, [](const EvalSummary& s) { return s.answered > 0; })) {
        figures.push_back(row("exact match", [](const EvalSummary& s) {
            return fmt::format("{} ({} of {})", percent(s.exact_share()), s.exact, s.answered);
        }));
    }
    if (!masks) return {figures};
    figures.push_back(row("mask F1", [](const EvalSummary& s) {
        return fmt::format("{:.3f}", total(s.masks).f1());
    }));
    Report::Table by_kind = {{"mask", "recall before", "after", "precision before", "after",
                              "F1 before", "after", "false alarms before", "after"}};
    const auto add = [&](const std::string& name, const MaskCount& before, const MaskCount& after) {
        by_kind.push_back({name, percent(before.recall()), percent(after.recall()),
                           percent(before.precision()), percent(after.precision()),
                           fmt::format("{:.3f}", before.f1()), fmt::format("{:.3f}", after.f1()),
                           fmt::format("{}", before.false_alarms),
                           fmt::format("{}", after.false_alarms)});
    };
    const auto count = [](const EvalSummary& summary, const std::string& kind) {
        const auto found = summary.masks.find(kind);
        return found == summary.masks.end() ? MaskCount{} : found->second;
    };
    for (const std::string& kind : kinds_of(summaries))
        add(kind, count(summaries[0], kind), count(summaries[1], kind));
    add("all, made-up kinds too", total(summaries[0].masks), total(summaries[1].masks));
    return {figures, by_kind};
}

boost::json::object eval_json(const std::string& split, std::span<const EvalExample> examples,
                              std::span<const EvalSubject> subjects, bool masks) {
    auto mask_json = [](const MaskCount& count) {
        return boost::json::object{
            {"recall", count.recall()}, {"precision", count.precision()},
            {"f1", count.f1()},         {"hits", count.hits},
            {"misses", count.misses},   {"false_alarms", count.false_alarms}};
    };
    boost::json::array list;
    for (std::size_t s = 0; s < subjects.size(); ++s) {
        const EvalSummary summary = summarize(examples, subjects[s], masks);
        boost::json::object entry{{"subject", subject_key(s)},
                                  {"name", subjects[s].name},
                                  {"loss", summary.loss},
                                  {"supervised_tokens", summary.tokens}};
        if (summary.answered > 0) {
            entry["exact_match"] = summary.exact_share();
            entry["exact"] = summary.exact;
            entry["answered"] = summary.answered;
        }
        if (masks) {
            boost::json::object kinds;
            for (const auto& [kind, count] : summary.masks) kinds[kind] = mask_json(count);
            entry["masks"] = {{"all", mask_json(total(summary.masks))}, {"kinds", kinds}};
        }
        list.push_back(std::move(entry));
    }
    return {{"split", split}, {"rows", examples.size()}, {"subjects", list}};
}

std::string eval_lines(std::span<const EvalExample> examples,
                       std::span<const EvalSubject> subjects) {
    std::string lines;
    for (std::size_t i = 0; i < examples.size(); ++i) {
        boost::json::object line{{"prompt", examples[i].prompt},
                                 {"expected", examples[i].expected}};
        for (std::size_t s = 0; s < subjects.size(); ++s) {
            const auto& text = subjects[s].answers[i].text;
            line[subject_key(s)] = text ? boost::json::value(*text) : boost::json::value(nullptr);
        }
        lines += boost::json::serialize(line) + "\n";
    }
    return lines;
}

}  // namespace qshard
