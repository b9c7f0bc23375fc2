#include "io/data/split_stats.h"

#include <fmt/format.h>

#include <array>
#include <utility>

namespace qshard {
namespace {

constexpr double kWorthKnowing = 0.05;  ///< of the rows, or of the tokens that carry loss
constexpr std::size_t kExamples = 3;    ///< places in a sentence
constexpr std::size_t kTableExamples = 8;

double share(std::int64_t part, std::int64_t whole) {
    return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

/// What to set so that no row is cut.
std::string way_out(const SplitStats& stats, std::int64_t max_positions) {
    if (max_positions == 0 || stats.longest_given <= max_positions) {
        return fmt::format("data.max_length {} keeps all of them whole", stats.longest_given);
    }
    return fmt::format(
        "The longest has {} tokens, more than this model's {} positions: raise data.max_length "
        "(at most {}), or split the rows",
        stats.longest_given, max_positions, max_positions);
}

}  // namespace

void RowPlaces::add(const std::string& place) {
    ++count;
    if (places.size() < kMost) places.push_back(place);
}

std::string RowPlaces::examples(std::size_t most) const {
    std::string text;
    const std::size_t shown = std::min(most, places.size());
    for (std::size_t i = 0; i < shown; ++i) text += (i == 0 ? "" : ", ") + places[i];
    const std::int64_t more = count - static_cast<std::int64_t>(shown);
    return more > 0 ? fmt::format("{} and {} more", text, more) : text;
}

std::int64_t SplitStats::rows_read() const {
    return rows + skipped.count + answer_cut.count + without_loss.count + weightless.count;
}

std::vector<std::string> data_warnings(const SplitStats& stats, const std::string& split,
                                       std::int64_t max_length, std::int64_t max_positions) {
    std::vector<std::string> warnings;
    const std::int64_t all = stats.rows_read();
    RowPlaces lost = stats.answer_cut;
    lost.count += stats.skipped.count;
    for (const std::string& place : stats.skipped.places) {
        if (lost.places.size() < RowPlaces::kMost) lost.places.push_back(place);
    }
    if (lost.count > 0 && share(lost.count, all) >= kWorthKnowing) {
        warnings.push_back(
            fmt::format("{}: {} of {} rows are lost because data.max_length is {} ({}): {}. {}.",
                        split, lost.count, all, max_length,
                        stats.answer_cut.count == 0 ? "data.overlong is skip"
                                                    : "nothing of their answer is left",
                        lost.examples(kExamples), way_out(stats, max_positions)));
    }
    const double cut = share(stats.supervised_lost, stats.supervised_lost + stats.supervised);
    if (stats.truncated.count > 0 &&
        (share(stats.truncated.count, all) >= kWorthKnowing || cut >= kWorthKnowing)) {
        warnings.push_back(fmt::format(
            "{}: {} of {} rows are cut to data.max_length {}, and {:.0f} % of all tokens that "
            "carry loss are lost: {}. {}.",
            split, stats.truncated.count, all, max_length, 100 * cut,
            stats.truncated.examples(kExamples), way_out(stats, max_positions)));
    }
    if (stats.without_loss.count > 0 && share(stats.without_loss.count, all) >= kWorthKnowing) {
        warnings.push_back(fmt::format(
            "{}: {} of {} rows are dropped because no token of theirs carries loss: {}. Look at "
            "them with qshard data, or set data.loss_on to all.",
            split, stats.without_loss.count, all, stats.without_loss.examples(kExamples)));
    }
    return warnings;
}

std::string fate_table(const SplitStats& stats) {
    const std::array<std::pair<const char*, const RowPlaces*>, 5> fates{
        {{"cut to data.max_length", &stats.truncated},
         {"dropped: longer than data.max_length", &stats.skipped},
         {"dropped: answer beyond data.max_length", &stats.answer_cut},
         {"dropped: no token carries loss", &stats.without_loss},
         {"dropped: their weight is 0", &stats.weightless}}};
    std::string table = fmt::format("  {:<40} {:>9}\n  {:<40} {:>9}\n", "rows read",
                                    stats.rows_read(), "kept", stats.rows);
    for (const auto& [name, rows] : fates) {
        if (rows->count == 0) continue;
        table +=
            fmt::format("  {:<40} {:>9}  {}\n", name, rows->count, rows->examples(kTableExamples));
    }
    return table;
}

}  // namespace qshard
