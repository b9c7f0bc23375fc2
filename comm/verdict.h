#pragma once

#include <cstdint>
#include <optional>
#include <span>

namespace qshard {

/// What the watchdog knows of one rank at one moment.
struct RankState {
    bool heard = false;         ///< at least one heartbeat came; silence of others says nothing
    double silent_seconds = 0;  ///< since the last heartbeat
    double ended_seconds =
        -1;  ///< since its process was seen to be gone; negative while it is there
    std::int64_t step = 0;
    double section_seconds = 0;  ///< since it entered its section
    double working_seconds = 0;  ///< of these, since it last was seen waiting
    double section_limit = 0;    ///< 0: none
    bool waiting = false;        ///< blocked in a collective
};

enum class Loss { kEnded, kSilent, kOverrun, kDeadlock };

struct Verdict {
    int rank = 0;
    Loss loss = Loss::kSilent;
};

/// Who, if anybody, keeps the group from going on. A gone process first, then the longest silence
/// beyond `silent_limit`, then the rank furthest behind that overran the limit of its section. A
/// rank that waits in a collective is a victim as long as another one works: waiting ranks are
/// blamed only when all ranks wait and all are over their limits.
std::optional<Verdict> judge(std::span<const RankState> ranks, double silent_limit);

}  // namespace qshard
