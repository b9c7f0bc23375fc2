#pragma once

#include <cstdint>

#include "backend/backend.h"

namespace qshard {

/// FLOP/s of a bf16 matrix product, over several calls.
struct PeakFlops {
    double best = 0, median = 0;
};

/// Of a large product through the backend (`side` cubed), for about 0.2 s: what a step's speed is a
/// share of.
PeakFlops measure_peak_flops(Backend& backend, std::int64_t side = 1024);

/// What the machine can do although other programs run on it: they take time away from some calls
/// and add to none, and short calls fit between theirs. `median` is that of long calls, so it is
/// far below `best` (disturbed()) while others run; then it is tried again, for about 4 s.
PeakFlops measure_undisturbed_peak(Backend& backend);
bool disturbed(const PeakFlops& peak);

/// fp32 multiply-adds that never leave the registers, on all threads of a CPU backend for some
/// milliseconds; returns the FLOPs done. BugError for another backend.
double spin_multiply_adds(Backend& backend);

}  // namespace qshard
