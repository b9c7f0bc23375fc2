#include "main/eval_pairs.h"

#include <fmt/format.h>

#include <algorithm>

#include "main/eval_report.h"

namespace qshard {
namespace {

namespace json = boost::json;

double per_token(double sum, std::int64_t tokens) {
    return sum / static_cast<double>(std::max<std::int64_t>(tokens, 1));
}

double share(std::int64_t count, const PairSubject& subject) {
    return per_token(static_cast<double>(count), std::ssize(subject.scores));
}

json::object to_json(const PairScore& score) {
    return {{"chosen_logp", score.chosen},
            {"rejected_logp", score.rejected},
            {"chosen_tokens", score.chosen_tokens},
            {"rejected_tokens", score.rejected_tokens}};
}

std::string example_text(const PairExample& pair, std::span<const PairSubject> subjects,
                         std::size_t index) {
    std::string text = "\n" + labelled_text("prompt", pair.prompt) +
                       labelled_text("chosen", pair.chosen) +
                       labelled_text("rejected", pair.rejected);
    for (std::size_t s = 0; s < subjects.size(); ++s) {
        const PairScore& score = subjects[s].scores[index];
        text += labelled_text(subject_key(s),
                              fmt::format("{:.2f} against {:.2f}", score.chosen, score.rejected),
                              score.margin() > 0 ? "" : "   (prefers the rejected)");
    }
    return text;
}

}  // namespace

PairSummary summarize_pairs(const PairSubject& subject, const PairSubject& base) {
    PairSummary summary;
    for (std::size_t i = 0; i < subject.scores.size(); ++i) {
        const PairScore& score = subject.scores[i];
        summary.chosen += score.chosen;
        summary.rejected += score.rejected;
        if (score.margin() > 0) ++summary.correct;
        if (per_token(score.chosen, score.chosen_tokens) >
            per_token(score.rejected, score.rejected_tokens))
            ++summary.correct_by_token;
        const double wider = score.margin() - base.scores[i].margin();
        summary.reward_margin += wider;
        if (wider > 0) ++summary.rewarded;
    }
    const std::int64_t count = std::ssize(subject.scores);
    for (double* sum : {&summary.chosen, &summary.rejected, &summary.reward_margin})
        *sum = per_token(*sum, count);
    return summary;
}

Report::Table pair_report_table(std::span<const PairSubject> subjects) {
    Report::Table table = {
        {""}, {"log p(chosen)"},     {"log p(rejected)"}, {"margin"},         {"accuracy"},
        {""}, {"accuracy by token"}, {"reward margin"},   {"reward accuracy"}};
    for (std::size_t i = 0; i < subjects.size(); ++i) {
        const PairSubject& subject = subjects[i];
        const PairSummary s = summarize_pairs(subject, subjects.front());
        const std::string cells[] = {subject_key(i),
                                     fmt::format("{:.4f}", s.chosen),
                                     fmt::format("{:.4f}", s.rejected),
                                     fmt::format("{:.4f}", s.chosen - s.rejected),
                                     percent(share(s.correct, subject)),
                                     fmt::format("{} of {}", s.correct, subject.scores.size()),
                                     percent(share(s.correct_by_token, subject)),
                                     i == 0 ? "" : fmt::format("{:.4f}", s.reward_margin),
                                     i == 0 ? "" : percent(share(s.rewarded, subject))};
        for (std::size_t row = 0; row < table.size(); ++row) table[row].push_back(cells[row]);
    }
    return table;
}

std::string pair_table(const std::string& split, std::span<const PairExample> pairs,
                       std::span<const PairSubject> subjects) {
    Report::Table rows = pair_report_table(subjects);
    rows.front().assign(1, "");
    for (const PairSubject& subject : subjects) rows.front().push_back(table_name(subject.name));
    rows.front().front() = fmt::format("{}, {} pairs", split, pairs.size());
    std::string table;
    for (const std::vector<std::string>& row : rows)
        table += table_row(row.front(), {row.begin() + 1, row.end()});
    for (const std::size_t index : shown_rows(pairs.size()))
        table += example_text(pairs[index], subjects, index);
    return table;
}

json::object pair_json(const std::string& split, std::span<const PairSubject> subjects) {
    json::array list;
    for (std::size_t s = 0; s < subjects.size(); ++s) {
        const PairSubject& subject = subjects[s];
        const PairSummary summary = summarize_pairs(subject, subjects.front());
        json::object entry{{"subject", subject_key(s)},
                           {"name", subject.name},
                           {"chosen_logp", summary.chosen},
                           {"rejected_logp", summary.rejected},
                           {"margin", summary.chosen - summary.rejected},
                           {"accuracy", share(summary.correct, subject)},
                           {"correct", summary.correct},
                           {"accuracy_by_token", share(summary.correct_by_token, subject)}};
        if (s > 0) {
            entry["reward_margin"] = summary.reward_margin;
            entry["reward_accuracy"] = share(summary.rewarded, subject);
        }
        list.push_back(std::move(entry));
    }
    return {{"split", split}, {"pairs", subjects.front().scores.size()}, {"subjects", list}};
}

std::string pair_lines(std::span<const PairExample> pairs, std::span<const PairSubject> subjects) {
    std::string lines;
    for (std::size_t i = 0; i < pairs.size(); ++i) {
        json::object line{{"prompt", pairs[i].prompt},
                          {"chosen", pairs[i].chosen},
                          {"rejected", pairs[i].rejected}};
        for (std::size_t s = 0; s < subjects.size(); ++s)
            line[subject_key(s)] = to_json(subjects[s].scores[i]);
        lines += json::serialize(line) + "\n";
    }
    return lines;
}

std::string lines_of(std::span<const PairScore> scores) {
    std::string lines;
    for (const PairScore& score : scores) lines += json::serialize(to_json(score)) + "\n";
    return lines;
}

std::vector<PairScore> pair_scores_of(const std::string& lines) {
    std::vector<PairScore> scores;
    for (const json::object& line : objects_of(lines)) {
        scores.push_back({line.at("chosen_logp").to_number<double>(),
                          line.at("rejected_logp").to_number<double>(),
                          line.at("chosen_tokens").to_number<std::int64_t>(),
                          line.at("rejected_tokens").to_number<std::int64_t>()});
    }
    return scores;
}

}  // namespace qshard
