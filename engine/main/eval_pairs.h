#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "io/report/html_report.h"

/// What `qshard eval` finds on preference pairs, and how it is told. Pure functions.
namespace qshard {

/// A pair as text.
struct PairExample {
    std::string prompt, chosen, rejected;
};

/// Log-probabilities of both answers to a prompt, summed over their tokens.
struct PairScore {
    double chosen = 0, rejected = 0;
    std::int64_t chosen_tokens = 0, rejected_tokens = 0;

    double margin() const { return chosen - rejected; }
};

/// The base, or the base with one adapter; scores in the order of the pairs.
struct PairSubject {
    std::string name;
    std::vector<PairScore> scores;
};

struct PairSummary {
    double chosen = 0,
           rejected = 0;       ///< mean log-probabilities (TRL: logps/chosen, logps/rejected)
    std::int64_t correct = 0;  ///< pairs whose chosen answer is the likelier one
    std::int64_t correct_by_token = 0;  ///< the same by the mean over tokens
    /// Against the base as DPO's reference, beta 1 (TRL: rewards/margins, rewards/accuracies).
    double reward_margin = 0;
    std::int64_t rewarded = 0;  ///< pairs whose margin is wider than the base's
};
PairSummary summarize_pairs(const PairSubject& subject, const PairSubject& base);

/// The first subject is the base. Side by side: log-probabilities, margin, accuracy, and three
/// examples.
std::string pair_table(const std::string& split, std::span<const PairExample> pairs,
                       std::span<const PairSubject> subjects);
/// The same figures for report.html.
Report::Table pair_report_table(std::span<const PairSubject> subjects);
boost::json::object pair_json(const std::string& split, std::span<const PairSubject> subjects);
/// One JSON line a pair: prompt, chosen, rejected, and each subject's log-probabilities under its
/// key.
std::string pair_lines(std::span<const PairExample> pairs, std::span<const PairSubject> subjects);

/// Scores as JSON lines, for other ranks, and back.
std::string lines_of(std::span<const PairScore> scores);
std::vector<PairScore> pair_scores_of(const std::string& lines);

}  // namespace qshard
