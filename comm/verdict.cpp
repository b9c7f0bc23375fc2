#include "comm/verdict.h"

#include <algorithm>

namespace qshard {
namespace {

/// Long enough for the ranks of a group that ends together to leave one after the other, shorter
/// than the second that mpirun gives the survivors of a crash.
constexpr double kEndedGrace = 0.4;

bool overran(double seconds, const RankState& state) {
    return state.section_limit > 0 && seconds > state.section_limit;
}

bool further_behind(const RankState& a, const RankState& b) {
    return a.step != b.step ? a.step < b.step : a.section_seconds > b.section_seconds;
}

}  // namespace

std::optional<Verdict> judge(std::span<const RankState> ranks, double silent_limit) {
    std::optional<std::size_t> ended, silent, behind;
    const bool all_wait = std::all_of(ranks.begin(), ranks.end(), [](const RankState& state) {
        return state.waiting && overran(state.section_seconds, state);
    });
    for (std::size_t i = 0; i < ranks.size(); ++i) {
        const RankState& state = ranks[i];
        if (state.ended_seconds >= kEndedGrace &&
            (!ended || state.ended_seconds > ranks[*ended].ended_seconds))
            ended = i;
        if (state.heard && state.silent_seconds > silent_limit &&
            (!silent || state.silent_seconds > ranks[*silent].silent_seconds))
            silent = i;
        if ((all_wait || overran(state.working_seconds, state)) &&
            (!behind || further_behind(state, ranks[*behind])))
            behind = i;
    }
    if (ended) return Verdict{static_cast<int>(*ended), Loss::kEnded};
    if (silent) return Verdict{static_cast<int>(*silent), Loss::kSilent};
    if (behind)
        return Verdict{static_cast<int>(*behind), all_wait ? Loss::kDeadlock : Loss::kOverrun};
    return std::nullopt;
}

}  // namespace qshard
